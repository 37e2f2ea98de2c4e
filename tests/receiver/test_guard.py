"""The guard on uvicorn's seams: caps of connections, lines in the log, hang-ups, the end of the server."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import socket
import termios
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server

from service.receiver.connections import Connections, GuardLimits
from service.receiver.guard import PIPELINED
from tests.receiver.guarded import Counts, Guarded, guarded
from tests.receiver.wire import CANARY, LINE, LOOK, Wire, chunked, once, post, report

WAYS = ["asgi", "direct"]


@pytest.fixture(scope="module", params=WAYS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(request.param, tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture(scope="module", params=WAYS)
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """With deadlines of a second."""
    limits = dict.fromkeys(("header_seconds", "request_seconds", "keep_alive_seconds"), 1.0)
    with guarded(request.param, tmp_path_factory.mktemp("hasty"), **limits) as server:
        yield server


def test_uvicorn_is_the_one_that_the_guard_was_written_for() -> None:
    """What the guard overrides and relies on is there, and is used as it expects: look again before another version."""
    assert version("uvicorn").startswith("0.54.")
    assert version("httptools").startswith("0.9.")
    source = {name: inspect.getsource(getattr(HttpToolsProtocol, name)) for name in ("__init__", "connection_lost")}
    assert list(inspect.signature(HttpToolsProtocol.__init__).parameters) == [
        *("self", "config", "server_state", "app_state", "_loop")
    ]
    assert "self.parser = httptools.HttpRequestParser(self)" in source["__init__"]
    assert "self.connections = server_state.connections" in source["__init__"]
    assert "self.connections.discard(self)" in source["connection_lost"]
    assert "self.tasks = server_state.tasks" in source["__init__"]
    assert "self.app = config.loaded_app" in source["__init__"]
    assert "self.server_state.tasks" in inspect.getsource(Server.shutdown)
    assert "self.read_paused" in inspect.getsource(FlowControl.resume_reading)
    assert "connection.shutdown()" in inspect.getsource(Server.shutdown)
    assert "self.server_state.default_headers = " in inspect.getsource(Server.on_tick)


def test_a_refusal_waits_for_the_answers_before_it(server: Guarded) -> None:
    """Otherwise the sender would take it for the answer to a request that is on its way to durability."""
    heard = once(server.port, post(b"X-Delay: 0.3") + post(b"Content-Encoding: gzip") + CANARY)

    assert heard.statuses == [200, 415]
    assert heard.closed
    assert "connection" not in heard.replies[0].headers


def test_nothing_is_answered_behind_the_last_request(server: Guarded) -> None:
    """``Connection: close``, or HTTP/1.0, is the end, whatever follows."""
    before = report(server.port)["canaries"]
    older = b"POST /webhooks/webex HTTP/1.0\r\n"
    for last in (post(b"Connection: close"), post(line=older), post(b"Connection: keep-alive", line=older)):
        heard = once(server.port, last + CANARY)
        assert (heard.statuses, heard.closed) == ([200], True)
        assert heard.replies[0].headers["connection"] == "close"

    assert report(server.port)["canaries"] == before


def test_a_body_beyond_the_cap_is_refused_at_once(server: Guarded) -> None:
    """Within 100 ms, and with no more than 128 KiB read, beside the 64 KiB that the kernel holds: the rest stays with the
    sender.
    """
    with Wire(server.port) as wire:
        begun = time.monotonic()
        wire.send([b"POST /webhooks/webex HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n"])
        assert wire.hear(replies=1).statuses == [413]
        assert time.monotonic() - begun < 0.1
    with Wire(server.port) as wire:
        request = chunked(*[b"x" * 16384] * 500)
        # It is just that, each time: 128 KiB for both would take smaller reads, or a buffer that a proxy's 64 KiB wait for.
        assert _pushed(wire.socket, request) <= (128 + 64) * 1024
        assert wire.hear(replies=1).statuses == [413]


def test_a_long_body_does_not_wait_for_timers(server: Guarded) -> None:
    """Small buffers in the kernel must not make a sender on this machine wait (200 ms each time)."""
    with Wire(server.port) as wire:
        begun = time.monotonic()
        for _ in range(10):
            assert wire.ask(post(body=b"x" * 65_000), replies=1).statuses == [200]
        assert time.monotonic() - begun < 1


def _pushed(connection: socket.socket, data: bytes) -> int:
    """How much of it was taken from this side's kernel before nothing more was."""
    sent = 0
    connection.setblocking(False)
    with contextlib.suppress(OSError):  # full, or reset
        while True:
            sent += connection.send(data[sent : sent + 65536])
            time.sleep(0.002)
    return sent - int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), "little")


