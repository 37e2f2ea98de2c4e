"""The ways on which the endpoint can be reached, and a client that sends bytes and reads answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from service.cli.serving import bound, serving, url_of
from service.cli.shutdown import Stop
from service.receiver.app import create_app
from service.receiver.asgi import Asgi
from service.receiver.connections import Connections, GuardLimits
from service.receiver.direct import Direct
from service.receiver.endpoint import Endpoint
from service.telemetry.metrics import Metrics
from tests.receiver.conftest import kept

Protocol = Callable[..., asyncio.Protocol]

#: Way → the protocol; none: uvicorn's own, without a guard.
WAYS: dict[str, Callable[[Endpoint, Connections], Protocol | None]] = {
    "uvicorn": lambda endpoint, connections: None,
    "guard": lambda endpoint, connections: partial(Asgi, connections=connections),
    "direct": lambda endpoint, connections: partial(Direct, connections=connections, endpoint=endpoint),
}


@contextlib.asynccontextmanager
async def listening(endpoint: Endpoint, way: str) -> AsyncIterator[str]:
    """Serve the endpoint on that way; gives the URL of its route."""
    connections = Connections(observe=Metrics(), limits=GuardLimits(endpoint.limits.body_bytes))
    protocol = WAYS[way](endpoint, connections)
    app = create_app(endpoint, guarded=protocol is not None)
    with bound("127.0.0.1", 0, setting="PORT") as listener:
        async with kept(endpoint), serving(app, listener, stop=Stop(), drain=2, protocol=protocol):
            yield f"{url_of(listener)}/webhooks/webex"


def written(request: httpx.Request) -> bytes:
    """The request as it goes over the wire, whether or not it is a good one."""
    line = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)
    return b"".join((line, *(b"%b: %b\r\n" % pair for pair in request.headers.raw), b"\r\n", request.read()))


class Answered(NamedTuple):
    """An answer: every header but the date, sorted."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header's value, where it is there."""
        return dict(self.headers).get(name)


class Client:
    """One connection to a URL, opened at the first request and again where the other side has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, *, bodiless: bool = False) -> Answered:
        """Send this, and read the answer. ``bodiless``: it is one to HEAD."""
        reader, writer = self._streams = self._streams or await asyncio.open_connection(*self._address)
        writer.write(request)
        answer = await _read(reader, bodiless=bodiless)
        if answer.header("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Done with it."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _read(reader: asyncio.StreamReader, *, bodiless: bool) -> Answered:
    head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    pairs = [line.partition(": ") for line in lines]
    headers = sorted((name.lower(), value) for name, _, value in pairs if name.lower() != "date")
    length = 0 if bodiless else int(dict(headers).get("content-length", 0))
    return Answered(int(head.split()[1]), tuple(headers), await reader.readexactly(length))
