"""Clients for tests: over a plain function that answers, or over a raw socket whose every byte the test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import httpx

from service.core.rate import Limits
from service.webex.client import Bounds, Clock, WebexClient, Wiring
from service.webex.rate import Budget
from service.webex.tokens import StaticToken, TokenSource

BASE = "https://webex.example/v1"
TOKEN = "bearer-canary-token"

Handler = Callable[[httpx.Request], httpx.Response] | Callable[[httpx.Request], Awaitable[httpx.Response]]


class FakeClock:
    """Time that passes only by sleeping; ``slept`` is how long."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        """The clock for a client; its chance is always one half."""
        return Clock(monotonic=lambda: self.time, sleep=self.sleep, chance=lambda: 0.5)


def answered_by(
    handler: Handler,
    *,
    token: TokenSource | None = None,
    clock: Clock | None = None,
    bounds: Bounds | None = None,
    traceparent: str | None = None,
) -> WebexClient:
    """A client whose every request ``handler`` answers."""

    async def answer(request: httpx.Request) -> httpx.Response:
        response = handler(request)
        return response if isinstance(response, httpx.Response) else await response

    wiring = Wiring(transport=lambda _: httpx.MockTransport(answer), traceparent=lambda: traceparent)
    return WebexClient(
        BASE, token or StaticToken(TOKEN), bounds=bounds or Bounds(), clock=clock or FakeClock().clock(), wiring=wiring
    )


def over_socket(base_url: str, *, bounds: Bounds | None = None, wiring: Wiring | None = None) -> WebexClient:
    """A client over a real connection; it repeats nothing, and no failure opens its circuit."""
    chosen = replace(bounds or Bounds(), retries=0)
    budget = Budget(limits=Limits(start=1e6, ceiling=1e6, burst=1000, failures=10**9))
    return WebexClient(base_url + "/v1", StaticToken(TOKEN), bounds=chosen, wiring=wiring or Wiring(), budget=budget)


Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """Calls ``serve`` with the head of each request and a writer, then ends the connection; gives the base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(await reader.readuntil(b"\r\n\r\n"), writer)
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def response(body: bytes, *, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    """An HTTP/1.1 response with a length."""
    return (
        b"HTTP/1.1 " + status + b"\r\ncontent-length: " + str(len(body)).encode() + b"\r\n" + headers + b"\r\n" + body
    )
