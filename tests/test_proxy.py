"""The proxies of fault tests do what they say: else a fault test would test nothing.

They stand here, and not beside the proxy, so that a plain run of all tests has them.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.faults.proxy import PRODUCE, Behaviour, Proxies, Proxy, Swallow

FETCH = 1


class Broker:
    """Answers every frame with one that has the same correlation id, and the number of requests so far."""

    def __init__(self) -> None:
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size, _, _, correlation = struct.unpack(">ihhi", await reader.readexactly(12))
                await reader.readexactly(size - 8)
                self.requests += 1
                writer.write(struct.pack(">ii4s", 8, correlation, b"%4d" % self.requests))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


class Client:
    """Sends requests through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._correlation = 0

    def send(self, api_key: int, payload: bytes = b"x" * 20) -> None:
        self._correlation += 1
        self._writer.write(struct.pack(">ihhi", 8 + len(payload), api_key, 0, self._correlation) + payload)

    async def answer(self) -> int:
        """The correlation id of the next answer."""
        _, correlation, _ = struct.unpack(">ii4s", await self._reader.readexactly(12))
        return int(correlation)

    async def ask(self, api_key: int, payload: bytes = b"x" * 20) -> int:
        self.send(api_key, payload)
        return await self.answer()

    async def close(self) -> None:
        self._writer.close()


@pytest.fixture
async def broker() -> AsyncIterator[tuple[Broker, tuple[str, int]]]:
    """A server and its address."""
    answering = Broker()
    server = await asyncio.start_server(answering.serve, "127.0.0.1", 0)
    yield answering, server.sockets[0].getsockname()
    server.close()
    await asyncio.sleep(0.05)  # its connections end


@pytest.fixture
def proxies(broker: tuple[Broker, tuple[str, int]]) -> Iterator[Proxies]:
    """The thread of the proxies; it ends before the server does."""
    with Proxies() as running:
        yield running


@pytest.fixture
def proxy(proxies: Proxies, broker: tuple[Broker, tuple[str, int]]) -> Proxy:
    """Before the server."""
    return proxies.open(("127.0.0.1", 0), target=broker[1])


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    """Connected through the proxy."""
    connected = await connect(proxy)
    yield connected
    await connected.close()


async def connect(proxy: Proxy) -> Client:
    return Client(*await asyncio.open_connection(*proxy.listen))


async def test_everything_goes_through(client: Client) -> None:
    """Whole, in order, and large frames too."""
    for n in range(3):
        client.send(PRODUCE, b"y" * 200_000)
        client.send(FETCH, b"")
        assert [await client.answer(), await client.answer()] == [2 * n + 1, 2 * n + 2]


async def test_latency(proxy: Proxy, client: Client) -> None:
    """Both directions take that long, on a connection that was open before; and no more once it is over."""
    await client.ask(FETCH)
    proxy.behave(Behaviour(latency=0.2))
    began = time.monotonic()
    await client.ask(FETCH)

    assert time.monotonic() - began >= 0.4
    proxy.behave()
    async with asyncio.timeout(0.3):
        await client.ask(FETCH)


async def test_bandwidth(proxy: Proxy, client: Client) -> None:
    """So many bytes a second."""
    proxy.behave(Behaviour(bandwidth=1000))
    began = time.monotonic()
    await client.ask(FETCH, b"z" * 500)

    assert time.monotonic() - began >= 0.5


async def test_half_open(proxy: Proxy, client: Client, broker: tuple[Broker, tuple[str, int]]) -> None:
    """Connections are accepted, and nothing arrives until it is over: then all that was sent does."""
    proxy.behave(Behaviour(half_open=True))
    fresh = await connect(proxy)
    for each in (client, fresh):
        each.send(FETCH)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.answer()
    seen_meanwhile = broker[0].requests
    proxy.behave()

    assert [await client.answer(), await fresh.answer()] == [1, 1]
    assert seen_meanwhile == 0
    await fresh.close()


async def test_swallowed_responses(proxy: Proxy, client: Client, broker: tuple[Broker, tuple[str, int]]) -> None:
    """Every second answer to PRODUCE gets lost, twice in all, though the request did its work; others are not touched."""
    proxy.behave(Behaviour(swallow=Swallow(PRODUCE, times=2, every=2, cut=False)))
    for kind in (PRODUCE, FETCH, PRODUCE, PRODUCE, PRODUCE, PRODUCE, PRODUCE):
        client.send(kind)
    answers = [await client.answer() for _ in range(5)]

    assert answers == [1, 2, 4, 6, 7]
    assert (proxy.swallowed, broker[0].requests) == (2, 7)


async def test_the_connection_is_cut_after_a_swallowed_response(proxy: Proxy, client: Client) -> None:
    """The client sees a reset instead of the answer; a new connection works."""
    proxy.behave(Behaviour(swallow=Swallow(PRODUCE, times=1)))
    client.send(PRODUCE)

    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.answer()
    fresh = await connect(proxy)
    assert await fresh.ask(PRODUCE) == 1
    await fresh.close()


async def test_reset_after_so_many_bytes(proxy: Proxy, client: Client) -> None:
    """Two answers of twelve bytes pass, the third does not."""
    proxy.behave(Behaviour(reset_after=24))

    assert [await client.ask(FETCH), await client.ask(FETCH)] == [1, 2]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.ask(FETCH)


async def test_loss_costs_time_and_nothing_else(proxy: Proxy, client: Client) -> None:
    """What is lost comes again, later."""
    proxy.behave(Behaviour(loss=1.0))
    began = time.monotonic()

    assert await client.ask(FETCH) == 1
    assert time.monotonic() - began >= 0.4


async def test_cut(proxy: Proxy, client: Client) -> None:
    """Every open connection ends at once."""
    await client.ask(FETCH)
    proxy.cut()

    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.ask(FETCH)


async def test_a_server_that_is_not_there(proxies: Proxies) -> None:
    """The client's connection ends."""
    proxy = proxies.open(("127.0.0.1", 0), target=("127.0.0.1", 9))
    client = await connect(proxy)

    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.ask(FETCH)
    await client.close()
