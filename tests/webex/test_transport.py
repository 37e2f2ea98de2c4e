from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from service.core.errors import WebexError, WebexRejected, WebexUnavailable
from service.webex.client import Bounds, WebexClient, Wiring
from service.webex.protocol import Request
from service.webex.transport import Timeouts, Transport
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


async def quiet(client: WebexClient) -> None:
    """Wait until nothing is under way any more: what a cancelled caller left behind ends by itself, and soon."""
    async with asyncio.timeout(5):
        while sum(client.budget.state().under_way.values()):  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)


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
        await quiet(client)
        hostile = False
        replies = await asyncio.gather(*(client.call(READ) for _ in range(20)))
    assert [reply.value for reply in replies] == [{"id": "5"}] * 20


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address that takes no more connections and refuses none: its backlog is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_black_hole_ends_by_the_connect_timeout() -> None:
    """Nothing can have been done, however many ask at once, and every slot is free again."""
    with black_hole() as base_url:
        async with over_socket(base_url, wiring=Wiring(timeouts=Timeouts(connect=0.2))) as client:
            begun = time.monotonic()
            outcomes = await asyncio.gather(*(client.call(WRITE) for _ in range(16)), return_exceptions=True)
            assert time.monotonic() - begun < 2.0
            await quiet(client)
    assert {str(outcome) for outcome in outcomes} == {"registrants.approve: no answer from Webex (ConnectTimeout)"}
    assert not any(isinstance(outcome, WebexError) and outcome.maybe_done for outcome in outcomes)


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
    "another type": (b"\x89PNG\r\n\x1a\n", b"content-type: image/png\r\n"),
    "JSON cut short": (b'{"id": "5", "title": "Vis', b"content-type: application/json\r\n"),
    "JSON without end": (b"[" * 500_000, b"content-type: application/json\r\n"),
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
    """Seconds of cancelled, timed-out and dropped calls at four times the slots: then a hundred calls succeed, over
    connections that are all idle in the end.
    """
    chance, churning = random.Random(1), True  # noqa: S311 - the same each time
    pools: list[Transport] = []

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        if churning and chance.random() < 0.1:
            return  # dropped
        await asyncio.sleep(chance.choice([0.0, 0.005, 0.005, 0.9]) if churning else 0.001)
        writer.write(OK)
        await writer.drain()

    def transport(connections: int) -> Transport:
        pools.append(Transport(connections=connections))
        return pools[-1]

    wiring = Wiring(transport=transport, timeouts=Timeouts(read=0.5))
    async with raw_server(serve) as base_url, over_socket(base_url, wiring=wiring) as client:
        ends = time.monotonic() + 3.0
        while time.monotonic() < ends:
            tasks = [asyncio.create_task(client.call((READ, WRITE)[n % 2])) for n in range(32)]
            await asyncio.sleep(chance.uniform(0.0, 0.03))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        churning = False
        replies = await asyncio.gather(*(client.call(READ) for _ in range(100)))
        assert [reply.status for reply in replies] == [200] * 100
        await quiet(client)
        (pool,) = pools
        assert all(connection.is_idle() or connection.is_closed() for connection in pool._pool.connections)
