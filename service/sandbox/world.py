"""The simulated Webex itself: its meetings and who registered, and the rules of both.

No I/O but through its documents. Methods that change something take effect in memory at once; ``commit`` makes all changes
since the last one durable together and only then logs them. A request is answered after its commit, never before.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from service.core.identifiers import is_series, series_of
from service.sandbox import meetings, people, registrants
from service.sandbox.documents import Documents
from service.sandbox.ledger import Ledger
from service.sandbox.outgoing import Outgoing
from service.sandbox.records import Counters, Identity, MeetingRecord, RegistrantRecord, Stage, Status
from service.sandbox.refusals import Refusal, invalid, not_found
from service.sandbox.store import Store

#: approve, reject, cancel → the status after it.
VERBS = {"approve": Status.APPROVED, "reject": Status.REJECTED, "cancel": Status.PENDING}


class World:
    """State and rules. Used from one thread; every moment comes from ``now``, in UTC."""

    def __init__(self, documents: Documents, *, now: Callable[[], datetime], seed: str | None = None) -> None:
        """Goes on with what is stored; a fresh world takes its identity from ``seed``, else from chance."""
        self.now = now
        self._documents = documents
        self.identity = next(iter(documents.read("identity", Identity).values()), None) or self._begin(seed)
        self.ledger = Ledger(documents)
        self.outgoing = Outgoing(documents)
        self._load()

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

    def _load(self) -> None:
        stored = self._documents.read("meeting", MeetingRecord).values()
        self._meetings = {meeting.id: meeting for meeting in sorted(stored, key=lambda meeting: meeting.n)}
        self._registrants: dict[str, dict[str, RegistrantRecord]] = {id_: {} for id_ in self._meetings}
        self._emails: dict[str, set[str]] = {id_: set() for id_ in self._meetings}
        people_stored = self._documents.read("registrant", RegistrantRecord).values()
        for registrant in sorted(people_stored, key=lambda registrant: registrant.n):
            self._keep(registrant)

    # -- meetings ----------------------------------------------------------------------------------------------------

    def meetings(self) -> Sequence[MeetingRecord]:
        """All of them, oldest first."""
        return tuple(self._meetings.values())

    def find_meeting(self, meeting_id: str) -> MeetingRecord:
        """By the id of the series, of its occurrence or of its instance. Raises Refusal (404)."""
        meeting = self._meetings.get(series_of(meeting_id) or "")
        if meeting is None:
            raise not_found("The meeting could not be found.")
        return meeting

    def find_series(self, meeting_id: str) -> MeetingRecord:
        """By the id of the series alone: 400 for any other id, 404 for one that is not known."""
        if not is_series(meeting_id):
            raise Refusal(400, f"Meeting ID '{meeting_id[:80]}' is not allowed for this API.")
        return self.find_meeting(meeting_id)

    def create_meeting(self, body: Mapping[str, Any]) -> MeetingRecord:
        """Schedule one; ``meetings.created`` will be told. Raises Refusal (400)."""
        settings = meetings.new_settings(body)
        start, end = meetings.times(body, now=self.now())
        n = self._documents.count(meetings=1).meetings
        meeting = MeetingRecord(
            id=self.identity.digest("meeting", n), n=n, settings=settings, start=start, end=end, created=self.now()
        )
        self._registrants[meeting.id], self._emails[meeting.id] = {}, set()
        self._settle_meeting(meeting, "created")
        return meeting

    def update_meeting(self, meeting_id: str, body: Mapping[str, Any]) -> MeetingRecord:
        """Change the fields given; ``meetings.updated`` will be told, whether or not anything differs. Raises Refusal."""
        meeting = self.find_meeting(meeting_id)
        if meeting_id not in (meeting.id, meeting.occurrence):
            raise Refusal(400, f"Meeting ID '{meeting_id[:80]}' is not allowed for this API.")
        if meeting.stage is Stage.IN_PROGRESS:
            raise Refusal(400, "Meeting is in progress.")
        settings = meetings.patched_settings(meeting.settings, body)
        start, end = meetings.times(body, now=self.now(), current=meeting)
        self._documents.count(updates=1)
        return self._settle_meeting(
            msgspec.structs.replace(meeting, settings=settings, start=start, end=end), "updated"
        )

    def delete_meeting(self, meeting_id: str) -> None:
        """Remove one with its registrants; ``meetings.deleted`` will be told. What was done to them stays in the ledger."""
        meeting = self.find_meeting(meeting_id)
        self._remove(meeting)
        self._tell("deleted", meeting)

    def forget_meeting(self, meeting: MeetingRecord) -> None:
        """Remove one without a word, effects included: Webex deletes old meetings by itself."""
        self.ledger.forget(self._registrants[meeting.id])
        self._remove(meeting)

    def _remove(self, meeting: MeetingRecord) -> None:
        del self._meetings[meeting.id], self._emails[meeting.id]
        self._documents.put("meeting", meeting.id, None)
        for registrant in self._registrants.pop(meeting.id):
            self._documents.put("registrant", registrant, None)

    def start_meeting(self, meeting: MeetingRecord) -> MeetingRecord:
        """Its instance begins now; ``meetings.started`` will be told. Raises Refusal (400) where it has begun already."""
        if meeting.stage is not Stage.SCHEDULED:
            raise Refusal(400, "The meeting has been started already.")
        instance = f"{meeting.id}_I_{int(self.identity.digest('instance', meeting.n)[:14], 16)}"
        return self._settle_meeting(
            msgspec.structs.replace(meeting, stage=Stage.IN_PROGRESS, instance=instance), "started"
        )

    def end_meeting(self, meeting: MeetingRecord) -> MeetingRecord:
        """Its instance is over; ``meetings.ended`` will be told. Raises Refusal (400) where it is not in progress."""
        if meeting.stage is not Stage.IN_PROGRESS:
            raise Refusal(400, "The meeting is not in progress.")
        return self._settle_meeting(msgspec.structs.replace(meeting, stage=Stage.ENDED), "ended")

    def advance(self) -> None:
        """Start and end what the clock says."""
        now = self.now()
        for meeting in self.meetings():
            begun = (
                self.start_meeting(meeting) if meeting.stage is Stage.SCHEDULED and meeting.start <= now else meeting
            )
            if begun.stage is Stage.IN_PROGRESS and begun.end <= now:
                self.end_meeting(begun)

    def _settle_meeting(self, meeting: MeetingRecord, event: str) -> MeetingRecord:
        self._meetings[meeting.id] = meeting
        self._documents.put("meeting", meeting.id, meeting)
        self._tell(event, meeting)
        return meeting

    def _tell(self, event: str, meeting: MeetingRecord) -> None:
        self.outgoing.add(event, meeting.id, meetings.thin_object(meeting, self.identity, event=event))
        self._documents.note(f"sandbox.meeting_{event}", meeting_id=meeting.id)

    # -- registrants -------------------------------------------------------------------------------------------------

    def registrants(self, meeting: MeetingRecord) -> Sequence[RegistrantRecord]:
        """Those of one meeting, in the order in which they came. Raises Refusal (400) where nobody can register."""
        if meeting.registration is None:
            raise Refusal(400, "Registration is not enabled for this meeting.")
        return tuple(self._registrants[meeting.id].values())

    def find_registrant(self, meeting: MeetingRecord, registrant_id: str) -> RegistrantRecord:
        """Raises Refusal (404)."""
        registrant = self._registrants[meeting.id].get(registrant_id)
        if registrant is None:
            raise not_found("The registrant could not be found.")
        return registrant

    def register(
        self, meeting: MeetingRecord, form: Mapping[str, Any], *, mail: bool = False, ago: timedelta = timedelta(0)
    ) -> RegistrantRecord:
        """Register one, ``ago`` before now; ``mail``: tell them. Raises Refusal: 400 for a form, 409 for a known address."""
        self.check_room(meeting, [form])
        n = self._documents.count(registered=1).registered
        status = (
            Status.APPROVED if meeting.registration and meeting.registration["autoAcceptRequest"] else Status.PENDING
        )
        moment = (self.now() - ago).replace(microsecond=0)
        registrant = RegistrantRecord(
            id=self.identity.uuid("registrant", n),
            n=n,
            meeting=meeting.id,
            form=dict(form),
            status=status,
            registered=moment,
            previous=status,
            changed=moment,
        )
        self._keep(registrant)
        self._documents.put("registrant", registrant.id, registrant)
        self.ledger.affect(registrant, mail="registered" if mail else "")
        self._documents.note("sandbox.registered", meeting_id=meeting.id, registrant_id=registrant.id)
        return registrant

    def register_people(
        self, meeting: MeetingRecord, count: int, *, domain: str | None = None, spread: timedelta = timedelta(0)
    ) -> Sequence[RegistrantRecord]:
        """That many invented people, at once or as if over the last ``spread``. Raises Refusal."""
        first = self.counters.registered + 1
        forms = [people.invent(n, seed=self.identity.seed, domain=domain) for n in range(first, first + count)]
        self.check_room(meeting, forms)
        return [self.register(meeting, form, ago=spread * (count - i) / count) for i, form in enumerate(forms, 1)]

    def check_room(self, meeting: MeetingRecord, forms: Sequence[Mapping[str, Any]]) -> None:
        """All of ``forms`` can register, or Refusal: no registration, meeting over, full, or an address known already."""
        if meeting.registration is None or meeting.stage is Stage.ENDED:
            raise Refusal(400, "Registration is not enabled for this meeting.")
        capacity = meeting.registration.get("maxRegisterNum")
        if isinstance(capacity, int) and len(self._registrants[meeting.id]) + len(forms) > capacity:
            raise Refusal(400, "The maximum number of registrants has been reached.")
        emails = [str(form["email"]).casefold() for form in forms]
        if len(set(emails)) < len(emails) or not self._emails[meeting.id].isdisjoint(emails):
            raise Refusal(409, "Some users in the list have been registered.")

    def change_status(
        self, meeting: MeetingRecord, verb: str, ids: Sequence[str], *, send_email: bool
    ) -> Sequence[RegistrantRecord]:
        """approve, reject or cancel. Ids that are not known are passed over: nothing tells the caller, as a 204 cannot."""
        known = self._registrants[meeting.id]
        changed = [self._change(known[id_], verb, send_email=send_email) for id_ in ids if id_ in known]
        self._documents.note("sandbox.batch_taken", verb=verb, meeting_id=meeting.id, registrants=len(changed))
        return changed

    def _change(self, registrant: RegistrantRecord, verb: str, *, send_email: bool) -> RegistrantRecord:
        after = msgspec.structs.replace(registrant, status=VERBS[verb], previous=registrant.status, changed=self.now())
        if after.status is registrant.status:
            counter, after = "repeated", registrant
        elif registrant.status is Status.PENDING:
            counter = str(after.status)
        else:
            counter = "cancelled" if after.status is Status.PENDING else "other"
        self._registrants[registrant.meeting][registrant.id] = after
        self._documents.put("registrant", registrant.id, after)
        self.ledger.affect(registrant, counter, mail=verb if send_email else "")
        return after

    def delete_registrants(self, meeting: MeetingRecord, ids: Iterable[str]) -> None:
        """Remove those that are known; what was done to them stays in the ledger."""
        for id_ in ids:
            registrant = self._registrants[meeting.id].pop(id_, None)
            if registrant is not None:
                self._emails[meeting.id].discard(registrant.email)
                self._documents.put("registrant", id_, None)

    def _keep(self, registrant: RegistrantRecord) -> None:
        self._registrants[registrant.meeting][registrant.id] = registrant
        self._emails[registrant.meeting].add(registrant.email)

    def statuses(self) -> Mapping[str, str]:
        """Every registrant there is, with the status."""
        return {r.id: str(r.status) for those in self._registrants.values() for r in those.values()}

    def view(self, registrant: RegistrantRecord, *, lag: timedelta = timedelta(0)) -> dict[str, Any]:
        """A registrant as lists show it; a change younger than ``lag`` is not visible yet."""
        return registrants.shown(registrant, changed_before=self.now() - lag)


def batch_ids(body: Mapping[str, Any], *, limit: int) -> Sequence[str]:
    """``registrants: [{"id"}]`` of approve, reject, cancel and bulkDelete. Raises Refusal (400)."""
    entries = body.get("registrants")
    if not isinstance(entries, list) or not 1 <= len(entries) <= limit:
        raise invalid(f"registrants must hold 1 to {limit} entries.")
    ids = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(id_, str) and id_ for id_ in ids):
        raise invalid("Every registrant has an id.")
    return [str(id_) for id_ in ids]
