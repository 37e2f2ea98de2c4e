"""The processor: the consumer of ``work``. It owns partitions, takes records in, and hands them to the workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import structlog

from service.controllers.backlog import Backlog
from service.controllers.discovery import Discovery
from service.controllers.in_order import InOrder
from service.controllers.ledger import Ledger, Place
from service.controllers.letters import Letters
from service.controllers.orders import Orders
from service.controllers.organizations import OrganizationsController
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.ports import Clock, LivePolicy, Observer, Pulse, WorkConsumer, unwatched
from service.controllers.sponsors import Sponsors
from service.controllers.sweep import Sweep
from service.controllers.task import Task
from service.controllers.until_stop import run_until
from service.controllers.worker import Worker
from service.core import trial, work
from service.core.errors import EventProcessorError, NotOwner, whereabouts
from service.core.ledger import Dirty
from service.core.message import UNREADABLE, Received
from service.core.organizations import UNKNOWN_ORGANIZATION
from service.core.schedule import retired
from service.core.work import Command, Hint, Item, Order

#: How long (s) running work may take to end when a partition goes away; the consumer waits 5 s in all.
DRAIN = 4.0
#: Seconds from one look at what operators changed to the next.
WATCH = 5.0
#: Seconds from one tidying of the ledger to the next.
TIDY = 600.0
#: The loops whose beats ``pulse`` gets: taking in, renewing the leases, parking what waits.
TAKING_IN, LEASES, PARKING = LOOPS = ("work", "leases", "parking")
_DELETED = "webex.meeting.deleted.v1"


class Processor:
    """The consumer of ``work``. It is its own rebalance listener."""

    def __init__(  # noqa: PLR0913 - the collaborators are named one by one, where they are plugged together
        self,
        *,
        consumer: WorkConsumer,
        ledger: Ledger,
        ownership: Ownership,
        permission: Permission,
        policy: LivePolicy,
        letters: Letters,
        orders: Orders,
        worker: Worker,
        organizations: OrganizationsController,
        sponsors: Sponsors,
        backlog: Backlog,
        sweep: Sweep,
        discovery: Discovery,
        observer: Observer,
        now: Clock,
        pulse: Pulse = unwatched,
        workers: int = 4,
    ) -> None:
        self._consumer, self._ledger, self._ownership = consumer, ledger, ownership
        self._permission, self._policy, self._letters, self._orders = permission, policy, letters, orders
        self._worker, self._organizations, self._sponsors = worker, organizations, sponsors
        self._backlog, self._sweep, self._discovery = backlog, sweep, discovery
        self._observer, self._now, self._pulse, self._workers = observer, now, pulse, workers
        self._taken: InOrder[int, Received] = InOrder(self._admit)  # by partition: an order may take its time
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then drain, commit and leave. A task that dies takes the others, and us, with it."""
        await self._consumer.start(self)
        jobs = [self._worker.run() for _ in range(self._workers)]
        jobs += [self._taken.run(), self._letters.run(), self._worker.park(partial(self._pulse, PARKING))]
        jobs += [self._watch(), self._tidy(), self._sweep.run(), self._discovery.run()]
        jobs += [self._ownership.keep(partial(self._pulse, LEASES)), self._organizations.run(), self._sponsors.run()]
        try:
            await run_until(stop, self._take_in(), *jobs, close=self._consumer.stop)
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
                await self._restore(partition)
        for partition in partitions:
            for _, series, memory in self._ledger.known(partition):
                if memory.dirty is not None:
                    self._take_up_dirty(partition, series, memory.dirty)
            self._sweep.gap(partition)

    async def _restore(self, partition: int) -> None:
        consumed = await self._consumer.consumed(partition)
        records = await self._ledger.restore(partition)
        try:
            await self._ledger.found(partition, consumed=consumed, now=self._now())
        except BaseException:
            self._ledger.forget(partition)  # so that the next attempt begins anew
            raise
        self._ownership.take(self._ledger.place("", partition))
        self._observer.restored(partition, records)
        self._log.info("ledger.restored", partition=partition, records=records)

    def _take_up_dirty(self, partition: int, series: str, dirty: Dirty) -> None:
        place = self._ledger.place(dirty.organization, partition)
        task = Task(place=place, series=series, org_id=dirty.org_id, host_email=dirty.host_email)
        self._backlog.mark(task, first=dirty.since)

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Stop starting, drain what runs, give the partitions up."""
        self._taken.discard(lambda record: record.partition in partitions)
        with self._backlog.leaving(partitions):
            try:
                async with asyncio.timeout(DRAIN):
                    await self._backlog.queue.idle(lambda key: key[0] in partitions)
                    for partition in partitions:
                        await self._ownership.release(partition)
            except (TimeoutError, EventProcessorError):
                self._log.warning("processor.drain_cut_short", partitions=sorted(partitions))
            finally:
                self._letters.forget(partitions)
                for partition in partitions:
                    self._forget(partition)

    def _forget(self, partition: int) -> None:
        self._ownership.drop(partition)
        self._ledger.forget(partition)
        self._worker.forget(partition)
        self._sweep.forget(partition)
        self._discovery.forget(partition)
        self._sponsors.forget(partition)
        self._organizations.forget(partition)

    # --- taking in ------------------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        while True:
            self._pulse(TAKING_IN)
            for record in await self._consumer.poll():
                self._taken.add(record.partition, record)
            await self._consumer.commit()
            self._observer.queue_depth(len(self._backlog.queue))

    async def _admit(self, records: Sequence[Received]) -> int:
        for record in records:
            await self._admit_one(record)
        return len(records)

    async def _admit_one(self, record: Received) -> None:
        try:
            await self._take(record, work.decode(record.value or b""))
        except UNREADABLE:
            self._letters.post(record, "unreadable", finish=self._consumer.finish)
        except NotOwner:
            return  # the record went to the next owner
        except Exception as bug:  # noqa: BLE001 - one record that nobody foresaw must not end the process, again and again
            self._log.error("work.failed_unexpectedly", error=type(bug).__name__, at=whereabouts(bug), key="")
            self._letters.post(record, "unexpected", finish=self._consumer.finish)

    async def _take(self, record: Received, item: Item) -> None:
        if not self._ledger.owns(record.partition) or self._backlog.is_leaving(record.partition):
            return  # it went, or goes, to somebody else, and the record with it
        match item:
            case Hint():
                self._take_hint(record, item)
            case Command():
                place = self._ledger.place(item.organization, record.partition)
                self._backlog.command(place, record, item)
            case Order():
                await self._orders.obey(self._ledger.place(item.organization, record.partition), item)
                self._consumer.finish(record)

    def _take_hint(self, record: Received, hint: Hint) -> None:
        place = self._ledger.place(hint.organization, record.partition)
        if not hint.series or hint.organization == UNKNOWN_ORGANIZATION:
            self._finish_at_once(record, hint)
            return
        self._sponsors.heard(place, hint.reason, hint.instance, hint.host_email)
        self._discovery.told((record.partition, hint.series), hint.host_email)
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

    def _finish_at_once(self, record: Received, hint: Hint) -> None:
        """Nothing of these hints needs to be kept: about an organisation the next refused call tells the same, and where
        nobody can know whose the meeting is, nobody could ever look at it.
        """
        if hint.organization == UNKNOWN_ORGANIZATION:
            self._log.warning("organization.unknown", series=hint.series, reason=hint.reason, id=hint.event_id)
        else:
            self._organizations.told(self._ledger.place(hint.organization, record.partition), hint.reason)
        self._consumer.finish(record)

    # --- now and then ---------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """See whether there is another policy: every meeting is looked at by it. Count for whom nothing is written."""
        version = self._policy().version
        while True:
            await asyncio.sleep(WATCH)
            self._count_stops()
            before, version = version, self._policy().version
            if version != before:
                for partition in {place.partition for place in self._organizations.places()}:
                    self._sweep.catch_up(partition)

    def _count_stops(self) -> None:
        stops = [self._stopped(place) for place in self._organizations.places()]
        for reason in ("paused", "observeOnly", "policyHeld"):
            self._observer.writes_stopped(reason, stops.count(reason))

    def _stopped(self, place: Place) -> str:
        record = self._ledger.partition(place).policies.get(place.organization)
        held = record is not None and trial.is_held(record, self._policy().version)
        return self._permission.stopped(place) or ("policyHeld" if held else "")

    async def _tidy(self) -> None:
        """Look once more at the meetings that ended for good: what is found the same is forgotten then. And forget the
        commands that nobody will repeat.
        """
        while True:
            await asyncio.sleep(TIDY)
            try:
                await self._tidy_once()
            except EventProcessorError as error:  # the next time, then
                self._log.warning("ledger.not_tidied", error=type(error).__name__)

    async def _tidy_once(self) -> None:
        now = self._now()
        for partition in {place.partition for place in self._organizations.places()}:
            await self._ledger.expire(partition, now)
        for partition, series, memory in self._ledger.known():
            if memory.meeting is not None and retired(memory.meeting, now):
                place = self._ledger.place(memory.meeting.organization, partition)
                self._backlog.mark(Task(place=place, series=series, swept=True))


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
