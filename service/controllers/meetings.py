"""The meetings controller: what the operator's meeting rules want of a meeting, compared with what it is, and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from msgspec.structs import replace

from service.controllers.ledger import Ledger
from service.controllers.permission import Permission
from service.controllers.ports import Clock, LivePolicy, Observer, WebexApi
from service.controllers.task import Task
from service.core import meeting_rules as core
from service.core.errors import WebexError, WebexNotFound, WebexRejected, WebexUnauthorized, WritesStopped
from service.core.event import CloudEvent
from service.core.ledger import Entry, KnownMeeting, RulesRecord
from service.core.meeting_fields import body_of, digest, form_body, whole_body
from service.core.meeting_rules import Change, Plan
from service.core.meetings import Meeting, ends, is_recurring, starts
from service.core.policy import Policy

#: Seconds after which to look again where nothing may be written for now.
STOPPED_AGAIN = 300.0

#: What Webex refused is asked for again after a minute, then after twice as long each time, up to six hours. A meeting that was
#: in progress without showing it waits at most as long again; a rule that Webex never takes costs next to nothing.
FIRST_AGAIN, LAST_AGAIN = 60.0, 6 * 3600.0

#: Calls of different kinds (patch or put, with e-mails or without, the registration form) that one look makes at most.
_MOST_CALLS = 5

#: Meetings of which a refusal is remembered.
_MOST_REFUSALS = 10_000

_FORBIDDEN = 403


@dataclass(frozen=True)
class Changed:
    """``meeting`` is as Webex shows it now; ``again`` is when (s) another look is wanted, None where the schedule's will do."""

    meeting: Meeting
    again: float | None = None


@dataclass(frozen=True)
class _Scene:
    """What one look decides by."""

    task: Task
    webex: WebexApi
    policy: Policy
    host_email: str
    org_id: str


@dataclass(frozen=True)
class _Refusal:
    """Webex said no to ``asked`` (a digest of the changes and of the meeting as it was) so many ``times`` on end."""

    asked: str
    until: datetime
    times: int


#: Organisation, series and kind of call.
_Key = tuple[str, str, tuple[str, bool]]


