"""A real server process behind the guard, for tests over raw sockets: ``python -m tests.receiver.guarded direct``.

Its endpoint takes everything and answers with what it has seen, so that a test can tell what got through. A request may
ask for its answer later (``x-delay``, s), for a longer one (``x-pad``, bytes), for one that closes (``x-close``), and for
what the process holds (``x-look``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import uvloop

from service.cli.process_limits import prepare
from service.receiver.answers import STORED, Answer
from service.receiver.app import create_app
from service.receiver.asgi import Asgi
from service.receiver.connections import Connections, GuardLimits
from service.receiver.direct import Direct
from service.receiver.endpoint import Endpoint, Limits, Ticket
from service.receiver.request import as_pairs
from tests.servers import _Server as UvicornServer

Answering = Callable[[Answer], None]


class TakesAll(Endpoint):
    """Takes everything; knows how much that was."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self.limits = Limits()
        self._look = look
        self._count = 0
        self._canaries = 0

    def take(self, headers: Any, body: bytes, answer: Answering, source: str = "") -> Ticket:
        """Answer, as the request wants it."""
        ticket = Ticket(headers, body, answer, source)
        self._count += 1
        fields = dict(headers)
        self._canaries += b"x-canary" in fields
        if b"x-bug" in fields:
            raise RuntimeError("someone@example.org")
        if b"x-null" in fields:
            answer(STORED)
            return ticket
        reply = self._report(fields, headers, body, source)
        delay = float(fields.get(b"x-delay", 0))
        if delay:
            asyncio.get_running_loop().call_later(delay, answer, reply)
        else:
            answer(reply)
        return ticket

    def elsewhere(self, answer: Answer) -> Answer:
        """As it is."""
        return answer

    def _report(self, fields: dict[bytes, bytes], headers: Any, body: bytes, source: str) -> Answer:
        report = {
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in as_pairs(headers)],
            "body": len(body),
            "source": source,
            "taken": self._count,
            "canaries": self._canaries,
            **(self._look() if b"x-look" in fields else {}),
        }
        text = json.dumps(report).encode() + b" " * int(fields.get(b"x-pad", 0))
        close = ((b"connection", b"close"),) if b"x-close" in fields else ()
        return Answer(200, (*close, (b"content-length", b"%d" % len(text)), (b"x-id", fields.get(b"x-id", b""))), text)


class Counts:
    """The guard's observer."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}

    def connection_refused(self, reason: str) -> None:
        """Count."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


async def serve(way: str, limits: GuardLimits) -> None:
    """Serve until SIGTERM; the address is the first line of the output."""
    counts = Counts()
    connections = Connections(observe=counts, limits=limits)
    endpoint = TakesAll(lambda: {"refused": counts.refused, "connections": len(connections), **measured()})
    protocol = {
        "asgi": partial(Asgi, connections=connections),
        "direct": partial(Direct, connections=connections, endpoint=endpoint),
        "bare": "httptools",
    }[way]
    config = uvicorn.Config(
        create_app(endpoint, guarded=True) if way != "bare" else hello,
        http=protocol,  # type: ignore[arg-type] # uvicorn only calls it
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=14,
        timeout_keep_alive=0.2,  # type: ignore[arg-type] # it takes fractions
        # uvicorn's own timer, which must not matter
    )
    server = UvicornServer(config)
    serving = asyncio.create_task(server.serve())
    sweeping = asyncio.create_task(connections.keep())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    asyncio.get_running_loop().add_signal_handler(15, setattr, server, "should_exit", True)
    print(json.dumps({"port": server.servers[0].sockets[0].getsockname()[1]}), flush=True)  # noqa: T201
    await serving
    sweeping.cancel()
    print(json.dumps(measured()), flush=True)  # noqa: T201


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """uvicorn's raw hello world, to compare with."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"11")]})
    await send({"type": "http.response.body", "body": b"Hello world"})


def measured() -> dict[str, Any]:
    """What this process holds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "tasks": len(asyncio.all_tasks()),
        "fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - quicker
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
        "cpu": usage.ru_utime + usage.ru_stime,
    }


@dataclass
class Guarded:
    """A running server process."""

    way: str
    port: int
    process: subprocess.Popen[str]
    log: Path

    @property
    def lines(self) -> list[str]:
        """What it has logged."""
        return self.log.read_text().splitlines()


@contextlib.contextmanager
def guarded(way: str, folder: Path, **limits: float) -> Iterator[Guarded]:
    """Run it as a process of its own; its log is in ``folder``."""
    command = [sys.executable, "-m", "tests.receiver.guarded", way, json.dumps(limits)]
    log = folder / f"{way}-{time.monotonic_ns()}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            yield Guarded(way, json.loads(process.stdout.readline())["port"], process, log)
        finally:
            process.terminate()
            process.wait(20)


def main(way: str, limits: str = "{}") -> None:
    """Serve, with the limits of a process of the product."""
    prepare()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    uvloop.run(serve(way, GuardLimits(Limits().body_bytes, **json.loads(limits))))


if __name__ == "__main__":
    main(*sys.argv[1:])