def test_100_continue_is_said_when_it_is_waited_for(server: Guarded) -> None:
    """After the headers were found good; a body that would be refused is not asked for."""
    head, body = post(b"Expect: 100-continue", body=b"x" * 50).split(b"\r\n\r\n")
    with Wire(server.port) as wire:
        assert wire.ask(head + b"\r\n\r\n", seconds=1, replies=1).statuses == [100]
        assert wire.ask(body, replies=1).replies[0].json["body"] == 50

    assert once(server.port, head.replace(b": 50", b": 70000") + b"\r\n\r\n").statuses == [413]
    heard = once(server.port, post(b"X-Delay: 0.2") + head + b"\r\n\r\n", seconds=1, replies=2)
    assert heard.statuses == [200, 100]


def test_http_1_0_knows_no_100_continue(server: Guarded) -> None:
    """Whoever speaks it would take it for the answer (RFC 9110 §10.1.1)."""
    line = LINE.replace(b"1.1", b"1.0")
    assert once(server.port, post(b"Expect: 100-continue", line=line)).statuses == [200]


def test_a_client_that_has_sent_everything_gets_its_answers(server: Guarded) -> None:
    """It may close its half of the connection (``printf … | nc``)."""
    with Wire(server.port) as wire:
        wire.send([post(b"X-Delay: 0.2") + post(b"X-Delay: 0.1")])
        wire.socket.shutdown(socket.SHUT_WR)
        heard = wire.hear()

    assert (heard.statuses, heard.closed) == ([200, 200], True)


def test_a_connection_serves_many(server: Guarded) -> None:
    """One after the other, and each has its own headers only."""
    with Wire(server.port) as wire:
        for number in range(50):
            (reply,) = wire.ask(post(b"X-Number: %d" % number), replies=1).replies
            assert ["x-number", str(number)] in reply.json["headers"]
            assert len(reply.json["headers"]) == 3


def test_trailers_and_disguises_reach_nobody(server: Guarded) -> None:
    """What the endpoint sees is what stood before the body."""
    (reply,) = once(server.port, chunked(b"abc"), replies=1).replies

    assert [name for name, _ in reply.json["headers"]] == ["host", "transfer-encoding"]


def test_hang_ups_leave_nothing_behind(server: Guarded) -> None:
    """A thousand uploads that break off: no task, no file, no traceback, and no more than a line a second."""
    before, lines, begun = report(server.port), len(server.lines), time.monotonic()
    head = post(body=b"x" * 1000)[:-900]
    for number in range(1000):
        with Wire(server.port) as wire:
            wire.send([head[: number % len(head) + 1]])
            if number % 2:  # a reset
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    after = _settled(server, before["connections"])

    assert after["connections"] <= before["connections"]
    assert after["tasks"] <= before["tasks"]
    assert after["fds"] <= before["fds"]
    assert len(server.lines) - lines <= 1 + time.monotonic() - begun
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "fields", [b"a:\r\n" * 4096, b"".join(b"%x:\r\n" % n for n in range(4096))], ids=["one", "many"]
)
def test_what_is_refused_is_not_kept(server: Guarded, fields: bytes) -> None:
    """A client that never reads its refusal costs little more than its connection, however many fields it sent."""
    before = report(server.port)["rss"]
    with contextlib.ExitStack() as open_wires:
        for _ in range(200):
            wire = open_wires.enter_context(Wire(server.port))
            wire.send([b"POST / HTTP/1.1\r\n", fields[: 16 * 1024]])
        grown = report(server.port)["rss"] - before
    assert grown < 200 * 64 * 1024


