"""What the meeting rules want of one meeting, beside what Webex shows and what we did before: the smallest change, or none.

:func:`plan` decides; the other functions say what to remember before a write, after it, and where it was refused. Each
returns a new record; nothing here writes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import structs

from service.core.event import CloudEvent, event_id, new_event, source_of
from service.core.ledger import RuleRecord, RulesRecord
from service.core.meeting_fields import MASK, UNSEEN, digest, fields_of, is_secret, same, shown, told
from service.core.meetings import Meeting, in_progress
from service.core.wishes import Wish

#: REST may lag behind a write: until then, the old value says nothing (Webhooks guide: 10 minutes for 99.5 %).
SETTLING = timedelta(minutes=15)

#: Writes of one field within an hour; one more, and somebody else writes it again and again.
MOST_WRITES = 3
_HOUR = timedelta(hours=1)

#: How long a meeting stays parked, unless the policy changes.
PARKED = timedelta(hours=24)

#: A meeting in progress is looked at again after so many seconds.
IN_PROGRESS = 60.0

_OVER = frozenset({"ended", "missed", "expired"})

Known = Literal["same", "done", "finished", "settled", "waiting", "yielded", "retry", "write"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One field to be set. ``before`` is what Webex showed; nobody knows it any more where ``interrupted``: it was written by
    a process that ended before it could tell. ``at`` is when (ms since 1970) the write began, 0 before that.
    """

    field: str
    rule: str
    version: str
    reason: str
    before: Any
    after: Any
    notify: bool
    method: str
    once: bool
    interrupted: bool = False
    at: int = 0

    def __repr__(self) -> str:
        return f"Change(rule={self.rule!r}, field={self.field!r})"  # the values may be passwords

    @property
    def call(self) -> tuple[str, bool]:
        """Changes with the same one go in one call: its method, and whether Webex sends its e-mails."""
        return ("registration", False) if self.field.startswith("registration.") else (self.method, self.notify)


