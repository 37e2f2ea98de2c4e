"""The present moment, as events carry it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.cli import clock
from service.core.event import rfc3339


def test_it_is_now() -> None:
    """Cut to the millisecond, never ahead."""
    before = rfc3339(datetime.now(UTC))
    now = clock.rfc3339_now()
    assert before <= now <= rfc3339(datetime.now(UTC))


@pytest.mark.parametrize("fraction", ["000", "001", "029", "500", "999"])
def test_each_millisecond_has_its_own_text(fraction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many webhooks come in one, and whatever comes in the next."""
    at = datetime(2026, 1, 10, 9, 0, 59, tzinfo=UTC)
    nanoseconds = int(at.timestamp()) * 10**9 + int(fraction) * 10**6 + 999_999
    for later, text in ((0, f"2026-01-10T09:00:59.{fraction}Z"), (10**9, f"2026-01-10T09:01:00.{fraction}Z")):
        monkeypatch.setattr("time.time_ns", lambda later=later: nanoseconds + later)
        assert clock.rfc3339_now() == text
        assert clock.rfc3339_now() == text
