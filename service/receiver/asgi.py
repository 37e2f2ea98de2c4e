"""The way through an ASGI application: it gets a request that is complete, and its answer is sent when it is."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec

from service.receiver.answers import Answer, problem
from service.receiver.framing import as_written
from service.receiver.guard import Guard, Place
from service.receiver.request import FIELDS


class Asgi(Guard):
    """One connection. uvicorn makes it, by ``functools.partial(Asgi, connections=…)`` as ``Config(http=…)``.

    The application is uvicorn's own. Its answers have a length; it hears of nobody who hangs up. All requests of a
    connection are asked in one task: a context variable that is set for one of them is set for those behind it.
    """

    __slots__ = ("_begun", "_begun_for", "_idle", "_task", "_waiting")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._waiting: deque[_Exchange] = deque()
        #: Asks, from the first request on.
        self._task: asyncio.Task[None] | None = None
        #: What it waits for while there is nothing to ask.
        self._idle: asyncio.Future[None] | None = None
        #: What the scopes of like requests have in common, and which those are.
        self._begun: dict[str, Any] = {}
        self._begun_for: tuple[bytes, bytes, str] | None = None

    def hand_on(self, place: Place, body: bytes) -> None:
        """To the application, in a task that uvicorn waits for when it ends."""
        self._waiting.append(_Exchange(self._scope(), body, place))
        if self._task is None:
            self._begin()
        elif self._idle is not None:
            self._wake(self._idle)
            self.tasks.add(self._task)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and its task goes too."""
        super().connection_lost(exc)
        if self._idle is not None:
            self._wake(self._idle)

    def _wake(self, idle: asyncio.Future[None]) -> None:
        self._idle = None
        if not idle.done():  # cancelled, where the loop ends
            idle.set_result(None)

    def _begin(self) -> None:
        self._task = self.loop.create_task(self._ask_in_turn())
        self._task.add_done_callback(self._ended)
        self.tasks.add(self._task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Cancelled, maybe before its first step, or the connection is gone; in the former case others may wait."""
        self.tasks.discard(task)
        self._task = self._idle = None
        if self._waiting and not self.transport.is_closing():
            self._begin()

    async def _ask_in_turn(self) -> None:
        """One after the other: behind an answer that closes nothing is asked."""
        waiting = self._waiting
        while not self.transport.is_closing():
            if waiting:
                await self._ask(waiting[0])
            else:
                self.tasks.discard(self._task)
                self._idle = self.loop.create_future()
                await self._idle

    async def _ask(self, exchange: _Exchange) -> None:
        answer = None
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
            answer = exchange.answer()
        except Exception as bug:  # noqa: BLE001 - the border: other requests of this connection have answers due
            self._all.failed(bug)
        finally:
            self._waiting.popleft()
            exchange.place.take(answer or problem(500))

    def _scope(self) -> dict[str, Any]:
        if (self.method, self.target, self.version) != self._begun_for:
            self._begun_for = (self.method, self.target, self.version)
            self._begun = self._begun_scope()
        fields = self.fields
        scope = self._begun.copy()
        scope["asgi"] = {"version": self.asgi_version, "spec_version": "2.3"}
        scope["headers"] = fields.items() if isinstance(fields, dict) else fields
        scope["extensions"] = {FIELDS: fields}
        return scope

    def _begun_scope(self) -> dict[str, Any]:
        path, query = as_written(self.target)
        return {
            "type": "http",
            "http_version": self.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": self.method.decode("ascii"),
            "root_path": "",
            "path": self.path,
            "raw_path": path,
            "query_string": query,
        }


class _Exchange(msgspec.Struct, eq=False):
    """A request, and what the application answers."""

    scope: dict[str, Any]
    body: bytes
    place: Place
    received: bool = False
    start: dict[str, Any] | None = None
    sent: bytes = b""

    async def receive(self) -> dict[str, Any]:
        """The whole body at once; then nothing: it hears of nobody who hangs up."""
        if self.received:
            await asyncio.Event().wait()
        self.received = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Any) -> None:
        """A part of the answer."""
        if self.start is None:
            self.start = message
        else:
            self.sent += message.get("body", b"")

    def answer(self) -> Answer:
        """All of it. Raises TypeError where nothing was sent."""
        start = self.start
        if start is None:
            raise TypeError("the application sent no answer")
        return Answer(start["status"], tuple(start.get("headers", ())), self.sent)
