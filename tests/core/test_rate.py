"""How fast one credential may call, who goes next, and when nobody goes. Time is a number here."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.rate import Circuit, Lane, Lanes, Limits, Pace

LIVE, SWEEP = Lane.LIVE, Lane.SWEEP
LIMITS = Limits()


def _sent(pace: Pace, now: float, times: int = 1) -> Pace:
    for _ in range(times):
        pace = pace.sent(now)
    return pace


# --- the speed ----------------------------------------------------------------------------------------------------------


def test_after_a_rest_a_burst_goes_at_once_and_then_calls_are_even() -> None:
    """Ten at once, then one each 20 ms."""
    pace = Pace.begin(LIMITS)
    for _ in range(10):
        assert pace.delay(100.0) == 0.0
        pace = pace.sent(100.0)
    assert pace.delay(100.0) == pytest.approx(0.02)
    pace = pace.sent(100.02)
    assert pace.delay(100.02) == pytest.approx(0.02)
    assert pace.delay(1000.0) == 0.0


@given(gaps=st.lists(st.floats(min_value=0, max_value=3), min_size=1, max_size=80), rate=st.floats(0.5, 50))
def test_no_stretch_of_time_has_more_calls_than_burst_and_speed_allow(gaps: list[float], rate: float) -> None:
    """Whoever asks when, calls stay below burst + speed x time between any two of them."""
    pace = Pace.begin(Limits(start=rate, burst=5))
    now, times = 0.0, []
    for gap in gaps:
        now += gap
        now += pace.delay(now)
        pace = pace.sent(now)
        times.append(now)
    for first, last in itertools.combinations(range(len(times)), 2):
        assert last - first + 1 <= 5 + rate * (times[last] - times[first]) + 1e-3


def test_nobody_sends_before_the_moment_that_webex_named() -> None:
    """Then one call goes out, and the next one only at the lowered speed."""
    pace = _sent(Pace.begin(LIMITS), 100.0, 8).throttled(100.0, sent=100.0, wait=30.0)
    assert pace.shut_for(100.0) == pace.delay(100.0) == 30.0
    assert pace.delay(129.0) == 1.0
    assert pace.delay(130.0) == 0.0
    assert pace.sent(130.0).delay(130.0) == pytest.approx(1 / pace.rate)


@given(waits=st.lists(st.floats(min_value=1, max_value=900), min_size=1, max_size=10))
def test_the_latest_moment_counts(waits: list[float]) -> None:
    """A shorter Retry-After never opens the gate that a longer one shut."""
    pace = _sent(Pace.begin(LIMITS), 0.0)
    for wait in waits:
        pace = pace.throttled(0.0, sent=0.0, wait=wait)
    assert pace.shut_for(0.0) == max(waits)
    assert pace.delay(max(waits) / 2) == pytest.approx(max(waits) / 2)


def test_the_speed_is_lowered_once_for_all_that_were_under_way_together() -> None:
    """Eight 429s of one flight are one piece of news; the next flight's is another."""
    pace = _sent(Pace.begin(LIMITS), 100.0, 8)
    for _ in range(8):
        pace = pace.throttled(100.1, sent=100.0, wait=1.0)
    assert pace.rate == pytest.approx(4.0)
    pace = pace.sent(101.2).throttled(101.3, sent=101.2, wait=1.0)
    assert pace.rate < 2.5


def test_the_speed_is_lowered_from_what_was_used_and_not_below_its_floor() -> None:
    """An allowance that nobody used says nothing; and however often, a call each two seconds remains."""
    quiet = Pace.begin(LIMITS).sent(100.0).throttled(100.1, sent=100.0, wait=1.0)
    assert quiet.rate == 2.5
    for n in range(1, 9):
        quiet = quiet.sent(100.0 + 10 * n).throttled(100.1 + 10 * n, sent=100.0 + 10 * n, wait=1.0)
    assert quiet.rate == LIMITS.floor == 0.5
    busy = Pace.begin(LIMITS)
    for n in range(500):
        busy = busy.sent(n / 50)
    assert busy.throttled(10.0, sent=9.98, wait=1.0).rate == pytest.approx(25.0, rel=0.03)


