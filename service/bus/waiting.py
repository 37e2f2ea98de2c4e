"""From callbacks to those who wait: the hot path makes no future for each record, everybody else likes to ``await``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Told how an offer ended: None when it is durable.
Done = Callable[[Exception | None], None]


def resolve(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    """Its result, or its error; nothing where whoever waited has gone."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def durable(offer: Callable[[Done], T], withdraw: Callable[[T], None]) -> None:
    """Return once what ``offer`` takes is durable, or raise what it is told; cancelled, it is withdrawn."""
    stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: Exception | None) -> None:
        resolve(stored, None, error)

    offered = offer(done)
    try:
        await stored
    except asyncio.CancelledError:
        withdraw(offered)
        raise
