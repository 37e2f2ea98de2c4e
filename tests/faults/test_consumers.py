"""Consumers among kills, rebalances and lost coordinators: nothing is committed too early, nothing is lost, nobody spins."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from service.bus.kafka import KafkaConsumer, KafkaProducer
from service.bus.topics import TopicPlan
from service.core.message import Message, Received
from tests.faults.consumer import told
from tests.faults.history import AnyLine, Commit, Effect, Fault, Kafka
from tests.faults.invariants import Bounds, check
from tests.faults.quorum import administering, copies
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.kafka.member import Member, until
from tests.kafka.records import create_topics, producing, read_topic, send_all

pytestmark = [pytest.mark.timeout(900), pytest.mark.kafka]

PARTITIONS = 3


def numbered(numbers: Iterable[int]) -> list[Message]:
    """Records whose value is their id."""
    return [Message(topic="work", key=f"k{n % 50}", value=b"%d" % n, partition_by=f"k{n % 50}") for n in numbers]


async def _written(cluster: Cluster, prefix: str) -> list[Kafka]:
    """What stands on the topic."""
    records = await read_topic(cluster, prefix, "work", partitions=PARTITIONS)
    return [
        Kafka(
            topic="work", partition=r.partition, offset=r.offset, id=(r.value or b"").decode(), key=r.key, ctr=r.offset
        )
        for r in records
    ]


# --- C2: committed ≤ lowest unfinished, at every moment -----------------------------------------------------------------


@dataclass
class Observer:
    """Asks Kafka all the time what is committed, and compares it with what the consumer says that it has finished."""

    cluster: Cluster
    group: str
    files: Sequence[Path]
    history: list[AnyLine] = field(default_factory=list)
    asked: int = 0

    async def observe(self) -> None:
        """Until cancelled."""
        async with administering(self.cluster.bootstrap) as admin:
            while True:
                with suppress(KafkaError):  # the group does not exist yet
                    await self._once(admin)
                await asyncio.sleep(0.01)

    async def _once(self, admin: Any) -> None:
        committed = await admin.list_consumer_group_offsets(self.group)
        finished = self.finished()  # after the question: it can only be more than was finished then
        self.asked += 1
        for place, kept in committed.items():
            lowest = _lowest(finished[place.partition])
            before = [line for line in self.history if isinstance(line, Commit) and line.partition == place.partition]
            if kept.offset >= 0 and (not before or before[-1].offset != kept.offset):
                self.history.append(
                    Commit(group=self.group, partition=place.partition, offset=kept.offset, lowest_unfinished=lowest)
                )

    def finished(self) -> dict[int, set[int]]:
        """Partition → the offsets that are finished by now."""
        found: dict[int, set[int]] = defaultdict(set)
        for file in self.files:
            for what, partition, offset in told(file) if file.exists() else ():
                if what == "F":
                    found[partition].add(offset)
        return found


def _lowest(finished: set[int]) -> int:
    return next(n for n in range(len(finished) + 1) if n not in finished)


class Killed:
    """The consumer process, over all its lives; with one name, so that it has its partitions back at once."""

    def __init__(self, cluster: Cluster, prefix: str, folder: Path) -> None:
        self.file = folder / "told"
        self._arguments = ["--bootstrap", cluster.bootstrap, "--prefix", prefix, "--instance", "killed"]
        self._log = folder / "log"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self, *, longest: float = 2.0) -> None:
        """Begin a life."""
        command = [sys.executable, "-m", "tests.faults.consumer", str(self.file), *self._arguments]
        with self._log.open("ab") as log:
            self._running = subprocess.Popen([*command, "--longest", str(longest)], stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._running is not None
        self._running.kill()
        self._running.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._running is not None
        self._running.terminate()
        return self._running.wait(30)

    def finished(self) -> int:
        """How much it has done so far, over all its lives, also again."""
        return sum(what == "F" for what, *_ in told(self.file)) if self.file.exists() else 0


@pytest.mark.parametrize("kills", [pytest.param(5, marks=pytest.mark.quick), 50])
async def test_c2_nothing_is_committed_past_unfinished_work(
    kafka: Cluster, topic_prefix: str, tmp_path: Path, kills: int
) -> None:
    """Eight workers of 0 to 2 s each, SIGKILL again and again: whenever one looks, every offset below the committed one is
    finished; and in the end all of them are.
    """
    records = 40 * kills
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=PARTITIONS)])
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, numbered(range(records)))
    killed = Killed(kafka, topic_prefix, tmp_path)
    observer = Observer(kafka, f"{topic_prefix}g", [killed.file])
    killed.start()
    watching = asyncio.create_task(observer.observe())
    try:
        for _ in range(kills):
            before = killed.finished()
            await until(lambda before=before: killed.finished() > before + 8, 60)  # type: ignore[misc]
            await asyncio.sleep(random.uniform(0, 2))  # noqa: S311 - not a secret
            await asyncio.to_thread(killed.kill)
            killed.start()
        await asyncio.to_thread(killed.kill)
        killed.start(longest=0.05)
        await until(lambda: sum(map(len, observer.finished().values())) == records, 120)
        assert await asyncio.to_thread(killed.stop) == 0
        await asyncio.sleep(0.5)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    report = check(observer.history)
    delivered = Counter(place for what, *place_ in told(killed.file) if what == "D" for place in [tuple(place_)])
    print(  # noqa: T201
        f"\nC2: {kills} kills, {records} records, {sum(delivered.values()) - records} delivered again;"
        f" {observer.asked} looks saw {len(observer.history)} commits, {len(report.violations)} of them too far"
    )
    assert report.ok, str(report)
    assert len(observer.history) > kills
    ends = {line.partition: line.offset for line in observer.history if isinstance(line, Commit)}
    assert sum(ends.values()) == records


# --- C3: members come and go ------------------------------------------------------------------------------------------


class Ledger:
    """What was done, for all members: the effect of an event happens once, whoever comes second finds it there."""

    def __init__(self) -> None:
        self.history: list[AnyLine] = []
        self.done: dict[str, float] = {}

    def effect(self, record: Received, begun: float) -> None:
        """It happens, unless it has."""
        id_ = (record.value or b"").decode()
        changed = id_ not in self.done
        self.done.setdefault(id_, time.monotonic())
        self.history.append(
            Effect(id=id_, key=record.key, call="done", status=200, changed=changed, t0=begun, t1=time.monotonic())
        )


class Handling(Member):
    """A member whose handlers take up to 15 s each, side by side."""

    def __init__(self, consumer: KafkaConsumer, ledger: Ledger, longest: float) -> None:
        super().__init__(consumer, hold=True)
        self._ledger, self._longest = ledger, longest
        self.begun: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()  # at a revoke, and not finished when it was over
        self._assignment = 0
        self._handlers: dict[asyncio.Task[None], tuple[str, int]] = {}

    async def assigned(self, partitions: frozenset[int]) -> None:
        await super().assigned(partitions)
        self._assignment += 1

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Drain: as long as the consumer lets us."""
        try:
            while any(number == self._assignment for _, number in self._handlers.values()):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)
        finally:
            self.in_flight.update(id_ for id_, number in self._handlers.values() if number == self._assignment)
            await super().revoked(partitions)

    def take(self, record: Received) -> None:
        """Begin with it, unless it is done already."""
        id_ = (record.value or b"").decode()
        if id_ in self._ledger.done:
            self.consumer.finish(record)
            return
        self.begun[id_] += 1
        task = asyncio.create_task(self._handle(record))
        self._handlers[task] = id_, self._assignment
        task.add_done_callback(self._handlers.pop)

    async def _handle(self, record: Received) -> None:
        begun = time.monotonic()
        await asyncio.sleep(random.uniform(0, self._longest))  # noqa: S311 - not a secret
        self._ledger.effect(record, begun)
        self.consumer.finish(record)

    async def _poll(self) -> None:
        while True:
            for record in await self.consumer.poll():
                self.records.append(record)
                if record.partition not in self.partitions:
                    self.early.append(record)
                self.take(record)
            await self.consumer.commit()

    async def over(self) -> None:
        """Whatever is still being handled comes to nothing: as in a process that has ended."""
        for task in list(self._handlers):
            task.cancel()


