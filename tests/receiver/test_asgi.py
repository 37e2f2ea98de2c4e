"""The task that asks the application: one for a connection, and uvicorn's concern only while a request has no answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.receiver.asgi import Asgi
from service.receiver.connections import Connections, GuardLimits
from service.receiver.request import FIELDS
from tests.receiver.guarded import Counts
from tests.receiver.ways import Client
from tests.receiver.wire import Wire, post

Waiting = Callable[[Message], Awaitable[int]]


class Server:
    """What uvicorn knows, and where it listens."""

    def __init__(self, app: ASGIApp) -> None:
        self.state = ServerState()
        config = Config(app, lifespan="off", proxy_headers=False, log_config=None)
        config.load()
        connections = Connections(observe=Counts(), limits=GuardLimits(64 * 1024))
        self.protocol = partial(Asgi, config, self.state, {}, connections=connections)
        self.port = 0

    @property
    def url(self) -> str:
        """For a client."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connection(self) -> Any:
        """The only one."""
        (connection,) = self.state.connections
        return connection


@contextlib.asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[Server]:
    """Serve ``app`` in this loop."""
    server = Server(app)
    listener = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for connection in list(server.state.connections):
            connection.transport.abort()  # uvloop would wait for it
        await turns()


def answering(status: Waiting) -> ASGIApp:
    """An application that says what ``status`` makes of the request."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        found = await status(await receive())
        await send({"type": "http.response.start", "status": found, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"k"})

    return app


class Held:
    """Requests that are answered one by one, when the test says so."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()
        self.tasks: list[asyncio.Task[Any] | None] = []

    async def status(self, _: Message) -> int:
        """Whatever the test answers; 503 where the process ends."""
        self.tasks.append(asyncio.current_task())
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            return 503


async def ok(_: Message) -> int:
    return 200


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def test_a_connection_has_one_task_and_uvicorn_waits_for_it_while_a_request_has_no_answer() -> None:
    """Between two requests there is nothing to wait for; none is left when the client is gone."""
    held = Held()
    async with listening(answering(held.status)) as server:
        client, before = Client(server.url), asyncio.all_tasks()
        for _ in range(3):
            asking = asyncio.create_task(client.ask(post()))
            answer = await held.asked.get()
            assert server.state.tasks == {held.tasks[-1]}
            answer.set_result(200)
            assert (await asking).body == b"ok"
            assert server.state.tasks == set()
        assert len(set(held.tasks)) == 1

        client.close()
        await until(lambda: not server.state.connections)
        await turns()
        assert asyncio.all_tasks() == before


async def test_who_asks_nothing_has_no_task() -> None:
    """An idle connection that never was anything else costs as little as it can."""
    async with listening(answering(Held().status)) as server:
        before = asyncio.all_tasks()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: bool(server.state.connections))

        assert asyncio.all_tasks() == before
        writer.close()
        await until(lambda: not server.state.connections)


async def test_requests_in_a_row_are_asked_one_after_the_other() -> None:
    """And all the while uvicorn waits."""
    held = Held()
    async with listening(answering(held.status)) as server:
        client = Client(server.url)
        asking = asyncio.create_task(client.ask(post() * 3))
        for status in (200, 201, 202):
            answer = await held.asked.get()
            await turns()
            assert held.asked.empty()
            assert len(server.state.tasks) == 1
            answer.set_result(status)
        statuses = [(await asking).status, *[(await client.ask(b"")).status for _ in range(2)]]
        client.close()

    assert statuses == [200, 201, 202]


async def test_a_request_that_is_cancelled_is_answered_and_so_is_the_next() -> None:
    """uvicorn cancels what runs when its time is over; what an application makes of it is its answer."""
    held = Held()
    async with listening(answering(held.status)) as server:
        client = Client(server.url)
        asking = asyncio.create_task(client.ask(post() * 2))
        await held.asked.get()
        (task,) = server.state.tasks
        task.cancel()
        (await held.asked.get()).set_result(200)
        statuses = [(await asking).status, (await client.ask(b"")).status]
        assert server.state.tasks == set()
        client.close()

    assert statuses == [503, 200]


