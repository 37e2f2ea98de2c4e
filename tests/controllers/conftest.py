"""The controllers on a real journal, with Webex at its port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.ledger import Ledger, Place
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.registrants import Looked, RegistrantsController
from service.controllers.task import Task
from service.core import event, policy
from service.core.event import CloudEvent
from service.core.ledger import Entry
from service.core.policy import Policy
from tests.fakes import CountingObserver, FakeTenant, FakeWebex, PickyPublisher

SERIES = "5" * 32
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
POLICY = """
version: 1
lists: {partners: [example.org], rivals: [rival.example]}
rules:
  - {name: partners-in, when: registrant.emailDomain in lists.partners, then: approve, notify: false, reason: A partner}
  - {name: rivals-out, when: registrant.emailDomain in lists.rivals, then: reject, reason: A rival}
"""


@dataclass
class Desk:
    """One registrants controller with everything that it works with; :meth:`restarted` gives the next process."""

    journal: Journal
    webex: FakeWebex
    publisher: PickyPublisher
    policy: Policy
    now: datetime = START
    instance: str = "one"
    observer: CountingObserver = field(default_factory=CountingObserver)
    tenants: dict[str, FakeTenant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(reader=JournalReader(self.journal), publisher=self.publisher)
        self.ownership = Ownership(self.ledger, instance=self.instance, unconfirmed=lambda: 0.0, now=self.clock)
        self.permission = Permission(ledger=self.ledger, ownership=self.ownership, policy=lambda: self.policy)
        self.tenants = self.tenants or {"default": FakeTenant(self.webex)}
        self.controller = RegistrantsController(
            webex=lambda task: self.tenants[task.place.organization].api,
            ledger=self.ledger,
            permission=self.permission,
            policy=lambda: self.policy,
            observer=self.observer,
            receiver="test",
            now=self.clock,
        )

    def clock(self) -> datetime:
        """The desk's own time."""
        return self.now

    async def restarted(self, *, instance: str = "one") -> Desk:
        """A new process on the same journal, its ledger restored."""
        desk = Desk(self.journal, self.webex, self.publisher, self.policy, self.now, instance, tenants=self.tenants)
        await desk.ledger.restore(0)
        return desk

    @property
    def place(self) -> Place:
        """Where the only organisation stands now."""
        return self.ledger.place("default", 0)

    async def look(self, *, minutes: float = 0, full: bool = False, swept: bool = False) -> Looked:
        """Look, so many minutes later."""
        self.now += timedelta(minutes=minutes)
        task = Task(place=self.place, series=SERIES, org_id="org", full=full, swept=swept)
        return await self.controller.look(task, await self.webex.get_meeting(SERIES))

    async def obey(self, *entries: Entry) -> None:
        """What an operator ordered is in the ledger."""
        await self.ledger.record(self.place, list(entries))

    async def facts(self) -> list[CloudEvent]:
        """Every registrant event published."""
        _, following = await self.journal.bounds("registrants")
        records = await self.journal.read("registrants", 0, following) if following else []
        return [event.decode(record.message.value or b"") for record in records]

    async def told(self) -> list[tuple[str, str]]:
        """``(registrant, what happened)`` of every fact, in order."""
        return [(fact.data["id"], fact.type.split(".")[2]) for fact in await self.facts()]

    async def ledger_kinds(self) -> list[str]:
        """The kinds of the ledger's records, in order."""
        _, following = await self.journal.bounds("ledger")
        return [one.message.key.split("/")[0] for one in await self.journal.read("ledger", 0, following)]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """A journal of its own."""
    async with await Journal.open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def desk(journal: Journal) -> Desk:
    """A controller with three people: a partner, a rival and somebody unknown."""
    webex = FakeWebex(series=SERIES, registration={"maxRegisterNum": 100})
    for id_, domain in (("partner", "example.org"), ("rival", "rival.example"), ("unknown", "example.com")):
        webex.register(id_, email=f"{id_}@{domain}", at=START - timedelta(days=1))
    publisher = PickyPublisher(JournalPublisher(journal), lambda _: False)
    made = Desk(journal, webex, publisher, policy.parse(POLICY))
    await made.ledger.restore(0)
    return made
