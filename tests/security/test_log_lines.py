"""Whatever a stranger writes into a request, each line of the log is one JSON object that we wrote (X5)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from service.core.signature import sign
from service.receiver.endpoint import PATH, Limits
from service.telemetry.logging import configure
from tests.fakes import RecordingPublisher
from tests.fuzz.document import served
from tests.receiver.conftest import SECRET, Bench
from tests.security.wire import exchange

#: What would be a line of its own, colour a terminal, end a text, or look like ours.
INJECTED = [
    b'\r\n{"event": "webhook.accepted", "level": "info"}\r\n',
    b'\n{"event": "webhook.accepted"}\n',
    b'","event":"webhook.accepted","x":"',
    b"\x1b[2J\x1b[31mred\x1b]0;title\x07",
    b"\xc2\x85\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xae",
    b"\x00\x08\x7f\xff\xfe",
    b"%0d%0a%1b[2J",
]

#: Names of our own events: no line has another one.
OURS = {
    "webhook.accepted",
    "webhook.refused",
    "webhook.failed",
    "webhook.abandoned",
    "connection.refused",
    "connection.failed",
}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Where the lines go, as in the real process."""
    stream = io.StringIO()
    configure(stream=stream, colours=False, level="debug")
    yield stream
    structlog.reset_defaults()


def requests(injected: bytes) -> Iterator[bytes]:
    """It in the path, the query, a header's name and value, the method, the signature, the trace, and all over the body."""
    text = injected.decode("utf-8", "backslashreplace")
    data = {"id": f"870f51ff{text}", "hostEmail": text, "title": text}
    notification = {"id": text, "resource": "meetings", "event": "started", "orgId": text, text: text, "data": data}
    bodies = [json.dumps(notification).encode(), json.dumps({"resource": text, "event": text}).encode(), injected]
    for body in bodies:
        signatures = [(name.encode(), value.encode()) for name, value in sign(body, SECRET).items()]
        yield written(PATH.encode(), signatures, body)
        yield written(PATH.encode(), [*signatures, (b"User-Agent", injected), (b"traceparent", injected)], body)
    yield written(b"/" + injected, signatures, body)
    yield written(PATH.encode() + b"?" + injected, signatures, body)
    yield written(PATH.encode(), [(b"X-Spark-Signature", injected)], body)
    yield written(PATH.encode(), [*signatures, (injected, b"x")], body)
    yield written(PATH.encode(), [*signatures, (b"Content-Type", injected)], body)
    yield written(PATH.encode(), [*signatures, (b"Host", injected)], body)
    yield written(PATH.encode(), signatures, body, method=injected)


def written(target: bytes, headers: list[tuple[bytes, bytes]], body: bytes, *, method: bytes = b"POST") -> bytes:
    """A request, byte by byte; the last one of its connection."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: receiver", b"Connection: close"]
    lines += [b"Content-Length: %d" % len(body), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize("direct", [False, True], ids=["the application", "the direct way"])
@pytest.mark.parametrize("error", [None, RuntimeError('\r\n{"event": "x"}')], ids=["stored", "a bug"])
async def test_no_line_of_the_log_can_be_forged(log: io.StringIO, direct: bool, error: Exception | None) -> None:
    """Over a socket, with everything in every place: each line parses, and has an event of ours."""
    bench = Bench(publisher=RecordingPublisher(error=error), limits=Limits())
    answers = []
    async with served(bench.endpoint(), direct=direct) as url:
        for injected in INJECTED:
            answers += [await exchange(url, request) for request in requests(injected)]

    lines = log.getvalue().splitlines()
    assert all(answer.startswith(b"HTTP/1.1 ") for answer in answers)
    assert len(lines) > 20
    assert {json.loads(line)["event"] for line in lines} <= OURS
    assert [line for line in lines if not line.isprintable()] == []
