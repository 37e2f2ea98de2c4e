"""When a meeting is looked at again, in whose turn, and when it is forgotten.

Every known meeting with registration is looked at within the interval that the operator chose. On top of that some are
looked at more often, as far as the rate allows: every few seconds while people register, or shortly before the meeting and
while it is on; every minute on the day before. Times come in; what Webex or another clock says wrongly must not stop us.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from service.core.ledger import KnownMeeting, Memory

#: How often a meeting is looked at while something happens, and while something is about to.
HOT, WARM = timedelta(seconds=5), timedelta(seconds=60)
#: No meeting is looked at for more than a fifth of the time: where thousands register at once, one look is a hundred calls.
REST = 5
#: So long after somebody new was seen, or a hint came, more may come.
ACTIVE = timedelta(minutes=10)
#: A meeting is hot so long before its start, and warm so long.
HOT_BEFORE, WARM_BEFORE = timedelta(minutes=15), timedelta(days=1)
#: One that Webex does not find any more, or that is over, is only looked at to find out whether that is still so.
RARELY = timedelta(days=1)
#: What is remembered of a meeting that is over is kept so long, and of one that was deleted.
KEPT, KEPT_DELETED = timedelta(days=30), timedelta(days=1)
#: Webex itself deletes meetings so long after they end: whatever was not found for that time never comes back.
KEPT_MISSING = timedelta(days=180)
#: With more registrants than this, people who wait for a place do not make the look at all of them come sooner.
FEW = 1000
#: Calls of the usual look: the meeting, and who registered lately.
CALLS = 2
#: The times of other processes may be ahead of ours by so much.
_CLOCKS_DIFFER = timedelta(minutes=1)

EVER, NEVER = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)

T = TypeVar("T")


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """The longest time between two looks at a meeting, and between two full ones."""

    interval: timedelta
    full_interval: timedelta


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What this process knows of a meeting: ``since`` when, when it was last ``looked`` at and how long that ``took``, and
    when a hint last came.
    """

    since: datetime
    looked: datetime | None = None
    took: timedelta = timedelta(0)
    hinted: datetime | None = None

    def not_after(self, now: datetime) -> Past:
        """The same, where the clock was not put back meanwhile."""
        if max(self.since, self.looked or self.since, self.hinted or self.since) <= now:
            return self
        return Past(since=now, looked=now if self.looked else None)


class NextLook(msgspec.Struct, frozen=True, kw_only=True):
    """A look is wanted ``soon``, owed at the ``latest``, and has to be a full one from ``full`` on."""

    soon: datetime
    latest: datetime
    full: datetime = NEVER


class _Stage(msgspec.Struct, frozen=True):
    """From ``begin`` until ``end`` a meeting is looked at every ``pace``."""

    pace: timedelta
    begin: datetime = EVER
    end: datetime = NEVER


def next_look(
    known: KnownMeeting, past: Past, *, series: str, rhythm: Rhythm, now: datetime, waiting: bool = False
) -> NextLook:
    """When the meeting is looked at next. ``waiting``: a few registrants, of whom some wait for a place."""
    if known.missing is not None or not known.registration:
        at = _rarely(known, past, series, rhythm)
        return NextLook(soon=at, latest=at)
    full = _full_from(known, series, rhythm, now=now, waiting=waiting)
    latest = _in_stage(_Stage(rhythm.interval), past, series)
    if past.looked is None:
        latest = min(latest, max(full, _spread(past, series, rhythm.interval)))
    elif past.looked < full:  # a full look that failed is not repeated faster than another one
        latest = min(latest, full)
    soon = min((_in_stage(stage, past, series) for stage in _livelier(known, past, rhythm)), default=NEVER)
    return NextLook(soon=min(soon, latest), latest=latest, full=full)


def _livelier(known: KnownMeeting, past: Past, rhythm: Rhythm) -> Iterator[_Stage]:
    """When it is looked at more often than it must be."""
    hot, warm = (min(max(pace, REST * past.took), rhythm.interval) for pace in (HOT, WARM))
    if known.active is not None:
        yield _Stage(hot, _moved(known.active), _moved(known.active, ACTIVE))
    if past.hinted is not None:
        # Only warm: our own change of a meeting comes back as a hint, and meeting rules change many at once.
        yield _Stage(warm, past.hinted, past.hinted + ACTIVE)
    if known.start is not None:
        # Of a series we know the first occurrence only: it stays warm for the others.
        end = _moved(known.end or known.start)
        yield _Stage(warm, _moved(known.start, -WARM_BEFORE), NEVER if known.recurring else end)
        yield _Stage(hot, _moved(known.start, -HOT_BEFORE), end)


