"""The receiver's endpoint with a recording publisher, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from service.core.event import rfc3339
from service.core.organizations import SINGLE, Organizations
from service.core.signature import ANYBODY, Secret, SignatureMode
from service.receiver.app import create_app
from service.receiver.endpoint import Endpoint, Limits, Publisher, Rejections, understanding
from service.receiver.tracing import Tracing
from service.telemetry.metrics import Metrics
from tests.fakes import RecordingPublisher, Turn

SECRET = b"tests-secret-0123456789"
NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
URL = "http://receiver/webhooks/webex"

#: As if they came from files that are called so, the second of which has ours.
SECRETS = (Secret(b"another-secret", {ANYBODY: "old"}), Secret(SECRET, {ANYBODY: "new"}))


@dataclass
class Bench:
    """An endpoint and what is around it."""

    publisher: RecordingPublisher = field(default_factory=RecordingPublisher)
    metrics: Metrics = field(default_factory=Metrics)
    secrets: Callable[[], Sequence[Secret]] = lambda: SECRETS
    limits: Limits = field(default_factory=lambda: Limits(body_seconds=0.2, publish_seconds=0.2, publishing=2))
    organizations: Organizations = SINGLE
    tracing: Tracing = field(default_factory=lambda: Tracing(1.0))
    rejections: Rejections | None = None
    now: Callable[[], str] = lambda: rfc3339(NOW)
    #: None: those of the loop that runs.
    turn: Turn | None = None

    def endpoint(self, publisher: Publisher | None = None) -> Endpoint:
        """A new endpoint of these parts; nobody keeps it."""
        return Endpoint(
            publisher=publisher or self.publisher,
            secrets=self.secrets,
            mode=SignatureMode.AUTO,
            understand=understanding(receiver="receiver-0", organizations=self.organizations),
            now=self.now,
            observe=self.metrics,
            limits=self.limits,
            tracing=self.tracing,
            rejections=self.rejections,
            soon=self.turn,
        )

    @property
    def app(self) -> ASGIApp:
        """A new app of these parts."""
        return create_app(self.endpoint())

    async def send(self, method: str = "POST", url: str = URL, **request: Any) -> httpx.Response:
        """One request over ASGI, to a new endpoint that is kept."""
        endpoint = self.endpoint()
        transport = httpx.ASGITransport(create_app(endpoint))
        async with kept(endpoint), httpx.AsyncClient(transport=transport) as client:
            return await client.request(method, url, **request)


@contextlib.asynccontextmanager
async def kept(endpoint: Endpoint) -> AsyncIterator[None]:
    """Inside the block its sweeper runs."""
    keeping = asyncio.ensure_future(endpoint.keep())
    try:
        yield
    finally:
        keeping.cancel()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    """Several requests to one app."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(bench.app), base_url="http://receiver") as client:
        yield client
