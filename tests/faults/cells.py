"""The matrix of faults on three real brokers: ``python -m tests.faults.cells [--only NAME…] [--quick]``

Each cell is a rig of its own (:mod:`tests.faults.rig`) in a process of its own: load, one fault, and a minute after it. Its
verdict is :mod:`tests.faults.invariants`' and what the cell adds. A row is printed for each; ``--write FILE`` puts the table
between the markers in that file. Exit code 1 where a cell is red. ``--keep FOLDER`` keeps history and logs of each.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.faults import quorum
from tests.faults.invariants import Bounds, Report
from tests.faults.partition import Partitions, permitted
from tests.faults.proxy import PRODUCE, Behaviour, Swallow
from tests.faults.reading import TOPICS
from tests.faults.rig import PREFIX, Rig

BEGIN, END = "<!-- cells: begin -->", "<!-- cells: end -->"

#: 2xx must not pause for longer: the publisher waits for Kafka for 2 s, then the journal takes over.
BOUNDS = Bounds(duplicates=500, letters=0, unavailable=0, gap=5.0)


@dataclass(frozen=True)
class Options:
    """What is given on the command line. Seconds."""

    seconds_down: float = 90.0
    after: float = 60.0
    frozen: float = 30.0


T = TypeVar("T")
Play = Callable[[Rig, Options], Awaitable[None]]


@dataclass(frozen=True)
class Cell:
    """One row. ``play`` begins the load and breaks something; ``more`` says what else is wrong with the report."""

    name: str
    play: Play
    bounds: Bounds = BOUNDS
    quick: bool = False
    more: Callable[[Report], Iterable[str]] = lambda _report: ()
    limit: float = 600.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a cell; ``problems`` is empty where all is as promised. Seconds."""

    name: str
    posted: int = 0
    accepted: int = 0
    neither: int = 0
    lost: int = 0
    duplicates: int = 0
    inversions: int = 0
    gap: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    stall: float = 0.0
    stalls: tuple[float, ...] = ()
    direct: float | None = None
    late: float = 0.0
    problems: tuple[str, ...] = ()
    detail: str = ""

    @property
    def ok(self) -> bool:
        """All is as promised."""
        return not self.problems


# --- faults -----------------------------------------------------------------------------------------------------------

#: Seconds that a broker stays away after SIGTERM or SIGKILL: longer than the cluster needs to notice (2 s here).
AWAY = 15.0

Target = Callable[[Rig], Awaitable[int]]
Fault = Callable[[Rig, int, Options], Awaitable[None]]


async def the_leader(rig: Rig) -> int:
    """Who leads most partitions and is not the controller."""
    return await rig.leads_most(besides=await rig.controller())


async def the_follower(rig: Rig) -> int:
    """Who leads nothing and is not the controller."""
    return await rig.idle_follower()


async def the_controller(rig: Rig) -> int:
    """Who leads the quorum."""
    return await rig.controller()


async def terminated(rig: Rig, node: int, _: Options) -> None:
    """SIGTERM: leadership is handed over first."""
    await asyncio.to_thread(rig.nodes[node].stop)
    await _away_and_back(rig, node)


async def killed(rig: Rig, node: int, _: Options) -> None:
    """SIGKILL: the others have to notice."""
    rig.nodes[node].kill()
    await _away_and_back(rig, node)


async def _away_and_back(rig: Rig, node: int) -> None:
    await asyncio.sleep(AWAY)
    rig.nodes[node].start()
    await rig.all_in_sync()


async def frozen(rig: Rig, node: int, options: Options) -> None:
    """SIGSTOP: its connections stay open, and nothing answers."""
    rig.nodes[node].pause()
    try:
        await asyncio.sleep(options.frozen)
    finally:
        rig.nodes[node].resume()
    await rig.all_in_sync()


async def half_open(rig: Rig, node: int, options: Options) -> None:
    """Healthy for the other brokers, so it leads on; nothing of ours reaches it."""
    with rig.behaving(Behaviour(half_open=True), node):
        await asyncio.sleep(options.frozen)


