"""Through the application or past it: the same answers, bytes for bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.receiver.conftest import URL, Bench
from tests.receiver.test_app import ANSWERS, SAMPLES, signed
from tests.receiver.test_endpoint import Remembering
from tests.receiver.ways import Answered, Client, listening, written

#: What the server itself, or the guard in front of it, has an opinion about.
FRAMING = {"two signature headers", "an absurd length", "length -1", "two lengths"}
#: What is a request that never ends, or two of them, where it comes over a socket.
ENDLESS = {"too short a length", "too long a length"}


def table() -> Iterator[tuple[str, httpx.Request]]:
    """Every sample, signed, and a request of each kind."""
    for path in sorted(SAMPLES.glob("*.json")):
        yield path.name, httpx.Request("POST", URL, **signed(path.read_bytes()))
    for row in ANSWERS:
        method, url, request, _ = row.values
        if row.id not in ENDLESS:
            yield str(row.id), httpx.Request(str(method), str(url), **_kwargs(request))


def _kwargs(request: Any) -> dict[str, Any]:
    return dict(request)


async def asked(bench: Bench, way: str) -> dict[str, Answered]:
    """The whole table on this way, each request on a connection that may have served another."""
    answers = {}
    async with listening(bench.endpoint(), way) as url:
        client = Client(url)
        for name, request in table():
            answers[name] = await client.ask(written(request), bodiless=request.method == "HEAD")
        client.close()
    return answers


def counted(bench: Bench) -> list[str]:
    """What the metrics say about requests."""
    lines = bench.metrics.render()[0].decode().splitlines()
    return [line for line in lines if re.match(r"webex_events_(webhook|events_published|secret)\w*_total\{", line)]


def stored(bench: Bench) -> list[tuple[str, str]]:
    """What was made durable."""
    return [(message.topic, message.key) for batch in bench.publisher.batches for message in batch]


async def test_both_ways_through_the_guard_give_equal_answers() -> None:
    """Status, headers, body and counts are the same with and without ASGI in between."""
    application, direct = Bench(), Bench()

    assert await asked(direct, "direct") == await asked(application, "guard")
    assert counted(direct) == counted(application)
    assert len(counted(direct)) > 10
    assert stored(direct) == stored(application)


async def test_the_application_gives_the_same_answers_under_another_server() -> None:
    """Without the guard, only what is about framing is answered otherwise."""
    plain, guarded = await asked(Bench(), "uvicorn"), await asked(Bench(), "guard")

    assert {name for name in plain if plain[name] != guarded[name]} <= FRAMING
    assert {name for name in plain if name not in FRAMING and plain[name].status == 204} >= {"meetings.started.json"}


@pytest.mark.parametrize("way", ["uvicorn", "guard", "direct"])
async def test_each_kind_of_request_has_its_answer_on_every_way(way: str) -> None:
    """The statuses are those of the table."""
    expected = {str(row.id): row.values[3] for row in ANSWERS if row.id not in FRAMING | ENDLESS}
    answers = await asked(Bench(), way)

    assert {name: answers[name].status for name in expected} == expected


@pytest.mark.parametrize("way", ["guard", "direct"])
async def test_headers_that_repeat_keep_their_order(way: str) -> None:
    """Whoever looks into a refusal sees them as they came, those with names of their own in between."""
    remembering = Remembering()
    pairs = [
        (b"host", b"x"),
        *((name, b"%d" % place) for place, name in enumerate((b"a", b"b", b"A", b"a", b"c", b"B"))),
    ]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in (*pairs, (b"content-length", b"1")))
    async with listening(Bench(rejections=remembering).endpoint(), way) as url:
        client = Client(url)
        answer = await client.ask(b"POST /webhooks/webex HTTP/1.1\r\n%b\r\nx" % lines)
        client.close()

    assert answer.status == 401
    assert [list(each["headers"]) for each in remembering.kept] == [
        [*((name.lower(), value) for name, value in pairs), (b"content-length", b"1")]
    ]
