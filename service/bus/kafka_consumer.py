"""A member of a consumer group, as aiokafka 0.14 lets one be.

* Every rebalance takes every partition away (there is no cooperative assignor): drain, commit, fence, and begin anew. What
  belongs to an assignment is in one ``_Assignment``; a record of an earlier one finds nothing there and is ignored.
* aiokafka rebalances in the background, so fetched records may be of an assignment that is over: a fetch remembers the
  assignment during which it ended, and is dropped where that is not the present one. Its records come again.
* ``getmany`` waits without a limit while the group rebalances: it runs in a task of its own, and ``poll`` looks at it.
  That also keeps the membership alive (max.poll.interval) while nobody polls.
* ``commit`` is tried again without a limit by aiokafka: it is bounded here. A commit that fails is an event, not an error:
  the records come again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiokafka
import structlog
from aiokafka.errors import KafkaError

from service.bus.kafka_connection import Connection
from service.bus.kafka_partitioner import partition_for
from service.bus.kafka_record import received
from service.bus.offsets import OffsetTracker
from service.bus.protocols import RebalanceListener
from service.core.errors import CannotStore, KafkaUnavailable
from service.core.message import Received

#: Records delivered and not finished, at most, for one partition: then it is paused until there is room for a poll again.
MAX_UNFINISHED = 10_000

POLL_RECORDS = 500
POLL_SECONDS = 1.0

#: Times in seconds. The group waits ``REBALANCE`` for a member that drains and commits; a request may take longer than
#: that, because joining is one. A new topic is seen within ``METADATA``.
SESSION = 18
HEARTBEAT = 3
DRAIN = 5.0
COMMIT = 5.0
REBALANCE = 30
REQUEST = 40
MAX_POLL_INTERVAL = 600
METADATA = 30
CONNECT = 10.0
CLOSE = 5.0

#: Between two attempts to connect, or to tell the listener, in seconds; doubled each time.
BACKOFF = 0.5
LONGEST_BACKOFF = 5.0


class _Assignment:
    """The partitions that are ours until the next rebalance, and what was delivered of them."""

    def __init__(self, partitions: frozenset[int], listener: RebalanceListener) -> None:
        self.partitions = partitions
        self.listener = listener
        self.trackers = {partition: OffsetTracker() for partition in partitions}
        self.delivered: dict[tuple[int, int], Received] = {}  # (partition, offset) → not finished
        self.paused: set[int] = set()
        self.delivering = False
        self.telling: asyncio.Task[None] | None = None

    def deliver(self, record: Received) -> Received:
        self.delivered[record.partition, record.offset] = record
        self.trackers[record.partition].delivered(record.offset)
        return record

    def finish(self, record: Received) -> None:
        place = record.partition, record.offset
        if self.delivered.get(place) is record:
            del self.delivered[place]
            self.trackers[record.partition].finished(record.offset)

    def raise_what_the_listener_raised(self) -> None:
        if self.telling is not None and self.telling.done() and not self.telling.cancelled():
            self.telling.result()

    def room(self, limit: int) -> int:
        """Records that may be fetched before some partition has ``limit`` unfinished ones."""
        unfinished = [
            limit // 2 if partition in self.paused else tracker.unfinished
            for partition, tracker in self.trackers.items()
        ]  # a paused one may be resumed meanwhile, at half of the limit
        return limit - max(unfinished, default=0)


def _enough_room(limit: int) -> int:
    """Room for so many records is worth a resume: what was fetched ahead is thrown away at a pause."""
    return min(POLL_RECORDS, limit // 2)


_Fetched = tuple[_Assignment | None, Mapping[Any, Sequence[Any]]]


class KafkaConsumer:
    """Consumer on Kafka. ``instance_id`` makes the membership static: restarted within the session, it has its partitions back.

    For one event loop; ``start`` once, ``stop`` once. Where Kafka cannot be reached, ``poll`` goes on trying.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        topic_prefix: str,
        topic: str,
        group: str,
        instance_id: str | None = None,
        max_unfinished: int = MAX_UNFINISHED,
    ) -> None:
        self._options = _options(connection, group, instance_id)
        self._topic = topic
        self._full_topic = topic_prefix + topic
        self._max_unfinished = max_unfinished
        self._log = structlog.get_logger().bind(topic=topic, group=group)
        self._listener: RebalanceListener | None = None
        self._client: Any = None
        self._partitions = 0  # of the topic; 0 while nobody knows
        self._assignment: _Assignment | None = None
        self._fetching: asyncio.Task[_Fetched] | None = None
        self._revoking = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._attempts = 0
        self._retry_at = 0.0

    async def start(self, listener: RebalanceListener) -> None:
        """Join the group; returns after the first attempt to connect, well or not."""
        self._listener = listener
        await self._connect()

    async def poll(self) -> Sequence[Received]:
        """The next records, in order for each partition; empty after about a second without any.

        Raises what the listener's ``assigned`` raised: no record of those partitions would ever come.
        """
        if self._assignment is not None:
            self._assignment.raise_what_the_listener_raised()
        if self._client is None:
            await self._connect_when_due()
            return ()
        fetching = self._fetching = self._fetching or asyncio.create_task(self._fetch(self._client))
        await asyncio.wait({fetching}, timeout=POLL_SECONDS + 0.2)
        if not fetching.done() or fetching.cancelled():
            return ()
        self._fetching = None
        try:
            assignment, records = fetching.result()
        except KafkaError as error:
            await self._lose(error)
            return ()
        return self._deliver(assignment, records)

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``. Ignored when its partition was revoked since, even if it is ours again."""
        assignment = self._assignment
        if assignment is None or record.partition not in assignment.partitions:
            return
        assignment.finish(record)
        room = self._max_unfinished - assignment.trackers[record.partition].unfinished
        if record.partition in assignment.paused and room >= _enough_room(self._max_unfinished):
            assignment.paused.discard(record.partition)
            if assignment.delivering:
                self._client.resume(self._place(record.partition))

    async def commit(self) -> None:
        """Commit what is contiguously finished. A failure is logged: what was not committed comes again."""
        assignment, client = self._assignment, self._client
        if assignment is None or client is None:
            return
        positions = {p: position for p, t in assignment.trackers.items() if (position := t.committable()) is not None}
        if not positions:
            return
        try:
            async with asyncio.timeout(COMMIT):
                await client.commit({self._place(partition): position for partition, position in positions.items()})
        except (KafkaError, TimeoutError) as error:
            self._log.warning("consumer.commit_failed", reason=type(error).__name__, partitions=sorted(positions))
            return
        for partition, position in positions.items():
            assignment.trackers[partition].committed(position)

    def partition_of(self, key: str) -> int | None:
        """The partition in which records with this key stand; None as long as the topic's partitions are not known.

        Once known they are remembered: aiokafka forgets a topic whose metadata came with an error, and their number never
        changes.
        """
        known = self._client.partitions_for_topic(self._full_topic) if self._client is not None else None
        self._partitions = len(known) if known else self._partitions
        return partition_for(key, self._partitions) if self._partitions else None

    async def consumed(self, partition: int) -> bool:
        """Whether the group has ever finished a record of the partition. Raises CannotStore."""
        if self._client is None:
            raise CannotStore("not connected")
        try:
            async with asyncio.timeout(COMMIT):
                committed = await self._client.committed(self._place(partition))
        except (KafkaError, TimeoutError) as error:
            raise CannotStore(type(error).__name__) from error
        return (committed or 0) > 0

    async def stop(self) -> None:
        """Revoke (listener, drain, commit), then leave. A static member does not leave: it is expected back."""
        self._listener = None  # nothing begins any more
        await self.revoke()
        await self._disconnect()

    # --- records ------------------------------------------------------------------------------------------------------

    async def _fetch(self, client: Any) -> _Fetched:
        room = self._assignment.room(self._max_unfinished) if self._assignment is not None else self._max_unfinished
        limit = max(1, min(POLL_RECORDS, room))
        records = await client.getmany(timeout_ms=int(POLL_SECONDS * 1000), max_records=limit)
        return self._assignment, records  # the assignment during which it ended

    def _deliver(self, assignment: _Assignment | None, records: Mapping[Any, Sequence[Any]]) -> Sequence[Received]:
        present = self._assignment
        if assignment is not None and assignment is not present:
            return ()  # that assignment is over; its records come again from the committed offset
        if present is None or not present.delivering:
            self._put_back(records)
            return ()
        delivered = [present.deliver(received(self._topic, record)) for each in records.values() for record in each]
        for partition in {record.partition for record in delivered}:
            if present.trackers[partition].unfinished >= self._max_unfinished:
                present.paused.add(partition)
                self._client.pause(self._place(partition))
        return delivered

    def _put_back(self, records: Mapping[Any, Sequence[Any]]) -> None:
        for place, fetched in records.items():
            with suppress(KafkaError):  # not assigned any more
                self._client.seek(place, fetched[0].offset)

    def _place(self, partition: int) -> Any:
        return aiokafka.TopicPartition(self._full_topic, partition)

    # --- rebalances: called by aiokafka's coordinator, which waits for them -------------------------------------------

    def assign(self, client: Any, partitions: frozenset[int]) -> None:
        """These partitions are ours. The listener is told in a task: a long restore must not keep the group waiting."""
        if client is not self._client or self._listener is None or not partitions:
            return
        self._assignment = assignment = _Assignment(partitions, self._listener)
        client.pause(*map(self._place, partitions))
        assignment.telling = asyncio.create_task(self._tell(client, assignment), name="kafka-assigned")
        self._log.info("consumer.assigned", partitions=sorted(partitions))

    async def _tell(self, client: Any, assignment: _Assignment) -> None:
        delay = BACKOFF
        while True:
            try:
                await assignment.listener.assigned(assignment.partitions)
                break
            except (KafkaUnavailable, CannotStore) as error:
                self._log.warning("consumer.assignment_delayed", reason=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_BACKOFF)
        if assignment is self._assignment:
            assignment.delivering = True
            client.resume(*map(self._place, assignment.partitions))

    async def revoke(self) -> None:
        """What is ours is taken away: stop delivering, drain, commit, fence."""
        if self._assignment is not None:
            self._assignment.delivering = False
        async with self._revoking:
            assignment = self._assignment
            if assignment is None:
                return
            try:
                await self._stop_telling(assignment)
                await self._drain(assignment)
            finally:
                await self.commit()
                self._assignment = None
                self._log.info("consumer.revoked", partitions=sorted(assignment.partitions))

    async def _stop_telling(self, assignment: _Assignment) -> None:
        if (telling := assignment.telling) is None or not telling.cancel():
            return
        await asyncio.wait({telling}, timeout=DRAIN)

    async def _drain(self, assignment: _Assignment) -> None:
        try:
            async with asyncio.timeout(DRAIN):
                await assignment.listener.revoked(assignment.partitions)
        except TimeoutError:
            self._log.warning("consumer.drain_cut_short", unfinished=len(assignment.delivered))

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        async with self._connecting:
            if self._client is None and self._listener is not None and time.monotonic() >= self._retry_at:
                await self._connect_anew()

    async def _connect_anew(self) -> None:
        client = aiokafka.AIOKafkaConsumer(**self._options)
        try:
            async with asyncio.timeout(CONNECT):
                await client.start()
        except (KafkaError, TimeoutError) as error:
            await _close(client)
            self._try_later(error)
            return
        if self._listener is None:  # stopped meanwhile
            await _close(client)
            return
        if self._attempts:
            self._log.info("consumer.connected", attempts=self._attempts)
        self._attempts = 0
        self._client = client
        client.subscribe([self._full_topic], listener=_Rebalances(self, client))

    def _try_later(self, error: Exception) -> None:
        if not self._attempts:
            self._log.warning("consumer.unreachable", reason=type(error).__name__)
        self._retry_at = time.monotonic() + min(BACKOFF * 2**self._attempts, LONGEST_BACKOFF)
        self._attempts = min(self._attempts + 1, 10)

    async def _connect_when_due(self) -> None:
        due_in = self._retry_at - time.monotonic() if self._listener is not None else POLL_SECONDS
        await asyncio.sleep(min(max(due_in, 0.1), POLL_SECONDS))
        await self._connect()

    async def _lose(self, error: Exception) -> None:
        """aiokafka cannot go on: begin anew with a new client."""
        self._log.warning("consumer.lost", reason=type(error).__name__)
        await self.revoke()
        await self._disconnect()
        self._attempts = 1
        self._retry_at = time.monotonic() + BACKOFF

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
            self._fetching = None
        if client is not None:
            await _close(client)


class _Rebalances(aiokafka.ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """What aiokafka calls, for one client."""

    def __init__(self, consumer: KafkaConsumer, client: Any) -> None:
        self._consumer = consumer
        self._client = client

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - always everything that we have
        await self._consumer.revoke()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._consumer.assign(self._client, frozenset(place.partition for place in assigned))


def _options(connection: Connection, group: str, instance_id: str | None) -> dict[str, Any]:
    return {
        **connection.options(),
        "group_id": group,
        "group_instance_id": instance_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": SESSION * 1000,
        "heartbeat_interval_ms": HEARTBEAT * 1000,
        "rebalance_timeout_ms": REBALANCE * 1000,
        "max_poll_interval_ms": MAX_POLL_INTERVAL * 1000,
        "request_timeout_ms": REQUEST * 1000,
        "metadata_max_age_ms": METADATA * 1000,
    }


async def _close(client: Any) -> None:
    with suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(CLOSE):
            await client.stop()
