"""Guest-to-guest meetings end to end: a Service App's token, the simulated Webex and its signed webhooks, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.controllers.guests import Clock, OutcomeUnknown, Result, Sponsor, Sponsored, Unfinished
from service.core.guests import Refused
from service.core.signature import verify
from service.sandbox.app import create_app
from service.sandbox.deliveries import Deliveries
from service.sandbox.records import Limits
from service.sandbox.world import World
from service.webex.client import WebexClient
from service.webex.sponsoring import SponsoringApi
from service.webex.tokens import StaticToken
from tests.sandbox import simulated
from tests.servers import running

SECRET = b"a secret of forty characters, or of less"
APP = "Y2lzY29zcGFyazovL3VzL0FQUExJQ0FUSU9OL2d1ZXN0cw"


@dataclass
class Site:
    """The simulated Webex with one Service App, and a sponsor that hears of its webhooks."""

    world: World
    address: str
    client: WebexClient
    sponsor: Sponsor
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def anew(self, *, licence: int = 2) -> Sponsor:
        """A sponsor in a process of its own: it knows nothing but what Webex shows."""
        clock = Clock(now=self.world.now, sleep=_no_time)
        return Sponsor(SponsoringApi(self.client), licence=licence, clock=clock)

    async def open(self, link: str | None) -> int:
        """Somebody opens a link in a browser; the status of the page."""
        async with httpx.AsyncClient(trust_env=False) as browser:
            return (await browser.get(link or "")).status_code

    async def control(self, path: str, body: dict[str, Any] | None = None) -> None:
        """What a test does to the simulated Webex."""
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.post(f"{self.address}/sandbox/{path}", json=body or {})).raise_for_status()

    async def told(self, event: str) -> None:
        """Wait until a webhook of this event was heard."""
        async with asyncio.timeout(10):
            while not any(name == event for name, _ in self.heard):  # noqa: ASYNC110 - the webhook sets no event
                await asyncio.sleep(0.01)

    def replay(self) -> None:
        """Everything that was heard arrives again, twice, in the opposite order the second time."""
        for event, data in [*self.heard, *reversed(self.heard)]:
            self.sponsor.heard(event, data)


async def _no_time(_seconds: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Webhooks are verified before they are heard."""
    clock = simulated.Clock()
    async with contextlib.AsyncExitStack() as stack:
        world = stack.enter_context(simulated.opened(clock=clock))
        world.set_limits(Limits(licence=2))
        address = await stack.enter_async_context(running(create_app(world, token="nobody's")))
        org = world.identity.organization
        token = str(world.tokens.issue_for_app(APP, org=org, client="id:secret")["access_token"])
        client = await stack.enter_async_context(WebexClient(f"{address}/v1", StaticToken(token)))
        sponsor = Sponsor(SponsoringApi(client), licence=2, clock=Clock(now=world.now, sleep=_no_time))
        made = Site(world=world, address=address, client=client, sponsor=sponsor)
        stack.push_async_exit(await _delivering(stack, made))
        yield made


async def _delivering(stack: contextlib.AsyncExitStack, site: Site) -> Any:
    async def hook(request: Request) -> Response:
        body = await request.body()
        verify(body, request.headers.raw, secrets=[SECRET])
        notification = json.loads(body)
        site.heard.append((notification["event"], notification["data"]))
        site.sponsor.heard(notification["event"], notification["data"])
        return Response(status_code=204)

    app = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    target = await stack.enter_async_context(running(app))
    task = asyncio.create_task(Deliveries(f"{target}/hook", SECRET).run(site.world))

    async def stopped(*_: object) -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return stopped


def _body(*, begins: timedelta = timedelta(minutes=30), **more: Any) -> dict[str, Any]:
    start = simulated.START + begins
    return {
        "meeting": {
            "title": "Consultation",
            "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{start + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}",
        },
        "host": {"email": "doctor@example.org", "displayName": "Dr. Ada"},
        "guests": [{"email": "patient@example.net", "displayName": "Bea"}],
        "expirationMinutes": 60,
        **more,
    }


def _sponsored(result: Result) -> Sponsored:
    assert isinstance(result, Sponsored), result
    return result


async def test_a_doctor_and_a_patient_meet(site: Site) -> None:
    """Both get links, and tokens; the doctor's starts the meeting, it ends, and the set is empty again, replays or not."""
    made = _sponsored(await site.sponsor.sponsor(_body(tokens=True), key="visit 1"))
    patient = made.guests[0]
    statuses = [await site.open(made.host.start_link), await site.open(patient.join_link)]
    await site.told("started")
    during = site.sponsor.in_progress
    await site.control(f"meetings/{made.meeting_id}/end")
    await site.told("ended")
    after = site.sponsor.in_progress
    site.replay()

    assert patient.start_link is None
    assert made.host.access_token
    assert patient.access_token
    assert made.host.access_token != patient.access_token
    assert statuses == [200, 200]
    assert {instance.partition("_I_")[0] for instance in during} == {made.meeting_id}
    assert after == site.sponsor.in_progress == frozenset()


