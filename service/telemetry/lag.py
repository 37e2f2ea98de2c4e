"""How late the event loop is: whatever keeps it busy keeps everybody else waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Seconds between two looks.
INTERVAL = 0.5


async def watch_lag(
    tell: Callable[[float], None], *, interval: float = INTERVAL, monotonic: Callable[[], float] = time.monotonic
) -> None:
    """Until cancelled, tell every ``interval`` seconds by how many seconds a timer came too late."""
    while True:
        due = monotonic() + interval
        await asyncio.sleep(interval)
        tell(max(0.0, monotonic() - due))
