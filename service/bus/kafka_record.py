"""How a record of aiokafka becomes ours, and what a record of ours says on Kafka beside key and value."""

from __future__ import annotations

from typing import Any

from service.core.event import CONTENT_TYPE, TOPICS
from service.core.message import Received

_EVENT_TOPICS = frozenset(TOPICS.values())
_EVENT_HEADERS = [("content-type", CONTENT_TYPE.encode())]
_NO_HEADERS: list[tuple[str, bytes]] = []


def headers(topic: str) -> list[tuple[str, bytes]]:
    """The headers of every record on ``topic`` (without prefix); CloudEvents, Kafka protocol binding, structured mode.

    One list for all, which nobody may change: aiokafka refuses a tuple.
    """
    return _EVENT_HEADERS if topic in _EVENT_TOPICS else _NO_HEADERS


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
