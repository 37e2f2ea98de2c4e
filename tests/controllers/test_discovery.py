"""Discovery: a meeting whose webhook was lost is found, by listing what the organisation's hosts have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest
from structlog.testing import capture_logs

from service.controllers.backlog import Backlog
from service.controllers.discovery import Discovery
from service.controllers.ledger import Ledger
from service.controllers.ports import Tenant
from service.core.errors import WebexNotFound, WebexRejected, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.core.ledger import Entry, KnownMeeting
from service.sandbox.app import create_app
from service.webex.api import WebexApi
from service.webex.client import WebexClient
from service.webex.tokens import StaticToken
from tests.controllers.test_sweep import until
from tests.fakes import CountingObserver, EmptyReader, FakeTenant, ListedMeetings, RecordingPublisher
from tests.sandbox import simulated
from tests.servers import running

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ANN, BOB = "ann@example.com", "bob@example.com"
KNOWN, LOST, OTHER = "5" * 32, "6" * 32, "7" * 32


@dataclass
class Site:
    """Discovery at work for organisations with lists of their own; all are on the one partition, unless it is said where."""

    organizations: tuple[str, ...] = ("default",)
    hosts: tuple[str, ...] = ()
    partitions: dict[str, int] = field(default_factory=dict)
    interval: float = 0.04

    def __post_init__(self) -> None:
        self.webex = {name: ListedMeetings() for name in self.organizations}
        self.tenants = {name: FakeTenant(cast("Any", webex)) for name, webex in self.webex.items()}
        self.ledger = Ledger(reader=EmptyReader(), publisher=RecordingPublisher())
        self.backlog, self.observer = Backlog(), CountingObserver()
        self.parked: set[str] = set()
        self.discovery = self.discover(self.tenants)

    def discover(self, tenants: dict[str, FakeTenant], *, now: Callable[[], datetime] = lambda: START) -> Discovery:
        return Discovery(
            tenants=cast("dict[str, Tenant]", tenants),
            ledger=self.ledger,
            backlog=self.backlog,
            observer=self.observer,
            hosts=self.hosts,
            interval=timedelta(seconds=self.interval),
            partition_of=lambda name: self.partitions.get(name, 0),
            usable=lambda place: place.organization not in self.parked,
            now=now,
        )

    @property
    def one(self) -> ListedMeetings:
        """The only organisation's lists."""
        return self.webex["default"]

    def know(self, series: str, *, host: str = ANN, organization: str = "default", org_id: str = "org") -> None:
        place = self.ledger.place(organization, self.partitions.get(organization, 0))
        meeting = KnownMeeting(organization=organization, host_email=host, org_id=org_id)
        self.ledger.remember(place, [Entry(kind="meeting", subject=series, value=meeting)])

    def marked(self) -> dict[str, str]:
        """Which series wait for a look, and their hosts."""
        return {waiting.task.series: waiting.task.host_email for waiting in self.backlog}

    def look(self, *, known: bool = True) -> None:
        """A worker takes what waits; unless Webex refuses, the meeting is known afterwards."""
        for waiting in self.backlog:
            self.backlog.take(waiting.key)
            self.backlog.queue.discard(lambda _: True)
            if known:
                self.know(waiting.task.series, host=waiting.task.host_email)

    async def rounds(self, count: int = 1, *, name: str = "default") -> None:
        """Wait until so many rounds more are through."""
        before = self.webex[name].calls.count("")
        await until(lambda: self.webex[name].calls.count("") > before + count)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The partitions are ours and the loop runs."""
        for partition in {0, *self.partitions.values()}:
            await self.ledger.restore(partition)
        task = asyncio.create_task(self.discovery.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()  # nothing else ended it


async def test_a_meeting_whose_webhook_was_lost_is_found() -> None:
    """It gets a full look, for its host and with the organisation's own id, and is counted once."""
    site = Site()
    async with site.open():
        site.know(KNOWN)
        site.one.schedule(KNOWN, host=ANN, lists=["", ANN])
        site.one.schedule(LOST, host=ANN, lists=["", ANN])
        await site.rounds(3)

    (waiting,) = site.backlog
    task = waiting.task
    assert (task.series, task.host_email, task.org_id, task.full, task.swept) == (LOST, ANN, "org", True, True)
    assert site.observer.found == {"meeting": 1}
    assert site.one.windows == {(START - timedelta(days=1), START + timedelta(days=180))}


