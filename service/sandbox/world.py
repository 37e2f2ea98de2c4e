"""The simulated Webex itself: its meetings, and everything else that it knows.

No I/O but through its documents. Methods that change something take effect in memory at once; ``commit`` makes all changes
since the last one durable together and only then logs them. A request is answered after its commit, never before.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from service.core.identifiers import is_series, series_of
from service.sandbox import meetings
from service.sandbox.clock import Clock
from service.sandbox.documents import Documents
from service.sandbox.faults import Faults
from service.sandbox.guests import Guests, Links
from service.sandbox.ledger import Ledger
from service.sandbox.meetings import Occurrence
from service.sandbox.outgoing import Outgoing
from service.sandbox.records import (
    Attempts,
    Change,
    Counters,
    Identity,
    Instance,
    Limits,
    MeetingRecord,
    Notification,
    Stage,
)
from service.sandbox.refusals import Refusal, not_found
from service.sandbox.registry import Registry
from service.sandbox.store import Store
from service.sandbox.tokens import Caller, Tokens, forbidden
from service.sandbox.webhooks import Webhooks


@dataclass(frozen=True)
class Host:
    """For whose meetings a call is: the caller's own, or those of ``email`` where the caller may act for others."""

    caller: Caller
    email: str = ""

    @property
    def address(self) -> str:
        """Whose meetings these are. Raises Refusal (403) for somebody else's without the scope."""
        if self.email and self.email.casefold() != self.caller.email.casefold() and not self.caller.administers:
            raise forbidden("hostEmail needs an admin scope.")
        return (self.email or self.caller.email).casefold()