def _settled(server: Guarded, connections: int) -> dict[str, int]:
    for _ in range(50):
        if (now := report(server.port))["connections"] <= connections:
            break
        time.sleep(0.1)
    return now


@pytest.mark.parametrize("way", WAYS)
def test_who_is_refused_and_goes_leaves_its_place(way: str, tmp_path: Path) -> None:
    """At once, and not when the sweeper comes: else some thousand refusals a second would keep everybody out."""
    with guarded(way, tmp_path, connections=10) as server:
        heard = [once(server.port, post(b"Content-Encoding: gzip"), replies=1).statuses for _ in range(300)]
        refused = report(server.port)["refused"]

    assert heard == [[415]] * 300
    assert refused == {"encoded": 300}


def test_who_is_refused_and_goes_on_is_cut_off(server: Guarded) -> None:
    """Not at once, since that would destroy the answer on its way, and after little more is read."""
    bad, before = post(b"Content-Encoding: gzip"), report(server.port)["connections"]
    with Wire(server.port) as much, Wire(server.port) as little:
        begun = time.monotonic()
        little.send([bad])
        while little.send([b"x"]) and time.monotonic() < begun + 3:
            time.sleep(0.02)
        assert 0.25 <= time.monotonic() - begun < 2

        # It is 128 each time; but what a kernel holds comes in steps of 32 to 64, and not every kernel has the same.
        assert _pushed(much.socket, bad + b"x" * 10_000_000) <= (128 + 64) * 1024
        assert little.hear(replies=1).statuses == much.hear(replies=1).statuses == [415]
        assert _settled(server, before)["connections"] <= before


def test_one_that_breaks_does_not_stop_the_sweeper() -> None:
    """The others are cut off as ever; the log says where it broke, not what was said."""
    broken, other = _Overdue(bug=True), _Overdue()
    counts = Counts()
    connections = Connections(observe=counts, limits=GuardLimits(1), clock=lambda: 10.0)
    for each in (broken, other):
        connections.admit(each)
    with structlog.testing.capture_logs() as lines:
        connections.sweep()

    assert other.told == broken.told == [10.0]
    assert counts.refused == {"bug": 1}
    (line,) = lines
    assert (line["event"], line["log_level"], line["error"]) == ("connection.failed", "error", "RuntimeError")
    assert "overdue" in line["at"][-1]
    assert "example.org" not in str(line)


class _Overdue:
    """A connection that is past its deadline."""

    source = "127.0.0.1"
    due = drained_by = 5.0

    def __init__(self, *, bug: bool = False) -> None:
        self.told: list[float] = []
        self._bug = bug

    def overdue(self, now: float) -> None:
        self.told.append(now)
        if self._bug:
            raise RuntimeError("someone@example.org")


def test_a_flood_of_refusals_is_a_line_a_second(server: Guarded) -> None:
    """Each is counted; a line says how many had none."""
    before, lines, begun = report(server.port)["refused"].get("host", 0), len(server.lines), time.monotonic()
    while time.monotonic() - begun < 1.3:
        once(server.port, b"GET / HTTP/1.1\r\n\r\n")
    count = report(server.port)["refused"]["host"] - before

    said = server.lines[lines:]
    assert count > 20
    assert 1 <= len(said) <= 3
    assert all("connection.refused" in line for line in said)
    assert "left_out=" in said[-1]


def test_a_connection_that_is_used_stays(server: Guarded) -> None:
    """uvicorn's own timer, of 0.2 s here, does not matter."""
    with Wire(server.port) as wire:
        assert wire.ask(post(), replies=1).statuses == [200]
        time.sleep(0.4)
        assert wire.ask(post(), replies=1).statuses == [200]


