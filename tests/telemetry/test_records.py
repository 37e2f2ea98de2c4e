"""The routes for records on the private listener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from service.core.errors import CannotStore, JournalError
from service.core.message import Message, Received
from service.telemetry.admin import create_app
from service.telemetry.metrics import Metrics
from service.telemetry.records import ALL, LARGEST_BODY, record_routes

TOKEN = "the-token"
RECORD = Received(topic="work", partition=0, offset=7, key="k", value=b"\xff", timestamp=5)


class Bus:
    """Reader and publisher. ``broken``: fails after the first record, and stores nothing."""

    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken
        self.published: list[Message] = []
        self.since: list[datetime | None] = []

    async def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        self.since.append(since)
        yield RECORD
        if self._broken:
            raise JournalError("a row is not what was written")

    async def publish(self, messages: Sequence[Message]) -> None:
        if self._broken:
            raise CannotStore
        self.published += messages


async def ask(
    bus: Bus, method: str, path: str, *, body: bytes = b"", peer: str = "127.0.0.1", token: str = TOKEN
) -> httpx.Response:
    """One request from ``peer``."""
    routes = record_routes(bus, bus, token=TOKEN)
    app = create_app(stuck=lambda: None, unready=lambda: None, metrics=Metrics(), more=routes)
    transport = httpx.ASGITransport(app, client=(peer, 5))
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as client:
        return await client.request(method, path, content=body)


async def test_records_come_as_lines_and_the_last_one_says_all() -> None:
    """A client that does not see it knows that something is missing."""
    bus = Bus()
    answer = await ask(bus, "GET", "/records/commands/0?since=86400000")

    assert answer.content == msgspec.json.encode(RECORD) + b"\n" + ALL + b"\n"
    assert bus.since == [datetime(1970, 1, 2, tzinfo=UTC)]
    assert ALL not in (await ask(Bus(broken=True), "GET", "/records/commands/0")).content


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("127.9.9.9", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("10.0.0.1", 403),
        ("::ffff:10.0.0.1", 403),
        ("2001:db8::1", 403),
        ("testclient", 403),
    ],
)
async def test_only_this_machine_is_answered(peer: str, status: int) -> None:
    """With the token or without."""
    assert (await ask(Bus(), "GET", "/records/commands/0", peer=peer)).status_code == status
    assert (await ask(Bus(), "GET", "/records/commands/0", peer=peer, token="x")).status_code == (
        403 if status == 403 else 401
    )


@pytest.mark.parametrize(
    ("body", "broken", "status"),
    [
        pytest.param(
            msgspec.json.encode([Message(topic="t", key="k", value=None, partition_by="p")]), False, 204, id="ok"
        ),
        pytest.param(b"[", False, 400, id="not JSON"),
        pytest.param(b'[{"topic": "t"}]', False, 400, id="no message"),
        pytest.param(b"[" * 100_000, False, 400, id="nested"),
        pytest.param(b" " * (LARGEST_BODY + 1), False, 413, id="too large"),
        pytest.param(b"[]", True, 503, id="cannot store"),
    ],
)
async def test_publishing(body: bytes, broken: bool, status: int) -> None:
    """204 only for what was stored."""
    bus = Bus(broken=broken)
    assert (await ask(bus, "POST", "/records", body=body)).status_code == status
    assert len(bus.published) == (status == 204)


@pytest.mark.parametrize("since", ["x", "1e400", "99999999999999999999"])
async def test_a_time_that_is_none(since: str) -> None:
    """Refused."""
    assert (await ask(Bus(), "GET", f"/records/commands/0?since={since}")).status_code == 400
