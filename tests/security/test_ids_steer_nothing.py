"""From a notification to the bytes of a call to Webex: no id steers where it goes (X3).

How each operation encodes its ids is tested in tests/webex; here it is what leaves the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from datetime import UTC, datetime

import msgspec
import pytest

from service.core.errors import WebexError, WebexRejected
from service.core.notification import accept
from service.core.work import Hint
from service.webex.api import WebexApi
from service.webex.protocol import Request, path
from tests.webex.wire import over_socket, raw_server, response

NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
SERIES = "870f51ff287b41be8648412901e0402f"

STEERING = [
    *(
        "../people/me",
        "a?x=",
        "a#",
        "%2e%2e",
        "@evil.example",
        "//evil.example",
        "..\\people",
        "a;b",
        "a b",
        "a%2fb",
        "..",
    ),
    *(
        "a\r\nX-Evil: 1",
        "a\r\n\r\nGET /v1/people/me HTTP/1.1\r\nHost: evil.example",
        "a\x00b",
        "x" * 10_240,
        "é",
        "\u2028",
    ),
]

_IDS = [ascii(value)[:24] for value in STEERING]


@pytest.mark.parametrize("field", ["id", "meetingId", "meetingSeriesId"])
@pytest.mark.parametrize("value", [*STEERING, *(SERIES + "_" + each for each in STEERING)])
def test_a_hint_names_a_series_or_none(value: str, field: str) -> None:
    """What the processor will look at is 32 hex digits, whatever stands where Webex writes ids."""
    body = {"resource": "meetings", "event": "started", "data": {"id": "1", "hostEmail": value, field: value}}
    accepted = accept(json.dumps(body).encode(), received=NOW, receiver="r")
    for message in accepted.messages[1:]:
        hint = msgspec.json.decode(message.value or b"", type=Hint)
        assert re.fullmatch("[0-9a-f]{32}|", hint.series)


async def heads_of(value: str) -> list[bytes]:
    """The requests that leave the process when these are called with this id, as the bytes that they are."""
    heads: list[bytes] = []

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(response(b"{}", status=b"302 Found", headers=b"location: /v1/people/me\r\n"))
        await writer.drain()

    async with raw_server(serve) as url, over_socket(url) as client:
        api = WebexApi(client)
        for call in (
            lambda: api.get_meeting(value, host_email=value),
            lambda: api.get_meeting(SERIES, host_email=value),
            lambda: api.get_registrant(SERIES, value, host_email=value),
            lambda: api.query_registrants(SERIES, [value], host_email=value),
            lambda: client.call(
                Request(operation="x", method="GET", path=path("meetings", value), query={value[:40]: value})
            ),
        ):
            with contextlib.suppress(WebexError):
                await call()
        host = url.removeprefix("http://").encode()
    assert all(_field(head, b"host") == [host] for head in heads)
    return heads


def _field(head: bytes, name: bytes) -> list[bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [value.strip() for given, _, value in pairs if given.lower() == name]


@pytest.mark.parametrize("value", STEERING, ids=_IDS)
async def test_a_call_goes_where_it_should(value: str) -> None:
    """One request line each, to our host, with the id as one segment; no header comes out of it, no redirect is followed."""
    heads = await heads_of(value)
    targets = [head.split(b" ", 2)[1].partition(b"?")[0] for head in heads]
    taken = [target.decode() for target in targets if SERIES.encode() not in target]
    assert f"/v1/meetings/{SERIES}" in [target.decode() for target in targets]
    assert all(re.fullmatch(r"/v1/meetings/[A-Za-z0-9%._~-]+", target) for target in taken)
    assert all(target.count(b"/") in (3, 5) for target in targets)
    assert not any(_field(head, b"x-evil") or b"\r\n\r\n" in head[:-4] for head in heads)


async def test_an_id_that_cannot_be_one_is_never_sent() -> None:
    """Neither dots nor ten thousand characters."""
    for value in ("..", ".", "", "x" * 10_240):
        with pytest.raises(WebexRejected):
            path("meetings", value)
