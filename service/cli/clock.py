"""Time, for everything that asks for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache

from service.core.event import rfc3339


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def rfc3339_now() -> str:
    """The same as events carry it, to the millisecond."""
    return _written(time.time_ns() // 1_000_000)


@lru_cache(maxsize=16)  # many webhooks come in one millisecond
def _written(milliseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000))
