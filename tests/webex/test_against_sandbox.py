from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from service.controllers.ports import Webex
from service.core.errors import WebexNotFound, WebexUnauthorized
from service.sandbox.app import create_app
from service.sandbox.world import World
from service.webex.api import WebexApi
from service.webex.client import WebexClient
from service.webex.tokens import StaticToken
from tests.servers import running


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(params=[True, False], ids=["with links", "without links"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    world = World.open(None, now=_now, seed="webex")
    async with running(create_app(world, link_header=request.param, token="right")) as base_url:
        yield base_url
    world.close()


async def _scheduled(base_url: str, people: int) -> str:
    """A meeting with registration for which so many people have registered."""
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": "Bearer right"}) as http:
        body = {
            "title": "Partner day",
            "start": "2027-01-01T10:00:00Z",
            "end": "2027-01-01T11:00:00Z",
            "password": "Pa55word",
            "registration": {
                "autoAcceptRequest": False,
                "requireFirstName": True,
                "requireLastName": True,
                "requireEmail": True,
            },
        }
        created = (await http.post(f"{base_url}/v1/meetings", json=body)).raise_for_status()
        meeting_id: str = created.json()["id"]
        given = {"meetingId": meeting_id, "count": people, "spreadSeconds": 3600}
        (await http.post(f"{base_url}/sandbox/people", json=given)).raise_for_status()
    return meeting_id


async def test_the_whole_line_over_a_real_socket(sandbox: str) -> None:
    """A meeting is read, 230 people are listed, a hundred approved in one call, and their new status is read back."""
    meeting_id = await _scheduled(sandbox, 230)
    async with WebexClient(f"{sandbox}/v1", StaticToken("right")) as client:
        api: Webex = WebexApi(client)
        meeting = await api.get_meeting(meeting_id)
        everyone = await api.list_registrants(meeting_id, since=None, now=_now())
        first = everyone[:100]
        await api.change_status(meeting_id, "approve", [one.id for one in first], send_email=False)
        read_back = await api.query_registrants(meeting_id, [one.email for one in first])
        with pytest.raises(WebexNotFound):
            await api.get_meeting("f" * 32)
    assert meeting.has_registration
    assert len({one.id for one in everyone}) == 230
    assert {one.status for one in everyone} == {"pending"}
    assert {one.status for one in read_back} == {"approved"}
    assert {one.id for one in read_back} == {one.id for one in first}


async def test_a_wrong_token_is_told_apart(sandbox: str) -> None:
    """The sandbox answers 401, the client says whose fault it is."""
    async with WebexClient(f"{sandbox}/v1", StaticToken("wrong")) as client:
        with pytest.raises(WebexUnauthorized):
            await WebexApi(client).get_meeting("f" * 32)
