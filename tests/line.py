"""The product as an operator runs it: its processes, with a simulated Webex, on either bus.

``JournalLine`` is one process, `webex-events dev`. ``KafkaLine`` is receiver, processor and sandbox on a real broker.
Everything is seen from outside: HTTP, what the processes print, and what is on the bus in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx

from service.bus.journal import Journal
from service.bus.journal_bus import JournalReader
from service.bus.kafka import KafkaReader
from service.bus.kafka_connection import Connection
from service.core import event
from service.core.event import CloudEvent
from service.core.message import Received
from service.core.signature import sign
from tests.ports import free_port

SECRET = "line-webhook-secret-4711"
TOKEN = "line-token-0815"
PARTITIONS = 3
PREFIX = "WEBEX_EVENTS_"

POLICY = """
version: 1
lists: {partners: [partner.example], rivals: [rival.example]}
rules:
  - {name: rivals-out, when: registrant.emailDomain in lists.rivals, then: reject, reason: Works for a rival}
  - {name: partners-in, when: registrant.emailDomain in lists.partners, then: approve, notify: false, reason: A partner}
"""


class Process:
    """One process of ours. Its output, over all its restarts, goes to one file."""

    def __init__(self, name: str, folder: Path, *arguments: str, environ: Mapping[str, str]) -> None:
        self.output = folder / f"{name}.log"
        self._arguments, self._folder = arguments, folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._environ = {**kept, "PYTHONPATH": str(Path.cwd()), **{PREFIX + n: v for n, v in environ.items()}}
        self._running: subprocess.Popen[bytes] | None = None
        #: What stands before its command: a tracer that leaves it our child.
        self.under: tuple[str, ...] = ()
        #: What the interpreter is told to run.
        self.program: tuple[str, ...] = ("-m", "service")

    def start(self) -> None:
        """Start, or start again."""
        command = (*self.under, sys.executable, *self.program, *self._arguments)
        with self.output.open("ab") as output:
            self._running = subprocess.Popen(
                command, cwd=self._folder, env=self._environ, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._running is not None
        return self._running.pid

    def peak(self) -> int:
        """Most memory that it has had in RAM, in MiB (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """``kill -9``."""
        assert self._running is not None
        self._running.kill()
        self._running.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._running is not None
        self._running.terminate()
        return self._running.wait(30)

    def stop_by_itself(self) -> int:
        """Wait for its end; the exit code."""
        assert self._running is not None
        return self._running.wait(60)

    def end(self) -> None:
        """Whatever it takes."""
        if self._running is not None and self._running.poll() is None:
            self.kill()


class Line(Protocol):
    """The main job, end to end."""

    name: str
    webhook: str
    webex: str
    metrics: list[str]
    client: httpx.AsyncClient
    policy: Path
    #: The process that looks, decides and writes.
    decides: Process

    def crash(self) -> None:
        """``kill -9`` of everything that is ours (and of the sandbox, where it is in the same process)."""

    async def start(self) -> None:
        """Start, or start again; returns when it accepts."""

    async def stop(self) -> list[int]:
        """End it in order; the exit codes."""

    async def records(self, topic: str) -> list[Received]:
        """Everything on a topic, partition after partition. Only after :meth:`stop` for the journal."""

    def printed(self) -> str:
        """Everything that the processes printed."""


class _Line:
    """What both lines have in common."""

    def __init__(self, folder: Path, policy: str, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("receiver", "admin", "admin2", "sandbox")}
        self.webhook = f"http://127.0.0.1:{self.ports['receiver']}/webhooks/webex"
        self.webex = f"http://127.0.0.1:{self.ports['sandbox']}"
        self.client = httpx.AsyncClient(timeout=20, trust_env=False)
        self.policy = folder / "policy.yaml"
        self.policy.write_text(policy)
        self.environ = {
            "WEBHOOK__SECRET": SECRET,
            "WEBEX__TOKEN": TOKEN,
            "POLICY__FILE": str(self.policy),
            "RECEIVER__HOST": "127.0.0.1",
            "RECEIVER__PORT": str(self.ports["receiver"]),
            "ADMIN__PORT": str(self.ports["admin"]),
            "SANDBOX__PORT": str(self.ports["sandbox"]),
            "SANDBOX__PACE": "0",
            "SWEEP__INTERVAL": "300",
            **settings,
        }
        self.processes: list[Process] = []
        #: Asked for when the line is about to stop, while the simulated Webex still answers.
        self.before_stop: Callable[[], Awaitable[None]] | None = None

    async def _last_words(self) -> None:
        if self.before_stop is not None:
            await self.before_stop()

    def process(self, name: str, *arguments: str, **environ: str) -> Process:
        made = Process(name, self.folder, *arguments, environ={**self.environ, **environ})
        self.processes.append(made)
        return made

    async def answers(self, url: str, *, within: float = 30) -> None:
        """Wait until ``url`` is answered with 200."""

        async def asked() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await self.client.get(url)).status_code == 200
            return False

        await until(asked, within=within)

    def printed(self) -> str:
        """Everything that the processes printed."""
        return "".join(process.output.read_text() for process in self.processes if process.output.exists())

    async def close(self) -> None:
        for process in self.processes:
            process.end()
        await self.client.aclose()


