"""Organisations: parked only where Webex itself refuses their token, and taken up again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from service.controllers.backlog import Backlog
from service.controllers.ledger import Place
from service.controllers.organizations import OrganizationsController, Pace
from service.core import event, work
from service.core.errors import WebexNotFound, WebexUnauthorized, WebexUnavailable
from service.core.message import Message
from service.core.work import Hint
from tests.controllers.conftest import SERIES, START, Desk
from tests.controllers.plan import processor
from tests.fakes import FakeTenant, FakeWebex

OTHER = "6" * 32
ACME = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
GROUP = "processors"
PACE = Pace(check=0.02, again=0.03, retry=60.0, renew=60.0, renew_parked=0.02)
SAID_YES, SAID_NO = "webex.service-app.authorized.v1", "webex.service-app.deauthorized.v1"


def hint(series: str = SERIES, *, reason: str = "webex.meeting.updated.v1", organization: str = "default") -> Message:
    at = event.rfc3339(START)
    return work.to_message(Hint(organization=organization, series=series, reason=reason, at=at, org_id="org"))


def consent(reason: str, organization: str = "default") -> Message:
    return hint("", reason=reason, organization=organization)


@dataclass
class House:
    """A desk with its processor running."""

    desk: Desk
    pace: Pace = PACE
    backlog: Backlog = field(default_factory=Backlog)

    def __post_init__(self) -> None:
        self.organizations = OrganizationsController(
            tenants=self.desk.tenants,
            ledger=self.desk.ledger,
            backlog=self.backlog,
            observer=self.desk.observer,
            pace=self.pace,
        )

    @property
    def tenant(self) -> FakeTenant:
        return self.desk.tenants["default"]

    @property
    def calls(self) -> int:
        return len(self.desk.webex.calls)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        desk = self.desk
        working = processor(desk, group=GROUP, backlog=self.backlog, organizations=self.organizations)
        stop = asyncio.Event()
        task = asyncio.create_task(working.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def tell(self, *messages: Message) -> None:
        await self.desk.publisher.publish(list(messages))

    async def park(self) -> None:
        """The consent is gone, and a notification says so."""
        self.tenant.lives = False
        await self.tell(consent(SAID_NO))
        await until(lambda: self.desk.observer.parked == 1)


@pytest.fixture
async def house(desk: Desk) -> House:
    return House(desk)


async def until(true: Callable[[], bool], *, within: float = 8) -> None:
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - what is waited for is anything a test can see
            await asyncio.sleep(0.01)


async def test_a_replayed_deauthorized_only_costs_a_read(house: House) -> None:
    """The notification is signed and false: the token is accepted, so everything goes on."""
    async with house.open():
        await house.tell(consent(SAID_NO), hint())
        await until(lambda: house.tenant.probes == 1 and "finished" in house.desk.observer.looks)

    assert (house.desk.observer.parked, house.tenant.renewals) == (0, 0)
    assert house.desk.webex.people["partner"].status == "approved"
    assert await house.desk.journal.committed(GROUP, "work") == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_where_webex_refuses_too_the_organisation_is_parked(house: House, status: int) -> None:
    """No call is made for it any more, and the log says so once, without anything of the token."""
    house.tenant.status = status
    with capture_logs() as logs:
        async with house.open():
            await house.park()
            await house.tell(hint(), hint(OTHER))
            await asyncio.sleep(1.3)
            assert house.calls == 0
    parked = [line for line in logs if line["event"] == "organization.parked"]
    assert [(line["organization"], line["status"]) for line in parked] == [("default", status)]


async def test_the_work_of_a_parked_organisation_is_remembered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hints do not hold their partition up; the next process knows of them, and asks Webex anew."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.3)
    async with house.open():
        await house.park()
        await house.tell(hint())
        await until(lambda: any(memory.dirty for _, _, memory in house.desk.ledger.known()))
        await asyncio.sleep(1.1)
    assert await house.desk.journal.committed(GROUP, "work") == 2
    assert house.calls == 0

    again = House(await house.desk.restarted())
    again.tenant.lives = True
    async with again.open():
        await until(lambda: "finished" in again.desk.observer.looks)


async def test_consent_given_again_takes_it_up(house: House) -> None:
    """A new token is asked for, and what waited is looked at at once."""
    async with house.open():
        await house.park()
        await house.tell(hint())
        await asyncio.sleep(1.1)
        house.tenant.renewable = True
        await house.tell(consent(SAID_YES))
        await until(lambda: "finished" in house.desk.observer.looks)

    assert (house.desk.observer.parked, house.desk.webex.people["partner"].status) == (0, "approved")


async def test_a_replayed_authorized_opens_nothing(house: House) -> None:
    """While Webex refuses, the organisation stays parked, however often somebody says otherwise."""
    async with house.open():
        await house.park()
        for _ in range(3):
            await house.tell(consent(SAID_YES), hint())
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.2)
        assert (house.desk.observer.parked, house.calls) == (1, 0)


async def test_a_replayed_authorized_does_not_use_up_tokens(house: House) -> None:
    """While all is well a new token is asked for once an hour at most, for Webex lets only so many live."""
    house.tenant.renewable = True
    async with house.open():
        for probes in range(1, 5):
            await house.tell(consent(SAID_YES))
            await until(lambda probes=probes: house.tenant.probes >= probes)  # type: ignore[misc]  # bound on purpose
    assert house.tenant.renewals == 1


async def test_a_refused_call_leads_to_the_same_question(house: House) -> None:
    """The webhook may be lost, and a restart forgets what was parked: a 401 finds out."""
    house.tenant.lives = False
    house.desk.webex.failures["get_meeting"] = [WebexUnauthorized("no", status=401)]
    async with house.open():
        await house.tell(hint())
        await until(lambda: house.desk.observer.parked == 1)
        await house.tell(hint(OTHER))
        await asyncio.sleep(1.2)
    assert [name for name, _ in house.desk.webex.calls] == ["get_meeting"]


async def test_a_meeting_that_we_may_not_see_parks_nobody(house: House) -> None:
    """One 403 is about that meeting; the others are looked at."""
    house.desk.webex.failures["get_meeting"] = [WebexUnauthorized("not yours", status=403)]
    async with house.open():
        await house.tell(hint(), hint(OTHER))
        await until(lambda: house.tenant.probes == 1 and "finished" in house.desk.observer.looks)
    assert house.desk.observer.parked == 0


@pytest.mark.parametrize(
    ("answer", "parked"),
    [
        pytest.param(None, 0, id="it may be read"),
        pytest.param(WebexNotFound("gone", status=404), 0, id="it is gone, which Webex says to those whom it knows"),
        pytest.param(WebexUnauthorized("no", status=403), 1, id="it is refused too"),
        pytest.param(WebexUnauthorized("no", status=401), 1, id="the token is dead meanwhile"),
    ],
)
async def test_a_read_that_the_scopes_do_not_cover_is_no_proof(
    house: House, answer: WebexUnauthorized | WebexNotFound | None, parked: int
) -> None:
    """A 403 to the list counts only where a known meeting is refused as well."""
    await house.desk.look()
    house.tenant.lives, house.tenant.status = False, 403
    house.desk.webex.failures["get_meeting"] = [answer]
    async with house.open():
        await house.tell(consent(SAID_NO))
        await until(lambda: house.tenant.probes == 1)
        await asyncio.sleep(0.1)
        assert house.desk.observer.parked == parked


async def test_no_answer_is_no_refusal(house: House) -> None:
    """While Webex is away nobody is parked, and the question is asked again."""
    house.tenant.failures = [WebexUnavailable("down", status=503)]
    async with house.open():
        await house.tell(consent(SAID_NO))
        await until(lambda: house.tenant.probes == 2)
        assert house.desk.observer.parked == 0


async def test_a_replaced_credential_takes_it_up(house: House) -> None:
    """An operator who puts a new token in place need not restart anything."""
    async with house.open():
        await house.park()
        await house.tell(hint())
        house.tenant.credential, house.tenant.lives = "second", True
        await until(lambda: "finished" in house.desk.observer.looks)


async def test_a_lost_authorized_is_healed(desk: Desk) -> None:
    """A parked organisation is tried now and then."""
    house = House(desk, Pace(check=0.02, again=0.03, retry=0.2, renew=0.05))
    async with house.open():
        await house.park()
        house.tenant.renewable = True
        await until(lambda: desk.observer.parked == 0)
    assert house.tenant.renewals >= 1


async def test_a_parked_organisation_holds_nobody_else_up(house: House) -> None:
    """Two organisations in one partition: each has its own calls, and its own fate."""
    acme = FakeTenant(FakeWebex(series=OTHER))
    house.desk.tenants[ACME] = acme
    house = House(house.desk)
    async with house.open():
        await house.park()
        acme.api.register("one", email="one@example.org", at=START)
        await house.tell(hint(), hint(OTHER, organization=ACME))
        await until(lambda: acme.api.people["one"].status == "approved")
    assert (house.calls, acme.probes) == (0, 0)
    assert [memory.meeting.organization for _, _, memory in house.desk.ledger.known() if memory.meeting] == []


async def test_an_organisation_that_is_not_configured_waits(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are nobody's work today; when it is configured, they are looked at."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.3)
    with capture_logs() as logs:
        async with house.open():
            await house.tell(hint(OTHER, organization=ACME), consent(SAID_YES, ACME), hint())
            await until(lambda: any(memory.dirty for _, _, memory in house.desk.ledger.known()))
            await asyncio.sleep(1.1)
    assert [line["organization"] for line in logs if line["event"] == "organization.unconfigured"] == [ACME]
    assert await house.desk.journal.committed(GROUP, "work") == 3

    acme = FakeTenant(FakeWebex(series=OTHER))
    house.desk.tenants[ACME] = acme
    again = House(await house.desk.restarted())
    async with again.open():
        await until(lambda: ("get_meeting", OTHER) in acme.api.calls)


async def test_an_event_without_an_organisation_is_nobodys(house: House) -> None:
    """It is said in the log, and does not wait."""
    with capture_logs() as logs:
        async with house.open():
            await house.tell(hint(organization="unknown"))
            await until(lambda: any(line["event"] == "organization.unknown" for line in logs))
            await asyncio.sleep(1.1)
    assert house.calls == 0
    assert await house.desk.journal.committed(GROUP, "work") == 1


async def test_what_belongs_to_somebody_else_is_not_asked_about(house: House) -> None:
    """With its partition an organisation goes, parked or not; with the next one it begins anew."""
    house.tenant.lives = False
    running = asyncio.create_task(house.organizations.run())
    house.organizations.told(house.desk.place, SAID_NO)
    await until(lambda: house.desk.observer.parked == 1)
    house.organizations.forget(0)
    assert house.desk.observer.parked == 0
    probes = house.tenant.probes
    await asyncio.sleep(0.2)
    assert house.tenant.probes == probes
    assert house.organizations.usable(Place("default", 3, assignment=1))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
