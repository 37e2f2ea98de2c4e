"""Times as people type them: a span back from now (``90m``, ``2h``, ``7d``), or a moment in ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d{1,6})([smhdw])")

Since = Annotated[
    str, typer.Option("--since", metavar="SPAN", help="How far back: 90m, 2h, 7d, or a moment in ISO 8601 (UTC).")
]


def moment_of(text: str, *, now: datetime) -> datetime:
    """The moment that ``text`` means. Raises ValueError."""
    if found := _SPAN.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 90m, 2h, 7d, or 2027-01-10T09:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
