"""Where the time of a receiver goes: ``python -m tests.benchmarks.profile "direct kafka"``.

py-spy looks at the process 500 times a second while the closed loop runs, from the outside. A look counts for the area of the
innermost frame that has one, so what the standard library does counts for whoever called it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.benchmarks.__main__ import broker_if
from tests.benchmarks.machine import pin
from tests.benchmarks.report import put_between
from tests.benchmarks.rows import processes, put_on
from tests.benchmarks.servers import OTHER_CORE

SECONDS = 10
LOOKS = 500

#: Part of a frame's path → what it is about; the first that fits.
AREAS = {
    "service/core/signature": "signature",
    "service/core/": "from the notification to the event",
    "service/receiver/": "guard, endpoint, answer",
    "service/telemetry/": "metrics and log",
    "structlog/": "metrics and log",
    "service/bus/journal": "journal",
    "service/bus/group_commit": "journal",
    "service/bus/": "publisher: lanes, batches, deadlines",
    "aiokafka/": "Kafka client",
    "uvicorn/": "uvicorn: parsing, ASGI task, answer",
    "starlette/": "Starlette",
}
REST = "event loop, sockets"

#: A thread that waits here has nothing to do, which py-spy does not always see.
IDLE = (
    "_worker (concurrent/futures/thread.py",
    "wait (threading.py",
    "GroupCommit._groups (service/bus/group_commit.py",
)


def area(stack: str) -> str:
    """Of one folded stack: ``frame (file:line);frame (file:line)``, the innermost last."""
    for frame in reversed(stack.split(";")):
        for part, name in AREAS.items():
            if part in frame:
                return name
    return REST


def shares(folded: Iterable[str]) -> Iterator[str]:
    """A line for each area and each of the busiest lines of code, in percent of all looks."""
    areas: collections.Counter[str] = collections.Counter()
    lines: collections.Counter[str] = collections.Counter()
    for stack, _, count in (line.rpartition(" ") for line in folded):
        innermost = stack.rpartition(";")[2]
        if not innermost.startswith(IDLE):
            areas[area(stack)] += int(count)
            lines[innermost] += int(count)
    total = areas.total() or 1
    for found, most in ((areas, None), (lines, 15)):
        yield from (f"{count / total:6.1%}  {name}" for name, count in found.most_common(most))
        yield ""


def record(name: str, file: Path) -> None:
    """Put the load on the process of this name. Raises StopIteration where there is none, CalledProcessError."""
    with broker_if(wanted="kafka" in name) as kafka:
        process = next(each for each in processes(kafka) if each.name == name)
        with process.open() as server, contextlib.ExitStack() as stack:
            asked = ("-p", str(server.pid), "-d", str(SECONDS), "-r", str(LOOKS), "-f", "raw", "-o", str(file))
            program = Path(sys.executable).with_name("py-spy")
            looking = subprocess.Popen((str(program), "record", *asked), stdout=subprocess.DEVNULL)
            stack.callback(looking.wait)
            put_on(server, process.loads[0], seconds=SECONDS + 2.0)


def main(arguments: argparse.Namespace) -> None:
    """Look, show, write."""
    pin(OTHER_CORE)
    with tempfile.TemporaryDirectory() as folder:
        kept = arguments.stacks or Path(folder) / "folded"
        record(arguments.process, kept)
        shown = list(shares(kept.read_text().splitlines()))
    sys.stdout.write("\n".join(shown) + "\n")
    if arguments.write:
        fenced = [f"`{arguments.process}`, {SECONDS} s under the closed loop:", "", "```text", *shown[:-1], "```"]
        arguments.write.write_text(put_between("profile", fenced, arguments.write.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profile")
    parser.add_argument("process", help="a row's name without its load: direct kafka")
    parser.add_argument(
        "--stacks", type=Path, metavar="FILE", help="keep the folded stacks, as flame graphs are made of"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the shares between the markers of a document")
    main(parser.parse_args())
