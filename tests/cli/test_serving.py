"""Listeners, signals, and what becomes of work that dies."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.cli.serving import beside, bound, running, serving, url_of
from service.cli.shutdown import Stop
from service.core.errors import SettingsError

PORT = "WEBEX_EVENTS_RECEIVER__PORT"
HOST = "WEBEX_EVENTS_RECEIVER__HOST"


class Died(Exception):
    """What the work of these tests ends with."""


async def die() -> None:
    """Work that ends badly."""
    await asyncio.sleep(0)
    raise Died


@pytest.mark.parametrize("start", [running, beside], ids=["running", "beside"])
async def test_work_that_dies_stops_the_process(start: Callable[..., AbstractAsyncContextManager[object]]) -> None:
    """``stop`` is set at once, and the error is raised at the end of the block."""
    stop, told = Stop(), []
    with pytest.raises(Died):
        async with asyncio.timeout(5), start(die(), stop=stop):
            told.append(await stop.wait())
    assert told == [True]


async def test_running_work_is_asked_to_end_and_waited_for() -> None:
    """It is not cancelled: what it has begun it finishes."""
    stop, finished = Stop(), []

    async def work() -> None:
        await stop.wait()
        await asyncio.sleep(0.01)
        finished.append(True)

    async with running(work(), stop=stop):
        assert not stop.is_set()
    assert finished == [True]


async def test_running_work_that_ends_by_itself_stops_the_process() -> None:
    """Without an error, too: a process whose work has ended is of no use."""
    stop = Stop()
    async with asyncio.timeout(5), running(asyncio.sleep(0), stop=stop):
        await stop.wait()


async def test_work_beside_is_cancelled() -> None:
    """It never ends by itself; its end is not the process' end before the block's."""
    stop = Stop()
    async with asyncio.timeout(5):
        async with beside(asyncio.sleep(3600), stop=stop):
            assert not stop.is_set()


async def test_work_beside_that_ends_by_itself_is_an_error() -> None:
    """Also where it raises nothing: it must not be taken for the end that was asked for."""
    stop = Stop()

    async def ending() -> None:
        async with asyncio.timeout(5), beside(asyncio.sleep(0), stop=stop):
            await stop.wait()

    with pytest.raises(RuntimeError, match="sleep has ended"):
        await ending()


async def test_the_error_of_the_block_comes_out() -> None:
    """The work beside it does not hide it."""
    with pytest.raises(Died):
        async with beside(asyncio.sleep(3600), stop=Stop()):
            await die()


@pytest.mark.parametrize(
    ("host", "change"),
    [
        pytest.param("127.0.0.1", f"(Address already in use); choose another port by {PORT}", id="taken"),
        pytest.param("203.0.113.1", f"choose another address by {HOST}", id="not of this machine"),
        pytest.param("no.such.invalid", f"choose another address by {HOST}", id="no such name"),
        pytest.param("x" * 70, f"(not the name of a host); choose another address by {HOST}", id="no name at all"),
    ],
)
def test_an_address_that_cannot_be_had(host: str, change: str) -> None:
    """The error says which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as refused, bound(host, port, setting=PORT):
            pass
    assert str(refused.value).startswith(f"cannot listen on {host}:{port} (")
    assert str(refused.value).endswith(change)
    assert "while attempting" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")],  # noqa: S104
)
def test_an_address_can_be_reached_as_it_is_shown(host: str, shown: str) -> None:
    """Whatever it listens on, what is printed is an address for clients on this machine."""
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with bound(host, 0, setting=PORT) as listener:
        assert url_of(listener) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", {"127.0.0.1"}),  # noqa: S104
        ("127.0.0.1", {"127.0.0.1"}),
        ("::", {"127.0.0.1", "::1"}),
        ("::1", {"::1"}),
    ],
)
def test_every_address_is_that_of_both_families(host: str, reached: set[str]) -> None:
    """``::`` is reached by IPv4 too: in a cluster with both, a client takes either. Only what is not here is refused."""
    here = {each for each in ("127.0.0.1", "::1") if _is_here(each)}
    refused = ""
    try:
        with bound(host, 0, setting=PORT) as listener:
            assert {each for each in here if _connects(each, listener.getsockname()[1])} == reached & here
    except SettingsError as error:
        refused = str(error)
    assert not refused or (reached - here and refused.endswith(f"choose another address by {HOST}"))


