"""From the operator's rules to a decision about one registrant. The first rule that matches decides; else the default does."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from service.core.meetings import Meeting
from service.core.policy import variables
from service.core.policy.conditions import Condition, ConditionFailed, View
from service.core.policy.expressions import VARIABLES
from service.core.registrants import Registrant


class Outcome(enum.StrEnum):
    """What happens to a registrant. ``waitlist`` is a word of the file that this version does not carry out."""

    APPROVE = "approve"
    REJECT = "reject"
    HOLD = "hold"
    WAITLIST = "waitlist"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How full a meeting is. ``capacity`` None (or 0) means without a limit."""

    approved: int
    pending: int
    capacity: int | None


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


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the file. ``titles`` None applies to every meeting."""

    name: str
    condition: Condition
    then: Outcome
    titles: re.Pattern[str] | None = None
    notify: bool = True
    reason: str = ""

    def covers(self, meeting: Meeting) -> bool:
        """Whether the meeting is in the rule's scope."""
        return self.titles is None or self.titles.match(meeting.title) is not None


class Policy:
    """A policy file that was accepted. Not for use by several threads at a time."""

    def __init__(
        self,
        *,
        version: str,
        paused: bool,
        default: Outcome,
        rules: Sequence[Rule],
        lists: Mapping[str, Sequence[object]],
    ) -> None:
        self.version = version
        self.paused = paused
        self.default = default
        self.rules = tuple(rules)
        self._reads = {name: _union(rule.condition.reads[name] for rule in rules) for name in VARIABLES}
        # Converting values for CEL costs more than running a rule: lists are converted once, the meeting and the counts when
        # they are others than before, and of everything only what the rules read.
        self._view = View(lists)
        self._scene: tuple[Meeting, Counts] | None = None

    def decide(self, registrant: Registrant, *, meeting: Meeting, counts: Counts) -> Decision:
        """What the rules say; never raises. A rule without a result holds the registrant."""
        rule_name = ""
        try:
            self._show(registrant, meeting, counts)
            for rule in self.rules:
                rule_name = rule.name
                if rule.covers(meeting) and rule.condition.holds(self._view):
                    return self._decision(
                        rule.then, rule.name, rule.reason or f'Rule "{rule.name}" matched', rule.notify
                    )
        except ConditionFailed as failure:
            who = f'Rule "{rule_name}"' if rule_name else "The policy"
            return self._decision(Outcome.HOLD, rule_name, f"{who} could not be evaluated ({failure})")
        return self._decision(self.default, "", f"No rule matched: the default is {self.default}")

    def _show(self, registrant: Registrant, meeting: Meeting, counts: Counts) -> None:
        self._view.show("registrant", variables.registrant_fields(registrant, meeting, self._reads["registrant"]))
        if self._scene is None or self._scene[0] is not meeting or self._scene[1] != counts:
            self._scene = None
            self._view.show("meeting", variables.meeting_fields(meeting, self._reads["meeting"]))
            self._view.show("counts", variables.count_fields(counts.approved, counts.pending, counts.capacity))
            self._scene = (meeting, counts)

    def _decision(self, outcome: Outcome, rule: str, reason: str, notify: bool = True) -> Decision:
        return Decision(outcome=outcome, rule=rule, reason=reason, notify=notify, policy=self.version)


def _union(reads: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    every = list(reads)
    return None if None in every else frozenset().union(*(fields for fields in every if fields is not None))


#: What is used without a policy file.
HOLD_EVERYTHING = Policy(version="none", paused=False, default=Outcome.HOLD, rules=(), lists={})
