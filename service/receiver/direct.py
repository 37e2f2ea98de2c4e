"""The webhook's route without ASGI: what the guard has collected goes straight to the endpoint, and its answer to the socket.

No task, no future, no timer and no message belongs to a request. Everything that is asked of a request, and every answer,
is the same as by the application (``app.py``), which stays the definition of the endpoint. Only what is pipelined behind a
request whose answer closes the connection may have been stored, though nobody can be told; sent again it has the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.server import ServerState

from service.receiver.answers import NO_SUCH_METHOD, NO_SUCH_ROUTE, Answer
from service.receiver.connections import Connections
from service.receiver.endpoint import PATH
from service.receiver.guard import Guard, Place
from service.receiver.request import Headers


class Receiving(Protocol):
    """What becomes of a request: the endpoint."""

    def take(self, headers: Headers, body: bytes, answer: Callable[[Answer], None], source: str = "") -> object:
        """A complete request to the route. Never raises; ``answer`` is called exactly once, maybe at once."""

    def elsewhere(self, answer: Answer) -> Answer:
        """``answer``, which is for a request to another route, or with another method."""


class Direct(Guard):
    """One connection. uvicorn makes it, by ``functools.partial(Direct, connections=…, endpoint=…)`` as ``Config(http=…)``."""

    __slots__ = ("_endpoint",)

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

    def hand_on(self, place: Place, body: bytes) -> None:
        """To the endpoint, where it is for its route."""
        if self.path != PATH:
            place.take(self._endpoint.elsewhere(NO_SUCH_ROUTE))
        elif self.method != b"POST":
            place.take(self._endpoint.elsewhere(NO_SUCH_METHOD))
        else:
            self._endpoint.take(self.fields, body, place.take, self.source)
