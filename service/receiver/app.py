"""The only public listener as an ASGI application: one route. Verify, normalize, publish, answer; no Webex call, no decision.

Starlette defines what is where. In front of its router stands one entrance, because to look up the only route that there is
costs as much as a good part of the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property, partial

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.receiver.answers import NO_SUCH_METHOD, NO_SUCH_ROUTE, Answer
from service.receiver.endpoint import PATH, Endpoint, Ticket
from service.receiver.request import FIELDS, Disconnected, read_body


def create_app(endpoint: Endpoint, *, guarded: bool = False) -> ASGIApp:
    """The application behind the public listener, for one event loop. ``guarded``: the server hands on only what is complete
    and in order.
    """
    entrance = _Entrance(endpoint, guarded=guarded)
    app = Starlette(
        routes=[Route(PATH, entrance, methods=["POST"])],
        exception_handlers={HTTPException: _elsewhere(endpoint)},
    )
    app.router.redirect_slashes = False  # the route has one spelling; a redirected POST would be lost
    entrance.others = app
    return entrance


class _Entrance:
    """``POST /webhooks/webex`` as a bare ASGI application: the body is read here, with our limits.

    It stands before Starlette's router, and says at once what that would say of the one request that matters.
    """

    others: ASGIApp

    def __init__(self, endpoint: Endpoint, *, guarded: bool) -> None:
        self._endpoint = endpoint
        self._guarded = guarded
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.others(scope, receive, send)
            return
        answered: asyncio.Future[Answer] = self._loop.create_future()
        resolve = partial(_resolve, answered)
        ticket: Ticket | None
        try:
            if self._guarded:
                message = await receive()
                headers, (source, _) = scope["extensions"][FIELDS], scope["client"] or ("", 0)
                ticket = self._endpoint.take(headers, message["body"], resolve, source)
            else:
                ticket = await self._read(scope, receive, resolve)
        except Disconnected:
            self._log.debug("webhook.abandoned")
            return
        try:
            answer = await answered
        except asyncio.CancelledError:  # the process ends, and waits no longer
            answer = self._given_up(ticket, answered)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The one that runs; in CPython 3.11 each look at it is a system call."""
        return asyncio.get_running_loop()

    async def _read(self, scope: Scope, receive: Receive, answer: Callable[[Answer], None]) -> Ticket | None:
        """The body, from a server that hands it on as it comes. Raises Disconnected."""
        headers = tuple(scope["headers"])  # a copy: servers merge trailers into the list while the body is read
        endpoint = self._endpoint
        most, seconds = endpoint.limits.body_bytes, endpoint.limits.body_seconds
        try:
            body = await read_body(receive, headers, most=most, seconds=seconds)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 - the endpoint tells refusals from bugs
            endpoint.refuse(error, answer)
            return None
        return endpoint.take(headers, body, answer, _source(scope))

    def _given_up(self, ticket: Ticket | None, answered: asyncio.Future[Answer]) -> Answer:
        if ticket is None or not answered.cancelled():
            return answered.result()
        return self._endpoint.give_up(ticket)


def _source(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _resolve(answered: asyncio.Future[Answer], answer: Answer) -> None:
    if not answered.done():
        answered.set_result(answer)


def _elsewhere(endpoint: Endpoint) -> Callable[[Request, Exception], Awaitable[Response]]:
    """404 and 405 come from the router, as HTTPException."""

    async def answer(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - Starlette looks handlers up by class
        reply = endpoint.elsewhere(NO_SUCH_METHOD if error.status_code == NO_SUCH_METHOD.status else NO_SUCH_ROUTE)
        headers = {name.decode("ascii"): value.decode("ascii") for name, value in reply.headers}
        return Response(reply.body, status_code=reply.status, headers=headers)

    return answer
