"""Who does what in a cluster: the leader of a partition, the copies that are in sync, and the active controller.

``describe_cluster`` of an admin client names some broker as the controller where KRaft decides; the real one is the leader
of the quorum, and ``DescribeQuorum`` (https://kafka.apache.org/protocol#The_Messages_DescribeQuorum) tells it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

Place = tuple[str, int]
"""Topic (with prefix) and partition."""

_DESCRIBE_QUORUM = 55
_METADATA_TOPIC = b"__cluster_metadata"


@dataclass(frozen=True)
class Copies:
    """The nodes that have a partition. ``leader`` -1: nobody leads."""

    leader: int
    replicas: frozenset[int]
    in_sync: frozenset[int]


def active_controller(address: str, port: int) -> int:
    """The node that leads the quorum, by the broker at this address. Raises OSError where it does not say."""
    topic = _compact(_METADATA_TOPIC) + b"\x02" + struct.pack(">i", 0) + b"\0\0"  # one partition: 0
    header = struct.pack(">hhih3s", _DESCRIBE_QUORUM, 0, 1, 3, b"rig") + b"\0"
    request = header + b"\x02" + topic + b"\0"
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        size = struct.unpack(">i", _exactly(connection, 4))[0]
        answer = _exactly(connection, size)
    # correlation id, tags, error | topics: count, name | partitions: count, index, error, leader …
    begin = 4 + 1 + 2 + 1 + len(_compact(_METADATA_TOPIC)) + 1
    if int.from_bytes(answer[5:7], "big") or len(answer) < begin + 10:
        raise OSError("the broker does not know the quorum")
    _, error, leader = struct.unpack(">ihi", answer[begin : begin + 10])
    if error or leader < 0:
        raise OSError("the quorum has no leader")
    return int(leader)


def _compact(text: bytes) -> bytes:
    return bytes([len(text) + 1]) + text


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise OSError("the broker ended the connection")
    return data


@asynccontextmanager
async def administering(bootstrap: str) -> AsyncIterator[Any]:
    """An admin client that is none of the product's."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    try:
        async with asyncio.timeout(15):  # it may wait for ever for a broker that stands still
            await client.start()
        yield client
    finally:
        await client.close()


async def copies(bootstrap: str, topics: Iterable[str]) -> dict[Place, Copies]:
    """Every partition of these topics."""
    async with administering(bootstrap) as admin:
        described = await admin.describe_topics(list(topics))
    return {
        (topic["topic"], part["partition"]): Copies(part["leader"], frozenset(part["replicas"]), frozenset(part["isr"]))
        for topic in described
        for part in topic["partitions"]
    }


async def repartition(bootstrap: str, topics: Iterable[str], count: int) -> None:
    """Give each of them so many partitions."""
    async with administering(bootstrap) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=count) for topic in topics})
