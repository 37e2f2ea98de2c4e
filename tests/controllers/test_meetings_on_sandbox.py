"""Meeting rules end to end: the simulated Webex and its people over real sockets, the ledger on a real journal."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.ledger import Ledger
from service.controllers.meetings import Changed, MeetingsController
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.task import Task
from service.core import event, policy
from service.core.errors import WebexUnavailable
from service.core.policy import Policy
from service.core.rate import Limits
from service.sandbox.app import create_app
from service.sandbox.world import World
from service.webex.api import WebexApi
from service.webex.client import WebexClient
from service.webex.rate import Budget
from service.webex.tokens import StaticToken
from tests.fakes import CountingObserver
from tests.sandbox import simulated
from tests.servers import running

RULES = """
version: 1
meetingRules:
  - name: webinars-are-recorded
    when: meeting.scheduledType == "webinar"
    set: {enabledAutoRecordMeeting: true, unlockedMeetingJoinSecurity: allowJoinWithLobby, integrationTags: [b, a]}
    enforce: always
  - name: house-style
    when: meeting.title.startsWith("Partner")
    set:
      agenda: "Hosted by us: ${meeting.title}"
      start: "2026-01-11T10:00:00+01:00"
      meetingOptions: {enabledChat: false}
      registration: {requireJobTitle: true, maxRegisterNum: 500}
    enforce: always
"""

_WRITES = ("patchMeeting", "updateMeeting", "updateMeetingRegistration")


@dataclass
class Site:
    """The simulated Webex with one webinar, and the controller that looks at it as its hints would make it."""

    world: World
    journal: Journal
    api: WebexApi
    people: httpx.AsyncClient
    clock: simulated.Clock
    policy: Policy
    series: str = ""
    observer: CountingObserver = field(default_factory=CountingObserver)

    async def started(self) -> None:
        """A process of its own, its ledger restored."""
        ledger = Ledger(reader=JournalReader(self.journal), publisher=JournalPublisher(self.journal))
        ownership = Ownership(ledger, instance="one", unconfirmed=lambda: 0.0, now=self.clock)
        await ledger.restore(0)
        self.place = ledger.place("default", 0)
        self.controller = MeetingsController(
            webex=lambda _: self.api,
            ledger=ledger,
            permission=Permission(ledger=ledger, ownership=ownership, policy=lambda: self.policy),
            policy=lambda: self.policy,
            observer=self.observer,
            receiver="test",
            now=self.clock,
        )

    async def look(self) -> Changed:
        """What an event about the meeting leads to."""
        return await self.controller.look(Task(place=self.place, series=self.series), await self.shown())

    async def shown(self) -> Any:
        """The meeting."""
        return await self.api.get_meeting(self.series)

    async def edit(self, **fields: Any) -> None:
        """The host does it."""
        answer = await self.people.patch(
            f"/v1/meetings/{self.series}", json=fields, headers={"content-type": "application/json-patch+json"}
        )
        assert answer.status_code == 200, answer.text

    async def spoil(self, **fault: Any) -> None:
        """The next calls go wrong."""
        (await self.people.post("/sandbox/faults", json=fault)).raise_for_status()

    def calls(self) -> Counter[str]:
        """How many calls there were of each operation."""
        return Counter(str(call["operationId"]) for call in self.world.ledger.shown(statuses={})["calls"])

    def writes(self) -> int:
        """Changes of the meeting and of its form, the host's among them."""
        return sum(count for name, count in self.calls().items() if name in _WRITES)

    async def outcomes(self) -> list[dict[str, Any]]:
        """The data of every event on ``outcomes``."""
        _, following = await self.journal.bounds("outcomes")
        records = await self.journal.read("outcomes", 0, following) if following else []
        return [event.decode(each.message.value or b"").data for each in records]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """One webinar with registration in a day."""
    clock = simulated.Clock()
    async with contextlib.AsyncExitStack() as stack:
        world = stack.enter_context(simulated.opened(clock=clock))
        journal = await stack.enter_async_context(await Journal.open(tmp_path))
        address = await stack.enter_async_context(running(create_app(world, token="right")))
        budget = Budget(limits=Limits(start=5000, ceiling=5000))
        client = await stack.enter_async_context(WebexClient(f"{address}/v1", StaticToken("right"), budget=budget))
        headers = {"authorization": "Bearer right"}
        people = httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=20)
        await stack.enter_async_context(people)
        made = Site(world, journal, WebexApi(client), people, clock, policy.parse(RULES))
        made.series = await simulated.schedule(people, scheduledType="webinar", sessionTypeId=1, password="Pa55word")
        await made.started()
        yield made


async def test_a_thousand_echoes_change_nothing(site: Site) -> None:
    """Two calls bring the meeting to where the rules want it; from then on every look is one GET, whoever looks."""
    await site.look()
    assert site.writes() == 2
    rules = [told["rule"] for told in await site.outcomes()]
    assert sorted(rules) == ["house-style", "house-style", "webinars-are-recorded"]  # the form has a call of its own
    records, reads = (await site.journal.bounds("ledger"))[1], site.calls()["getMeetingById"]
    for echo in range(1000):
        if echo % 250 == 249:
            await site.started()
        assert (await site.look()).again is None
        site.clock.advance(seconds=7)
    assert (site.writes(), len(await site.outcomes())) == (2, 3)
    assert site.calls()["getMeetingById"] - reads == 1000
    assert (await site.journal.bounds("ledger"))[1] == records