async def test_hosts_come_from_the_settings_the_ledger_and_hints() -> None:
    """Each is listed once in a round, however it is written; the token's own user comes first."""
    site = Site(hosts=("Carol@Example.com", BOB))
    async with site.open():
        site.know(KNOWN, host="ANN@example.com")
        site.discovery.told((0, LOST), "dan@example.com")
        site.discovery.told((0, LOST), "")
        await site.rounds()

    assert site.one.calls[:5] == ["", "carol@example.com", BOB, ANN, "dan@example.com"]
    assert site.one.calls[5] == ""


async def test_a_meeting_that_a_hint_told_of_is_not_counted() -> None:
    """The webhook came; whether its look has led to anything yet does not matter."""
    site = Site()
    async with site.open():
        site.discovery.told((0, LOST), ANN)
        site.one.schedule(LOST, host=ANN)
        await until(lambda: LOST in site.marked())

    assert site.observer.found == {}


async def test_a_change_that_no_webhook_told_of_is_found() -> None:
    """What the list shows otherwise than the last time is looked at; what moves by itself is no change."""
    site = Site()
    async with site.open():
        site.know(KNOWN)
        meeting = site.one.schedule(KNOWN, host=ANN, lists=["", ANN], state="active", start="2026-03-02T09:00:00Z")
        await site.rounds(2)
        meeting["state"] = "inProgress"
        await site.rounds(2)
        assert site.marked() == {}
        meeting["start"] = "2026-03-02T10:00:00Z"
        await until(lambda: KNOWN in site.marked())
        await site.rounds(2)

    assert site.observer.found == {"change": 1}


async def test_a_change_that_a_hint_told_of_is_looked_at_and_not_counted() -> None:
    """A second change may have followed whose webhook was lost: a look costs little."""
    site = Site()
    async with site.open():
        site.know(KNOWN)
        meeting = site.one.schedule(KNOWN, host=ANN, lists=[""])
        await site.rounds(2)
        site.discovery.told((0, KNOWN), ANN)
        meeting["title"] = "Another day"
        await until(lambda: KNOWN in site.marked())

    assert site.observer.found == {}


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param({"id": "another-form-of-id", "meetingSeriesId": LOST}, id="with its series"),
        pytest.param({"id": f"{LOST}_20260302T090000Z"}, id="without"),
        pytest.param({"id": LOST, "recurrence": "FREQ=DAILY"}, id="as a series"),
    ],
)
async def test_a_series_may_be_shown_by_its_present_occurrence(shown: dict[str, Any]) -> None:
    """``current`` is true by default: the series counts, and that the next occurrence has come is no change."""
    site = Site()
    async with site.open():
        meeting = site.one.schedule(LOST, host=ANN, lists=[""], start="2026-03-02T09:00:00Z")
        meeting.update({"meetingType": "scheduledMeeting", **shown})
        await until(lambda: LOST in site.marked())
        site.look()
        await site.rounds(2)
        meeting["start"] = "2026-03-03T09:00:00Z"
        await site.rounds(2)

    assert site.marked() == {}


async def test_what_is_no_meeting_id_is_passed_over() -> None:
    """A list that shows something strange says nothing, and ends nothing."""
    site = Site()
    async with site.open():
        site.one.schedule("personal-room", host=ANN, lists=[""], meetingSeriesId=7)
        site.one.schedule(LOST, host=ANN, lists=[""], hostEmail=None)
        await until(lambda: LOST in site.marked())


async def test_a_host_s_list_also_shows_to_what_others_invited_them() -> None:
    """Those are found in the lists of the others, who may be strangers."""
    site = Site(hosts=(ANN,))
    async with site.open():
        site.one.schedule(OTHER, host="stranger@elsewhere.example", lists=[ANN])
        site.one.schedule(LOST, host=ANN.upper(), lists=[ANN])
        site.one.schedule(KNOWN, host="", lists=[ANN])
        await site.rounds(2)

    assert site.marked() == {LOST: ANN.upper(), KNOWN: ANN}


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(WebexUnauthorized("no", status=403), id="forbidden"),
        pytest.param(WebexNotFound("nobody", status=404), id="not found"),
        pytest.param(WebexRejected("no", status=400), id="rejected"),
    ],
)
async def test_a_host_that_is_refused_does_not_stop_the_others(refusal: Any) -> None:
    """It is said once, without the address, and not asked for again until the credential changes or a day has passed."""
    site = Site(hosts=(BOB, ANN))
    site.one.refusals[BOB] = refusal
    site.one.schedule(LOST, host=ANN)
    with capture_logs() as logs:
        async with site.open():
            await site.rounds(3)
            assert site.one.calls.count(BOB) == 1
            site.tenants["default"].credential = "second"
            await until(lambda: site.one.calls.count(BOB) == 2)

    refused = [log for log in logs if log["event"] == "discovery.refused"]
    assert [(log["meetings"], log["status"]) for log in refused] == [("host", refusal.status)] * 2
    assert "@" not in repr(logs)
    assert LOST in site.marked()