class MeetingsController:
    """Looks at one meeting series at a time; the caller sees to it that a series is never looked at twice at once.

    ``webex`` gives the calls for the organisation of a task.
    """

    def __init__(
        self,
        *,
        webex: Callable[[Task], WebexApi],
        ledger: Ledger,
        permission: Permission,
        policy: LivePolicy,
        observer: Observer,
        receiver: str,
        now: Clock,
    ) -> None:
        self._webex, self._ledger, self._permission = webex, ledger, permission
        self._policy, self._observer, self._receiver, self._now = policy, observer, receiver, now
        self._refusals: dict[_Key, _Refusal] = {}
        self._log = structlog.get_logger()

    async def look(self, task: Task, meeting: Meeting) -> Changed:
        """Bring one meeting to where the rules want it; ``meeting`` is what Webex has just shown of it.

        Raises WebexError, CannotStore or NotOwner: what was done until then is in the ledger. What Webex refuses for good, and
        what must not be written now, is no error: registrants are decided all the same.
        """
        policy = self._policy()
        if not policy.meeting_rules:
            return Changed(meeting)
        known = self._ledger.series(task.place, task.series).meeting or KnownMeeting(organization="")
        scene = _Scene(
            task=task,
            webex=self._webex(task),
            policy=policy,
            host_email=task.host_email or known.host_email,
            org_id=task.org_id or known.org_id,
        )
        for _ in range(_MOST_CALLS):
            made = self._plan(scene, meeting)
            if policy.shadow:
                await self._propose(scene, meeting, made)
                return Changed(meeting)
            ready, again = self._ready(scene, meeting, made)
            if not ready or not await self._may_write(scene):
                await self._keep(scene, meeting, made)
                return Changed(meeting, STOPPED_AGAIN if ready else again)
            meeting = await self._write(scene, meeting, made, ready)
        return Changed(meeting, FIRST_AGAIN)

    def _plan(
        self,
        scene: _Scene,
        meeting: Meeting,
        record: RulesRecord | None = None,
        edited: frozenset[str] = frozenset(),
    ) -> Plan:
        now = self._now()
        return core.plan(
            meeting,
            scene.policy.wishes(meeting, now=now),
            record or self._ledger.series(scene.task.place, scene.task.series).rules,
            now=now,
            policy=scene.policy.version,
            edited=edited,
        )

    def _ready(self, scene: _Scene, meeting: Meeting, made: Plan) -> tuple[list[Change], float | None]:
        """The changes of one call that may be tried now, if there are any; else when (s) to look again."""
        calls: dict[tuple[str, bool], list[Change]] = {}
        for each in made.changes:
            calls.setdefault(each.call, []).append(each)
        pauses = [] if made.again is None else [made.again]
        for call, changes in calls.items():
            refused = self._refusals.get((scene.task.place.organization, scene.task.series, call))
            if refused is None or refused.asked != _asked(meeting, changes) or refused.until <= self._now():
                return changes, None
            pauses.append((refused.until - self._now()).total_seconds())
        return [], min(pauses, default=None)

    async def _may_write(self, scene: _Scene) -> bool:
        """Whether an operator lets us. Raises NotOwner."""
        try:
            await self._permission.ask(scene.task.place)
        except WritesStopped as stopped:
            self._log.debug("meeting.stopped", series=scene.task.series, reason=stopped.reason)
            return False
        return True

    # --- without a write ------------------------------------------------------------------------------------------

    async def _propose(self, scene: _Scene, meeting: Meeting, made: Plan) -> None:
        """Shadow mode: say once what would be written."""
        new = core.unproposed(made.record, made.changes)
        noted = replace(made, record=core.proposed(made.record, new, self._now()))
        events = core.to_events(new, what="proposed", meeting=meeting, **self._attributes(scene))
        await self._keep(scene, meeting, noted, events)
        self._tell(scene, "meeting.proposed", new)

    async def _keep(self, scene: _Scene, meeting: Meeting, made: Plan, events: Sequence[CloudEvent] = ()) -> None:
        """Remember what a plan found, and publish what an earlier process wrote without telling."""
        finished = core.to_events(made.finished, what="changed", meeting=meeting, **self._attributes(scene))
        entries = self._entries(scene, meeting, made.record)
        if entries or finished or events:
            await self._ledger.record(scene.task.place, entries, [*finished, *events], topic="outcomes")
        self._tell(scene, "meeting.changed", made.finished)
        for rule, failure in made.failures.items():
            self._log.warning("meeting.rule_failed", series=scene.task.series, rule=rule, failure=failure)
        if made.parked:
            self._log.error("meeting.parked", series=scene.task.series, field=made.parked, hours=24)
            self._observer.meeting_changed("parked")

    def _entries(self, scene: _Scene, meeting: Meeting, record: RulesRecord) -> list[Entry]:
        """Nothing where only old writes were forgotten: at steady state nothing is recorded."""
        memory = self._ledger.series(scene.task.place, scene.task.series)
        before = memory.rules or RulesRecord()
        if (record.rules, record.parked) == (before.rules, before.parked) and not core.more_writes(record, before):
            return []
        entries = [Entry(kind="rules", subject=scene.task.series, value=record if record != RulesRecord() else None)]
        if memory.meeting is None:
            entries.append(Entry(kind="meeting", subject=scene.task.series, value=_known(scene, meeting)))
        return entries

    # --- a write --------------------------------------------------------------------------------------------------

    async def _write(self, scene: _Scene, read: Meeting, made: Plan, changes: Sequence[Change]) -> Meeting:
        """Intent, re-read, call, read-back: one call to Webex, or none where a person was quicker."""
        begun = self._now()
        await self._keep(scene, read, replace(made, record=core.asked(made.record, changes, begun)))
        fresh = await scene.webex.get_meeting(read.id, host_email=scene.host_email)
        edited = core.edited(read, fresh, [each.field for each in changes])
        now = self._plan(scene, fresh, made.record, edited)
        self._tell_yielded(scene, now)
        wanted = core.dated(core.still_wanted(changes, now.changes), begun)
        shown = await self._call(scene, fresh, wanted) if wanted else None
        if shown is None:
            await self._keep(scene, fresh, now)
            return fresh
        settled = core.written(core.asked(now.record, wanted, begun), wanted, shown, self._now())
        events = core.to_events(wanted, what="changed", meeting=fresh, **self._attributes(scene))
        await self._keep(scene, shown, replace(now, record=settled), events)
        self._tell(scene, "meeting.changed", wanted)
        return shown

    async def _call(self, scene: _Scene, fresh: Meeting, changes: Sequence[Change]) -> Meeting | None:
        """The meeting as it is shown after the write; None where Webex refuses it, or an operator has stopped us meanwhile.

        A failed call is read back where it may have happened. Raises WebexError or NotOwner.
        """
        failure: WebexError | None = None
        try:
            await self._change(scene, fresh, changes)
        except WritesStopped:
            return None
        except WebexError as error:
            if _refused(error):
                self._refuse(scene, fresh, changes, error)
                return None
            if not error.maybe_done:
                raise
            failure = error
        shown = await scene.webex.get_meeting(fresh.id, host_email=scene.host_email)
        if failure is not None and not core.shows(shown, changes):
            raise failure
        self._refusals.pop(_key(scene.task, changes), None)
        return shown

    async def _change(self, scene: _Scene, fresh: Meeting, changes: Sequence[Change]) -> None:
        fields = [(each.field, each.after) for each in changes]
        method, notify = changes[0].call
        if method == "registration":
            form = await self._form(scene, fresh)
            body = form_body(body_of(fields, {"registration": form})["registration"])
            self._permission.check(scene.task.place)
            await scene.webex.update_registration(fresh.id, body, host_email=scene.host_email)
            return
        body = body_of(fields, fresh.fields)
        if method == "put":
            body = whole_body(fresh.fields, body)
        self._permission.check(scene.task.place)
        await scene.webex.change_meeting(
            fresh.id, _method(method), body, send_email=notify, host_email=scene.host_email
        )

    async def _form(self, scene: _Scene, fresh: Meeting) -> Mapping[str, Any]:
        """The form as it is: it is replaced as a whole, and either answer may lack a part of it."""
        if not fresh.has_registration:
            return {}
        shown: Mapping[str, Any] = fresh.fields["registration"]
        try:
            return {**shown, **await scene.webex.get_registration(fresh.id, host_email=scene.host_email)}
        except WebexNotFound:  # the two answers may lag behind each other
            return shown

    def _refuse(self, scene: _Scene, meeting: Meeting, changes: Sequence[Change], error: WebexError) -> None:
        """Remember that Webex said no, and for how long not to ask again."""
        key, asked = _key(scene.task, changes), _asked(meeting, changes)
        before = self._refusals.pop(key, None)
        times = before.times + 1 if before is not None and before.asked == asked else 1
        pause = min(FIRST_AGAIN * 2 ** (times - 1), LAST_AGAIN)
        while len(self._refusals) >= _MOST_REFUSALS:
            self._refusals.pop(next(iter(self._refusals)))
        self._refusals[key] = _Refusal(asked, self._now() + timedelta(seconds=pause), times)
        self._log.warning(
            "meeting.refused",
            series=scene.task.series,
            rules=sorted({each.rule for each in changes}),
            fields=[each.field for each in changes],
            status=error.status,
            tracking_id=error.tracking_id,
            again=pause,
        )

    # --- telling --------------------------------------------------------------------------------------------------

    def _attributes(self, scene: _Scene) -> dict[str, Any]:
        return {
            "policy": scene.policy.version,
            "org_id": scene.org_id,
            "now": self._now(),
            "receiver": self._receiver,
            "traceparent": scene.task.traceparent,
        }

    def _tell(self, scene: _Scene, event: str, changes: Sequence[Change]) -> None:
        """One line for each rule. Values may be anything, so they are in the event alone."""
        for rule in dict.fromkeys(each.rule for each in changes):
            fields = [each.field for each in changes if each.rule == rule]
            self._log.info(event, series=scene.task.series, rule=rule, fields=fields, policy=scene.policy.version)
        if changes and event == "meeting.changed":
            self._observer.meeting_changed("changed")

    def _tell_yielded(self, scene: _Scene, made: Plan) -> None:
        yielded = [note for note in made.notes if note.what == "yielded"]
        for note in yielded:
            self._log.info("meeting.yielded", series=scene.task.series, rule=note.rule, field=note.field)
        if yielded:
            self._observer.meeting_changed("yielded")


