"""Kafka, behind the bus protocols. The only modules that know aiokafka are this one and its neighbours ``kafka_*``.

* ``KafkaProducer`` (kafka_producer): gives records to Kafka until it has acknowledged them; ``publisher`` stands before it.
* ``KafkaConsumer`` (kafka_consumer): a member of a consumer group.
* ``KafkaReader`` (kafka_reader): a partition from its start, without a group.
* topics are created by ``topics``.
"""

from __future__ import annotations

from service.bus.kafka_consumer import KafkaConsumer
from service.bus.kafka_producer import KafkaProducer
from service.bus.kafka_reader import KafkaReader

__all__ = ["KafkaConsumer", "KafkaProducer", "KafkaReader"]
