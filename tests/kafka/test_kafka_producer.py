"""The producer on a real broker: partitions, order, refusals, and what it does while Kafka is away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiokafka
import pytest
from structlog.testing import capture_logs

from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_partitioner import partition_for
from service.bus.kafka_producer import Timing
from service.bus.record_size import MAX_RECORD_BYTES
from service.bus.topics import TopicPlan
from service.core.errors import RecordRefused
from service.core.message import Message
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, first_occurrences, numbered, producing, read_topic, send_all

# Literals of Apache Kafka's own test: clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2
JAVA_MURMUR2 = [
    ("21", -973932308),
    ("foobar", -790332482),
    ("a-little-bit-long-string", -985981536),
    ("a-little-bit-longer-string", -1486304829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ("abc", 479470107),
]


@pytest.mark.parametrize(("key", "java"), JAVA_MURMUR2, ids=[key for key, _ in JAVA_MURMUR2])
def test_the_hash_is_that_of_the_java_client(key: str, java: int) -> None:
    """The same key goes to the same partition whoever writes it: ``toPositive`` clears the sign bit."""
    assert partition_for(key, 2**31) == java & 0x7FFFFFFF
    assert partition_for(key, 6) == (java & 0x7FFFFFFF) % 6


async def test_records_stand_on_the_partition_of_partition_by_in_order(kafka: Cluster, topic_prefix: str) -> None:
    """Whatever the key: records of one ``partition_by`` share the partition that the hash says, in order of sending."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=6)])
    organisations = ["21", "foobar", "abc"]
    async with producing(kafka, topic_prefix) as producer:
        messages = [numbered(f"{by}/{n % 7}", n, by=by) for n in range(200) for by in organisations]
        await send_all(producer, messages)
    for record in (records := await read_topic(kafka, topic_prefix, "work", partitions=6)):
        assert record.partition == partition_for(record.key.split("/")[0], 6)
    assert len(records) == 600
    assert all(numbers == sorted(numbers) for numbers in first_occurrences(records).values())


async def test_events_say_their_content_type(kafka: Cluster, topic_prefix: str) -> None:
    """Event topics carry the header that CloudEvents asks for (Kafka protocol binding, structured mode); others none."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name=name, partitions=1) for name in ("work", "meetings")])
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 1), numbered("k", 1, topic="meetings")])
    consumer: Any = aiokafka.AIOKafkaConsumer(
        *(topic_prefix + name for name in ("work", "meetings")),
        connection=kafka.connection,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    headers: dict[str, object] = {}
    async with asyncio.timeout(20):
        while len(headers) < 2:
            record = await consumer.getone()
            headers[record.topic.removeprefix(topic_prefix)] = record.headers
    await consumer.stop()
    assert headers == {"work": (), "meetings": (("content-type", b"application/cloudevents+json"),)}


async def test_a_refused_record_is_found_and_takes_no_other_with_it(kafka: Cluster, topic_prefix: str) -> None:
    """A batch fails whole; the one that is too large for its topic fails in the end, all others arrive in order."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    await _limit_records(kafka, f"{topic_prefix}work", 2000)
    large = Message(topic="work", key="k", value=b"9" * 5000, partition_by="k")
    async with producing(kafka, topic_prefix) as producer:
        sent = [producer.send(large if n == 20 else numbered("k", n)) for n in range(40)]
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
        await send_all(producer, [numbered("k", 40)])
        assert producer.healthy
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [RecordRefused]
    assert isinstance(outcomes[20], RecordRefused)
    numbers = first_occurrences(await read_topic(kafka, topic_prefix, "work"))["k"]
    assert numbers == [n for n in range(41) if n != 20]


async def test_the_largest_record_that_is_accepted_arrives(kafka: Cluster, topic_prefix: str) -> None:
    """What passes our check passes the broker's, with its default limits."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="meetings", partitions=1)])
    value = b"x" * (MAX_RECORD_BYTES - len("k"))
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [Message(topic="meetings", key="k", value=value, partition_by="k")])
    (record,) = await read_topic(kafka, topic_prefix, "meetings")
    assert record.value == value


async def test_an_outage_longer_than_every_timeout_costs_nothing_but_time(
    kafka_clusters: ClusterFactory, topic_prefix: str
) -> None:
    """Records sent before and during the outage arrive once it is over, in order; the producer is replaced meanwhile."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=1)])
    timing = Timing(request=1.0, connect=2.0, stall=2.0, backoff=0.1, longest_backoff=0.3)
    async with producing(cluster, topic_prefix, timing=timing) as producer:
        await send_all(producer, [numbered("k", 0)])
        cluster.brokers[0].kill()
        sent = []
        for n in range(1, 60):
            sent.append(producer.send(numbered("k", n)))
            await asyncio.sleep(0.1)  # six seconds: expired thrice, stalled twice
        assert not producer.healthy
        cluster.brokers[0].start()
        async with asyncio.timeout(30):
            await asyncio.gather(*sent)
        assert producer.healthy
    assert first_occurrences(await read_topic(cluster, topic_prefix, "work")) == {"k": list(range(60))}


async def test_a_short_outage_is_ridden_out_by_the_same_producer(
    kafka_clusters: ClusterFactory, topic_prefix: str
) -> None:
    """Batches do not expire, so that none is overtaken by the one behind it; nothing is replaced and nothing sent twice."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=1)])
    with capture_logs() as logs:
        async with producing(cluster, topic_prefix, timing=Timing(request=1.0, stall=30.0)) as producer:
            await send_all(producer, [numbered("k", 0)])
            cluster.brokers[0].kill()
            sent = []
            for n in range(1, 30):
                sent.append(producer.send(numbered("k", n)))
                await asyncio.sleep(0.1)
            cluster.brokers[0].start()
            async with asyncio.timeout(30):
                await asyncio.gather(*sent)
    assert logs == []
    records = await read_topic(cluster, topic_prefix, "work")
    assert [int(record.value or b"-1") for record in records] == list(range(30))


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_stop_is_bounded_with_kafka_dead(kafka_clusters: ClusterFactory, topic_prefix: str, fault: str) -> None:
    """With a record pending and nobody to take it, ``stop`` gives it up and returns; so does ``start``."""
    cluster = kafka_clusters(1)
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=1)])
    timing = Timing(request=1.0, connect=2.0)
    async with producing(cluster, topic_prefix, timing=timing) as producer:
        await send_all(producer, [numbered("k", 0)])
        getattr(cluster.brokers[0], fault)()
        await asyncio.sleep(0.5)  # a signal takes a moment, in which the broker may still answer
        pending = producer.send(numbered("k", 1))
        started = time.monotonic()
        await producer.stop(timeout=1)
        assert time.monotonic() - started < 6
        assert pending.cancelled()
    started = time.monotonic()
    async with producing(cluster, topic_prefix, timing=timing) as second:
        assert not second.healthy
    assert time.monotonic() - started < 8


async def _limit_records(cluster: Cluster, topic: str, limit: int) -> None:
    async with kafka_admin(cluster.connection) as admin:
        overrides = (await admin.describe([topic]))[topic].overrides
        assert await admin.configure(topic, {**overrides, "max.message.bytes": str(limit)}) == ""