def _key(task: Task, changes: Sequence[Change]) -> _Key:
    return (task.place.organization, task.series, changes[0].call)


def _asked(meeting: Meeting, changes: Sequence[Change]) -> str:
    """What was asked of which state: it is worth asking again at once where either is another."""
    state = [meeting.fields.get(name) for name in ("state", "start", "end", "scheduledType", "recurrence")]
    aims = [(c.rule, c.version, c.field, digest(c.field, c.before), digest(c.field, c.after)) for c in changes]
    return digest("", [state, aims])


def _refused(error: WebexError) -> bool:
    """Whether Webex will say the same next time, and the registrants may have their turn meanwhile."""
    forbidden = isinstance(error, WebexUnauthorized) and error.status == _FORBIDDEN
    return not error.maybe_done and (forbidden or isinstance(error, WebexRejected | WebexNotFound))


def _method(text: str) -> Literal["patch", "put"]:
    return "put" if text == "put" else "patch"


def _known(scene: _Scene, meeting: Meeting) -> KnownMeeting:
    """So that what is remembered of a meeting without registration goes when it is over."""
    return KnownMeeting(
        organization=scene.task.place.organization,
        org_id=scene.org_id,
        host_email=scene.host_email,
        registration=meeting.has_registration,
        start=starts(meeting),
        end=ends(meeting),
        recurring=is_recurring(meeting),
    )
