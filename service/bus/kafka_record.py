"""How a record of aiokafka becomes ours."""

from __future__ import annotations

from typing import Any

from service.core.message import Received


def received(topic: str, record: Any) -> Received:
    """``topic`` without the operator's prefix. A key that is absent or not UTF-8 is still read: nothing foreign may stop us."""
    return Received(
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        key=(record.key or b"").decode(errors="replace"),
        value=record.value,
        timestamp=record.timestamp,
    )
