"""Topics and records of a test on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from service.bus.kafka import KafkaProducer, KafkaReader
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_partitioner import partition_for
from service.bus.kafka_producer import Timing
from service.bus.outgoing import Outgoing, stamped
from service.bus.topics import TopicPlan, apply
from service.core.message import Message, Received
from tests.kafka.harness import Cluster


async def create_topics(cluster: Cluster, prefix: str, topics: Iterable[TopicPlan]) -> None:
    """Make them, with leaders."""
    async with kafka_admin(cluster.connection) as admin:
        report = await apply(admin, prefix, tuple(topics))
    assert {each.state for each in report.results} == {"created"}, report


async def read_topic(cluster: Cluster, prefix: str, topic: str, *, partitions: int = 1) -> list[Received]:
    """Everything on the topic, partition after partition."""
    reader = KafkaReader(connection=cluster.connection, topic_prefix=prefix)
    return [record for partition in range(partitions) async for record in reader.read(topic, partition)]


@asynccontextmanager
async def producing(cluster: Cluster, prefix: str, *, timing: Timing | None = None) -> AsyncIterator[KafkaProducer]:
    """A producer while the block runs."""
    producer = KafkaProducer(connection=cluster.connection, topic_prefix=prefix, timing=timing)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def send_all(producer: KafkaProducer, messages: Sequence[Message]) -> None:
    """Send them, as one batch for each partition, and wait until all are acknowledged."""
    async with asyncio.timeout(30):
        for message in messages:
            await partitions(producer, message.topic)
        batches: dict[tuple[str, int], list[Outgoing]] = {}
        for message in messages:
            batches.setdefault(place(producer, message), []).append(outgoing(message))
        await asyncio.gather(*(producer.send(*lane, batch) for lane, batch in batches.items()))


async def partitions(producer: KafkaProducer, topic: str) -> int:
    """How many there are, once that is known."""
    while (count := producer.partitions(topic)) is None:  # noqa: ASYNC110 - the port has nothing to wait for
        await asyncio.sleep(0.01)
    return count


def place(producer: KafkaProducer, message: Message) -> tuple[str, int]:
    """Its topic and partition; the number of partitions must be known."""
    count = producer.partitions(message.topic)
    assert count is not None
    given = message.partition
    return message.topic, partition_for(message.partition_by, count) if given is None else given


def outgoing(message: Message) -> Outgoing:
    """As sent now."""
    return stamped(message, int(time.time() * 1000))


async def limit_batches(cluster: Cluster, topic: str, limit: int) -> None:
    """Set ``max.message.bytes`` of a topic, named with its prefix; the brokers have heard of it then."""
    async with kafka_admin(cluster.connection) as admin:
        overrides = (await admin.describe([topic]))[topic].overrides
        assert await admin.configure(topic, {**overrides, "max.message.bytes": str(limit)}) == ""
    await asyncio.sleep(0.5)


def numbered(key: str, number: int, *, topic: str = "work", by: str | None = None) -> Message:
    """A record whose value says its number among those of its key."""
    return Message(topic=topic, key=key, value=b"%d" % number, partition_by=key if by is None else by)


def first_occurrences(records: Iterable[Received]) -> dict[str, list[int]]:
    """Key → the numbers in the order in which each came first."""
    seen: dict[str, dict[int, None]] = {}
    for record in records:
        seen.setdefault(record.key, {}).setdefault(int(record.value or b"-1"))
    return {key: list(numbers) for key, numbers in seen.items()}
