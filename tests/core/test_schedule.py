"""When a known meeting is looked at again, in whose turn, and when it is forgotten."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.ledger import KnownMeeting, Memory, Seen
from service.core.schedule import (
    EVER,
    FEW,
    NEVER,
    NextLook,
    Past,
    Rhythm,
    by_start,
    choose,
    few_wait,
    looks,
    next_look,
    phase,
    retired,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SERIES = "5" * 32
RHYTHM = Rhythm(interval=timedelta(seconds=300), full_interval=timedelta(seconds=3600))
MINUTE, HOUR, DAY = 60, 3600, 86_400
LONG_AGO = 40 * DAY


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def known(**fields: Any) -> KnownMeeting:
    """A meeting that was looked at fully just now, but for what is given."""
    return KnownMeeting(organization="default", **{"full": NOW, **fields})


def asked(meeting: KnownMeeting, *, looked: float | None = 0, hinted: float | None = None, **more: Any) -> NextLook:
    past = Past(
        since=ago(LONG_AGO),
        looked=None if looked is None else ago(looked),
        hinted=None if hinted is None else ago(hinted),
    )
    return next_look(meeting, past, **{"series": SERIES, "rhythm": RHYTHM, "now": NOW, **more})


def seconds(moment: datetime) -> float:
    return (moment - NOW).total_seconds()


@pytest.mark.parametrize(
    ("fields", "hinted", "soon"),
    [
        pytest.param({}, None, 300, id="cold"),
        pytest.param({"active": ago(0)}, None, 5, id="somebody new"),
        pytest.param({"active": ago(599)}, None, 300, id="somebody new, but by the next look long ago"),
        pytest.param({"active": ago(594)}, None, 5, id="somebody new nearly ten minutes ago"),
        pytest.param({}, 0, 60, id="a hint"),
        pytest.param({}, 599, 300, id="a hint long ago"),
        pytest.param({"start": ago(-2 * DAY), "end": ago(-2 * DAY)}, None, 300, id="in two days"),
        pytest.param({"start": ago(-DAY - 100), "end": ago(-2 * DAY)}, None, 100, id="soon the day before"),
        pytest.param({"start": ago(-HOUR), "end": ago(-2 * HOUR)}, None, 60, id="today"),
        pytest.param({"start": ago(-16 * MINUTE), "end": ago(-HOUR)}, None, 60, id="in a quarter and a minute"),
        pytest.param({"start": ago(-15 * MINUTE - 30), "end": ago(-HOUR)}, None, 30, id="from a quarter before on"),
        pytest.param({"start": ago(-MINUTE), "end": ago(-HOUR)}, None, 5, id="begins in a minute"),
        pytest.param({"start": ago(HOUR), "end": ago(-HOUR)}, None, 5, id="is on"),
        pytest.param({"start": ago(HOUR), "end": ago(-4)}, None, 300, id="ends"),
        pytest.param({"start": ago(HOUR), "end": ago(1)}, None, 300, id="is over"),
        pytest.param({"start": ago(-MINUTE)}, None, 5, id="no end was given"),
        pytest.param({"start": ago(LONG_AGO), "end": ago(LONG_AGO), "recurring": True}, None, 60, id="recurs"),
        pytest.param({"start": ago(-9 * DAY), "end": ago(-9 * DAY), "recurring": True}, None, 300, id="will recur"),
        pytest.param({"registration": False}, None, None, id="nobody can register"),
        pytest.param({"registration": False, "end": ago(LONG_AGO)}, None, DAY, id="over, before it is forgotten"),
        pytest.param({"registration": False, "end": ago(DAY)}, None, 29 * DAY, id="over, kept for a month"),
        pytest.param({"registration": False, "end": ago(LONG_AGO), "recurring": True}, None, None, id="recurs still"),
        pytest.param({"missing": ago(HOUR), "active": NOW}, None, DAY, id="not found"),
        pytest.param({"missing": ago(0)}, 0, 300, id="not found just now: it may have been a slip"),
        pytest.param({"missing": ago(HOUR), "registration": False}, 0, DAY, id="not found, and nobody could register"),
    ],
)
def test_lively_meetings_are_looked_at_often(fields: dict[str, Any], hinted: float | None, soon: float | None) -> None:
    """Start time and recent activity say how soon after a look the next one is wanted."""
    found = asked(known(**fields), hinted=hinted).soon

    assert (None if found == NEVER else seconds(found)) == soon


@pytest.mark.parametrize("interval", [1, 4])
def test_no_meeting_is_looked_at_less_often_than_the_interval(interval: float) -> None:
    """Where the operator wants every meeting looked at every second, warm and hot ones are too."""
    rhythm = Rhythm(interval=timedelta(seconds=interval), full_interval=timedelta(hours=1))
    meetings = (known(), known(active=NOW), known(start=NOW, end=NOW + timedelta(hours=1)), known(recurring=True))

    assert {seconds(asked(meeting, rhythm=rhythm).latest) for meeting in meetings} == {interval}
    assert {seconds(asked(meeting, rhythm=rhythm).soon) for meeting in meetings} == {interval}


@pytest.mark.parametrize(("took", "soon"), [(0, 5), (1, 5), (-1, 5), (4, 20), (40, 200), (400, 300)])
def test_looks_that_take_long_come_less_often(took: float, soon: float) -> None:
    """A hot meeting is looked at for a fifth of the time at most, and in time all the same."""
    past = Past(since=NOW, looked=NOW, took=timedelta(seconds=took))

    assert seconds(next_look(known(active=NOW), past, series=SERIES, rhythm=RHYTHM, now=NOW).soon) == soon


def test_a_full_look_comes_in_time_and_is_not_repeated_at_once() -> None:
    """It is owed from its date on; where it failed, the next try is the next look."""
    date = asked(known(full=NOW)).full

    assert NOW < date <= NOW + RHYTHM.full_interval
    assert seconds(asked(known(full=ago(280)), waiting=True).latest) == 20
    assert asked(known(full=ago(DAY)), looked=10) == NextLook(
        soon=ago(10 - 300), latest=ago(10 - 300), full=asked(known(full=ago(DAY))).full
    )


@pytest.mark.parametrize("full", [None, ago(-DAY)])
def test_a_meeting_without_a_full_look_wants_one(full: datetime | None) -> None:
    """So does one whose last full look was made by a clock that is far ahead."""
    assert asked(known(full=full)).full == EVER


def test_full_looks_stay_spread_out() -> None:
    """A thousand meetings first seen in the same second have their second full look at different times of the hour."""
    dates = [next_look(known(), Past(since=NOW), series=f"{n:032x}", rhythm=RHYTHM, now=NOW).full for n in range(1000)]
    minutes = Counter(int(seconds(date) // 60) for date in dates)

    assert len(minutes) == 60
    assert max(minutes.values()) < 40


def test_first_looks_after_a_restart_are_spread_over_half_an_interval() -> None:
    """Neither all at once nor late: nobody knows when they were last looked at. Hot ones come within seconds."""
    fresh = Past(since=NOW)
    plans = [next_look(known(), fresh, series=f"{n:032x}", rhythm=RHYTHM, now=NOW) for n in range(1000)]
    tenths = Counter(int(seconds(plan.latest) // 15) for plan in plans)
    hot = next_look(known(active=NOW), fresh, series=SERIES, rhythm=RHYTHM, now=NOW)

    assert len(tenths) == 10
    assert max(tenths.values()) < 140
    assert seconds(hot.soon) < 2.5


def test_few_who_wait_for_a_place_make_full_looks_frequent() -> None:
    """A place that a person gives back is only seen by a full look; where these cost much they come as usual."""
    waits = Memory(seen=Seen(status="pending", waiting=True))
    some = {"a": Memory(), "b": waits}
    many = some | {str(n): Memory() for n in range(FEW)}

    assert few_wait(some)
    assert not few_wait({"a": Memory(seen=Seen(status="pending"))})
    assert not few_wait(many)
    assert seconds(asked(known(), waiting=True).full) == 300


times = st.datetimes(timezones=st.sampled_from([None, UTC])) | st.sampled_from(
    [EVER, NEVER, EVER.replace(tzinfo=None), NEVER.replace(tzinfo=None)]
)
meetings = st.builds(
    KnownMeeting,
    organization=st.just("default"),
    **dict.fromkeys(("full", "active", "start", "end", "missing"), st.none() | times),
    **dict.fromkeys(("registration", "recurring", "deleted"), st.booleans()),
)


@given(meeting=meetings, looked=st.none() | st.floats(0, 1e6), hinted=st.none() | st.floats(0, 1e6))
def test_no_time_that_webex_gives_can_stop_the_sweep(
    meeting: KnownMeeting, looked: float | None, hinted: float | None
) -> None:
    """Whatever is remembered, there is a plan; and a meeting for which people register is owed a look in time."""
    plan = asked(meeting, looked=looked, hinted=hinted)
    retired(meeting, NOW)
    by_start(meeting, now=NOW)

    assert plan.soon <= plan.latest
    if meeting.registration and meeting.missing is None and looked is not None:
        assert plan.latest <= ago(looked) + RHYTHM.interval


def test_a_clock_that_was_put_back_does_not_hold_up_looks() -> None:
    """What is dated in the future counts as now; what is not stays as it is."""
    ahead = Past(since=ago(-HOUR), looked=ago(-2 * HOUR), hinted=ago(-HOUR))
    fine = Past(since=ago(1), looked=NOW)

    assert ahead.not_after(NOW) == Past(since=NOW, looked=NOW)
    assert fine.not_after(NOW) is fine


@pytest.mark.parametrize(
    ("owed", "wanted", "room", "turn", "chosen"),
    [
        pytest.param("abcd", "", 3, 0, "abc", id="only owed"),
        pytest.param("", "xyz", 2, 0, "x", id="lively ones have half"),
        pytest.param("", "xyz", 1, 0, "", id="the odd one is the others'"),
        pytest.param("", "xyz", 1, 1, "x", id="the odd one is theirs, next time"),
        pytest.param("abcd", "xyz", 4, 0, "abxy", id="half and half"),
        pytest.param("abcd", "xyz", 3, 1, "axy", id="the odd one"),
        pytest.param("a", "xyz", 4, 0, "axy", id="few owed"),
        pytest.param("abcd", "x", 4, 0, "abcx", id="few lively"),
        pytest.param("abcd", "xyz", 0, 1, "", id="no room"),
        pytest.param("abcd", "xyz", -2, 0, "", id="less than no room"),
    ],
)
def test_whose_turn_it_is(owed: str, wanted: str, room: int, turn: int, chosen: str) -> None:
    """Neither the meetings that have to be looked at in time nor the lively ones starve."""
    assert "".join(choose(owed, wanted, room, turn=turn)) == chosen


@pytest.mark.parametrize(("rate", "count"), [(50.0, 25.0), (0.5, 0.25), (0.0, 0.0), (-1.0, 0.0)])
def test_how_many_looks_a_rate_allows(rate: float, count: float) -> None:
    """A look costs two calls."""
    assert looks(rate, 1.0) == count


def test_the_soonest_first() -> None:
    """What is on, what comes next, series whose next occurrence we do not know, and what is over."""
    order = [
        known(start=ago(HOUR), end=ago(-HOUR)),
        known(start=ago(-HOUR), end=ago(-2 * HOUR)),
        known(start=ago(-DAY), end=ago(-2 * DAY), recurring=True),
        known(start=ago(2 * DAY), end=ago(DAY), recurring=True),
        known(),
        known(start=ago(2 * DAY), end=ago(DAY)),
    ]

    shuffled = [order[number] for number in (3, 5, 0, 4, 2, 1)]

    assert sorted(shuffled, key=lambda meeting: by_start(meeting, now=NOW)) == order


@pytest.mark.parametrize(
    ("fields", "forgotten"),
    [
        pytest.param({}, False, id="in use"),
        pytest.param({"missing": ago(HOUR), "deleted": True}, False, id="deleted an hour ago"),
        pytest.param({"missing": ago(DAY), "deleted": True}, True, id="deleted yesterday"),
        pytest.param({"deleted": True, "end": ago(DAY)}, False, id="said to be deleted, but Webex shows it"),
        pytest.param({"missing": ago(DAY)}, False, id="not found for a day"),
        pytest.param({"missing": ago(179 * DAY), "recurring": True}, False, id="not found for months"),
        pytest.param({"missing": ago(180 * DAY), "recurring": True}, True, id="Webex itself has deleted it by now"),
        pytest.param({"missing": ago(HOUR), "end": ago(31 * DAY)}, True, id="over a month ago and not found"),
        pytest.param({"missing": ago(HOUR), "end": ago(29 * DAY)}, False, id="over lately and not found"),
        pytest.param({"registration": False, "end": ago(31 * DAY)}, True, id="over a month ago"),
        pytest.param({"registration": False, "end": ago(29 * DAY)}, False, id="over lately"),
        pytest.param({"end": ago(31 * DAY)}, False, id="over, but people still register"),
        pytest.param({"registration": False}, False, id="nobody knows its end"),
        pytest.param({"registration": False, "end": ago(31 * DAY), "recurring": True}, False, id="it recurs"),
    ],
)
def test_what_is_forgotten(fields: dict[str, Any], forgotten: bool) -> None:
    """Only what is over or gone for good: with it go the decisions of people."""
    assert retired(known(**fields), NOW) is forgotten


def test_the_turn_of_a_meeting_is_always_the_same() -> None:
    """In every process and version."""
    assert phase(SERIES) == 0.9232096346095204