async def test_lists_that_are_refused_again_are_not_logged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own list is asked for in every round, a host's the day after."""
    monkeypatch.setattr("service.controllers.discovery.REFUSED_AGAIN", 0.0)
    site = Site(hosts=(BOB,))
    site.one.refusals = dict.fromkeys(("", BOB), WebexUnauthorized("no", status=403))
    with capture_logs() as logs:
        async with site.open():
            await site.rounds(3)

    assert site.one.calls.count(BOB) >= 3
    assert [log["meetings"] for log in logs] == ["own", "host"]


async def test_an_address_that_cannot_be_sent_does_not_stop_the_others() -> None:
    """Hints come from outside; what they call an address may be none."""
    site = Site(hosts=(BOB, ANN))
    site.one.failures[BOB] = [ValueError("not an address")]
    site.one.schedule(LOST, host=ANN)
    async with site.open():
        await site.rounds(2)

    assert LOST in site.marked()
    assert site.one.calls.count(BOB) == 1


async def test_a_host_for_whom_webex_does_not_answer_is_tried_thrice() -> None:
    """Then the others have their turn, until the next round."""
    site = Site(hosts=(BOB, ANN))
    site.one.refusals[BOB] = WebexUnavailable("down", status=503)
    site.one.failures[ANN] = [WebexThrottled("slow down", status=429, retry_after=0.01)]
    site.one.schedule(LOST, host=ANN)
    async with site.open():
        await until(lambda: LOST in site.marked())

    assert site.one.calls[:6] == ["", BOB, BOB, BOB, ANN, ANN]


async def test_a_token_that_is_not_accepted_ends_the_round() -> None:
    """No other host is asked for with it; the next round tries again."""
    site = Site(hosts=(BOB,))
    site.one.refusals[""] = WebexUnauthorized("no", status=401)
    async with site.open():
        await site.rounds(2)
        assert BOB not in site.one.calls
        del site.one.refusals[""]
        await until(lambda: BOB in site.one.calls)


async def test_only_what_is_ours_and_usable_is_listed() -> None:
    """A partition of somebody else's, and a parked organisation, are left alone; afterwards what was refused is tried anew."""
    site = Site(
        organizations=("default", "elsewhere", "parked"), hosts=(BOB,), partitions={"elsewhere": 7, "parked": 1}
    )
    site.parked.add("parked")
    site.webex["parked"].refusals[BOB] = WebexUnauthorized("no", status=403)
    async with site.open():
        site.ledger.forget(7)
        await site.rounds(2)
        assert site.webex["elsewhere"].calls == site.webex["parked"].calls == []
        await site.ledger.restore(7)
        site.parked.clear()
        await site.rounds(name="elsewhere")
        await site.rounds(2, name="parked")
        assert site.webex["parked"].calls.count(BOB) == 1
        site.parked.add("parked")
        await asyncio.sleep(0.1)
        site.parked.clear()
        await until(lambda: site.webex["parked"].calls.count(BOB) == 2)


async def test_a_partition_that_goes_takes_what_was_known_along() -> None:
    """A round that was under way marks nothing any more; under a new assignment it begins anew."""
    site = Site()
    site.one.gate = asyncio.Event()
    site.one.schedule(LOST, host=ANN, lists=[""])
    async with site.open():
        await until(lambda: site.one.calls == [""])
        site.discovery.told((0, OTHER), BOB)
        site.ledger.forget(0)
        site.discovery.forget(0)
        site.one.gate.set()
        await asyncio.sleep(0.1)
        assert site.marked() == {}
        await site.ledger.restore(0)
        await until(lambda: LOST in site.marked())

    assert BOB not in site.one.calls


