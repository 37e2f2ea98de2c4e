"""How fast one credential may call Webex, who goes next, and when it is not called at all.

Webex publishes no numbers: its limits are "dynamic" ("Rate Limiting for API calls"), so they are felt for. Every value here
is frozen, and the time (monotonic seconds) comes in as ``now``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from enum import StrEnum

import msgspec

_NEVER = -math.inf

#: A wait shorter than a microsecond is none: sums of seconds are not exact.
_NOTHING = 1e-6

#: The speed that is in use is measured over about so many seconds.
_MEMORY = 1.0

#: Slower use than this cannot be told from a few calls at once.
_MEASURABLE = 5.0

#: No single answer raises the speed by more than this share: at low speeds a step would double it.
_LARGEST_STEP = 0.1

#: So many live calls begin one after another while a sweep waits; then the sweep's turn has come.
_LIVE_IN_A_ROW = 4


class Lane(StrEnum):
    """Which of two queues a call stands in."""

    LIVE = "live"
    SWEEP = "sweep"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Speeds in calls per second.

    ``burst`` calls may follow one another at once after a rest. At full use the speed grows by ``step`` each second; at a
    429 or 423 it is multiplied by ``cut``. After ``failures`` failures in a row, none more than ``gap`` seconds after the
    one before it, the circuit opens; then one call goes out every ``pause`` seconds.
    """

    start: float = 50.0
    ceiling: float = 100.0
    floor: float = 0.5
    burst: int = 10
    step: float = 2.0
    cut: float = 0.5
    failures: int = 8
    gap: float = 15.0
    pause: float = 5.0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The allowed speed (additive increase, multiplicative decrease) and the moment before which nobody sends.

    A token bucket: ``credit`` is how many calls could go out at the time ``at``. ``used`` is the measured speed at the
    time ``seen`` of the latest call.
    """

    limits: Limits
    rate: float
    credit: float
    at: float = _NEVER
    not_before: float = _NEVER
    lowered: float = _NEVER
    used: float = 0.0
    seen: float = _NEVER

    @classmethod
    def begin(cls, limits: Limits) -> Pace:
        """Nothing was sent yet."""
        return cls(limits=limits, rate=limits.start, credit=float(limits.burst))

    def shut_for(self, now: float) -> float:
        """Seconds until the moment that Webex named; 0 where it has passed."""
        return max(0.0, self.not_before - now)

    def delay(self, now: float) -> float:
        """Seconds until the next call fits in, 0 where it does now."""
        missing = (1.0 - self._credit(now)) / self.rate
        wait = max(0.0, self.at - now) + missing if missing > _NOTHING else 0.0
        return max(wait, self.shut_for(now))

    def sent(self, now: float) -> Pace:
        """One call went out."""
        used = self._used(now) + 1.0 / _MEMORY
        return msgspec.structs.replace(
            self, credit=self._credit(now) - 1.0, at=max(now, self.at), used=used, seen=max(now, self.seen)
        )

    def answered(self, now: float) -> Pace:
        """A call was answered, and not with 429 or 423. The speed grows only while at least half of it is in use."""
        if self._used(now) < self.rate / 2 or self.rate >= self.limits.ceiling:
            return self
        more = min(self.limits.step / self.rate, _LARGEST_STEP * self.rate)
        rate = min(self.rate + more, self.limits.ceiling)
        return msgspec.structs.replace(self, rate=rate, credit=self._credit(now), at=max(now, self.at))

    def throttled(self, now: float, *, sent: float, wait: float) -> Pace:
        """A call that was sent at ``sent`` was answered with 429 or 423: nobody sends for ``wait`` seconds.

        Then calls go out one by one. The speed is lowered once for all that were under way together, from what was really
        in use, which may be far below what was allowed.
        """
        until = max(self.not_before, now + wait)
        rate, lowered = self.rate, self.lowered
        if sent > self.lowered:
            in_use = min(self.rate, max(self._used(self.seen), _MEASURABLE))
            rate, lowered = max(in_use * self.limits.cut, self.limits.floor), now
        return msgspec.structs.replace(self, not_before=until, rate=rate, lowered=lowered, credit=1.0, at=until)

    def _credit(self, now: float) -> float:
        gained = 0.0 if self.at == _NEVER else max(0.0, now - self.at) * self.rate
        return min(self.credit + gained, float(self.limits.burst))

    def _used(self, now: float) -> float:
        return 0.0 if self.seen == _NEVER else self.used * math.exp(-max(0.0, now - self.seen) / _MEMORY)


class Circuit(msgspec.Struct, frozen=True, kw_only=True):
    """A circuit breaker: opens after failures in a row, then lets one call through at a time, until one succeeds.

    ``since`` is when it last opened or closed. What was sent before then tells nothing about the time after.
    """

    limits: Limits
    is_open: bool = False
    failures: int = 0
    latest: float = _NEVER
    since: float = _NEVER
    probe: float = _NEVER

    def refused_for(self, now: float) -> float:
        """Seconds until a call may go out; 0 where it may now."""
        return max(0.0, self.probe - now) if self.is_open else 0.0

    def sent(self, now: float) -> Circuit:
        """One call went out. While open it is the probe, and the next one is ``pause`` later, even if it never ends."""
        return msgspec.structs.replace(self, probe=now + self.limits.pause) if self.is_open else self

    def succeeded(self, now: float, *, sent: float) -> Circuit:
        """A call that was sent at ``sent`` was answered: Webex lives."""
        if sent < self.since:
            return self
        since = now if self.is_open else self.since
        return msgspec.structs.replace(self, is_open=False, failures=0, since=since)

    def failed(self, now: float, *, sent: float) -> Circuit:
        """A call that was sent at ``sent`` got no answer, or a 5xx."""
        if sent < self.since or self.is_open:
            return self
        failures = self.failures + 1 if now - self.latest <= self.limits.gap else 1
        counted = msgspec.structs.replace(self, failures=failures, latest=now)
        if failures < self.limits.failures:
            return counted
        return msgspec.structs.replace(counted, is_open=True, since=now, probe=now + self.limits.pause)


class Lanes(msgspec.Struct, frozen=True, kw_only=True):
    """How many calls of each lane are under way, and whose turn it is.

    Sweeps have at most half of the ``slots``, so that a live call finds one; of five calls that begin while both lanes wait,
    one is a sweep's, so that sweeps go on too. ``streak``: live calls begun while a sweep could have.
    """

    slots: int
    live: int = 0
    sweep: int = 0
    streak: int = 0

    def choice(self, waiting: Collection[Lane]) -> Lane | None:
        """Who of those ``waiting`` begins now; None where nobody may."""
        if self.live + self.sweep >= self.slots:
            return None
        sweep = self._sweep_may(waiting)
        if Lane.LIVE in waiting and not (sweep and self.streak >= _LIVE_IN_A_ROW):
            return Lane.LIVE
        return Lane.SWEEP if sweep else None

    def began(self, lane: Lane, waiting: Collection[Lane]) -> Lanes:
        """A call of ``lane`` began; ``waiting`` are the lanes of those who waited then, it included."""
        if lane is Lane.SWEEP:
            return msgspec.structs.replace(self, sweep=self.sweep + 1, streak=0)
        streak = self.streak + 1 if self._sweep_may(waiting) else self.streak
        return msgspec.structs.replace(self, live=self.live + 1, streak=streak)

    def ended(self, lane: Lane) -> Lanes:
        """A call of ``lane`` ended."""
        if lane is Lane.SWEEP:
            return msgspec.structs.replace(self, sweep=self.sweep - 1)
        return msgspec.structs.replace(self, live=self.live - 1)

    def _sweep_may(self, waiting: Collection[Lane]) -> bool:
        return Lane.SWEEP in waiting and self.sweep < max(1, self.slots // 2)
