"""What another policy would have decided about people who registered already: a replay of the facts that were published.

Each registrant whom the facts show is judged once, in the order of registration, as pending and at the time when they
registered. How full a meeting is follows from the replay itself, so it begins at nobody. People whom a person or a command
decided are left as they are, and take their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.core.event import CloudEvent, decode
from service.core.meetings import Meeting, moment
from service.core.message import UNREADABLE
from service.core.policy import Counts, Policy, Rule
from service.core.registrants import Registrant

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

#: What was decided, by the verb of the fact.
_OUTCOMES = {"approved": "approve", "rejected": "reject", "held": "hold", "waitlisted": "waitlist"}

#: Outcomes that another version of the policy may still change: nobody who was approved or rejected is decided again.
UNDECIDED = ("hold", "waitlist", "none")


class Case(msgspec.Struct):
    """One registrant as the facts show them. ``outcome`` is ``none`` where nothing was decided; ``by`` is who decided, and
    ``decided`` when (RFC 3339). ``proposed``: shadow mode only said so, and nobody did it.
    """

    series: str
    id: str
    at: datetime
    fields: bytes = b"{}"
    outcome: str = "none"
    rule: str = ""
    by: str = ""
    decided: str = ""
    proposed: bool = False
    gone: bool = False

    def __repr__(self) -> str:
        return f"Case(series={self.series!r}, id={self.id!r}, outcome={self.outcome!r})"  # the rest is a person

    @property
    def registrant(self) -> Registrant:
        """As they were when they were pending."""
        fields = {**msgspec.json.decode(self.fields), "status": "pending"}
        email = fields.get("email")
        address = email if isinstance(email, str) else ""
        return Registrant(id=self.id, status="pending", email=address, registered=self.at, fields=fields)


class Cases:
    """Add the records of ``registrants``, those of each partition in order."""

    def __init__(self) -> None:
        self._cases: dict[tuple[str, str], Case] = {}
        self.unreadable = 0

    def add(self, value: bytes | None) -> None:
        """One record; what is no fact about a registrant counts as unreadable."""
        try:
            event = decode(value or b"")
        except UNREADABLE:
            self.unreadable += 1
            return
        id_ = event.data.get("id")
        if event.type.startswith("webex.registrant.") and isinstance(id_, str):
            self._note(event, id_)

    def _note(self, event: CloudEvent, id_: str) -> None:
        key = (event.partitionkey, id_)
        case = self._cases.get(key)
        what = event.type.split(".")[2]
        back = case is not None and case.gone and what != "deleted"
        if case is None or back:  # whoever comes back is new: what was decided went with them
            case = self._cases[key] = Case(series=key[0], id=id_, at=moment(event.time) or _LONG_AGO)
        _tell(case, what, event)

    def in_order(self) -> list[Case]:
        """Everybody who is still there, as they registered."""
        there = [case for case in self._cases.values() if not case.gone]
        return sorted(there, key=lambda case: (case.at, case.series, case.id))


def _tell(case: Case, what: str, event: CloudEvent) -> None:
    data = event.data
    decision = data.get("decision")
    said: Mapping[str, Any] = decision if isinstance(decision, Mapping) else {}
    if what == "deleted":
        case.gone = True
        return
    case.fields = msgspec.json.encode({name: value for name, value in data.items() if name != "decision"})
    if what == "proposed":
        case.outcome = str(said.get("outcome", "none"))
    elif what == "cancelled":
        case.outcome = "none"
    elif what in _OUTCOMES:
        case.outcome = _OUTCOMES[what]
    else:
        return  # registered, updated: no decision
    case.proposed = what == "proposed"
    case.rule, case.by, case.decided = str(said.get("rule", "")), str(said.get("by", "")), event.time


def unknown(series: Iterable[str], policy: Policy, meetings: Mapping[str, Meeting]) -> list[str]:
    """The meetings of ``series`` of which too little is known to judge anybody by ``policy``: nothing; or no title, where a
    rule about registrants is for meetings of some title only, or its condition may read the title.
    """
    titled = any(_asks_for_title(rule) for rule in policy.rules)
    known = {each for each, meeting in meetings.items() if meeting.title or not titled}
    return sorted(set(series) - known)


def _asks_for_title(rule: Rule) -> bool:
    read = rule.condition.reads["meeting"]
    return rule.scope.title is not None or read is None or "title" in read


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one registrant, and what would have. ``people``: a person or a command decided, and it stays.
    ``proposed``: what became of them was only said by shadow mode.
    """

    series: str
    id: str
    before: str
    before_rule: str
    after: str
    rule: str
    people: bool = False
    proposed: bool = False

    @property
    def changed(self) -> bool:
        """Whether the other policy says something else."""
        return not self.people and self.before != self.after

    @property
    def open(self) -> bool:
        """Whether nobody has decided it yet."""
        return self.proposed or self.before in UNDECIDED


