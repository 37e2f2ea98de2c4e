"""Registrants as Webex shows them, what we remember of them, and what to do about them.

``review`` looks at one registrant beside our memory of them and says what is new (facts to publish), what to remember
(ledger entries) and whether to act. It never overrules a person, and never acts twice where an effect may only be late.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from service.core.event import CloudEvent, event_id, new_event, source_of
from service.core.ledger import Entry, Fact, Intent, Memory, Seen

#: REST may lag: the Webhooks guide aims at 10 minutes for 99.5 %. Until then, and a margin, "still pending" says nothing.
SETTLING = timedelta(minutes=15)

#: How far behind the newest registration an incremental look begins: REST may lag, and clocks differ.
OVERLAP = timedelta(minutes=15)

#: Ids in one approve or reject call. Webex publishes no cap; it equals the largest page of a list.
BATCH = 100

#: Calls more than the one that Webex refused, to find out because of whom: for one of a hundred they are enough.
HALVINGS = 14

#: Known registrants whom an incremental look after a rush shows again at most: with as many newcomers they fit one page.
CROWD = 50

#: Registrants who are asked for, one by one, in one look.
ASKED = 20

#: Nothing is concluded where more than this part of a meeting's registrants is absent at once.
VANISHED = 0.2

#: The status that a verb asks for.
STATUS_OF = {"approve": "approved", "reject": "rejected"}
DECIDED = frozenset(STATUS_OF.values())

#: The status under which we remember whom Webex answered 404 for.
DELETED = "deleted"

#: Fields that move without anybody changing the registrant: they are no part of the print.
_MOVING = re.compile(r"status$|time$|link$|url$|token$", re.IGNORECASE)

#: The status that a verb of a command asks for.
_EFFECTS = {**STATUS_OF, "cancel": "pending", "delete": DELETED, "bulk-delete": DELETED}
_DELETING = ("delete", "bulk-delete")
_REGISTERING = ("register", "bulk-insert")


class Registrant(msgspec.Struct, frozen=True, kw_only=True):
    """A registrant as a list shows it. ``fields`` is Webex's whole object, by Webex's names."""

    id: str
    status: str
    email: str
    registered: datetime | None
    fields: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Registrant(id={self.id!r}, status={self.status!r})"  # the rest is a person


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy says of a pending registrant: ``outcome`` is ``approve``, ``reject``, ``hold`` or ``waitlist``."""

    outcome: str
    rule: str
    reason: str
    notify: bool
    policy: str


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A fact to publish: the registrant became ``what`` (``registered``, ``approved`` …), and who decided so."""

    what: str
    registrant: Registrant
    ordinal: int
    decision: Mapping[str, str]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Ask Webex to ``verb`` this registrant. ``changes``: another version of the policy had left them undecided."""

    registrant: Registrant
    verdict: Verdict
    changes: bool = False


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a look at one registrant. ``waiting``: an earlier call may still take effect; look later."""

    observations: tuple[Observation, ...] = ()
    entries: tuple[Entry, ...] = ()
    action: Action | None = None
    waiting: bool = False


#: The policy's word on a pending registrant; None where nothing is decided now.
Decide = Callable[[Registrant], Verdict | None]


class Stance(msgspec.Struct, frozen=True, kw_only=True):
    """How a review decides: by which version, whether it only says what it would do (``shadow``), and whether the registrant
    stands as in a list, so that a difference in the fields is somebody's change (``listed``).
    """

    version: str
    shadow: bool = False
    listed: bool = True


def review(
    registrant: Registrant, memory: Memory, *, series: str, now: datetime, decide: Decide, stance: Stance
) -> Review:
    """What is new about ``registrant``, what to remember, what to do."""
    notes = _Notes(registrant, memory, series=series, now=now, listed=stance.listed)
    if memory.seen is None or memory.seen.status == DELETED:
        notes.publish("registered", _by_command(memory.intent, _REGISTERING))
    elif notes.updated:
        notes.publish("updated", {})
    if registrant.status == "pending":
        return _review_pending(notes, decide, stance)
    if registrant.status in DECIDED:
        _note_decided(notes)
    return notes.review()


def _review_pending(notes: _Notes, decide: Decide, stance: Stance) -> Review:
    memory = notes.memory
    if _was_put_back(memory):
        _note_cancelled(notes)
        if not unseen_since_release(memory):
            return notes.review()
    if memory.human or _stays_undecided(notes, stance):
        return notes.review()
    if _may_still_take_effect(memory, notes.now):
        return notes.review(waiting=True)
    verdict = decide(notes.registrant)
    if verdict is None:
        return notes.review()
    if verdict.outcome in STATUS_OF and not stance.shadow:
        return notes.review(action=_action(notes, verdict))
    return _leave_undecided(notes, verdict, stance)


def _was_put_back(memory: Memory) -> bool:
    """A pending registrant who was decided before: a person, or a command, took that back."""
    seen_decided = memory.seen is not None and memory.seen.status in DECIDED
    return seen_decided or (not memory.human and (memory.approved or memory.rejected))


def _stays_undecided(notes: _Notes, stance: Stance) -> bool:
    """Whether this version has decided already that nothing is done, and nothing changed since. Whoever waits for a place is
    decided again, but for a proposal one word is enough.
    """
    seen = notes.memory.seen
    if seen is None or seen.held != stance.version or notes.updated:
        return False
    return stance.shadow or not seen.waiting


def _may_still_take_effect(memory: Memory, now: datetime) -> bool:
    intent = memory.intent
    return intent is not None and intent.verb in STATUS_OF and intent.unsettled and now - intent.at < SETTLING


def _action(notes: _Notes, verdict: Verdict) -> Action:
    seen, intent = notes.memory.seen, notes.memory.intent
    undecided_by_another = seen is not None and seen.held not in ("", verdict.policy)
    counted_already = intent is not None and intent.by == "policy" and intent.policy == verdict.policy
    return Action(registrant=notes.registrant, verdict=verdict, changes=undecided_by_another and not counted_already)


def _leave_undecided(notes: _Notes, verdict: Verdict, stance: Stance) -> Review:
    """Publish once for each version, and once more where the registrant changed or another kind of waiting began."""
    seen = notes.memory.seen
    waiting = verdict.outcome == "waitlist"
    if stance.shadow:
        decision = {**by_policy(verdict.rule, verdict.reason, verdict.policy), "outcome": verdict.outcome}
        notes.publish("proposed", decision)
        return notes.review(held=stance.version, waits_for_place=seen is not None and seen.waiting)
    if notes.updated or seen is None or (seen.held, seen.waiting) != (stance.version, waiting):
        what = "waitlisted" if waiting else "held"
        notes.publish(what, by_policy(verdict.rule, verdict.reason, verdict.policy))
    return notes.review(held=stance.version, waits_for_place=waiting)


def _note_cancelled(notes: _Notes) -> None:
    by_host = by_host_because("Was decided, and a person put them back")
    notes.publish("cancelled", _by_command(notes.memory.intent, ("cancel",)) or by_host)
    if not notes.memory.human and not unseen_since_release(notes.memory):
        notes.remember("human", Fact(at=notes.now))
    _drop_overtaken_intent(notes)


def _note_decided(notes: _Notes) -> None:
    status, memory = notes.registrant.status, notes.memory
    known = memory.approved if status == "approved" else memory.rejected
    if memory.seen is not None and memory.seen.status == status:
        if not known:  # a release took it back; whoever is put back from here on is so by a person's word again
            notes.remember(status, Fact(at=notes.now))
        return
    intent = memory.intent
    ours = intent is not None and STATUS_OF.get(intent.verb) == status and (not known or intent.by == "command")
    if ours and intent is not None:
        notes.publish(status, _by_command(intent, STATUS_OF) or by_policy(intent.rule, intent.reason, intent.policy))
    else:
        notes.publish(status, by_host_because(""))
        _drop_overtaken_intent(notes)
    if not known:
        notes.remember(status, Fact(at=notes.now))


def _drop_overtaken_intent(notes: _Notes) -> None:
    """What a person did after our call must not be taken for its effect when they do it once more. A call that may still
    take effect is not overtaken yet.
    """
    if notes.memory.intent is not None and not _may_still_take_effect(notes.memory, notes.now):
        notes.remember("intent", None)


def by_policy(rule: str, reason: str, version: str) -> dict[str, str]:
    """``decision`` of a fact that the policy caused."""
    return {"by": "policy", "rule": rule, "reason": reason, "policy": version}


def by_host_because(reason: str) -> dict[str, str]:
    """``decision`` of a fact that a person at Webex caused."""
    return {"by": "host", "rule": "", "reason": reason}


def _by_command(intent: Intent | None, verbs: Collection[str]) -> dict[str, str]:
    """``decision`` of a fact that a command with one of these verbs caused; empty where none did."""
    if intent is None or intent.by != "command" or intent.verb not in verbs:
        return {}
    return {"by": "command", "rule": intent.rule, "reason": intent.reason}


class _Notes:
    """Collects what one review finds; numbers the facts so that a repeat after a crash gets the same ids."""

    def __init__(self, registrant: Registrant, memory: Memory, *, series: str, now: datetime, listed: bool) -> None:
        self.registrant, self.memory, self.series, self.now = registrant, memory, series, now
        before = memory.seen.print if memory.seen else ""
        self._print = fingerprint(registrant.fields) if listed else before
        self.updated = before not in ("", self._print)
        self._observations: list[Observation] = []
        self._entries: list[Entry] = []

    @property
    def _facts(self) -> int:
        return (self.memory.seen.facts if self.memory.seen else 0) + len(self._observations)

    def publish(self, what: str, decision: Mapping[str, str]) -> None:
        fact = Observation(what=what, registrant=self.registrant, ordinal=self._facts, decision=decision)
        self._observations.append(fact)

    def remember(self, kind: str, value: Fact | Seen | Intent | None) -> None:
        self._entries.append(Entry(kind=kind, subject=self.series, registrant=self.registrant.id, value=value))

    def review(
        self, *, action: Action | None = None, waiting: bool = False, held: str = "", waits_for_place: bool = False
    ) -> Review:
        before = self.memory.seen
        if not held and before is not None and before.status == self.registrant.status:
            held, waits_for_place = before.held, before.waiting
        after = Seen(
            status=self.registrant.status,
            held=held,
            facts=self._facts,
            waiting=waits_for_place,
            print=self._print,
        )
        if after != before:
            self.remember("seen", after)
        return Review(
            observations=tuple(self._observations), entries=tuple(self._entries), action=action, waiting=waiting
        )


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A short digest of what a registrant is: 16 hex digits, the same whatever the order, and with or without empty fields."""
    own = {
        name: value for name, value in fields.items() if value not in (None, "", [], {}) and not _MOVING.search(name)
    }
    return hashlib.sha256(msgspec.json.encode(own, order="deterministic")).hexdigest()[:16]