class World:
    """State and rules. Used from one thread; every moment comes from ``now``, in UTC."""

    def __init__(self, documents: Documents, *, now: Callable[[], datetime], seed: str | None = None) -> None:
        """Goes on with what is stored; a fresh world takes its identity from ``seed``, else from chance."""
        self.now = Clock(documents, now)
        self._documents = documents
        self.identity = next(iter(documents.read("identity", Identity).values()), None) or self._begin(seed)
        self.limits = documents.read("limits", Limits).get("", Limits())
        self._attempts = documents.read("attempts", Attempts)
        self.faults = Faults()
        self.ledger = Ledger(documents)
        self.outgoing = Outgoing(documents)
        self.webhooks = Webhooks(documents, self.identity, now=self.now)
        self.tokens = Tokens(documents, self.identity, now=self.now, limits=lambda: self.limits)
        self.guests = Guests(documents, self.identity, self.tokens)
        self.links = Links(documents, self.identity, now=self.now)
        self.registry = Registry(documents, self.identity, self.ledger, now=self.now)
        stored = documents.read("meeting", MeetingRecord).values()
        self._meetings = {meeting.id: meeting for meeting in sorted(stored, key=lambda meeting: meeting.n)}

    @classmethod
    def open(cls, path: Path | None, *, now: Callable[[], datetime], seed: str | None = None) -> World:
        """Open ``path`` (created where absent; ``None`` keeps all in memory). Raises sqlite3.Error where it cannot be had."""
        return cls(Documents(Store(path)), now=now, seed=seed)

    def close(self) -> None:
        """Close the file. What was not committed is forgotten."""
        self._documents.close()

    def commit(self) -> None:
        """Make every change since the last commit durable, then log it and wake whoever delivers."""
        self._documents.commit()

    @property
    def counters(self) -> Counters:
        """Everything ever counted."""
        return self._documents.counters

    def _begin(self, seed: str | None) -> Identity:
        identity = Identity(seed=seed or uuid.uuid4().hex, created=self.now())
        self._documents.put("identity", "", identity)
        self.commit()
        return identity

    @property
    def lag(self) -> timedelta:
        """How far behind all reads are."""
        return timedelta(seconds=self.limits.lag_seconds)

    def set_limits(self, limits: Limits) -> None:
        """From now on."""
        self.limits = limits
        self._documents.put("limits", "", limits)

    def take_quota(self, org: str) -> None:
        """One more attempt to schedule a meeting. Raises Refusal (429) beyond the limit of a day; refused ones count too."""
        limit = self.limits.meetings_per_day
        if limit is None:
            return
        now = self.now()
        recent = [moment for moment in self._attempts.get(org, Attempts()).moments if now - moment < timedelta(days=1)]
        self._attempts[org] = Attempts(moments=tuple([*recent, now][-limit - 1 :]))
        self._documents.put("attempts", org, self._attempts[org])
        if len(recent) >= limit:
            wait = timedelta(days=1) - (now - recent[0])
            raise Refusal(429, "Too many meetings were scheduled within 24 hours.", retry_after=wait.total_seconds())

    # -- which meeting -----------------------------------------------------------------------------------------------

    def meetings(self) -> Sequence[MeetingRecord]:
        """All of them, oldest first."""
        return tuple(self._meetings.values())

    def hosted(self, host: Host, *, everybody: bool = False) -> Sequence[MeetingRecord]:
        """Those of one host, or of ``everybody`` in the organisation. Raises Refusal (403)."""
        address = host.address
        mine = [meeting for meeting in self._meetings.values() if meeting.org == host.caller.org]
        return [meeting for meeting in mine if everybody or meeting.host.casefold() == address]

    def find_meeting(self, meeting_id: str, host: Host | None = None) -> MeetingRecord:
        """By the id of the series, of an occurrence or of an instance. Raises Refusal: 404, 403 for a host's address."""
        meeting = self._meetings.get(series_of(meeting_id) or "")
        if meeting is None or not _is_of(meeting, host):
            raise not_found("The meeting could not be found.")
        return meeting

    def find_series(self, meeting_id: str, host: Host | None = None) -> MeetingRecord:
        """By the id of the series alone: 400 for any other id, 404 for one that is not known."""
        if not is_series(meeting_id):
            raise not_allowed(meeting_id)
        return self.find_meeting(meeting_id, host)

    def find_occurrence(self, meeting: MeetingRecord, meeting_id: str) -> Occurrence | None:
        """The occurrence of that id; None for the id of the series itself. Raises Refusal: 400 for an instance, 404."""
        if is_series(meeting_id):
            return None
        if "_I_" in meeting_id:
            raise not_allowed(meeting_id)
        for occurrence in meetings.occurrences(meeting):
            if occurrence.id.casefold() == meeting_id.casefold():
                return occurrence
        raise not_found("The meeting could not be found.")

    # -- scheduling --------------------------------------------------------------------------------------------------

    def create_meeting(self, body: Mapping[str, Any], host: Host | None = None) -> MeetingRecord:
        """Schedule one; ``meetings.created`` will be told. Raises Refusal (400, 403)."""
        host = host or Host(Caller())
        settings = meetings.new_settings(body)
        start, end = meetings.times(body, now=self.now())
        n = self._documents.count(meetings=1).meetings
        meeting = MeetingRecord(
            id=self.identity.digest("meeting", n),
            n=n,
            settings=settings,
            start=start,
            end=end,
            created=self.now(),
            org=host.caller.org,
            host=host.address,
            app=host.caller.app,
        )
        return self._settle(meeting, "created", mail=body.get("sendEmail", True))

    def update_meeting(
        self, meeting_id: str, body: Mapping[str, Any], host: Host | None = None
    ) -> tuple[MeetingRecord, Occurrence | None]:
        """Change the fields given, of a series or of one occurrence of a recurring one.

        ``meetings.updated`` will be told, whether or not anything differs. Raises Refusal.
        """
        meeting = self.find_meeting(meeting_id, host)
        occurrence = self.find_occurrence(meeting, meeting_id)
        if meeting.stage is Stage.IN_PROGRESS:
            raise Refusal(400, "Meeting is in progress.")
        if occurrence is not None and "recurrence" in meeting.settings:
            changed = self._changed_occurrence(meeting, occurrence, body)
        else:
            changed = self._changed_series(meeting, body)
        self._documents.count(updates=1)
        settled = self._settle(changed, "updated", mail=body.get("sendEmail", True))
        if occurrence is None:
            return settled, None
        return settled, next((o for o in meetings.occurrences(settled) if o.id == occurrence.id), None)

    def _changed_series(self, meeting: MeetingRecord, body: Mapping[str, Any]) -> MeetingRecord:
        settings = meetings.changed_settings(meeting.settings, body)
        start, end = meetings.times(body, now=self.now(), current=(meeting.start, meeting.end))
        same = (start, end, settings.get("recurrence")) == (
            meeting.start,
            meeting.end,
            meeting.settings.get("recurrence"),
        )
        kept = meeting if same else msgspec.structs.replace(meeting, modified={}, cancelled=())
        stage = Stage.SCHEDULED if end > self.now() and not same else meeting.stage
        return msgspec.structs.replace(kept, settings=settings, start=start, end=end, stage=stage)

    def _changed_occurrence(
        self, meeting: MeetingRecord, occurrence: Occurrence, body: Mapping[str, Any]
    ) -> MeetingRecord:
        settings = meetings.changed_settings(occurrence.settings, {k: v for k, v in body.items() if k != "recurrence"})
        start, end = meetings.times(body, now=self.now(), current=(occurrence.start, occurrence.end))
        ids = [each.id for each in meetings.occurrences(meeting)]
        place = ids.index(occurrence.id)
        others = list(meetings.occurrences(meeting))
        before, after = others[:place], others[place + 1 :]
        if (before and start < before[-1].end) or (after and end > after[0].start):
            raise Refusal(400, "An occurrence cannot be moved across another one of its series.")
        change = Change(settings=settings, start=start, end=end)
        return msgspec.structs.replace(meeting, modified={**meeting.modified, occurrence.id: change})

    def delete_meeting(self, meeting_id: str, host: Host | None = None, *, mail: bool = False) -> None:
        """Remove one with its registrants, or one occurrence; ``meetings.deleted`` will be told. Effects stay in the ledger."""
        meeting = self.find_meeting(meeting_id, host)
        occurrence = self.find_occurrence(meeting, meeting_id)
        self.ledger.affect_meeting(meeting.id, "deleted", mail=mail)
        if occurrence is not None and len(list(meetings.occurrences(meeting))) > 1:
            modified = {id_: change for id_, change in meeting.modified.items() if id_ != occurrence.id}
            cancelled = (*meeting.cancelled, occurrence.id)
            self._keep(msgspec.structs.replace(meeting, modified=modified, cancelled=cancelled))
        else:
            self._remove(meeting)
        self._tell_meeting("deleted", meeting)

    def forget_meeting(self, meeting: MeetingRecord) -> None:
        """Remove one without a word, effects included: Webex deletes old meetings by itself."""
        self.ledger.forget(meeting.id, self._remove(meeting))

    def _remove(self, meeting: MeetingRecord) -> Sequence[str]:
        del self._meetings[meeting.id]
        self._documents.put("meeting", meeting.id, None)
        return self.registry.close(meeting)

    def set_registration(self, meeting: MeetingRecord, form: Mapping[str, Any] | None) -> MeetingRecord:
        """The form from now on; None: nobody can register any more. Whether Webex tells of it is not known: it is not told."""
        settings = {name: value for name, value in meeting.settings.items() if name != "registration"}
        if form is not None:
            settings["registration"] = dict(form)
        changed = msgspec.structs.replace(meeting, settings=settings)
        self._keep(changed)
        return changed

    # -- held --------------------------------------------------------------------------------------------------------

    def start_meeting(self, meeting: MeetingRecord) -> MeetingRecord:
        """An instance begins now; ``meetings.started`` will be told. Raises Refusal: 400 in progress already, 403 licence."""
        if meeting.stage is Stage.IN_PROGRESS:
            raise Refusal(400, "The meeting has been started already.")
        if self.limits.licence is not None and self.in_progress(meeting.org) >= self.limits.licence:
            raise Refusal(403, "The licence does not allow another meeting at the same time.")
        current = meetings.current_occurrence(meeting, now=self.now())
        n = self._documents.count(instances=1).instances
        instance = Instance(
            id=f"{meeting.id}_I_{int(self.identity.digest('instance', n)[:14], 16)}",
            occurrence=current.id if current else meeting.occurrence,
            start=self.now(),
        )
        instances = (*meeting.instances, instance)
        return self._settle(msgspec.structs.replace(meeting, stage=Stage.IN_PROGRESS, instances=instances), "started")

    def end_meeting(self, meeting: MeetingRecord) -> MeetingRecord:
        """Its instance is over; ``meetings.ended`` will be told. Raises Refusal (400) where it is not in progress."""
        if meeting.stage is not Stage.IN_PROGRESS:
            raise Refusal(400, "The meeting is not in progress.")
        last = msgspec.structs.replace(meeting.instances[-1], end=self.now())
        to_come = [o for o in meetings.occurrences(meeting) if o.end > self.now() and o.id != last.occurrence]
        stage = Stage.SCHEDULED if to_come else Stage.ENDED
        instances = (*meeting.instances[:-1], last)
        return self._settle(msgspec.structs.replace(meeting, stage=stage, instances=instances), "ended")

    def in_progress(self, org: str) -> int:
        """How many meetings of an organisation are."""
        return sum(m.org == org and m.stage is Stage.IN_PROGRESS for m in self._meetings.values())

    def advance(self) -> int:
        """Start and end what the clock says, and count that.

        Hosts come in time; a Service App's meetings wait for somebody with the link.
        """
        now, told = self.now(), self.counters.notifications
        for meeting in self.meetings():
            begun = meeting
            if meeting.stage is Stage.SCHEDULED and not meeting.app and _is_due(meeting, now=now):
                with contextlib.suppress(Refusal):
                    begun = self.start_meeting(meeting)
            if begun.stage is Stage.IN_PROGRESS and _has_run_out(begun, now=now):
                self.end_meeting(begun)
        return self.counters.notifications - told

    # -- telling -----------------------------------------------------------------------------------------------------

    def tell(self, resource: str, event: str, about: str, data: Mapping[str, Any], *, org: str = "") -> None:
        """Queue the webhooks of one event: for every registration that hears of it, and one for the address of the sandbox."""
        fault = self.faults.take_webhook(event)
        kind = fault.webhook if fault else ""
        if kind == "lose":
            return
        hooks = ("", *(hook.id for hook in self.webhooks.hearing(resource, event, data, org=org)))
        for hook in hooks * (fault.copies if fault and kind == "duplicate" else 1):
            self.outgoing.add(
                Notification(
                    n=0,
                    event=event,
                    meeting=about,
                    data=dict(data),
                    resource=resource,
                    org=org,
                    hook=hook,
                    late=fault.seconds if fault and kind == "late" else 0.0,
                    swapped=kind == "reorder",
                )
            )

    def organization(self, org: str) -> str:
        """The public id of an organisation; "" is the world's own."""
        return org or self.identity.organization

    def own(self, organization: str) -> str:
        """How the world keeps a public id of an organisation: "" for its own."""
        return "" if organization == self.identity.organization else organization

    def _settle(self, meeting: MeetingRecord, event: str, *, mail: bool = False) -> MeetingRecord:
        kept = self._keep(meeting)
        self.ledger.affect_meeting(meeting.id, event, mail=mail)
        self._tell_meeting(event, kept)
        return kept

    def _keep(self, meeting: MeetingRecord) -> MeetingRecord:
        known = self._meetings.get(meeting.id)
        before = None if known is None else msgspec.structs.replace(known, before=None)
        kept = msgspec.structs.replace(meeting, before=before, changed=self.now())
        self._meetings[meeting.id] = kept
        self._documents.put("meeting", meeting.id, kept)
        return kept

    def _tell_meeting(self, event: str, meeting: MeetingRecord) -> None:
        data = meetings.thin_object(meeting, self.identity, event=event, org=_uuid(self.organization(meeting.org)))
        self.tell("meetings", event, meeting.id, data, org=meeting.org)
        self._documents.note(f"sandbox.meeting_{event}", meeting_id=meeting.id)


