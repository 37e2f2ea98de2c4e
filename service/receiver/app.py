"""The only public listener as an ASGI application: one route. Verify, normalize, publish, answer; no Webex call, no decision.

Starlette defines what is where. In front of its router stands one entrance, because to look up the only route that there is
costs as much as a good part of the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.receiver.answers import NO_SUCH_METHOD, NO_SUCH_ROUTE, Answer
from service.receiver.endpoint import PATH, Endpoint
from service.receiver.request import Disconnected, Headers, collect, read_body


def create_app(endpoint: Endpoint, *, guarded: bool = False) -> ASGIApp:
    """The application behind the public listener. ``guarded``: the server hands on only what is complete and in order."""
    webhook = _Webhook(endpoint, guarded=guarded)
    app = Starlette(
        routes=[Route(PATH, webhook, methods=["POST"])],
        exception_handlers={HTTPException: _elsewhere(endpoint)},
    )
    app.router.redirect_slashes = False  # the route has one spelling; a redirected POST would be lost
    return _entrance(webhook, app)


def _entrance(webhook: ASGIApp, app: ASGIApp) -> ASGIApp:
    """What Starlette's router would say, said at once for the one request that matters."""

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await webhook(scope, receive, send)
        else:
            await app(scope, receive, send)

    return enter


class _Webhook:
    """``POST /webhooks/webex`` as a bare ASGI application: the body is read here, with our limits."""

    def __init__(self, endpoint: Endpoint, *, guarded: bool) -> None:
        self._endpoint = endpoint
        self._guarded = guarded
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answered(scope, receive)
        except Disconnected:
            self._log.debug("webhook.abandoned")
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answered(self, scope: Scope, receive: Receive) -> Answer:
        headers = tuple(scope["headers"])  # a copy: servers merge trailers into the list while the body is read
        endpoint, ticket = self._endpoint, None
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer = partial(_resolve, answered)
        try:
            body = await self._body(receive, headers)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 - the endpoint tells refusals from bugs
            endpoint.refuse(error, answer)
        else:
            client = scope.get("client")
            ticket = endpoint.take(headers, body, answer, client[0] if client else "")
        try:
            return await answered
        except asyncio.CancelledError:  # the process ends, and waits no longer
            if ticket is None or not answered.cancelled():
                return answered.result()
            return endpoint.give_up(ticket)

    async def _body(self, receive: Receive, headers: Headers) -> bytes:
        limits = self._endpoint.limits
        if self._guarded:
            return await collect(receive, most=limits.body_bytes)
        return await read_body(receive, headers, most=limits.body_bytes, seconds=limits.body_seconds)


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
