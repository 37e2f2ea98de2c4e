"""The way through an ASGI application: it gets a request that is complete, and its answer is sent when it is."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from service.receiver.answers import Answer, problem
from service.receiver.framing import as_written
from service.receiver.guard import Guard, Place


class Asgi(Guard):
    """One connection. uvicorn makes it, by ``functools.partial(Asgi, connections=…)`` as ``Config(http=…)``.

    The application is uvicorn's own. Its answers have a length; it hears of nobody who hangs up.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._waiting: deque[tuple[dict[str, Any], bytes, Place]] = deque()

    def hand_on(self, place: Place) -> None:
        """To the application, in a task that uvicorn waits for when it ends."""
        self._waiting.append((self._scope(), b"".join(self.parts), place))
        if len(self._waiting) == 1:
            task = self.loop.create_task(self._ask_in_turn())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _ask_in_turn(self) -> None:
        """One after the other: behind an answer that closes nothing is asked."""
        while self._waiting and not self.transport.is_closing():
            try:
                await self._ask(*self._waiting[0])
            finally:
                self._waiting.popleft()

    def _scope(self) -> dict[str, Any]:
        path, query = as_written(self.target)
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": self.parser.get_http_version(),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": self.method.decode("ascii"),
            "root_path": "",
            "path": self.path,
            "raw_path": path,
            "query_string": query,
            "headers": self.fields,
        }

    async def _ask(self, scope: dict[str, Any], body: bytes, place: Place) -> None:
        received, sent = [{"type": "http.request", "body": body, "more_body": False}], list[Any]()

        async def receive() -> dict[str, Any]:
            if not received:
                await asyncio.Event().wait()  # it hears of nobody who hangs up
            return received.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        answer = problem(500)
        try:
            await self.app(scope, receive, send)
            answer = _answer(*sent)
        except Exception as bug:  # noqa: BLE001 - the border: the other requests of this connection have answers due
            self._all.failed(bug)
        finally:
            place.take(answer)


def _answer(start: dict[str, Any], *parts: dict[str, Any]) -> Answer:
    return Answer(start["status"], tuple(start.get("headers", ())), b"".join(part.get("body", b"") for part in parts))
