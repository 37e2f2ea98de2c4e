"""How long to wait before the next try."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.retry import RetryBudget, backoff, retry_after

NOW = datetime(2026, 1, 10, 9, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        (" 30 ", 30.0),
        ("194", 194.0),
        ("1.5", 1.5),
        ("0", 1.0),
        ("0.2", 1.0),
        ("900", 900.0),
        ("901", 900.0),
        ("86400", 900.0),
        ("9" * 5000, 900.0),
        (None, 15.0),
        ("", 15.0),
        ("   ", 15.0),
        ("rand(30),add(30)", 15.0),
        ("-5", 15.0),
        ("+5", 15.0),
        ("1e3", 15.0),
        ("nan", 15.0),
        ("inf", 15.0),
        ("0x1F", 15.0),
        ("1_000", 15.0),
        ("30s", 15.0),
        ("30, 60", 15.0),
        ("\u0663\u0660", 15.0),
        ("soon", 15.0),
        ("Sat, 10 Jan 2026 09:02:00 GMT", 120.0),
        ("Sat, 10 Jan 2026 08:00:00 GMT", 1.0),
        ("Sun, 11 Jan 2026 09:00:00 GMT", 900.0),
        ("Saturday, 10-Jan-26 09:01:00 GMT", 60.0),
        ("Sat Jan 10 09:01:00 2026", 60.0),
        ("Sat, 10 Jan 2026 10:01:00 +0100", 60.0),
        ("Sat, 10 Jan 2026 09:01:00 -0000", 60.0),
        ("Sat, 32 Jan 2026 09:01:00 GMT", 15.0),
        ("Sat, 10 Jan 99999 09:01:00 GMT", 15.0),
        ("Sat, 10 Jan 2026 09:01:00 " + "GMT" * 1000, 15.0),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_retry_after_is_understood_or_replaced(value: str | None, seconds: float) -> None:
    """Seconds and HTTP dates count, up to a cap and not below one second; anything else is the default."""
    assert retry_after(value, now=NOW) == seconds


def test_the_default_and_the_cap_are_the_caller_s() -> None:
    """Both can be set, and the cap holds for the default too."""
    assert retry_after(None, now=NOW, default=7.0) == 7.0
    assert retry_after("50", now=NOW, cap=20.0) == 20.0
    assert retry_after(None, now=NOW, default=60.0, cap=20.0) == 20.0


def test_a_date_without_a_zone_is_in_utc() -> None:
    """Wherever the caller's clock is set, HTTP dates are in UTC."""
    now = NOW.astimezone(timezone(timedelta(hours=5)))

    assert retry_after("Sat Jan 10 09:01:00 2026", now=now) == 60.0


@given(value=st.none() | st.text() | st.from_regex(r"[A-Za-z]{3}, \d+ [A-Za-z]{3} \d+ \d+:\d+:\d+ .{0,6}"))
def test_any_header_gives_a_sane_wait(value: str | None) -> None:
    """Whatever a server sends, the wait is between one second and the cap."""
    assert 1.0 <= retry_after(value, now=NOW) <= 900.0


@given(ahead=st.integers(min_value=1, max_value=900))
def test_a_date_means_the_time_until_then(ahead: int) -> None:
    """An HTTP date is as good as the seconds until then."""
    assert retry_after(format_datetime(NOW + timedelta(seconds=ahead), usegmt=True), now=NOW) == ahead


@pytest.mark.parametrize(
    ("attempt", "chance", "seconds"),
    [(0, 0.5, 0.5), (1, 0.5, 1.0), (2, 0.25, 1.0), (5, 0.5, 16.0), (6, 0.5, 30.0), (60, 0.5, 30.0), (3, 0.0, 0.0)],
)
def test_backoff_doubles_up_to_its_cap(attempt: int, chance: float, seconds: float) -> None:
    """The range doubles with every attempt, and chance says where in it."""
    assert backoff(attempt, chance=chance) == seconds


@given(attempt=st.integers(), chance=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_backoff_stays_in_its_range(attempt: int, chance: float) -> None:
    """For any attempt, the wait is at least nothing and less than the cap."""
    assert 0.0 <= backoff(attempt, chance=chance, base=2.0, cap=30.0) <= 30.0


def chi_squared(counts: list[int]) -> float:
    """How far ``counts`` are from being even."""
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 / mean for count in counts)


@pytest.mark.parametrize("seed", range(5))
def test_retries_after_a_common_failure_are_spread_evenly(seed: int) -> None:
    """500 callers that fail together come back evenly over the whole range: chi-squared over bins of 100 ms, p > 0.01."""
    chance = random.Random(seed)  # noqa: S311 - the same each time
    bins = [0] * 50
    for _ in range(500):
        bins[int(backoff(4, base=0.5, cap=5.0, chance=chance.random()) * 10)] += 1
    assert chi_squared(bins) < 74.92  # 49 degrees of freedom
    assert max(bins) <= 3 * 10


def test_at_first_a_few_repetitions_are_there() -> None:
    """Twenty can be saved up, and no more."""
    budget = RetryBudget()
    for _ in range(20):
        assert budget.allows(0.0)
        budget = budget.repeated(0.0)
    assert not budget.allows(0.0)
    assert budget.allows(5.0)
    assert RetryBudget().left_at(1e9) == 20.0


def test_a_tenth_of_what_is_sent_may_be_sent_again() -> None:
    """Ten calls earn one repetition."""
    budget = RetryBudget(left=0.0, trickle=0.0)
    for n in range(11):
        assert not budget.allows(0.0), n
        budget = budget.sent(0.0)
        if n >= 10:
            assert budget.allows(0.0)


@given(steps=st.lists(st.tuples(st.sampled_from(["send", "repeat"]), st.floats(min_value=0, max_value=20))))
def test_repetitions_never_exceed_the_budget(steps: list[tuple[str, float]]) -> None:
    """Whatever the order: a tenth of what was sent, one each five seconds, and twenty."""
    budget, now, sent, repeated = RetryBudget(), 0.0, 0, 0
    for step, gap in steps:
        now += gap
        if step == "repeat" and budget.allows(now):
            budget, repeated = budget.repeated(now), repeated + 1
        budget, sent = budget.sent(now), sent + 1
        assert repeated <= 20 + 0.1 * sent + 0.2 * now + 1e-6
        assert 0.0 <= budget.left_at(now) <= 20.0
