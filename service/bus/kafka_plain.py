"""Records that aiokafka cannot decode, read all the same: those with a header whose name is not UTF-8.

Kafka does not look at the names of headers; aiokafka does, and raises UnicodeDecodeError for the whole batch each time it
gets there. Whoever may write to a topic could stop its partition for ever. Nobody of ours needs a header, so the batch is
fetched once more and read without them. Format: https://kafka.apache.org/documentation/#recordbatch (version 2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.util import calc_crc32c, decode_varint

#: Kafka's number for "leave out what was aborted".
READ_COMMITTED = 1

_LARGEST = 1024 * 1024
_HEAD = struct.Struct(">qiibIhiqqqhii")
_CHECKED_FROM = 21
_CODECS = {0: bytes, 1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20


@dataclass(frozen=True)
class PlainRecord:
    """A record without its headers, under the names that aiokafka's has."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


async def read_plainly(client: Any, place: Any, position: int) -> tuple[list[PlainRecord], int]:
    """The records of the batch at ``position``, from there on, and the position behind the batch. Raises KafkaError."""
    inner = client._client
    node = inner.cluster.leader_for_partition(place)
    if node is None or node == -1:
        raise LeaderNotAvailableError
    asked = [(place.topic, [(place.partition, position, _LARGEST)])]
    answer = await inner.send(node, FetchRequest(0, 0, _LARGEST, READ_COMMITTED, asked, rack_id=""))
    ((_, ((_, code, _, *more),)),) = answer.topics
    if code:
        raise for_code(code)
    aborted = more[2] if answer.API_VERSION >= 11 else more[-2]  # version 11 has one field more behind it
    return _first_batch(
        bytes(more[-1]), place.partition, position, {first: producer for producer, first in aborted or ()}
    )


def _first_batch(data: bytes, partition: int, position: int, aborted: dict[int, int]) -> tuple[list[PlainRecord], int]:
    if len(data) < _HEAD.size:
        return [], position
    head = _HEAD.unpack_from(data)
    base, length, _, _, crc, flags, last, first_time, latest_time, producer, *_ = head
    body = data[: 12 + length]
    if len(body) < 12 + length or calc_crc32c(body[_CHECKED_FROM:]) != crc:
        raise CorruptRecordException(f"partition {partition}, offset {base}")
    behind = max(position, base + last + 1)
    undone = flags & _TRANSACTIONAL and any(who == producer and since <= base for since, who in aborted.items())
    if flags & _CONTROL or undone:
        return [], behind
    content = bytearray(_CODECS[flags & _CODEC](body[_HEAD.size :]))
    records = [
        PlainRecord(partition, base + offset, latest_time if flags & _APPEND_TIME else first_time + time, key, value)
        for offset, time, key, value in _records(content, head[-1])
    ]
    return [record for record in records if record.offset >= position], behind


def _records(content: bytearray, count: int) -> Iterator[tuple[int, int, bytes | None, bytes | None]]:
    end = 0
    for _ in range(count):
        length, start = decode_varint(content, end)
        end = start + length
        time, place = decode_varint(content, start + 1)  # one byte of attributes, unused
        offset, place = decode_varint(content, place)
        key, place = _bytes(content, place)
        value, _ = _bytes(content, place)
        yield offset, time, key, value


def _bytes(content: bytearray, place: int) -> tuple[bytes | None, int]:
    length, place = decode_varint(content, place)
    return (None, place) if length < 0 else (bytes(content[place : place + length]), place + length)
