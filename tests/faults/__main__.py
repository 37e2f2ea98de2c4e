"""``python -m tests.faults``: the long scenarios, two side by side, since they wait more than they compute.

Each is a pytest of its own with a broker of its own; further arguments are pytest's. Ends with the first exit code that is
not 0. ``--junitxml=FILE`` is not passed on but written as FILE with the number of the scenario in its name.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
SIDE_BY_SIDE = 2

#: The longest first.
SCENARIOS = (
    ("test_processors.py",),
    ("test_ten_thousand.py", "-k", "kafka"),
    ("test_ten_thousand.py", "-k", "journal"),
    ("test_people_decide.py",),
    ("test_lies.py",),
)


@dataclass
class Run:
    """One pytest, and what it prints."""

    scenario: Sequence[str]
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, number: int, scenario: Sequence[str], flags: Sequence[str]) -> Run:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the run
        named = [_numbered(flag, number) for flag in flags]
        command = (sys.executable, "-m", "pytest", "-q", "-s", str(HERE / scenario[0]), *scenario[1:], *named)
        return cls(scenario, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), output)

    def ended(self) -> int:
        """Tell of it; its exit code."""
        code = self.process.wait()
        self.output.seek(0)
        sys.stdout.write(f"== {' '.join(self.scenario)} ({time.monotonic() - self.begun:.0f} s)\n")
        sys.stdout.write(self.output.read().decode(errors="replace"))
        sys.stdout.flush()
        self.output.close()
        return code


def _numbered(flag: str, number: int) -> str:
    name, _, file = flag.partition("=")
    return f"{name}={Path(file).with_suffix('')}-{number}.xml" if name == "--junitxml" else flag


def main(flags: Sequence[str]) -> int:
    """Run all of them; 0 where all passed."""
    waiting = iter(enumerate(SCENARIOS, 1))
    running = [Run.start(n, scenario, flags) for n, scenario in itertools.islice(waiting, SIDE_BY_SIDE)]
    codes = []
    try:
        while running:
            time.sleep(0.2)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                codes.append(run.ended())
                running += [Run.start(n, scenario, flags) for n, scenario in itertools.islice(waiting, 1)]
    finally:
        for run in running:  # interrupted: each ends in order what it has started
            run.process.send_signal(signal.SIGINT)
            run.process.wait(30)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