def test_a_connection_that_is_idle_is_closed(hasty: Guarded) -> None:
    """After its time, and not before; without an answer that nobody asked for. That is nothing to be counted."""
    refused = report(hasty.port)["refused"]
    with Wire(hasty.port) as wire:
        assert wire.ask(post(), replies=1).statuses == [200]
        heard = wire.hear()

        assert (heard.statuses, heard.closed) == ([], True)
        assert 0.4 < heard.seconds < 2
        assert report(hasty.port)["refused"] == refused


def test_half_a_request_does_not_take_the_answers_with_it(hasty: Guarded) -> None:
    """It has no deadline once the client has said that nothing more will come; the request before it has its answer due."""
    with Wire(hasty.port) as wire:
        wire.send([post(b"X-Delay: 1.2") + LINE + b"Ho"])
        wire.socket.shutdown(socket.SHUT_WR)
        heard = wire.hear()

    assert (heard.statuses, heard.closed) == ([200], True)


def test_nobody_is_late_because_we_did_not_read(hasty: Guarded) -> None:
    """No more is read while many wait for their answers: meanwhile the time of what was sent in good time stands still."""
    many, pad = 4 * PIPELINED, b"x" * 2000
    with Wire(hasty.port) as wire:
        wire.send([post(b"X-Delay: 1.3")] + [post(body=pad) for _ in range(many - 1)])
        assert wire.hear(replies=many).statuses == [200] * many


@pytest.mark.parametrize("way", WAYS)
def test_connections_are_capped(way: str, tmp_path: Path) -> None:
    """In all, and from one address; who is too many hears it, and is gone at once."""
    with guarded(way, tmp_path, connections=5) as server, contextlib.ExitStack() as stack:
        five = [stack.enter_context(Wire(server.port)) for _ in range(5)]
        assert five[0].ask(post(), replies=1).statuses == [200]

        heard = once(server.port, post())
        assert (heard.statuses, heard.closed) == ([503], True)
        assert heard.replies[0].headers["retry-after"] == "5"
        assert five[0].ask(post(b"X-Look: 1"), replies=1).replies[0].json["refused"] == {"tooMany": 1}
        five.pop().socket.close()
        time.sleep(0.1)
        assert once(server.port, post(b"Connection: close")).statuses == [200]


@pytest.mark.parametrize("way", WAYS)
def test_connections_of_one_source_are_capped(way: str, tmp_path: Path) -> None:
    """One address cannot take what is there for all; the others do not feel it."""
    with guarded(way, tmp_path, per_source=3) as server, contextlib.ExitStack() as stack:
        three = [stack.enter_context(Wire(server.port)) for _ in range(3)]
        assert once(server.port, post()).statuses == [503]

        answer = once(server.port, LOOK, source="127.0.0.2").replies[0].json
        assert (answer["source"], answer["refused"]) == ("127.0.0.2", {"tooManyFromSource": 1})
        three[0].socket.close()
        time.sleep(0.2)
        assert once(server.port, post(b"Connection: close")).statuses == [200]


@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_the_server(way: str, tmp_path: Path) -> None:
    """Idle connections end at once; a request that is being answered, or has begun to arrive, gets its answer."""
    with (
        guarded(way, tmp_path) as server,
        Wire(server.port) as idle,
        Wire(server.port) as busy,
        Wire(server.port) as half,
    ):
        assert idle.ask(post(), replies=1).statuses == [200]
        busy.send([post(b"X-Delay: 1") + post(b"X-Delay: 0.5")])
        half.send([post()[:-1]])
        time.sleep(0.2)
        server.process.terminate()

        assert idle.hear(0.5).closed
        time.sleep(0.3)
        half.send([post()[-1:]])
        ended = half.hear(2)
        assert (ended.statuses, ended.closed) == ([200], True)
        assert ended.replies[0].headers["connection"] == "close"
        ended = busy.hear(3)
        assert (ended.statuses, ended.closed) == ([200, 200], True)
        assert [reply.headers.get("connection") for reply in ended.replies] == [None, "close"]
        assert server.process.wait(5) == 0
