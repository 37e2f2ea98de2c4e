"""The load generator against a server of which it is known what it does."""

from __future__ import annotations

import contextlib
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.benchmarks.load import Order, Refused, run

STALL = 0.5


class Server(socketserver.ThreadingTCPServer):
    """Answers at once, but for one pause in which nobody gets an answer; after so many answers it refuses."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *, stalls: bool, refuses_after: int = 10**9) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.began = time.perf_counter()
        self.stalls, self.left = stalls, refuses_after

    def wait(self) -> None:
        """While the pause lasts: from 0.2 s on."""
        if self.stalls and 0.2 < (now := time.perf_counter() - self.began) < 0.2 + STALL:
            time.sleep(0.2 + STALL - now)


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Each request comes in one piece."""
        with contextlib.suppress(OSError):  # the client ends when it has seen enough
            while self.request.recv(65536):
                self.server.wait()
                self.server.left -= 1
                status = b"204 No Content" if self.server.left >= 0 else b"503 Service Unavailable"
                self.request.sendall(b"HTTP/1.1 %s\r\nserver: test\r\n\r\n" % status)


@contextmanager
def serving(server: Server) -> Iterator[int]:
    """Its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def order(port: int, *, rate: float, seconds: float = 0.8) -> Order:
    """On this process, whose CPU time nobody looks at here."""
    return Order(port=port, pid=os.getpid(), kind="joined", connections=4, warm=0.0, seconds=seconds, rate=rate)


def test_a_server_that_stands_still_is_seen_to() -> None:
    """At a steady rate everything that was due in the pause is late, and not just what the few connections held: more than
    half of all. Nothing is left out because the server was slow.
    """
    with serving(Server(stalls=True)) as port:
        report = run(order(port, rate=200.0))

    assert report.events == 160
    assert report.p50 > 50
    assert STALL * 1000 * 0.8 < report.p99 <= report.p999 <= report.longest


def test_a_closed_loop_hides_it() -> None:
    """Which is why there are two: here one request of each connection is late, and half of all know nothing of it."""
    with serving(Server(stalls=True)) as port:
        report = run(order(port, rate=0.0))

    assert report.events > 160
    assert report.p50 < 50 < report.longest


@pytest.mark.parametrize("rate", [0.0, 200.0])
def test_a_refusal_ends_the_run(rate: float) -> None:
    """A quick 503 is no figure."""
    with serving(Server(stalls=False, refuses_after=20)) as port, pytest.raises(Refused, match="503"):
        run(order(port, rate=rate))