# --- whom to look at, and in which order --------------------------------------------------------------------------------


def in_order(found: Iterable[Registrant], *, now: datetime) -> list[Registrant]:
    """In the order of deciding: the oldest registration first, whoever was told to wait meanwhile."""
    return sorted(found, key=lambda one: (one.registered or now, one.id))


def waits_for_place(memory: Memory) -> bool:
    """Whether a registrant is left pending until there is a place."""
    return memory.seen is not None and memory.seen.waiting and memory.seen.status == "pending" and not memory.human


def unfinished(memories: Mapping[str, Memory], *, now: datetime) -> list[str]:
    """For whom a call was made lately whose effect nobody has seen yet."""
    return [id_ for id_, memory in memories.items() if memory.intent is not None and _is_unfinished(memory, now)]


def _is_unfinished(memory: Memory, now: datetime) -> bool:
    intent = memory.intent
    if intent is None or intent.verb not in _EFFECTS or now - intent.at >= 2 * SETTLING:
        return False
    if intent.by == "policy" and (memory.approved or memory.rejected or memory.human):
        return False  # whoever was decided is out of its hands
    return memory.seen is not None and memory.seen.status not in (_EFFECTS[intent.verb], DELETED)


def begin(newest: datetime, latest: Sequence[datetime], *, wide: datetime | None, now: datetime) -> datetime:
    """Where an incremental look begins: some time before the ``newest`` registration seen.

    After a rush that time holds hundreds who are known already. Then the look begins later, so that the known and as many
    newcomers fit one page; only every quarter of an hour since the last ``wide`` one it begins where it should.
    ``latest`` are the latest registration times seen (:func:`latest_of`).
    """
    if not crowded(latest) or wide is None or now - wide >= OVERLAP:
        return newest - OVERLAP
    begins = latest[CROWD].replace(microsecond=0)
    all_at_once = sum(moment >= begins for moment in latest) > BATCH - CROWD // 5
    return newest.replace(microsecond=0) + timedelta(seconds=1) if all_at_once else begins


