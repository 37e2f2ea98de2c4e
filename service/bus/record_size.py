"""How large a record may be, wherever it is written, and how large it is in a batch of Kafka.

The format: https://kafka.apache.org/documentation/#messageformat
"""

from __future__ import annotations

from functools import lru_cache

from service.bus.kafka_record import headers
from service.core.message import Message

#: Kafka's default for one batch (``message.max.bytes`` is 12 bytes more). aiokafka's 16 KiB makes a hot key time out.
MAX_BATCH_BYTES = 1024 * 1024

#: Key and value of one record together; the rest is for the headers of the batch and of the record.
MAX_RECORD_BYTES = MAX_BATCH_BYTES - 1024

#: What a batch takes beside its records.
BATCH_OVERHEAD = 61

#: What a record takes beside key, value and headers, at most: its attributes (1), and as varints its length (5), its time
#: since the first of the batch (6: 69 years), its place in the batch (3: a million) and the lengths of key (5) and value
#: (5) and the number of headers (1).
_RECORD_OVERHEAD = 26

#: The lengths of a header's name and value, each below 64 bytes.
_HEADER_OVERHEAD = 2


def record_size(message: Message) -> int:
    """Bytes of key and value."""
    return len(message.key.encode()) + len(message.value or b"")


def batched_size(message: Message) -> int:
    """Bytes of the record in a batch, headers included: never fewer than Kafka counts, and some 20 more at most.

    A batch takes the sum of its records and ``BATCH_OVERHEAD``.
    """
    return record_size(message) + size_beside(message.topic)


@lru_cache(maxsize=256)
def size_beside(topic: str) -> int:
    """Bytes that a record on ``topic`` takes in a batch beside its key and value, at most."""
    return _RECORD_OVERHEAD + sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in headers(topic))