async def test_the_third_is_refused_and_one_for_tomorrow_is_not(site: Site) -> None:
    """A licence of two, and each sponsor in a process of its own."""
    results = [await site.anew().sponsor(_body(), key=f"visit {n}") for n in range(3)]
    tomorrow = await site.anew().sponsor(_body(begins=timedelta(days=1)), key="tomorrow")

    assert [type(result) for result in results] == [Sponsored, Sponsored, Refused]
    refused = results[2]
    assert isinstance(refused, Refused)
    assert refused.reason == "licenceFull"
    assert "2 of 2 places" in refused.message
    assert refused.free_at == simulated.START + timedelta(hours=1)
    assert isinstance(tomorrow, Sponsored)
    assert tomorrow.expire_before_start
    assert len(site.world.meetings()) == 3


async def test_the_guard_keeps_what_webex_would_refuse(site: Site) -> None:
    """Everybody who was admitted can start: Webex, with the same licence, refuses none of them."""
    made = [_sponsored(await site.sponsor.sponsor(_body(), key=f"visit {n}")) for n in range(2)]
    statuses = [await site.open(one.host.start_link) for one in made]

    assert statuses == [200, 200]


async def test_a_running_meeting_takes_a_place_beyond_its_end(site: Site) -> None:
    """A sponsor without any memory sees the instances in progress in Webex's list."""
    made = [_sponsored(await site.anew().sponsor(_body(), key=f"visit {n}")) for n in range(2)]
    for one in made:
        await site.open(one.host.start_link)
    site.world.now.move(seconds=65 * 60)
    full = await site.anew().sponsor(_body(begins=timedelta(minutes=70)), key="next")
    await site.control(f"meetings/{made[0].meeting_id}/end")
    free = await site.anew().sponsor(_body(begins=timedelta(minutes=70)), key="next")

    assert isinstance(full, Refused)
    assert isinstance(free, Sponsored)


async def test_a_lost_end_is_healed_by_the_reconcile(site: Site) -> None:
    """Webex loses the webhook: the instance stays in the set until Webex is asked, and no replay brings it back."""
    made = _sponsored(await site.sponsor.sponsor(_body(), key="visit"))
    await site.control("faults", {"webhook": "lose", "event": "ended"})
    await site.open(made.host.start_link)
    await site.told("started")
    await site.control(f"meetings/{made.meeting_id}/end")
    before = site.sponsor.in_progress
    await site.sponsor.reconcile()
    site.replay()

    assert len(before) == 1
    assert site.sponsor.in_progress == frozenset()


async def test_a_lost_answer_makes_no_second_meeting(site: Site) -> None:
    """Webex makes the meeting and the connection breaks: it is found by its tag."""
    await site.control("faults", {"operation": "createMeeting", "dropResponse": 1})
    made = _sponsored(await site.sponsor.sponsor(_body(), key="visit"))

    assert [meeting.id for meeting in site.world.meetings()] == [made.meeting_id]


async def test_an_answer_lost_while_lists_lag_stays_unknown_and_is_found_later(site: Site) -> None:
    """Nothing is made twice, in the same process or in another one, as long as Webex shows it within its own promise."""
    await site.control("faults", {"operation": "createMeeting", "dropResponse": 1})
    site.world.set_limits(Limits(licence=2, lag_seconds=600))
    unknown = await site.sponsor.sponsor(_body(), key="visit")
    site.world.now.move(seconds=15 * 60)
    found = _sponsored(await site.anew().sponsor(_body(), key="visit"))

    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.retry_at == site.world.now()
    assert found.existed
    assert len(site.world.meetings()) == 1


async def test_links_that_fail_leave_the_meeting(site: Site) -> None:
    """The meeting stays, it is said what is missing, and the same key makes the links."""
    await site.control("faults", {"operation": "meetingJoin", "status": 400, "times": 2})
    partly = await site.sponsor.sponsor(_body(), key="visit")
    whole = _sponsored(await site.anew().sponsor(_body(), key="visit"))

    assert isinstance(partly, Unfinished)
    assert {trouble.step for trouble in partly.troubles} == {"host.link", "guests[0].link"}
    assert whole.meeting_id == partly.meeting_id
    assert len(site.world.meetings()) == 1