async def slow(rig: Rig, node: int, options: Options) -> None:
    """1 kB/s for each connection and direction."""
    with rig.behaving(Behaviour(bandwidth=1000), node):
        await asyncio.sleep(options.frozen)


def once(name: str, target: Target, fault: Fault) -> Play:
    """The fault strikes whoever ``target`` says when the load begins."""

    async def play(rig: Rig, options: Options) -> None:
        node = await target(rig)
        await rig.begin()
        async with rig.fault(name, f"broker {node}"):
            await fault(rig, node, options)
        await asyncio.sleep(options.after)

    return play


def bounced(target: Target, times: int = 5) -> Play:
    """Five times over, SIGTERM and SIGKILL in turn, whoever is the target by then; up again at once."""

    async def play(rig: Rig, options: Options) -> None:
        node = await target(rig)
        await rig.begin()
        async with rig.fault("bounces"):
            for n in range(times):
                node = node if target is the_follower else await target(rig)
                await asyncio.to_thread(rig.nodes[node].stop if n % 2 == 0 else rig.nodes[node].kill)
                await asyncio.sleep(1)
                rig.nodes[node].start()
                await rig.all_in_sync()
        await asyncio.sleep(options.after)

    return play


async def leader_alone(rig: Rig, options: Options) -> None:
    """The others stand still for 8 s, then the leader is killed: what only it had is gone."""
    node = await the_leader(rig)
    others = [broker for number, broker in rig.nodes.items() if number != node]
    await rig.begin()
    async with rig.fault("alone, then killed", f"broker {node}"):
        for broker in others:
            broker.pause()
        await asyncio.sleep(8)
        rig.nodes[node].kill()
        for broker in others:
            broker.resume()
        await _away_and_back(rig, node)
    await asyncio.sleep(options.after)


async def two_down(rig: Rig, options: Options) -> None:
    """Below min.insync.replicas, and without a quorum."""
    await rig.begin()
    away = [node for node in rig.nodes if node != await the_leader(rig)]
    async with rig.fault("two down", "brokers " + ", ".join(map(str, away))):
        for node in away:
            rig.nodes[node].kill()
        await asyncio.sleep(60)
        for node in away:
            rig.nodes[node].start()
        await rig.all_in_sync()
    await asyncio.sleep(options.after)


async def all_down(rig: Rig, options: Options) -> None:
    """SIGKILL for all three at once."""
    await rig.begin()
    async with rig.fault("all down", f"{options.seconds_down:.0f} s"):
        for broker in rig.nodes.values():
            broker.kill()
        await asyncio.sleep(options.seconds_down)
        for broker in rig.nodes.values():
            broker.start()
        await rig.all_in_sync()
    await asyncio.sleep(options.after)


async def all_frozen(rig: Rig, options: Options) -> None:
    """SIGSTOP for all three at once: no connection breaks, and nothing answers."""
    await rig.begin()
    async with rig.fault("all frozen"):
        for broker in rig.nodes.values():
            broker.pause()
        await asyncio.sleep(options.frozen)
        for broker in rig.nodes.values():
            broker.resume()
        await rig.all_in_sync()
    await asyncio.sleep(options.after)


async def responses_lost(rig: Rig, options: Options) -> None:
    """A hundred times the answer to a produce request gets lost, and the connection with it; the records are written."""
    await rig.begin()
    each = Swallow(PRODUCE, times=100, every=3)
    async with rig.fault("responses lost"):
        with rig.behaving(Behaviour(swallow=each)):
            begun = time.monotonic()
            while (lost := sum(proxy.swallowed for proxy in rig.proxies.values())) < 100:
                assert time.monotonic() - begun < 120, f"no more than {lost} responses could be swallowed in 120 s"
                await asyncio.sleep(0.1)
    await asyncio.sleep(options.after)


