"""TCP proxies that stand before brokers (or anything else) and break what goes through them.

They run in a thread with a loop of their own, so that they neither slow down nor are slowed down by whoever tests. What a
proxy does is one value, :class:`Behaviour`, which may change while connections are open:

    with Proxies() as proxies:
        proxy = proxies.open(("127.0.0.11", 20000), target=("127.0.0.11", 21000))
        proxy.behave(Behaviour(bandwidth=1000))
        proxy.behave(Behaviour(half_open=True))
        proxy.behave(Behaviour(swallow=Swallow(api_key=PRODUCE, times=100, every=3)))
        proxy.behave()  # all is well again

Kafka's frames (length, then the request's API key and correlation id, or the response's correlation id) are looked at only
for swallowing: https://kafka.apache.org/protocol#protocol_messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

PRODUCE = 0

Address = tuple[str, int]

_CHUNK = 65_536
_T = TypeVar("_T")


@dataclass(frozen=True)
class Swallow:
    """Responses to requests of kind ``api_key`` that never arrive: every ``every``-th, so many ``times`` in all.

    The request does its work. ``cut``: the connection is reset then, else the client waits for its own timeout.
    """

    api_key: int
    times: int
    every: int = 1
    cut: bool = True


@dataclass(frozen=True)
class Behaviour:
    """What a proxy does to its connections; the default is nothing.

    ``latency`` is in seconds, for each direction; ``bandwidth`` in bytes per second, for each connection and direction.
    ``half_open``: connections are accepted and stay open, and nothing goes through. ``reset_after``: so many bytes from the
    server, then RST. ``loss``: the share of chunks that are held up for as long as TCP takes to send a lost packet again.
    """

    latency: float = 0.0
    bandwidth: float | None = None
    half_open: bool = False
    reset_after: int | None = None
    loss: float = 0.0
    swallow: Swallow | None = None


@dataclass
class Proxy:
    """One listener and what goes through it. Its methods may be called from any thread."""

    listen: Address
    target: Address
    loop: asyncio.AbstractEventLoop
    kafka: bool = True
    behaviour: Behaviour = Behaviour()
    swallowed: int = 0
    responses: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[_Connection] = field(default_factory=set)

    def behave(self, behaviour: Behaviour = Behaviour()) -> None:
        """From now on, for open connections too."""
        _run(self.loop, self._behave(behaviour))

    def cut(self) -> None:
        """Reset every connection that is open."""
        _run(self.loop, self._cut())

    async def _behave(self, behaviour: Behaviour) -> None:
        self.behaviour, self.swallowed, self.responses = behaviour, 0, 0
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def flowing(self) -> None:
        """Return when something may go through."""
        while self.behaviour.half_open:
            await self._changed.wait()

    def swallows(self, api_key: int) -> bool:
        """Whether the response that begins now gets lost."""
        wish = self.behaviour.swallow
        if wish is None or wish.api_key != api_key or self.swallowed >= wish.times:
            return False
        self.responses += 1
        if self.responses % wish.every:
            return False
        self.swallowed += 1
        return True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        connection = _Connection(self, writer)
        self._connections.add(connection)
        try:
            await connection.run(reader)
        finally:
            self._connections.discard(connection)


class _Reset(Exception):
    """The connection ends with RST."""


class _Connection:
    """A client and the server that it talks to."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = [client]
        self._kinds: dict[int, int] = {}  # correlation id → API key of what is not answered yet
        self._requests = _Frames(12, self._request_began)
        self._responses = _Frames(8, self._response_began)
        self._from_server = 0
        self._kafka = proxy.kafka

    async def run(self, from_client: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            await self._proxy.flowing()
            from_server, server = await asyncio.open_connection(*self._proxy.target)
            self._writers.append(server)
            client = self._writers[0]
            pumps = (
                asyncio.create_task(self._pump(from_client, server, self._asked)),
                asyncio.create_task(self._pump(from_server, client, self._answered)),
            )
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            if any(not pump.cancelled() and isinstance(pump.exception(), _Reset) for pump in done):
                self.reset()
        await self._close()

    def reset(self) -> None:
        """RST to both."""
        for writer in self._writers:
            with contextlib.suppress(OSError, ValueError):
                here = writer.get_extra_info("socket")
                here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _close(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: Callable[[bytes], bytes]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self._share()):
                await self._proxy.flowing()
                behaviour = self._proxy.behaviour
                if behaviour.latency:
                    await asyncio.sleep(behaviour.latency)
                if behaviour.loss and random.random() < behaviour.loss:  # noqa: S311 - not a secret
                    await asyncio.sleep(random.choice((0.2, 0.2, 0.6)))  # noqa: S311 - TCP's first timeouts, doubled
                if behaviour.bandwidth:
                    await asyncio.sleep(len(data) / behaviour.bandwidth)
                writer.write(passed(data))
                await writer.drain()

    def _share(self) -> int:
        """Little at a time where it takes long."""
        bandwidth = self._proxy.behaviour.bandwidth
        return max(64, int(bandwidth / 10)) if bandwidth else _CHUNK

    def _asked(self, data: bytes) -> bytes:
        return self._requests.passed(data) if self._kafka else data

    def _answered(self, data: bytes) -> bytes:
        limit = self._proxy.behaviour.reset_after
        self._from_server += len(data)
        if limit is not None and self._from_server > limit:
            raise _Reset
        return self._responses.passed(data) if self._kafka else data

    def _request_began(self, header: bytes) -> bool:
        _, api_key, _, correlation = struct.unpack(">ihhi", header)
        self._kinds[correlation] = api_key
        return True

    def _response_began(self, header: bytes) -> bool:
        """Whether this response goes through."""
        _, correlation = struct.unpack(">ii", header)
        swallowed = self._proxy.swallows(self._kinds.pop(correlation, -1))
        wish = self._proxy.behaviour.swallow
        if swallowed and wish is not None and wish.cut:
            raise _Reset
        return not swallowed


class _Frames:
    """Follows the frames in a stream of bytes; ``began`` is asked for each, by its first bytes, whether it may pass."""

    def __init__(self, header: int, began: Callable[[bytes], bool]) -> None:
        self._header = header
        self._began = began
        self._begun = b""
        self._left = 0
        self._passes = True

    def passed(self, data: bytes) -> bytes:
        """What of ``data`` goes on; the first bytes of a frame wait until it is known what it is."""
        out: list[bytes] = []
        while data:
            if not self._left:
                data = self._begin(data, out)
                continue
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if self._passes:
                out.append(part)
        return b"".join(out)

    def _begin(self, data: bytes, out: list[bytes]) -> bytes:
        missing = self._header - len(self._begun)
        self._begun += data[:missing]
        if len(self._begun) == self._header:
            self._left = 4 + int.from_bytes(self._begun[:4], "big") - self._header
            self._passes = self._began(self._begun)
            if self._passes:
                out.append(self._begun)
            self._begun = b""
        return data[missing:]


class Proxies:
    """The thread in which proxies run; ends them with the block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Proxies:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _run(self._loop, self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def open(self, listen: Address, *, target: Address, kafka: bool = True) -> Proxy:
        """A proxy that listens from now on; port 0 takes any free one. Not ``kafka``: nothing can be swallowed.

        Raises OSError.
        """
        return _run(self._loop, self._open(listen, target, kafka))

    async def _open(self, listen: Address, target: Address, kafka: bool) -> Proxy:
        proxy = Proxy(listen, target, self._loop, kafka)
        server = await asyncio.start_server(proxy.serve, *listen)
        proxy.listen = server.sockets[0].getsockname()
        self._servers.append(server)
        self._proxies.append(proxy)
        return proxy

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for proxy in self._proxies:
            await proxy._behave(Behaviour())
            await proxy._cut()
        running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.wait(running, timeout=2) if running else None
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    future: Future[_T] = asyncio.run_coroutine_threadsafe(work, loop)
    return future.result(10)