def judged(cases: Iterable[Case], policy: Policy, meetings: Mapping[str, Meeting]) -> Iterator[Judged]:
    """``cases`` in their order under ``policy``. A meeting that is not known has no title, host or capacity."""
    rooms: dict[str, _Room] = {}
    for case in cases:
        if (room := rooms.get(case.series)) is None:
            known = meetings.get(case.series)
            room = rooms[case.series] = _Room(known or Meeting(id=case.series, title="", fields={}))
        yield room.judge(case, policy)


class _Room:
    """A meeting as it fills up in the replay."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting, self._capacity = meeting, capacity_of(meeting)
        self._approved = self._pending = 0

    def judge(self, case: Case, policy: Policy) -> Judged:
        people = case.by not in ("", "policy")
        after, rule = (case.outcome, "") if people else self._decide(case, policy)
        self._approved += after == "approve"
        self._pending += after in UNDECIDED
        return Judged(
            series=case.series,
            id=case.id,
            before=case.outcome,
            before_rule=case.rule,
            after=after,
            rule=rule,
            people=people,
            proposed=case.proposed,
        )

    def _decide(self, case: Case, policy: Policy) -> tuple[str, str]:
        counts = Counts(approved=self._approved, pending=self._pending + 1, capacity=self._capacity)
        decision = policy.decide(case.registrant, meeting=self._meeting, counts=counts, now=case.at)
        return str(decision.outcome), decision.rule


def capacity_of(meeting: Meeting) -> int | None:
    """How many the registration form lets in; None for no limit, or where the form is not known."""
    form = meeting.fields.get("registration")
    most = form.get("maxRegisterNum") if isinstance(form, Mapping) else None
    return most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else None


class Difference(msgspec.Struct, kw_only=True, rename="camel"):
    """Registrants for whom the same would change. ``rule`` is that of the new policy, "" for its default.

    ``open``: so many of them are still undecided, so that the new policy would really change them.
    """

    rule: str
    before: str
    before_rule: str
    after: str
    count: int = 0
    open: int = 0
    registrants: list[str] = msgspec.field(default_factory=list)


def differences(results: Iterable[Judged]) -> list[Difference]:
    """The changes, those of one rule together; ``registrants`` are ``<series>/<registrant>``."""
    groups: dict[tuple[str, str, str, str], Difference] = {}
    for each in (result for result in results if result.changed):
        key = (each.rule, each.before, each.before_rule, each.after)
        if (found := groups.get(key)) is None:
            rule, before, before_rule, after = key
            found = groups[key] = Difference(rule=rule, before=before, before_rule=before_rule, after=after)
        found.count += 1
        found.open += each.open
        found.registrants.append(f"{each.series}/{each.id}")
    return [groups[key] for key in sorted(groups)]


class Meetings:
    """What the topic ``meetings`` tells of each series: add its records; the last word about a field counts.

    Webhooks tell host, site and times; neither the title nor the registration form (webex-facts: "Not in data").
    """

    def __init__(self) -> None:
        self._fields: dict[str, dict[str, Any]] = {}

    def add(self, value: bytes | None) -> None:
        """One record; others than those about meetings are passed over."""
        try:
            event = decode(value or b"")
        except UNREADABLE:
            return
        if not event.type.startswith("webex.meeting."):
            return
        raw = event.data.get("raw")
        fields = {name: field for name, field in event.data.items() if name not in ("raw", "webhook")}
        told = {**(raw if isinstance(raw, dict) else {}), **fields}
        before = self._fields.get(event.partitionkey, {})
        of_instance = event.type.split(".")[2] in ("started", "ended")  # its times are not those of the series
        self._fields[event.partitionkey] = {**told, **before} if of_instance else {**before, **told}

    def known(self) -> dict[str, Meeting]:
        """By series."""
        return {
            series: Meeting(id=series, title=str(fields.get("title") or ""), fields={**fields, "id": series})
            for series, fields in self._fields.items()
        }
