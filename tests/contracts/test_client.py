"""Every request of the client against Cisco's document, and Cisco's own answers through the client."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx
import msgspec
import pytest

from service.webex import applications, guests, meetings, objects, registrants, registration, webhooks
from service.webex.client import WebexClient
from service.webex.operations import OPERATIONS
from tests.contracts.document import Document
from tests.webex.wire import answered_by

SERIES = "560d7b784f5143e3be2fc3064a5c4999"
HOOK = "Y2lzY29zcGFyazovL3VzL1dFQkhPT0svOTZhYmMyYWEtM2RjYy0xMWU1LWExNTItZmUzNDgxOWNkYzlh"
PERSON = "fbd83190-97b2-4bb0-b56b-8fde463d137b"
HOST = "host+1@example.com"

Call = Callable[[WebexClient, Any], Awaitable[Any] | AsyncIterator[Any]]

_LISTED: objects.ListMeetingsQuery = {
    "meetingNumber": "123456789",
    "webLink": "https://site.webex.com/site/j.php?MTID=m1&x=y",
    "roomId": "room",
    "meetingSeriesId": SERIES,
    "max": 7,
    "from": "2026-01-01T00:00:00+01:00",
    "to": "2026-01-08T00:00:00Z",
    "meetingType": "scheduledMeeting",
    "state": "inProgress",
    "scheduledType": "webinar",
    "isModified": True,
    "hasChat": True,
    "hasRecording": False,
    "hasTranscription": True,
    "hasSummary": False,
    "hasClosedCaption": True,
    "hasPolls": False,
    "hasQA": True,
    "hasSlido": False,
    "current": False,
    "hostEmail": HOST,
    "siteUrl": "site.webex.com",
    "integrationTag": "a tag & more",
}
_REGISTERED: objects.ListRegistrantsQuery = {
    "max": 5,
    "hostEmail": HOST,
    "current": True,
    "email": "a+b@example.com",
    "registrationTimeFrom": "2026-01-01T00:00:00Z",
    "registrationTimeTo": "2026-02-01T00:00:00Z",
}
_BOTH: Mapping[str, Any] = {"current": True, "host_email": HOST}


def _batch(verb: str) -> Call:
    def call(client: WebexClient, body: Any) -> Awaitable[Any]:
        ids = [one["id"] for one in body["registrants"]]
        return registrants.batch(client, SERIES, verb, ids, send_email=True, current=False, host_email=HOST)

    return call


#: Each operation with everything it takes; ``body`` is Cisco's own example of a request.
FULL: dict[str, Call] = {
    "createMeeting": lambda client, body: meetings.create_meeting(client, body, send_email=False, host_email=HOST),
    "listMeetings": lambda client, _: meetings.list_meetings(client, _LISTED, password="BgJep@4323", timezone="UTC"),
    "getMeetingById": lambda client, _: meetings.get_meeting_by_id(
        client, SERIES, current=True, host_email=HOST, password="BgJep@4323", timezone="UTC"
    ),
    "patchMeeting": lambda client, body: meetings.patch_meeting(client, SERIES, body, send_email=True, host_email=HOST),
    "updateMeeting": lambda client, body: meetings.update_meeting(
        client, SERIES, body, send_email=True, host_email=HOST
    ),
    "deleteMeeting": lambda client, _: meetings.delete_meeting(client, SERIES, send_email=False, host_email=HOST),
    "meetingJoin": lambda client, body: meetings.join_meeting(client, body, host_email=HOST),
    "endMeeting": lambda client, body: meetings.end_meeting(client, SERIES + "_I_1", reason=body["reason"]),
    "getMeetingRegistration": lambda client, _: registration.get_registration(client, SERIES, **_BOTH),
    "updateMeetingRegistration": lambda client, body: registration.update_registration(
        client, SERIES, body, host_email=HOST
    ),
    "deleteMeetingRegistration": lambda client, _: registration.delete_registration(client, SERIES, host_email=HOST),
    "listMeetingRegistrants": lambda client, _: registrants.list_page(client, SERIES, _REGISTERED),
    "createRegistrant": lambda client, body: registrants.create_registrant(
        client, SERIES, body, send_email=False, **_BOTH
    ),
    "getRegistrant": lambda client, _: registrants.get_registrant(client, SERIES, PERSON, **_BOTH),
    "deleteRegistrant": lambda client, _: registrants.delete_registrant(client, SERIES, PERSON, **_BOTH),
    "queryMeetingRegistrants": lambda client, body: registrants.query_page(client, SERIES, body, size=5, **_BOTH),
    "batchApproveMeetingRegistrants": _batch("approve"),
    "batchRejectMeetingRegistrants": _batch("reject"),
    "batchCancelMeetingRegistrants": _batch("cancel"),
    "createRegistrants": lambda client, body: registrants.create_registrants(
        client, SERIES, body["items"], send_email=True, **_BOTH
    ),
    "batchDeleteMeetingRegistrants": _batch("bulk-delete"),
    "List Webhooks": lambda client, _: webhooks.list_webhooks(client, owned_by="org"),
    "Create a Webhook": lambda client, body: webhooks.create_webhook(client, body),
    "Get Webhook Details": lambda client, _: webhooks.get_webhook(client, HOOK),
    "Update a Webhook": lambda client, body: webhooks.update_webhook(client, HOOK, body),
    "Delete a Webhook": lambda client, _: webhooks.delete_webhook(client, HOOK),
    "Create a Guest": lambda client, _: guests.create_guest(client, subject="guest 1", display_name="Ada"),
    "Get Guest Count": lambda client, _: guests.count_guests(client),
    "createServiceAppAccessToken": lambda client, _: applications.create_service_app_token(
        client, HOOK, {"clientId": "C1", "clientSecret": "S1", "targetOrgId": "O1"}
    ),
}

_NEW: objects.CreateMeetingObject = {
    "title": "T",
    "start": "2026-01-01T10:00:00Z",
    "end": "2026-01-01T11:00:00Z",
}
_PERSON: objects.RegistrantFormObject = {"firstName": "A", "lastName": "B", "email": "a@example.com"}

#: Each operation that has anything optional, without it.
BARE: dict[str, Call] = {
    "createMeeting": lambda client, _: meetings.create_meeting(client, _NEW, send_email=True),
    "listMeetings": lambda client, _: meetings.list_meetings(client, {}),
    "getMeetingById": lambda client, _: meetings.get_meeting_by_id(client, SERIES),
    "patchMeeting": lambda client, _: meetings.patch_meeting(client, SERIES, {}, send_email=False),
    "updateMeeting": lambda client, _: meetings.update_meeting(client, SERIES, {}, send_email=False),
    "deleteMeeting": lambda client, _: meetings.delete_meeting(client, SERIES, send_email=True),
    "meetingJoin": lambda client, _: meetings.join_meeting(client, {"meetingId": SERIES}),
    "endMeeting": lambda client, _: meetings.end_meeting(client, SERIES),
    "getMeetingRegistration": lambda client, _: registration.get_registration(client, SERIES),
    "updateMeetingRegistration": lambda client, _: registration.update_registration(client, SERIES, {}),
    "deleteMeetingRegistration": lambda client, _: registration.delete_registration(client, SERIES),
    "listMeetingRegistrants": lambda client, _: registrants.list_page(client, SERIES, {}),
    "createRegistrant": lambda client, _: registrants.create_registrant(client, SERIES, _PERSON, send_email=True),
    "getRegistrant": lambda client, _: registrants.get_registrant(client, SERIES, PERSON),
    "deleteRegistrant": lambda client, _: registrants.delete_registrant(client, SERIES, PERSON),
    "queryMeetingRegistrants": lambda client, _: registrants.query_page(client, SERIES, {"emails": ["a@example.com"]}),
    "createRegistrants": lambda client, _: registrants.create_registrants(client, SERIES, [_PERSON], send_email=False),
    "List Webhooks": lambda client, _: webhooks.list_webhooks(client),
}


def example_of(cisco: Document, id_: str, body: Mapping[str, Any]) -> Any:
    """Cisco's example of a request or answer; "7" for the one text, for which there is none."""
    return body.get("example", "7" if id_ == "Get Guest Count" else None)


