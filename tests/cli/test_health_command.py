"""``webex-events health``: what a container's HEALTHCHECK is told."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service.cli import probe
from tests.cli.program import invoke, refusal, run
from tests.ending import role
from tests.ports import free_port


class Listener(HTTPServer):
    """Answers every request with ``status`` and ``body``; ``paths`` is what was asked for."""

    def __init__(self, host: str, status: int, body: bytes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Handler)
        self.status, self.body = status, body
        self.paths: list[str] = []

    @property
    def port(self) -> str:
        """As a setting."""
        return str(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def listening(status: int = 200, body: bytes = b"ok\n", *, host: str = "127.0.0.1") -> Iterator[Listener]:
    """A private listener inside the block."""
    with Listener(host, status, body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("arguments", "path", "said"),
    [((), "/readyz", b"ready\n"), (("--ready",), "/readyz", b"ready\n"), (("--live",), "/livez", b"live\n")],
)
def test_a_role_that_is_well(arguments: tuple[str, ...], path: str, said: bytes, tmp_path: Path) -> None:
    """0 and one word, of whichever probe was asked for."""
    with listening() as listener:
        done = invoke("health", *arguments, folder=tmp_path, settings={"ADMIN__PORT": listener.port})

    assert (done.returncode, done.stdout, done.stderr) == (0, said, b"")
    assert listener.paths == [path]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (json.dumps({"detail": "This process is about to end"}).encode(), "This process is about to end"),
        (b"<html>", "It answered 503."),
        (b"[1]", "It answered 503."),
        (b"[" * 60_000, "It answered 503."),
        (b"\xff", "It answered 503."),
    ],
)
def test_a_role_that_is_not(body: bytes, said: str, tmp_path: Path) -> None:
    """1, and the role's own words where it has some."""
    with listening(503, body) as listener:
        done = invoke("health", folder=tmp_path, settings={"ADMIN__PORT": listener.port})

    assert refusal(done, 1) == [said]


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("localhost", "127.0.0.1")])  # noqa: S104
def test_a_listener_on_every_address_is_asked_on_this_machine(host: str, asked: str, tmp_path: Path) -> None:
    """What may be bound is not always what can be reached. A proxy is for others."""
    settings = {"ADMIN__HOST": host}
    with listening(host=asked) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", "http://127.0.0.1:1")
        done = invoke("health", folder=tmp_path, settings={**settings, "ADMIN__PORT": listener.port})

    assert done.returncode == 0


@pytest.mark.parametrize(("host", "asked"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])  # noqa: S104
def test_nobody_there(host: str, asked: str, tmp_path: Path) -> None:
    """1, and where it asked: on this machine, where the listener has every address."""
    port = str(free_port())
    done = invoke("health", "--live", folder=tmp_path, settings={"ADMIN__HOST": host, "ADMIN__PORT": port})

    assert refusal(done, 1) == [
        f"Nobody answered at http://{asked}:{port}/livez (ConnectionRefusedError). Does a role run with these settings?"
    ]


def test_one_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing, as a role does whose event loop is blocked."""
    monkeypatch.setattr(probe, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = invoke("health", folder=tmp_path, settings={"ADMIN__PORT": str(silent.getsockname()[1])})

    assert refusal(done, 1)[0].endswith("(TimeoutError). Does a role run with these settings?")


def test_one_that_never_comes_to_an_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then: the limit is for all of the answer, not for each piece of it."""
    monkeypatch.setattr(probe, "ANSWER", 0.5)
    given_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def trickle() -> None:
            with slow.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                for _ in range(100):
                    connection.sendall(b"x")
                    if given_up.wait(0.1):
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        done = invoke("health", folder=tmp_path, settings={"ADMIN__PORT": str(slow.getsockname()[1])})
        given_up.set()
        thread.join()

    assert refusal(done, 1)[0].endswith("(TimeoutError). Does a role run with these settings?")


def test_what_is_no_http_is_no_answer(tmp_path: Path) -> None:
    """Something else has the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            with other.accept()[0] as connection:
                connection.sendall(b"220 mail.example.org\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        done = invoke("health", folder=tmp_path, settings={"ADMIN__PORT": str(other.getsockname()[1])})
        thread.join()

    assert "(BadStatusLine)" in refusal(done, 1)[0]


def test_settings_that_say_nothing(tmp_path: Path) -> None:
    """2: any port is none that one could ask; and what is wrong in the settings is told."""
    assert "WEBEX_EVENTS_ADMIN__PORT=0" in refusal(run("health", folder=tmp_path, settings={"ADMIN__PORT": "0"}), 2)[0]
    assert "ADMIN__PROT" in refusal(run("health", folder=tmp_path, settings={"ADMIN__PROT": "1"}), 2)[0]


async def test_a_real_role_says_how_it_is(tmp_path: Path) -> None:
    """As a container runs it: beside the role, with its settings. When the role has ended, nobody answers."""
    async with role("receiver", tmp_path, BUS="journal", ADMIN__HOST="0.0.0.0") as receiver:  # noqa: S104
        await receiver.start()
        settings = {"ADMIN__HOST": "0.0.0.0", "ADMIN__PORT": str(receiver.ports["admin"])}  # noqa: S104
        well = run("health", folder=tmp_path, settings=settings)
        await receiver.ended(receiver.signal())
        ended = run("health", folder=tmp_path, settings=settings)

    assert (well.returncode, well.stdout) == (0, b"ready\n")
    assert "Nobody answered" in refusal(ended, 1)[0]
