"""Personal data and secrets go in at every place of a request, and come out nowhere."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.core.errors import CannotStore
from service.core.signature import sign
from tests.fakes import RecordingPublisher
from tests.receiver.conftest import SECRET, Bench
from tests.servers import running

ADDRESS, NAME, TOKEN = "canary.person@secret-canary.example", "Canaria Vogelsang", "canary-token-0123456789"
CANARIES = ("canary", "canaria", "vogelsang", SECRET.decode())

NOTIFICATION = {
    "id": TOKEN,
    "name": NAME,
    "resource": "meetings",
    "event": "started",
    "orgId": ADDRESS,
    "data": {"id": "870f51ff287b41be8648412901e0402f", "hostEmail": ADDRESS, "title": NAME, "password": TOKEN},
}


def bodies() -> Iterator[bytes]:
    """Understood, unknown, without an id, not JSON, too long."""
    yield json.dumps(NOTIFICATION).encode()
    yield json.dumps({**NOTIFICATION, "resource": NAME}).encode()
    yield json.dumps({**NOTIFICATION, "event": ADDRESS}).encode()
    yield json.dumps({**NOTIFICATION, "data": {"id": f"{NAME}\r\n{ADDRESS}\x1b[2J"}}).encode()
    yield f"{NAME} <{ADDRESS}>".encode()
    yield NAME.encode() * 9000


def requests(body: bytes) -> Iterator[dict[str, Any]]:
    """The body signed, forged, of a wrong type, to wrong places; with canaries in every header."""
    headers = {"X-Canary": ADDRESS, "Authorization": f"Bearer {TOKEN}", "traceparent": TOKEN, "User-Agent": NAME}
    signed = {**headers, **sign(body, SECRET)}
    yield {"url": "/webhooks/webex", "content": body, "headers": signed}
    yield {"url": f"/webhooks/webex?email={ADDRESS}", "content": body, "headers": signed}
    yield {"url": "/webhooks/webex", "content": body, "headers": headers}
    yield {"url": "/webhooks/webex", "content": body, "headers": {**headers, "X-Spark-Signature": TOKEN}}
    yield {"url": "/webhooks/webex", "content": body, "headers": {**signed, "Content-Type": ADDRESS}}
    yield {"url": "/webhooks/webex", "content": body, "headers": {**signed, "Content-Encoding": TOKEN}}
    yield {"url": f"/{ADDRESS}/{TOKEN}", "content": body, "headers": signed}
    yield {"url": "/webhooks/webex", "method": "PUT", "content": body, "headers": signed}


class Unstringable(Exception):
    """An error of a library, with everything in it."""


@pytest.mark.parametrize(
    "error",
    [None, CannotStore(f"{NAME} {ADDRESS}"), Unstringable(NAME, ADDRESS, SECRET)],
    ids=["all well", "cannot store", "a bug"],
)
async def test_nothing_personal_leaves_through_answers_logs_or_metrics(
    stream: io.StringIO, error: Exception | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Over real sockets, no answer, log line or metric has any of the canaries."""
    bench = Bench(publisher=RecordingPublisher(error=error))
    answers = []
    async with running(bench.app) as url, httpx.AsyncClient(base_url=url) as client:
        for body in bodies():
            for request in requests(body):
                answers.append(await client.request(**{"method": "POST", **request}))

    said = stream.getvalue() + bench.metrics.render()[0].decode() + "".join(capfd.readouterr())
    said += "".join(f"{answer.headers} {answer.text}" for answer in answers)
    assert [canary for canary in CANARIES if canary in said.lower()] == []
    assert {answer.status_code for answer in answers} >= {401, 404, 405, 413, 415}
    assert stream.getvalue().count("webhook.refused") >= 30
