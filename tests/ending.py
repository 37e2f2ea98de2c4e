"""Processes that are asked to end, and what was stored by then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.bus.kafka import KafkaReader
from service.bus.kafka_connection import Connection
from service.cli.clock import utc_now
from service.cli.trigger import notification
from service.core.errors import KafkaUnavailable
from service.core.signature import sign
from tests.line import PARTITIONS, SECRET, TOKEN, Process, until
from tests.ports import free_port

#: Seconds that every role has from the signal to its end.
LIMIT = 25.0


@dataclass
class Role:
    """One process of ours in a folder of its own, with its journal there."""

    name: str
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.ports = {name: free_port() for name in ("receiver", "admin", "sandbox")}
        environ = {
            "WEBHOOK__SECRET": SECRET,
            "WEBEX__TOKEN": TOKEN,
            "RECEIVER__HOST": "127.0.0.1",
            "RECEIVER__PORT": str(self.ports["receiver"]),
            "ADMIN__PORT": str(self.ports["admin"]),
            "SANDBOX__PORT": str(self.ports["sandbox"]),
            "SANDBOX__PACE": "0",
            "JOURNAL__PATH": str(self.folder / "data"),
            **self.settings,
        }
        arguments = ("dev",) if self.name == "dev" else ("serve", self.name)
        self.process = Process(self.name, self.folder, *arguments, environ=environ)
        self.client = httpx.AsyncClient(timeout=20, trust_env=False)

    @property
    def webhook(self) -> str:
        """Where webhooks go."""
        return f"http://127.0.0.1:{self.ports['receiver']}/webhooks/webex"

    @property
    def address(self) -> tuple[str, int]:
        """The same for a raw socket."""
        return "127.0.0.1", self.ports["receiver"]

    async def probe(self, path: str) -> int:
        """The status of the private listener's answer; 0 where there is none."""
        with contextlib.suppress(httpx.TransportError):
            return (await self.client.get(f"http://127.0.0.1:{self.ports['admin']}/{path}")).status_code
        return 0

    async def scraped(self) -> str:
        """Its metrics."""
        return (await self.client.get(f"http://127.0.0.1:{self.ports['admin']}/metrics")).text

    async def start(self) -> None:
        """Start; returns when it is ready."""
        self.process.start()

        async def ready() -> bool:
            return await self.probe("readyz") == 200

        await until(ready, within=30)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Ask it to end; when that was."""
        os.kill(self.process.pid, number)
        return time.monotonic()

    async def ended(self, since: float) -> tuple[int, float]:
        """Its exit code, and the seconds that it took."""
        code = await asyncio.to_thread(self.process.stop_by_itself)
        return code, time.monotonic() - since

    def said(self, event: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        lines = self.process.output.read_text().splitlines() if self.process.output.exists() else []
        return [each for each in map(json.loads, lines) if each["event"] == event]

    def steps(self) -> list[str]:
        """What was ended, in order."""
        return [each["step"] for each in self.said("shutdown.step")]

    async def close(self) -> None:
        """Whatever it takes."""
        self.process.end()
        await self.client.aclose()


@contextlib.asynccontextmanager
async def role(name: str, folder: Path, **settings: str) -> AsyncIterator[Role]:
    """One that is gone at the end of the block; where that fails, the end of what it said is shown."""
    made = Role(name, folder, settings)
    try:
        yield made
    except BaseException:
        if made.process.output.exists():
            print(made.process.output.read_text()[-6000:])  # noqa: T201 - pytest shows it
        raise
    finally:
        await made.close()


def kafka_settings(bootstrap: str, prefix: str) -> dict[str, str]:
    """The settings of a role on Kafka."""
    return {
        "BUS": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA__TOPIC_PREFIX": prefix,
        "KAFKA__GROUP": f"{prefix}processors",
        "KAFKA__TOPICS__PARTITIONS": str(PARTITIONS),
    }


# --- webhooks ---------------------------------------------------------------------------------------------------------


@dataclass
class Sender:
    """Posts webhooks without a pause from several connections, and remembers which were answered 2xx."""

    role: Role
    stored: set[str] = field(default_factory=set)
    others: list[int] = field(default_factory=list)
    broken: int = 0
    _count: int = 0

    def body(self) -> tuple[str, bytes]:
        """A marker and a notification that has it."""
        self._count += 1
        marker = f"marker-{self._count}-{id(self)}"
        series = f"{self._count % 5:032x}"
        return marker, notification("meetings.updated", series=series, now=utc_now(), data={"timezone": marker})

    async def post(self) -> None:
        """One of them."""
        marker, body = self.body()
        headers = {"content-type": "application/json", **sign(body, SECRET.encode())}
        try:
            status = (await self.role.client.post(self.role.webhook, content=body, headers=headers)).status_code
        except httpx.TransportError:
            self.broken += 1
            await asyncio.sleep(0.02)
            return
        if status == 204:
            self.stored.add(marker)
        else:
            self.others.append(status)

    @contextlib.asynccontextmanager
    async def going(self, connections: int = 4) -> AsyncIterator[None]:
        """Posting while the block runs."""
        over = asyncio.Event()

        async def one() -> None:
            while not over.is_set():
                await self.post()

        tasks = [asyncio.create_task(one()) for _ in range(connections)]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*tasks)


@dataclass
class Slow:
    """One webhook over a raw socket: its head and half of its body are sent, the rest is up to the test."""

    marker: str
    rest: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def begin(cls, sender: Sender) -> Slow:
        """Connect, and send the half."""
        marker, body = sender.body()
        head = {"host": "x", "content-type": "application/json", "content-length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in (head | dict(sign(body, SECRET.encode()))).items()]
        reader, writer = await asyncio.open_connection(*sender.role.address)
        writer.write("\r\n".join(["POST /webhooks/webex HTTP/1.1", *lines, "", ""]).encode() + body[:50])
        await writer.drain()
        return cls(marker, body[50:], reader, writer)

    async def finish(self) -> bytes:
        """Send the rest; the whole answer."""
        self.writer.write(self.rest)
        return await self.answer()

    async def answer(self) -> bytes:
        """Whatever comes until the other side closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""
        finally:
            self.writer.close()

    async def drip(self) -> bytes:
        """Send a byte a second and never the last one; the answer."""
        answer = asyncio.create_task(self.answer())
        for byte in self.rest[:-1]:
            if answer.done():
                break
            self.writer.write(bytes([byte]))
            await asyncio.wait({answer}, timeout=1)
        return await answer