async def gray(rig: Rig, options: Options) -> None:
    """Whoever leads most stands still for 5 s, every 20 s, for 5 minutes."""
    await rig.begin()
    for _ in range(15):
        node = await rig.leads_most(besides=0)
        async with rig.fault("frozen 5 s", f"broker {node}"):
            rig.nodes[node].pause()
            await asyncio.sleep(5)
            rig.nodes[node].resume()
        await asyncio.sleep(15)
    await rig.all_in_sync()
    await asyncio.sleep(options.after)


#: How packets were kept away: it stands beside the cell's name.
MEANS = ("iptables", "proxy")


@contextmanager
def packets_lost(rig: Rig, nodes: Iterable[int], share: float) -> Iterator[str]:
    """By iptables where that is permitted, else what a proxy can do in its place; says which."""
    if permitted():
        with Partitions() as partitions:
            partitions.drop([address for node in nodes for address in rig.addresses(node)], share=share)
            yield "iptables"
    else:
        instead = Behaviour(loss=share) if share < 1 else Behaviour(half_open=True)
        with rig.behaving(instead, *nodes):
            yield "proxy"


async def lossy(rig: Rig, options: Options) -> None:
    """30 % of all packets to and from brokers get lost."""
    await rig.begin()
    with packets_lost(rig, rig.nodes, 0.3) as means:
        async with rig.fault("30 % loss", means):
            await asyncio.sleep(60)
    await rig.all_in_sync()
    await asyncio.sleep(options.after)


async def unreachable(rig: Rig, options: Options) -> None:
    """Nothing reaches the leader, not even other brokers; it still reaches them."""
    node = await the_leader(rig)
    await rig.begin()
    with packets_lost(rig, [node], 1.0) as means:
        async with rig.fault("unreachable", f"broker {node}, {means}"):
            await asyncio.sleep(options.frozen)
    await rig.all_in_sync()
    await asyncio.sleep(options.after)


async def twenty_kills(rig: Rig, options: Options) -> None:
    """SIGKILL for the leader of most partitions, twenty times, each when all is well again."""
    await rig.begin()
    for n in range(20):
        node = await rig.leads_most(besides=0)
        async with rig.fault(f"kill {n + 1}", f"broker {node}"):
            rig.nodes[node].kill()
            await asyncio.sleep(10)
            rig.nodes[node].start()
            await rig.all_in_sync()
        await asyncio.sleep(10)
    await asyncio.sleep(options.after / 2)


def recovers_within_20_s(report: Report) -> Iterator[str]:
    """P8: 95 % of the kills at most 20 s without a record written to some partition, none more than 30 s."""
    stalls = sorted(fault.stall for fault in report.faults)
    p95 = statistics.quantiles(stalls, n=20)[18]
    if p95 > 20 or stalls[-1] > 30:
        yield f"recovery took {p95:.1f} s (p95), {stalls[-1]:.1f} s at most"


async def more_partitions(rig: Rig, options: Options) -> None:
    """From 6 to 12 while events flow."""
    await rig.begin()
    async with rig.fault("6 to 12 partitions"):
        await quorum.repartition(rig.internal, [PREFIX + topic for topic in TOPICS], 12)
        await rig.all_in_sync()
    await asyncio.sleep(max(options.after, 30))


async def receiver_killed(rig: Rig, options: Options) -> None:
    """SIGKILL for the receiver, three times while Kafka is away and its journal fills, and once while it drains."""
    await rig.begin()
    async with rig.fault("receiver killed", "and all brokers"):
        for broker in rig.nodes.values():
            broker.kill()
        for seconds in (1, 6, 6):  # at first Kafka still has its 2 s, and nothing may be answered
            await asyncio.sleep(seconds)
            await _restarted(rig)
        await asyncio.sleep(6)
        for broker in rig.nodes.values():
            broker.start()
        await rig.all_in_sync()
    async with rig.fault("receiver killed", "while it drains"):
        await _restarted(rig)
    await asyncio.sleep(options.after)


