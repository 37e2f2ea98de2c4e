"""The connections that are open on the public listener: their caps, and the one sweeper that looks at their deadlines."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from service.core.errors import whereabouts
from service.receiver.framing import Refusal
from service.receiver.tracing import Sparing

#: Seconds between two looks at the deadlines. A deadline is that much earlier than its limit says, so that none is late.
SWEEP = 0.5


@dataclass(frozen=True)
class GuardLimits:
    """Seconds, bytes and numbers that one connection, and all of them together, may take. 0 of a source: as many as of all."""

    #: As many as the endpoint takes: told by whoever plugs them together, so that there is one number.
    body_bytes: int
    header_seconds: float = 5.0
    request_seconds: float = 10.0
    keep_alive_seconds: float = 75.0
    request_line: int = 2048
    fields: int = 64
    header_bytes: int = 16 * 1024
    connections: int = 4096
    per_source: int = 0


class Held(Protocol):
    """An open connection, as its keeper sees it. Times are by the keeper's clock, s; ``inf``: no deadline."""

    source: str
    #: When what the client does now has to be done, and when what was written has to be gone.
    due: float
    drained_by: float

    def overdue(self, now: float) -> None:
        """One of them is past."""


class Observer(Protocol):
    """Counts what the guard does."""

    def connection_refused(self, reason: str) -> None:
        """A connection was cut off."""


class Connections:
    """The connections that are open, their caps and their deadlines. :meth:`keep` has to run beside the server."""

    def __init__(self, *, observe: Observer, limits: GuardLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.clock = limits, clock
        self._observe = observe
        self._open: set[Held] = set()
        self._by_source: Counter[str] = Counter()
        self._lines = Sparing(1, clock=clock)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, held: Held) -> Refusal | None:
        """Count it in, unless there are too many."""
        limits = self.limits
        if len(self._open) >= limits.connections:
            return Refusal.TOO_MANY
        if limits.per_source and self._by_source[held.source] >= limits.per_source:
            return Refusal.TOO_MANY_FROM_SOURCE
        self._open.add(held)
        self._by_source[held.source] += 1
        return None

    def forget(self, held: Held) -> None:
        """It is closed. One that was never admitted may be forgotten too."""
        if held not in self._open:
            return
        self._open.remove(held)
        self._by_source[held.source] -= 1
        if not self._by_source[held.source]:
            del self._by_source[held.source]

    async def keep(self) -> None:
        """Cut off, again and again, those that are past a deadline. Never ends."""
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep()

    def sweep(self) -> None:
        """Cut off those that are past a deadline. Never raises."""
        now = self.clock()
        for held in [each for each in self._open if each.due <= now or each.drained_by <= now]:
            try:
                held.overdue(now)
            except Exception as bug:  # noqa: BLE001 - the border: the others have deadlines too
                self.failed(bug)

    def failed(self, bug: BaseException) -> None:
        """Log where it happened, and not what it says: that may hold personal data."""
        self._observe.connection_refused("bug")
        if self._lines.left_out("bug") is not None:
            structlog.get_logger().error("connection.failed", error=type(bug).__name__, at=whereabouts(bug))

    def refused(self, reason: str, **more: object) -> None:
        """Count it, and log one of them a second."""
        self._observe.connection_refused(reason)
        left_out = self._lines.left_out("")
        if left_out is not None:
            if left_out:
                more["left_out"] = left_out
            structlog.get_logger().warning("connection.refused", reason=reason, **more)
