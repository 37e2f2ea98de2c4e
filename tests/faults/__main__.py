"""``python -m tests.faults [--quick]``: the long scenarios, two side by side, since they wait more than they compute.

Each is a pytest of its own with brokers of its own; further arguments are pytest's. Every file of this folder is one, or
several where :data:`SPLIT` says so. ``--quick``: what bears the marker ``quick`` only; without it the matrix of faults
(:mod:`tests.faults.cells`) follows, cell by cell, since its figures would suffer from company, and its table is written into
``docs/reliability.md``. Ends with the highest exit code. ``--junitxml=FILE`` is not passed on but written as FILE with the
number of the scenario in its name.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.faults.cells import CELLS

HERE = Path(__file__).parent
SIDE_BY_SIDE = 2

#: File → pytest's ``-k`` for each part that runs by itself.
SPLIT: dict[str, Sequence[str]] = {
    "test_cells.py": [f"[{name}]" for name, cell in CELLS.items() if cell.quick],
    "test_ten_thousand.py": ("kafka", "journal"),
}

#: ... and of which the quick run has only this: the other bus takes thrice as long.
QUICK = {**SPLIT, "test_people_decide.py": ("journal",)}

#: They begin first, since they take longest.
LONGEST = (
    "test_kill.py",
    "test_disk.py",
    "test_consumers.py",
    "test_processors.py",
    "all-down",
    "test_ten_thousand.py",
)

#: The matrix, after everything else.
MATRIX = ("-m", "tests.faults.cells", "--write", "docs/reliability.md")

Scenario = tuple[str, ...]


def scenarios(*, quick: bool) -> list[Scenario]:
    """What pytest is given for each. The matrix has all cells, so the quick ones stand in no list beside it."""
    marked = ("-m", "quick") if quick else ()
    files = [path.name for path in sorted(HERE.glob("test_*.py")) if (_has_quick(path) if quick else _is_no_cell(path))]
    split = QUICK if quick else SPLIT
    parts = [(file, *marked, *only) for file in files for only in _parts(split.get(file, ()))]
    return sorted(parts, key=_rank)


def _has_quick(path: Path) -> bool:
    return "mark.quick" in path.read_text("utf-8")


def _is_no_cell(path: Path) -> bool:
    return path.name != "test_cells.py"


def _parts(expressions: Sequence[str]) -> Iterator[Scenario]:
    yield from ((("-k", expression) for expression in expressions) if expressions else ((),))


def _rank(scenario: Scenario) -> int:
    ranks = [number for number, name in enumerate(LONGEST) if any(name in word for word in scenario)]
    return min(ranks, default=len(LONGEST))


@dataclass
class Run:
    """One pytest, and what it prints."""

    scenario: Scenario
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, number: int, scenario: Scenario, flags: Sequence[str]) -> Run:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the run
        named = [_numbered(flag, number) for flag in flags]
        command = (sys.executable, "-m", "pytest", "-q", "-s", str(HERE / scenario[0]), *scenario[1:], *named)
        return cls(scenario, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), output)

    def ended(self) -> int:
        """Tell of it; its exit code."""
        code = _failed_if_killed(self.process.wait())
        self.output.seek(0)
        sys.stdout.write(f"== {' '.join(self.scenario)} ({time.monotonic() - self.begun:.0f} s)\n")
        sys.stdout.write(self.output.read().decode(errors="replace"))
        sys.stdout.flush()
        self.output.close()
        return code


def _failed_if_killed(code: int) -> int:
    """As a shell has it: 128 and the signal; the highest of all codes has to tell of it."""
    return 128 - code if code < 0 else code


def _numbered(flag: str, number: int) -> str:
    name, _, file = flag.partition("=")
    return f"{name}={Path(file).with_suffix('')}-{number}.xml" if name == "--junitxml" else flag


def run(wanted: Iterable[Scenario], flags: Sequence[str]) -> int:
    """Run all of them; the highest exit code."""
    waiting = iter(enumerate(wanted, 1))
    running = [Run.start(n, scenario, flags) for n, scenario in itertools.islice(waiting, SIDE_BY_SIDE)]
    codes = [0]
    try:
        while running:
            time.sleep(0.2)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                codes.append(each.ended())
                running += [Run.start(n, scenario, flags) for n, scenario in itertools.islice(waiting, 1)]
    finally:
        for each in running:  # interrupted: each ends in order what it has started
            each.process.send_signal(signal.SIGINT)
        for each in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.process.wait(30)
    return max(codes)


def main(arguments: Sequence[str]) -> int:
    """Run what is wanted; 0 where all passed."""
    quick = "--quick" in arguments
    flags = [flag for flag in arguments if flag != "--quick"]
    begun = time.monotonic()
    code = run(scenarios(quick=quick), flags)
    if not quick:
        code = max(
            code,
            _failed_if_killed(subprocess.run((sys.executable, *MATRIX), cwd=HERE.parents[1], check=False).returncode),
        )
    sys.stdout.write(f"== all ({time.monotonic() - begun:.0f} s)\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
