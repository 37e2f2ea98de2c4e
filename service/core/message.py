"""What the bus carries: records to be written, and records read."""

from __future__ import annotations

import msgspec

#: What decoding a record that somebody else wrote may raise: no JSON or another shape, no UTF-8, nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record to write. Topics are named without the operator's prefix.

    ``partition_by`` decides the partition (Kafka's default partitioner over its UTF-8 bytes): for event topics it equals the
    key; records of ``work`` and ``ledger`` stand with their organisation, whatever their key.
    ``value`` None is a tombstone on a compacted topic. ``partition``, where it is given, wins over ``partition_by``: for
    records about the partition itself.
    """

    topic: str
    key: str
    value: bytes | None
    partition_by: str
    partition: int | None = None


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One record read, with its place. ``timestamp`` is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes | None
    timestamp: int
