"""A world whose clock stands still until it is told to move on, and a client of it without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from service.sandbox.app import create_app
from service.sandbox.world import World

START = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Time that only the test moves."""

    moment: datetime = START

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **amount: float) -> None:
        """Move on, by the arguments of timedelta."""
        self.moment += timedelta(**amount)


@contextmanager
def opened(path: Path | None = None, *, clock: Clock | None = None, seed: str = "tests") -> Iterator[World]:
    """A world that is closed afterwards."""
    world = World.open(path, now=clock or Clock(), seed=seed)
    try:
        yield world
    finally:
        world.close()


def client_of(world: World, *, authorized: bool = True, **options: Any) -> httpx.AsyncClient:
    """A client of the app, with an access token unless told otherwise; ``options`` are those of create_app."""
    app = create_app(world, **options)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://sandbox",
        headers={"authorization": "Bearer token"} if authorized else {},
    )


def meeting_body(*, now: datetime = START, title: str = "Partner briefing", **more: Any) -> dict[str, Any]:
    """A meeting with registration in a day; None for a field leaves it out."""
    start = now + timedelta(days=1)
    body = {
        "title": title,
        "start": start.isoformat(),
        "end": (start + timedelta(hours=1)).isoformat(),
        "registration": {"autoAcceptRequest": False},
        **more,
    }
    return {name: value for name, value in body.items() if value is not None}


async def schedule(client: httpx.AsyncClient, **more: Any) -> str:
    """Create a meeting; its series id."""
    response = await client.post("/v1/meetings", json=meeting_body(**more))
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def people(client: httpx.AsyncClient, series: str, count: int, **more: Any) -> list[str]:
    """Register invented people; their ids."""
    response = await client.post("/sandbox/people", json={"meetingId": series, "count": count, **more})
    assert response.status_code == 200, response.text
    return list(response.json()["ids"])


async def listed(client: httpx.AsyncClient, series: str, **query: Any) -> list[dict[str, Any]]:
    """One page of registrants, 100 by default."""
    response = await client.get(f"/v1/meetings/{series}/registrants", params={"max": 100, **query})
    assert response.status_code == 200, response.text
    return list(response.json()["items"])


async def statuses(client: httpx.AsyncClient, series: str) -> dict[str, str]:
    """Id and status of those on the first page of 100."""
    return {registrant["id"]: registrant["status"] for registrant in await listed(client, series)}


async def batch(client: httpx.AsyncClient, series: str, verb: str, ids: list[str], **more: Any) -> httpx.Response:
    """approve, reject, cancel or bulkDelete."""
    body = {"registrants": [{"id": id_} for id_ in ids], **more}
    return await client.post(f"/v1/meetings/{series}/registrants/{verb}", json=body)


async def ledger(client: httpx.AsyncClient) -> dict[str, Any]:
    """What the sandbox recorded."""
    return dict((await client.get("/sandbox/ledger")).json())
