from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from service.sandbox.world import World
from tests.sandbox.simulated import Clock, client_of, opened


@pytest.fixture
def clock() -> Clock:
    """Time that only the test moves."""
    return Clock()


@pytest.fixture
def world(clock: Clock) -> Iterator[World]:
    """A world in memory."""
    with opened(clock=clock) as world:
        yield world


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that world, with an access token."""
    async with client_of(world) as client:
        yield client
