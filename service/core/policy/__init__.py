"""The operator's policy: the file, the rules, the decision about a registrant and the wishes for a meeting."""

from __future__ import annotations

from service.core.policy.addresses import email_domain
from service.core.policy.decisions import HOLD_EVERYTHING, Counts, Decision, Explanation, Outcome, Policy, Rule, Step
from service.core.policy.lists import LARGEST_LIST
from service.core.policy.meeting_rules import MeetingRule
from service.core.policy.parsing import files_of, parse
from service.core.wishes import Wish

__all__ = [
    "HOLD_EVERYTHING",
    "LARGEST_LIST",
    "Counts",
    "Decision",
    "Explanation",
    "MeetingRule",
    "Outcome",
    "Policy",
    "Rule",
    "Step",
    "Wish",
    "email_domain",
    "files_of",
    "parse",
]
