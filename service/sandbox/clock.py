"""The time of the simulated Webex: the real one, until somebody moves it on or lets it pass faster."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from service.sandbox.documents import Documents
from service.sandbox.records import ClockRecord
from service.sandbox.refusals import invalid

#: Fastest, and furthest ahead that one call moves it.
FASTEST = 100_000.0
FURTHEST = timedelta(days=3652)


class Clock:
    """Never goes back by itself. Where it stands is stored, so that a restart goes on from there."""

    def __init__(self, documents: Documents, real: Callable[[], datetime]) -> None:
        self._documents = documents
        self._real = real
        self._set = documents.read("clock", ClockRecord).get("")

    def __call__(self) -> datetime:
        """Now."""
        if self._set is None:
            return self._real()
        return self._set.shown + (self._real() - self._set.real) * self._set.speed

    @property
    def speed(self) -> float:
        """How many seconds pass here in one of ours."""
        return self._set.speed if self._set else 1.0

    def move(self, *, seconds: float = 0.0, speed: float | None = None) -> None:
        """Move on by ``seconds``, and let time pass ``speed`` times as fast from now on. Raises Refusal (400)."""
        pace = self.speed if speed is None else speed
        if not 0 <= seconds <= FURTHEST.total_seconds() or not 0 <= pace <= FASTEST:
            raise invalid(f"advanceSeconds is not negative and at most ten years; speed is 0 to {FASTEST:.0f}.")
        try:
            shown = self() + timedelta(seconds=seconds)
        except OverflowError as error:
            raise invalid("The clock cannot go that far.") from error
        self._set = ClockRecord(real=self._real(), shown=shown, speed=pace)
        self._documents.put("clock", "", self._set)