@asynccontextmanager
async def _flowing(producer: KafkaProducer, rate: float) -> AsyncIterator[list[int]]:
    """So many records a second; the numbers written so far."""
    sent: list[int] = []

    async def flow() -> None:
        while True:
            await send_all(producer, numbered([len(sent)]))
            sent.append(len(sent))
            await asyncio.sleep(1 / rate)

    task = asyncio.create_task(flow())
    try:
        yield sent
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("seconds", [pytest.param(60, marks=pytest.mark.quick), 300])
async def test_c3_members_come_and_go(kafka: Cluster, topic_prefix: str, seconds: float) -> None:
    """One joins or leaves every 7 s while handlers take up to 15 s: every event has its effect once, nothing is done again
    that was not cut off by a rebalance, and there are no rebalances but those.
    """
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=PARTITIONS)])
    ledger, everybody, changes = Ledger(), list[Handling](), 0

    async def join() -> Handling:
        consumer = KafkaConsumer(
            connection=kafka.connection, topic_prefix=topic_prefix, topic="work", group=f"{topic_prefix}g"
        )
        everybody.append(Handling(consumer, ledger, 15.0))
        await everybody[-1].start()
        return everybody[-1]

    with capture_logs() as logs:
        async with producing(kafka, topic_prefix) as producer, AsyncExitStack() as stack:
            present = [await join()]
            await until(lambda: bool(present[0].partitions))
            first = _generation(present[0])
            async with _flowing(producer, 5) as sent:
                begun = time.monotonic()
                while time.monotonic() - begun < seconds:
                    await asyncio.sleep(7)
                    changes += 1
                    if len(present) == 1 or (len(present) < 4 and random.random() < 0.5):  # noqa: S311 - not a secret
                        present.append(await join())
                    else:
                        leaving = present.pop(random.randrange(len(present)))  # noqa: S311 - not a secret
                        await leaving.stop()
                        await leaving.over()
            for each in present:
                stack.push_async_callback(each.stop)
            await until(lambda: len(ledger.done) == len(sent), 120)
            await until(lambda: all(each.consumer.lag == 0 for each in present), 60)
            last = max(map(_generation, present))
    again = sum((each.begun for each in everybody), Counter[str]())
    cut_off = sum((each.in_flight for each in everybody), Counter[str]())
    repeats = sum(count - 1 for count in again.values())
    failed = sum(line["event"] == "consumer.commit_failed" for line in logs)
    history = [*ledger.history, *await _written(kafka, topic_prefix)]
    report = check(history, Bounds(effects=True))
    print(  # noqa: T201
        f"\nC3: {seconds:.0f} s, {changes} joined or left, {last - first} generations; {len(sent)} events,"
        f" {sum(cut_off.values())} cut off by a rebalance, {repeats} begun again, {failed} commits failed"
    )
    assert report.ok, str(report)
    assert {id_ for id_, count in again.items() if count - 1 > cut_off[id_]} == set()
    assert last - first <= 1.2 * changes
    assert [each.early for each in everybody if each.early] == []