async def test_a_new_assignment_is_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the interval is: somebody else may have owned the partition, or nobody."""
    site = Site(interval=3600)
    monkeypatch.setattr(site.discovery, "_tick", 0.01)
    async with site.open():
        await until(lambda: site.one.calls == [""])
        site.discovery.forget(7)
        await asyncio.sleep(0.1)
        assert site.one.calls == [""]
        site.discovery.forget(0)
        await until(lambda: site.one.calls == ["", ""])


async def test_organisations_that_share_a_partition_keep_their_hosts_apart() -> None:
    """A host is asked for with the token of their own organisation; where nobody knows which that is, with none."""
    site = Site(organizations=("default", "other"))
    async with site.open():
        site.know(KNOWN, host=ANN)
        site.know(OTHER, host=BOB, organization="other")
        site.discovery.told((0, LOST), "dan@example.com")
        site.discovery.told((0, OTHER), "bea@example.com")
        await site.rounds(2)
        await site.rounds(2, name="other")

    assert set(site.webex["default"].calls) == {"", ANN}
    assert set(site.webex["other"].calls) == {"", BOB, "bea@example.com"}


async def test_a_list_that_loses_a_page_concludes_nothing() -> None:
    """What it does not show is still known, and compared when it is back."""
    site = Site()
    async with site.open():
        site.know(KNOWN)
        meeting = site.one.schedule(KNOWN, host=ANN, lists=[""])
        await site.rounds(2)
        site.one.lists[""] = []
        await site.rounds(2)
        assert site.marked() == {}
        site.one.lists[""] = [{**meeting, "title": "Another day"}]
        await until(lambda: KNOWN in site.marked())

    assert site.observer.found == {"change": 1}


async def test_a_meeting_whose_look_leads_to_nothing_is_not_asked_for_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else's, perhaps: it gets another look an hour later, and is not counted again."""
    site = Site()
    site.one.schedule(LOST, host=ANN, lists=[""])
    async with site.open():
        await until(lambda: LOST in site.marked())
        site.look(known=False)
        await site.rounds(3)
        assert site.marked() == {}
        monkeypatch.setattr("service.controllers.discovery.ASK_AGAIN", 0.0)
        await until(lambda: LOST in site.marked())

    assert site.observer.found == {"meeting": 1}


async def test_first_looks_come_few_at_a_time() -> None:
    """A hint does not have to wait behind a thousand of them."""
    site = Site()
    for number in range(50):
        site.one.schedule(f"{number:032x}", host=ANN, lists=[""])
    async with site.open():
        await until(lambda: len(site.marked()) == 20)
        await asyncio.sleep(0.1)
        assert len(site.marked()) == 20
        while len(site.observer.found) < 1 or site.observer.found["meeting"] < 50:
            site.look()
            await asyncio.sleep(0.01)


async def test_what_waited_while_the_partition_went_is_not_asked_for() -> None:
    """It is the next owner's to find."""
    site = Site()
    for number in range(50):
        site.one.schedule(f"{number:032x}", host=ANN, lists=[""])
    async with site.open():
        await until(lambda: len(site.marked()) == 20)
        site.ledger.forget(0)
        site.discovery.forget(0)
        site.backlog.discard(lambda _: True)
        await asyncio.sleep(0.1)

    assert site.marked() == {}


async def test_on_the_simulated_webex() -> None:
    """Over real sockets: 130 meetings of two hosts, one of them recurring, are all found; a day that passes is no change of
    any, and a new title is one.
    """
    clock, site = simulated.Clock(), Site(hosts=(BOB,), interval=0.2)
    with simulated.opened(clock=clock) as world:
        daily = {"recurrence": "FREQ=DAILY;INTERVAL=1;COUNT=60", "registration": None}
        bodies: list[dict[str, Any]] = [{"hostEmail": BOB}] * 120 + [{}] * 9 + [daily]
        async with (
            running(create_app(world, token="nobody's")) as address,
            WebexClient(f"{address}/v1", StaticToken("nobody's")) as client,
            httpx.AsyncClient(base_url=address, headers={"authorization": "Bearer nobody's"}, trust_env=False) as http,
        ):
            scheduled = [await simulated.schedule(http, **body) for body in bodies]
            tenant = FakeTenant(cast("Any", WebexApi(client)))
            site.discovery = site.discover({"default": tenant}, now=clock)
            async with site.open():
                while sum(site.observer.found.values()) < len(bodies):
                    site.look()
                    await asyncio.sleep(0.01)
                site.look()
                await asyncio.sleep(0.8)
                clock.advance(days=1, hours=2)
                await asyncio.sleep(0.8)
                assert site.marked() == {}
                changed = await http.patch(f"/v1/meetings/{scheduled[-1]}", json={"title": "Another day"})
                assert changed.status_code == 200, changed.text
                await until(lambda: scheduled[-1] in site.marked())

    known = {series for _, series, memory in site.ledger.known() if memory.meeting}
    assert known == set(scheduled)
    assert site.observer.found == {"meeting": 130, "change": 1}
