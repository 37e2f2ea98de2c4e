"""The only public listener: one route. Verify, normalize, publish, answer; no Webex call, no decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.core.errors import CannotStore, Overloaded, RequestRefused, whereabouts
from service.core.message import Message
from service.core.notification import Accepted, accept
from service.core.organizations import SINGLE, Organizations
from service.core.signature import SignatureMode, verify
from service.receiver import answers
from service.receiver.request import Disconnected, Headers, check, read_body
from service.receiver.tracing import traceparent

PATH = "/webhooks/webex"

#: Live secrets, the same order until one of them changes; never empty.
Secrets = Callable[[], Sequence[bytes]]


class Publisher(Protocol):
    """Makes records durable."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once all are durable. Raises CannotStore."""


class Observer(Protocol):
    """Counts what the receiver does."""

    def webhook_answered(self, status: int) -> None:
        """A request got this answer."""

    def webhook_refused(self, reason: str) -> None:
        """A request to the one route was refused for this reason: ``badSignature``, ``cannotStore``, ``overloaded`` …"""

    def event_published(self, topic: str, seconds: float) -> None:
        """An event became durable, so long after its signature was verified."""

    def notification_quarantined(self, reason: str) -> None:
        """A signed notification was not understood, and kept."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    body_bytes: int = 64 * 1024
    body_seconds: float = 10.0
    #: Longer than the publisher's own deadline; it only matters where the publisher breaks its promise.
    publish_seconds: float = 4.5
    #: Events that may wait for durability side by side.
    publishing: int = 1000


class InternalError(RequestRefused):
    """A bug of ours, met before the signature was verified."""

    http_status = 500
    title = "Something is wrong on this side"


class StoreTooSlow(CannotStore):
    """The publisher broke its promise to answer in time. It may have been stored all the same; a repeat has the same id."""


class StoreFailed(CannotStore):
    """A bug of ours, met after the signature was verified."""


def create_app(
    *,
    publisher: Publisher,
    secrets: Secrets,
    mode: SignatureMode,
    receiver: str,
    now: Callable[[], datetime],
    observe: Observer,
    limits: Limits = Limits(),
    organizations: Organizations = SINGLE,
) -> Starlette:
    """The application behind the public listener. ``receiver`` is this instance's name, as events carry it;
    ``organizations`` are those whose work the events may be.
    """
    webhook = _Webhook(
        intake=_Intake(secrets=secrets, mode=mode, limits=limits),
        store=_Store(
            publisher=publisher,
            understand=partial(accept, receiver=receiver, organizations=organizations),
            now=now,
            observe=observe,
            limits=limits,
        ),
        observe=observe,
    )
    app = Starlette(
        routes=[Route(PATH, webhook, methods=["POST"])],
        exception_handlers={HTTPException: _no_such_route(observe)},
    )
    app.router.redirect_slashes = False  # the route has one spelling; a redirected POST would be lost
    return app


@dataclass(frozen=True)
class _Intake:
    """From a request to verified bytes."""

    secrets: Secrets
    mode: SignatureMode
    limits: Limits

    async def verified(self, headers: Headers, receive: Receive) -> tuple[bytes, int]:
        """The body and the index of the secret that signed it. Raises RequestRefused, Disconnected."""
        limits = self.limits
        declared = check(headers, most=limits.body_bytes)
        body = await read_body(receive, declared=declared, most=limits.body_bytes, seconds=limits.body_seconds)
        return body, verify(body, headers, secrets=self.secrets(), mode=self.mode)


class _Store:
    """From verified bytes to a durable event."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        understand: Callable[..., Accepted],
        now: Callable[[], datetime],
        observe: Observer,
        limits: Limits,
    ) -> None:
        self._publisher = publisher
        self._understand = understand
        self._now = now
        self._observe = observe
        self._limits = limits
        self._publishing = 0

    async def store(self, body: bytes, headers: Headers) -> Accepted:
        """Return once the event is durable. Raises CannotStore."""
        started = time.monotonic()
        accepted = self._understand(body, received=self._now(), traceparent=traceparent(headers))
        with self._admitted():
            await self._publish(accepted.messages)
        self._observe.event_published(accepted.messages[0].topic, time.monotonic() - started)
        if accepted.quarantined:
            self._observe.notification_quarantined(str(accepted.event.data.get("reason")))
        return accepted

    async def _publish(self, messages: Sequence[Message]) -> None:
        try:
            async with asyncio.timeout(self._limits.publish_seconds):
                await self._publisher.publish(messages)
        except (TimeoutError, asyncio.CancelledError):  # cancelled: the process ends, and waits no longer
            raise StoreTooSlow from None

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._publishing >= self._limits.publishing:
            raise Overloaded
        self._publishing += 1
        try:
            yield
        finally:
            self._publishing -= 1


class _Webhook:
    """``POST /webhooks/webex`` as a bare ASGI application: the body is read here, with our limits."""

    def __init__(self, *, intake: _Intake, store: _Store, observe: Observer) -> None:
        self._intake = intake
        self._store = store
        self._observe = observe
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = tuple(scope["headers"])  # a copy: servers merge trailers into the list while the body is read
        try:
            await self._accept(headers, receive)
        except Disconnected:
            self._log.debug("webhook.abandoned")
            return
        except RequestRefused as refusal:
            response = answers.refused(refusal)
            self._observe.webhook_refused(_code(refusal))
            self._log.warning("webhook.refused", status=refusal.http_status, reason=_code(refusal))
        else:
            response = answers.stored()
        self._observe.webhook_answered(response.status_code)
        await response(scope, receive, send)

    async def _accept(self, headers: Headers, receive: Receive) -> None:
        with self._bugs_as(InternalError):
            body, secret = await self._intake.verified(headers, receive)
        # After a good signature there is only 2xx or 503: Webex gives up on a webhook that gets too many others.
        with self._bugs_as(StoreFailed):
            accepted = await self._store.store(body, headers)
            self._log.info(
                "webhook.accepted",
                id=accepted.event.id,
                type=accepted.event.type,
                topic=accepted.messages[0].topic,
                quarantined=accepted.quarantined,
                secret_index=secret,
            )

    @contextmanager
    def _bugs_as(self, refusal: type[RequestRefused]) -> Iterator[None]:
        """Turn what must not happen into ``refusal``, and log where it happened: its message may hold personal data."""
        try:
            yield
        except (RequestRefused, Disconnected):
            raise
        except Exception as bug:  # noqa: BLE001 - the border: anything may be wrong behind it, and Webex wants an answer
            self._log.error("webhook.failed", error=type(bug).__name__, at=whereabouts(bug))
            raise refusal from None


def _no_such_route(observe: Observer) -> Callable[[Request, Exception], Awaitable[Response]]:
    """404 and 405 come from the router, as HTTPException."""

    async def answer(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - Starlette looks handlers up by class
        structlog.get_logger().info("webhook.refused", status=error.status_code, reason="noSuchRoute")
        observe.webhook_answered(error.status_code)
        return answers.problem(error.status_code, headers=error.headers)

    return answer


def _code(refusal: RequestRefused) -> str:
    """``BadSignature`` → ``badSignature``: a name for logs."""
    name = type(refusal).__name__
    return name[0].lower() + name[1:]
