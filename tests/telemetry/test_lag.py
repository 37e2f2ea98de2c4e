"""How late the event loop is."""

from __future__ import annotations

import asyncio
import contextlib
import time

from service.telemetry.lag import watch_lag


async def test_whatever_blocks_the_loop_shows() -> None:
    """A timer that is in time is hardly late; one that finds the loop blocked is late by that."""
    told = list[float]()
    watching = asyncio.ensure_future(watch_lag(told.append, interval=0.01))
    await asyncio.sleep(0.1)
    quiet = min(told)
    time.sleep(0.2)  # noqa: ASYNC251 - that is what is to be seen
    await asyncio.sleep(0.05)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching

    assert 0 <= quiet < 0.1
    assert max(told) > 0.15
