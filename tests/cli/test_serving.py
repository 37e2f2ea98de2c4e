"""Listeners, signals, and what becomes of work that dies."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.cli.serving import beside, bound, running, serving, stopped_by_signals, url_of
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
    stop, told = asyncio.Event(), []
    with pytest.raises(Died):
        async with asyncio.timeout(5), start(die(), stop=stop):
            told.append(await stop.wait())
    assert told == [True]


async def test_running_work_is_asked_to_end_and_waited_for() -> None:
    """It is not cancelled: what it has begun it finishes."""
    stop, finished = asyncio.Event(), []

    async def work() -> None:
        await stop.wait()
        await asyncio.sleep(0.01)
        finished.append(True)

    async with running(work(), stop=stop):
        assert not stop.is_set()
    assert finished == [True]


async def test_running_work_that_ends_by_itself_stops_the_process() -> None:
    """Without an error, too: a process whose work has ended is of no use."""
    stop = asyncio.Event()
    async with asyncio.timeout(5), running(asyncio.sleep(0), stop=stop):
        await stop.wait()


async def test_work_beside_is_cancelled() -> None:
    """It never ends by itself; its end is not the process' end before the block's."""
    stop = asyncio.Event()
    async with asyncio.timeout(5):
        async with beside(asyncio.sleep(3600), stop=stop):
            assert not stop.is_set()


async def test_the_error_of_the_block_comes_out() -> None:
    """The work beside it does not hide it."""
    with pytest.raises(Died):
        async with beside(asyncio.sleep(3600), stop=asyncio.Event()):
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


async def test_requests_under_way_are_finished() -> None:
    """The end of the block waits for the answer, and after it nobody listens."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> PlainTextResponse:
        begun.set()
        await go.wait()
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", slow)])
    with bound("127.0.0.1", 0, setting=PORT) as listener:
        async with httpx.AsyncClient(base_url=url_of(listener), trust_env=False) as client:
            async with serving(app, listener):
                asked = asyncio.create_task(client.get("/"))
                await begun.wait()
                asyncio.get_running_loop().call_later(0.05, go.set)
            assert (await asked).text == "done"
            with pytest.raises(httpx.ConnectError):
                await client.get("/")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_signal_asks_to_stop_and_the_next_one_is_not_ours(number: signal.Signals) -> None:
    """Whoever presses Ctrl-C twice means it: the second time the signal does what it does by itself."""
    with stopped_by_signals() as stop:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()
        assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
