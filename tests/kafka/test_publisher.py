"""Kafka first, journal second: the publisher with real brokers, a real journal, and faults in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.journal_file import Extent, Stored
from service.bus.kafka import KafkaProducer
from service.bus.kafka_connection import Connection
from service.bus.kafka_producer import Timing
from service.bus.publisher import SPOOL, KafkaFirstPublisher
from service.bus.topics import TopicPlan
from service.core import dead_letters, event
from service.core.errors import CannotStore, JournalError
from service.core.message import Message
from tests.facts import NOW
from tests.fakes import FakeSender
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, first_occurrences, limit_batches, numbered, read_topic

WORK = (TopicPlan(name="work", partitions=3), TopicPlan(name="dead-letters", partitions=1))
KEYS = [f"k{n}" for n in range(12)]


@asynccontextmanager
async def publishing(
    bootstrap: str, prefix: str, journal: Journal | None, *, deadline: float = 2.0, timing: Timing | None = None
) -> AsyncIterator[KafkaFirstPublisher]:
    """A publisher while the block runs."""
    producer = KafkaProducer(connection=Connection(bootstrap_servers=bootstrap), topic_prefix=prefix, timing=timing)
    publisher = KafkaFirstPublisher(producer, journal, deadline=deadline, letter=letter)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


def letter(message: Message, why: str) -> Message:
    """As the receiver makes them."""
    return event.to_message(dead_letters.refused(message, detail=why, now=NOW, receiver="receiver-1"))


async def rows(journal: Journal) -> list[int]:
    """The numbers of everything that waits in the journal, lane after lane."""
    streams = sorted(
        name for name, extent in (await journal.streams()).items() if extent.rows and name.startswith(SPOOL)
    )
    return [int(row.message.value or b"-1") for name in streams for row in await journal.read(name, 0, 100_000)]


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
        assert await rows(journal) == []
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
        assert await rows(journal) == []
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
    async with await Journal.open(tmp_path) as journal:
        assert await rows(journal) == []
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
        assert await rows(journal) == list(range(1, 20))
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", 20)])


async def test_without_a_journal_the_sender_is_told(kafka_clusters: ClusterFactory, topic_prefix: str) -> None:
    """After the deadline, and then at once; it works again when Kafka does. What was given to the client before it was refused
    may arrive late; what was refused at once does not.
    """
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
        await asyncio.sleep(4)
        started = time.monotonic()
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", 2)])
        assert time.monotonic() - started < 2
        cluster.brokers[0].start()
        await cluster.ready()
        await drained(publisher)
        await publisher.publish([numbered("k0", 3)])
    records = await read_topic(cluster, topic_prefix, "work", partitions=3)
    assert first_occurrences(records) in ({"k0": [0, 3]}, {"k0": [0, 1, 3]})


async def test_a_record_that_kafka_refuses_becomes_a_letter(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """Too large for its topic, whether that is known or not: it is buried whole; what is behind it arrives."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name=name, partitions=1) for name in ("work", "dead-letters")])
    large = [Message(topic="work", key="k0", value=b"7" * size, partition_by="k0") for size in (5000, 6000)]
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(kafka.bootstrap, topic_prefix, journal) as publisher,
    ):
        await publisher.publish([numbered("k0", 0)])
        await limit_batches(kafka, f"{topic_prefix}work", 2000)
        await asyncio.gather(
            publisher.publish([numbered("k0", 1), large[0], numbered("k0", 2)]),
            *(publisher.publish([numbered("k0", n)]) for n in range(3, 9)),
        )
        await publisher.publish([large[1]])
        assert await rows(journal) == []
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k0": list(range(9))}
    letters = [event.decode(each.value or b"") for each in await read_topic(kafka, topic_prefix, "dead-letters")]
    assert [dead_letters.content_of(event.encode(each), each.partitionkey) for each in letters] == [
        b"7" * 5000,
        b"7" * 6000,
    ]


