"""Topics and records of a test on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from service.bus.kafka import KafkaProducer, KafkaReader
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_producer import Timing
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
    """Send, and wait until all are acknowledged."""
    async with asyncio.timeout(30):
        await asyncio.gather(*(producer.send(message) for message in messages))


def numbered(key: str, number: int, *, topic: str = "work", by: str | None = None) -> Message:
    """A record whose value says its number among those of its key."""
    return Message(topic=topic, key=key, value=b"%d" % number, partition_by=key if by is None else by)


def first_occurrences(records: Iterable[Received]) -> dict[str, list[int]]:
    """Key → the numbers in the order in which each came first."""
    seen: dict[str, dict[int, None]] = {}
    for record in records:
        seen.setdefault(record.key, {}).setdefault(int(record.value or b"-1"))
    return {key: list(numbers) for key, numbers in seen.items()}
