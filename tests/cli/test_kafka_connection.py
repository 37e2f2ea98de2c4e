"""What the settings say about Kafka, as the clients get it, and the warning about passwords that everybody can read."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.cli.kafka_connection import kafka_connection
from service.settings import load


@pytest.mark.parametrize(
    ("protocol", "mechanism", "warning"),
    [
        ("PLAINTEXT", "", None),
        ("SSL", "", None),
        ("SASL_SSL", "PLAIN", None),
        ("SASL_PLAINTEXT", "PLAIN", "the password for Kafka goes over the network as it is; use SASL_SSL"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-256", "every record, goes over the network unencrypted; use SASL_SSL"),
    ],
)
def test_a_password_that_is_not_encrypted_is_warned_about(
    tmp_path: Path, protocol: str, mechanism: str, warning: str | None
) -> None:
    """Once, at the start of whatever needs Kafka; it is allowed all the same."""
    file = tmp_path / "password"
    file.write_text("canary\n")
    sasl = {"MECHANISM": mechanism, "USERNAME": "service", "PASSWORD_FILE": str(file)} if mechanism else {}
    settings = load(
        {
            "WEBEX_EVENTS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL": protocol,
            **{f"WEBEX_EVENTS_KAFKA__SASL__{name}": value for name, value in sasl.items()},
        }
    )
    with capture_logs() as logs:
        connection = kafka_connection(settings)

    assert (connection.security.protocol, connection.security.sasl) == (protocol, bool(mechanism))
    assert "canary" not in f"{logs} {connection!r} {settings!r}"
    if warning is None:
        assert logs == []
    else:
        (logged,) = logs
        assert (logged["event"], logged["log_level"]) == ("kafka.unencrypted", "warning")
        assert logged["reason"].endswith(warning)
