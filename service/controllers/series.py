"""One look at one meeting series: fetched once, then the meeting rules and the registrants have their turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from service.controllers.ledger import Ledger
from service.controllers.meetings import MeetingsController
from service.controllers.ports import Clock, WebexApi
from service.controllers.registrants import RegistrantsController
from service.controllers.task import Task
from service.core.ledger import Entry, KnownMeeting
from service.core.meetings import Meeting, ends, is_recurring, starts
from service.core.schedule import retired

#: A look whose call is not confirmed yet is repeated after so many seconds.
SETTLE_AGAIN = 60.0


@dataclass(frozen=True)
class Look:
    """What a look came to: ``finished`` or ``noRegistration``; ``again`` is when (s) the next one is wanted, if any is."""

    result: str
    again: float | None = None
    registrants: int = 0
    decided: int = 0


class SeriesController:
    """Looks at one series at a time; the caller sees to it that a series is never looked at twice at once."""

    def __init__(
        self,
        *,
        webex: Callable[[Task], WebexApi],
        ledger: Ledger,
        meetings: MeetingsController,
        registrants: RegistrantsController,
        now: Clock,
    ) -> None:
        self._webex, self._ledger, self._now = webex, ledger, now
        self._meetings, self._registrants = meetings, registrants

    async def look(self, task: Task) -> Look:
        """Bring a meeting and its registrants to where the operator wants them.

        Raises WebexError, CannotStore, NotOwner or WritesStopped; what was done until then is in the ledger.
        """
        known = self._ledger.series(task.place, task.series).meeting
        host_email = task.host_email or (known.host_email if known else "")
        found = await self._webex(task).get_meeting(task.series, host_email=host_email)
        await self._found_again(task, known)
        changed = await self._meetings.look(task, found)
        if not changed.meeting.has_registration:
            await self._without_registration(task, changed.meeting)
            return Look("noRegistration", again=changed.again)
        looked = await self._registrants.look(task, changed.meeting)
        pauses = [pause for pause in (changed.again, SETTLE_AGAIN if looked.again else None) if pause is not None]
        return Look(
            looked.result, again=min(pauses, default=None), registrants=looked.registrants, decided=looked.decided
        )

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._registrants.forget(partition)

    async def _found_again(self, task: Task, known: KnownMeeting | None) -> None:
        if known is not None and known.missing is not None:
            await self._remember(task, msgspec.structs.replace(known, missing=None, deleted=False))

    async def _without_registration(self, task: Task, meeting: Meeting) -> None:
        """It is remembered all the same: as one that need not be found again, and since Webex takes the form away when a
        meeting is over, what people decided is remembered until that is for good.
        """
        before = self._ledger.series(task.place, task.series).meeting
        known = msgspec.structs.replace(
            before or KnownMeeting(organization=task.place.organization),
            registration=False,
            org_id=task.org_id or (before.org_id if before else ""),
            host_email=task.host_email or (before.host_email if before else meeting.host_email),
            start=starts(meeting),
            end=ends(meeting),
            recurring=is_recurring(meeting),
        )
        if known != before:
            await self._remember(task, known)
        if retired(known, self._now()):
            await self._ledger.retire(task.place, task.series)

    async def missing(self, task: Task, *, deleted: bool) -> None:
        """Webex does not show it, and it is not expected to appear: remembered, and in time forgotten for good."""
        known = self._ledger.series(task.place, task.series).meeting
        if known is None:
            return
        gone = msgspec.structs.replace(known, missing=known.missing or self._now(), deleted=known.deleted or deleted)
        if gone != known:
            await self._remember(task, gone)
        if retired(gone, self._now()):
            await self._ledger.retire(task.place, task.series)

    async def _remember(self, task: Task, known: KnownMeeting) -> None:
        await self._ledger.record(task.place, [Entry(kind="meeting", subject=task.series, value=known)])