def test_the_speed_grows_by_the_step_each_second_while_it_is_used() -> None:
    """At full use 2 calls per second more each second, up to the ceiling; unused it stays."""
    pace, now = Pace.begin(Limits(start=10.0, ceiling=30.0, burst=1)), 0.0
    while now < 5.0:
        now += pace.delay(now)
        pace = pace.sent(now).answered(now)
    assert pace.rate == pytest.approx(20.0, abs=3.0)
    while now < 60.0:
        now += pace.delay(now)
        pace = pace.sent(now).answered(now)
    assert pace.rate == 30.0

    idle = Pace.begin(Limits(start=10.0))
    for n in range(100):
        idle = idle.sent(float(n)).answered(float(n))
    assert idle.rate == 10.0


@pytest.mark.parametrize("capacity", [1.0, 3.0, 20.0, 60.0])
def test_the_speed_finds_what_webex_allows(capacity: float) -> None:
    """Against a hidden limit: most of it is used, and few calls are refused."""
    pace, now, tokens, served, refused = Pace.begin(LIMITS), 0.0, capacity, 0, 0
    seen = now
    while now < 600.0:
        now += pace.delay(now)
        pace = pace.sent(now)
        tokens, seen = min(capacity, tokens + (now - seen) * capacity), now
        if tokens >= 1.0:
            tokens, served, pace = tokens - 1.0, served + 1, pace.answered(now)
        else:
            refused, pace = refused + 1, pace.throttled(now, sent=now, wait=1.0)
    assert served >= 0.6 * capacity * 600
    assert refused <= 0.15 * served


# --- the circuit --------------------------------------------------------------------------------------------------------


def _failed(circuit: Circuit, times: int, now: float) -> Circuit:
    for _ in range(times):
        circuit = circuit.failed(now, sent=now)
    return circuit


def test_failures_in_a_row_open_the_circuit() -> None:
    """Seven do not, eight do; then nobody goes before the pause is over."""
    circuit = _failed(Circuit(limits=LIMITS), 7, 100.0)
    assert not circuit.is_open
    assert circuit.refused_for(100.0) == 0.0
    circuit = _failed(circuit, 1, 101.0)
    assert circuit.is_open
    assert circuit.refused_for(101.0) == 5.0
    assert circuit.refused_for(106.0) == 0.0


def test_a_success_between_failures_keeps_it_closed() -> None:
    """One operation that always fails beside others that work is no outage."""
    circuit = Circuit(limits=LIMITS)
    for n in range(20):
        circuit = _failed(circuit, 7, float(n)).succeeded(float(n), sent=float(n))
    assert not circuit.is_open


@pytest.mark.parametrize(("gap", "opens"), [(15.0, True), (15.1, False)])
def test_failures_far_apart_are_not_in_a_row(gap: float, *, opens: bool) -> None:
    """Who calls every minute is not stopped by its own bad luck."""
    circuit = Circuit(limits=LIMITS)
    for n in range(9):
        circuit = circuit.failed(n * gap, sent=n * gap)
    assert circuit.is_open is opens


def test_while_open_one_call_goes_out_each_pause_even_if_it_never_ends() -> None:
    """The probe that hangs does not keep the circuit open for ever."""
    circuit = _failed(Circuit(limits=LIMITS), 8, 100.0)
    went, now = [], 100.0
    while now < 130.0:
        if not circuit.refused_for(now):
            circuit = circuit.sent(now)
            went.append(now)
        now += 0.25
    assert went == [105.0, 110.0, 115.0, 120.0, 125.0]


def test_the_first_answer_closes_it() -> None:
    """Everybody goes again, and it takes eight new failures to open it."""
    circuit = _failed(Circuit(limits=LIMITS), 8, 100.0).sent(105.0).succeeded(105.2, sent=105.0)
    assert not circuit.is_open
    assert circuit.refused_for(105.2) == 0.0
    assert not _failed(circuit, 7, 106.0).is_open
    assert _failed(circuit, 8, 106.0).is_open


