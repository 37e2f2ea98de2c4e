"""The public listener as ``serve receiver`` puts it together."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.core.signature import sign
from tests.cli.program import ANY_PORT, running

BODY = (Path(__file__).parents[1] / "samples" / "meetings.started.json").read_bytes()
SECRET = "tests-secret-0123456789"
SETTINGS = {**ANY_PORT, "WEBHOOK__SECRET": SECRET}
HEADERS = {"Content-Type": "application/json", **sign(BODY, SECRET.encode())}


@pytest.mark.parametrize("direct", ["true", "false"])
def test_it_is_guarded_on_either_way(tmp_path: Path, direct: str) -> None:
    """A good webhook is stored, one connection too many is turned away, a forged one is kept; no core dump holds a secret."""
    settings = {**SETTINGS, "RECEIVER__DIRECT": direct, "RECEIVER__MAX_CONNECTIONS": "2"}
    with running("serve", "receiver", folder=tmp_path, settings=settings) as process:
        url = process.until("receiver.started")[0]["webhook"]
        with httpx.Client() as client, socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)):
            stored = client.post(url, content=BODY, headers=HEADERS)
            forged = client.post(url, content=BODY + b" ", headers=HEADERS)
            turned_away = httpx.post(url, content=BODY, headers=HEADERS)
        limits = Path(f"/proc/{process.process.pid}/limits").read_text("ascii")
        assert process.end(signal.SIGTERM) == 0

    assert [answer.status_code for answer in (stored, forged, turned_away)] == [204, 401, 503]
    assert turned_away.headers["retry-after"] == "5"
    assert [line["reason"] for line in process.events("connection.refused")] == ["tooMany"]
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert b'"badSignature"' in (tmp_path / "data" / "rejects.jsonl").read_bytes()


@pytest.mark.parametrize(("ratio", "lines"), [("0", 0), ("1", 1)])
def test_so_many_webhooks_are_traced_as_is_set(tmp_path: Path, ratio: str, lines: int) -> None:
    """A sampled one is a line in the log."""
    with running("serve", "receiver", folder=tmp_path, settings={**SETTINGS, "TRACING__RATIO": ratio}) as process:
        url = process.until("receiver.started")[0]["webhook"]
        assert httpx.post(url, content=BODY, headers=HEADERS).status_code == 204
        assert process.end(signal.SIGTERM) == 0

    assert len(process.events("webhook.accepted")) == lines


def test_one_address_may_have_so_many_connections(tmp_path: Path) -> None:
    """Where that is set."""
    settings = {**SETTINGS, "RECEIVER__MAX_CONNECTIONS_PER_SOURCE": "1"}
    with running("serve", "receiver", folder=tmp_path, settings=settings) as process:
        url = process.until("receiver.started")[0]["webhook"]
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)):
            assert httpx.post(url, content=BODY, headers=HEADERS).status_code == 503
        assert process.end(signal.SIGTERM) == 0

    assert [line["reason"] for line in process.events("connection.refused")] == ["tooManyFromSource"]