async def _sent(cisco: Document, id_: str, call: Call) -> tuple[list[httpx.Request], Any]:
    """The requests of a call that is answered with Cisco's example, and what the call gave."""
    requests: list[httpx.Request] = []
    described = cisco.operation(id_)
    status, media, content = described.success
    example = example_of(cisco, id_, content)

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        text = example if isinstance(example, str) else json.dumps(example)
        return httpx.Response(status, text=text if media else "", headers={"content-type": media} if media else {})

    async with answered_by(answer) as client:
        given = call(client, described.body[1].get("example"))
        got = await given if inspect.isawaitable(given) else [item async for item in given]
    return requests, got


def test_every_operation_has_a_function() -> None:
    """The client can make each call of the table."""
    assert sorted(FULL) == sorted(each.id for each in OPERATIONS)


@pytest.mark.parametrize(
    ("id_", "call"),
    [
        pytest.param(id_, call, id=f"{id_}, {kind}")
        for kind, each in (("full", FULL), ("bare", BARE))
        for id_, call in each.items()
    ],
)
async def test_every_request_is_one_that_cisco_describes(cisco: Document, id_: str, call: Call) -> None:
    """Path, query, headers, media type and body of what is sent fit the document, and hold nothing that it does not name."""
    requests, _ = await _sent(cisco, id_, call)
    assert len(requests) == 1
    assert cisco.complaints(id_, requests[0], prefix="/v1") == []


