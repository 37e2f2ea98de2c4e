"""The load generator, a process of its own: ``python -m tests.benchmarks.load``, with its :class:`Order` as JSON on stdin.

``closed``: each connection sends its next request when it has its answer, as fast as that goes. ``open``: requests are due at
fixed times, whatever becomes of those before, and an answer's time counts from when its request was *due*: a server that
stands still for a second is seen to, and not just by the one request that it held (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import msgspec
import uvloop

from tests.benchmarks.deliveries import GREETING, deliveries
from tests.benchmarks.figures import percentile
from tests.benchmarks.machine import cpu_seconds, pin


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send where. ``kind`` is that of the deliveries, or ``greeting``; ``rate`` 0 is a closed loop."""

    port: int
    pid: int
    core: int = 0
    kind: str
    keys: int = 1
    connections: int = 64
    warm: float = 0.5
    seconds: float = 3.0
    rate: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Milliseconds; ``late`` is by how much the generator itself missed its times, at p99."""

    events: int
    seconds: float
    server_cpu: float
    own_cpu: float
    p50: float
    p99: float
    p999: float
    longest: float
    late: float = 0.0


class Refused(Exception):
    """An answer that is no 2xx: what was measured is not what was meant."""


def run(order: Order) -> Report:
    """Do it. Raises Refused, OSError."""
    requests = [GREETING] if order.kind == "greeting" else deliveries(order.kind, order.keys)
    if order.rate:
        return _open(order, itertools.cycle(requests))
    return uvloop.run(_closed(order, itertools.cycle(requests)))


# --- closed loop ------------------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """One connection. It is as short as it is because it shares its core with the broker."""

    def __init__(self, requests: Iterator[bytes], ended: asyncio.Future[None]) -> None:
        self._requests, self._ended = requests, ended
        self._write: Callable[[bytes], None] = _nowhere
        self.abort: Callable[[], None] = lambda: None
        self._sent = 0.0
        self._received = b""
        self.seconds: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self._write, self.abort = opened.write, opened.abort
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        if not (data.startswith(b"HTTP/1.1 204") and data.endswith(b"\r\n\r\n")):
            data = self._received = self._received + data
            if not answered(data):
                return
            self._received = b""
        self.seconds.append(time.perf_counter() - self._sent)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(exc or Refused("the server closed a connection"))


def _nowhere(_: bytes) -> None:
    raise Refused("there is no connection")


def answered(data: bytes) -> bool:
    """Whether this is a whole answer; one with a body says its length. Raises Refused where it is no 2xx."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 2"):
        raise Refused(data[:500].decode(errors="replace"))
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return len(body) >= length


async def _closed(order: Order, requests: Iterator[bytes]) -> Report:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(lambda _, context: _fail(ended, context.get("exception")))
    clients = [_Client(requests, ended) for _ in range(order.connections)]
    try:
        for client in clients:
            await loop.create_connection(partial(_same, client), "127.0.0.1", order.port)
        return await _measured(order, clients, ended)
    finally:
        ended.cancel()
        for client in clients:
            client.abort()
        await asyncio.sleep(0)  # a loop that is closed with open connections may never end


def _same(client: _Client) -> _Client:
    return client


async def _measured(order: Order, clients: Sequence[_Client], ended: asyncio.Future[None]) -> Report:
    await _sleep(order.warm, ended)
    for client in clients:
        client.seconds.clear()
    began, server, own = time.perf_counter(), cpu_seconds(order.pid), time.process_time()
    await _sleep(order.seconds, ended)
    seconds, server, own = time.perf_counter() - began, cpu_seconds(order.pid) - server, time.process_time() - own
    taken = sorted(itertools.chain.from_iterable(client.seconds for client in clients))
    return _report(taken, seconds=seconds, server_cpu=server, own_cpu=own)


def _fail(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if not ended.done():
        ended.set_exception(error or Refused("the generator failed"))


async def _sleep(seconds: float, ended: asyncio.Future[None]) -> None:
    """Raises what ended the run before its time."""
    done, _ = await asyncio.wait({ended}, timeout=seconds)
    if done:
        ended.result()


# --- open loop --------------------------------------------------------------------------------------------------------


def _open(order: Order, requests: Iterator[bytes]) -> Report:
    """Without an event loop: their timers know whole milliseconds only, select(2) knows microseconds."""
    sockets = [socket.create_connection(("127.0.0.1", order.port)) for _ in range(order.connections)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        _Timetable(order, deque(sockets), requests).run(order.warm)
        timetable = _Timetable(order, deque(sockets), requests)
        began, server, own = time.perf_counter(), cpu_seconds(order.pid), time.process_time()
        timetable.run(order.seconds)
        seconds, server, own = time.perf_counter() - began, cpu_seconds(order.pid) - server, time.process_time() - own
    finally:
        for each in sockets:
            each.close()
    late = percentile(sorted(timetable.late), 99) * 1000
    return _report(sorted(timetable.taken), seconds=seconds, server_cpu=server, own_cpu=own, late=late)


class _Timetable:
    """Requests at their times, each on a connection that is free; one that finds none waits, and its wait counts."""

    def __init__(self, order: Order, free: deque[socket.socket], requests: Iterator[bytes]) -> None:
        self._rate, self._free, self._requests = order.rate, free, requests
        self._under_way: dict[socket.socket, float] = {}
        self._waiting: deque[float] = deque()
        self._received: dict[socket.socket, bytes] = {}
        self.taken: list[float] = []
        self.late: list[float] = []

    def run(self, seconds: float) -> None:
        """All that are due within so many seconds, and their answers. Raises Refused, TimeoutError."""
        began = time.perf_counter()
        for due in (began + number / self._rate for number in range(round(seconds * self._rate))):
            while (wait := due - time.perf_counter()) > 0:
                self._read(wait)
            self.late.append(-wait)
            self._waiting.append(due)
            self._send()
        while self._under_way:
            self._read(30.0)

    def _send(self) -> None:
        while self._waiting and self._free:
            connection = self._free.popleft()
            self._under_way[connection] = self._waiting.popleft()
            connection.sendall(next(self._requests))

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select(self._under_way, (), (), seconds)
        if not ready and seconds >= 30:
            raise TimeoutError("no answer within 30 s")
        for connection in ready:
            if not (data := connection.recv(65536)):
                raise Refused("the server closed a connection")
            data = self._received[connection] = self._received.get(connection, b"") + data
            if answered(data):
                del self._received[connection]
                self.taken.append(time.perf_counter() - self._under_way.pop(connection))
                self._free.append(connection)
        self._send()


def _report(taken: list[float], *, seconds: float, server_cpu: float, own_cpu: float, late: float = 0.0) -> Report:
    p50, p99, p999 = (percentile(taken, percent) * 1000 for percent in (50, 99, 99.9))
    return Report(
        events=len(taken),
        seconds=seconds,
        server_cpu=server_cpu,
        own_cpu=own_cpu,
        p50=p50,
        p99=p99,
        p999=p999,
        longest=taken[-1] * 1000,
        late=late,
    )


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    pin(given.core)
    try:
        report = run(given)
    except (Refused, OSError) as error:
        sys.exit(f"the load could not be put on: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(report))
