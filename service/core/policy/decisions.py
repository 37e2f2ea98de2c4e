"""From the operator's rules to a decision about one registrant, and to wishes for one meeting.

Of the rules for registrants, the first that matches decides; else the default does. Meeting rules all have their say.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from service.core.meetings import Meeting
from service.core.policy import variables
from service.core.policy.addresses import address
from service.core.policy.comparisons import USUAL_FORMS
from service.core.policy.conditions import Condition, ConditionFailed, View
from service.core.policy.expressions import VARIABLES, union
from service.core.policy.meeting_rules import MeetingRule
from service.core.policy.scopes import ALWAYS, EVERYWHERE, Scope, Window
from service.core.registrants import Registrant
from service.core.wishes import Wish


class Outcome(enum.StrEnum):
    """What happens to a registrant. On the waitlist they are left pending until there is a place."""

    APPROVE = "approve"
    REJECT = "reject"
    HOLD = "hold"
    WAITLIST = "waitlist"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How full a meeting is. ``capacity`` None (or 0) means without a limit."""

    approved: int
    pending: int
    capacity: int | None

    @property
    def full(self) -> bool:
        """Whether no place is free."""
        return self.capacity is not None and 0 < self.capacity <= self.approved


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about one registrant, and why.

    ``rule`` is "" where the default decided; ``notify`` says whether Webex shall send its e-mail; ``policy`` is the version
    of the file. ``reason`` is a sentence for people and holds nothing of the registrant.
    """

    outcome: Outcome
    rule: str
    reason: str
    notify: bool
    policy: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule says of a registrant, whether or not another one decided before it.

    ``covers``: the meeting and the time are in its scope. ``matched`` is None where it was not asked or gave no result;
    ``failure`` is why it gave none.
    """

    name: str
    then: Outcome
    covers: bool
    matched: bool | None = None
    failure: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and what every rule says, in the order of the file."""

    decision: Decision
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule for registrants of the file."""

    name: str
    condition: Condition
    then: Outcome
    scope: Scope = EVERYWHERE
    active: Window = ALWAYS
    notify: bool = True
    reason: str = ""

    def covers(self, meeting: Meeting, now: datetime) -> bool:
        """Whether the meeting is in the rule's scope, and the rule is in force."""
        return self.active.includes(now) and self.scope.covers(meeting)