# --- what is stored ---------------------------------------------------------------------------------------------------


def in_journal(folder: Path) -> str:
    """Everything that stands in the journal of a process that has ended, read past our own code."""
    with contextlib.closing(sqlite3.connect(folder / "data" / "journal.db")) as journal:
        rows = journal.execute("SELECT value FROM records").fetchall()
    return "\n".join(value.decode("utf-8", "replace") for (value,) in rows if value)


async def on_topic(bootstrap: str, prefix: str, topic: str = "meetings") -> str:
    """Everything on a topic."""
    reader = KafkaReader(connection=Connection(bootstrap_servers=bootstrap), topic_prefix=prefix)
    values = list[bytes]()
    for partition in range(PARTITIONS):
        with contextlib.suppress(KafkaUnavailable):
            values += [record.value or b"" async for record in reader.read(topic, partition)]
    return "\n".join(value.decode() for value in values)


def lost(markers: set[str], *places: str) -> set[str]:
    """The markers that stand nowhere."""
    return {marker for marker in markers if not any(marker in place for place in places)}


# --- who does not answer ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Somebody who takes every request and answers none: ``host:port``, and what is set once something was asked."""
    asked, writers = asyncio.Event(), list[asyncio.StreamWriter]()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                asked.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        for writer in writers:
            writer.close()
