"""Requests without ASGI get the answers that an ASGI application would give, in the order in which they came."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest

from service.receiver.guard import PIPELINED
from tests.receiver.guarded import Guarded, guarded
from tests.receiver.wire import LINE, LOOK, PATH, Reply, Wire, chunked, once, post, report

GET = b"GET " + PATH + b" HTTP/1.1\r\n"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Guarded]]:
    folder = tmp_path_factory.mktemp("guarded")
    with guarded("asgi", folder) as asgi, guarded("direct", folder) as direct:
        yield {"asgi": asgi, "direct": direct}


@pytest.fixture
def direct(servers: dict[str, Guarded]) -> Guarded:
    return servers["direct"]


@pytest.fixture(params=["asgi", "direct"])
def server(request: pytest.FixtureRequest, servers: dict[str, Guarded]) -> Guarded:
    """Each of them."""
    return servers[request.param]


def request(method: bytes, path: bytes = PATH, *, version: bytes = b"1.1", fields: tuple[bytes, ...] = ()) -> bytes:
    return post(*fields, line=method + b" " + path + b" HTTP/" + version + b"\r\n")


SAMPLES = [
    *(request(method) for method in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"PROPFIND", b"POST")),
    *(
        request(b"POST", path)
        for path in (b"/", PATH + b"/", b"//webhooks/webex", b"/Webhooks/webex", b"/readyz", b"*")
    ),
    *(request(b"POST", path) for path in (PATH + b"?a=b", PATH + b"#x", b"http://x" + PATH, b"/webhooks%2fwebex")),
    *(request(b"POST", b"http://x:8080" + path) for path in (PATH + b"?a", PATH + b"/", b"//", b"/%77ebhooks/webex")),
    *(
        request(b"POST", path)
        for path in (b"/%77ebhooks/webex", b"/%2577ebhooks/webex", b"//x" + PATH, b"http:/" + PATH)
    ),
    *(request(method, b"http://x" + PATH) for method in (b"GET", b"OPTIONS", b"M-SEARCH")),
    *(request(b"POST", path) for path in (b"/webhooks/webex%00", b"/%e4", b"/webhooks/../webhooks/webex", b"/%")),
    *(request(method, b"/") for method in (b"GET", b"PUT", b"OPTIONS")),
    request(b"POST", fields=(b"X-Null: 1",)),
    request(b"POST", fields=(b"Connection: close",)),
    request(b"POST", fields=(b"Connection: close, x",)),
    request(b"POST", fields=(b"Connection: keep-alive",)),
    request(b"POST", fields=(b"X-Close: 1",)),
    request(b"POST", version=b"1.0"),
    request(b"POST", version=b"1.0", fields=(b"Connection: keep-alive",)),
    chunked(b"abc", b"d"),
]


def seen(reply: Reply) -> tuple[int, dict[str, str], object]:
    """What must be equal: all but the second of the date, and what differs from request to request."""
    headers = {name: value for name, value in reply.headers.items() if name not in ("date", "content-length")}
    parsedate_to_datetime(reply.headers["date"])
    body = reply.json if reply.body else {}
    return reply.status, headers, {name: value for name, value in body.items() if name not in ("taken", "canaries")}


@pytest.mark.parametrize("sample", SAMPLES)
def test_both_ways_give_the_same_answer(servers: dict[str, Guarded], sample: bytes) -> None:
    """Status, headers, body, and whether the connection goes on."""
    asgi, direct = (once(server.port, sample + post(), replies=2, seconds=2) for server in servers.values())

    assert len(asgi.replies) == len(direct.replies) >= 1
    assert [seen(reply) for reply in direct.replies] == [seen(reply) for reply in asgi.replies]
    assert direct.closed == asgi.closed


@pytest.mark.parametrize("path", [PATH, b"/"])
def test_head_has_the_headers_of_the_answer_and_no_body(servers: dict[str, Guarded], path: bytes) -> None:
    """405 on the route, 404 elsewhere."""
    for server in servers.values():
        with Wire(server.port) as wire:
            wire.send([request(b"HEAD", path)])
            data = b"".join(iter(lambda: wire.socket.recv(1000), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405" if path == PATH else b"HTTP/1.1 404")
        assert (b"\r\nallow: POST" in head) == (path == PATH)
        assert b"content-length" in head
        assert body == b""


def test_answers_come_in_the_order_of_the_requests(direct: Guarded) -> None:
    """Though the later ones are ready earlier."""
    delays = [0.3, 0, 0.1, 0.2, 0, 0.05]
    requests = [post(b"X-Id: %d" % number, b"X-Delay: %g" % delay) for number, delay in enumerate(delays)]
    heard = once(direct.port, *requests, replies=len(requests))

    assert [reply.headers["x-id"] for reply in heard.replies] == [str(number) for number in range(len(requests))]
    assert heard.seconds < 0.6


def test_no_more_is_read_while_too_many_wait(server: Guarded) -> None:
    """The rest is read, and answered, as soon as the first are."""
    many, pad = 8 * PIPELINED, b"x" * 2000
    with Wire(server.port) as wire:
        before = report(server.port)["taken"]
        wire.send([post(b"X-Delay: 1")])
        for number in range(1, many):
            wire.send([post(b"X-Id: %d" % number, body=pad)])
        assert not wire.hear(0.1).replies
        assert report(server.port)["taken"] - before < PIPELINED + 64  # one read may bring as many
        heard = wire.hear(replies=many)

    assert heard.statuses == [200] * many
    assert [reply.headers["x-id"] for reply in heard.replies[1:]] == [str(number) for number in range(1, many)]


def test_an_answer_that_closes_is_the_last(server: Guarded) -> None:
    """Whatever was asked behind it gets none, whether its own is ready or not."""
    for delays in itertools.product((b"0", b"0.1"), repeat=2):
        closing = post(b"X-Close: 1", b"X-Delay: " + delays[0])
        heard = once(server.port, closing + post(b"X-Delay: " + delays[1]) + post())
        assert (heard.statuses, heard.closed) == ([200], True)

    assert once(server.port, LOOK).statuses == [200]


def test_a_client_that_goes_away_before_its_answer_leaves_nothing(server: Guarded) -> None:
    """The answers have nobody to go to, and that is all."""
    before = report(server.port)
    for _ in range(50):
        with Wire(server.port) as wire:
            wire.send([post(b"X-Delay: 0.1") * 3])
    heard = once(server.port, post(b"X-Delay: 0.6"), replies=1)
    after = report(server.port)

    assert heard.statuses == [200]
    assert (after["fds"], after["tasks"]) == (before["fds"], before["tasks"])
    assert "Traceback" not in server.log.read_text()


def test_a_client_that_resets_in_the_moment_of_its_answer_leaves_no_line(server: Guarded) -> None:
    """The socket is closed before anybody is told that it is."""
    lines = len(server.lines)
    for number in range(100):
        with Wire(server.port) as wire:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            wire.send([post(b"X-Delay: 0.00%d" % (number % 4 + 1)) * 3])
            time.sleep(number % 5 / 1000)
    assert once(server.port, post(b"X-Delay: 0.1"), replies=1).statuses == [200]

    assert server.lines[lines:] == []


def test_a_bug_of_the_application_is_a_500_that_says_nothing(servers: dict[str, Guarded]) -> None:
    """The request before it has its answer; the log says where it was, not what it said."""
    server = servers["asgi"]
    heard = once(server.port, post() + post(b"X-Bug: 1") + post(b"Connection: close"))

    assert heard.statuses == [200, 500, 200]
    assert heard.replies[1].json == {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    assert report(server.port)["refused"]["bug"] == 1
    assert "RuntimeError" in server.log.read_text()
    assert "example.org" not in server.log.read_text()


def test_a_bug_ends_its_connection_and_no_other(direct: Guarded) -> None:
    """It is counted, and the log says where it was, not what it said."""
    heard = once(direct.port, post(b"X-Bug: 1") + post())

    assert (heard.statuses, heard.closed) == ([], True)
    assert report(direct.port)["refused"]["bug"] == 1
    assert "RuntimeError" in direct.log.read_text()
    assert "example.org" not in direct.log.read_text()


def test_a_request_needs_no_task(direct: Guarded) -> None:
    """Not even one that waits for its answer."""
    with Wire(direct.port) as wire:
        before = report(direct.port)["tasks"]
        wire.send([post(b"X-Delay: 0.5") * 10])
        assert report(direct.port)["tasks"] == before
        assert wire.hear(replies=10).statuses == [200] * 10


def test_the_first_line_is_all_that_decides(direct: Guarded) -> None:
    """Method and path; not their spelling in a header."""
    heard = once(direct.port, post(b"X-HTTP-Method-Override: POST", line=GET), replies=1)
    assert heard.statuses == [405]
    heard = once(direct.port, post(b"X-Original-URL: /", line=LINE), replies=1)
    assert heard.statuses == [200]
