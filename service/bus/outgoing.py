"""A record on its way to Kafka."""

from __future__ import annotations

from typing import NamedTuple

from service.core.message import Message


class Outgoing(NamedTuple):
    """A record with the time that it bears, in milliseconds since 1970: the same one however often it is sent."""

    message: Message
    timestamp: int
