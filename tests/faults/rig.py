"""Three brokers behind proxies, the real receiver with a journal on disk, and a sender that never waits.

    async with Rig.standing(folder) as rig:
        await rig.begin()                       # the sender begins
        async with rig.fault("kill", target):   # written down in the history
            rig.broker(target).kill()
        report = await rig.judged(Bounds())     # the sender ends; Kafka is read; the verdict

The receiver reaches the brokers by proxies only (listener CLIENT); brokers among themselves, and whoever reads or asks for
the rig, use the listener INTERNAL, which nothing stands before. Kafka writes the time of writing into every record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from aiokafka.errors import KafkaError

from tests.faults import quorum
from tests.faults.history import Fault, Journal, Note, Post, Writer, read
from tests.faults.invariants import Bounds, Report, check
from tests.faults.left_behind import ids_in_journal
from tests.faults.proxy import Behaviour, Proxies, Proxy
from tests.faults.reading import TOPICS, Reader
from tests.kafka.harness import Broker, Cluster, Nodes
from tests.line import SECRET, Process
from tests.ports import free_port

PREFIX = "rig."
BROKERS = 3


@dataclass
class Doors:
    """The ports of each node: where brokers and the rig come in, and where the receiver is sent to."""

    internal: dict[int, int] = field(default_factory=dict)
    proxied: dict[int, int] = field(default_factory=dict)

    def properties(self, nodes: Nodes, node: int) -> Mapping[str, str]:
        """What a node's properties say about its listeners."""
        address, port, controller_port = nodes[node]
        self.internal[node], self.proxied[node] = free_port(address), free_port(address)
        internal = f"INTERNAL://{address}:{self.internal[node]}"
        return {
            "listeners": f"CLIENT://{address}:{port},{internal},CONTROLLER://{address}:{controller_port}",
            "advertised.listeners": f"CLIENT://{address}:{self.proxied[node]},{internal}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "log.message.timestamp.type": "LogAppendTime",
            "auto.leader.rebalance.enable": "false",
        }


