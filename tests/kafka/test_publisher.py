"""Kafka first, journal second: the publisher with real brokers, a real journal, and faults in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.kafka import KafkaProducer
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.kafka_producer import Timing
from service.bus.publisher import REFUSED, SPOOL, KafkaFirstPublisher
from service.bus.record_size import MAX_RECORD_BYTES
from service.bus.topics import TopicPlan
from service.core.errors import CannotStore, JournalError, RecordRefused
from service.core.message import Message
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, first_occurrences, numbered, read_topic

WORK = (TopicPlan(name="work", partitions=3),)
KEYS = [f"k{n}" for n in range(12)]


@asynccontextmanager
async def publishing(
    bootstrap: str, prefix: str, journal: Journal | None, *, deadline: float = 2.0, timing: Timing | None = None
) -> AsyncIterator[KafkaFirstPublisher]:
    """A publisher while the block runs."""
    producer = KafkaProducer(connection=Connection(bootstrap_servers=bootstrap), topic_prefix=prefix, timing=timing)
    publisher = KafkaFirstPublisher(producer, journal, deadline=deadline)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


async def drained(publisher: KafkaFirstPublisher, patience: float = 40) -> None:
    """Wait until the spool is empty and Kafka acknowledges."""
    async with asyncio.timeout(patience):
        while publisher.spooled or not publisher.healthy:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)


class Load:
    """Publishes a numbered record for each key in turn, steadily, each call waited for beside the others."""

    def __init__(self, publisher: KafkaFirstPublisher, rate: float) -> None:
        self._publisher = publisher
        self._rate = rate
        self._calls: list[asyncio.Task[float]] = []
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> list[float]:
        """End it; how long each call took (s). Raises what a call raised."""
        self._task.cancel()
        await asyncio.wait({self._task})
        return await asyncio.gather(*self._calls)

    @property
    def published(self) -> int:
        """Calls so far."""
        return len(self._calls)

    async def _run(self) -> None:
        started = time.monotonic()
        while True:
            number, key = divmod(len(self._calls), len(KEYS))
            self._calls.append(asyncio.create_task(self._publish(numbered(KEYS[key], number))))
            await asyncio.sleep(max(0, started + len(self._calls) / self._rate - time.monotonic()))

    async def _publish(self, message: Message) -> float:
        started = time.monotonic()
        await self._publisher.publish([message])
        return time.monotonic() - started


def expected(count: int) -> dict[str, list[int]]:
    """What the load publishes with so many calls."""
    numbers: dict[str, list[int]] = {key: [] for key in KEYS}
    for call in range(count):
        numbers[KEYS[call % len(KEYS)]].append(call // len(KEYS))
    return numbers


async def test_kafka_answers_and_the_journal_stays_empty(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """While Kafka acknowledges nothing is written twice."""
    await create_topics(kafka, topic_prefix, WORK)
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(kafka.bootstrap, topic_prefix, journal) as publisher,
    ):
        await asyncio.gather(*(publisher.publish([numbered(key, 0), numbered(key, 1)]) for key in KEYS))
        assert publisher.healthy
        assert await journal.bounds(SPOOL) == (0, 0)
    records = await read_topic(kafka, topic_prefix, "work", partitions=3)
    assert first_occurrences(records) == {key: [0, 1] for key in KEYS}


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_every_publish_succeeds_while_the_broker_is_away(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path, fault: str
) -> None:
    """Under a steady load the only broker is killed, or frozen, for seconds: no call fails or takes long, nothing is lost,
    and of each key the first occurrences are in order."""
    cluster = kafka_clusters(1)
    broker = cluster.brokers[0]
    await create_topics(cluster, topic_prefix, WORK)
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(cluster.bootstrap, topic_prefix, journal, deadline=1.0) as publisher,
    ):
        load = Load(publisher, rate=200)
        await asyncio.sleep(1)
        getattr(broker, fault)()
        await asyncio.sleep(5)
        assert publisher.spooled
        assert not publisher.healthy
        broker.start() if fault == "kill" else broker.resume()
        await drained(publisher)
        await asyncio.sleep(0.5)
        assert publisher.spooled == 0
        durations = await load.stop()
        assert await journal.rows(SPOOL) == 0
    assert max(durations) < 2.5
    records = await read_topic(cluster, topic_prefix, "work", partitions=3)
    assert first_occurrences(records) == expected(load.published)


async def test_rows_of_an_earlier_run_are_sent_first(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path
) -> None:
    """Published with Kafka down, stopped, started again: the rows arrive before what the new run publishes, with their time."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, WORK)
    cluster.brokers[0].kill()
    before = time.time() * 1000
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(cluster.bootstrap, topic_prefix, journal) as publisher,
    ):
        started = time.monotonic()
        await publisher.publish([numbered("k0", n) for n in range(1200)])
        assert time.monotonic() - started < 1  # not healthy: at once
        assert publisher.spooled == 1200
        later = time.time() * 1000
    await asyncio.sleep(0.5)
    cluster.brokers[0].start()
    await cluster.ready()
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(cluster.bootstrap, topic_prefix, journal) as publisher,
    ):
        await publisher.publish([numbered("k0", 1200)])
        await drained(publisher)
        assert await journal.rows(SPOOL) == 0
    records = await read_topic(cluster, topic_prefix, "work", partitions=3)
    assert first_occurrences(records) == {"k0": list(range(1201))}
    assert all(before - 1 <= record.timestamp <= later + 1 for record in records[:1200])


