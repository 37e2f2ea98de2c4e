from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.core.errors import WebexRejected
from service.webex import meetings, pages, webhooks
from service.webex.client import WebexClient
from service.webex.objects import ListMeetingsQuery
from tests.webex.wire import BASE, answered_by

HERE = f"{BASE}/meetings"


class Listed:
    """A list of ``count`` meetings whose next page hangs on ``cursor``; ``link`` says how the link is broken."""

    def __init__(self, count: int, link: str) -> None:
        self.items = [{"id": f"m{n}", "title": f"Meeting {n}"} for n in range(count)]
        self.queries: list[dict[str, str]] = []
        self._link = link

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        self.queries.append(query)
        start, size = int(query.get("cursor", "0")), int(query.get("max", "10"))
        page = self.items[start : start + size]
        if self._link == "overlapping" and start:
            page = self.items[start - 5 : start + size]
        return httpx.Response(200, json={"items": page}, headers=self._headers(start, size))

    def _headers(self, start: int, size: int) -> dict[str, str]:
        following = start + size
        if self._link == "always":
            return {"Link": f'<{HERE}?cursor={following}>; rel="next"'}
        if following >= len(self.items):
            return {}
        target = {
            "proper": f"{HERE}?meetingType=meeting&max={size}&cursor={following}",
            "overlapping": f"{HERE}?cursor={following}",
            "lost filters": f"{HERE}?cursor={following}",
            "max=null": f"{HERE}?max=null&cursor={following}",
            "other filters": f"{HERE}?meetingType=null&hostEmail=eve%40example.com&max=1&cursor={following}",
            "relative": f"/v1/meetings?cursor={following}",
            "nothing but max=null": f"{HERE}?max=null",
            "elsewhere": f"https://evil.example/v1/meetings?cursor={following}",
            "another path": f"{BASE}/people?cursor={following}",
            "circular": f"{HERE}?page={start}",
        }[self._link]
        return {"Link": f'<{target}>; rel="next"'}


async def _read(client: WebexClient, into: list[str], *, size: int | None = None) -> None:
    query: ListMeetingsQuery = {"meetingType": "meeting"}
    if size:
        query["max"] = size
    async for meeting in meetings.list_meetings(client, query):
        into.append(meeting["id"])


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
@pytest.mark.parametrize(
    "link", ["proper", "overlapping", "lost filters", "max=null", "other filters", "relative", "always"]
)
async def test_every_page_is_read_with_our_filters(link: str, count: int) -> None:
    """Whatever a next link lost or added, each item comes once, and every request has the same filters."""
    listed, found = Listed(count, link), list[str]()
    async with answered_by(listed) as client:
        await _read(client, found)
    assert found == [f"m{n}" for n in range(count)]
    assert [{**query, "cursor": ""} for query in listed.queries] == [
        {"meetingType": "meeting", "max": "100", "cursor": ""}
    ] * len(listed.queries)
    assert len(listed.queries) <= count // 100 + 1 + (link == "always")


@pytest.mark.parametrize("link", ["nothing but max=null", "elsewhere", "another path", "circular"])
async def test_a_way_that_leads_nowhere_is_said(link: str) -> None:
    """What could be read is given; then the list says that it is not whole, after two calls at most."""
    listed, found = Listed(250, link), list[str]()
    async with answered_by(listed) as client:
        with pytest.raises(WebexRejected, match="more pages"):
            await _read(client, found)
    assert found == [f"m{n}" for n in range(100)]
    assert len(listed.queries) <= 2


async def test_pages_without_end_end() -> None:
    """A list that shows somebody new on every page stops all the same."""
    count = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        link = {"Link": f'<{HERE}?cursor={count}>; rel="next"'}
        return httpx.Response(200, json={"items": [{"id": f"m{count}"}]}, headers=link)

    async with answered_by(answer) as client:
        with pytest.raises(WebexRejected, match="do not end"):
            await _read(client, [])
    assert count == pages.PAGES


async def test_a_smaller_page_is_what_was_asked_for() -> None:
    """``max`` is the size of a page, not of the list."""
    listed, found = Listed(25, "lost filters"), list[str]()
    async with answered_by(listed) as client:
        await _read(client, found, size=10)
    assert len(found) == 25
    assert [query["max"] for query in listed.queries] == ["10", "10", "10"]


@pytest.mark.parametrize("answer", [[], {}, {"items": None}, {"items": ["a"]}, {"items": [{}]}, {"items": [{"id": 1}]}])
async def test_what_is_no_list_is_said(answer: Any) -> None:
    """A missing item would pass for an absence."""
    async with answered_by(lambda _: httpx.Response(200, json=answer)) as client:
        with pytest.raises(WebexRejected, match="cannot be read"):
            await _read(client, [])


async def test_webhooks_of_the_organisation_are_asked_for() -> None:
    """The creator's list does not say ``ownedBy``, the organisation's does."""
    queries = []

    def answer(request: httpx.Request) -> httpx.Response:
        queries.append(dict(request.url.params))
        return httpx.Response(200, json={"items": [{"id": "w1", "status": "active"}]})

    async with answered_by(answer) as client:
        for owned_by in ("", "org"):
            assert [hook["id"] async for hook in webhooks.list_webhooks(client, owned_by=owned_by)] == ["w1"]
    assert queries == [{"max": "100"}, {"max": "100", "ownedBy": "org"}]
