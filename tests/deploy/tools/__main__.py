"""``python -m tests.deploy.tools``: ``path NAME`` prints where a tool is, ``list`` all of them,
``build deploy|cluster|image|NAME…`` makes them.
"""

from __future__ import annotations

import argparse
import sys

from tests.deploy.tools import Pin, ToolMissing, pins, tool
from tests.deploy.tools.making import CannotMake, make


def main() -> int:
    """0, or 1 with a sentence on stderr."""
    asked = _arguments().parse_args()
    try:
        if asked.what == "path":
            print(tool(asked.name))  # noqa: T201 - what was asked for
        elif asked.what == "list":
            for pin in pins().values():
                there = "there" if pin.path.exists() else "missing"
                print(f"{pin.name:24} {pin.version:22} {pin.check:8} {there}")  # noqa: T201 - likewise
        else:
            make(_wanted(asked.names))
    except (ToolMissing, CannotMake) as error:
        print(error, file=sys.stderr)  # noqa: T201 - likewise
        return 1
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.tools", description=__doc__)
    verbs = parser.add_subparsers(dest="what", required=True)
    verbs.add_parser("path").add_argument("name")
    verbs.add_parser("list")
    verbs.add_parser("build").add_argument("names", nargs="+")
    return parser


def _wanted(names: list[str]) -> list[Pin]:
    """Those with a name, and all of a check where that is named. What ``deploy`` needs, ``cluster`` needs too."""
    known = pins()
    checks = {"deploy": {"deploy"}, "cluster": {"deploy", "cluster"}, "image": {"image"}}
    for name in names:
        if name not in known and name not in checks:
            raise ToolMissing(f"{name} is none of the tools: {', '.join(known)}")
    return [pin for pin in known.values() if pin.name in names or any(pin.check in checks.get(n, ()) for n in names)]


if __name__ == "__main__":
    sys.exit(main())
