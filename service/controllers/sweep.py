"""The sweep: every known meeting with registration is looked at in time, since registrants have no webhook."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import structlog

from service.controllers.backlog import Backlog, Key
from service.controllers.ledger import Ledger
from service.controllers.ports import Clock
from service.controllers.task import Task
from service.core.ledger import KnownMeeting, SeriesMemory
from service.core.schedule import EVER, NextLook, Past, Rhythm, by_start, choose, few_wait, looks, next_look

#: Calls per second, where nobody says how many are allowed.
UNLIMITED = 50.0
#: A partition that nobody owned for this long has a gap; less where meetings are looked at more often than every 2 minutes.
OUTAGE = timedelta(seconds=60)
#: A look that was asked for so long ago and did not begin is held up by something else than by the others.
STALE = timedelta(seconds=60)
#: Plans that are made in one tick.
AT_A_TIME = 1000


@dataclass(frozen=True)
class Intervals:
    """The longest time that a known meeting goes without a look, and without a full one."""

    look: timedelta
    full_look: timedelta


class Asked:
    """Looks that were asked for and have not begun. Few of them at once, so that no hint has to wait behind many."""

    def __init__(self, backlog: Backlog, now: Clock) -> None:
        self._backlog, self._now = backlog, now
        self._at: dict[Key, datetime] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._at

    def add(self, key: Key) -> None:
        """This look was asked for now."""
        self._at[key] = self._now()

    def began(self, key: Key) -> None:
        """This look began: whatever waits from now on is another one."""
        self._at.pop(key, None)

    def count(self) -> int:
        """How many still wait, and have not done so for long."""
        now = self._now()
        self._at = {key: at for key, at in self._at.items() if key in self._backlog}
        return sum(abs(now - at) < STALE for at in self._at.values())


@dataclass(frozen=True, slots=True)
class _Plan:
    """When a meeting is looked at next, and from what that follows."""

    known: KnownMeeting
    past: Past
    next: NextLook


class _Turns:
    """How many looks one organisation may have now."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.turn, self._credit = asked, 0, 1.0

    def room(self, rate: float, seconds: float) -> int:
        """Looks that may be asked for, ``seconds`` after the last question."""
        at_once = max(1.0, looks(rate, 1.0)) if rate > 0 else 0.0
        self._credit = min(self._credit + looks(rate, seconds), at_once)
        return int(min(self._credit, at_once - self.asked.count()))

    def took(self, count: int) -> None:
        """So many were."""
        self._credit, self.turn = self._credit - count, 1 - self.turn


