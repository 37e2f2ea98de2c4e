"""The eleven operations of the OpenAPI that API Evangelist publishes ("Cisco Webex Meetings API" 1.0.0), which is where
this project began: each under its operationId there, over a real socket against the sandbox, with every parameter and
field of that document. Where Cisco's API is another, Cisco's is used; docs/reference/webex-api.md says where.
"""
# ruff: noqa: N802 - the tests are named after operationIds

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import WebexNotFound
from service.sandbox.app import create_app
from service.sandbox.world import World
from service.webex import meetings, objects, registrants
from service.webex.client import WebexClient
from service.webex.tokens import StaticToken
from tests.contracts.sandbox.judge import Judge, demand_a_judge, judging, written_for_the_judge
from tests.servers import running

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _now() -> datetime:
    return datetime(2027, 1, 1, 8, tzinfo=UTC)


@dataclass
class Stage:
    """One address for the sandbox of each test in turn. ``names``: the proxy's name for that address, under which pages
    are linked, else the client would not follow.
    """

    names: dict[bytes, bytes] = field(default_factory=dict)
    sandbox: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the sandbox that is there."""

        async def changed(message: Message) -> None:
            for ours, theirs in self.names.items():
                headers = [(n, v.replace(ours, theirs) if n == b"link" else v) for n, v in message.get("headers", ())]
                message = {**message, "headers": headers} if "headers" in message else message
            await send(message)

        assert self.sandbox is not None
        await self.sandbox(scope, receive, changed)


@dataclass
class Place:
    """Where a client finds the sandbox, and who judges between the two."""

    stage: Stage
    url: str
    judge: Judge | None = None

    def demand_peace(self) -> None:
        """Nothing broke Cisco's document since this was asked last."""
        if self.judge is not None:
            found = self.judge.violations
            self.judge.lines.clear()
            assert found == []


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "judged"])
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Once as it is; once more with Prism between, which takes seconds to start and so is there for all tests."""
    stage = Stage()
    async with running(stage) as base:
        url = f"{base}/v1"
        if request.param == "direct":
            yield Place(stage, url)
            return
        demand_a_judge()
        async with judging(written_for_the_judge(tmp_path_factory.mktemp("judge")), url) as judge:
            stage.names[url.encode()] = judge.url.encode()
            place = Place(stage, judge.url, judge)
            yield place
        place.demand_peace()  # it may be late to say so


@pytest_asyncio.fixture(loop_scope="module")
async def client(place: Place) -> AsyncIterator[WebexClient]:
    """A client of a sandbox with nothing in it, where it is eight o'clock on the first of January; Prism, where it is
    between the two, finds nothing against Cisco's document in either.
    """
    with contextlib.closing(World.open(None, now=_now, seed="seed")) as world:
        place.stage.sandbox = create_app(world, token="right")
        async with WebexClient(place.url, StaticToken("right")) as client:
            yield client
    place.demand_peace()


def _meeting(title: str, day: int = 2) -> objects.CreateMeetingObject:
    return {
        "title": title,
        "start": f"2027-01-{day:02}T10:00:00Z",
        "end": f"2027-01-{day:02}T11:00:00Z",
        "password": "Pa55word",
        "scheduledType": "meeting",
        "timezone": "UTC",
        "enabledAutoRecordMeeting": False,
        "allowAnyUserToBeCoHost": False,
    }


def _with_form(title: str) -> objects.CreateMeetingObject:
    """``registrationEnabled`` of that document is an object at Cisco."""
    registration: objects.RegistrationToCreate = {
        "autoAcceptRequest": False,
        "requireFirstName": True,
        "requireLastName": True,
        "requireEmail": True,
    }
    return {**_meeting(title), "registration": registration}


async def _created(client: WebexClient, body: objects.CreateMeetingObject) -> objects.MeetingSeriesObject:
    return await meetings.create_meeting(client, body, send_email=False)


async def _listed(client: WebexClient, query: objects.ListMeetingsQuery) -> list[str]:
    return [meeting["title"] async for meeting in meetings.list_meetings(client, query)]


async def test_listMeetings(client: WebexClient) -> None:
    """Each filter narrows the list to what it names; the pages together are the whole list."""
    first, *_ = [await _created(client, _meeting(f"Day {day}", day)) for day in (2, 3, 4)]
    await _created(client, _meeting("Later", 20))
    host = first["hostEmail"]
    week = ["Day 2", "Day 3", "Day 4"]
    assert await _listed(client, {}) == week
    assert await _listed(client, {"max": 1}) == week
    assert await _listed(client, {"hostEmail": host, "meetingType": "meetingSeries", "state": "active"}) == week
    assert await _listed(client, {"scheduledType": "meeting"}) == week
    assert await _listed(client, {"scheduledType": "webinar"}) == []
    assert await _listed(client, {"meetingType": "meeting"}) == []
    assert await _listed(client, {"from": "2027-01-03T00:00:00Z", "to": "2027-01-04T00:00:00Z"}) == ["Day 3"]
    assert await _listed(client, {"from": "2027-01-19T00:00:00Z"}) == ["Later"]
    assert await _listed(client, {"meetingNumber": first["meetingNumber"]}) == ["Day 2"]
    assert await _listed(client, {"webLink": first["webLink"]}) == ["Day 2"]
    assert await _listed(client, {"roomId": "Y2lzY29zcGFyazovL3VzL1JPT00vbm9uZQ"}) == []


async def test_createMeeting(client: WebexClient) -> None:
    """What is given is what is there; a recurring meeting and invitees too, and a registration form."""
    invitee: objects.InviteeObjectForCreateMeeting = {"email": "b@example.org", "displayName": "Bea", "coHost": True}
    body: objects.CreateMeetingObject = {
        **_meeting("Weekly"),
        "recurrence": "FREQ=WEEKLY;INTERVAL=1;COUNT=3",
        "invitees": [invitee],
    }
    created = await meetings.create_meeting(client, body, send_email=False)
    shown = {name: value for name, value in body.items() if name != "invitees"}  # a list of its own at Cisco
    assert {name: created.get(name) for name in shown} == shown
    assert created["meetingType"] == "meetingSeries"
    again = await meetings.create_meeting(client, _meeting("Ours"), send_email=False, host_email=created["hostEmail"])
    assert again["hostEmail"] == created["hostEmail"]
    assert (await _created(client, _with_form("Registered")))["registration"]["requireEmail"] is True


async def test_getMeetingDetails(client: WebexClient) -> None:
    """A series is found by its id, its occurrence with ``current``, and nothing where there is nothing."""
    created = await _created(client, _meeting("One"))
    host = created["hostEmail"]
    got = await meetings.get_meeting_by_id(client, created["id"], current=False, host_email=host)
    assert {name: got.get(name) for name in created} == created
    occurrence = await meetings.get_meeting_by_id(client, created["id"], current=True)
    assert (occurrence["id"], occurrence["meetingType"]) == (created["id"] + "_20270102T100000Z", "scheduledMeeting")
    with pytest.raises(WebexNotFound):
        await meetings.get_meeting_by_id(client, "f" * 32)


async def test_updateMeeting(client: WebexClient) -> None:
    """Every field of that document can be changed, by PUT as there, and by PATCH as Cisco recommends."""
    created = await _created(client, _meeting("Before"))
    body: objects.UpdateMeetingObject = {
        "title": "After",
        "password": "An0therOne",
        "start": "2027-01-05T13:00:00",
        "end": "2027-01-05T14:00:00",
        "timezone": "Europe/Berlin",
        "recurrence": "FREQ=DAILY;INTERVAL=1;COUNT=2",
        "enabledAutoRecordMeeting": True,
        "allowAnyUserToBeCoHost": True,
    }
    await meetings.update_meeting(client, created["id"], body, send_email=False, host_email=created["hostEmail"])
    changed = await meetings.get_meeting_by_id(client, created["id"], timezone="Europe/Berlin")
    moments = {name: datetime.fromisoformat(changed[name]) for name in ("start", "end")}
    assert {name: changed.get(name) for name in body if name not in moments} == {
        name: value for name, value in body.items() if name not in moments
    }
    assert moments["start"] == datetime(2027, 1, 5, 12, tzinfo=UTC)
    assert moments["end"] == datetime(2027, 1, 5, 13, tzinfo=UTC)
    patched = await meetings.patch_meeting(client, created["id"], {"title": "Last"}, send_email=False)
    assert (patched["title"], patched["password"]) == ("Last", "An0therOne")


async def test_deleteMeeting(client: WebexClient) -> None:
    """A deleted meeting is gone from everywhere."""
    created = await _created(client, _meeting("Short"))
    await meetings.delete_meeting(client, created["id"], send_email=False, host_email=created["hostEmail"])
    with pytest.raises(WebexNotFound):
        await meetings.get_meeting_by_id(client, created["id"])
    assert await _listed(client, {}) == []


def _person(name: str) -> objects.RegistrantFormObject:
    """Everybody gives everything; ``phone`` is ``workPhone`` and ``zipCode`` a number at Cisco."""
    return {
        "firstName": name,
        "lastName": "Abel",
        "email": f"{name.lower()}@example.org",
        "jobTitle": "Miller",
        "companyName": "Mill",
        "address1": "Mill Street 1",
        "city": "Milltown",
        "state": "ML",
        "zipCode": 12345,
        "countryRegion": "Neverland",
        "workPhone": "+1 5550100",
    }


async def _registered(
    client: WebexClient, names: Sequence[str]
) -> tuple[objects.MeetingSeriesObject, list[objects.RegistrantCreateResponse]]:
    meeting = await _created(client, _with_form("Partner day"))
    people = [_person(name) for name in names]
    return meeting, await registrants.create_registrants(
        client, meeting["id"], people, send_email=False, current=False, host_email=meeting["hostEmail"]
    )


async def _statuses(client: WebexClient, meeting: objects.MeetingSeriesObject) -> dict[str, str]:
    page = await registrants.list_page(client, meeting["id"], {"max": 100, "hostEmail": meeting["hostEmail"]})
    return {one["firstName"]: one["status"] for one in page}


async def test_listMeetingRegistrants(client: WebexClient) -> None:
    """Cisco's page is ten unless told otherwise (that document says a hundred); the client finds everybody."""
    meeting, _ = await _registered(client, [f"Person{n}" for n in range(12)])
    host = meeting["hostEmail"]
    assert len(await registrants.list_page(client, meeting["id"], {"hostEmail": host})) == 10
    assert len(await registrants.list_page(client, meeting["id"], {"hostEmail": host, "max": 5})) == 5
    everybody = await registrants.list_registrants(client, meeting["id"], since=None, now=_now(), host_email=host)
    assert len({one.id for one in everybody}) == 12


