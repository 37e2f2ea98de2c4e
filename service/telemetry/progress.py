"""Whether the loops of this process turn: what ``/livez`` is about.

A loop beats at every turn, also when there was nothing to do. One that has not beaten for its limit, although it should
have, hangs, and a restart would help. The event loop itself shows by not answering at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

#: Seconds without a beat after which a loop counts as stuck.
LIMIT = 60.0

#: Seconds between two looks of :meth:`Progress.keep`.
INTERVAL = 5.0


@dataclass
class _Loop:
    limit: float
    should: Callable[[], bool]
    beaten: float
    told: bool = False


class Progress:
    """The loops of one process by their names; ``monotonic`` is in seconds."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._loops: dict[str, _Loop] = {}
        self._log = structlog.get_logger()

    def watch(self, name: str, *, limit: float = LIMIT, should: Callable[[], bool] = lambda: True) -> None:
        """From now on the loop has to beat every ``limit`` seconds, as long as ``should`` says that it can.

        What waits for Kafka, say, is not stuck: it waits, and a restart would wait too.
        """
        self._loops[name] = _Loop(limit, should, self._monotonic())

    def beat(self, name: str) -> None:
        """The loop has turned. Ignored for one that is not watched."""
        if (loop := self._loops.get(name)) is not None:
            loop.beaten, loop.told = self._monotonic(), False

    def ended(self, name: str) -> None:
        """The loop has ended in order; nothing more is expected of it."""
        self._loops.pop(name, None)

    def ages(self) -> dict[str, float]:
        """Seconds since the last beat of each."""
        now = self._monotonic()
        return {name: now - loop.beaten for name, loop in self._loops.items()}

    def stuck(self) -> list[str]:
        """The names of the loops that hang."""
        now = self._monotonic()
        return sorted(name for name, loop in self._loops.items() if now - loop.beaten > loop.limit and loop.should())

    async def keep(self) -> None:
        """Until cancelled: excuse the loops that cannot turn now, and tell once of each that hangs."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL)

    def look(self) -> None:
        """One look of :meth:`keep`: the time of a loop begins anew as long as it cannot turn."""
        for name, loop in self._loops.items():
            if not loop.should():
                self.beat(name)
        for name in self.stuck():
            loop = self._loops[name]
            if not loop.told:
                loop.told = True
                advice = "restart the process, and report the lines before this one"
                self._log.error("loop.stuck", loop=name, seconds=round(self.ages()[name]), advice=advice)
