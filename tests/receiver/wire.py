"""HTTP as bytes on a socket: what no client library would send, and everything that comes back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

PATH = b"/webhooks/webex"
LINE = b"POST " + PATH + b" HTTP/1.1\r\n"
HOST = b"Host: receiver\r\n"


def post(*fields: bytes, body: bytes = b"{}", line: bytes = LINE) -> bytes:
    """A request in good order, with these fields too."""
    more = b"".join(field + b"\r\n" for field in fields)
    return line + HOST + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bare(*fields: bytes, line: bytes = LINE, host: bytes = HOST, then: bytes = b"") -> bytes:
    """A request of exactly these fields after the Host, and ``then`` behind the headers."""
    return line + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + then


def chunked(*chunks: bytes, line: bytes = LINE, size: bytes = b"%x", end: bytes = b"0\r\n\r\n") -> bytes:
    """A request in chunks."""
    body = b"".join(size % len(chunk) + b"\r\n" + chunk + b"\r\n" for chunk in chunks)
    return bare(b"Transfer-Encoding: chunked", line=line, then=body + end)


CANARY = post(b"X-Canary: 1")


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Its body."""
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


@dataclass(frozen=True)
class Heard:
    """All that came back, and whether the server ended the connection, after how many seconds."""

    replies: list[Reply]
    closed: bool
    seconds: float

    @property
    def statuses(self) -> list[int]:
        """Of the answers, in order."""
        return [reply.status for reply in self.replies]


class Wire(contextlib.AbstractContextManager["Wire"]):
    """A connection."""

    def __init__(self, port: int, *, buffer: int | None = None, source: str = "127.0.0.1") -> None:
        self.begun = time.monotonic()
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self._rest = b""

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, pieces: Iterable[bytes]) -> bool:
        """False where the server would not have all of it."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except OSError:
            return False
        return True

    def hear(self, seconds: float = 5.0, *, replies: int | None = None) -> Heard:
        """Until the server ends the connection, or so many answers or ``seconds`` are over."""
        data, closed, end = self._rest, False, time.monotonic() + seconds
        while (
            not closed and (replies is None or len(_parsed(data)[0]) < replies) and (left := end - time.monotonic()) > 0
        ):
            self.socket.settimeout(left)
            try:
                more = self.socket.recv(1 << 16)
                closed = not more
                data += more
            except TimeoutError:
                break
            except OSError:
                closed = True
        found, self._rest = _parsed(data)
        return Heard(found, closed, time.monotonic() - self.begun)

    def ask(self, *pieces: bytes, seconds: float = 5.0, replies: int | None = None) -> Heard:
        """Send and hear."""
        self.send(pieces)
        return self.hear(seconds, replies=replies)


def once(
    port: int, *pieces: bytes, seconds: float = 5.0, replies: int | None = None, source: str = "127.0.0.1"
) -> Heard:
    """On a connection of its own."""
    with Wire(port, source=source) as wire:
        return wire.ask(*pieces, seconds=seconds, replies=replies)


LOOK = post(b"X-Look: 1", b"Connection: close")


def report(port: int) -> dict[str, Any]:
    """What the server says of itself."""
    (reply,) = once(port, LOOK).replies
    assert reply.status == 200, reply
    return reply.json


def _parsed(data: bytes) -> tuple[list[Reply], bytes]:
    """The complete answers at its beginning, and the rest."""
    found: list[Reply] = []
    while (end := data.find(b"\r\n\r\n")) >= 0:
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(data) < end + 4 + length:
            break
        found.append(Reply(int(first.split(" ")[1]), headers, data[end + 4 : end + 4 + length]))
        data = data[end + 4 + length :]
    return found, data