def crowded(latest: Sequence[datetime]) -> bool:
    """Whether so many registered within the last quarter of an hour before the newest that they do not fit a page."""
    return len(latest) > CROWD and latest[CROWD] > latest[0] - OVERLAP


def latest_of(moments: Iterable[datetime]) -> tuple[datetime, ...]:
    """As many registration times as a page has, the latest first."""
    return tuple(sorted(moments, reverse=True)[:BATCH])


def absent(found: Collection[str], memories: Mapping[str, Memory]) -> list[str]:
    """Whom a full list should have shown and did not."""
    return [id_ for id_, memory in memories.items() if id_ not in found and _there(memory)]


def conclusive(absent: Collection[str], memories: Mapping[str, Memory]) -> bool:
    """Whether so few are absent that they may be asked for. When a good part of a meeting vanishes at once, more likely the
    list lost a page. A single one is never a good part.
    """
    return len(absent) <= max(1, VANISHED * sum(map(_there, memories.values())))


def to_ask(absent: Iterable[str], now: datetime) -> list[str]:
    """A few of those who are absent, others each time."""
    return sorted(absent, key=lambda id_: event_id(id_, now.isoformat()))[:ASKED]


def _there(memory: Memory) -> bool:
    return memory.seen is not None and memory.seen.status != DELETED


