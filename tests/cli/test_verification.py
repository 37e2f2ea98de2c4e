"""Reading back: what counts as done."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.cli.api.verification import verified
from service.webex.client import WebexClient, Wiring
from service.webex.operations import operation, request_for
from service.webex.tokens import StaticToken

SERIES = "a" * 32


def client_that_sees(seen: dict[str, Any] | None) -> WebexClient:
    """Webex shows ``seen`` whatever is asked, or 404."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(404) if seen is None else httpx.Response(200, json=seen)

    wiring = Wiring(transport=lambda _connections: httpx.MockTransport(answer))
    return WebexClient("https://webex.example/v1", StaticToken("token"), wiring=wiring)


BATCH = {"registrants": [{"id": "1"}], "sendEmail": False}
CASES = [
    pytest.param("registrants.approve", BATCH, {"status": "approved"}, True, id="approved"),
    pytest.param("registrants.approve", BATCH, {"status": "pending"}, False, id="not approved"),
    pytest.param("registrants.approve", BATCH, None, False, id="approved but gone"),
    pytest.param("registrants.reject", BATCH, {"status": "rejected"}, True, id="rejected"),
    pytest.param("registrants.reject", BATCH, {"status": "approved"}, False, id="not rejected"),
    pytest.param("registrants.cancel", BATCH, {"status": "pending"}, True, id="put back"),
    pytest.param("registrants.cancel", BATCH, {"status": "approved"}, False, id="not put back"),
    pytest.param("registrants.bulk-delete", BATCH, None, True, id="deleted"),
    pytest.param("registrants.bulk-delete", BATCH, {"status": "pending"}, False, id="not deleted"),
    pytest.param("meetings.delete", None, None, True, id="meeting deleted"),
    pytest.param("meetings.delete", None, {"id": SERIES}, False, id="meeting not deleted"),
    pytest.param("meetings.patch", {"title": "b"}, {"title": "b", "agenda": "x"}, True, id="changed"),
    pytest.param("meetings.patch", {"title": "b"}, {"title": "a"}, False, id="not changed"),
    pytest.param("meetings.patch", {"title": "b"}, {}, True, id="a field that is never shown"),
    pytest.param("meetings.patch", {"password": "b"}, {"password": "***"}, True, id="a password may look different"),
    pytest.param("meetings.patch", {"sendEmail": True}, {"sendEmail": False}, True, id="how, not what"),
    pytest.param(
        *("meetings.patch", {"start": "2030-01-01T10:00:00+01:00"}, {"start": "2030-01-01T09:00:00Z"}, True),
        id="the same moment",
    ),
    pytest.param(
        *("meetings.patch", {"start": "2030-01-01T10:00:00Z"}, {"start": "2030-01-01T09:00:00Z"}, False),
        id="another moment",
    ),
    pytest.param(
        *("meetings.patch", {"meetingOptions": {"a": 1}}, {"meetingOptions": {"a": 1, "b": 2}}, True),
        id="more of an object",
    ),
    pytest.param(
        *("meetings.patch", {"meetingOptions": {"a": 1}}, {"meetingOptions": {"a": 2, "b": 2}}, False),
        id="less of an object",
    ),
]


@pytest.mark.parametrize(("name", "body", "seen", "done"), CASES)
async def test_what_counts_as_done(name: str, body: Any, seen: dict[str, Any] | None, done: bool) -> None:
    """Only what Webex shows."""
    op = operation(*name.split("."))
    path = {"meetingId": SERIES}

    async with client_that_sees(seen) as client:
        [row] = await verified(
            client, op, request=request_for(op, path=path, body=body), path=path, host_email="", answer=None
        )

    assert row["verified"] is done
    assert row["id"] == ("1" if body is BATCH else SERIES)


async def test_a_difference_is_named() -> None:
    """By Webex's names, without values."""
    op, path = operation("meetings", "patch"), {"meetingId": SERIES}
    request = request_for(op, path=path, body={"title": "b", "agenda": "c", "timezone": "UTC"})

    async with client_that_sees({"title": "x", "agenda": "c", "timezone": "GMT"}) as client:
        [row] = await verified(client, op, request=request, path=path, host_email="", answer=None)

    assert row["differs"] == ["title", "timezone"]
