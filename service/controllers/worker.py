"""Working on one key: its commands in order, then the look that its hints asked for, and what to do where either fails.

A hint is not the truth. Its offset is finished when a look that *began after it came* has succeeded, or when the ledger
says that its series still has to be looked at. A command's is finished with its outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from service.controllers.backlog import Backlog, Key, Waiting
from service.controllers.commands import Again, CommandsController
from service.controllers.ledger import Ledger
from service.controllers.letters import Letters
from service.controllers.organizations import OrganizationsController
from service.controllers.ports import Clock, Observer, WorkConsumer
from service.controllers.series import Look, SeriesController
from service.controllers.sweep import Sweep
from service.controllers.task import Task
from service.core.commands import READS
from service.core.errors import (
    EventProcessorError,
    NotOwner,
    Reaction,
    RecordRefused,
    WebexError,
    WebexNotFound,
    WebexUnauthorized,
    WritesStopped,
    whereabouts,
)
from service.core.ledger import Dirty, Entry
from service.core.message import Received
from service.core.retry import backoff

#: A hint that waited this long (s) is remembered in the ledger, so that its partition's offset can move on.
PARKED = 60.0
#: Until this long after the first hint, a 404 means "not there yet" (Webhooks guide: REST may lag by 10 minutes).
LAG = timedelta(minutes=15)
#: Work for an organisation that Webex may not be called for, or written to, is tried again after so many seconds.
NOT_NOW = 60.0
#: Giving up needs the ledger; where that fails, it is tried again after so many seconds.
GIVE_UP_AGAIN = 5.0
#: So often is work tried that fails in a way that nobody foresaw.
SURPRISES = 5
#: Commands about registrants of whatever age.
_CHANGES_ANYBODY = ("registrants.cancel", "registrants.delete", "registrants.bulk-delete")


class Worker:
    """Works on what the backlog holds."""

    def __init__(  # noqa: PLR0913 - the collaborators are named one by one, where they are plugged together
        self,
        *,
        consumer: WorkConsumer,
        ledger: Ledger,
        letters: Letters,
        series: SeriesController,
        commands: CommandsController,
        organizations: OrganizationsController,
        backlog: Backlog,
        sweep: Sweep,
        observer: Observer,
        now: Clock,
        chance: Callable[[], float],
    ) -> None:
        self._consumer, self._ledger, self._letters = consumer, ledger, letters
        self._series, self._commands, self._organizations = series, commands, organizations
        self._backlog, self._sweep, self._observer = backlog, sweep, observer
        self._now, self._chance = now, chance
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Work on one key after another, for ever."""
        while True:
            key = await self._backlog.queue.get()
            try:
                await self._take_up(key)
            finally:
                self._backlog.queue.done(key)

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._series.forget(partition)

    async def _take_up(self, key: Key) -> None:
        waiting = self._backlog.take(key)
        if waiting is None:
            return
        try:
            pause = await self._carry_out(waiting)
            if waiting.look and self._organizations.usable(waiting.task.place):
                await self._look(waiting)  # also where its commands have to wait: what happens meanwhile is seen
            elif waiting.look:
                pause = NOT_NOW if pause is None else min(pause, NOT_NOW)
            if pause is not None:
                self._ledger.partition(waiting.task.place)
                self._backlog.put_back(waiting, pause)
        except EventProcessorError as error:
            await self._failed(waiting, error)
        except Exception as bug:  # noqa: BLE001 - one key must not end the process, and come back with the next one
            self._surprised(waiting, bug)

    def _surprised(self, waiting: Waiting, bug: Exception) -> None:
        """A bug of ours, or a record that nobody foresaw: its key is tried again ever more rarely, the others go on. What is
        tried in vain for long goes to the dead letters.
        """
        waiting.attempts += 1
        self._log.error(
            "work.failed_unexpectedly", error=type(bug).__name__, at=whereabouts(bug), key=waiting.task.series
        )
        self._observer.looked("failed")
        if waiting.attempts >= SURPRISES:
            records = [record for record, _ in waiting.commands[:1]] or [record for _, record in waiting.hints]
            for record in records:
                self._letters.post(record, "unexpected", attempts=waiting.attempts, finish=self._consumer.finish)
            if waiting.commands:
                waiting.commands.pop(0)
            else:
                waiting.look, waiting.hints = False, []
            waiting.attempts = 0
        if waiting.commands or waiting.look:
            self._backlog.put_back(
                waiting, max(backoff(waiting.attempts, base=1.0, cap=60.0, chance=self._chance()), 0.5)
            )

    # --- commands -------------------------------------------------------------------------------------------------

    async def _carry_out(self, waiting: Waiting) -> float | None:
        """None when all its commands have their outcomes; else the seconds until the first of the others is tried again."""
        while waiting.commands:
            record, command = waiting.commands[0]
            place = self._ledger.place(command.organization, record.partition)
            self._ledger.partition(waiting.task.place)
            with _traced(command.traceparent):
                result = await self._commands.execute(place, command, waiting.attempts)
            if isinstance(result, Again):
                waiting.attempts += 1
                return result.delay
            waiting.attempts = 0
            waiting.commands.pop(0)
            self._consumer.finish(record)
            self._handled("command", datetime.fromtimestamp(record.timestamp / 1000, UTC))
            self._look_afterwards(waiting, command.operation)
        return None

    def _look_afterwards(self, waiting: Waiting, operation: str) -> None:
        """What a command changed is observed at once, not at the next sweep; whose registration is old, a full look shows."""
        if waiting.task.series and operation not in READS:
            waiting.look = True
            waiting.task = replace(waiting.task, full=waiting.task.full or operation in _CHANGES_ANYBODY)
            waiting.deleted = waiting.deleted or operation == "meetings.delete"

    # --- looks ----------------------------------------------------------------------------------------------------

    async def _look(self, waiting: Waiting) -> None:
        task = waiting.task
        with self._sweep.looking(waiting.key, hinted=bool(waiting.hints)), _traced(task.traceparent):
            looked = await self._series.look(task)
        await self._settle(waiting)
        self._handled("look", waiting.first)
        self._tell(task, looked)
        if looked.again is not None:
            self._backlog.mark(replace(task, full=False), delay=looked.again)  # it knows itself where all are needed

    async def _settle(self, waiting: Waiting) -> None:
        """Its hints, which all came before the look began, are answered."""
        task = waiting.task
        newer = waiting.key in self._backlog  # then the series is still dirty
        if not newer and self._ledger.series(task.place, task.series).dirty is not None:
            await self._ledger.record(task.place, [Entry(kind="dirty", subject=task.series, value=None)])
        for _, record in waiting.hints:
            self._consumer.finish(record)
        waiting.look, waiting.hints = False, []

    def _tell(self, task: Task, looked: Look) -> None:
        self._observer.looked(looked.result)
        tell = self._log.info if looked.decided else self._log.debug
        tell(
            "look.finished",
            series=task.series,
            result=looked.result,
            registrants=looked.registrants,
            decided=looked.decided,
        )

    def _handled(self, what: str, asked: datetime | None) -> None:
        if asked is not None:
            self._observer.handled(what, max(0.0, (self._now() - asked).total_seconds()))

    # --- failures -------------------------------------------------------------------------------------------------

    async def _failed(self, waiting: Waiting, error: EventProcessorError) -> None:
        """Back off, or give up where another look would find the same; the next owner does the rest."""
        if isinstance(error, WebexUnauthorized):
            self._organizations.doubt(waiting.task.place)
        stopped = isinstance(error, WritesStopped)
        waiting.attempts += not stopped
        delay = self._delay(waiting, error)
        self._complain(waiting, error, delay)
        try:
            self._ledger.partition(waiting.task.place)
            if delay is None and not waiting.commands:
                await self._give_up(waiting, error)
            else:
                self._backlog.put_back(waiting, NOT_NOW if delay is None else delay)
        except NotOwner:
            self._log.info("look.left_to_next_owner", series=waiting.task.series)
        except EventProcessorError:
            self._backlog.put_back(waiting, GIVE_UP_AGAIN)
        self._observer.looked("stopped" if stopped else "failed")

    def _complain(self, waiting: Waiting, error: EventProcessorError, delay: float | None) -> None:
        log = self._log.info if isinstance(error, WritesStopped) else self._log.warning
        log(
            "look.failed",
            series=waiting.task.series,
            error=type(error).__name__,
            reason=getattr(error, "reason", None),
            status=getattr(error, "status", None),
            tracking_id=getattr(error, "tracking_id", None),
            attempt=waiting.attempts,
            again_in=None if delay is None else round(delay, 1),
        )

    async def _give_up(self, waiting: Waiting, error: EventProcessorError) -> None:
        """Leave the series to the next sweep or hint; of one that is not there that is remembered, a refusal is kept as dead
        letters.
        """
        if isinstance(error, WebexNotFound):
            await self._series.missing(waiting.task, deleted=waiting.deleted)
        else:
            refused, waiting.hints = waiting.hints, []
            for _, record in refused:
                self._letters.post(
                    record,
                    type(error).__name__,
                    error=error,
                    attempts=waiting.attempts,
                    finish=self._consumer.finish,
                )
        await self._settle(waiting)

    def _delay(self, waiting: Waiting, error: EventProcessorError) -> float | None:
        """Seconds until the next try; None where another look would find the same."""
        wait = max(backoff(waiting.attempts, base=1.0, cap=60.0, chance=self._chance()), 0.5)
        if isinstance(error, RecordRefused):
            return None
        if isinstance(error, WritesStopped):
            return NOT_NOW
        if not isinstance(error, WebexError):
            return wait
        match error.reaction:
            case Reaction.RETRY_AFTER:
                return max(error.retry_after or 0.0, wait)
            case Reaction.LOOK_AGAIN:
                return wait if self._young(waiting) and not waiting.deleted else None
            case Reaction.CREDENTIALS:
                # Lists also show meetings that their user may not read: the next hint or list is soon enough for those.
                return None if error.status == 403 and not self._young(waiting) else NOT_NOW
            case Reaction.PERMANENT:
                return None
            case _:
                return wait

    def _young(self, waiting: Waiting) -> bool:
        """Whether somebody told of it, so lately that Webex may still lag."""
        return waiting.first is not None and self._now() - waiting.first < LAG

    # --- parking --------------------------------------------------------------------------------------------------

    async def park(self, beat: Callable[[], None] = lambda: None) -> None:
        """Hints that waited for a minute are remembered in the ledger instead, so that their partition moves on; for ever."""
        while True:
            beat()
            await asyncio.sleep(PARKED / 12)
            old = time.monotonic() - PARKED
            for waiting in self._backlog:
                parked = [hint for hint in waiting.hints if hint[0] < old]
                if parked:
                    await self._remember(waiting, parked)
                    beat()  # after a long outage there are thousands
            self._observer.keys_parked(self._backlog.parked)

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
        # A look may have answered them meanwhile.
        waiting.hints = [hint for hint in waiting.hints if hint not in parked]
        self._log.info("work.parked", series=task.series, hints=len(parked))


def _traced(traceparent: str | None) -> AbstractContextManager[object]:
    """Log lines and calls to Webex carry the trace context of the webhook that led here; a sweep has none."""
    return structlog.contextvars.bound_contextvars(traceparent=traceparent) if traceparent else nullcontext()