def not_allowed(meeting_id: str) -> Refusal:
    """400 for an id of the wrong kind, in Webex's words."""
    return Refusal(400, f"Meeting ID '{meeting_id[:80]}' is not allowed for this API.")


def _is_of(meeting: MeetingRecord, host: Host | None) -> bool:
    return host is None or (meeting.org == host.caller.org and meeting.host.casefold() == host.address)


def _is_due(meeting: MeetingRecord, *, now: datetime) -> bool:
    """The latest occurrence that should have begun was not held."""
    due = list(itertools.takewhile(lambda occurrence: occurrence.start <= now, meetings.occurrences(meeting)))
    return bool(due) and all(instance.occurrence != due[-1].id for instance in meeting.instances)


def _has_run_out(meeting: MeetingRecord, *, now: datetime) -> bool:
    held = meeting.instances[-1]
    ends = [occurrence.end for occurrence in meetings.occurrences(meeting) if occurrence.id == held.occurrence]
    return (ends[0] if ends else meeting.end) <= now


def _uuid(organization: str) -> str:
    """The last part of a public id: ``data.orgId`` is a bare UUID in Cisco's sample."""
    try:
        padded = organization + "=" * (-len(organization) % 4)
        return base64.b64decode(padded, validate=True).decode().rpartition("/")[2]
    except ValueError:
        return organization
