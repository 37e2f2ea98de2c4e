"""Reads a partition of a topic from its start to its end, without a group: this is how the ledger is restored."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

import aiokafka
from aiokafka.errors import TopicAuthorizationFailedError

from service.bus.kafka_connection import Connection
from service.bus.kafka_groupless import answer_within, groupless
from service.bus.kafka_plain import read_plainly
from service.bus.kafka_record import received
from service.core.errors import KafkaUnavailable
from service.core.message import Received

POLL_MS = 500

Answer = TypeVar("Answer")


class KafkaReader:
    """PartitionReader on Kafka. ``patience``: seconds without an answer, or without progress, after which it gives up."""

    def __init__(self, *, connection: Connection, topic_prefix: str, patience: float = 20.0) -> None:
        self._connection = connection
        self._prefix = topic_prefix
        self._patience = patience

    async def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        """Every record up to the end offset seen at the first step, oldest first; from the first one on that was written at
        ``since`` or later, where that is said. Raises KafkaUnavailable.
        """
        place = aiokafka.TopicPartition(self._prefix + topic, partition)
        async with self._consumer(place) as consumer:
            end = (await self._answer(consumer.end_offsets([place])))[place]
            if since is not None:
                consumer.seek(place, await self._first(consumer, place, since, end))
            async for record in self._records(consumer, place, end):
                yield received(topic, record)

    async def _first(self, consumer: Any, place: Any, since: datetime, end: int) -> int:
        """The offset of the first record of that time; the end where there is none."""
        found = await self._answer(consumer.offsets_for_times({place: int(since.timestamp() * 1000)}))
        return int(found[place].offset) if found.get(place) else end

    async def _records(self, consumer: Any, place: Any, end: int) -> AsyncIterator[Any]:
        position = await self._answer(consumer.position(place))
        progress = time.monotonic()
        while position < end:
            for record in await self._answer(_batch(consumer, place, position)):
                if record.offset < end:
                    yield record
            before, position = position, await self._answer(consumer.position(place))
            if position > before:  # also past records that compaction took away
                progress = time.monotonic()
            elif time.monotonic() - progress > self._patience:
                raise KafkaUnavailable(f"{place.topic}/{place.partition} stands still at {position} of {end}")

    @asynccontextmanager
    async def _consumer(self, place: Any) -> AsyncIterator[Any]:
        async with groupless(self._connection, patience=self._patience) as consumer:
            consumer.assign([place])
            await self._answer(_see(consumer, place.topic))
            if not await self._answer(consumer.seek_to_beginning(place)):
                raise KafkaUnavailable(f"{place.topic}/{place.partition} has no leader that answers")
            yield consumer

    async def _answer(self, asked: Awaitable[Answer]) -> Answer:
        return await answer_within(self._patience, asked)


async def _see(consumer: Any, topic: str) -> None:
    """Raises TopicAuthorizationFailedError where we may not even know of the topic: one would wait for it in vain."""
    await consumer._client.force_metadata_update()
    if topic in consumer._client.cluster.unauthorized_topics:
        raise TopicAuthorizationFailedError(topic)


async def _batch(consumer: Any, place: Any, position: int) -> Sequence[Any]:
    try:
        fetched: Mapping[Any, Sequence[Any]] = await consumer.getmany(place, timeout_ms=POLL_MS)
    except UnicodeDecodeError:  # the name of a header
        records, behind = await read_plainly(consumer, place, position)
        consumer.seek(place, behind)
        return records
    return fetched.get(place, ())
