"""What is measured, one row after the other, and one round after the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import msgspec

from tests.benchmarks import servers
from tests.benchmarks.figures import YARDSTICK, Sample
from tests.benchmarks.load import Order, Report
from tests.benchmarks.machine import resident_mib
from tests.benchmarks.servers import OTHER_CORE, Server


class Load(msgspec.Struct, frozen=True):
    """What one row puts on its server: the kind of delivery, and how many meetings it is about."""

    kind: str
    keys: int


class Steady(msgspec.Struct, frozen=True, kw_only=True):
    """At a steady rate: the milliseconds of the answers, from when their requests were due. ``late`` is the generator's p99."""

    rate: float
    p50: float
    p99: float
    p999: float
    longest: float
    late: float


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a row: seconds until it was ready, MiB resident after the load."""

    ready: float
    resident: float


class Process(msgspec.Struct, frozen=True):
    """A server, and the loads that are put on it one after the other: one start of it for each round."""

    name: str
    open: Callable[[], AbstractContextManager[Server]]
    loads: tuple[Load, ...]
    steady: bool = False  # whether it is also measured at a steady rate

    def row(self, load: Load) -> str:
        """``direct kafka started/200``; the yardstick has no more to say than its name."""
        if self.name == YARDSTICK:
            return YARDSTICK if load.kind != "greeting" else f"{YARDSTICK} GET"
        return f"{self.name} {load.kind}/{load.keys}"


class Round(msgspec.Struct, kw_only=True):
    """What one round has found: ``closed`` has one look after the other, at a row and at the yardstick right before it;
    ``steady`` and ``starts`` are by process.
    """

    closed: list[dict[str, Sample]] = []
    steady: dict[str, Steady] = {}
    starts: dict[str, Start] = {}


#: Requests in a second, where they come at fixed times.
RATE = 500.0

#: Settings of a Kafka whose port nobody listens on.
_NOBODY = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}

_TWO_RECORDS, _ONE_RECORD = Load("started", 200), Load("joined", 200)


def processes(kafka: Mapping[str, str] | None) -> list[Process]:
    """All of them; those on Kafka where its settings are given."""
    found = [Process(YARDSTICK, servers.hello, (Load("started", 200), Load("greeting", 1)))]
    for way, direct in (("asgi", False), *([("direct", True)] if servers.HAS_DIRECT else [])):
        found.append(Process(f"{way} null", partial(servers.null, direct=direct), (_TWO_RECORDS, _ONE_RECORD)))
        journal = partial(servers.receiver, {"BUS": "journal"}, direct=direct)
        found.append(Process(f"{way} journal", journal, (_TWO_RECORDS, _ONE_RECORD), steady=True))
        if kafka is not None:
            on_kafka = partial(servers.receiver, kafka, direct=direct)
            loads = (Load("started", 1), _TWO_RECORDS, Load("started", 1000), _ONE_RECORD)
            found.append(Process(f"{way} kafka", on_kafka, loads, steady=True))
    found.append(Process("Kafka refuses", partial(servers.receiver, _NOBODY, direct=servers.HAS_DIRECT), ()))
    return [*found, Process("Kafka is silent", servers.with_silent_kafka, ())]


def chosen(all_of_them: Sequence[Process], only: str) -> list[Process]:
    """Those with a row whose name has ``only`` in it, with these rows, and always the yardstick."""
    found = []
    for process in all_of_them:
        loads = tuple(load for load in process.loads if only in process.row(load))
        if process.name == YARDSTICK:
            found.append(process)
        elif loads or (only in process.name and not process.loads):
            found.append(msgspec.structs.replace(process, loads=loads))
    return found


class Lengths(msgspec.Struct, frozen=True):
    """How often each row is looked at in a round, and for how many seconds, in a closed loop and at a steady rate."""

    looks: int
    seconds: float
    steady: float


def measure(wanted: Sequence[Process], lengths: Lengths, *, tell: Callable[[str], None]) -> Round:
    """One round: every process once, beside a yardstick that is there all the time."""
    found = Round()
    yardstick = next(each for each in wanted if each.name == YARDSTICK)
    with yardstick.open() as beside:
        for process in wanted:
            with process.open() as server:
                for load in process.loads:
                    tell(process.row(load))
                    found.closed += _looks(server, beside, load, process.row(load), lengths)
                if process.steady and lengths.steady:
                    tell(f"{process.name}, {RATE:.0f}/s")
                    steady = put_on(server, _TWO_RECORDS, seconds=lengths.steady, rate=RATE)
                    found.steady[process.name] = _steady(steady)
                found.starts[process.name] = Start(ready=server.ready, resident=resident_mib(server.pid))
    return found


def _looks(server: Server, beside: Server, load: Load, row: str, lengths: Lengths) -> Iterator[dict[str, Sample]]:
    """In turn at the yardstick and at the row: what slows down the machine for a second or a minute slows down both."""
    put_on(server, load, seconds=lengths.seconds)  # a new process is slow at first
    for _ in range(lengths.looks):
        by_yardstick = _sample(put_on(beside, _TWO_RECORDS, seconds=lengths.seconds))
        yield {YARDSTICK: by_yardstick, row: _sample(put_on(server, load, seconds=lengths.seconds))}


def put_on(server: Server, load: Load, *, seconds: float, rate: float = 0.0) -> Report:
    """The load, from a process of its own. Raises CalledProcessError, which has said why."""
    order = Order(
        port=server.port,
        pid=server.pid,
        core=OTHER_CORE,
        kind=load.kind,
        keys=load.keys,
        warm=min(0.5, seconds / 4),
        seconds=seconds,
        rate=rate,
    )
    command = (sys.executable, "-m", "tests.benchmarks.load")
    done = subprocess.run(command, input=msgspec.json.encode(order), stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Report)


def _sample(report: Report) -> Sample:
    return Sample(
        cpu_us=report.server_cpu / report.events * 1e6,
        rate=report.events / report.seconds,
        p50=report.p50,
        p99=report.p99,
        p999=report.p999,
        own_us=report.own_cpu / report.events * 1e6,
    )


def _steady(report: Report) -> Steady:
    return Steady(
        rate=report.events / report.seconds,
        p50=report.p50,
        p99=report.p99,
        p999=report.p999,
        longest=report.longest,
        late=report.late,
    )
