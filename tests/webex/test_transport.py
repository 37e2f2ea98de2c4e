from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib

import pytest

from service.core.errors import WebexRejected, WebexUnavailable
from service.webex.client import Bounds, Wiring
from service.webex.protocol import Request
from service.webex.transport import Timeouts
from tests.webex.wire import Serve, over_socket, raw_server, response

READ = Request(operation="meetings.get", method="GET", path="/meetings/5", reads=True)
WRITE = Request(operation="registrants.approve", method="POST", path="/meetings/5/approve", json={}, answers=False)
OK = response(b'{"id": "5"}')
SHORT = Bounds(deadline=0.6, write_deadline=0.6, write_start=0.4)


async def _never(head: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _dripped_body(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    await _drip(writer)


async def _dripped_headers(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    await _drip(writer)


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"1")
        await writer.drain()
        await asyncio.sleep(0.03)


async def _endless_headers(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: 1\r\n" * 1000)
        await writer.drain()


async def _endless_interim_answers(head: bytes, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _dropped(head: bytes, writer: asyncio.StreamWriter) -> None:
    """The effect has happened; the answer is lost."""


async def _cut_short(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")


async def _no_http(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-x\r\n\r\n")


HOSTILE = [
    _never, _dripped_body, _dripped_headers, _endless_headers, _endless_interim_answers, _dropped, _cut_short, _no_http
]  # fmt: skip


@pytest.mark.parametrize("serve", HOSTILE, ids=[serve.__name__.strip("_") for serve in HOSTILE])
async def test_every_call_ends_within_its_deadline(serve: Serve) -> None:
    """However slowly or wrongly the peer answers, reads and writes end in time, as possibly done; every slot is free again."""
    hostile = True

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        if hostile:
            await serve(head, writer)
        else:
            writer.write(OK)
            await writer.drain()

    async with raw_server(answer) as base_url, over_socket(base_url, bounds=SHORT) as client:
        begun = time.monotonic()
        calls = [client.call(request) for request in (READ, WRITE) * 4]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - begun < 1.5
        assert all(isinstance(outcome, WebexUnavailable) and outcome.maybe_done for outcome in outcomes)
        hostile = False
        replies = await asyncio.gather(*(client.call(READ) for _ in range(20)))
    assert [reply.value for reply in replies] == [{"id": "5"}] * 20


async def test_silence_ends_by_the_read_timeout_before_the_deadline() -> None:
    """A single wait for bytes has its own bound."""
    wiring = Wiring(timeouts=Timeouts(read=0.1))
    async with raw_server(_never) as base_url, over_socket(base_url, wiring=wiring) as client:
        begun = time.monotonic()
        with pytest.raises(WebexUnavailable, match="ReadTimeout"):
            await client.call(READ)
    assert time.monotonic() - begun < 1.0


async def test_nothing_was_done_where_nobody_listens() -> None:
    """A refused connection is known not to have had an effect."""
    async with raw_server(_never) as base_url:
        pass
    async with over_socket(base_url) as client:
        with pytest.raises(WebexUnavailable, match="ConnectError") as caught:
            await client.call(WRITE)
    assert not caught.value.maybe_done


def _bomb() -> bytes:
    deflater = zlib.compressobj(9, wbits=31)
    return b"".join([deflater.compress(bytes(1 << 20)) for _ in range(64)]) + deflater.flush()


BODIES = {
    "longer than the cap": (bytes(5 << 20), b""),
    "a bomb": (_bomb(), b"content-encoding: gzip\r\n"),
    "broken gzip": (b"\x1f\x8b\x08\x00garbage-garbage", b"content-encoding: gzip\r\n"),
    "gzip cut short": (gzip.compress(b'{"id": "5"}')[:-9], b"content-encoding: gzip\r\n"),
    "an encoding that we did not ask for": (b"x", b"content-encoding: br\r\n"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"{}")), b"content-encoding: gzip, gzip\r\n"),
    "HTML": (b"<html>", b"content-type: text/html\r\n"),
}


@pytest.mark.parametrize(("body", "headers"), BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize(
    ("status", "kind"), [(b"200 OK", WebexRejected), (b"503 Busy", WebexUnavailable)], ids=["200", "503"]
)
async def test_a_body_is_read_within_bounds(status: bytes, kind: type, body: bytes, headers: bytes) -> None:
    """Bodies that are too long, bombs and junk end in the error of their status; memory stays small; the next call works."""
    answers = [response(body, status=status, headers=headers), OK]

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))
        await writer.drain()

    async with raw_server(serve) as base_url, over_socket(base_url) as client:
        tracemalloc.start()
        try:
            with pytest.raises(kind):
                await client.call(READ)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 6 << 20
        assert (await client.call(READ)).value == {"id": "5"}


@pytest.mark.parametrize("encoding", [b"gzip", b"x-gzip", b"deflate", b"identity", b""])
async def test_a_compressed_answer_is_understood(encoding: bytes) -> None:
    """Webex may compress as asked."""
    plain = b'{"items": [' + b'"x",' * 10_000 + b'"y"]}'
    compressed = {b"gzip": gzip.compress(plain), b"x-gzip": gzip.compress(plain), b"deflate": zlib.compress(plain)}
    body = compressed.get(encoding, plain)

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        assert b"Accept-Encoding: gzip\r\n" in head
        writer.write(response(body, headers=b"content-encoding: " + encoding + b"\r\n"))
        await writer.drain()

    async with raw_server(serve) as base_url, over_socket(base_url) as client:
        assert len((await client.call(READ)).value["items"]) == 10_001


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary", b"308 Permanent"])
async def test_a_redirect_is_not_followed(status: bytes) -> None:
    """The token goes nowhere else: the target hears nothing."""
    heard: list[bytes] = []

    async def target(head: bytes, writer: asyncio.StreamWriter) -> None:
        heard.append(head)

    async with raw_server(target) as elsewhere:

        async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(response(b"", status=status, headers=b"location: " + elsewhere.encode() + b"/\r\n"))
            await writer.drain()

        async with raw_server(serve) as base_url, over_socket(base_url) as client:
            with pytest.raises(WebexRejected):
                await client.call(READ)
    assert heard == []


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment would see the token; they are not asked."""
    heard: list[bytes] = []

    async def proxy(head: bytes, writer: asyncio.StreamWriter) -> None:
        heard.append(head)

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()

    async with raw_server(proxy) as elsewhere, raw_server(serve) as base_url:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere)
        async with over_socket(base_url) as client:
            assert (await client.call(READ)).status == 200
    assert heard == []


async def test_cancelled_callers_leave_the_pool_alive() -> None:
    """After a churn of cancelled calls at four times the slots, a hundred calls succeed."""

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.005)
        writer.write(OK)
        await writer.drain()

    async with raw_server(serve) as base_url, over_socket(base_url) as client:
        for n in range(20):
            tasks = [asyncio.create_task(client.call(READ)) for _ in range(32)]
            await asyncio.sleep(0.001 * n)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        replies = await asyncio.gather(*(client.call(READ) for _ in range(100)))
    assert [reply.status for reply in replies] == [200] * 100
