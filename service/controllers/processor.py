"""The processor: hints from ``work`` become looks, one at a time for each meeting series.

A hint is not the truth. Its offset is finished when a look that *began after it came* has succeeded, or when the ledger
says that its series still has to be looked at.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from service.controllers.backlog import Backlog, Key, Waiting
from service.controllers.ledger import Ledger, Place
from service.controllers.organizations import OrganizationsController
from service.controllers.ownership import Ownership
from service.controllers.ports import Clock, Observer, Publisher, WorkConsumer
from service.controllers.registrants import Looked, RegistrantsController
from service.controllers.sweep import Sweep
from service.controllers.task import Task
from service.core import work
from service.core.errors import (
    CannotStore,
    EventProcessorError,
    NotOwner,
    Reaction,
    RecordRefused,
    WebexError,
    WebexNotFound,
    WebexUnauthorized,
)
from service.core.ledger import Dirty, Entry
from service.core.message import Message, Received
from service.core.organizations import UNKNOWN_ORGANIZATION
from service.core.retry import backoff

#: A hint that waited this long (s) is remembered in the ledger, so that its partition's offset can move on.
PARKED = 60.0
#: Until this long after the first hint, a 404 means "not there yet" (Webhooks guide: REST may lag by 10 minutes).
LAG = timedelta(minutes=15)
#: A look whose call is not confirmed yet is repeated after so many seconds.
SETTLE_AGAIN = 60.0
#: A look for an organisation that Webex may not be called for now is tried again after so many seconds.
NOT_NOW = 60.0
#: How long (s) running looks may take to end when a partition goes away; the consumer waits 5 s in all.
DRAIN = 4.0
#: Bytes of a record that its dead letter repeats.
LONGEST_LETTER = 512 * 1024
#: Giving up needs the ledger; where that fails, it is tried again after so many seconds.
GIVE_UP_AGAIN = 5.0
_DELETED = "webex.meeting.deleted.v1"


class Processor:
    """The consumer of ``work``. It is its own rebalance listener."""

    def __init__(  # noqa: PLR0913 - the collaborators are named one by one, where they are plugged together
        self,
        *,
        consumer: WorkConsumer,
        publisher: Publisher,
        ledger: Ledger,
        ownership: Ownership,
        controller: RegistrantsController,
        organizations: OrganizationsController,
        backlog: Backlog,
        sweep: Sweep,
        observer: Observer,
        now: Clock,
        chance: Callable[[], float],
        workers: int = 4,
    ) -> None:
        self._consumer, self._publisher, self._ledger, self._ownership = consumer, publisher, ledger, ownership
        self._controller, self._organizations = controller, organizations
        self._backlog, self._sweep, self._observer = backlog, sweep, observer
        self._now, self._chance, self._workers = now, chance, workers
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then drain, commit and leave. A task that dies takes the others, and us, with it."""
        await self._consumer.start(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                intake = tasks.create_task(self._take_in())
                others = [tasks.create_task(self._work()) for _ in range(self._workers)]
                jobs = (self._park(), self._sweep.run(), self._ownership.keep(), self._organizations.run())
                others += [tasks.create_task(job) for job in jobs]
                await stop.wait()
                intake.cancel()
                await self._consumer.stop()
                for task in others:
                    task.cancel()
        finally:
            self._backlog.discard(lambda _: True)
            await self._consumer.stop()

    # --- partitions -----------------------------------------------------------------------------------------------

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Restore the ledger before the first decision, then take up what it says is unfinished.

        May be called again where it failed half-way: what is restored stays as it is.
        """
        for partition in sorted(partitions):
            if not self._ledger.owns(partition):
                records = await self._ledger.restore(partition)
                self._observer.restored(partition, records)
                self._log.info("ledger.restored", partition=partition, records=records)
        for partition in partitions:
            for _, series, memory in self._ledger.known(partition):
                if memory.dirty is not None:
                    self._take_up_dirty(partition, series, memory.dirty)

    def _take_up_dirty(self, partition: int, series: str, dirty: Dirty) -> None:
        place = self._ledger.place(dirty.organization, partition)
        task = Task(place=place, series=series, org_id=dirty.org_id, host_email=dirty.host_email)
        self._backlog.mark(task, first=dirty.since)

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Stop starting, drain what runs, give the partitions up."""
        self._backlog.queue.discard(lambda key: key[0] in partitions)
        try:
            async with asyncio.timeout(DRAIN):
                await self._backlog.queue.idle(lambda key: key[0] in partitions)
                for partition in partitions:
                    await self._ownership.release(partition)
        except (TimeoutError, EventProcessorError):
            self._log.warning("processor.drain_cut_short", partitions=sorted(partitions))
        finally:
            self._backlog.discard(lambda key: key[0] in partitions)
            for partition in partitions:
                self._ownership.drop(partition)
                self._ledger.forget(partition)
                self._sweep.forget(partition)
                self._organizations.forget(partition)

    # --- taking in ------------------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        while True:
            for record in await self._consumer.poll():
                await self._admit(record)
            await self._consumer.commit()
            self._observer.queue_depth(len(self._backlog.queue))

    async def _admit(self, record: Received) -> None:
        try:
            hint = work.decode(record.value or b"")
        except (msgspec.DecodeError, msgspec.ValidationError):
            await self._bury(record, "notAHint")
            return
        if not self._ledger.owns(record.partition):
            return  # it went to somebody else meanwhile, and the record with it
        place = self._ledger.place(hint.organization, record.partition)
        if not hint.series or hint.organization == UNKNOWN_ORGANIZATION:
            self._finish_at_once(record, hint, place)
            return
        task = Task(
            place=place,
            series=hint.series,
            org_id=hint.org_id,
            host_email=hint.host_email,
            traceparent=hint.traceparent,
        )
        waiting = self._backlog.mark(task, first=_moment(hint.at) or self._now())
        waiting.deleted = waiting.deleted or hint.reason == _DELETED
        waiting.hints.append((time.monotonic(), record))

    def _finish_at_once(self, record: Received, hint: work.Hint, place: Place) -> None:
        """Nothing of these hints needs to be kept: about an organisation the next refused call tells the same, and where
        nobody can know whose the meeting is, nobody could ever look at it.
        """
        if hint.organization == UNKNOWN_ORGANIZATION:
            self._log.warning("organization.unknown", series=hint.series, reason=hint.reason, id=hint.event_id)
        else:
            self._organizations.told(place, hint.reason)
        self._consumer.finish(record)

    async def _bury(self, record: Received, reason: str) -> None:
        """A record that leads nowhere goes to the dead letters; only then is its offset finished."""
        value = record.value or b""
        letter = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "reason": reason,
            "bytes": len(value),
            # Too long for a record once it is encoded: then its place has to do, where retention keeps it.
            "valueBase64": base64.b64encode(value).decode() if len(value) <= LONGEST_LETTER else None,
        }
        message = Message(
            topic="dead-letters", key=record.key, value=msgspec.json.encode(letter), partition_by=record.key
        )
        await self._publish_at_last(message)
        self._consumer.finish(record)
        self._log.error("work.buried", partition=record.partition, offset=record.offset, reason=reason)

    async def _publish_at_last(self, message: Message) -> None:
        while True:
            try:
                return await self._publisher.publish([message])
            except CannotStore:
                await asyncio.sleep(1.0)

    # --- working --------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            key = await self._backlog.queue.get()
            try:
                await self._take_up(key)
            finally:
                self._backlog.queue.done(key)

    async def _take_up(self, key: Key) -> None:
        waiting = self._backlog.take(key)
        if waiting is None:
            return
        if not self._organizations.usable(waiting.task.place):
            self._backlog.put_back(waiting, NOT_NOW)
            return
        try:
            await self._look(waiting)
        except EventProcessorError as error:
            await self._failed(waiting, error)

    async def _look(self, waiting: Waiting) -> None:
        task = waiting.task
        self._sweep.looked(waiting.key)
        with _traced(task.traceparent):
            looked = await self._controller.look(task)
        await self._settle(waiting)
        self._tell(task, looked)
        if looked.again:
            self._backlog.mark(task, delay=SETTLE_AGAIN)

    async def _settle(self, waiting: Waiting) -> None:
        """Its hints, which all came before the look began, are answered."""
        task = waiting.task
        newer = waiting.key in self._backlog  # then the series is still dirty
        if not newer and self._ledger.series(task.place, task.series).dirty is not None:
            await self._ledger.record(task.place, [Entry(kind="dirty", subject=task.series, value=None)])
        for _, record in waiting.hints:
            self._consumer.finish(record)

    def _tell(self, task: Task, looked: Looked) -> None:
        self._observer.looked(looked.result)
        tell = self._log.info if looked.decided else self._log.debug
        tell(
            "look.finished",
            series=task.series,
            result=looked.result,
            registrants=looked.registrants,
            decided=looked.decided,
        )

    async def _failed(self, waiting: Waiting, error: EventProcessorError) -> None:
        """Back off, or give up where another look would find the same; the next owner does the rest."""
        if isinstance(error, WebexUnauthorized):
            self._organizations.doubt(waiting.task.place)
        waiting.attempts += 1
        delay = self._delay(waiting, error)
        self._log.warning(
            "look.failed",
            series=waiting.task.series,
            error=type(error).__name__,
            status=getattr(error, "status", None),
            tracking_id=getattr(error, "tracking_id", None),
            attempt=waiting.attempts,
            again_in=None if delay is None else round(delay, 1),
        )
        try:
            self._ledger.partition(waiting.task.place)
            if delay is None:
                await self._give_up(waiting, error)
            else:
                self._backlog.put_back(waiting, delay)
        except NotOwner:
            self._log.info("look.left_to_next_owner", series=waiting.task.series)
        except EventProcessorError:
            self._backlog.put_back(waiting, GIVE_UP_AGAIN)
        self._observer.looked("failed")

    async def _give_up(self, waiting: Waiting, error: EventProcessorError) -> None:
        """Leave the series to the next sweep or hint; one that was deleted is forgotten, a refusal is kept as dead letters."""
        task = waiting.task
        if waiting.deleted and self._ledger.series(task.place, task.series).meeting is not None:
            await self._ledger.record(task.place, [Entry(kind="meeting", subject=task.series, value=None)])
        if not isinstance(error, WebexNotFound):
            for _, record in waiting.hints:
                await self._bury(record, type(error).__name__)
        await self._settle(waiting)

    def _delay(self, waiting: Waiting, error: EventProcessorError) -> float | None:
        """Seconds until the next try; None where another look would find the same."""
        wait = max(backoff(waiting.attempts, base=1.0, cap=60.0, chance=self._chance()), 0.5)
        if isinstance(error, RecordRefused):
            return None
        if not isinstance(error, WebexError):
            return wait
        match error.reaction:
            case Reaction.RETRY_AFTER:
                return max(error.retry_after or 0.0, wait)
            case Reaction.LOOK_AGAIN:
                young = waiting.first is not None and self._now() - waiting.first < LAG
                return wait if young and not waiting.deleted else None
            case Reaction.CREDENTIALS:
                return 60.0
            case Reaction.PERMANENT:
                return None
            case _:
                return wait

    # --- parking --------------------------------------------------------------------------------------------------

    async def _park(self) -> None:
        """Hints that waited for a minute are remembered in the ledger instead, so that their partition moves on."""
        while True:
            await asyncio.sleep(PARKED / 12)
            old = time.monotonic() - PARKED
            for waiting in self._backlog:
                parked = [hint for hint in waiting.hints if hint[0] < old]
                if parked:
                    await self._remember(waiting, parked)

    async def _remember(self, waiting: Waiting, parked: Sequence[tuple[float, Received]]) -> None:
        task = waiting.task
        dirty = Dirty(
            organization=task.place.organization,
            since=waiting.first or self._now(),
            org_id=task.org_id,
            host_email=task.host_email,
        )
        try:
            await self._ledger.record(task.place, [Entry(kind="dirty", subject=task.series, value=dirty)])
        except EventProcessorError:
            return  # they go on waiting, unfinished
        for hint in parked:
            self._consumer.finish(hint[1])
            waiting.hints.remove(hint)
        self._log.info("work.parked", series=task.series, hints=len(parked))


def _traced(traceparent: str | None) -> AbstractContextManager[object]:
    """Log lines and calls to Webex carry the trace context of the webhook that led here; a sweep has none."""
    return structlog.contextvars.bound_contextvars(traceparent=traceparent) if traceparent else nullcontext()


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
