"""One HTTP exchange with an absolute deadline and a cap on what is read. The only module that knows httpx's lower
half.

httpx's own timeouts bound each single read: a peer that sends one byte every nine seconds holds a call for ever. And
cancelling a call from outside leaks slots of httpcore 1.0's pool (encode/httpcore#1093) until it is dead. So the
deadline lives below the pool: each operation on the socket gets the smaller of its own timeout and what is left for
the exchange, and fails as httpcore's own timeouts do.

The transport is used without ``httpx.AsyncClient`` around it: that one logs every URL (with the host's address in the
query), keeps cookies, and reads the environment. Redirects are not followed, because nothing here follows them.
"""

from __future__ import annotations

import ssl
import time
import zlib
from collections.abc import AsyncIterable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from service.core.errors import WebexUnavailable
from service.webex.protocol import Answer

#: Errors of httpx after which nothing can have reached Webex. After any other the call may have had its effect.
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)

_DEADLINE: ContextVar[float | None] = ContextVar("webex_exchange_deadline", default=None)


@dataclass(frozen=True)
class Timeouts:
    """Seconds for each step of one exchange."""

    connect: float = 3.0
    read: float = 10.0
    write: float = 10.0
    pool: float = 5.0


class Transport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool whose sockets obey the deadline of :func:`exchange`."""

    def __init__(self, *, connections: int) -> None:
        context = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False)
        # httpx gives no way to hand in a network backend; httpcore's pool does (httpx 0.28 keeps it here).
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=5.0,
            network_backend=_Backend(),
        )


async def exchange(
    transport: httpx.AsyncBaseTransport, request: httpx.Request, *, seconds: float, timeouts: Timeouts, cap: int
) -> Answer:
    """Send ``request`` and read its answer, all within ``seconds``; at most ``cap`` decoded bytes are kept.

    Must run in a task of its own, which nobody cancels. Raises what httpx raises (see :func:`unreachable`).
    """
    _DEADLINE.set(time.monotonic() + seconds)
    request.extensions["timeout"] = httpx.Timeout(
        connect=timeouts.connect, read=timeouts.read, write=timeouts.write, pool=min(timeouts.pool, seconds)
    ).as_dict()
    response = await transport.handle_async_request(request)
    try:
        body = await _read(response, cap)
    finally:
        await response.aclose()
    return Answer(status=response.status_code, headers=dict(response.headers), body=body)


def unreachable(error: httpx.RequestError | OSError, *, operation: str) -> WebexUnavailable:
    """What a failure of the transport means. Only the name of its class is told: httpx may quote headers in its
    messages.
    """
    return WebexUnavailable(
        f"{operation}: no answer from Webex ({type(error).__name__})", maybe_done=not isinstance(error, NEVER_SENT)
    )


async def _read(response: httpx.Response, cap: int) -> bytes | None:
    """The decoded body, or None where it is longer than ``cap``, cut short, or of a content coding that was not asked
    for.
    """
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        return None
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return await _read_plain(stream, cap)
    if coding in ("gzip", "x-gzip", "deflate"):
        return await _read_compressed(stream, cap)
    return None


async def _read_plain(stream: AsyncIterable[bytes], cap: int) -> bytes | None:
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > cap:
            return None
    return bytes(body)


async def _read_compressed(stream: AsyncIterable[bytes], cap: int) -> bytes | None:
    """Inflate with a bound: httpx's own decoder would turn one chunk of 64 KiB into 64 MiB before anyone could count."""
    inflater, body = zlib.decompressobj(wbits=47), bytearray()  # 47: gzip or zlib, whichever it is
    async for chunk in stream:
        try:
            body += inflater.decompress(chunk, cap + 1 - len(body))
        except zlib.error:
            return None
        if len(body) > cap:
            return None
    return bytes(body) if inflater.eof else None


def _left(timeout: float | None, expired: type[Exception]) -> float | None:
    deadline = _DEADLINE.get()
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise expired("the deadline of the exchange has passed")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            left = _left(timeout, httpcore.ConnectTimeout)
        except httpcore.ConnectTimeout:
            await self.aclose()  # httpcore leaves that to whoever fails here
            raise
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(await self._inner.connect_tcp(host, port, left, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
