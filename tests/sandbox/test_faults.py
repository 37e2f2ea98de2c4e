"""What goes wrong when a test asks for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.sandbox.simulated import batch, ledger, listed, meeting_body, people, schedule


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


async def test_a_fault_comes_by_chance_and_for_ever(client: httpx.AsyncClient) -> None:
    """With a probability and no number, about that share of all calls is hit, each by itself."""
    await fault(client, operation="listMeetings", status=429, retryAfter="1", probability=0.2)
    answers = [(await client.get("/v1/meetings")).status_code for _ in range(500)]
    assert 70 <= answers.count(429) <= 130
    assert answers.count(200) == 500 - answers.count(429)


async def test_faults_by_chance_stand_beside_each_other(client: httpx.AsyncClient) -> None:
    """A call that the first one spares may be hit by the second."""
    await fault(client, operation="*", status=429, probability=0.5)
    await fault(client, operation="*", status=503, probability=1.0)
    assert {(await client.get("/v1/meetings")).status_code for _ in range(40)} == {429, 503}


async def test_a_fault_waits_for_its_call(client: httpx.AsyncClient) -> None:
    """So many calls go well before it."""
    await fault(client, operation="listMeetings", status=500, skip=2, times=1)
    assert [(await client.get("/v1/meetings")).status_code for _ in range(4)] == [200, 200, 500, 200]


async def test_a_list_loses_a_page(client: httpx.AsyncClient) -> None:
    """Its link leads on to the rest, and nothing tells that somebody is missing; the next list has all again."""
    series = await schedule(client)
    ids = await people(client, series, 250, spreadSeconds=86_400)
    await fault(client, operation="list", losePage=1, skip=1)

    async def walked() -> list[list[str]]:
        pages, url = [], f"/v1/meetings/{series}/registrants?max=100"
        while url:
            answer = await client.get(url)
            pages.append([one["id"] for one in answer.json()["items"]])
            url = answer.links.get("next", {}).get("url", "")
        return pages

    assert await walked() == [ids[:100], ids[200:]]
    assert await walked() == [ids[:100], ids[100:200], ids[200:]]


async def test_the_last_page_can_be_lost_too(client: httpx.AsyncClient) -> None:
    """Then it is empty."""
    series = await schedule(client)
    await people(client, series, 3)
    await fault(client, operation="list", losePage=1)
    assert await listed(client, series) == []
    assert len(await listed(client, series)) == 3


async def test_everything_is_counted(client: httpx.AsyncClient) -> None:
    """The figures have what became of the registrants of a meeting, or of all, without naming each."""
    series, other = await schedule(client), await schedule(client, title="Another one")
    ids = await people(client, series, 5)
    await people(client, other, 2)
    await batch(client, series, "approve", ids[:3], sendEmail=True)
    await batch(client, series, "approve", ids[:1], sendEmail=True)
    await batch(client, series, "bulkDelete", ids[4:], sendEmail=False)
    shown = (await client.get("/sandbox/figures", params={"meetingId": series})).json()
    assert shown["statuses"] == {"approved": 3, "pending": 1, "deleted": 1}
    nothing = {"rejected": 0, "cancelled": 0, "other": 0}
    assert shown["sums"] == {**nothing, "approved": 3, "repeated": 1, "mails": 4}
    assert shown["most"] == {**nothing, "approved": 1, "repeated": 1, "mails": 2}
    everywhere = (await client.get("/sandbox/figures")).json()
    assert (everywhere["calls"], everywhere["statuses"]["pending"]) == (5, 3)
    assert everywhere["tallies"]["batchApproveMeetingRegistrants 204"] == 2


async def test_ten_thousand_people_register_at_once(client: httpx.AsyncClient) -> None:
    """In one control call, and a page or a query of theirs is answered as for a few."""
    series = await schedule(client)
    ids = await people(client, series, 10_000, spreadSeconds=30 * 86_400, domain="partner.example")
    assert len(set(ids)) == 10_000
    since = {"registrationTimeFrom": "2025-12-01T00:00:00Z", "registrationTimeTo": "2026-01-11T00:00:00Z"}
    page = await listed(client, series, **since)
    asked = await client.post(f"/v1/meetings/{series}/registrants/query?max=100", json={"emails": [page[7]["email"]]})
    assert ([one["id"] for one in page], asked.json()["items"]) == (ids[:100], [page[7]])


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
        {"status": 500, "probability": 0},
        {"status": 500, "probability": 1.1},
        {"status": 500, "skip": -1},
        {"losePage": "all"},
        {"webhook": "duplicate", "copies": 101},
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
