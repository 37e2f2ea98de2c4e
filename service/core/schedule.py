"""When to look at a meeting again."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from service.core.ledger import KnownMeeting


class Due(StrEnum):
    """What kind of look is due."""

    NOTHING = "nothing"
    INCREMENTAL = "incremental"
    FULL = "full"


def due(
    known: KnownMeeting, *, looked: datetime | None, now: datetime, interval: timedelta, full_interval: timedelta
) -> Due:
    """The look that is due for a known meeting, last looked at ``looked`` (None: not by this process)."""
    if known.full is None or now - known.full >= full_interval:
        # A full look that fails is not repeated faster than an incremental one.
        return Due.FULL if looked is None or now - looked >= interval else Due.NOTHING
    return Due.INCREMENTAL if looked is None or now - looked >= interval else Due.NOTHING
