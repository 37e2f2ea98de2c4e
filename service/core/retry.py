"""How long to wait before the next try. Chance and the clock come in as arguments."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

#: The shortest wait that an answer with ``Retry-After`` leads to, in seconds.
SHORTEST = 1.0

#: Whole seconds by RFC 9110, 10.2.3; a fraction is understood too.
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")

#: An HTTP date has 29 characters, its obsolete forms up to 33.
_LONGEST_DATE = 64


def retry_after(value: str | None, *, now: datetime, default: float = 15.0, cap: float = 900.0) -> float:
    """The seconds that a ``Retry-After`` header asks for, at least 1 and at most ``cap``.

    Seconds or an HTTP date (RFC 9110, 10.2.3). Anything else counts as ``default``: Webex has been seen to send the unevaluated
    ``rand(30),add(30)`` (WebexPythonSDK, issue 181), whose fix waits 15 s. A time in the past asks for the shortest wait.
    """
    text = (value or "").strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else _until(text, now)
    return min(max(default if seconds is None else seconds, SHORTEST), cap)


def backoff(attempt: int, *, base: float = 1.0, cap: float = 60.0, chance: float) -> float:
    """The seconds before try ``attempt`` (0 is the first retry): "full jitter" between 0 and min(cap, base * 2**attempt).

    ``chance`` is in [0, 1). Why the whole range: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    doublings = min(max(attempt, 0), 64)
    return chance * min(cap, base * 2.0**doublings)


class RetryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be sent again: ``share`` of all that is sent, and ``trickle`` more each second, so that quiet times can
    retry too. ``most`` is what can be saved up (and what there is at first).

    Why: retries at every try multiply an outage ("Addressing Cascading Failures", Google SRE book; 10 % there).
    """

    share: float = 0.1
    trickle: float = 0.2
    most: float = 20.0
    left: float = 20.0
    seen: float = -math.inf

    def sent(self, now: float) -> RetryBudget:
        """Something was sent, for the first time or again, at ``now`` (monotonic seconds)."""
        return self._with(self.left_at(now) + self.share, now)

    def allows(self, now: float) -> bool:
        """Whether something may be sent again."""
        return self.left_at(now) >= 1.0

    def repeated(self, now: float) -> RetryBudget:
        """One repetition was granted."""
        return self._with(self.left_at(now) - 1.0, now)

    def left_at(self, now: float) -> float:
        """How many repetitions there are."""
        passed = 0.0 if self.seen == -math.inf else max(0.0, now - self.seen)
        return min(self.left + passed * self.trickle, self.most)

    def _with(self, left: float, now: float) -> RetryBudget:
        return msgspec.structs.replace(self, left=min(left, self.most), seen=now)


def _until(text: str, now: datetime) -> float | None:
    if len(text) > _LONGEST_DATE:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # "-0000" and the obsolete forms carry no zone: HTTP dates are in UTC.
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (zoned - now).total_seconds()
