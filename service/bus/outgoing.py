"""A record on its way to Kafka."""

from __future__ import annotations

from typing import NamedTuple

from service.core.message import Message


class Outgoing(NamedTuple):
    """A record with the time that it bears, in milliseconds since 1970: that of its arrival, however often it is sent from
    memory; read from the journal, that of the append, even where it was sent with the other one before.
    """

    message: Message
    timestamp: int
