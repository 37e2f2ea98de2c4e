"""The operator's policy for registrants: the file, the rules, the decision."""

from __future__ import annotations

from service.core.policy.addresses import email_domain
from service.core.policy.decisions import HOLD_EVERYTHING, Counts, Decision, Outcome, Policy, Rule
from service.core.policy.parsing import parse

__all__ = ["HOLD_EVERYTHING", "Counts", "Decision", "Outcome", "Policy", "Rule", "email_domain", "parse"]