def _is_here(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.create_server((address, 0), family=family):
            return True
    except OSError:
        return False


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


async def test_requests_under_way_are_finished() -> None:
    """The end of the block waits for the answer, and after it nobody listens."""
    begun, go, stop = asyncio.Event(), asyncio.Event(), Stop()

    async def slow(_: Request) -> PlainTextResponse:
        begun.set()
        await go.wait()
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", slow)])
    with bound("127.0.0.1", 0, setting=PORT) as listener:
        async with httpx.AsyncClient(base_url=url_of(listener), trust_env=False) as client:
            async with serving(app, listener, stop=stop):
                asked = asyncio.create_task(client.get("/"))
                await begun.wait()
                asyncio.get_running_loop().call_later(0.05, go.set)
            assert (await asked).text == "done"
            with pytest.raises(httpx.ConnectError):
                await client.get("/")


async def test_connections_without_a_request_are_closed_at_once() -> None:
    """One that is kept alive after its answer, and one on which half a request came: the end waits for neither."""
    app, stop = Starlette(routes=[Route("/", lambda _: PlainTextResponse("done"))]), Stop()
    with bound("127.0.0.1", 0, setting=PORT) as listener:
        address = listener.getsockname()
        async with serving(app, listener, stop=stop):
            idle = await asyncio.open_connection(*address)
            idle[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await idle[0].readuntil(b"done")).startswith(b"HTTP/1.1 200")
            half = await asyncio.open_connection(*address)
            half[1].write(b"GET / HTTP/1.1\r\nho")
            await half[1].drain()
            begun = time.monotonic()
        assert time.monotonic() - begun < 5
        for reader, writer in (idle, half):
            assert await reader.read() == b""
            writer.close()


async def test_the_last_answer_says_that_the_connection_ends() -> None:
    """So that no client sends its next request on a connection that is being closed."""
    begun, go, stop = asyncio.Event(), asyncio.Event(), Stop()

    async def slow(_: Request) -> PlainTextResponse:
        begun.set()
        await go.wait()
        return PlainTextResponse("done")

    with bound("127.0.0.1", 0, setting=PORT) as listener:
        async with httpx.AsyncClient(base_url=url_of(listener), trust_env=False) as client:
            async with serving(Starlette(routes=[Route("/", slow)]), listener, stop=stop):
                asked = asyncio.create_task(client.get("/"))
                await begun.wait()
                asyncio.get_running_loop().call_later(0.3, go.set)
            assert (await asked).headers["connection"] == "close"


async def test_whoever_takes_too_long_is_cut_off() -> None:
    """The end does not wait longer than it was told."""
    begun, stop = asyncio.Event(), Stop()

    async def for_ever(_: Request) -> PlainTextResponse:
        begun.set()
        await asyncio.sleep(3600)
        return PlainTextResponse("never")

    with bound("127.0.0.1", 0, setting=PORT) as listener:
        async with httpx.AsyncClient(base_url=url_of(listener), trust_env=False) as client, asyncio.timeout(10):
            async with serving(Starlette(routes=[Route("/", for_ever)]), listener, stop=stop, drain=1):
                asked = asyncio.create_task(client.get("/"))
                await begun.wait()
            assert (await asked).status_code == 500


async def test_a_server_that_ends_by_itself_stops_the_process() -> None:
    """A process that answers nobody is of no use."""
    stop = Stop()

    async def serve(listener: socket.socket) -> None:
        async with asyncio.timeout(5), serving(Starlette(), listener, stop=stop):
            next(task for task in asyncio.all_tasks() if task.get_name() == "listener").cancel()
            await stop.wait()

    with bound("127.0.0.1", 0, setting=PORT) as listener, pytest.raises(RuntimeError, match="ended by itself"):
        await serve(listener)