def _in_stage(stage: _Stage, past: Past, series: str) -> datetime:
    at = _spread(past, series, stage.pace) if past.looked is None else past.looked + stage.pace
    at = max(at, stage.begin)
    return at if at < stage.end else NEVER


def _spread(past: Past, series: str, pace: timedelta) -> datetime:
    """The first look after a restart: not all at once, yet no later than half a pace, since nobody looked for a while."""
    return past.since + phase(series) * pace / 2


def _rarely(known: KnownMeeting, past: Past, series: str, rhythm: Rhythm) -> datetime:
    looked = _spread(past, series, rhythm.interval) if past.looked is None else past.looked + RARELY
    if known.missing is not None:
        again = _moved(known.missing, rhythm.interval)  # one 404 may have been a slip: it is asked for once more soon
        return max(looked, _moved(known.missing, RARELY)) if past.looked is None or past.looked >= again else again
    if known.recurring or known.end is None:
        return NEVER
    return max(looked, _moved(known.end, KEPT))  # once more, before it is forgotten


def _full_from(known: KnownMeeting, series: str, rhythm: Rhythm, *, now: datetime, waiting: bool) -> datetime:
    """Full looks have fixed dates, other ones for each meeting: so they stay spread out, whenever they began."""
    if known.full is None or _moved(known.full) > now + _CLOCKS_DIFFER:
        return EVER
    if waiting:
        return _moved(known.full, min(rhythm.interval, rhythm.full_interval))
    seconds, offset = rhythm.full_interval.total_seconds(), phase(series)
    date = math.floor(_moved(known.full).timestamp() / seconds - offset) + 1
    return datetime.fromtimestamp((date + offset) * seconds, UTC)


def phase(series: str) -> float:
    """Where in every period a meeting has its turn, from 0 up to 1: always the same."""
    return zlib.crc32(series.encode()) / 2**32


def _moved(moment: datetime, by: timedelta = timedelta(0)) -> datetime:
    """``moment`` and so much later; what Webex gives may lie anywhere, at the edges of time too."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return aware.astimezone(UTC) + by
    except OverflowError:
        return EVER if aware.year < 2000 else NEVER


def few_wait(registrants: Mapping[str, Memory]) -> bool:
    """Whether somebody waits for a place, and a full look costs little."""
    return len(registrants) <= FEW and any(one.seen is not None and one.seen.waiting for one in registrants.values())


# --- whose turn it is ---------------------------------------------------------------------------------------------------


def choose(owed: Sequence[T], wanted: Sequence[T], room: int, *, turn: int = 0) -> list[T]:
    """Who of those that are due is looked at now, where there is ``room`` for so many looks.

    While both are there each has half, so neither starves: not the meetings that only have to be looked at in time, and not
    the lively ones, which are ``wanted`` sooner and never have more than half. ``turn`` (0 or 1) says whose the odd one is.
    """
    lively = wanted[: max(0, (room + turn) // 2)]
    return [*owed[: max(0, room - len(lively))], *lively]


def looks(calls_per_second: float, seconds: float) -> float:
    """So many looks fit into ``seconds``."""
    return max(0.0, calls_per_second) * seconds / CALLS


def by_start(known: KnownMeeting, *, now: datetime) -> tuple[int, datetime]:
    """Sorts meetings: those that are on or come next, then series whose next occurrence we do not know, then the others."""
    start = _moved(known.start) if known.start else NEVER
    if known.start is not None and _moved(known.end or known.start) > now:
        return 0, start
    return (1 if known.recurring or known.start is None else 2), start


# --- when it is forgotten -----------------------------------------------------------------------------------------------


def retired(known: KnownMeeting, now: datetime) -> bool:
    """Whether all that is remembered of a meeting may be forgotten. Ask after a look that has found the same once more.

    ``missing`` says that Webex does not find it; the form is gone from a meeting that is over (Meetings guide).
    """
    gone = timedelta(0) if known.missing is None else now - _moved(known.missing)
    if gone >= (KEPT_DELETED if known.deleted else KEPT_MISSING):
        return True
    over = not known.recurring and known.end is not None and now - _moved(known.end) > KEPT
    return over and (known.missing is not None or not known.registration)
