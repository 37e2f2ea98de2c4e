"""Kafka's default partitioner: which partition a key belongs to, the same as every Java, Go or librdkafka default gives."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


def partition_for(partition_by: str, partitions: int) -> int:
    """``toPositive(murmur2(bytes)) % partitions`` (org.apache.kafka.clients.producer.internals.BuiltInPartitioner)."""
    return _positive_hash(partition_by) % partitions


@lru_cache(maxsize=65_536)
def _positive_hash(partition_by: str) -> int:
    return int(murmur2(partition_by.encode())) & 0x7FFFFFFF
