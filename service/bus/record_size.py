"""How large a record may be, wherever it is written."""

from __future__ import annotations

from service.core.message import Message

#: Kafka's default for one batch (``message.max.bytes`` is 12 bytes more). aiokafka's 16 KiB makes a hot key time out.
MAX_BATCH_BYTES = 1024 * 1024

#: Key and value of one record together; the rest is for the headers of the batch and of the record.
MAX_RECORD_BYTES = MAX_BATCH_BYTES - 1024


def record_size(message: Message) -> int:
    """Bytes of key and value."""
    return len(message.key.encode()) + len(message.value or b"")
