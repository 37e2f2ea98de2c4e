"""Who can forbid a write, and when that is asked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.ledger import Ledger, Place
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.core import policy
from service.core.errors import NotOwner, WritesStopped
from service.core.ledger import Entry, Fact

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FACT = Fact(at=NOW)
OPEN, CLOSED = policy.parse("version: 1"), policy.parse("version: 1\npaused: true")


class Gate:
    """A permission with everything that it asks."""

    def __init__(self, journal: Journal) -> None:
        self.ledger = Ledger(reader=JournalReader(journal), publisher=JournalPublisher(journal))
        self.ownership = Ownership(self.ledger, instance="one", unconfirmed=lambda: 0.0, now=lambda: NOW)
        self.policy = OPEN
        self.permission = Permission(ledger=self.ledger, ownership=self.ownership, policy=lambda: self.policy)

    async def opened(self) -> Place:
        """Its partition, restored."""
        await self.ledger.restore(0)
        return self.ledger.place("default", 0)

    async def order(self, kind: str, subject: str, *, there: bool = True) -> None:
        """What an order, or the processor, writes."""
        entry = Entry(kind=kind, subject=subject, value=FACT if there else None)
        await self.ledger.record(self.ledger.place("default", 0), [entry])


async def test_an_owner_may_write(journal: Journal) -> None:
    """Where nothing forbids it."""
    gate = Gate(journal)
    place = await gate.opened()
    await gate.permission.ask(place)
    gate.permission.check(place)

    assert gate.permission.stopped(place) == ""


@pytest.mark.parametrize(
    ("kind", "subject", "reason"), [("paused", "default", "paused"), ("observing", "0", "observeOnly")]
)
async def test_the_ledger_forbids(journal: Journal, kind: str, subject: str, reason: str) -> None:
    """At the next question, at the very moment of a call, and after a restart; until it is taken back."""
    gate = Gate(journal)
    place = await gate.opened()
    await gate.permission.ask(place)
    await gate.order(kind, subject)
    with pytest.raises(WritesStopped) as told:
        gate.permission.check(place)
    assert told.value.reason == reason

    gate = Gate(journal)
    place = await gate.opened()
    with pytest.raises(WritesStopped):
        await gate.permission.ask(place)
    await gate.order(kind, subject, there=False)
    await gate.permission.ask(place)


async def test_the_policy_file_forbids(journal: Journal) -> None:
    """As soon as it is read."""
    gate = Gate(journal)
    place = await gate.opened()
    await gate.permission.ask(place)
    gate.policy = CLOSED
    with pytest.raises(WritesStopped):
        gate.permission.check(place)
    with pytest.raises(WritesStopped):
        await gate.permission.ask(place)


async def test_one_organisation_is_paused_and_its_neighbour_is_not(journal: Journal) -> None:
    """They may share a partition."""
    gate = Gate(journal)
    await gate.opened()
    await gate.order("paused", "other")
    await gate.permission.ask(gate.ledger.place("default", 0))

    with pytest.raises(WritesStopped):
        await gate.permission.ask(gate.ledger.place("other", 0))


async def test_who_does_not_own_it_may_not_even_ask(journal: Journal) -> None:
    """The answer would be that of an old memory."""
    gate = Gate(journal)
    place = await gate.opened()
    gate.ledger.forget(0)
    for question in (gate.permission.stopped, gate.permission.check):
        with pytest.raises(NotOwner):
            question(place)
    with pytest.raises(NotOwner):
        await gate.permission.ask(place)
