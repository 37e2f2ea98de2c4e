"""The connection to Kafka that the settings describe."""

from __future__ import annotations

import structlog

from service.bus.kafka_connection import Connection
from service.bus.kafka_security import Security, read_credentials
from service.settings import Kafka, Settings, require_kafka


def kafka_connection(settings: Settings) -> Connection:
    """For every client of ours. Raises SettingsError, also for files that are no good: once it runs, it is too late."""
    servers, security = require_kafka(settings), _security(settings.kafka)
    read_credentials(security)
    if warning := warning_of(security):
        structlog.get_logger().warning("kafka.unencrypted", reason=warning)
    return Connection(bootstrap_servers=servers, security=security)


def _security(kafka: Kafka) -> Security:
    return Security(
        protocol=kafka.security_protocol,
        mechanism=kafka.sasl.mechanism or "",
        username=kafka.sasl.username or "",
        password_file=kafka.sasl.password_file,
        ca_file=kafka.ca_file,
        cert_file=kafka.cert_file,
        key_file=kafka.key_file,
    )


def warning_of(security: Security) -> str:
    """What is allowed, and should not be; "" where nothing is."""
    if not security.sasl or security.tls:
        return ""
    if security.mechanism == "PLAIN":
        return "the password for Kafka goes over the network as it is; use SASL_SSL"
    return "what is proof of the password, and every record, goes over the network unencrypted; use SASL_SSL"
