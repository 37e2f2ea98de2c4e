"""The processes that are measured: the yardstick and the receivers, each pinned to one core."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from service.settings import PREFIX, Receiver
from tests.benchmarks.deliveries import SECRET
from tests.benchmarks.machine import pin
from tests.ports import free_port

#: The server has a core of its own; the generator and the broker share the other one.
SERVER_CORE, OTHER_CORE = 0, 1

#: Whether this version of the receiver knows another way than the ASGI one.
HAS_DIRECT = "direct" in Receiver.model_fields


class Ended(Exception):
    """A server that should have started has not. The message is what it said last."""


@dataclass(frozen=True)
class Server:
    """A process that answers on ``port``; ``ready`` is the seconds from exec until it did."""

    pid: int
    port: int
    ready: float


@contextlib.contextmanager
def hello() -> Iterator[Server]:
    """Uvicorn by itself."""
    port = free_port()
    with _running(("-m", "tests.benchmarks.hello", str(port)), {}, port=port) as server:
        yield server


@contextlib.contextmanager
def null(*, direct: bool) -> Iterator[Server]:
    """The receiver without a bus."""
    port = free_port()
    with _running(("-m", "tests.benchmarks.null_receiver"), _settings(port, direct=direct), port=port) as server:
        yield server


@contextlib.contextmanager
def receiver(bus: Mapping[str, str], *, direct: bool) -> Iterator[Server]:
    """``webex-events serve receiver``; ``bus`` are the settings of its bus. Ready is ``/readyz``."""
    port, probes = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="webex-events-bench-") as folder:
        settings = {
            **_settings(port, direct=direct),
            f"{PREFIX}ADMIN__PORT": str(probes),
            f"{PREFIX}JOURNAL__PATH": str(Path(folder) / "journal"),
            **{f"{PREFIX}{name}": value for name, value in bus.items()},
        }
        with _running(("-m", "service", "serve", "receiver"), settings, port=port, probes=probes) as server:
            yield server


@contextlib.contextmanager
def with_silent_kafka() -> Iterator[Server]:
    """The receiver, and a Kafka that takes connections and never says a word, as behind a firewall or in a long pause."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        with receiver({"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": address}, direct=HAS_DIRECT) as server:
            yield server


def _settings(port: int, *, direct: bool) -> dict[str, str]:
    found = {
        "RECEIVER__HOST": "127.0.0.1",
        "RECEIVER__PORT": str(port),
        "WEBHOOK__SECRET": SECRET.decode(),
        **({"RECEIVER__DIRECT": str(direct).lower()} if HAS_DIRECT else {}),
    }
    return {f"{PREFIX}{name}": value for name, value in found.items()}


@contextlib.contextmanager
def _running(
    arguments: tuple[str, ...], settings: Mapping[str, str], *, port: int, probes: int | None = None
) -> Iterator[Server]:
    """Its log goes to a file: to a pipe that nobody reads it would stop one day, and a terminal is slow."""
    environment = {**{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}, **settings}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            (sys.executable, *arguments),
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: pin(SERVER_CORE),
        )
        try:
            while not _answers(port, probes):
                if process.poll() is not None or time.perf_counter() - began > 30:
                    log.seek(0)
                    raise Ended(log.read()[-2000:].decode(errors="replace"))
                time.sleep(0.005)
            yield Server(process.pid, port, time.perf_counter() - began)
        finally:
            process.terminate()
            process.wait(30)


def _answers(port: int, probes: int | None) -> bool:
    """``/readyz`` is 200; where there are no probes, a GET is answered, whatever with."""
    connection = HTTPConnection("127.0.0.1", probes or port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTPStatus.OK or probes is None
    except OSError:
        return False
    finally:
        connection.close()