class JournalLine(_Line):
    """`webex-events dev`: everything in one process, on the journal."""

    name = "journal"

    def __init__(self, folder: Path, *, policy: str = POLICY, settings: Mapping[str, str] = {}) -> None:
        super().__init__(folder, policy, settings)
        self.metrics = [f"http://127.0.0.1:{self.ports['admin']}/metrics"]
        self._dev = self.process("dev", "dev", JOURNAL__PATH=str(folder / "data"))
        self.decides = self._dev

    def crash(self) -> None:
        """``kill -9``, the sandbox included."""
        self._dev.kill()

    async def start(self) -> None:
        """Start, or start again."""
        self._dev.start()
        await self.answers(f"http://127.0.0.1:{self.ports['admin']}/readyz")
        await self.answers(f"{self.webex}/sandbox/ledger")
        await accepts(self)

    async def stop(self) -> list[int]:
        """SIGTERM."""
        await self._last_words()
        return [await asyncio.to_thread(self._dev.stop)]

    async def records(self, topic: str) -> list[Received]:
        """Everything on a topic; the process must have ended."""
        async with await Journal.open(self.folder / "data") as journal:
            return [record async for record in JournalReader(journal).read(topic, 0)]


class KafkaLine(_Line):
    """Receiver and processor on a real broker, the sandbox beside them."""

    name = "kafka"
    partitions = PARTITIONS

    def __init__(
        self, folder: Path, bootstrap: str, prefix: str, *, policy: str = POLICY, settings: Mapping[str, str] = {}
    ) -> None:
        super().__init__(folder, policy, settings)
        self.bootstrap, self.prefix = bootstrap, prefix
        self.environ |= {
            "BUS": "kafka",
            "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "KAFKA__TOPIC_PREFIX": prefix,
            "KAFKA__GROUP": f"{prefix}processors",
            "KAFKA__TOPICS__PARTITIONS": str(self.partitions),
            "WEBEX__BASE_URL": f"{self.webex}/v1",
        }
        self.metrics = [f"http://127.0.0.1:{self.ports[name]}/metrics" for name in ("admin", "admin2")]
        self._receiver = self.process("receiver", "serve", "receiver", JOURNAL__PATH=str(folder / "receiver"))
        self._processor = self.process(
            "processor",
            "serve",
            "processor",
            JOURNAL__PATH=str(folder / "processor"),
            ADMIN__PORT=str(self.ports["admin2"]),
            KAFKA__INSTANCE_ID="processor-0",
        )
        self.decides = self._processor
        self._sandbox = self.process(
            "sandbox", "sandbox", "--target-url", self.webhook, JOURNAL__PATH=str(folder / "sandbox")
        )
        self._sandbox_runs = False

    def crash(self) -> None:
        """``kill -9`` of receiver and processor; the sandbox goes on, as Webex would."""
        self._receiver.kill()
        self._processor.kill()

    async def start(self) -> None:
        """Start, or start again."""
        if not self._sandbox_runs:
            topics = self.process("topics", "topics", "apply")
            topics.start()
            assert await asyncio.to_thread(topics.stop_by_itself) == 0, self.printed()
            self._sandbox.start()
            self._sandbox_runs = True
        self._receiver.start()
        self._processor.start()
        for port in ("admin", "admin2"):
            await self.answers(f"http://127.0.0.1:{self.ports[port]}/readyz")
        await self.answers(f"{self.webex}/sandbox/ledger")
        await accepts(self)

    async def stop(self) -> list[int]:
        """SIGTERM, the sandbox last."""
        await self._last_words()
        ends = (self._receiver, self._processor, self._sandbox)
        return list(await asyncio.gather(*(asyncio.to_thread(process.stop) for process in ends)))

    async def records(self, topic: str) -> list[Received]:
        """Everything on a topic, partition after partition."""
        reader = KafkaReader(connection=Connection(bootstrap_servers=self.bootstrap), topic_prefix=self.prefix)
        return [record for n in range(self.partitions) for record in [r async for r in reader.read(topic, n)]]


