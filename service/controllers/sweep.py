"""The sweep: every known meeting with registration is looked at in time, since registrants have no webhook."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.controllers.backlog import Backlog, Key
from service.controllers.ledger import Ledger
from service.controllers.ports import Clock
from service.controllers.task import Task
from service.core.schedule import Due, due


@dataclass(frozen=True)
class Intervals:
    """The longest time that a known meeting goes without a look, and without a full one."""

    look: timedelta
    full_look: timedelta


class Sweep:
    """Marks the meetings whose look is due."""

    def __init__(self, *, ledger: Ledger, backlog: Backlog, intervals: Intervals, now: Clock) -> None:
        self._ledger, self._backlog, self._intervals, self._now = ledger, backlog, intervals, now
        self._looked: dict[Key, datetime] = {}
        self._tick = min(timedelta(seconds=1), intervals.look / 4)

    def looked(self, key: Key) -> None:
        """A look at this series began now, for whatever reason."""
        self._looked[key] = self._now()

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._looked = {key: at for key, at in self._looked.items() if key[0] != partition}

    async def run(self) -> None:
        """Mark what is due, for ever."""
        while True:
            await asyncio.sleep(self._tick.total_seconds())
            self.mark_due()

    def mark_due(self) -> None:
        """Mark every known meeting whose look is due and that does not wait already."""
        meetings = {(n, series): memory.meeting for n, series, memory in self._ledger.known() if memory.meeting}
        self._looked = {key: at for key, at in self._looked.items() if key in meetings}
        for key, known in meetings.items():
            if key in self._backlog:
                continue
            kind = due(
                known,
                looked=self._looked.get(key),
                now=self._now(),
                interval=self._intervals.look - self._tick,  # else it would be late by the next tick
                full_interval=self._intervals.full_look,
            )
            if kind is not Due.NOTHING:
                place = self._ledger.place(known.organization, key[0])
                self._backlog.mark(Task(place=place, series=key[1], full=kind is Due.FULL, swept=True))
