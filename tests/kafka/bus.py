"""Kafka as the bus of the behaviour tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.bus.kafka import KafkaConsumer, KafkaProducer, KafkaReader
from service.bus.protocols import Consumer, PartitionReader, Publisher
from service.bus.publisher import KafkaFirstPublisher
from service.bus.topics import TopicPlan
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics


class KafkaBus:
    """One prefix on a cluster. Without a journal: nothing but Kafka can make its tests pass."""

    def __init__(self, cluster: Cluster, prefix: str, publisher: KafkaFirstPublisher) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._publisher = publisher

    def publisher(self) -> Publisher:
        return self._publisher

    def consumer(self, group: str) -> Consumer:
        return KafkaConsumer(
            connection=self._cluster.connection,
            topic_prefix=self._prefix,
            topic="work",
            group=self._prefix + group,
        )

    def reader(self) -> PartitionReader:
        return KafkaReader(connection=self._cluster.connection, topic_prefix=self._prefix)


@asynccontextmanager
async def kafka_bus(cluster: Cluster, prefix: str) -> AsyncIterator[KafkaBus]:
    """``work`` and ``ledger`` with one partition each, empty."""
    topics = (TopicPlan(name="work", partitions=1), TopicPlan(name="ledger", partitions=1, compacted=True))
    await create_topics(cluster, prefix, topics)
    producer = KafkaProducer(connection=cluster.connection, topic_prefix=prefix)
    publisher = KafkaFirstPublisher(producer, None, deadline=20)
    await publisher.start()
    try:
        yield KafkaBus(cluster, prefix, publisher)
    finally:
        await publisher.stop()
