"""Who registered for which meeting, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from service.sandbox import people, registration
from service.sandbox.documents import Documents
from service.sandbox.ledger import Ledger
from service.sandbox.records import Identity, MeetingRecord, RegistrantRecord, Stage, Status
from service.sandbox.refusals import Refusal, not_found

#: approve, reject, cancel → the status after it.
VERBS = {"approve": Status.APPROVED, "reject": Status.REJECTED, "cancel": Status.PENDING}


class Registry:
    """The registrants of every meeting. Changes become durable with the world's next commit."""

    def __init__(
        self, documents: Documents, identity: Identity, ledger: Ledger, *, now: Callable[[], datetime]
    ) -> None:
        self._documents = documents
        self._identity = identity
        self._ledger = ledger
        self._now = now
        self._registrants: dict[str, dict[str, RegistrantRecord]] = {}
        self._emails: dict[str, set[str]] = {}
        stored = documents.read("registrant", RegistrantRecord).values()
        for registrant in sorted(stored, key=lambda registrant: registrant.n):
            self._keep(registrant)

    def of(self, meeting: MeetingRecord) -> Sequence[RegistrantRecord]:
        """Those of one meeting, in the order in which they came. Raises Refusal (400) where nobody can register."""
        if meeting.registration is None:
            raise Refusal(400, "Registration is not enabled for this meeting.")
        return tuple(self._known(meeting).values())

    def find(self, meeting: MeetingRecord, registrant_id: str) -> RegistrantRecord:
        """Raises Refusal (404)."""
        registrant = self._known(meeting).get(registrant_id)
        if registrant is None:
            raise not_found("The registrant could not be found.")
        return registrant

    def register(
        self, meeting: MeetingRecord, form: Mapping[str, Any], *, mail: bool = False, ago: timedelta = timedelta(0)
    ) -> RegistrantRecord:
        """Register one, ``ago`` before now; ``mail``: tell them. Raises Refusal: 400 for a form, 409 for a known address."""
        self.check_room(meeting, [form])
        n = self._documents.count(registered=1).registered
        status = registration.first_status(meeting.registration or {}, form)
        moment = (self._now() - ago).replace(microsecond=0)
        registrant = RegistrantRecord(
            id=self._identity.uuid("registrant", n),
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
        self._ledger.affect(registrant, mail="registered" if mail else "")
        self._documents.note("sandbox.registered", meeting_id=meeting.id, registrant_id=registrant.id)
        return registrant

    def register_people(
        self, meeting: MeetingRecord, count: int, *, domain: str | None = None, spread: timedelta = timedelta(0)
    ) -> Sequence[RegistrantRecord]:
        """That many invented people, at once or as if over the last ``spread``. Raises Refusal."""
        first = self._documents.counters.registered + 1
        seed = self._identity.seed
        forms = [people.invent(n, seed=seed, domain=domain) for n in range(first, first + count)]
        self.check_room(meeting, forms)
        return [self.register(meeting, form, ago=spread * (count - i) / count) for i, form in enumerate(forms, 1)]

    def check_room(self, meeting: MeetingRecord, forms: Sequence[Mapping[str, Any]]) -> None:
        """All of ``forms`` can register, or Refusal: no registration, meeting over, full, or an address known already."""
        if meeting.registration is None or meeting.stage is Stage.ENDED or meeting.end <= self._now():
            raise Refusal(400, "Registration is not enabled for this meeting.")
        capacity = meeting.registration.get("maxRegisterNum")
        taken = sum(one.status == "approved" for one in self._known(meeting).values())
        if capacity is not None and taken + len(forms) > capacity:
            raise Refusal(400, "The maximum number of registrants has been reached.")
        emails = [str(form["email"]).casefold() for form in forms]
        if len(set(emails)) < len(emails) or not self._emails.get(meeting.id, set()).isdisjoint(emails):
            raise Refusal(409, "Some users in the list have been registered.")

    def change_status(
        self, meeting: MeetingRecord, verb: str, ids: Sequence[str], *, send_email: bool
    ) -> Sequence[RegistrantRecord]:
        """approve, reject or cancel. Ids that are not known are passed over: nothing tells the caller, as a 204 cannot."""
        known = self._known(meeting)
        changed = [self._change(known[id_], verb, send_email=send_email) for id_ in ids if id_ in known]
        self._documents.note("sandbox.batch_taken", verb=verb, meeting_id=meeting.id, registrants=len(changed))
        return changed

    def _change(self, registrant: RegistrantRecord, verb: str, *, send_email: bool) -> RegistrantRecord:
        after = msgspec.structs.replace(registrant, status=VERBS[verb], previous=registrant.status, changed=self._now())
        if after.status is registrant.status:
            counter, after = "repeated", registrant
        elif registrant.status is Status.PENDING:
            counter = str(after.status)
        else:
            counter = "cancelled" if after.status is Status.PENDING else "other"
        self._registrants[registrant.meeting][registrant.id] = after
        self._documents.put("registrant", registrant.id, after)
        self._ledger.affect(registrant, counter, mail=verb if send_email else "")
        return after

    def delete(self, meeting: MeetingRecord, ids: Iterable[str], *, mail: bool = False) -> None:
        """Remove those that are known; what was done to them stays in the ledger."""
        known = self._known(meeting)
        for id_ in ids:
            registrant = known.pop(id_, None)
            if registrant is not None:
                self._emails[meeting.id].discard(registrant.email)
                self._documents.put("registrant", id_, None)
                if mail:
                    self._ledger.affect(registrant, mail="delete")

    def close(self, meeting: MeetingRecord) -> Sequence[str]:
        """The meeting is gone, and everybody with it. Returns who that was."""
        self._emails.pop(meeting.id, None)
        gone = tuple(self._registrants.pop(meeting.id, ()))
        for registrant_id in gone:
            self._documents.put("registrant", registrant_id, None)
        return gone

    def statuses(self) -> Mapping[str, str]:
        """Every registrant there is, with the status."""
        return {r.id: str(r.status) for those in self._registrants.values() for r in those.values()}

    def _known(self, meeting: MeetingRecord) -> dict[str, RegistrantRecord]:
        return self._registrants.get(meeting.id, {})

    def _keep(self, registrant: RegistrantRecord) -> None:
        self._registrants.setdefault(registrant.meeting, {})[registrant.id] = registrant
        self._emails.setdefault(registrant.meeting, set()).add(registrant.email)
