"""Facts about registrants as they stand on the topic, for tests that replay them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from service.core.event import CloudEvent, event_id, new_event

SERIES = "a" * 32
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def fact(
    what: str,
    id_: str,
    *,
    series: str = SERIES,
    at: datetime = NOW,
    by: str = "",
    rule: str = "",
    family: str = "registrant",
    **fields: Any,
) -> CloudEvent:
    """``webex.registrant.<what>.v1`` about ``id_``; ``by`` and ``rule`` are its decision."""
    decision = {"decision": {"by": by, "rule": rule, "reason": "because"}} if by else {}
    address = {"email": f"{id_}@example.org"} if family == "registrant" else {}
    return new_event(
        id=event_id("test", series, id_, what, at.isoformat()),
        type=f"webex.{family}.{what}.v1",
        source="/webex",
        subject=f"meetings/{series}",
        key=series,
        origin="sweep",
        time=at,
        received=at,
        receiver="test",
        data={"id": id_, "meetingId": series, **address, **fields, **decision},
    )
