"""What only an administrator of the cluster does: topics deleted, and how far a group is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def delete_topic(bootstrap: str, topic: str, *, again: int) -> None:
    """Delete it with all its records, and create it ``again`` with so many partitions, compacted and empty."""
    new = NewTopic(topic, again, 1, topic_configs={"cleanup.policy": "compact"})
    async with _admin(bootstrap) as admin:
        await admin.delete_topics([topic])
        for _ in range(50):
            await asyncio.sleep(0.2)
            answer = await admin.create_topics([new])
            if answer.topic_errors[0][1] == 0:
                return
    raise AssertionError(f"{topic} could not be created again")


async def lag(bootstrap: str, group: str, topic: str) -> int | None:
    """Records of ``topic`` that the group has not committed yet; None while the coordinator does not answer."""
    async with _admin(bootstrap) as admin:
        try:
            committed = await admin.list_consumer_group_offsets(group)
        except KafkaError:
            return None
    found = {place.partition: kept.offset for place, kept in committed.items() if place.topic == topic}
    async with _reading(bootstrap, topic) as consumer:
        partitions = [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic))]
        ends = await consumer.end_offsets(partitions)
    behind: int = sum(end - max(found.get(place.partition, 0), 0) for place, end in ends.items())
    return behind


@asynccontextmanager
async def _reading(bootstrap: str, topic: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()
