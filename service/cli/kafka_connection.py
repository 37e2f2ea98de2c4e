"""The connection to Kafka that the settings describe."""

from __future__ import annotations

from service.bus.kafka_connection import Connection
from service.settings import Settings, require_kafka


def kafka_connection(settings: Settings) -> Connection:
    """For every client of ours. Raises SettingsError."""
    return Connection(bootstrap_servers=require_kafka(settings))
