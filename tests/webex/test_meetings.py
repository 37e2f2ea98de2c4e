from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service.core.errors import WebexRejected
from service.webex import guests, meetings, registrants
from tests.webex.wire import answered_by

SERIES = "560d7b784f5143e3be2fc3064a5c4999"


async def test_what_cisco_adds_is_kept() -> None:
    """An unknown field and an unknown choice come through as they are."""
    strange = {"id": SERIES, "state": "paused", "holograms": {"enabled": True}, "registration": {"new": [1]}}
    async with answered_by(lambda _: httpx.Response(200, json=strange)) as client:
        assert await meetings.get_meeting_by_id(client, SERIES) == strange
        assert dict((await meetings.get_meeting(client, SERIES)).fields) == strange


@pytest.mark.parametrize("answer", [[], "text", 7, None])
async def test_an_answer_of_another_shape_is_said(answer: Any) -> None:
    """Where an object is promised, nothing else passes; a write may have had its effect."""
    new: Any = {"title": "T", "start": "2026-01-01T10:00:00Z", "end": "2026-01-01T11:00:00Z"}
    async with answered_by(lambda _: httpx.Response(200, json=answer)) as client:
        with pytest.raises(WebexRejected, match="cannot be read") as caught:
            await meetings.create_meeting(client, new, send_email=False)
    assert caught.value.maybe_done


async def test_links_are_asked_for_never_a_redirection() -> None:
    """``joinDirectly`` is false whatever the caller says, and a redirection is not followed."""
    bodies, status = [], 200

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        headers = {"Location": "https://evil.example/"} if status == 302 else {}
        return httpx.Response(status, json={"joinLink": "https://site.example/j"}, headers=headers)

    async with answered_by(answer) as client:
        links = await meetings.join_meeting(client, {"meetingId": SERIES, "joinDirectly": True, "expirationMinutes": 5})
        status = 302
        with pytest.raises(WebexRejected):
            await meetings.join_meeting(client, {"meetingId": SERIES})
    assert links == {"joinLink": "https://site.example/j"}
    assert [body["joinDirectly"] for body in bodies] == [False, False]


async def test_nobody_is_mailed_because_somebody_forgot_to_say() -> None:
    """The caller's word about e-mail goes over what a body says."""
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"items": [], "id": SERIES})

    person: Any = {"firstName": "A", "lastName": "B", "email": "a@example.com", "sendEmail": True}
    async with answered_by(answer) as client:
        await meetings.patch_meeting(client, SERIES, {"title": "T", "sendEmail": True}, send_email=False)
        await registrants.create_registrants(client, SERIES, [person], send_email=False)
    assert bodies[0]["sendEmail"] is False
    assert bodies[1]["items"][0]["sendEmail"] is False


@pytest.mark.parametrize("count", [0, 101])
async def test_a_batch_that_webex_may_not_take_is_not_sent(count: int) -> None:
    """Nobody, or more than a hundred: the caller's mistake, in inserting as in deleting."""
    person: Any = {"firstName": "A", "lastName": "B", "email": "a@example.com"}
    async with answered_by(lambda _: httpx.Response(500)) as client:
        with pytest.raises(ValueError, match="1 to 100"):
            await registrants.create_registrants(client, SERIES, [person] * count, send_email=False)
        with pytest.raises(ValueError, match="1 to 100"):
            await registrants.batch(client, SERIES, "bulk-delete", ["a"] * count, send_email=False)


async def test_two_people_of_one_batch_are_one_call() -> None:
    """``bulk-delete`` is our word, ``bulkDelete`` Webex's."""
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append((request.url.path, json.loads(request.content)))
        return httpx.Response(204)

    async with answered_by(answer) as client:
        await registrants.batch(client, SERIES, "bulk-delete", ["a", "b"], send_email=True)
    body = {"sendEmail": True, "registrants": [{"id": "a"}, {"id": "b"}]}
    assert requests == [(f"/v1/meetings/{SERIES}/registrants/bulkDelete", body)]


@pytest.mark.parametrize(
    ("text", "count"), [("112", 112), ("0\n", 0), ('"112"', 112)], ids=["a number", "with a line end", "quoted"]
)
async def test_the_number_of_guests_is_read(text: str, count: int) -> None:
    """Webex answers in plain text."""
    async with answered_by(lambda _: httpx.Response(200, text=text)) as client:
        assert await guests.count_guests(client) == count


@pytest.mark.parametrize("text", ["", "many", "-1", "true", "1.5", '{"112": 3}', '"' + "9" * 5000 + '"'])
async def test_what_is_no_number_of_guests_is_said(text: str) -> None:
    """Anything else cannot be read."""
    async with answered_by(lambda _: httpx.Response(200, text=text)) as client:
        with pytest.raises(WebexRejected, match="cannot be read"):
            await guests.count_guests(client)
