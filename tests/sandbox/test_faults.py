"""What goes wrong when a test asks for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.sandbox.simulated import ledger, meeting_body, schedule


async def fault(client: httpx.AsyncClient, **body: Any) -> None:
    """One more."""
    response = await client.post("/sandbox/faults", json=body)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(429, {"retry-after": "7"}, id="too many"),
        pytest.param(429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, id="too many, a date"),
        pytest.param(423, {}, id="locked"),
        pytest.param(500, {}, id="error"),
        pytest.param(503, {"retry-after": "rand(30),add(30)"}, id="unavailable, junk"),
    ],
)
@pytest.mark.parametrize("operation", ["createMeeting", "*"])
async def test_a_call_is_refused_before_its_effect(
    client: httpx.AsyncClient, operation: str, status: int, headers: dict[str, str]
) -> None:
    """With any status and any Retry-After, once, and nothing has happened."""
    await fault(client, operation=operation, status=status, retryAfter=headers.get("retry-after"))
    refused = await client.post("/v1/meetings", json=meeting_body())
    assert (refused.status_code, refused.headers.get("retry-after")) == (status, headers.get("retry-after"))
    assert (await client.get("/v1/meetings")).json() == {"items": []}
    assert (await client.post("/v1/meetings", json=meeting_body())).status_code == 200


async def test_a_call_is_refused_after_its_effect(client: httpx.AsyncClient) -> None:
    """The caller gets a 504, and the meeting is there."""
    await fault(client, operation="createMeeting", status=504, afterEffect=True)
    assert (await client.post("/v1/meetings", json=meeting_body())).status_code == 504
    assert len((await client.get("/v1/meetings")).json()["items"]) == 1


async def test_an_answer_takes_its_time(client: httpx.AsyncClient) -> None:
    """Latency comes before the effect, and holds up no other call."""
    await fault(client, operation="createMeeting", delaySeconds=0.3)
    slow = asyncio.create_task(client.post("/v1/meetings", json=meeting_body()))
    await asyncio.sleep(0.1)
    assert (await client.get("/v1/meetings")).json() == {"items": []}
    assert not slow.done()
    assert (await slow).status_code == 200


@pytest.mark.parametrize(
    ("body", "starts", "media", "length"),
    [
        pytest.param("truncated", '{"', "application/json", range(10, 2_000), id="truncated"),
        pytest.param("html", "<!DOCTYPE", "text/html", range(10, 200), id="a page"),
        pytest.param("empty", "", "application/json", range(1), id="empty"),
        pytest.param("huge", '{"', "application/json", range(8_000_000, 9_000_000), id="huge"),
    ],
)
async def test_an_answer_is_spoilt(
    client: httpx.AsyncClient, body: str, starts: str, media: str, length: range
) -> None:
    """The effect is there, the status is 200, and the body is no use."""
    await fault(client, operation="createMeeting", body=body)
    spoilt = await client.post("/v1/meetings", json=meeting_body())
    assert spoilt.status_code == 200
    assert spoilt.text.startswith(starts)
    assert spoilt.headers["content-type"].startswith(media)
    assert len(spoilt.content) in length
    if body != "huge":
        with pytest.raises(json.JSONDecodeError):
            spoilt.json()
    assert len((await client.get("/v1/meetings")).json()["items"]) == 1


async def test_faults_are_cleared(client: httpx.AsyncClient) -> None:
    """All at once; the ledger keeps what they did."""
    await fault(client, operation="*", status=500, times=100)
    assert (await client.get("/v1/meetings")).status_code == 500
    await client.delete("/sandbox/faults")
    await schedule(client)
    assert (await ledger(client))["tallies"] == {"listMeetings 500": 1, "createMeeting 200": 1}


@pytest.mark.parametrize(
    "body",
    [
        {"status": 399},
        {"status": 0},
        {"delaySeconds": -1},
        {"delaySeconds": "long"},
        {"body": "shredded"},
        {"webhook": "burn"},
        {"webhook": ""},
        {"webhook": "late", "seconds": 1e9},
        {"times": 3},
    ],
    ids=str,
)
async def test_what_a_fault_must_be(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Anything else is refused."""
    assert (await client.post("/sandbox/faults", json=body)).status_code == 400


@pytest.mark.parametrize("body", [{"licence": "many"}, {"beer": 2}, {"lagSeconds": None}], ids=str)
async def test_what_limits_must_be(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Unknown names and other types are refused, and what was set before stays."""
    await client.post("/sandbox/limits", json={"licence": 2})
    assert (await client.post("/sandbox/limits", json=body)).status_code == 400
    assert (await client.get("/sandbox/limits")).json()["licence"] == 2
