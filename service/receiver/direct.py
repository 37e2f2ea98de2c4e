"""The webhook's route without ASGI: what the guard has collected goes straight to the endpoint, and its answer to the socket.

No task, no future, no timer and no message belongs to a request. Everything that is asked of a request, and every answer,
is the same as by the application (``app.py``), which stays the definition of the endpoint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from service.receiver.answers import NO_SUCH_METHOD, NO_SUCH_ROUTE, Answer
from service.receiver.endpoint import PATH
from service.receiver.guard import Connections, Guard, as_sent, rendered
from service.receiver.request import Headers

#: Requests of one connection that may wait for their answers before no more are read from it.
PIPELINED = 32


class Receiving(Protocol):
    """What becomes of a request: the endpoint."""

    def take(self, headers: Headers, body: bytes, answer: Callable[[Answer], None], source: str = "") -> object:
        """A complete request to the route. Never raises; ``answer`` is called exactly once, maybe at once."""

    def elsewhere(self, answer: Answer) -> Answer:
        """``answer``, which is for a request to another route, or with another method."""


class Direct(Guard):
    """One connection. uvicorn makes it, by ``functools.partial(Direct, connections=…, endpoint=…)`` as ``Config(http=…)``."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        endpoint: Receiving,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, connections=connections)
        self._endpoint = endpoint
        self._places: deque[_Place] = deque()
        self._stamped: object = None
        self._stamp = b""

    def hand_on(self) -> None:
        """Have the request answered, now or later."""
        method = self.parser.get_method()
        place = _Place(self, bodiless=method == b"HEAD")
        elsewhere = NO_SUCH_ROUTE if self.path != PATH else NO_SUCH_METHOD if method != b"POST" else None
        self._places.append(place)
        if elsewhere is None:
            self._endpoint.take(self.fields, b"".join(self.parts), place.take, self.source)
        else:
            place.take(self._endpoint.elsewhere(elsewhere))
        if len(self._places) >= PIPELINED and not self.transport.is_closing():
            self.flow.pause_reading()

    def send_answers(self) -> None:
        """Send what is answered, in the order of the requests."""
        places = self._places
        while places and (answer := places[0].answer) is not None:
            place = places.popleft()
            if not self.transport.is_closing():
                self._send(answer, bodiless=place.bodiless)
            self.answered()
        if self.flow.read_paused and len(places) < PIPELINED:
            self.read_on()

    def _send(self, answer: Answer, *, bodiless: bool) -> None:
        self.server_state.total_requests += 1
        self.transport.write(rendered(answer, self._defaults(), last=self.ends_here(), bodiless=bodiless))
        if (b"connection", b"close") in answer.headers:
            self._places.clear()  # whoever asked for more will not be answered
            self.end()

    def _defaults(self) -> bytes:
        """The server's own headers; uvicorn makes a new list of them every second."""
        headers = self.server_state.default_headers
        if headers is not self._stamped:
            self._stamped, self._stamp = headers, as_sent(headers)
        return self._stamp


class _Place:
    """A request's place among those of its connection, kept until its answer is sent."""

    __slots__ = ("_connection", "answer", "bodiless")

    def __init__(self, connection: Direct, *, bodiless: bool) -> None:
        self._connection = connection
        self.answer: Answer | None = None
        self.bodiless = bodiless

    def take(self, answer: Answer) -> None:
        """This is the answer."""
        self.answer = answer
        self._connection.send_answers()
