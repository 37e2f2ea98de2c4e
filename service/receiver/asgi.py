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

    The application is uvicorn's own. Its answers have a length; it hears of nobody who hangs up.
    """

    __slots__ = ("_read_target", "_scope_so_far", "_task", "_waiting")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._waiting: deque[_Exchange] = deque()
        self._task: asyncio.Task[None]
        self._read_target: tuple[bytes, str] | None = None
        #: What the scopes of its requests to one target have in common.
        self._scope_so_far: dict[str, Any] = {}

    def hand_on(self, place: Place, body: bytes) -> None:
        """To the application, in a task that uvicorn waits for when it ends."""
        self._waiting.append(_Exchange(self._scope(), body, place))
        if len(self._waiting) == 1:
            self._task = self.loop.create_task(self._ask_in_turn())
            self.tasks.add(self._task)

    async def _ask_in_turn(self) -> None:
        """One after the other: behind an answer that closes nothing is asked."""
        waiting = self._waiting
        try:
            while waiting and not self.transport.is_closing():
                exchange, answer = waiting[0], None
                try:
                    await self.app(exchange.scope, exchange.receive, exchange.send)
                    answer = exchange.answer()
                except Exception as bug:  # noqa: BLE001 - the border: other requests of this connection have answers due
                    self._all.failed(bug)
                finally:
                    waiting.popleft()
                    exchange.place.take(answer or problem(500))
        finally:
            self.tasks.discard(self._task)

    def _scope(self) -> dict[str, Any]:
        if (self.target, self.version) != self._read_target:
            self._read_target = (self.target, self.version)
            self._scope_so_far = self._begun_scope()
        fields = self.fields
        return {
            **self._scope_so_far,
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "method": self.method.decode("ascii"),
            "headers": fields.items() if isinstance(fields, dict) else fields,
            "extensions": {FIELDS: fields},
        }

    def _begun_scope(self) -> dict[str, Any]:
        path, query = as_written(self.target)
        return {
            "type": "http",
            "http_version": self.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
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
    parts: tuple[bytes, ...] = ()

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
            self.parts = (*self.parts, message.get("body", b""))

    def answer(self) -> Answer:
        """All of it. Raises TypeError where nothing was sent."""
        start = self.start
        if start is None:
            raise TypeError("the application sent no answer")
        return Answer(start["status"], tuple(start.get("headers", ())), b"".join(self.parts))