def gone(id_: str, memory: Memory, *, series: str, now: datetime) -> Review:
    """Webex answered 404 for this registrant while it shows the meeting: somebody deleted them."""
    registrant = Registrant(id=id_, status=DELETED, email="", registered=None, fields={"id": id_, "status": DELETED})
    notes = _Notes(registrant, memory, series=series, now=now, listed=False)
    notes.publish("deleted", _by_command(memory.intent, _DELETING) or by_host_because(""))
    return notes.review()


def unseen_since_release(memory: Memory) -> bool:
    """Whether an operator released somebody whom no look has shown since. What had become of them by then is released too,
    although nobody had seen it.
    """
    seen, taken_back = memory.seen, not (memory.approved or memory.rejected)
    return memory.released and taken_back and seen is not None and seen.status in DECIDED


def released(series: str, registrants: Iterable[str], *, now: datetime) -> list[Entry]:
    """What people decided about ``registrants`` does not bind the policy any more."""
    return [Entry(kind="released", subject=series, registrant=id_, value=Fact(at=now)) for id_ in registrants]


# --- acting -------------------------------------------------------------------------------------------------------------


def batches(actions: Iterable[Action]) -> Iterator[tuple[str, bool, Sequence[Action]]]:
    """``(verb, notify, actions)``: one call to Webex for each started hundred of each verb and notify."""
    groups: dict[tuple[str, bool], list[Action]] = {}
    for action in actions:
        groups.setdefault((action.verdict.outcome, action.verdict.notify), []).append(action)
    for (verb, notify), members in groups.items():
        for start in range(0, len(members), BATCH):
            yield verb, notify, members[start : start + BATCH]


def halves(batch: Sequence[Action]) -> tuple[Sequence[Action], Sequence[Action]]:
    """A refused batch in two. What it changes was counted with its own intents."""
    counted = [msgspec.structs.replace(action, changes=False) for action in batch]
    middle = (len(counted) + 1) // 2
    return counted[:middle], counted[middle:]


def refused(action: Action, memory: Memory, *, series: str, now: datetime, status: int | None) -> Review:
    """Webex refuses the call for this registrant alone: they stay undecided by this version until they change."""
    verdict = action.verdict
    notes = _Notes(action.registrant, memory, series=series, now=now, listed=True)
    reason = f"Webex refused to {verdict.outcome} this registrant (HTTP {status})"
    notes.publish("held", by_policy(verdict.rule, reason, verdict.policy))
    notes.remember("intent", None)  # nothing came of it: what a person does now is theirs
    return notes.review(held=verdict.policy)


def intents(actions: Iterable[Action], *, series: str, now: datetime, unsettled: bool) -> list[Entry]:
    """The ledger entries that must be acked before the call (``unsettled`` False), and after its 204 (True)."""
    return [
        Entry(
            kind="intent",
            subject=series,
            registrant=action.registrant.id,
            value=Intent(
                verb=action.verdict.outcome,
                rule=action.verdict.rule,
                reason=action.verdict.reason,
                notify=action.verdict.notify,
                policy=action.verdict.policy,
                at=now,
                unsettled=unsettled,
            ),
        )
        for action in actions
    ]


def statuses(registrants: Iterable[Registrant], memories: Mapping[str, Memory], *, now: datetime) -> Counter[str]:
    """How many registrants have each status: the list's word first, our memory for those that it does not show.

    Whoever Webex has accepted an approval or rejection of counts as that, although no list shows it yet.
    """
    known = {id_: memory.seen.status for id_, memory in memories.items() if memory.seen}
    known.update((registrant.id, registrant.status) for registrant in registrants)
    for id_, status in known.items():
        memory = memories.get(id_)
        if status == "pending" and memory and memory.intent and _may_still_take_effect(memory, now):
            known[id_] = status if memory.human else STATUS_OF[memory.intent.verb]
    return Counter(known.values())


def to_event(
    observation: Observation, *, series: str, org_id: str, now: datetime, receiver: str, traceparent: str | None
) -> CloudEvent:
    """The CloudEvent of a fact; its id is the same whenever the same fact is found again."""
    registrant = observation.registrant
    data: dict[str, Any] = {**registrant.fields, "meetingId": series}
    if observation.decision:
        data["decision"] = dict(observation.decision)
    registered_now = observation.what == "registered" and registrant.registered is not None
    return new_event(
        id=event_id("fact", series, registrant.id, observation.what, str(observation.ordinal)),
        type=f"webex.registrant.{observation.what}.v1",
        source=source_of(org_id),
        subject=f"meetings/{series}",
        key=series,
        origin="sweep",
        time=registrant.registered if registered_now else None,
        received=now,
        receiver=receiver,
        traceparent=traceparent,
        data=data,
    )
