"""When a recurring meeting takes place: the part of RFC 2445's rules that Webex's own examples use. Pure.

FREQ (DAILY, WEEKLY, MONTHLY, YEARLY), INTERVAL, COUNT, UNTIL, and BYDAY for a week; other parts are ignored. A rule with an
end stops at Webex's limits: 5 yearly, 60 monthly, 261 weekly, 1826 daily occurrences (Meetings API, "Create a Meeting").
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta

from service.sandbox.refusals import invalid

_MOST = {"DAILY": 1826, "WEEKLY": 261, "MONTHLY": 60, "YEARLY": 5}
_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_PART = re.compile(r"([A-Z]+)=([^;=]+)")


@dataclass(frozen=True)
class Recurrence:
    """A rule that was understood."""

    frequency: str
    interval: int
    count: int
    until: datetime | None
    days: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Recurrence:
        """Raises Refusal (400)."""
        parts = {
            match[1]: match[2] for part in text.removeprefix("RRULE:").split(";") if (match := _PART.fullmatch(part))
        }
        try:
            frequency = parts["FREQ"]
            most = _MOST[frequency]
            until = (
                datetime.strptime(parts["UNTIL"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if "UNTIL" in parts else None
            )
            interval, count = int(parts.get("INTERVAL", 1)), int(parts.get("COUNT", most))
            days = tuple(sorted(_DAYS.index(day) for day in parts["BYDAY"].split(","))) if "BYDAY" in parts else ()
        except (KeyError, ValueError) as error:
            raise invalid("recurrence is not a rule of RFC 2445 that is understood here.") from error
        if not 1 <= interval <= 1000 or count < 1:
            raise invalid("INTERVAL and COUNT of recurrence are positive.")
        return cls(frequency, interval, min(count, most), until, days)

    def starts(self, first: datetime) -> Iterator[datetime]:
        """Every occurrence, the first one included."""
        for moment in itertools.islice(self._candidates(first), self.count):
            if self.until and moment > self.until:
                return
            yield moment

    def _candidates(self, first: datetime) -> Iterator[datetime]:
        try:
            for step in range(0, 4000 * self.interval, self.interval):
                yield from self._period(first, step)
        except OverflowError:
            return

    def _period(self, first: datetime, step: int) -> Iterator[datetime]:
        match self.frequency:
            case "DAILY":
                yield first + timedelta(days=step)
            case "WEEKLY":
                monday = first - timedelta(days=first.weekday()) + timedelta(weeks=step)
                moments = (monday + timedelta(days=day) for day in self.days or (first.weekday(),))
                yield from (moment for moment in moments if moment >= first)
            case "MONTHLY":
                yield from _same_day(first, months=step)
            case _:
                yield from _same_day(first, months=12 * step)


def _same_day(first: datetime, *, months: int) -> Iterator[datetime]:
    """The same day so many months later, where that month has one."""
    years, month = divmod(first.month - 1 + months, 12)
    if first.year + years > MAXYEAR:
        raise OverflowError
    try:
        yield first.replace(year=first.year + years, month=month + 1)
    except ValueError:
        return