class Note(NamedTuple):
    """What a plan found about one field of one rule: why it is written, or why not.

    ``same`` (is so already) · ``done`` (once, and somebody set it since) · ``finished`` (an earlier process wrote it) ·
    ``settled`` (Webex made this of it) · ``waiting`` (written, not shown yet) · ``yielded`` (a person just set it) ·
    ``retry`` and ``write`` (to be written) · ``overruled`` (an earlier rule wants another value).
    """

    rule: str
    field: str
    what: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What follows. ``record`` is to be remembered whether or not anything is written.

    ``finished`` was written before and is only to be told. ``failures`` are rules without a result, by name, that nobody heard
    of yet. ``again`` is when (s) to look again; ``parked`` is the field that was written too often.
    """

    record: RulesRecord
    changes: tuple[Change, ...] = ()
    finished: tuple[Change, ...] = ()
    notes: tuple[Note, ...] = ()
    failures: Mapping[str, str] = {}
    again: float | None = None
    parked: str = ""


def changeable(meeting: Meeting) -> bool:
    """Whether Webex lets anybody change it at all, now or later: not when it is over, nor in a personal room."""
    kind = meeting.fields.get("scheduledType")
    return meeting.fields.get("state") not in _OVER and kind != "personalRoomMeeting"


def plan(
    meeting: Meeting,
    wishes: Iterable[Wish],
    record: RulesRecord | None,
    *,
    now: datetime,
    policy: str,
    edited: Set[str] = frozenset(),
) -> Plan:
    """Compare wishes and meeting. ``policy`` is the version; ``edited`` are fields that a person changed a moment ago."""
    kept = _unparked(record or RulesRecord(), now=now, policy=policy)
    if kept.parked is not None or not changeable(meeting):
        return Plan(record=kept)
    draft = _Draft(meeting, kept, now=now, edited=edited)
    for wish in wishes:
        draft.take(wish)
    made = draft.plan()
    often = [each.field for each in made.changes if len(made.record.writes.get(each.field, ())) >= MOST_WRITES]
    if often:
        parked = structs.replace(made.record, parked=now, policy=policy)
        return structs.replace(made, record=parked, changes=(), again=None, parked=often[0])
    if made.changes and in_progress(meeting):
        return structs.replace(made, changes=(), again=IN_PROGRESS)
    return made


def _unparked(record: RulesRecord, *, now: datetime, policy: str) -> RulesRecord:
    """Without the writes of more than an hour ago, and not parked any more where its time is over."""
    if record.parked is not None and (record.policy != policy or now - record.parked >= PARKED):
        return RulesRecord(rules=record.rules)
    recent = {field: tuple(at for at in times if now - at < _HOUR) for field, times in record.writes.items()}
    return structs.replace(record, writes={field: times for field, times in recent.items() if times})


class _Intent(NamedTuple):
    """What we know of our last write of a field: ``asked`` (about to be written; ``other`` is a digest of what it was),
    ``sent`` (accepted, and still shown as ``other``), ``shown`` (accepted, and shown as ``other`` ever since), ``proposed``
    (told in shadow mode), or ``failed`` (of a rule; ``wanted`` is its sentence's digest).
    """

    kind: str
    wanted: str
    other: str
    at: int

    @classmethod
    def read(cls, text: str) -> _Intent | None:
        kind, *rest = text.split(":")
        if len(rest) != 3 or not rest[2].isdigit():
            return None
        return cls(kind, rest[0], rest[1], int(rest[2]))

    def __str__(self) -> str:
        return f"{self.kind}:{self.wanted}:{self.other}:{self.at}"


class _Draft:
    """Collects what one plan finds."""

    def __init__(self, meeting: Meeting, record: RulesRecord, *, now: datetime, edited: Set[str]) -> None:
        self._meeting, self._now, self._edited = meeting, now, edited
        self._rules, self._writes = dict(record.rules), dict(record.writes)
        self._claimed: dict[str, object] = {}
        self._changes: list[Change] = []
        self._finished: list[Change] = []
        self._notes: list[Note] = []
        self._failures: dict[str, str] = {}
        self._again: float | None = None

    def plan(self) -> Plan:
        return Plan(
            record=RulesRecord(rules=self._rules, writes=self._writes),
            changes=tuple(self._changes),
            finished=tuple(self._finished),
            notes=tuple(self._notes),
            failures=self._failures,
            again=self._again,
        )

    def take(self, wish: Wish) -> None:
        """Look at every field of one wish; the first wish that names a field has it."""
        known = _of_rule(self._rules, wish)
        done, intents = set(known.fields), {}
        if wish.failure:
            intents = {**known.intent, "": self._failed(wish, known)}
        for field, wanted in fields_of(wish.set):
            if field in self._claimed:
                self._overruled(wish, field, wanted)
                continue
            self._claimed[field] = wanted
            kept = self._field(wish, field, wanted, known, done)
            if kept is not None:
                intents[field] = str(kept)
        self._remember(wish, RuleRecord(version=wish.version, fields=tuple(sorted(done)), intent=intents))

    def _remember(self, wish: Wish, known: RuleRecord) -> None:
        if known.fields or known.intent:
            self._rules[wish.rule] = known
        else:
            self._rules.pop(wish.rule, None)

    def _failed(self, wish: Wish, known: RuleRecord) -> str:
        """Told once for each version of the rule and each kind of failure."""
        intent = _Intent("failed", digest("", wish.failure), "", 0)
        if known.intent.get("") != str(intent):
            self._failures[wish.rule] = wish.failure
        return str(intent)

    def _overruled(self, wish: Wish, field: str, wanted: object) -> None:
        if not same(field, wanted, self._claimed[field]):
            self._notes.append(Note(wish.rule, field, "overruled"))

    def _field(self, wish: Wish, field: str, wanted: object, known: RuleRecord, done: set[str]) -> _Intent | None:
        """Decide about one field; returns what stays remembered of our last write of it."""
        intent = _Intent.read(known.intent.get(field, ""))
        value = shown(self._meeting, field)
        what = self._judge(wish, field, wanted, intent, done)
        self._notes.append(Note(wish.rule, field, what))
        change = _change(wish, field, value, wanted)
        if what in ("write", "retry"):
            self._changes.append(change)
            if what == "retry" and intent is not None:
                self._uncount(field, intent)
        elif what == "finished" and intent is not None:
            self._finished.append(structs.replace(change, after=value, interrupted=True, at=intent.at))
        elif what == "waiting" and intent is not None:
            self._look_again(intent)
        if wish.enforce == "once" and what in ("same", "finished", "yielded"):
            done.add(field)
        return intent if what in ("settled", "waiting", "write", "retry") else None

    def _judge(self, wish: Wish, field: str, wanted: object, intent: _Intent | None, done: set[str]) -> Known:
        value, aim = shown(self._meeting, field), digest(field, wanted)
        if wish.enforce == "once" and field in done:
            return "done"
        if intent is not None and intent.kind == "asked":
            return self._interrupted(field, wanted, intent)
        if same(field, wanted, value):
            return "same"
        if field in self._edited:
            return "yielded"
        if intent is None or intent.wanted != aim or intent.other != digest(field, value):
            return "write"
        if intent.kind == "sent" and self._left(intent) > 0:
            return "waiting"
        return "settled" if intent.kind == "shown" else "write"

    def _interrupted(self, field: str, wanted: object, intent: _Intent) -> Known:
        """We were about to write it: it happened, it did not, or a person was quicker."""
        value = shown(self._meeting, field)
        now = digest(field, value)
        if same(field, wanted, value) or (now == intent.wanted and now != MASK):
            return "finished"
        if now != intent.other or field in self._edited:
            return "yielded"
        return "retry"

    def _uncount(self, field: str, intent: _Intent) -> None:
        """A write that changed nothing is none of those that somebody keeps undoing."""
        left = tuple(at for at in self._writes.get(field, ()) if _ms(at) != intent.at)
        self._writes.pop(field, None)
        if left:
            self._writes[field] = left

    def _look_again(self, intent: _Intent) -> None:
        self._again = min(self._left(intent), self._again or SETTLING.total_seconds())

    def _left(self, intent: _Intent) -> float:
        """Seconds until a write that is not shown has no effect any more."""
        return SETTLING.total_seconds() - (_ms(self._now) - intent.at) / 1000


def _of_rule(rules: Mapping[str, RuleRecord], wish: Wish) -> RuleRecord:
    """What is remembered of this version of the rule."""
    known = rules.get(wish.rule)
    return known if known is not None and known.version == wish.version else RuleRecord(version=wish.version)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _change(wish: Wish, field: str, value: object, wanted: object) -> Change:
    return Change(
        field=field,
        rule=wish.rule,
        version=wish.version,
        reason=wish.reason,
        before=value,
        after=wanted,
        notify=wish.notify,
        method=wish.method,
        once=wish.enforce == "once",
    )


# --- around a write ---------------------------------------------------------------------------------------------------


def edited(read: Meeting, again: Meeting, fields: Iterable[str]) -> frozenset[str]:
    """The fields that somebody changed between two reads."""
    both = [(field, shown(read, field), shown(again, field)) for field in fields]
    return frozenset(field for field, one, other in both if not (same(field, one, other) and same(field, other, one)))


def still_wanted(before: Sequence[Change], now: Iterable[Change]) -> tuple[Change, ...]:
    """Of the changes wanted ``now`` those that are among the ones ``before``, which the ledger knows."""
    known = {(each.field, each.rule, each.version, digest(each.field, each.after)) for each in before}
    return tuple(c for c in now if (c.field, c.rule, c.version, digest(c.field, c.after)) in known)


def asked(record: RulesRecord, changes: Sequence[Change], now: datetime) -> RulesRecord:
    """What must be acked before the call."""
    writes = dict(record.writes)
    for each in changes:
        writes[each.field] = (*writes.get(each.field, ()), now)
    return structs.replace(_noted(record, changes, "asked", now), writes=writes)


def more_writes(record: RulesRecord, before: RulesRecord) -> bool:
    """Whether ``record`` has writes that are not in the one ``before``. Those that it lacks were forgotten by their age."""
    return any(set(times) - set(before.writes.get(field, ())) for field, times in record.writes.items())


def shows(meeting: Meeting, changes: Iterable[Change]) -> bool:
    """Whether the meeting is as the changes wanted it."""
    return all(same(each.field, each.after, shown(meeting, each.field)) for each in changes)


def dated(changes: Iterable[Change], now: datetime) -> tuple[Change, ...]:
    """The changes as they are told of, where :func:`asked` noted them at ``now``."""
    return tuple(structs.replace(each, at=_ms(now)) for each in changes)


def proposed(record: RulesRecord, changes: Sequence[Change], now: datetime) -> RulesRecord:
    """What shadow mode tells of once."""
    return _noted(record, changes, "proposed", now)


def unproposed(record: RulesRecord, changes: Sequence[Change]) -> tuple[Change, ...]:
    """Those that shadow mode has not told of."""

    def is_new(each: Change) -> bool:
        known = record.rules.get(each.rule)
        intent = _Intent.read(known.intent.get(each.field, "")) if known and known.version == each.version else None
        return intent is None or (intent.kind, intent.wanted) != ("proposed", digest(each.field, each.after))

    return tuple(filter(is_new, changes))


def _noted(record: RulesRecord, changes: Sequence[Change], kind: str, now: datetime) -> RulesRecord:
    rules = dict(record.rules)
    for each in changes:
        other = digest(each.field, each.before)
        _put(rules, each, _Intent(kind, digest(each.field, each.after), other, _ms(now)))
    return structs.replace(record, rules=rules)


def written(record: RulesRecord, changes: Sequence[Change], after: Meeting, now: datetime) -> RulesRecord:
    """After a call that Webex accepted; ``after`` is the meeting as it shows it now."""
    rules = dict(record.rules)
    for each in changes:
        _put(rules, each, None if each.once else _made_of_it(each, shown(after, each.field), now))
    return structs.replace(record, rules=rules)


def _made_of_it(change: Change, value: object, now: datetime) -> _Intent | None:
    """What to remember where Webex does not show what it was given: it may lag, spell it otherwise, or never show it."""
    if same(change.field, change.after, value):
        return None
    seen = digest(change.field, value)
    lags = seen == digest(change.field, change.before) and value is not None and not _never_shown(change.field)
    return _Intent("sent" if lags else "shown", digest(change.field, change.after), seen, _ms(now))


def _never_shown(field: str) -> bool:
    return field in UNSEEN or is_secret(field)


def _put(rules: dict[str, RuleRecord], change: Change, intent: _Intent | None) -> None:
    known = rules.get(change.rule)
    if known is None or known.version != change.version:
        known = RuleRecord(version=change.version)
    intents = {field: text for field, text in known.intent.items() if field != change.field}
    fields = known.fields
    if intent is not None:
        intents[change.field] = str(intent)
    elif change.once:
        fields = tuple(sorted({*fields, change.field}))
    if fields or intents:
        rules[change.rule] = RuleRecord(version=change.version, fields=fields, intent=intents)
    else:
        rules.pop(change.rule, None)


# --- events -----------------------------------------------------------------------------------------------------------


def to_events(
    changes: Iterable[Change],
    *,
    what: Literal["changed", "proposed"],
    meeting: Meeting,
    policy: str,
    org_id: str,
    now: datetime,
    receiver: str,
    traceparent: str | None,
) -> list[CloudEvent]:
    """One event for each rule and call; its id is the same whenever the same write is told again."""
    groups: dict[tuple[Any, ...], list[Change]] = {}
    for each in changes:
        groups.setdefault((each.rule, each.at, each.call), []).append(each)
    return [
        new_event(
            id=_id(what, meeting, group),
            type=f"webex.meeting.{what}.v1",
            source=source_of(org_id),
            subject=f"meetings/{meeting.id}",
            key=meeting.id,
            origin="sweep",
            received=now,
            receiver=receiver,
            traceparent=traceparent,
            data=_data(group, meeting, policy),
        )
        for group in groups.values()
    ]


def _id(what: str, meeting: Meeting, group: Sequence[Change]) -> str:
    first = group[0]
    aims = () if first.at else sorted(f"{each.field}={digest(each.field, each.after)}" for each in group)
    return event_id(what, meeting.id, first.rule, first.version, first.call[0], str(first.at), *aims)


def _data(group: Sequence[Change], meeting: Meeting, policy: str) -> dict[str, Any]:
    return {
        "meetingId": meeting.id,
        "rule": group[0].rule,
        "reason": group[0].reason or f'Rule "{group[0].rule}" matched',
        "before": {c.field: told(c.field, c.before, meeting=meeting) for c in group if not c.interrupted},
        "after": {c.field: told(c.field, c.after, meeting=meeting) for c in group},
        "policy": policy,
        "notify": group[0].notify,
    }