async def test_a_form_keeps_what_was_in_it(site: Site) -> None:
    """Its questions among it."""
    question = {"question": "Diet?", "type": "radioButtons", "options": [{"value": "none"}, {"value": "vegan"}]}
    form = {"autoAcceptRequest": True, "requireCity": True, "customizedQuestions": [question]}
    answer = await site.people.put(f"/v1/meetings/{site.series}/registration", json=form)
    assert answer.status_code == 200, answer.text
    await site.look()
    shown = (await site.shown()).fields["registration"]
    assert (shown["autoAcceptRequest"], shown["requireCity"], shown["requireJobTitle"]) == (True, True, True)
    assert shown["maxRegisterNum"] == 500
    assert [each["question"] for each in shown["customizedQuestions"]] == ["Diet?"]
    assert [each["value"] for each in shown["customizedQuestions"][0]["options"]] == ["none", "vegan"]


async def test_edits_of_a_host_who_never_rests_survive(site: Site) -> None:
    """A13: while the host edits fields of their own, over their own connection, no look takes any of it back."""
    site.policy = policy.parse(RULES.replace("    enforce: always\n", "", 1))
    done = asyncio.Event()

    async def host() -> None:
        for n in range(60):
            await site.edit(title=f"Partner briefing {n}", publicMeeting=n % 2 == 0, reminderTime=n)
            shown = (await site.shown()).fields
            assert (shown["title"], shown["reminderTime"]) == (f"Partner briefing {n}", n)
        done.set()

    async def looks() -> None:
        while not done.is_set():
            await site.look()
            site.clock.advance(minutes=31)

    async with asyncio.timeout(60):
        await asyncio.gather(host(), looks())
    shown = (await site.shown()).fields
    assert (shown["title"], shown["reminderTime"], shown["publicMeeting"]) == ("Partner briefing 59", 59, False)


async def test_a_host_who_changes_what_a_rule_set_once_has_the_last_word(site: Site) -> None:
    """However often it is looked at."""
    site.policy = policy.parse(RULES.replace("enforce: always", "enforce: once"))
    await site.look()
    await site.edit(enabledAutoRecordMeeting=False, agenda="Mine", integrationTags=["c"])
    writes = site.writes()
    for _ in range(50):
        await site.look()
        site.clock.advance(minutes=20)
    shown = (await site.shown()).fields
    assert (shown["enabledAutoRecordMeeting"], shown["agenda"], shown["integrationTags"]) == (False, "Mine", ["c"])
    assert site.writes() == writes


async def test_a_dropped_answer_is_read_back(site: Site) -> None:
    """Of the PATCH and of the form: nothing is written twice, and both are told once."""
    await site.spoil(operation="patchMeeting", dropResponse=1)
    await site.spoil(operation="updateMeetingRegistration", dropResponse=1)
    for _ in range(3):
        await site.look()
    assert (site.writes(), len(await site.outcomes())) == (2, 3)


async def test_reads_that_lag_ten_minutes_cause_no_second_write(site: Site) -> None:
    """What is accepted and not shown yet is waited for."""
    site.clock.advance(minutes=11)  # the meeting itself is shown by now
    await site.spoil(operation="getMeetingById", lagSeconds=600)
    for _ in range(40):
        await site.look()
        site.clock.advance(seconds=30)
    assert site.writes() == 2
    assert (await site.shown()).fields["agenda"] == "Hosted by us: Partner briefing"


async def test_an_outage_of_the_write_is_the_workers_to_wait_for(site: Site) -> None:
    """Nothing is lost, nothing is parked, and in the end it is written."""
    await site.spoil(operation="patchMeeting", status=502, times=5)
    failures = 0
    for _ in range(40):
        try:
            await site.look()
        except WebexUnavailable:
            failures += 1
        site.clock.advance(minutes=1)
    assert failures == 5
    assert "parked" not in site.observer.changes
    assert (await site.shown()).fields["agenda"] == "Hosted by us: Partner briefing"


async def test_a_meeting_in_progress_is_changed_afterwards(site: Site) -> None:
    """Whether the series says so or only the refusal does: it is asked for rarely, and done in the end."""
    site.policy = policy.parse(
        'version: 1\nmeetingRules: [{name: r, when: meeting.title != "", set: {agenda: Ours}}]\n'
    )
    await site.edit(recurrence="FREQ=DAILY;COUNT=5")
    site.clock.advance(hours=24)
    (await site.people.post(f"/sandbox/meetings/{site.series}/start", json={})).raise_for_status()
    asked = site.writes()
    for _ in range(60):
        await site.look()
        site.clock.advance(minutes=1)
    assert site.writes() - asked <= 8
    (await site.people.post(f"/sandbox/meetings/{site.series}/end", json={})).raise_for_status()
    for _ in range(16):
        await site.look()
        site.clock.advance(minutes=1)
    assert (await site.shown()).fields["agenda"] == "Ours"