async def test_batchRegisterMeetingRegistrants(client: WebexClient) -> None:
    """Everybody of a batch is pending, with every field they gave."""
    _, created = await _registered(client, ["Ada", "Bea"])
    for one, name in zip(created, ["Ada", "Bea"], strict=True):
        form = _person(name)
        assert {field: one.get(field) for field in form} == form
        assert one["status"] == "pending"
        assert datetime.fromisoformat(one["registrationTime"]) == _now()


async def _batch(
    client: WebexClient,
    verb: str,
    meeting: objects.MeetingSeriesObject,
    people: Sequence[objects.RegistrantCreateResponse],
) -> None:
    ids = [one["id"] for one in people]
    host = meeting["hostEmail"]
    await registrants.batch(client, meeting["id"], verb, ids, send_email=False, current=False, host_email=host)


async def test_approveMeetingRegistrants(client: WebexClient) -> None:
    """Those named are approved, the others still pending."""
    meeting, [ada, bea, _] = await _registered(client, ["Ada", "Bea", "Cem"])
    await _batch(client, "approve", meeting, [ada, bea])
    assert await _statuses(client, meeting) == {"Ada": "approved", "Bea": "approved", "Cem": "pending"}


async def test_rejectMeetingRegistrants(client: WebexClient) -> None:
    """Those named are rejected, the others still pending."""
    meeting, [ada, _] = await _registered(client, ["Ada", "Bea"])
    await _batch(client, "reject", meeting, [ada])
    assert await _statuses(client, meeting) == {"Ada": "rejected", "Bea": "pending"}


async def test_cancelMeetingRegistrants(client: WebexClient) -> None:
    """There is no status ``cancelled`` at Cisco: who was approved is pending again."""
    meeting, [ada, bea] = await _registered(client, ["Ada", "Bea"])
    await _batch(client, "approve", meeting, [ada, bea])
    await _batch(client, "cancel", meeting, [ada])
    assert await _statuses(client, meeting) == {"Ada": "pending", "Bea": "approved"}


async def test_batchDeleteMeetingRegistrants(client: WebexClient) -> None:
    """Those named are gone, the others not."""
    meeting, [ada, bea] = await _registered(client, ["Ada", "Bea"])
    await _batch(client, "bulk-delete", meeting, [ada])
    assert await _statuses(client, meeting) == {"Bea": "pending"}
    with pytest.raises(WebexNotFound):
        await registrants.get_registrant(client, meeting["id"], ada["id"])
    assert (await registrants.get_registrant(client, meeting["id"], bea["id"]))["email"] == "bea@example.org"
