"""When a known meeting is looked at again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.core.ledger import KnownMeeting
from service.core.schedule import Due, due

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def ago(seconds: float | None) -> datetime | None:
    return None if seconds is None else NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("full", "looked", "expected"),
    [
        pytest.param(None, None, Due.FULL, id="never looked at"),
        pytest.param(None, 10, Due.NOTHING, id="a failed full look is not repeated at once"),
        pytest.param(None, 300, Due.FULL, id="a failed full look is repeated after the interval"),
        pytest.param(10, None, Due.INCREMENTAL, id="after a restart"),
        pytest.param(10, 299, Due.NOTHING, id="looked at lately"),
        pytest.param(10, 300, Due.INCREMENTAL, id="the interval has passed"),
        pytest.param(3600, 300, Due.FULL, id="the full interval has passed"),
        pytest.param(3600, 299, Due.NOTHING, id="full is due, but a look was just made"),
    ],
)
def test_due(full: float | None, looked: float | None, expected: Due) -> None:
    """The look that is due follows from when the last ones were."""
    known = KnownMeeting(organization="default", full=ago(full))
    made = due(
        known, looked=ago(looked), now=NOW, interval=timedelta(seconds=300), full_interval=timedelta(seconds=3600)
    )

    assert made == expected