async def test_a_task_that_is_cancelled_before_it_begins_is_replaced() -> None:
    """With its first request waiting, which is asked by the next one."""
    held = Held()
    async with listening(answering(held.status)) as server:
        client = Client(server.url)
        asking = asyncio.create_task(client.ask(post() * 2))
        await until(lambda: bool(server.state.connections))
        begin = server.connection._begin

        def cancelled() -> None:
            server.connection._begin = begin
            begin()
            server.connection._task.cancel()

        server.connection._begin = cancelled
        for _ in range(2):
            (await held.asked.get()).set_result(200)
        assert [(await asking).status, (await client.ask(b"")).status] == [200, 200]
        assert server.state.tasks == set()
        client.close()


async def test_an_application_that_gives_in_to_a_cancellation_takes_nobody_with_it() -> None:
    """Its request gets 500; those behind it, and whoever asks then, are asked in a new task."""
    asked: list[asyncio.Task[Any] | None] = []

    async def status(_: Message) -> int:
        asked.append(asyncio.current_task())
        if len(asked) == 1:
            await asyncio.sleep(10)
        return 200

    async with listening(answering(status)) as server:
        client = Client(server.url)
        asking = asyncio.create_task(client.ask(post() * 2))
        await until(lambda: len(asked) == 1)
        (task,) = server.state.tasks
        task.cancel()
        async with asyncio.timeout(5):
            assert (await asking).status == 500
            assert (await client.ask(b"")).status == 200
            assert server.state.tasks == set()
            assert (await client.ask(post())).status == 200
        assert len(set(asked)) == 2
        client.close()


async def test_an_idle_connection_keeps_nothing_of_its_last_request() -> None:
    """There may be thousands of them."""
    kept: list[bytes] = []

    async def body(message: Message) -> int:
        kept.append(message["body"])
        return 200

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(body)(scope, receive, send)
        kept.append(dict(scope["headers"])[b"x-name"])

    async with listening(app) as server:
        client = Client(server.url)
        await client.ask(post(b"X-Name: someone else", body=b"someone@example.org"))
        await turns()
        kept.append(bytes(bytearray(b"held by nobody else")))

        *counts, free = map(sys.getrefcount, kept)
        assert counts == [free, free]
        client.close()


async def test_like_requests_share_nothing_that_an_application_may_write_to() -> None:
    """Its scope is its own, and so are the extensions; another target or method is seen."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(dict(scope))
        scope["extensions"]["mine"], scope["path"] = {}, "/mine"
        await answering(ok)(scope, receive, send)

    async with listening(app) as server:
        client = Client(server.url)
        lines = [
            b"POST /a?x HTTP/1.1\r\n",
            b"POST /a?x HTTP/1.1\r\n",
            b"PUT /a?x HTTP/1.1\r\n",
            b"PUT /%61 HTTP/1.1\r\n",
        ]
        for number, line in enumerate(lines):
            await client.ask(post(b"X-Number: %d" % number, line=line))
        client.close()

    assert [(each["method"], each["path"], each["raw_path"], each["query_string"]) for each in scopes] == [
        ("POST", "/a", b"/a", b"x"),
        ("POST", "/a", b"/a", b"x"),
        ("PUT", "/a", b"/a", b"x"),
        ("PUT", "/a", b"/%61", b""),
    ]
    assert [dict(each["headers"])[b"x-number"] for each in scopes] == [b"0", b"1", b"2", b"3"]
    assert [set(each["extensions"]) for each in scopes[1:]] == [{FIELDS, "mine"}] * 3
    assert len({id(each["extensions"]) for each in scopes}) == len({id(each["asgi"]) for each in scopes}) == 4


def test_a_connection_that_is_lost_while_the_loop_ends_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its task is cancelled with all others, in the same moment."""

    async def serve() -> None:
        async with listening(answering(ok)) as server:
            wire = stack.enter_context(Wire(server.port))
            await asyncio.to_thread(wire.ask, post(), replies=1)
            (idle,) = asyncio.all_tasks() - {asyncio.current_task()}
            server.connection.transport.abort()
            idle.cancel()
            await turns()
            assert idle.cancelled()

    with contextlib.ExitStack() as stack, caplog.at_level(logging.WARNING):
        uvloop.run(serve())
        gc.collect()
    assert caplog.messages == []