@pytest.mark.parametrize(("id_", "call"), FULL.items(), ids=FULL)
async def test_every_parameter_can_be_sent(cisco: Document, id_: str, call: Call) -> None:
    """Each parameter of the document, and ``hostEmail`` in the body where it belongs there, reaches the wire, and so does
    all of a body.
    """
    [request], _ = await _sent(cisco, id_, call)
    described = cisco.operation(id_)
    for parameter in described.parameters:
        place = {"query": request.url.params, "header": request.headers, "path": {"meetingId", "registrantId"}}
        assert parameter["in"] == "path" or parameter["name"] in place[parameter["in"]]
    fields = cisco.resolved(described.body[1].get("schema", {})).get("properties", {})
    body = json.loads(request.content) if request.content else {}
    assert body.get("hostEmail") == (HOST if "hostEmail" in fields else None)
    assert ("sendEmail" in body) == ("sendEmail" in fields)
    assert _without_ours(body) == _without_ours(described.body[1].get("example") or body)


def _without_ours(body: Any) -> Any:
    """A body without the fields that the functions set themselves."""
    if isinstance(body, list):
        return [_without_ours(item) for item in body]
    if not isinstance(body, dict):
        return body
    ours = ("hostEmail", "sendEmail", "joinDirectly")
    return {name: _without_ours(value) for name, value in body.items() if name not in ours}


@pytest.mark.parametrize(("id_", "call"), FULL.items(), ids=FULL)
async def test_ciscos_answers_lose_nothing(cisco: Document, id_: str, call: Call) -> None:
    """Cisco's example answer comes out of the client as it went in, and is the same JSON again."""
    _, got = await _sent(cisco, id_, call)
    example = example_of(cisco, id_, cisco.operation(id_).success[2])
    expected = example["items"] if isinstance(example, dict) and "items" in example else example
    assert json.loads(msgspec.json.encode(got)) == (7 if expected == "7" else expected)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"method": "PUT"}, "is not", id="another method"),
        pytest.param({"url": "https://webex.example/v1/meetings/a/b"}, "is not", id="another path"),
        pytest.param({"params": {"hostemail": "x"}}, "no parameter hostemail", id="an unknown parameter"),
        pytest.param({"params": {"current": "yes"}}, "current is not of its type", id="not a boolean"),
        pytest.param({"params": {"current": ""}}, "current is not of its type", id="an empty boolean"),
        pytest.param({"params": [("current", "true"), ("current", "false")]}, "current twice", id="twice"),
        pytest.param({"json": {"emails": "a"}}, "emails", id="a field of another type"),
        pytest.param({"json": {"emails": [], "status": "cancelled"}}, "status", id="no choice"),
        pytest.param({"json": {"emails": [], "statuses": "pending"}}, "statuses", id="an unknown field"),
        pytest.param({"json": {}}, "emails", id="a missing field"),
        pytest.param({"content": b"{}", "headers": {"content-type": "text/plain"}}, "of type", id="another media type"),
        pytest.param({"json": None}, "no body", id="no body"),
    ],
)
def test_a_wrong_request_is_noticed(cisco: Document, change: dict[str, Any], complaint: str) -> None:
    """The judge of these tests can say no."""
    url = f"https://webex.example/v1/meetings/{SERIES}/registrants/query"
    right: dict[str, Any] = {"method": "POST", "url": url, "json": {"emails": []}}
    assert cisco.complaints("queryMeetingRegistrants", httpx.Request(**right), prefix="/v1") == []
    content = {"json": None} if "content" in change else {}
    complaints = cisco.complaints(
        "queryMeetingRegistrants", httpx.Request(**{**right, **content, **change}), prefix="/v1"
    )
    assert complaint in "\n".join(complaints)
