"""A new version of the policy on trial."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from service.core import trial
from service.core.ledger import KnownMeeting, PolicyRecord

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRIAL = PolicyRecord(accepted="a", trial="b", since=NOW, hour=NOW)


def later(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("record", "version", "shadow", "expected"),
    [
        pytest.param(None, "a", False, PolicyRecord(accepted="a"), id="the first one is accepted"),
        pytest.param(None, "a", True, None, id="but none that only says what it would do"),
        pytest.param(PolicyRecord(accepted="a"), "a", False, PolicyRecord(accepted="a"), id="nothing new"),
        pytest.param(PolicyRecord(accepted="a"), "b", False, TRIAL, id="another one is on trial"),
        pytest.param(PolicyRecord(accepted="a"), "b", True, PolicyRecord(accepted="a"), id="a shadow replaces none"),
        pytest.param(TRIAL, "a", False, PolicyRecord(accepted="a"), id="back to the one before"),
        pytest.param(
            replace(TRIAL, changed=9, held="x"), "b", False, replace(TRIAL, changed=9, held="x"), id="still held"
        ),
        pytest.param(replace(TRIAL, trial="c", changed=9, held="x"), "b", False, TRIAL, id="a third one begins anew"),
    ],
)
def test_opened(record: PolicyRecord | None, version: str, expected: PolicyRecord | None, *, shadow: bool) -> None:
    """The record with which a version is in force."""
    assert trial.opened(record, version, shadow=shadow, now=NOW) == expected


@pytest.mark.parametrize(
    ("changed", "hour", "changes", "registrants", "held"),
    [
        (0, 0, 20, 100, False),
        (0, 0, 21, 100, True),
        (0, 0, 1, 1, True),
        (0, 0, 500, 10_000, False),
        (0, 0, 501, 10_000, True),
        (480, 0, 20, 100, False),
        (480, 0, 20, 99, True),
        (490, 0, 11, 100, True),
        (490, 60, 11, 100, False),
        (500, 0, 0, 100, False),
    ],
)
def test_judged(changed: int, hour: float, changes: int, registrants: int, *, held: bool) -> None:
    """More than a fifth of a meeting, or more than 500 within an hour of the first."""
    record = replace(TRIAL, changed=changed)

    judged = trial.judged(record, changes=changes, registrants=registrants, now=later(hour))

    assert bool(judged.held) == held
    assert trial.is_held(judged, "b") == held
    assert not trial.is_held(judged, "c")


def test_counted() -> None:
    """Changes add up for an hour; the one beyond 500 is not counted, but holds the version."""
    record = trial.counted(trial.counted(TRIAL, 100, later(30)), 100, later(80))
    assert (record.changed, record.hour, record.held) == (200, later(30), "")
    assert trial.counted(record, 100, later(90)).changed == 100
    assert trial.counted(record, 301, later(80)).held
    assert trial.counted(record, 300, later(80)).changed == 500


@pytest.mark.parametrize(
    ("record", "meetings", "minutes", "accepted"),
    [
        pytest.param(TRIAL, ["b", "b"], 60, "b", id="an hour, and every meeting was looked at"),
        pytest.param(TRIAL, ["b", "b"], 59, "a", id="not an hour yet"),
        pytest.param(TRIAL, ["b", "a"], 600, "a", id="nobody looked, for whatever reason"),
        pytest.param(replace(TRIAL, held="x"), ["b"], 600, "a", id="what is held waits for a word"),
        pytest.param(PolicyRecord(accepted="a"), ["b"], 600, "a", id="no trial"),
    ],
)
def test_closed(record: PolicyRecord, meetings: list[str], minutes: float, accepted: str) -> None:
    """A version that was tried everywhere without tripping is accepted."""
    known = [KnownMeeting(organization="o", policy=each) for each in meetings]
    over = KnownMeeting(organization="o", policy="a", registration=False)
    gone = KnownMeeting(organization="o", policy="a", missing=NOW)

    assert trial.closed(record, [*known, over, gone], later(minutes)).accepted == accepted


def test_confirmed() -> None:
    """An operator's word counts for the version that is on trial; for any other it is out of date."""
    held = replace(TRIAL, held="x")

    assert trial.confirmed(held, "b") == PolicyRecord(accepted="b")
    assert trial.confirmed(held, "c") == held
    assert trial.confirmed(None, "c") is None
