"""A member of a consumer group, as aiokafka 0.14 lets one be.

* Every rebalance takes every partition away (there is no cooperative assignor): drain, commit, fence, and begin anew. What
  belongs to an assignment is in one ``Assignment``; a record of an earlier one finds nothing there and is ignored.
* aiokafka rebalances in the background, so fetched records may be of an assignment that is over: a fetch remembers the
  assignment during which it ended, and is dropped where that is not the present one. Its records come again.
* ``getmany`` waits without a limit while the group rebalances: it runs in a task of its own, and ``poll`` looks at it.
* ``commit`` is tried again without a limit by aiokafka: it is bounded here, and bound to the membership under which the
  partitions came (:mod:`service.bus.kafka_membership`). A commit that fails is an event, not an error: the records come
  again.
* Where a partition begins is never left to aiokafka, which would be silent about it: a group without a position, and one
  whose position is gone, begin at the earliest record, and that is said with figures.
* A batch that cannot be decoded makes aiokafka forget what it had collected of other partitions, and move past it all the
  same: the positions are put back, and each partition is read by itself, so that only the one at fault stands still.
* A client that cannot go on, whatever the reason, is let go of, and another one begins anew. A task looks every second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiokafka
import structlog
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from service.bus.assignment import Assignment
from service.bus.kafka_connection import FAILURES, Connection
from service.bus.kafka_membership import Membership, close
from service.bus.kafka_partitioner import partition_for
from service.bus.kafka_plain import read_plainly
from service.bus.kafka_record import received
from service.bus.kafka_refusal import DENIALS, reason_of
from service.bus.protocols import RebalanceListener
from service.core.errors import CannotStore, KafkaUnavailable, NameTaken, whereabouts
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
COMMIT = 3.0
REBALANCE = 20
REQUEST = 25
MAX_POLL_INTERVAL = 600
METADATA = 30
CONNECT = 10.0

#: A restore that is cut off has so long (s) to let go.
LET_GO = 1.0

#: Seconds between two looks at aiokafka's own tasks. One that is dead twice in a row is dead.
LOOK = 1.0

#: Between two attempts to connect, or to tell the listener, in seconds; doubled each time.
BACKOFF = 0.5
LONGEST_BACKOFF = 5.0

#: Seconds after which it is said again that a batch cannot be read.
REMIND = 60.0

#: What a batch raises that aiokafka cannot decode.
_UNDECODABLE = (UnicodeDecodeError, CorruptRecordException, UnsupportedCodecError)

#: During which assignment a fetch ended, and what it brought, or met.
_Fetched = tuple[Assignment | None, Mapping[Any, Sequence[Any]] | Exception]


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
        self._connection, self._topic, self._full_topic = connection, topic, topic_prefix + topic
        self._group, self._instance_id = group, instance_id
        self._max_unfinished = max_unfinished
        self._log = structlog.get_logger().bind(topic=topic, group=group)
        self._listener: RebalanceListener | None = None
        self._client: Any = None
        self._membership: Membership | None = None  # that of the client
        self._partitions = 0  # of the topic; 0 while nobody knows
        self._assignment: Assignment | None = None
        self._fetching: asyncio.Task[_Fetched] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._revoking, self._committing = asyncio.Lock(), asyncio.Lock()
        self._connecting, self._losing = asyncio.Lock(), asyncio.Lock()
        self._commit_failing = False  # said once
        self._denials = 0  # in a row
        self._denied_until = 0.0
        self._damage_told = float("-inf")
        self._attempts = 0
        self._retry_at = 0.0
        self._taken: NameTaken | None = None
        #: Records that were removed from the topic before they were read, as far as this process saw.
        self.gone = 0

    async def start(self, listener: RebalanceListener) -> None:
        """Join the group; returns after the first attempt to connect, well or not."""
        self._listener = listener
        self._keeping = asyncio.create_task(self._keep(), name="kafka-keep")
        await self._connect()

    async def poll(self) -> Sequence[Received]:
        """The next records, in order for each partition; empty after about a second without any.

        Raises what the listener's ``assigned`` raised: no record of those partitions would ever come. Raises NameTaken.
        """
        self._raise_what_ended_us()
        if (client := self._client) is None:
            await self._connect_when_due()
            return ()
        if await self._is_denied():
            return ()
        fetching = self._fetching = self._fetching or asyncio.create_task(self._fetch(client), name="kafka-fetch")
        await asyncio.wait({fetching}, timeout=POLL_SECONDS + 0.2)
        if not fetching.done() or self._fetching is not fetching:  # or the client was given up meanwhile
            return ()
        self._fetching = None
        return await self._fetched(client, fetching)

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``. Ignored when its partition was revoked since, even if it is ours again."""
        assignment = self._assignment
        if assignment is None or record.partition not in assignment.partitions:
            return
        assignment.finish(record)
        if record.partition in assignment.paused and assignment.has_room_again(record.partition):
            assignment.paused.discard(record.partition)
            if assignment.delivering:
                self._client.resume(self._place(record.partition))

    async def commit(self) -> None:
        """Commit what is contiguously finished. A failure is logged: what was not committed comes again."""
        async with self._committing:
            assignment, client, membership = self._assignment, self._client, self._membership
            if assignment is None or client is None or membership is None or membership.lost:
                return  # what is lost is not ours to commit
            if not (positions := assignment.committable()):
                return
            try:
                async with asyncio.timeout(COMMIT):
                    await client.commit({self._place(partition): position for partition, position in positions.items()})
            except Exception as error:  # noqa: BLE001 - whatever is wrong with aiokafka, work goes on, and comes again
                self._not_committed(error, positions)
                return
            assignment.committed(positions)
            self._commit_failing = False

    def _not_committed(self, error: Exception, positions: Mapping[int, int]) -> None:
        if not self._commit_failing:
            self._log.warning("consumer.commit_failed", reason=type(error).__name__, partitions=sorted(positions))
        self._commit_failing = True

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

    @property
    def unfinished(self) -> int:
        """Records delivered and not finished."""
        return 0 if self._assignment is None else self._assignment.unfinished

    @property
    def lag(self) -> int:
        """Records of our partitions that are not finished, delivered or not, as of the last fetch of each."""
        assignment, membership = self._assignment, self._membership
        if assignment is None or membership is None:
            return 0
        behind = 0
        for partition, tracker in assignment.trackers.items():
            end, next_one = membership.end_offset(self._place(partition)), membership.position(self._place(partition))
            position = next_one if tracker.position is None else tracker.position
            if end is not None and position is not None:
                behind += max(0, end - position)
        return behind

    def unconfirmed(self) -> float:
        """Seconds since the group last said that we are a member of it."""
        return float("inf") if self._membership is None else self._membership.unconfirmed()

    async def stop(self) -> None:
        """Revoke (listener, drain, commit), then leave. A static member does not leave: it is expected back."""
        self._listener = None  # nothing begins any more
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self.revoke()
        await self._disconnect()

    # --- records ------------------------------------------------------------------------------------------------------

    async def _fetch(self, client: Any) -> _Fetched:
        room = self._assignment.room() if self._assignment is not None else POLL_RECORDS
        asked, before = self._assignment, self._positions()
        try:
            records = await client.getmany(
                timeout_ms=int(POLL_SECONDS * 1000), max_records=max(1, min(POLL_RECORDS, room))
            )
        except _UNDECODABLE:
            present = self._assignment
            await self._rewind(client, present, before if present is asked else {})
            return present, await self._fetch_one_by_one(client, present)
        except Exception as error:  # noqa: BLE001 - whoever looks at the fetch raises it
            return self._assignment, error
        return self._assignment, records

    async def _fetched(self, client: Any, fetching: asyncio.Task[_Fetched]) -> Sequence[Received]:
        try:
            return self._deliver(self._brought(fetching))
        except asyncio.CancelledError:  # not we: the fetch, by a task of aiokafka's that was cancelled
            await self._lose(client, "cancelled")
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            await self._begin_at_the_earliest(client, error)
        except DENIALS as error:
            self._deny(error)
        except KafkaError as error:
            await self._lose(client, type(error).__name__)
        except Exception as bug:  # noqa: BLE001 - aiokafka's: a new client may do better, and the log says so until it does
            self._log.error("consumer.failed_unexpectedly", error=type(bug).__name__, at=whereabouts(bug))
            await self._lose(client, type(bug).__name__)
        return ()

    def _brought(self, fetching: asyncio.Task[_Fetched]) -> Mapping[Any, Sequence[Any]]:
        """Nothing where its assignment is over: its records come again from the committed offset. Raises what it met."""
        assignment, outcome = fetching.result()
        if assignment is not None and assignment is not self._assignment:
            return {}
        if isinstance(outcome, Exception):
            raise outcome
        self._permitted(assignment)
        return outcome

    def _deliver(self, records: Mapping[Any, Sequence[Any]]) -> Sequence[Received]:
        present = self._assignment
        if present is None or not present.delivering:
            self._put_back(records)
            return ()
        delivered = [present.deliver(received(self._topic, record)) for each in records.values() for record in each]
        for partition in {record.partition for record in delivered}:
            if present.is_full(partition):
                present.paused.add(partition)
                self._client.pause(self._place(partition))
        return delivered

    def _put_back(self, records: Mapping[Any, Sequence[Any]]) -> None:
        for place, fetched in records.items():
            with suppress(KafkaError):  # not assigned any more
                self._client.seek(place, fetched[0].offset)

    def _positions(self) -> dict[int, int | None]:
        assignment, membership = self._assignment, self._membership
        if assignment is None or membership is None:
            return {}
        return {partition: membership.position(self._place(partition)) for partition in assignment.partitions}

    async def _rewind(self, client: Any, present: Assignment | None, before: Mapping[int, int | None]) -> None:
        """Go back to where each partition was before a fetch; where that was not known yet, nothing of it can have been
        finished. Raises KafkaError, TimeoutError: then begin anew.
        """
        for partition, now in self._positions().items():
            place, position = self._place(partition), before.get(partition)
            if position is None and now is not None:
                async with asyncio.timeout(COMMIT):
                    position = await client.committed(place)
                if position is None:
                    raise KafkaError("where it began is not known")
            if position is not None and present is self._assignment:
                client.seek(place, position)

    async def _fetch_one_by_one(self, client: Any, present: Assignment | None) -> Mapping[Any, Sequence[Any]]:
        """The next batch of each partition, where one of them cannot be decoded: aiokafka does not say which."""
        found: dict[Any, Sequence[Any]] = {}
        if present is not None and present.delivering:
            for place in map(self._place, sorted(present.partitions - present.paused)):
                if records := await self._read_plainly(client, place, present):
                    found[place] = records
        if not found:
            await asyncio.sleep(LOOK)
        return found

    async def _read_plainly(self, client: Any, place: Any, present: Assignment) -> Sequence[Any]:
        """The next batch of one partition; nothing where ``present`` is over, before or after it is read."""
        position = self._positions().get(place.partition)
        if position is None or present is not self._assignment:
            return ()
        try:
            async with asyncio.timeout(COMMIT):
                records, behind = await read_plainly(client, place, position)
            if present is not self._assignment:
                return ()  # the next one begins with what is committed
            client.seek(place, behind)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the other partitions go on
            self._tell_of_damage(place.partition, position, error)
            return ()
        return records

    def _tell_of_damage(self, partition: int, position: int, error: Exception) -> None:
        if time.monotonic() - self._damage_told >= REMIND:
            self._damage_told = time.monotonic()
            to_do = "it is tried again, and its partition waits: see whether the broker's log is damaged"
            log = self._log.bind(partition=partition, position=position, to_do=to_do)
            log.error("consumer.batch_unreadable", reason=type(error).__name__)

    def _place(self, partition: int) -> Any:
        return aiokafka.TopicPartition(self._full_topic, partition)

    # --- permissions --------------------------------------------------------------------------------------------------

    async def _is_denied(self) -> bool:
        """Whether it is of no use to ask now. Another client would lack the same permission: this one is kept, and waits."""
        if (wait := self._denied_until - time.monotonic()) > 0:
            await asyncio.sleep(min(wait, POLL_SECONDS))
            return True
        hidden = self._membership is not None and self._membership.is_hidden(self._full_topic)
        if hidden:
            self._deny(TopicAuthorizationFailedError(self._full_topic))
        return hidden

    def _deny(self, error: Exception) -> None:
        if not self._denials:
            self._log.error("consumer.denied", reason=reason_of(error))
        self._denied_until = time.monotonic() + min(2.0**self._denials, LONGEST_BACKOFF)
        self._denials = min(self._denials + 1, 10)

    def _permitted(self, assignment: Assignment | None) -> None:
        if self._denials and assignment is not None:
            self._denials = 0
            self._log.info("consumer.permitted")

    # --- where a partition begins -------------------------------------------------------------------------------------

    async def _begin_at_the_earliest(
        self, client: Any, error: NoOffsetForPartitionError | OffsetOutOfRangeError
    ) -> None:
        """Of the partitions that ``error`` names. Never at the latest: records would be skipped in silence."""
        (told,) = error.args
        wanted = dict(told) if isinstance(told, dict) else {told: None}
        assignment = self._assignment
        try:
            async with asyncio.timeout(COMMIT):
                asked = client.beginning_offsets(wanted), client.end_offsets(wanted)
                earliest, latest = await asyncio.gather(*asked)
        except (KafkaError, TimeoutError) as failure:
            self._log.warning("consumer.offsets_unknown", reason=type(failure).__name__)
            await asyncio.sleep(BACKOFF)
            return  # it is met again
        for place, position in wanted.items():
            if assignment is not self._assignment:
                return
            with suppress(KafkaError):  # not assigned any more
                client.seek(place, earliest[place])
                self._tell_where(place.partition, position, earliest[place], latest[place])

    def _tell_where(self, partition: int, position: int | None, earliest: int, latest: int) -> None:
        log = self._log.bind(partition=partition, earliest=earliest, latest=latest)
        if position is None:
            tell = log.warning if latest > 0 else log.info
            tell("consumer.begins_at_the_earliest", reason="the group has no position", records=latest - earliest)
        elif position < earliest:
            self.gone += earliest - position
            to_do = "the topic keeps its records for less time than they waited: see its retention"
            log.error("consumer.records_gone", position=position, gone=earliest - position, to_do=to_do)
        else:
            if self._assignment is not None and partition in self._assignment.partitions:
                self._assignment.begin_anew(partition)
            to_do = "the topic was made anew, or its end was lost: what it holds is read from its beginning"
            log.error("consumer.position_beyond_the_end", position=position, records=latest - earliest, to_do=to_do)

    # --- rebalances: called by aiokafka's coordinator, which waits for them -------------------------------------------

    def assign(self, client: Any, partitions: frozenset[int]) -> None:
        """These partitions are ours. The listener is told in a task: a long restore must not keep the group waiting."""
        if client is not self._client or self._membership is None or self._listener is None or not partitions:
            return
        if self._losing.locked():
            return  # it joined again while it is being given up: what was ours has been taken away
        self._assignment = assignment = Assignment(partitions, self._listener, self._max_unfinished)
        self._membership.begin()
        client.pause(*map(self._place, partitions))
        assignment.telling = asyncio.create_task(self._tell(client, assignment), name="kafka-assigned")
        self._log.info("consumer.assigned", partitions=sorted(partitions))

    async def _tell(self, client: Any, assignment: Assignment) -> None:
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
                try:
                    await self.commit()
                finally:
                    self._fence(assignment)

    def _fence(self, assignment: Assignment) -> None:
        self._assignment = None
        if self._membership is not None:
            self._membership.end()
        self._log.info("consumer.revoked", partitions=sorted(assignment.partitions), unfinished=assignment.unfinished)

    async def _stop_telling(self, assignment: Assignment) -> None:
        if (telling := assignment.telling) is None or not telling.cancel():
            return
        await asyncio.wait({telling}, timeout=LET_GO)

    async def _drain(self, assignment: Assignment) -> None:
        try:
            async with asyncio.timeout(DRAIN):
                await assignment.listener.revoked(assignment.partitions)
        except TimeoutError:
            self._log.warning("consumer.drain_cut_short", unfinished=assignment.unfinished)
        except Exception as bug:  # noqa: BLE001 - aiokafka would only log it
            self._log.error("consumer.drain_failed", error=type(bug).__name__, at=whereabouts(bug))

    async def is_name_taken(self, *, thrown_out: bool) -> bool:
        """Whether another process has our static name in the group now: then ``poll`` says so, and nothing begins any more.

        ``thrown_out``: asked only where the group does not know us any more. To join again would throw the other one out,
        who would do the same, for ever.
        """
        membership = self._membership
        if membership is None or self._instance_id is None or (thrown_out and not membership.thrown_out):
            return False
        if (host := await membership.usurper()) is None:
            return False
        self._taken = NameTaken(
            f"another process, at {host}, is a member of the consumer group {self._group} under the name"
            f" {self._instance_id}: it has the partitions now, and this process ends. Give every process a name of its own"
            " by WEBEX_EVENTS_KAFKA__INSTANCE_ID, or none to any"
        )
        self._listener = None
        return True

    # --- the connection -----------------------------------------------------------------------------------------------

    def _raise_what_ended_us(self) -> None:
        if self._taken is not None:
            raise self._taken
        if self._assignment is not None:
            self._assignment.raise_what_the_listener_raised()
        if self._keeping is not None and self._keeping.done() and self._listener is not None:
            if not self._keeping.cancelled():
                self._keeping.result()
            self._log.error("consumer.task_died", task="keep")
            self._keeping = asyncio.create_task(self._keep(), name="kafka-keep")

    async def _keep(self) -> None:
        """Look, until cancelled, whether all tasks live on which it depends that records come and we stay a member."""
        before = ""
        while True:
            await asyncio.sleep(LOOK)
            dead, client = self._dead(), self._client
            if dead and dead == before:
                self._log.error("consumer.task_died", task=dead, to_do="nothing: a new client begins anew")
                await self._lose(client, f"{dead} died")
            before = dead

    def _dead(self) -> str:
        telling = self._assignment.telling if self._assignment is not None else None
        if telling is not None and telling.cancelled() and not self._revoking.locked():
            return "assigned"
        return self._membership.dead() if self._membership is not None else ""

    async def _connect(self) -> None:
        async with self._connecting:
            if self._client is None and self._listener is not None and time.monotonic() >= self._retry_at:
                await self._connect_anew()

    async def _connect_anew(self) -> None:
        client = self._connection.client(aiokafka.AIOKafkaConsumer, **_options(self._group, self._instance_id))
        try:
            async with asyncio.timeout(CONNECT):
                await client.start()
        except FAILURES as error:
            await close(client)
            self._try_later(error)
            return
        except BaseException:
            await close(client)
            raise
        if self._listener is None:  # stopped meanwhile
            await close(client)
            return
        if self._attempts:
            self._log.info("consumer.connected", attempts=self._attempts)
        self._attempts = 0
        self._client = client
        self._membership = Membership(client, group=self._group, instance=self._instance_id)
        client.subscribe([self._full_topic], listener=_Rebalances(self, client))

    def _try_later(self, error: BaseException) -> None:
        if not self._attempts:
            self._log.warning("consumer.unreachable", reason=reason_of(error))
        self._retry_at = time.monotonic() + min(BACKOFF * 2**self._attempts, LONGEST_BACKOFF)
        self._attempts = min(self._attempts + 1, 10)

    async def _connect_when_due(self) -> None:
        due_in = self._retry_at - time.monotonic() if self._listener is not None else POLL_SECONDS
        await asyncio.sleep(min(max(due_in, 0.1), POLL_SECONDS))
        await self._connect()

    async def _lose(self, client: Any, reason: str) -> None:
        """This client cannot go on: begin anew with another one."""
        async with self._losing:
            if client is None or client is not self._client:
                return
            self._log.warning("consumer.lost", reason=reason)
            await self.revoke()
            await self.is_name_taken(thrown_out=False)
            async with self._connecting:  # the next one when this one is gone
                await self._disconnect()
                self._attempts = 1
                self._retry_at = time.monotonic() + BACKOFF

    async def _disconnect(self) -> None:
        client, self._client, self._membership = self._client, None, None
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait({fetching})
        if client is not None:
            await close(client)


class _Rebalances(aiokafka.ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """What aiokafka calls, for one client."""

    def __init__(self, consumer: KafkaConsumer, client: Any) -> None:
        self._consumer = consumer
        self._client = client

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - always everything that we have
        await self._consumer.revoke()
        if await self._consumer.is_name_taken(thrown_out=True):
            raise asyncio.CancelledError  # the one error with which aiokafka does not go on, and join again

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._consumer.assign(self._client, frozenset(place.partition for place in assigned))


def _options(group: str, instance_id: str | None) -> dict[str, Any]:
    return {
        "group_id": group,
        "group_instance_id": instance_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # each case is decided, and told, here
        "isolation_level": "read_committed",  # what a producer took back was never there
        "session_timeout_ms": SESSION * 1000,
        "heartbeat_interval_ms": HEARTBEAT * 1000,
        "rebalance_timeout_ms": REBALANCE * 1000,
        "max_poll_interval_ms": MAX_POLL_INTERVAL * 1000,
        "request_timeout_ms": REQUEST * 1000,
        "metadata_max_age_ms": METADATA * 1000,
    }