async def test_a_topic_that_is_missing_holds_up_itself_only(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """Its events wait in the journal while others go to Kafka; once it is made they arrive, in order."""
    await create_topics(kafka, topic_prefix, WORK)
    async with (
        await Journal.open(tmp_path) as journal,
        publishing(kafka.bootstrap, topic_prefix, journal, deadline=1.0) as publisher,
    ):
        for n in range(20):
            await asyncio.gather(
                publisher.publish([numbered("k0", n, topic="meetings"), numbered("k0", n)]),
                publisher.publish([numbered("k1", n)]),
            )
        assert await rows(journal) == list(range(20))
        assert publisher.healthy
        await create_topics(kafka, topic_prefix, [TopicPlan(name="meetings", partitions=2)])
        await publisher.publish([numbered("k0", 20, topic="meetings")])
        await drained(publisher)
    assert first_occurrences(await read_topic(kafka, topic_prefix, "meetings", partitions=2)) == {"k0": list(range(21))}
    work = await read_topic(kafka, topic_prefix, "work", partitions=3)
    assert first_occurrences(work) == {"k0": list(range(20)), "k1": list(range(20))}


async def test_many_rows_are_drained_while_traffic_goes_on(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """20 000 rows of an outage: every call succeeds meanwhile, old rows go first, and of each key the order holds."""
    count = 20_000
    await create_topics(kafka, topic_prefix, WORK)
    async with await Journal.open(tmp_path) as journal:
        outage = KafkaFirstPublisher(FakeSender(healthy=False, counts={"work": 3}), journal)
        await outage.start()
        for start in range(0, count, 500):
            await outage.publish([numbered(KEYS[n % 12], n // 12) for n in range(start, start + 500)])
        await outage.stop()
        async with publishing(kafka.bootstrap, topic_prefix, journal) as publisher:
            began, live = time.monotonic(), list[float]()
            while publisher.spooled:
                number, key = divmod(count + len(live), 12)
                started = time.monotonic()
                await publisher.publish([numbered(KEYS[key], number)])
                live.append(time.monotonic() - started)
                await asyncio.sleep(0.005)
            seconds = time.monotonic() - began
    print(f"{count / seconds:.0f} rows/s, {len(live)} live calls, longest {max(live) * 1000:.0f} ms")  # noqa: T201
    assert max(live) < 2.5
    records = await read_topic(kafka, topic_prefix, "work", partitions=3)
    assert first_occurrences(records) == expected(count + len(live))


class BrokenJournal:
    """A journal whose disk has failed after it was opened."""

    accepting = False
    failure = "the disk failed"

    @property
    def state(self) -> BrokenJournal:
        """It has a ``failure`` itself."""
        return self

    async def append(self, entries: Sequence[tuple[str, Message]], *, essential: bool = False) -> list[int]:
        raise JournalError("the disk failed")

    async def read(self, stream: str, start: int, limit: int) -> list[Stored]:
        raise JournalError("the disk failed")

    async def trim(self, stream: str, before: int) -> int:
        raise JournalError("the disk failed")

    async def compact(self, stream: str) -> int:
        raise JournalError("the disk failed")

    async def streams(self) -> Mapping[str, Extent]:
        return {}


async def test_with_neither_kafka_nor_journal_it_cannot_store(
    kafka_clusters: ClusterFactory, topic_prefix: str
) -> None:
    """A broken journal is no reason to refuse while Kafka answers; both together are."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, WORK)
    producer = KafkaProducer(connection=cluster.connection, topic_prefix=topic_prefix)
    publisher = KafkaFirstPublisher(producer, BrokenJournal(), deadline=0.5)
    await publisher.start()
    await publisher.publish([numbered("k0", 0)])
    cluster.brokers[0].kill()
    for n in (1, 2):
        with pytest.raises(CannotStore):
            await publisher.publish([numbered("k0", n)])
    await publisher.stop()


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
        left = await rows(journal)
    assert [type(each) for each in done] == [asyncio.CancelledError, *[type(None)] * 29]
    assert [n for n in left if n] == list(range(1, 30))


async def _steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
