"""A record on its way to Kafka."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

import msgspec

from service.bus.record_size import size_beside
from service.core.message import Message


class Outgoing(msgspec.Struct, eq=False):
    """A record with the time that it bears, in milliseconds since 1970: that of its arrival, however often it is sent from
    memory; read from the journal, that of the append, even where it was sent with the other one before.

    ``key`` in bytes and ``size``, its bytes in a batch (``record_size.batched_size``), are found out once.
    """

    message: Message
    timestamp: int
    key: bytes
    size: int


def stamped(message: Message, timestamp: int) -> Outgoing:
    """Raises UnicodeError."""
    key = message.key.encode()
    return Outgoing(message, timestamp, key, len(key) + len(message.value or b"") + size_beside(message.topic))


_size = attrgetter("size")


def total_size(records: Iterable[Outgoing]) -> int:
    """Bytes that they take in a batch together, at most (``record_size.batched_size``)."""
    return sum(map(_size, records))