# --- what a test does with a line -------------------------------------------------------------------------------------


async def until(true: Callable[[], Any], *, within: float = 60) -> None:
    """Wait until what ``true`` says, or awaits to say, is so."""
    deadline = time.monotonic() + within
    while not await true():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


async def accepts(line: _Line) -> None:
    """Wait until the public listener answers."""

    async def asked() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await line.client.get(line.webhook)).status_code == 405
        return False

    await until(asked, within=30)


async def call(line: Line, method: str, path: str, **arguments: Any) -> Any:
    """One call of the simulated Webex, as a host would make it."""
    answer = await line.client.request(
        method, f"{line.webex}{path}", headers={"authorization": f"Bearer {TOKEN}"}, **arguments
    )
    assert answer.status_code < 300, (method, path, answer.status_code)
    return answer.json() if answer.content else None


async def schedule(line: Line, title: str) -> str:
    """A meeting with registration; its series id."""
    made = await call(
        line,
        "POST",
        "/v1/meetings",
        json={
            "title": title,
            "start": "2027-05-01T10:00:00Z",
            "end": "2027-05-01T11:00:00Z",
            "registration": {"autoAcceptRequest": False, "requireFirstName": True, "requireEmail": True},
        },
    )
    return str(made["id"])


async def register(line: Line, meeting: str, count: int, domain: str) -> list[str]:
    """So many people of one domain register; their ids."""
    made = await call(line, "POST", "/sandbox/people", json={"meetingId": meeting, "count": count, "domain": domain})
    return list(made["ids"])


async def touch(line: Line, meeting: str) -> None:
    """Somebody edits the meeting, and Webex sends its webhook."""
    await call(line, "PATCH", f"/v1/meetings/{meeting}", json={"agenda": f"edited at {time.time_ns()}"})


async def ledger(line: Line) -> dict[str, Any]:
    """What the simulated Webex was asked and what came of it."""
    return dict(await call(line, "GET", "/sandbox/ledger"))


async def post(line: Line, body: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """A signed notification, or with other ``headers``."""
    signed = sign(body, SECRET.encode()) if headers is None else headers
    return await line.client.post(line.webhook, content=body, headers={"content-type": "application/json", **signed})


async def facts(line: Line) -> list[tuple[int, CloudEvent]]:
    """``(partition, event)`` of every fact about registrants."""
    return [(record.partition, event.decode(record.value or b"")) for record in await line.records("registrants")]


@contextlib.asynccontextmanager
async def closing(line: Any) -> AsyncIterator[Any]:
    """The line, with nothing of it left behind afterwards; on failure the end of what it printed is shown."""
    try:
        yield line
    except BaseException:
        sys.stderr.write(line.printed()[-6000:])
        raise
    finally:
        await line.close()
