from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import WebexRejected
from service.webex.operations import OPERATIONS, Operation, by_id, operation, request_for

BASE = "https://webexapis.com/v1"
SERIES = "560d7b784f5143e3be2fc3064a5c4999"
STEERING = [
    "../people/me",
    "a/../../people",
    "..%2fpeople",
    "%2e%2e",
    "a?max=1",
    "a#b",
    "a\r\nX-Evil: 1",
    "a\x00b",
    "..\\people",
    "https://evil.example/x",
    "//evil.example",
    "a b",
    "",
    ".",
    "..",
    "x" * 10_240,
    "\ud800",
]
_WITH_IDS = [op for op in OPERATIONS if list(op.placed("path"))]


def _body_of(op: Operation) -> dict[str, Any] | None:
    return dict.fromkeys(op.body_required, "x") if op.body_required else None


def _ids_of(op: Operation, value: str = SERIES) -> dict[str, str]:
    return {parameter.name: value for parameter in op.placed("path")}


@pytest.mark.parametrize("value", STEERING, ids=[ascii(value)[:20] for value in STEERING])
@pytest.mark.parametrize("op", _WITH_IDS, ids=[op.id for op in _WITH_IDS])
def test_no_id_of_any_operation_steers_the_url(op: Operation, value: str) -> None:
    """What is no id is refused before anything is sent, for each path parameter, and is not shown."""
    for parameter in op.placed("path"):
        with pytest.raises(WebexRejected) as caught:
            request_for(op, path={**_ids_of(op), parameter.name: value}, body=_body_of(op))
        assert value[:10] not in str(caught.value) or len(value) < 3


@given(st.text(min_size=1, max_size=60))
def test_any_id_that_is_taken_stays_one_segment(value: str) -> None:
    """Whatever text is taken as an id arrives as that text, and moves nothing else of the URL."""
    op = by_id("deleteRegistrant")
    try:
        request = request_for(op, path={"meetingId": value, "registrantId": value})
    except WebexRejected:
        return
    url = httpx.URL(request.url(BASE))
    segments = url.raw_path.split(b"/")
    assert (url.host, len(segments), segments[4], url.query) == ("webexapis.com", 6, b"registrants", b"")
    assert url.path == f"/v1/meetings/{value}/registrants/{value}"


@pytest.mark.parametrize("op", OPERATIONS, ids=[op.id for op in OPERATIONS])
def test_a_request_says_what_the_table_says(op: Operation) -> None:
    """Name, method, path template, and whether it may be repeated come from the table."""
    request = request_for(op, path=_ids_of(op), body=_body_of(op))
    assert (request.operation, request.method, request.reads) == (op.name, op.method, op.reads)
    assert request.path == op.path.replace("{meetingId}", SERIES).replace("{registrantId}", SERIES).replace(
        "{webhookId}", SERIES
    ).replace("{applicationId}", SERIES)
    assert request.answers == (op.answers != "nothing")


@pytest.mark.parametrize(
    ("id_", "given", "sentence"),
    [
        pytest.param("getMeetingById", {"path": {}}, "in its path", id="no id"),
        pytest.param("listMeetings", {"path": {"meetingId": "canary"}}, "in its path", id="an id too many"),
        pytest.param("listMeetings", {"query": {"status": "canary"}}, "query parameter status", id="another query"),
        pytest.param("listMeetings", {"query": {"password": "canary"}}, "query parameter password", id="misplaced"),
        pytest.param("listMeetings", {"headers": {"Authorization": "canary"}}, "header parameter", id="another header"),
        pytest.param("listMeetings", {"query": {"max": "canary"}}, "max must be of type integer", id="no number"),
        pytest.param("listMeetings", {"query": {"max": True}}, "max must be of type integer", id="a boolean number"),
        pytest.param(
            "listMeetings", {"query": {"current": "true"}}, "current must be of type boolean", id="no boolean"
        ),
        pytest.param("listMeetings", {"query": {"state": "canary"}}, "state must be active or", id="no choice"),
        pytest.param("listMeetings", {"query": {"siteUrl": 5}}, "siteUrl must be of type string", id="no text"),
        pytest.param(
            "listMeetings",
            {"query": {"from": datetime(2026, 1, 1)}},  # noqa: DTZ001 - that is the mistake
            "from must be",
            id="no time zone",
        ),
        pytest.param("listMeetings", {"headers": {"password": "canary\r\nX: 1"}}, "printable ASCII", id="line break"),
        pytest.param("listMeetings", {"headers": {"password": "canäry"}}, "printable ASCII", id="not ASCII"),
        pytest.param("listMeetings", {"body": {"a": "canary"}}, "has no body", id="a body too many"),
        pytest.param("createMeeting", {}, "an object as its body", id="no body"),
        pytest.param("createMeeting", {"body": ["canary"]}, "an object as its body", id="a list"),
        pytest.param("createMeeting", {"body": {"title": "canary"}}, "needs start, end", id="missing fields"),
        pytest.param("List Webhooks", {"host_email": "canary"}, "takes no hostEmail", id="no host there"),
    ],
)
def test_a_call_that_could_never_be_right_is_refused(id_: str, given: dict[str, Any], sentence: str) -> None:
    """The sentence names operation and field, and no value."""
    with pytest.raises(ValueError, match=sentence) as caught:
        request_for(by_id(id_), **given)
    assert "can" not in str(caught.value)


