"""The broker of a run: one real Kafka, acks=all, topics of six partitions."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator

from service.bus.topics import standard
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics

_MIB = 1024 * 1024

#: The heap that Kafka's own kafka-server-start.sh gives it; the rest is Java's choice. It needs some load to become fast.
_JVM = ("-Xms1g", "-Xmx1g")

#: A run writes gigabytes, and nobody reads them.
_KEEPS_LITTLE = {
    "log.segment.bytes": str(32 * _MIB),
    "log.retention.bytes": str(64 * _MIB),
    "log.retention.check.interval.ms": "2000",
    "log.segment.delete.delay.ms": "500",
}


@contextlib.contextmanager
def broker() -> Iterator[dict[str, str]]:
    """Gives the settings that a receiver needs. Raises KafkaUnavailable."""
    with Cluster.started(1, extra=lambda _nodes, _node: _KEEPS_LITTLE, jvm=_JVM) as cluster:
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        asyncio.run(create_topics(cluster, prefix, standard()))
        yield {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": cluster.bootstrap, "KAFKA__TOPIC_PREFIX": prefix}