async def _restarted(rig: Rig) -> None:
    rig.receiver.kill()
    rig.receiver.start()


#: What happens once for each of these: leader, follower and controller.
TARGETS: dict[str, Target] = {"leader": the_leader, "follower": the_follower, "controller": the_controller}
QUICK = {"leader-kill", "follower-stop"}

#: Each of four starts may take 5 s, in which nobody answers.
RESTARTED = Bounds(duplicates=500, letters=0, unavailable=4000, gap=10.0)


def _matrix() -> Iterator[Cell]:
    faults: dict[str, Fault] = {"term": terminated, "kill": killed, "stop": frozen}
    for who, target in TARGETS.items():
        for what, fault in faults.items():
            name = f"{who}-{what}"
            yield Cell(name, once(name, target, fault), quick=name in QUICK)
        yield Cell(f"{who}-bounces", bounced(target))


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        *_matrix(),
        Cell("leader-alone-kill", leader_alone, quick=True),
        Cell("two-down", two_down),
        Cell("all-down", all_down, quick=True, limit=1500),
        Cell("all-stop", all_frozen),
        Cell("responses-lost", responses_lost, quick=True),
        Cell("leader-slow", once("slow", the_leader, slow)),
        Cell("leader-half-open", once("half-open", the_leader, half_open)),
        Cell("leader-unreachable", unreachable),
        Cell("gray", gray, limit=900),
        Cell("loss", lossy),
        Cell("twenty-kills", twenty_kills, more=recovers_within_20_s, limit=1800),
        Cell(
            "more-partitions",
            more_partitions,
            bounds=Bounds(500, letters=0, unavailable=0, gap=5.0, repartitioned=True),
        ),
        Cell("receiver-killed", receiver_killed, bounds=RESTARTED),
    )
}


# --- a run ------------------------------------------------------------------------------------------------------------


async def run(cell: Cell, options: Options, *, keep: Path | None = None) -> Result:
    """Play one cell, and leave its files in ``keep``."""
    with tempfile.TemporaryDirectory(prefix=f"webex-events-cell-{cell.name}-", ignore_cleanup_errors=True) as folder:
        result = await _played(cell, options, Path(folder))
        if keep is not None:
            shutil.copytree(folder, keep / cell.name, dirs_exist_ok=True)
    return result


async def _played(cell: Cell, options: Options, folder: Path) -> Result:
    try:
        async with asyncio.timeout(cell.limit), Rig.standing(folder) as rig:
            await cell.play(rig, options)
            report = await rig.judged(cell.bounds)
    except (AssertionError, OSError, RuntimeError) as error:
        return Result(name=cell.name, problems=(f"{type(error).__name__}: {error}"[:2000],))
    return _result(cell, report)


def _result(cell: Cell, report: Report) -> Result:
    figures, faults = report.figures, report.faults
    means = sorted({word for fault in faults for word in fault.target.split(", ") if word in MEANS})
    return Result(
        name=" ".join([cell.name, *(f"({word})" for word in means)]),
        posted=figures.posted - figures.refused,
        accepted=figures.accepted,
        neither=figures.unavailable,
        lost=figures.lost,
        duplicates=figures.duplicates,
        inversions=figures.inversions,
        gap=max(fault.latency.gap for fault in faults),
        p50=figures.latency.p50,
        p99=figures.latency.p99,
        longest=figures.latency.longest,
        stall=max(fault.stall for fault in faults),
        stalls=tuple(fault.stall for fault in faults),
        direct=faults[-1].direct,
        late=figures.late,
        problems=(*map(str, report.violations), *cell.more(report)),
        detail=str(report),
    )


HEADINGS = (
    "cell",
    "posted",
    "2xx",
    "not 2xx",
    "lost",
    "twice",
    "out of order",
    "longest without 2xx",
    "p50 / p99 / max",
    "Kafka stalled",
    "direct after heal",
    "verdict",
)