def test_values_are_written_as_webex_reads_them() -> None:
    """Booleans in lower case, times in UTC to the second, None not at all."""
    cet = timezone(timedelta(hours=1))
    query = {"current": True, "isModified": False, "max": 7, "state": None, "siteUrl": "a&b=c +"}
    times = {"from": datetime(2026, 1, 1, 0, 30, 0, 999, tzinfo=cet), "to": "2026-01-02"}
    request = request_for(by_id("listMeetings"), query={**query, **times}, headers={"timezone": "UTC"})
    assert request.query == {
        "current": "true",
        "isModified": "false",
        "max": "7",
        "siteUrl": "a&b=c +",
        "from": "2025-12-31T23:30:00Z",
        "to": "2026-01-02",
    }
    assert request.headers == {"timezone": "UTC"}


@pytest.mark.parametrize(
    ("resource", "verb", "place"),
    [
        ("meetings", "list", "query"),
        ("meetings", "create", "body"),
        ("meetings", "patch", "body"),
        ("meetings", "delete", "query"),
        ("meetings", "join", "body"),
        ("registration", "get", "query"),
        ("registration", "update", "body"),
        ("registration", "delete", "header"),
        ("registrants", "approve", "query"),
        ("registrants", "bulk-insert", "query"),
    ],
)
def test_the_host_goes_where_the_operation_wants_it(resource: str, verb: str, place: str) -> None:
    """``hostEmail`` is in exactly one place."""
    op = operation(resource, verb)
    request = request_for(op, path=_ids_of(op), body=_body_of(op), host_email="host@example.com")
    found = {"query": request.query, "body": request.json or {}, "header": request.headers}
    assert [name for name, where in found.items() if where.get("hostEmail") == "host@example.com"] == [place]


def test_a_request_shows_neither_query_nor_header_nor_body() -> None:
    """What is printed of a request holds no address, password or secret."""
    op = by_id("createServiceAppAccessToken")
    body = {"clientId": "canary", "clientSecret": "canary", "targetOrgId": "canary"}
    listed = request_for(by_id("listMeetings"), query={"hostEmail": "canary"}, headers={"password": "canary"})
    shown = f"{request_for(op, path={'applicationId': 'app'}, body=body)!r} {listed}"
    assert "canary" not in shown
    assert "applications.token: POST /applications/app/token" in shown


def test_a_text_is_asked_for_as_text() -> None:
    """The one operation that answers in plain text says that it takes it."""
    assert request_for(by_id("Get Guest Count")).headers["Accept"].startswith("text/plain")


_REFERENCE = Path(__file__).parents[2] / "docs/reference/webex-api.md"


@pytest.mark.parametrize("op", OPERATIONS, ids=[op.id for op in OPERATIONS])
def test_the_reference_tells_of_an_operation(op: Operation) -> None:
    """Its row has the call, each parameter, each required field and the command."""
    start = f"| `{op.id}` | `{op.method} "
    [row] = [line for line in _REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith(start)]
    assert f"| `{op.method} {op.path}` |" in row
    assert row.endswith(f"| `{op.resource} {op.verb}` |")
    expected = {each.name for each in op.parameters if each.place != "path"}
    assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == expected
    assert set(re.findall(r"\*\*(\w+)\*\*", row)) == set(op.body_required)