class Policy:
    """A policy file that was accepted. Not for use by several threads at a time."""

    def __init__(
        self,
        *,
        version: str,
        paused: bool = False,
        shadow: bool = False,
        default: Outcome = Outcome.HOLD,
        rules: Sequence[Rule] = (),
        meeting_rules: Sequence[MeetingRule] = (),
        lists: Mapping[str, Sequence[object]],
    ) -> None:
        self.version = version
        self.paused = paused
        self.shadow = shadow
        self.default = default
        self.rules = tuple(rules)
        self.meeting_rules = tuple(meeting_rules)
        self._reads = {name: union(rule.condition.reads[name] for rule in rules) for name in VARIABLES}
        read = self._reads["registrant"]
        self._judges_addresses = read is None or not read.isdisjoint(USUAL_FORMS)
        # Converting values for CEL costs more than running a rule: lists are converted once, the meeting and the counts when
        # they are others than before, and of everything only what the rules read. Which rules cover the meeting is known then.
        self._view = View(lists, whole=union(rule.condition.whole_lists for rule in rules))
        self._meeting: Meeting | None = None
        self._counts: Counts | None = None
        self._covering: tuple[Rule, ...] = ()
        self._meeting_view = View(
            lists, whole=union(one.whole_lists for rule in meeting_rules for one in rule.formulas())
        )

    def decide(self, registrant: Registrant, *, meeting: Meeting, counts: Counts, now: datetime) -> Decision:
        """What the rules say; never raises. A rule without a result holds the registrant.

        Two approvals become something else, by the same rule: while no place is free, the waitlist; and where rules judge
        people by their e-mail address, somebody without one plain address is held.
        """
        rule: Rule | None = None
        try:
            self._show(registrant, meeting, counts)
            for rule in self._covering:
                if rule.active.includes(now) and rule.condition.holds(self._view):
                    return self._tempered(self._by_rule(rule), registrant, counts)
        except ConditionFailed as failure:
            return self._without_result(rule, failure)
        return self._tempered(self._by_default(), registrant, counts)

    def explain(self, registrant: Registrant, *, meeting: Meeting, counts: Counts, now: datetime) -> Explanation:
        """The same decision, with what every rule says; never raises."""
        decision = self.decide(registrant, meeting=meeting, counts=counts, now=now)
        steps = tuple(self._step(rule, registrant, meeting, counts, now) for rule in self.rules)
        return Explanation(decision=decision, steps=steps)

    def wishes(self, meeting: Meeting, *, now: datetime) -> tuple[Wish, ...]:
        """What the meeting rules that match want of ``meeting``, in the order of the file; never raises."""
        wanted = (rule.wish(meeting, self._meeting_view, now=now) for rule in self.meeting_rules)
        return tuple(wish for wish in wanted if wish is not None)

    def _show(self, registrant: Registrant, meeting: Meeting, counts: Counts) -> None:
        self._view.show("registrant", variables.registrant_fields(registrant, meeting, self._reads["registrant"]))
        if self._meeting is not meeting:
            self._view.show("meeting", variables.meeting_fields(meeting, self._reads["meeting"]))
            self._covering = tuple(rule for rule in self.rules if rule.scope.covers(meeting))
            self._meeting = meeting
        if self._counts != counts:
            self._view.show("counts", variables.count_fields(counts.approved, counts.pending, counts.capacity))
            self._counts = counts

    def _step(self, rule: Rule, registrant: Registrant, meeting: Meeting, counts: Counts, now: datetime) -> Step:
        step = Step(name=rule.name, then=rule.then, covers=rule.covers(meeting, now))
        if not step.covers:
            return step
        try:
            self._show(registrant, meeting, counts)
            return msgspec.structs.replace(step, matched=rule.condition.holds(self._view))
        except ConditionFailed as failure:
            return msgspec.structs.replace(step, failure=str(failure))

    def _by_rule(self, rule: Rule) -> Decision:
        return self._decision(rule.then, rule.name, rule.reason or f'Rule "{rule.name}" matched', rule.notify)

    def _by_default(self) -> Decision:
        return self._decision(self.default, "", f"No rule matched: the default is {self.default}")

    def _without_result(self, rule: Rule | None, failure: ConditionFailed) -> Decision:
        who = f'Rule "{rule.name}"' if rule else "The policy"
        reason = f"{who} could not be evaluated ({failure})"
        return self._decision(Outcome.HOLD, rule.name if rule else "", reason)

    def _tempered(self, decision: Decision, registrant: Registrant, counts: Counts) -> Decision:
        """What becomes of an approval that may not be given now."""
        if decision.outcome != Outcome.APPROVE:
            return decision
        if self._judges_addresses and not address(registrant.email):
            # Rules could not tell who it is: neither "in lists.partners" nor "not in lists.competitors" says anything then.
            return _instead(decision, Outcome.HOLD, "but the address is not one plain e-mail address")
        return _instead(decision, Outcome.WAITLIST, "no place is free") if counts.full else decision

    def _decision(self, outcome: Outcome, rule: str, reason: str, notify: bool = True) -> Decision:
        return Decision(outcome=outcome, rule=rule, reason=reason, notify=notify, policy=self.version)


def _instead(decision: Decision, outcome: Outcome, why: str) -> Decision:
    return msgspec.structs.replace(decision, outcome=outcome, reason=f"{decision.reason} ({why})")


#: What is used without a policy file.
HOLD_EVERYTHING = Policy(version="none", lists={})