class Rig:
    """What a cell has to play with. Nodes are named by Kafka's own numbers, 1 to 3."""

    def __init__(self, cluster: Cluster, doors: Doors, proxies: Mapping[int, Proxy], folder: Path) -> None:
        self.cluster = cluster
        self.proxies = proxies
        self._folder = folder
        self._doors = doors
        self.internal = ",".join(f"{b.address}:{doors.internal[n]}" for n, b in enumerate(cluster.brokers, 1))
        self.port, self.admin = free_port(), free_port()
        self.receiver = self._process("receiver", "serve", "receiver")
        self.history = Writer(folder / "rig.jsonl")
        self._sender: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def standing(cls, folder: Path) -> AsyncIterator[Rig]:
        """Topics made, the receiver started and connected. Everything ends with the block."""
        doors = Doors()
        with Cluster.started(BROKERS, extra=doors.properties) as cluster, Proxies() as proxies:
            opened = {
                node: proxies.open((broker.address, doors.proxied[node]), target=(broker.address, broker.port))
                for node, broker in enumerate(cluster.brokers, 1)
            }
            rig = cls(cluster, doors, opened, folder)
            try:
                await rig._prepare()
                yield rig
            finally:
                rig._end()

    async def _prepare(self) -> None:
        topics = self._process("topics", "topics", "apply")
        topics.start()
        assert await asyncio.to_thread(topics.stop_by_itself) == 0, topics.output.read_text()[-2000:]
        await self.all_in_sync()
        self.receiver.start()
        await self._answers(f"http://127.0.0.1:{self.admin}/readyz")
        await self.metric("producer_healthy", lambda value: value == 1, within=30)

    def _process(self, name: str, *arguments: str) -> Process:
        environ = {
            "BUS": "kafka",
            "KAFKA__BOOTSTRAP_SERVERS": ",".join(f"{p.listen[0]}:{p.listen[1]}" for p in self.proxies.values()),
            "KAFKA__TOPIC_PREFIX": PREFIX,
            "WEBHOOK__SECRET": SECRET,
            "WEBEX__TOKEN": "rig-token",
            "RECEIVER__HOST": "127.0.0.1",
            "RECEIVER__PORT": str(self.port),
            "ADMIN__PORT": str(self.admin),
            "JOURNAL__PATH": str(self._folder / "journal"),
        }
        return Process(name, self._folder, *arguments, environ=environ)

    def _end(self) -> None:
        if self._sender is not None and self._sender.poll() is None:
            self._sender.kill()
            self._sender.wait(10)
        self.receiver.end()
        self.history.close()

    # --- brokers ------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[int, Broker]:
        """All three."""
        return dict(enumerate(self.cluster.brokers, 1))

    def addresses(self, node: int) -> list[tuple[str, int]]:
        """Where a broker listens for the receiver and for other brokers; not for other controllers."""
        broker = self.nodes[node]
        return [(broker.address, broker.port), (broker.address, self._doors.internal[node])]

    async def controller(self) -> int:
        """The node that leads the quorum; asked again while there is none."""
        found: list[int] = []

        async def answered() -> bool:
            for node in (node for node, broker in self.nodes.items() if broker.running):
                with contextlib.suppress(OSError):
                    found.append(quorum.active_controller(self.nodes[node].address, self._doors.internal[node]))
                    return True
            return False

        await _until(answered, within=60)
        return found[0]

    async def copies(self) -> dict[quorum.Place, quorum.Copies]:
        """Who has which partition of the topics that are written to; asked again while brokers come and go."""
        found: dict[quorum.Place, quorum.Copies] = {}

        async def answered() -> bool:
            with contextlib.suppress(KafkaError, KeyError, TimeoutError):
                found.update(await quorum.copies(self.internal, [PREFIX + topic for topic in TOPICS]))
            return bool(found)

        await _until(answered, within=60)
        return found

    async def leads_most(self, *, besides: int) -> int:
        """The node that leads most partitions, ``besides`` left out."""
        leading = Counter(each.leader for each in (await self.copies()).values())
        del leading[besides]
        return leading.most_common(1)[0][0]

    async def idle_follower(self) -> int:
        """A node that leads nothing any more, and is not the controller: it was away for a moment."""
        for _ in range(5):  # on a busy machine another one may lose its leadership meanwhile
            controller = await self.controller()
            node = next(number for number in self.nodes if number != controller)
            await asyncio.to_thread(self.nodes[node].stop)
            self.nodes[node].start()
            await self.all_in_sync()
            leaders = {each.leader for each in (await self.copies()).values()}
            if node not in leaders and node != await self.controller():
                return node
        raise AssertionError("every broker leads something again and again")

    async def all_in_sync(self, *, within: float = 90) -> None:
        """Wait until every copy of every partition is in sync, and somebody leads."""

        async def so() -> bool:
            found = (await self.copies()).values()
            return all(each.in_sync == each.replicas and each.leader > 0 for each in found)

        await _until(so, within=within)

    @contextlib.contextmanager
    def behaving(self, behaviour: Behaviour, *nodes: int) -> Iterator[None]:
        """What the proxies before these nodes (before all, where none is named) do while the block runs."""
        chosen = [self.proxies[node] for node in nodes or self.proxies]
        for proxy in chosen:
            proxy.behave(behaviour)
        try:
            yield
        finally:
            for proxy in chosen:
                proxy.behave()

    # --- the run ------------------------------------------------------------------------------------------------------

    async def begin(self, *, rate: float = 200.0, keys: int = 50, seed: int = 0, warm_up: float = 5.0) -> None:
        """The sender begins; return once it has sent for a while."""
        url = f"http://127.0.0.1:{self.port}/webhooks/webex"
        options = {"secret": SECRET, "rate": rate, "keys": keys, "seed": seed}
        command = [sys.executable, "-m", "tests.faults.sender", url, str(self._folder / "sender.jsonl")]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (self._folder / "sender.log").open("ab") as log:
            self._sender = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: ASYNC220 - it returns at once
        await asyncio.sleep(warm_up)

    @contextlib.asynccontextmanager
    async def fault(self, name: str, target: object = "") -> AsyncIterator[None]:
        """The block is the fault."""
        self.history.write(Fault(name=name, phase="begin", target=str(target)))
        yield
        self.history.write(Fault(name=name, phase="end", target=str(target)))

    async def judged(self, bounds: Bounds) -> Report:
        """End the sender, wait for what is on its way (at most ``bounds.quiet``), read Kafka, and judge."""
        await self._finish_sending()
        posts = [line for line in read(self._folder / "sender.jsonl") if isinstance(line, Post)]
        assert posts, "nothing was sent: " + (self._folder / "sender.log").read_text()[-2000:]
        deadline = max(post.t1 for post in posts) + bounds.quiet + 1
        reader = Reader(self.internal, PREFIX, posts)
        found = await reader.read(until=deadline)
        left = await self._left(posts) if reader.missing else []
        self.history.write(*found, *left, Note(name="load", value=os.getloadavg()[0]))
        return check(read(self._folder / "rig.jsonl", self._folder / "sender.jsonl"), bounds)

    async def _finish_sending(self) -> None:
        assert self._sender is not None
        assert self._sender.poll() is None, (self._folder / "sender.log").read_text()[-2000:]
        self._sender.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._sender.wait, 30)

    async def _left(self, posts: Sequence[Post]) -> list[Journal]:
        """What is missing may stand in the journal. It is looked at after the end of the receiver, who has its lock."""
        await asyncio.to_thread(self.receiver.stop)
        there = ids_in_journal(self._folder / "journal")
        return [Journal(id=post.id) for post in posts if {post.id, post.event} & there]

    # --- the receiver -------------------------------------------------------------------------------------------------

    async def metric(self, name: str, fits: Callable[[float], bool], *, within: float) -> float:
        """Wait until a metric of the receiver is as it should be; the seconds that it took."""
        begun = time.monotonic()

        async def so() -> bool:
            value = await self.measured(name)
            return value is not None and fits(value)

        await _until(so, within=within)
        return time.monotonic() - begun

    async def measured(self, name: str) -> float | None:
        """The value of a metric without labels; None where there is none, or no answer."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            with contextlib.suppress(httpx.HTTPError):
                text = (await client.get(f"http://127.0.0.1:{self.admin}/metrics")).text
                found = re.search(rf"^webex_events_{name} (\S+)$", text, re.MULTILINE)
                return float(found[1]) if found else None
        return None

    async def _answers(self, url: str) -> None:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:

            async def asked() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    return (await client.get(url)).status_code == 200
                return False

            await _until(asked, within=60)


async def _until(true: Callable[[], Awaitable[bool]], *, within: float) -> None:
    deadline = time.monotonic() + within
    while not await true():
        assert time.monotonic() < deadline, f"waited in vain for {within:.0f} s"
        await asyncio.sleep(0.2)