def test_what_was_sent_before_a_change_tells_nothing_about_the_time_after() -> None:
    """A late answer from before the outage does not close it, late failures of the outage do not open it again."""
    opened = _failed(Circuit(limits=LIMITS), 8, 100.0)
    assert opened.succeeded(101.0, sent=99.0).is_open
    closed = opened.sent(105.0).succeeded(105.2, sent=105.0)
    for _ in range(20):
        closed = closed.failed(106.0, sent=99.0)
    assert not closed.is_open


@pytest.mark.parametrize(("share", "most"), [(0.1, 0), (0.2, 2), (0.3, 30)])
def test_a_share_of_failures_seldom_opens_it(share: float, most: int) -> None:
    """A fifth of failures at 50 calls per second is not an outage."""
    chance, circuit, openings = random.Random(7), Circuit(limits=LIMITS), 0  # noqa: S311 - the same each time
    for n in range(50 * 600):
        now = n / 50
        if circuit.refused_for(now):
            continue
        was = circuit.is_open
        circuit = circuit.sent(now)
        failed = chance.random() < share
        circuit = circuit.failed(now, sent=now) if failed else circuit.succeeded(now, sent=now)
        openings += circuit.is_open and not was
    assert openings <= most


# --- the lanes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "waiting", "choice"),
    [
        pytest.param(Lanes(slots=8), [], None, id="nobody waits"),
        pytest.param(Lanes(slots=8), [LIVE], LIVE, id="live"),
        pytest.param(Lanes(slots=8), [SWEEP], SWEEP, id="sweep"),
        pytest.param(Lanes(slots=8), [LIVE, SWEEP], LIVE, id="live goes first"),
        pytest.param(Lanes(slots=8, streak=4), [LIVE, SWEEP], SWEEP, id="the fifth is a sweep's"),
        pytest.param(Lanes(slots=8, streak=4), [LIVE], LIVE, id="the fifth too, where no sweep waits"),
        pytest.param(Lanes(slots=8, live=8), [LIVE, SWEEP], None, id="full of live calls"),
        pytest.param(Lanes(slots=8, live=4, sweep=4), [LIVE], None, id="full"),
        pytest.param(Lanes(slots=8, sweep=4), [SWEEP], None, id="sweeps have half"),
        pytest.param(Lanes(slots=8, sweep=4, streak=4), [LIVE, SWEEP], LIVE, id="the other half is for live calls"),
        pytest.param(Lanes(slots=8, live=7), [SWEEP], SWEEP, id="the last slot"),
        pytest.param(Lanes(slots=1), [SWEEP], SWEEP, id="one slot for both"),
    ],
)
def test_whose_turn_it_is(lanes: Lanes, waiting: list[Lane], choice: Lane | None) -> None:
    """Live calls first, half of the slots for sweeps at most, one of five for them at least."""
    assert lanes.choice(waiting) is choice


@given(
    slots=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(["begin", "end live", "end sweep"]), st.sets(st.sampled_from(Lane)))),
)
def test_neither_lane_starves(slots: int, steps: list[tuple[str, set[Lane]]]) -> None:
    """Slots are never exceeded, live calls always have a half, and at most four of them pass a sweep that could go."""
    lanes, passed = Lanes(slots=slots), 0
    for step, waiting in steps:
        if step == "end live" and lanes.live:
            lanes = lanes.ended(LIVE)
        elif step == "end sweep" and lanes.sweep:
            lanes = lanes.ended(SWEEP)
        elif step == "begin" and (lane := lanes.choice(waiting)):
            could = SWEEP in waiting and lanes.sweep < max(1, slots // 2)
            passed = 0 if lane is SWEEP else passed + could
            lanes = lanes.began(lane, waiting)
        assert 0 <= lanes.live + lanes.sweep <= slots
        assert lanes.sweep <= max(1, slots // 2)
        assert passed <= 4
