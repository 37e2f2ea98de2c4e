"""Follows topics as they grow, without a group: nothing is committed, and nobody else reads less for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import aiokafka

from service.bus.kafka_connection import Connection
from service.bus.kafka_groupless import answer_within, groupless
from service.bus.kafka_plain import read_plainly
from service.bus.kafka_record import received
from service.core.message import Received

#: Seconds between two looks where the last one found nothing.
LOOK = 0.2

#: Records of one partition that one look takes at most, so that the others have their turn.
LOOK_RECORDS = 500

Answer = TypeVar("Answer")


class KafkaFollower:
    """An asynchronous context manager. ``patience``: seconds without an answer after which it gives up."""

    def __init__(self, *, connection: Connection, topic_prefix: str, patience: float = 20.0) -> None:
        self._prefix, self._patience = topic_prefix, patience
        self._positions: dict[Any, int] = {}
        self._open = groupless(connection, patience=patience)

    async def __aenter__(self) -> KafkaFollower:
        """Connect. Raises KafkaUnavailable."""
        self._consumer = await self._open.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._open.__aexit__(*raised)

    async def follow(self, partitions: Mapping[str, int], *, since: datetime | None) -> None:
        """Read so many partitions of these topics too: what was written at ``since`` or later; None: from now on. One that is
        followed already goes on. The topics must exist. Raises KafkaUnavailable.
        """
        wanted = [
            aiokafka.TopicPartition(self._prefix + topic, number)
            for topic, count in partitions.items()
            for number in range(count)
        ]
        new = [place for place in wanted if place not in self._positions]
        if not new:
            return
        self._positions |= await self._beginnings(new, since)
        self._consumer.assign(list(self._positions))  # forgets where it was
        for place, position in self._positions.items():
            self._consumer.seek(place, position)

    async def _beginnings(self, places: Sequence[Any], since: datetime | None) -> dict[Any, int]:
        ends = await self._answer(self._consumer.end_offsets(places))
        if since is None:
            return dict(ends)
        moment = max(0, int(since.timestamp() * 1000))
        found = await self._answer(self._consumer.offsets_for_times(dict.fromkeys(places, moment)))
        return {place: found[place].offset if found.get(place) else ends[place] for place in places}

    async def poll(self) -> Sequence[Received]:
        """What came since the last time, each partition in its order; nothing after a moment without any.

        While Kafka is away nothing comes, and it goes on by itself. Raises KafkaUnavailable where it refuses us.
        """
        found = [record for place in list(self._positions) for record in await self._answer(self._next(place))]
        if not found:
            await asyncio.sleep(LOOK)
        return found

    async def _next(self, place: Any) -> list[Received]:
        try:
            fetched = await self._consumer.getmany(place, timeout_ms=0, max_records=LOOK_RECORDS)
            records: Sequence[Any] = fetched.get(place, ())
            behind = records[-1].offset + 1 if records else self._positions[place]
        except UnicodeDecodeError:  # the name of a header
            records, behind = await read_plainly(self._consumer, place, self._positions[place])
            self._consumer.seek(place, behind)
        self._positions[place] = behind
        return [received(place.topic.removeprefix(self._prefix), record) for record in records]

    async def _answer(self, asked: Awaitable[Answer]) -> Answer:
        return await answer_within(self._patience, asked)
