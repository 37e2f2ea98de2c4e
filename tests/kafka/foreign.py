"""What other producers may write, and what operators may do to a topic and a group: by aiokafka's own clients."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.kafka.harness import Cluster

#: ``(key, value, headers)``.
Foreign = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]

#: A header of this name gets one that is not UTF-8.
ODD = "odd!"
_NOT_UTF8 = b"\xff\xfe\xfd\xfc"
_CRC, _CHECKED_FROM = 17, 21


@asynccontextmanager
async def foreign(cluster: Cluster) -> AsyncIterator[Any]:
    """A bare client: it sends whatever bytes it is given."""
    client = AIOKafkaClient(**cluster.connection.options())
    await client.bootstrap()
    try:
        yield client
    finally:
        await client.close()


async def write_batch(client: Any, topic: str, records: Sequence[Foreign], *, partition: int = 0) -> int:
    """One batch (``topic`` with its prefix); the offset of its first record."""
    await client.add_topic(topic)
    data, place = _batch(records), aiokafka.TopicPartition(topic, partition)
    async with asyncio.timeout(20):
        while True:
            node = client.cluster.leader_for_partition(place)
            if node is None or node == -1:
                await client.force_metadata_update()
                continue
            answer = await client.send(node, ProduceRequest(None, -1, 10_000, [(topic, [(partition, data)])]))
            ((_, ((_, code, offset, *_),)),) = answer.topics
            if code == 0:
                return int(offset)
            assert for_code(code).retriable, code  # a topic that is new has no leader yet
            await client.force_metadata_update()


def _batch(records: Sequence[Foreign]) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1024 * 1024,
    )
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, timestamp=1_700_000_000_000, key=key, value=value, headers=list(headers))
    data = bytearray(builder.build().replace(ODD.encode(), _NOT_UTF8))
    struct.pack_into(">I", data, _CRC, calc_crc32c(bytes(data[_CHECKED_FROM:])))
    return bytes(data)


@asynccontextmanager
async def _admin(cluster: Cluster) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**cluster.connection.options())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete_before(cluster: Cluster, topic: str, offset: int, *, partition: int = 0) -> None:
    """What retention does."""
    async with _admin(cluster) as admin:
        await admin.delete_records({aiokafka.TopicPartition(topic, partition): RecordsToDelete(before_offset=offset)})


async def delete_topic(cluster: Cluster, topic: str) -> None:
    """It is gone."""
    async with _admin(cluster) as admin:
        await admin.delete_topics([topic])


async def committed(cluster: Cluster, group: str) -> dict[int, int]:
    """Partition → the group's committed offset, whatever the topic."""
    async with _admin(cluster) as admin:
        found = await admin.list_consumer_group_offsets(group)
    return {place.partition: meta.offset for place, meta in found.items() if meta.offset >= 0}


async def members(cluster: Cluster, group: str) -> list[str]:
    """The ids of the group's members."""
    async with _admin(cluster) as admin:
        (answer,) = await admin.describe_consumer_groups([group])
    return [member[0] for each in answer.groups for member in each[5]]


async def set_position(cluster: Cluster, group: str, topic: str, offset: int, *, partition: int = 0) -> None:
    """Commit for a group that has no member."""
    place = aiokafka.TopicPartition(topic, partition)
    consumer = aiokafka.AIOKafkaConsumer(
        **cluster.connection.options(), group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([place])
        await consumer.commit({place: offset})
    finally:
        await consumer.stop()
