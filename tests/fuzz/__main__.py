"""Fuzz the receiver from the signature to the event: ``python -m tests.fuzz --executions 100000``.

Ends with 0 when as many requests as asked were made and all was well. A finding is written to a file, and the last line says
how to repeat it. Time: 1.8 ms of CPU for each request, so 100 000 have three minutes; fewer within that is a failure too,
because a slow receiver is a finding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.fuzz.engines import Run, drive

_CPU_SECONDS = 0.0018


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cpu-seconds", type=float, help="how long all of it may take")
    parser.add_argument("--hypothesis", action="store_true", help="even where atheris is installed")
    parser.add_argument("--findings", type=Path, default=Path(".cache/fuzz"), help="where a request goes that fails")
    parser.add_argument("--repeat", type=Path, help="judge the one in this file, and let what it raises come out")
    given = parser.parse_args(arguments)
    if given.repeat is not None:
        sys.exit(_repeat(given.repeat))
    limit = given.cpu_seconds or max(10.0, given.executions * _CPU_SECONDS)
    drive(Run(given.executions, limit, given.seed, given.findings), hypothesis=given.hypothesis)


def _repeat(path: Path) -> int:
    from tests.fuzz.judging import Judge

    sys.stdout.write(f"answered {Judge().judge(path.read_bytes())}\n")
    return 0


if __name__ == "__main__":
    main()
