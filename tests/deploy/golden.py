"""What the chart made of some sets of values when somebody last looked: ``golden/NAME.yaml`` of ``ci/NAME-values.yaml``.

A change of a template shows in them as what a cluster would get, so that a reviewer sees more than the template.
``python -m tests.deploy.golden --write`` writes them anew; without ``--write`` it ends with 1 where they are not current, and
prints the difference.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from tests.deploy.render import CHART, Rendering, values_of

FOLDER = Path(__file__).parent / "golden"

#: The defaults; Deployments and an autoscaler in place of volumes; everything switched on; no hook, and secrets from elsewhere.
GOLDEN = ("minimal", "stateless", "production", "gitops")

#: Shipped as they are, and tested where they are; here one line stands for each.
_AS_THEY_ARE = ("files/*/*", "scripts/*")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay such."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def of(name: str, chart: Path = CHART) -> str:
    """What it makes of the values now, without comments; its version is none, so a release changes nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / CHART.name
        shutil.copytree(chart, copy)
        _without_version(copy / "Chart.yaml")
        for file in (path for pattern in _AS_THEY_ARE for path in copy.glob(pattern)):
            file.write_text(f"stands-for: {file.name}\n", "utf-8")
        objects = Rendering(values=values_of(name), chart=copy).objects()
    # Maps of scalars on one line: half as long, and shorter to read.
    text = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=None)
    return f"# Of ci/{name}-values.yaml, by `python -m tests.deploy.golden --write`.\n{text}"


def _without_version(file: Path) -> None:
    file.write_text(re.sub(r"^(version|appVersion): .*$", r"\1: 0.0.0", file.read_text("utf-8"), flags=re.MULTILINE))


def difference(name: str, chart: Path = CHART) -> Iterator[str]:
    """From the file to what it would be now, line by line; nothing where they are the same."""
    file = FOLDER / f"{name}.yaml"
    written = file.read_text("utf-8") if file.exists() else ""
    return difflib.unified_diff(
        written.splitlines(), of(name, chart).splitlines(), f"golden/{name}.yaml", "now", lineterm=""
    )


def main(arguments: Sequence[str]) -> int:
    """Write them, or say whether they are current."""
    if "--write" in arguments:
        FOLDER.mkdir(exist_ok=True)
        for name in GOLDEN:
            (FOLDER / f"{name}.yaml").write_text(of(name), "utf-8")
    found = [line for name in GOLDEN for line in difference(name)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
