"""Operators' orders: in the ledger, and whatever waited for them is done."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from service.controllers.backlog import Backlog
from service.controllers.orders import Orders
from service.controllers.sweep import Intervals, Sweep
from service.controllers.task import Task
from service.core.ledger import Entry, PolicyRecord
from service.core.work import Order
from tests.controllers.conftest import SERIES, START, Desk


class Office:
    """Where orders are obeyed."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.backlog, hour = desk, Backlog(), timedelta(hours=1)
        self.sweep = Sweep(ledger=desk.ledger, backlog=self.backlog, intervals=Intervals(hour, hour), now=desk.clock)
        self.orders = Orders(ledger=desk.ledger, backlog=self.backlog, sweep=self.sweep, now=desk.clock)

    async def told(self, order: Order) -> None:
        await self.orders.obey(self.desk.place, order)


@pytest.fixture
async def office(desk: Desk) -> Office:
    """One whose desk has looked at its meeting."""
    await desk.look()
    return Office(desk)


def order(**fields: object) -> Order:
    return Order(organization="default", at="2026-03-01T12:00:00Z", **fields)  # type: ignore[arg-type]


async def test_what_waits_goes_on_at_once(office: Office) -> None:
    """A key that was to be tried again in a minute does not wait for that."""
    office.backlog.mark(Task(place=office.desk.place, series=SERIES))
    waiting = office.backlog.take((0, SERIES))
    assert waiting is not None
    office.backlog.put_back(waiting, 60)
    await office.told(order(verb="pause"))
    assert office.backlog.take((0, SERIES)) is None
    await office.told(order(verb="resume"))
    assert office.backlog.take((0, SERIES)) is not None


async def test_known_meetings_are_looked_at_by_the_sweep(office: Office) -> None:
    """Not all at once before every hint, but as many as there is room for."""
    await office.told(order(verb="resume"))
    assert (0, SERIES) not in office.backlog
    office.desk.now += timedelta(seconds=1)
    office.sweep.mark_due()
    assert (0, SERIES) in office.backlog


@pytest.mark.parametrize(
    ("version", "accepted", "told"),
    [("second", "second", "order.obeyed"), ("another", "first", "order.out_of_date")],
)
async def test_only_the_version_on_trial_is_confirmed(office: Office, version: str, accepted: str, told: str) -> None:
    """Another one is out of date: nothing changes, and the log says so."""
    trial = PolicyRecord(accepted="first", trial="second", since=START, held="too much")
    await office.desk.obey(Entry(kind="policy", subject="default", value=trial))
    with capture_logs() as logs:
        await office.told(order(verb="confirm", policy=version))
    assert office.desk.ledger.partition(office.desk.place).policies["default"].accepted == accepted
    assert told in [each["event"] for each in logs]


async def test_released_people_are_looked_at_all(office: Office) -> None:
    """Whoever was released may have registered long ago."""
    await office.told(order(verb="release", series=SERIES, registrants=("partner",)))
    waiting = office.backlog.take((0, SERIES))
    assert waiting is not None
    assert waiting.task.full
