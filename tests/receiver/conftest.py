"""The receiver's app with a recording publisher, and requests to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from service.core.signature import SignatureMode
from service.receiver.app import Limits, create_app
from service.telemetry.metrics import Metrics
from tests.fakes import RecordingPublisher

SECRET = b"tests-secret-0123456789"
NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
URL = "http://receiver/webhooks/webex"


@dataclass
class Bench:
    """An app and what is around it."""

    publisher: RecordingPublisher = field(default_factory=RecordingPublisher)
    metrics: Metrics = field(default_factory=Metrics)
    secrets: Callable[[], list[bytes]] = lambda: [b"another-secret", SECRET]
    limits: Limits = field(default_factory=lambda: Limits(body_seconds=0.2, publish_seconds=0.2, publishing=2))

    @property
    def app(self) -> ASGIApp:
        """A new app of these parts."""
        return create_app(
            publisher=self.publisher,
            secrets=self.secrets,
            mode=SignatureMode.AUTO,
            receiver="receiver-0",
            now=lambda: NOW,
            observe=self.metrics,
            limits=self.limits,
        )

    async def send(self, method: str = "POST", url: str = URL, **request: Any) -> httpx.Response:
        """One request over ASGI."""
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as client:
            return await client.request(method, url, **request)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    """Several requests to one app."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(bench.app), base_url="http://receiver") as client:
        yield client
