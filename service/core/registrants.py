"""Registrants as Webex shows them, what we remember of them, and what to do about them.

``review`` looks at one registrant beside our memory of them and says what is new (facts to publish), what to remember
(ledger entries) and whether to act. It never overrules a person, and never acts twice where an effect may only be late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from service.core.event import CloudEvent, event_id, new_event, source_of
from service.core.ledger import Entry, Fact, Intent, Memory, Seen

#: REST may lag: the Webhooks guide aims at 10 minutes for 99.5 %. Until then, and a margin, "still pending" says nothing.
SETTLING = timedelta(minutes=15)

#: Ids in one approve or reject call. Webex publishes no cap; it equals the largest page of a list.
BATCH = 100

#: The status that a verb asks for.
STATUS_OF = {"approve": "approved", "reject": "rejected"}


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
    """What the policy says of a pending registrant: ``outcome`` is ``approve``, ``reject`` or ``hold``."""

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
    """Ask Webex to ``verb`` this registrant."""

    registrant: Registrant
    verdict: Verdict


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a look at one registrant. ``waiting``: an earlier call may still take effect; look later."""

    observations: tuple[Observation, ...] = ()
    entries: tuple[Entry, ...] = ()
    action: Action | None = None
    waiting: bool = False


Decide = Callable[[Registrant], Verdict]


def review(
    registrant: Registrant, memory: Memory, *, series: str, now: datetime, decide: Decide, version: str
) -> Review:
    """What is new about ``registrant``, what to remember, what to do. ``version`` is that of ``decide``'s policy."""
    notes = _Notes(registrant, memory, series=series, now=now)
    if memory.seen is None:
        notes.publish("registered", {})
    if registrant.status == "pending":
        return _review_pending(notes, decide, version)
    if registrant.status in STATUS_OF.values():
        _note_decided(notes)
    return notes.review()


def _review_pending(notes: _Notes, decide: Decide, version: str) -> Review:
    memory = notes.memory
    if not memory.human and (memory.approved or memory.rejected):
        notes.publish("cancelled", {"by": "host", "rule": "", "reason": "Was decided, and a person put them back"})
        notes.remember("human", Fact(at=notes.now))
        return notes.review()
    if memory.human or (memory.seen is not None and memory.seen.held == version):
        return notes.review()
    if memory.intent is not None and memory.intent.unsettled and notes.now - memory.intent.at < SETTLING:
        return notes.review(waiting=True)
    verdict = decide(notes.registrant)
    if verdict.outcome in STATUS_OF:
        return notes.review(action=Action(registrant=notes.registrant, verdict=verdict))
    notes.publish("held", by_policy(verdict.rule, verdict.reason, verdict.policy))
    return notes.review(held=version)


def _note_decided(notes: _Notes) -> None:
    status, memory = notes.registrant.status, notes.memory
    known = memory.approved if status == "approved" else memory.rejected
    if known and memory.seen is not None and memory.seen.status == status:
        return
    intent = memory.intent
    ours = not known and intent is not None and STATUS_OF.get(intent.verb) == status
    decision = (
        by_policy(intent.rule, intent.reason, intent.policy)
        if ours and intent
        else {"by": "host", "rule": "", "reason": ""}
    )
    notes.publish(status, decision)
    if not known:
        notes.remember(status, Fact(at=notes.now))


def by_policy(rule: str, reason: str, version: str) -> dict[str, str]:
    """``decision`` of a fact that the policy caused."""
    return {"by": "policy", "rule": rule, "reason": reason, "policy": version}


class _Notes:
    """Collects what one review finds; numbers the facts so that a repeat after a crash gets the same ids."""

    def __init__(self, registrant: Registrant, memory: Memory, *, series: str, now: datetime) -> None:
        self.registrant, self.memory, self.series, self.now = registrant, memory, series, now
        self._observations: list[Observation] = []
        self._entries: list[Entry] = []

    @property
    def _facts(self) -> int:
        return (self.memory.seen.facts if self.memory.seen else 0) + len(self._observations)

    def publish(self, what: str, decision: Mapping[str, str]) -> None:
        fact = Observation(what=what, registrant=self.registrant, ordinal=self._facts, decision=decision)
        self._observations.append(fact)

    def remember(self, kind: str, value: Fact | Seen | Intent) -> None:
        self._entries.append(Entry(kind=kind, subject=self.series, registrant=self.registrant.id, value=value))

    def review(self, *, action: Action | None = None, waiting: bool = False, held: str = "") -> Review:
        before = self.memory.seen
        still_held = before.held if before and before.status == self.registrant.status else ""
        after = Seen(status=self.registrant.status, held=held or still_held, facts=self._facts)
        if after != before:
            self.remember("seen", after)
        return Review(
            observations=tuple(self._observations), entries=tuple(self._entries), action=action, waiting=waiting
        )


def unfinished(memory: Memory, *, now: datetime) -> bool:
    """Whether a call made lately still has to show its effect: only a full list can tell."""
    decided = memory.approved or memory.rejected or memory.human
    return memory.intent is not None and not decided and now - memory.intent.at < 2 * SETTLING


def batches(actions: Iterable[Action]) -> Iterator[tuple[str, bool, Sequence[Action]]]:
    """``(verb, notify, actions)``: one call to Webex for each started hundred of each verb and notify."""
    groups: dict[tuple[str, bool], list[Action]] = {}
    for action in actions:
        groups.setdefault((action.verdict.outcome, action.verdict.notify), []).append(action)
    for (verb, notify), members in groups.items():
        for start in range(0, len(members), BATCH):
            yield verb, notify, members[start : start + BATCH]


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


def statuses(registrants: Iterable[Registrant], memories: Mapping[str, Memory]) -> Counter[str]:
    """How many registrants have each status: the list's word first, our memory for those that it does not show.

    Whoever Webex has accepted an approval or rejection of counts as that, although no list shows it yet.
    """
    known = {id_: memory.seen.status for id_, memory in memories.items() if memory.seen}
    known.update((registrant.id, registrant.status) for registrant in registrants)
    for id_, status in known.items():
        intent = memories[id_].intent if id_ in memories else None
        if status == "pending" and intent is not None and intent.unsettled and not memories[id_].human:
            known[id_] = STATUS_OF[intent.verb]
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