def _generation(member: Member) -> int:
    return int(member.consumer._client._coordinator.generation)


# --- C8: a handler that takes long is no reason for a rebalance -----------------------------------------------------------


async def test_c8_a_slow_handler_is_not_evicted(kafka: Cluster, topic_prefix: str) -> None:
    """Two minutes for one record, with its partition paused: the member stays, nobody repeats it, and it is committed."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=PARTITIONS)])
    async with producing(kafka, topic_prefix) as producer, AsyncExitStack() as stack:
        await send_all(producer, numbered(range(30)))
        members = [_plain(kafka, topic_prefix, hold=True) for _ in range(2)]
        for each in members:
            await each.start()
            stack.push_async_callback(each.stop)
        await until(lambda: sum(len(each.records) for each in members) >= 3 and all(e.partitions for e in members))
        await asyncio.sleep(3)
        told_before = [list(each.told) for each in members]
        delivered = sum(len(each.records) for each in members)
        await asyncio.sleep(120)
        assert [each.told for each in members] == told_before
        assert sum(len(each.records) for each in members) == delivered
    print("\nC8: 120 s for one record, no rebalance")  # noqa: T201


def _plain(cluster: Cluster, prefix: str, *, hold: bool = False) -> Member:
    consumer = KafkaConsumer(
        connection=cluster.connection, topic_prefix=prefix, topic="work", group=f"{prefix}g", max_unfinished=1
    )
    return Member(consumer, hold=hold)


# --- C11: the group's coordinator is lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [pytest.param(2, marks=pytest.mark.quick), 10])
async def test_c11_the_coordinator_is_killed(kafka_clusters: ClusterFactory, topic_prefix: str, kills: int) -> None:
    """What is written right after the kill is read and committed within 30 s, each time; and the member is the same."""
    cluster = kafka_clusters(3)
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=PARTITIONS)])
    consumer = KafkaConsumer(
        connection=cluster.connection, topic_prefix=topic_prefix, topic="work", group=f"{topic_prefix}g"
    )
    one, seconds, history = Committing(consumer), list[float](), list[AnyLine]()
    async with producing(cluster, topic_prefix) as producer:
        await one.start()
        await until(lambda: bool(one.partitions))
        for n in range(kills):
            broker = cluster.brokers[consumer._client._coordinator.coordinator_id - 1]
            history.append(Fault(name="coordinator", phase="begin", target=broker.address))
            broker.kill()
            begun = time.monotonic()
            await send_all(producer, numbered(range(n * 10, n * 10 + 10)))
            await _all_committed(cluster, f"{topic_prefix}g", (n + 1) * 10)
            seconds.append(time.monotonic() - begun)
            broker.start()
            await cluster.ready()
            history.append(Fault(name="coordinator", phase="end", target=broker.address))
            await _in_sync(cluster, f"{topic_prefix}work")
        assigned = [kind for kind, _ in one.told].count("assigned")
        await one.stop()
    delivered = Counter((record.partition, record.offset) for record in one.records)
    print(  # noqa: T201
        f"\nC11: {kills} coordinators killed; read and committed again after {min(seconds):.1f} to {max(seconds):.1f} s,"
        f" {assigned} assignments, {sum(delivered.values()) - len(delivered)} records twice"
    )
    assert max(seconds) <= 30
    assert len(delivered) == kills * 10
    assert one.early == []


class Committing(Member):
    """A member that commits after every poll, as the product does."""

    async def _poll(self) -> None:
        while True:
            for record in await self.consumer.poll():
                self.records.append(record)
                self.consumer.finish(record)
            await self.consumer.commit()


async def _all_committed(cluster: Cluster, group: str, count: int) -> None:
    """Wait until so many are, asking whichever broker answers."""
    async with asyncio.timeout(60):
        while await _committed(cluster, group) < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


async def _committed(cluster: Cluster, group: str) -> int:
    running = ",".join(f"{each.address}:{each.port}" for each in cluster.brokers if each.running)
    try:
        async with administering(running) as admin:
            found = await admin.list_consumer_group_offsets(group)
    except KafkaError:
        return 0
    return sum(max(kept.offset, 0) for kept in found.values())


async def _in_sync(cluster: Cluster, topic: str) -> None:
    """Wait until every copy of every partition is in sync, the group's own topic included."""
    async with asyncio.timeout(60):
        while True:
            with suppress(KafkaError):
                found = await copies(cluster.bootstrap, ["__consumer_offsets", topic])
                if all(each.in_sync == each.replicas for each in found.values()):
                    return
            await asyncio.sleep(0.5)
