"""The producer on a real broker: partitions, sizes, refusals, topics that come and grow.

What it does under faults: ``test_producer_faults``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.producer.message_accumulator import BatchBuilder
from structlog.testing import capture_logs

from service.bus.kafka_partitioner import partition_for
from service.bus.kafka_producer import Timing
from service.bus.kafka_record import headers
from service.bus.outgoing import stamped
from service.bus.record_size import BATCH_OVERHEAD, MAX_BATCH_BYTES, MAX_RECORD_BYTES, batched_size
from service.bus.topics import TopicPlan
from service.core.errors import RecordRefused
from service.core.message import Message
from tests.kafka.harness import Cluster
from tests.kafka.records import (
    create_topics,
    first_occurrences,
    limit_batches,
    numbered,
    outgoing,
    partitions,
    producing,
    read_topic,
    send_all,
)

WORK = TopicPlan(name="work", partitions=1)

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
        bootstrap_servers=kafka.bootstrap,
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


async def until(true: Callable[[], bool], *, within: float = 20) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - what is waited for is anything a test can see
            await asyncio.sleep(0.01)


async def test_one_batch_after_the_other_stays_in_order(kafka: Cluster, topic_prefix: str) -> None:
    """The next batch of a partition goes when the one before is acknowledged: the log has each record once, in order."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        for start in range(0, 300, 30):
            batch = [outgoing(numbered("k", n)) for n in range(start, start + 30)]
            await asyncio.gather(*(producer.send("work", partition, batch) for partition in (0, 1)))
    for records in [await read_topic(kafka, topic_prefix, "work", partitions=2)]:
        assert [int(record.value or b"-1") for record in records] == [*range(300), *range(300)]


async def test_a_batch_is_handed_over_without_a_task(kafka: Cluster, topic_prefix: str) -> None:
    """The longer way works as well, and nobody would notice: what the short one needs of aiokafka is private. While the
    broker has not answered it is busy.
    """
    await create_topics(kafka, topic_prefix, [WORK])
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 0)])
        before, busy = asyncio.all_tasks(), set[bool]()
        answer = producer.send("work", 0, [outgoing(numbered("k", n)) for n in (1, 2)])
        assert asyncio.all_tasks() == before
        while not answer.done():
            busy.add(producer.busy("work", 0))
            await asyncio.sleep(0)
        assert busy == {False, True}
        assert not producer.busy("work", 0)
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": [0, 1, 2]}


async def test_timestamps_are_those_of_the_records(kafka: Cluster, topic_prefix: str) -> None:
    """A record that waited in the journal still says when it came."""
    await create_topics(kafka, topic_prefix, [WORK])
    async with producing(kafka, topic_prefix) as producer:
        batch = [stamped(numbered("k", n), 1_700_000_000_000 + n) for n in (5, 3, 4)]
        await producer.send("work", 0, batch)
    records = await read_topic(kafka, topic_prefix, "work")
    assert [record.timestamp - 1_700_000_000_000 for record in records] == [5, 3, 4]


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["work", "meetings"])
@pytest.mark.parametrize("size", [0, 63, 64, 8191, 8192, MAX_RECORD_BYTES - 1])
def test_a_record_never_takes_more_than_it_is_counted_for(topic: str, size: int) -> None:
    """Whatever its place in the batch and its time since the first of it (30 years, either way), up to some 20 bytes."""
    message = Message(topic=topic, key="k", value=b"x" * size, partition_by="k")
    for first, then in ((0, 10**12), (10**12, 0)):
        builder = BatchBuilder(2**30, 0)
        for _ in range(8200):  # the numbers of places are varints too
            builder.append(timestamp=first, key=b"", value=None, headers=[])
        before = builder.size()
        builder.append(timestamp=then, key=b"k", value=message.value, headers=list(headers(topic)))
        assert batched_size(message) - 20 <= builder.size() - before <= batched_size(message)
    assert BatchBuilder(1, 0).size() == BATCH_OVERHEAD


@pytest.mark.parametrize("limit", [None, 2000])
async def test_the_largest_batch_is_taken(kafka: Cluster, topic_prefix: str, limit: int | None) -> None:
    """What passes our check passes aiokafka's and the broker's, with Kafka's default limit and with another one."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="meetings", partitions=1)])
    if limit is not None:
        await limit_batches(kafka, f"{topic_prefix}meetings", limit)
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "meetings")
        largest = (limit or MAX_BATCH_BYTES) - BATCH_OVERHEAD
        await until(lambda: producer.largest("meetings") == largest)
        small = [Message(topic="meetings", key="k", value=b"s", partition_by="k")] * 5
        left = largest - sum(map(batched_size, small))
        rest = left - batched_size(Message(topic="meetings", key="k", value=b"", partition_by="k"))
        batch = [*small, Message(topic="meetings", key="k", value=b"x" * rest, partition_by="k")]
        assert sum(map(batched_size, batch)) == largest
        await producer.send("meetings", 0, [outgoing(message) for message in batch])
    assert len(await read_topic(kafka, topic_prefix, "meetings")) == 6


async def test_the_largest_record_that_is_accepted_arrives(kafka: Cluster, topic_prefix: str) -> None:
    """What passes the publisher's check passes the broker's, with its default limits."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="meetings", partitions=1)])
    value = b"x" * (MAX_RECORD_BYTES - len("k"))
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [Message(topic="meetings", key="k", value=value, partition_by="k")])
    (record,) = await read_topic(kafka, topic_prefix, "meetings")
    assert record.value == value