async def test_stop_with_kafka_dead_is_bounded_and_keeps_what_runs(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path
) -> None:
    """Calls that wait for Kafka when the publisher is stopped end well: their records are in the journal."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, WORK)
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(cluster.bootstrap, topic_prefix, journal) as publisher,
    ):
        await publisher.publish([numbered("k0", 0)])
        cluster.brokers[0].pause()
        running = [asyncio.create_task(publisher.publish([numbered("k0", n)])) for n in range(1, 20)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await publisher.stop()
        assert time.monotonic() - started < 12
        await asyncio.gather(*running)
        assert [row.message.value for row in await journal.read(SPOOL, 0, 100)] == [b"%d" % n for n in range(1, 20)]
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", 20)])


async def test_without_a_journal_the_sender_is_told(kafka_clusters: ClusterFactory, topic_prefix: str) -> None:
    """After the deadline at first, at once then; and it works again when Kafka does, without what was refused."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, WORK)
    timing = Timing(request=1.0, stall=2.0, backoff=0.1, longest_backoff=0.3)
    async with publishing(cluster.bootstrap, topic_prefix, None, deadline=0.5, timing=timing) as publisher:
        await publisher.publish([numbered("k0", 0)])
        cluster.brokers[0].kill()
        started = time.monotonic()
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", 1)])
        assert 0.4 < time.monotonic() - started < 2
        await asyncio.sleep(4)  # the producer is replaced: what was refused is not sent any more
        started = time.monotonic()
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", 2)])
        assert time.monotonic() - started < 0.3
        cluster.brokers[0].start()
        await cluster.ready()
        await drained(publisher)
        await publisher.publish([numbered("k0", 3)])
    records = await read_topic(cluster, topic_prefix, "work", partitions=3)
    assert first_occurrences(records) == {"k0": [0, 3]}


async def test_a_record_that_kafka_refuses_is_kept_and_holds_up_nothing(
    kafka: Cluster, topic_prefix: str, tmp_path: Path
) -> None:
    """Too large for its topic: it goes to the journal's stream ``refused``; what is behind it arrives."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    name = f"{topic_prefix}work"
    async with kafka_admin(kafka.connection) as admin:
        overrides = (await admin.describe([name]))[name].overrides
        await admin.configure(name, {**overrides, "max.message.bytes": "2000"})
    large = Message(topic="work", key="k0", value=b"7" * 5000, partition_by="k0")
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(kafka.bootstrap, topic_prefix, journal) as publisher,
    ):
        await asyncio.gather(publisher.publish([large]), *(publisher.publish([numbered("k0", n)]) for n in range(5)))
        await drained(publisher)
        (kept,) = await journal.read(REFUSED, 0, 10)
        assert kept.message == large
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k0": [0, 1, 2, 3, 4]}


class BrokenJournal:
    """A journal whose disk has failed after it was opened."""

    async def append(self, entries: Sequence[tuple[str, Message]]) -> list[int]:
        raise JournalError("the disk failed")

    async def read(self, stream: str, start: int, limit: int) -> list[object]:
        raise JournalError("the disk failed")

    async def trim(self, stream: str, before: int) -> int:
        raise JournalError("the disk failed")

    async def bounds(self, stream: str) -> tuple[int, int]:
        return 0, 0


async def test_with_neither_kafka_nor_journal_it_cannot_store(
    kafka_clusters: ClusterFactory, topic_prefix: str
) -> None:
    """A broken journal is no reason to refuse while Kafka answers; both together are."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, WORK)
    producer = KafkaProducer(connection=cluster.connection, topic_prefix=topic_prefix)
    publisher = KafkaFirstPublisher(producer, BrokenJournal(), deadline=0.5)  # type: ignore[arg-type]  # it reads nothing
    await publisher.start()
    await publisher.publish([numbered("k0", 0)])
    cluster.brokers[0].kill()
    for n in (1, 2):
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", n)])
    await publisher.stop()


async def test_a_record_that_no_batch_can_hold_is_refused_up_front(kafka: Cluster, topic_prefix: str) -> None:
    """The caller is at fault, and is told the sizes."""
    async with publishing(kafka.bootstrap, topic_prefix, None) as publisher:
        large = Message(topic="meetings", key="k", value=b"x" * MAX_RECORD_BYTES, partition_by="k")
        with pytest.raises(RecordRefused, match=f"{MAX_RECORD_BYTES + 1} bytes for meetings"):
            await publisher.publish([large])


async def test_a_caller_that_is_cancelled_loses_nothing_of_others(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path
) -> None:
    """Whoever writes for all into the spool may be cancelled in the middle: the others are stored, once."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, WORK)
    cluster.brokers[0].pause()
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(cluster.bootstrap, topic_prefix, journal, timing=Timing(connect=1, request=1)) as publisher,
    ):
        calls = [asyncio.create_task(publisher.publish([numbered("k0", n)])) for n in range(30)]
        await _steps(2)
        calls[0].cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        rows = [int(row.message.value or b"-1") for row in await journal.read(SPOOL, 0, 100)]
    assert [type(each) for each in done] == [asyncio.CancelledError, *[type(None)] * 29]
    assert [n for n in rows if n] == list(range(1, 30))


async def _steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