def row(result: Result) -> tuple[str, ...]:
    """The figures of a cell."""
    if not result.posted:
        return (result.name, *("",) * (len(HEADINGS) - 2), "did not run")
    return (
        result.name,
        str(result.posted),
        str(result.accepted),
        str(result.neither),
        str(result.lost),
        str(result.duplicates),
        str(result.inversions),
        f"{result.gap:.1f} s",
        f"{result.p50 * 1000:.0f} ms / {_span(result.p99)} / {_span(result.longest)}",
        f"{result.stall:.1f} s",
        "never" if result.direct is None else f"{result.direct:.1f} s",
        "ok" if result.ok else "**red**",
    )


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def table(results: Sequence[Result], *, command: str, commit: str, now: datetime) -> str:
    """What stands between the markers."""
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *map(row, results)]
    made = f"{now:%Y-%m-%d}, commit {commit}, {os.cpu_count()} cores, by `{command}`"
    return "\n".join([made, "", *(f"| {' | '.join(cells)} |" for cells in rows)])


def write(path: Path, text: str) -> None:
    """Put it between the markers. Raises ValueError where there are none."""
    whole = path.read_text("utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no place for the table: {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass
class Runs:
    """Cells in processes of their own, some side by side."""

    arguments: Sequence[str]
    side_by_side: int
    results: dict[str, Result] = field(default_factory=dict)

    async def all(self, names: Sequence[str]) -> list[Result]:
        """Run them; their results in the order of ``names``."""
        gate = asyncio.Semaphore(self.side_by_side)
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._one(name, gate))
        return [self.results[name] for name in names]

    async def _one(self, name: str, gate: asyncio.Semaphore) -> None:
        async with gate, _child(name, self.arguments) as child:
            output, _ = await child.communicate()
        last = output.decode(errors="replace").strip().rpartition("\n")[2]
        try:
            result = msgspec.json.decode(last, type=Result)
        except msgspec.DecodeError:
            result = Result(name=name, problems=(f"no result, exit code {child.returncode}",))
        self.results[name] = result
        sys.stdout.write(f"{' | '.join(row(result))}\n{_indented([*result.problems, result.detail])}")
        sys.stdout.flush()


@asynccontextmanager
async def _child(name: str, arguments: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "tests.faults.cells", "--here", "--only", name, *arguments)
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
            await child.wait()


async def _until_told(work: Awaitable[T]) -> T:
    """As it is, but SIGTERM ends it in order, with everything that it has started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _indented(texts: Iterable[str]) -> str:
    return "".join(f"    {line}\n" for text in texts for line in text.splitlines())


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(("git", *arguments), capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        " with changes" if git("status", "--porcelain") else ""
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.cells", description="Faults on three real brokers.")
    parser.add_argument("--only", nargs="+", choices=CELLS, metavar="NAME", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--quick", action="store_true", help="the quick cells only")
    parser.add_argument("--seconds-down", type=float, default=Options.seconds_down, help="of all-down")
    parser.add_argument("--after", type=float, default=Options.after, help="seconds of load after each fault")
    parser.add_argument("--side-by-side", type=int, default=1, help="cells at a time; figures suffer")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its markers")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep history and logs of each cell")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command."""
    given = _parser().parse_args(arguments)
    names = given.only or [name for name, cell in CELLS.items() if cell.quick or not given.quick]
    options = Options(seconds_down=given.seconds_down, after=given.after)
    if given.here:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every connection that we break
        result = asyncio.run(_until_told(run(CELLS[names[0]], options, keep=given.keep)))
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        return 0 if result.ok else 1
    passed = [f"--seconds-down={given.seconds_down}", f"--after={given.after}"]
    passed += [f"--keep={given.keep}"] if given.keep else []
    results = asyncio.run(_until_told(Runs(passed, given.side_by_side).all(names)))
    command = "python -m tests.faults.cells " + " ".join(arguments)
    if given.write:
        write(given.write, table(results, command=command.strip(), commit=_commit(), now=datetime.now(UTC)))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