async def test_what_is_too_large_for_its_topic_is_never_sent(kafka: Cluster, topic_prefix: str) -> None:
    """It is refused at once, by the topic's own limit; nothing else notices."""
    await create_topics(kafka, topic_prefix, [WORK])
    await limit_batches(kafka, f"{topic_prefix}work", 2000)
    large = outgoing(Message(topic="work", key="k", value=b"9" * 5000, partition_by="k"))
    async with producing(kafka, topic_prefix) as producer:
        await until(lambda: producer.partitions("work") == 1 and producer.largest("work") < 2000)
        refused = producer.send("work", 0, [outgoing(numbered("k", 1)), large])
        assert refused.done()
        assert producer.pending == 0
        with pytest.raises(RecordRefused, match=r"^\d+ bytes for work: Kafka takes 1939$"):
            await refused
        await producer.send("work", 0, [outgoing(numbered("k", 2))])
        assert producer.replacements.total() == 0
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": [2]}


async def test_a_refused_batch_takes_no_other_with_it(kafka: Cluster, topic_prefix: str) -> None:
    """Where a limit was lowered behind our back Kafka refuses the whole batch; batches before, after and beside it arrive,
    and the new limit is known soon.
    """
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    large = Message(topic="work", key="k", value=b"9" * 5000, partition_by="k")
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        await limit_batches(kafka, f"{topic_prefix}work", 2000)
        refused = producer.send("work", 0, [outgoing(numbered("k", 1)), outgoing(large)])
        beside = [producer.send("work", 1, [outgoing(numbered("beside", n))]) for n in range(3)]
        with pytest.raises(RecordRefused, match=r"^work: MessageSizeTooLargeError, 2 records, \d+ bytes$"):
            await refused
        await until(lambda: producer.largest("work") == 2000 - BATCH_OVERHEAD)
        await producer.send("work", 0, [outgoing(numbered("k", 2))])
        await asyncio.gather(*beside)
        assert producer.healthy
    records = await read_topic(kafka, topic_prefix, "work", partitions=2)
    assert first_occurrences(records) == {"k": [0, 2], "beside": [0, 1, 2]}


# --- topics -----------------------------------------------------------------------------------------------------------


async def test_a_topic_that_is_made_later(kafka: Cluster, topic_prefix: str) -> None:
    """It is missed once, by its name, holds up nothing but itself, and is found soon after ``topics apply`` made it."""
    await create_topics(kafka, topic_prefix, [WORK])
    with capture_logs() as logs:
        async with producing(
            kafka, topic_prefix, timing=Timing(slow=0.5, backoff=0.2, longest_backoff=0.5)
        ) as producer:
            assert producer.partitions("meetings") is None
            early = producer.send("meetings", 0, [outgoing(numbered("k", 0, topic="meetings"))])
            await send_all(producer, [numbered("k", 0)])
            await asyncio.sleep(1.5)  # looked for more than once
            assert producer.partitions("meetings") is None
            assert not early.done()
            assert producer.healthy
            await create_topics(kafka, topic_prefix, [TopicPlan(name="meetings", partitions=3)])
            await until(lambda: producer.partitions("meetings") == 3, within=8)
            await asyncio.wait_for(early, 8)
    said = [(line["event"], line["topic"]) for line in logs if line["event"] != "producer.held_up"]
    assert said == [
        ("producer.topic_unknown", f"{topic_prefix}meetings"),
        ("producer.topic_found", f"{topic_prefix}meetings"),
    ]
    assert [line["reason"] for line in logs if line["event"] == "producer.held_up"] == ["UnknownTopicOrPartitionError"]


async def test_a_topic_that_grows(kafka: Cluster, topic_prefix: str) -> None:
    """New partitions are noticed, and can be written to; how many there were is never fewer again."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix, timing=Timing(look=0.2)) as producer:
        assert await partitions(producer, "work") == 2
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.create_partitions({f"{topic_prefix}work": NewPartitions(total_count=5)})
        await until(lambda: producer.partitions("work") == 5)
        await asyncio.wait_for(producer.send("work", 4, [outgoing(numbered("k", 0))]), 10)
        await admin.delete_topics([f"{topic_prefix}work"])
        await admin.close()
        await asyncio.sleep(0.3)
        assert producer.partitions("work") == 5
        await create_topics(kafka, topic_prefix, [WORK])
        await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", 0))]), 10)
        await asyncio.sleep(0.6)
        assert producer.partitions("work") == 5


async def test_a_new_limit_is_noticed(kafka: Cluster, topic_prefix: str) -> None:
    """The operator changes it while we run: by the next look it is ours; above 1 MiB we do not go."""
    await create_topics(kafka, topic_prefix, [WORK])
    async with producing(kafka, topic_prefix, timing=Timing(look=0.2)) as producer:
        assert producer.largest("work") == MAX_BATCH_BYTES - BATCH_OVERHEAD
        await partitions(producer, "work")
        for limit, largest in ((3000, 3000), (8_000_000, MAX_BATCH_BYTES)):
            await limit_batches(kafka, f"{topic_prefix}work", limit)
            await until(lambda: producer.largest("work") == largest - BATCH_OVERHEAD)  # noqa: B023 - used at once
