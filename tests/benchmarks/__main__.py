"""``python -m tests.benchmarks``: how fast the front door is, as ratios to uvicorn alone on the same machine.

The server runs on one core, the load and the broker on another one. Each round has every row once, in turn from the first to
the last and back. A row is looked at several times, and each time right after the yardstick: a ratio is that of such a pair,
because a shared machine may be half as fast for a second or a minute, and the table has the medians.

``--quick``: one round of a second a row; it shows that everything works, and its figures are worth little. ``--compare``: exit
1 where a ratio is worse than the baseline's. With one of them, or with ``--only``, the small benchmarks do not run.

Figures that are kept (``--json``, ``--write``) are those of a quiet machine: while it has other work, exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.broker import broker
from tests.benchmarks.figures import regressions
from tests.benchmarks.machine import facts, pin, unpin
from tests.benchmarks.rows import Lengths, Process, Round, chosen, measure, processes, put_on
from tests.benchmarks.servers import OTHER_CORE
from tests.kafka.harness import KafkaUnavailable

BASELINE = Path(__file__).with_name("baseline.json")

#: By how much a ratio may be worse: repeated runs on a quiet machine differ by a twentieth.
TOLERANCE = 0.10

#: Processes that wanted a core in the last minute, at which the machine is not quiet.
BUSY = 0.7

#: Seconds of load for a broker that was just started.
WARM = 20.0

#: The small benchmarks, which have a file each and print lines.
PARTS = ("bench_core", "bench_publish", "bench_journal", "bench_drain")


def main(arguments: argparse.Namespace) -> int:
    """Measure, show, write, compare; the exit code."""
    if (arguments.json or arguments.write) and not arguments.busy and (load := os.getloadavg()[0]) > BUSY:
        _say(f"The machine is busy (load {load:.1f}; {BUSY} at most): figures of it are not kept. Wait, or say --busy.")
        return 2
    machine = facts()
    pin(OTHER_CORE)
    with broker_if(wanted=_wants_kafka(arguments.only)) as kafka:
        wanted = chosen(processes(kafka), arguments.only)
        if not arguments.quick:
            _warm_up(wanted)
        rounds = _rounds(wanted, arguments)
    rows_only = arguments.only or arguments.quick or arguments.compare
    found = report.result(machine, rounds, {} if rows_only else _parts())
    shown = [f"Made on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `{_command(arguments)}`.", *report.tables(found)]
    for line in shown:
        _say(line)
    if arguments.write:
        document = arguments.write.read_text("utf-8")
        arguments.write.write_text(report.put_between("bench", shown, document), "utf-8")
    if arguments.json:
        report.write(arguments.json, found)
    return _compared(found) if arguments.compare else 0


def _warm_up(wanted: Sequence[Process]) -> None:
    """The broker: its first records cost it ten times what they cost later, and it shares a core with the generator."""
    on_kafka = next((each for each in wanted if each.loads and "kafka" in each.name), None)
    if on_kafka is not None:
        print("warming up the broker", file=sys.stderr)  # noqa: T201 - as below
        with on_kafka.open() as server:
            put_on(server, on_kafka.loads[0], seconds=WARM)


def _rounds(wanted: Sequence[Process], arguments: argparse.Namespace) -> list[Round]:
    count, lengths = (1, Lengths(1, 1.0, 2.0)) if arguments.quick else (arguments.rounds, Lengths(4, 0.5, 20.0))
    found = []
    for number in range(count):
        in_turn = wanted if number % 2 == 0 else wanted[::-1]
        found.append(measure(in_turn, lengths, tell=_progress(number + 1, count)))
    return found


def _progress(number: int, count: int) -> Callable[[str], None]:
    return lambda row: print(f"round {number} of {count}: {row}", file=sys.stderr)  # noqa: T201 - for whoever waits


def _wants_kafka(only: str) -> bool:
    return any("kafka" in each.name for each in chosen(processes({}), only))


@contextlib.contextmanager
def broker_if(*, wanted: bool) -> Iterator[Mapping[str, str] | None]:
    """The settings of a broker, None where it is not wanted or cannot be had."""
    if not wanted:
        yield None
        return
    try:
        with broker() as settings:
            yield settings
    except KafkaUnavailable as missing:
        _say(f"No rows on Kafka: {missing}")
        yield None


def _parts() -> dict[str, list[str]]:
    """What the small benchmarks print; the line of one that fails says so."""
    found = {}
    unpin()
    for name in PARTS:
        _progress(1, 1)(name)
        command = (sys.executable, "-m", f"tests.benchmarks.{name}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[name] = done.stdout.splitlines() if done.returncode == 0 else [f"failed: {done.stderr[-500:]}"]
    return found


def _command(arguments: argparse.Namespace) -> str:
    quick = " --quick" if arguments.quick else f" --rounds {arguments.rounds}"
    quick += " --busy" if arguments.busy else ""
    return f"python -m tests.benchmarks{quick}{f' --only {arguments.only!r}' if arguments.only else ''}"


def _compared(found: report.Result) -> int:
    slower = regressions(report.read(BASELINE).rows, found.rows, tolerance=TOLERANCE)
    for sentence in slower:
        _say(f"SLOWER: {sentence}")
    if not slower:
        _say(f"Nothing is slower than in {BASELINE.name} by more than {TOLERANCE:.0%}.")
    return 1 if slower else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name, and the yardstick")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of a document")
    parser.add_argument("--busy", action="store_true", help="keep the figures of a busy machine, too")
    parser.add_argument(
        "--compare", action="store_true", help=f"with {BASELINE.name}; exit 1 where something is slower"
    )
    sys.exit(main(parser.parse_args()))
