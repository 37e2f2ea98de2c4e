"""Operators' orders: what somebody at the command line wants of the owner of an organisation."""

from __future__ import annotations

import asyncio

import structlog

from service.controllers.backlog import Backlog
from service.controllers.ledger import Ledger, Place
from service.controllers.ports import Clock
from service.controllers.sweep import Sweep
from service.controllers.task import Task
from service.core import registrants, trial
from service.core.errors import CannotStore, KafkaUnavailable
from service.core.ledger import Entry, Fact
from service.core.work import Order

#: Where the ledger cannot be written, an order is tried again after so many seconds.
AGAIN = 1.0


class Orders:
    """Obeys them by the ledger, so that the next owner does too."""

    def __init__(self, *, ledger: Ledger, backlog: Backlog, sweep: Sweep, now: Clock) -> None:
        self._ledger, self._backlog, self._sweep, self._now = ledger, backlog, sweep, now
        self._log = structlog.get_logger()

    async def obey(self, place: Place, order: Order) -> None:
        """Return when it is in the ledger, however long that takes. Raises NotOwner."""
        while True:
            try:
                if order.verb == "adopt":
                    await self._ledger.read_again(place)  # what was lost may have been imported meanwhile
                if not self._is_timely(place, order):
                    return
                await self._ledger.record(place, self._entries(place, order))
                break
            except (CannotStore, KafkaUnavailable):
                await asyncio.sleep(AGAIN)
        self._log.warning("order.obeyed", organization=place.organization, verb=order.verb, policy=order.policy)
        self._follow_up(place, order)

    def _is_timely(self, place: Place, order: Order) -> bool:
        """Another version than the one on trial is confirmed too late, or was never seen."""
        record = self._ledger.partition(place).policies.get(place.organization)
        timely = order.verb != "confirm" or (record is not None and record.trial == order.policy)
        if not timely:
            self._log.warning("order.out_of_date", organization=place.organization, policy=order.policy)
        return timely

    def _entries(self, place: Place, order: Order) -> list[Entry]:
        organization, fact = place.organization, Fact(at=self._now())
        match order.verb:
            case "pause":
                return [Entry(kind="paused", subject=organization, value=fact)]
            case "resume":
                return [Entry(kind="paused", subject=organization, value=None)]
            case "confirm":
                record = trial.confirmed(self._ledger.partition(place).policies.get(organization), order.policy)
                return [Entry(kind="policy", subject=organization, value=record)]
            case "adopt":
                partition = str(place.partition)
                observing = Entry(kind="observing", subject=partition, value=None)
                return [Entry(kind="founded", subject=partition, value=fact), observing]
            case "release":
                return registrants.released(order.series, order.registrants, now=self._now())

    def _follow_up(self, place: Place, order: Order) -> None:
        """Whatever waited for the order is done, within the rate of the sweep."""
        if order.verb == "release":
            self._backlog.mark(Task(place=place, series=order.series, full=True))
        elif order.verb != "pause":
            self._sweep.catch_up(place.partition)
            self._backlog.resume(place.organization)