class Sweep:
    """Marks the meetings whose look is due.

    ``budget`` says how many calls per second Webex allows an organisation now: 0 where it may not be called.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        backlog: Backlog,
        intervals: Intervals,
        now: Clock,
        budget: Callable[[str], float] = lambda _: UNLIMITED,
    ) -> None:
        self._ledger, self._backlog, self._now, self._budget = ledger, backlog, now, budget
        self._interval = intervals.look
        self._tick = min(timedelta(seconds=1), intervals.look / 4, intervals.full_look / 4)
        self._rhythm = Rhythm(interval=self._early(intervals.look), full_interval=self._early(intervals.full_look))
        self._past: dict[Key, Past] = {}
        self._plans: dict[Key, _Plan] = {}
        self._gap: dict[Key, None] = {}
        self._running: set[Key] = set()
        self._ticked = EVER
        self._turns: defaultdict[str, _Turns] = defaultdict(lambda: _Turns(Asked(backlog, now)))
        self._log = structlog.get_logger()

    def _early(self, interval: timedelta) -> timedelta:
        """Looks wait for a tick and for a worker, and shall not be late by that."""
        return min(interval - self._tick, interval * 0.95)

    def looked(self, key: Key, *, hinted: bool = False) -> None:
        """A look at this series began now; ``hinted``: because a hint came."""
        now = self._now()
        for turns in self._turns.values():
            turns.asked.began(key)
        past = self._past.get(key) or Past(since=now)
        self._past[key] = Past(since=past.since, looked=now, hinted=now if hinted else past.hinted)

    @contextmanager
    def looking(self, key: Key, *, hinted: bool = False) -> Iterator[None]:
        """As :meth:`looked`, around the whole of the look: no other one is asked for meanwhile, nor soon after a long one."""
        self.looked(key, hinted=hinted)
        began = self._past[key]
        self._running.add(key)
        try:
            yield
        finally:
            self._running.discard(key)
            if self._past.get(key) is began:
                took = max(timedelta(0), self._now() - (began.looked or began.since))
                self._past[key] = msgspec.structs.replace(began, took=took)

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._past = {key: past for key, past in self._past.items() if key[0] != partition}
        self._plans = {key: plan for key, plan in self._plans.items() if key[0] != partition}
        self._gap = {key: None for key in self._gap if key[0] != partition}

    def gap(self, partition: int) -> bool:
        """Whether nobody owned the partition for a while; then its meetings are looked at first, as :meth:`catch_up` does.

        Only right after it was restored: the new owner's own records would hide the gap.
        """
        owner = self._ledger.partition(self._ledger.place("", partition)).owner
        if owner is None or self._now() - owner.at <= min(OUTAGE, self._interval / 2):
            return False
        seconds = round((self._now() - owner.at).total_seconds())
        self._log.warning("sweep.gap", partition=partition, seconds=seconds, meetings=self.catch_up(partition))
        return True

    def catch_up(self, partition: int) -> int:
        """Look at every known meeting of the partition before anything else, the soonest first; returns how many."""
        now = self._now()
        known = [((n, series), memory.meeting) for n, series, memory in self._ledger.known(partition) if memory.meeting]
        known.sort(key=lambda each: by_start(each[1], now=now))
        self._gap |= {key: None for key, _ in known}
        return len(known)

    async def run(self) -> None:
        """Mark what is due, for ever."""
        while True:
            await asyncio.sleep(self._tick.total_seconds())
            self.mark_due()

    def mark_due(self) -> None:
        """Mark known meetings whose look is due and that do not wait already: as many as there is room for."""
        now = self._now()
        self._plan_all(now)
        due: defaultdict[str, list[Key]] = defaultdict(list)
        for key, plan in self._plans.items():
            if (plan.next.soon <= now or key in self._gap) and self._may_be_asked(key, plan, now):
                due[plan.known.organization].append(key)
        for organization, keys in due.items():
            self._mark(organization, keys, now)

    def _may_be_asked(self, key: Key, plan: _Plan, now: datetime) -> bool:
        """What waits already, for another try perhaps, is only hurried up where a look is owed, and once."""
        if key not in self._backlog:
            return key not in self._running
        owed = plan.next.latest <= now or key in self._gap
        return owed and key not in self._turns[plan.known.organization].asked

    def _mark(self, organization: str, keys: Iterable[Key], now: datetime) -> None:
        turns = self._turns[organization]
        room = turns.room(self._budget(organization), self._tick.total_seconds())
        if room <= 0:
            return
        chosen = self._first(keys, room, turns.turn, now)
        for key in chosen:
            place = self._ledger.place(organization, key[0])
            memory = self._ledger.series(place, key[1])  # the look itself changed it, after the plan was made
            full = self._next(key, self._plans[key].known, self._plans[key].past, memory, now).full <= now
            self._backlog.mark(Task(place=place, series=key[1], full=full, swept=True))
            self._gap.pop(key, None)
            turns.asked.add(key)
        turns.took(len(chosen))

    def _first(self, keys: Iterable[Key], room: int, turn: int, now: datetime) -> list[Key]:
        ready = set(keys)
        missed = [key for key in self._gap if key in ready][:room]
        following = {key: self._plans[key].next for key in ready.difference(missed)}
        owed = sorted((key for key in following if following[key].latest <= now), key=lambda key: following[key].latest)
        wanted = sorted((key for key in following if following[key].latest > now), key=lambda key: following[key].soon)
        return [*missed, *choose(owed, wanted, room - len(missed), turn=turn)]

    # --- plans ----------------------------------------------------------------------------------------------------

    def _plan_all(self, now: datetime) -> None:
        """A plan for every known meeting, made anew only where something changed, and for so many at a time: there may be
        tens of thousands, and others need the loop.
        """
        if now < self._ticked:  # the clock was put back
            self._past = {key: past.not_after(now) for key, past in self._past.items()}
        plans, past, fresh = dict[Key, _Plan](), self._past, 0
        for partition, series, memory in self._ledger.known():
            known, key = memory.meeting, (partition, series)
            if known is None:
                continue
            plan = self._plans.get(key)
            if (plan is None or plan.known is not known or plan.past is not past.get(key)) and fresh < AT_A_TIME:
                plan, fresh = self._plan(key, known, memory, now), fresh + 1
            if plan is not None:
                plans[key] = plan
        self._plans, self._ticked = plans, now
        if fresh < AT_A_TIME:
            self._forget_unknown(now)

    def _plan(self, key: Key, known: KnownMeeting, memory: SeriesMemory, now: datetime) -> _Plan:
        past = self._past.setdefault(key, Past(since=now))
        return _Plan(known, past, self._next(key, known, past, memory, now))

    def _forget_unknown(self, now: datetime) -> None:
        if len(self._past) > len(self._plans):
            # A first look is under way before its meeting is known.
            self._past = {
                key: past
                for key, past in self._past.items()
                if key in self._plans or (past.looked is not None and now - past.looked < STALE)
            }
        if self._gap:
            self._gap = {key: None for key in self._gap if key in self._plans}

    def _next(self, key: Key, known: KnownMeeting, past: Past, memory: SeriesMemory, now: datetime) -> NextLook:
        waiting = few_wait(memory.registrants)
        return next_look(known, past, series=key[1], rhythm=self._rhythm, now=now, waiting=waiting)
