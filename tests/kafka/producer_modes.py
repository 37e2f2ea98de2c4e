"""What the producer does under faults, idempotent and not: ``python -m tests.kafka.producer_modes [--cells P3,P4]``.

Three real brokers for each cell. 50 keys on 6 partitions, open loop; one batch of a partition at a time, of whatever has come
meanwhile. The fault comes after 5 s; the load goes on until 10 s after it has ended. Then everything must be acknowledged
within a minute, and the topic is read from its beginning by somebody else.

    sent, acknowledged     records; what Kafka refused is neither
    lost                   acknowledged, and not in the topic
    twice                  records of the topic that stood there before
    disorder               first occurrences of a key that are not in the order of sending
    heal                   s from the fault's end until the last partition acknowledged again (0: it had before)
    worst                  s from the sending of a record to its acknowledgement, the longest
    clients                how often the client was replaced
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from service.bus.kafka import KafkaProducer
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_partitioner import partition_for
from service.bus.outgoing import stamped
from service.bus.topics import TopicPlan
from service.core.errors import RecordRefused
from service.core.message import Message
from tests.faults.proxy import PRODUCE, Behaviour, Proxies, Proxy, Swallow
from tests.kafka.harness import Broker, Cluster, Nodes
from tests.kafka.records import create_topics, first_occurrences, limit_batches, numbered, partitions, read_topic

PREFIX, TOPIC, PARTITIONS = "modes.", "work", 6
KEYS = 50
MOST = 500  # records of a batch
LEAD, TAIL, PATIENCE = 5.0, 10.0, 60.0
MODES = {"idempotent": True, "plain": False}
HEADER = ("fault", "mode", "sent", "acknowledged", "lost", "twice", "disorder", "heal", "worst", "clients")


@dataclass
class Stage:
    """What a fault may break."""

    cluster: Cluster
    proxies: Sequence[Proxy]
    load: Load

    async def leader(self, partition: int = 0) -> Broker:
        """The broker that leads it."""
        async with kafka_admin(self.cluster.connection) as admin:
            described = await admin._client.describe_topics([PREFIX + TOPIC])  # the port does not name leaders
        (node,) = (each["leader"] for each in described[0]["partitions"] if each["partition"] == partition)
        return self.cluster.brokers[int(node) - 1]

    async def follower(self) -> Broker:
        """One that follows the leader of partition 0."""
        leader = await self.leader()
        return next(each for each in self.cluster.brokers if each is not leader)


Fault = Callable[[Stage], Awaitable[None]]


def killed(which: Callable[[Stage], Awaitable[Sequence[Broker]]], seconds: float) -> Fault:
    """SIGKILL, away for so long, and started again; it ends when they are ready."""

    async def fault(stage: Stage) -> None:
        brokers = await which(stage)
        for broker in brokers:
            broker.kill()
        await asyncio.sleep(seconds)
        for broker in brokers:
            broker.start()
        await stage.cluster.ready()

    return fault


def frozen(which: Callable[[Stage], Awaitable[Sequence[Broker]]], seconds: float) -> Fault:
    """SIGSTOP, then SIGCONT."""

    async def fault(stage: Stage) -> None:
        brokers = await which(stage)
        for broker in brokers:
            broker.pause()
        await asyncio.sleep(seconds)
        for broker in brokers:
            broker.resume()

    return fault


async def leader(stage: Stage) -> Sequence[Broker]:
    return (await stage.leader(),)


async def follower(stage: Stage) -> Sequence[Broker]:
    return (await stage.follower(),)


async def two(stage: Stage) -> Sequence[Broker]:
    led = await stage.leader()
    return tuple(each for each in stage.cluster.brokers if each is not led)


async def everyone(stage: Stage) -> Sequence[Broker]:
    return stage.cluster.brokers


async def one_too_large(stage: Stage) -> None:
    """The topic's limit is lowered behind the producer's back, and one record above it comes, among small ones."""
    await limit_batches(stage.cluster, PREFIX + TOPIC, 2000)
    await asyncio.sleep(1)  # for all three to have heard of it
    stage.load.add(Message(topic=TOPIC, key="k0", value=b"-2".ljust(5000), partition_by="k0"))
    await asyncio.sleep(5)


def answers_lost(cut: bool) -> Fault:
    """A hundred answers to batches get lost; with ``cut`` the connection is reset, else the client waits in vain."""

    async def fault(stage: Stage) -> None:
        each = 100 // len(stage.proxies) if cut else 3
        for proxy in stage.proxies:
            proxy.behave(Behaviour(swallow=Swallow(api_key=PRODUCE, times=each, every=5, cut=cut)))
        for _ in range(60):
            await asyncio.sleep(1)
            if all(proxy.swallowed >= each for proxy in stage.proxies):
                break
        else:
            sys.stderr.write(f"only {sum(proxy.swallowed for proxy in stage.proxies)} answers got lost\n")
        for proxy in stage.proxies:
            proxy.behave()

    return fault


@dataclass(frozen=True)
class Cell:
    """A fault, and the topic that it meets."""

    fault: Fault
    replication: int = 3
    min_insync: int = 2
    per_second: float = 250.0
    proxied: bool = False


CELLS: Mapping[str, Cell] = {
    "P3: unreplicated leader killed 30 s": Cell(killed(leader, 30), replication=1, min_insync=1),
    "P4: one record too large": Cell(one_too_large, per_second=200),
    "not enough replicas: follower killed 30 s": Cell(killed(follower, 30), min_insync=3),
    "not enough replicas: follower frozen 30 s": Cell(frozen(follower, 30), min_insync=3),
    "two of three killed 30 s": Cell(killed(two, 30)),
    "two of three frozen 30 s": Cell(frozen(two, 30)),
    "leader frozen 30 s": Cell(frozen(leader, 30)),
    "leader killed, back after 15 s": Cell(killed(leader, 15)),
    "all killed 60 s": Cell(killed(everyone, 60)),
    "all frozen 30 s": Cell(frozen(everyone, 30)),
    "100 answers lost, connection reset": Cell(answers_lost(cut=True), proxied=True),
    "9 answers lost, connection open": Cell(answers_lost(cut=False), proxied=True),
}


@dataclass
class Load:
    """Sends, one batch of a partition at a time, and remembers."""

    producer: KafkaProducer
    queues: Sequence[asyncio.Queue[tuple[Message, float]]] = field(
        default_factory=lambda: [asyncio.Queue() for _ in range(PARTITIONS)]
    )
    sent: int = 0
    acknowledged: list[Message] = field(default_factory=list)
    refused: int = 0
    worst: float = 0.0
    answers: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def outstanding(self) -> int:
        """Records that are neither acknowledged nor refused."""
        return self.sent - len(self.acknowledged) - self.refused

    def add(self, message: Message) -> None:
        """One more record."""
        self.queues[partition_for(message.partition_by, PARTITIONS)].put_nowait((message, time.monotonic()))
        self.sent += 1

    async def run(self, per_second: float) -> None:
        """New records at that rate until cancelled."""
        started = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(started + number / per_second - time.monotonic())
            self.add(numbered(f"k{number % KEYS}", number // KEYS, topic=TOPIC))

    async def lane(self, partition: int) -> None:
        """The batches of one partition, until cancelled."""
        queue = self.queues[partition]
        while True:
            first, since = await queue.get()
            batch = [first]
            while not queue.empty() and len(batch) < MOST:
                batch.append(queue.get_nowait()[0])
            await self._deliver(partition, batch)
            now = time.monotonic()
            self.worst = max(self.worst, now - since)
            self.answers[partition].append(now)

    async def _deliver(self, partition: int, messages: Sequence[Message]) -> None:
        batch = [stamped(message, int(time.time() * 1000)) for message in messages]
        try:
            await self.producer.send(TOPIC, partition, batch)
        except RecordRefused:
            if len(messages) == 1:
                self.refused += 1
                return
            half = len(messages) // 2
            await self._deliver(partition, messages[:half])
            await self._deliver(partition, messages[half:])
        else:
            self.acknowledged += messages

    def healed_after(self, moment: float) -> float:
        """Seconds until the last of the partitions had acknowledged something since ``moment``."""
        return max(next((t for t in times if t >= moment), float("inf")) for times in self.answers.values()) - moment


@contextlib.contextmanager
def brokers(*, proxied: bool) -> Iterator[tuple[Cluster, Sequence[Proxy]]]:
    """Three of them, with proxies before them where wanted."""
    with Proxies() as proxies:
        opened: list[Proxy] = []

        def advertised(nodes: Nodes, node: int) -> Mapping[str, str]:
            address, port, _ = nodes[node]
            if not proxied:
                return {}
            opened.append(proxies.open((address, 0), target=(address, port)))
            return {"advertised.listeners": f"PLAINTEXT://{address}:{opened[-1].listen[1]}"}

        with Cluster.started(3, extra=advertised) as cluster:
            yield cluster, opened


@contextlib.asynccontextmanager
async def loaded(cluster: Cluster, cell: Cell, *, idempotent: bool) -> AsyncIterator[Load]:
    """The load while the block runs, and its lanes until all is acknowledged."""
    producer = KafkaProducer(connection=cluster.connection, topic_prefix=PREFIX, idempotent=idempotent)
    await producer.start()
    assert await partitions(producer, TOPIC) == PARTITIONS
    load = Load(producer)
    lanes = [asyncio.create_task(load.lane(partition)) for partition in range(PARTITIONS)]
    running = asyncio.create_task(load.run(cell.per_second))
    yield load
    running.cancel()
    deadline = time.monotonic() + PATIENCE
    while load.outstanding and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)
    for task in (*lanes, running):
        task.cancel()
    await asyncio.gather(*lanes, running, return_exceptions=True)
    await producer.stop()


async def measure(name: str, cell: Cell, mode: str) -> tuple[str, ...]:
    """One row."""
    with brokers(proxied=cell.proxied) as (cluster, proxies):
        plan = TopicPlan(TOPIC, PARTITIONS, cell.replication, cell.min_insync)
        await create_topics(cluster, PREFIX, [plan])
        async with loaded(cluster, cell, idempotent=MODES[mode]) as load:
            await asyncio.sleep(LEAD)
            await cell.fault(Stage(cluster, proxies, load))
            healed = time.monotonic()
            await asyncio.sleep(TAIL)
        records = await read_topic(cluster, PREFIX, TOPIC, partitions=PARTITIONS)
    read = {(record.key, int(record.value or b"-1")) for record in records}
    lost = sum((each.key, int(each.value or b"-1")) not in read for each in load.acknowledged)
    orders = first_occurrences(records).values()
    disorder = sum(later < earlier for order in orders for earlier, later in itertools.pairwise(order))
    figures = (load.sent - load.refused, len(load.acknowledged), lost, len(records) - len(read), disorder)
    seconds = (f"{load.healed_after(healed):.1f}", f"{load.worst:.1f}")
    return (name, mode, *map(str, figures), *seconds, str(load.producer.replacements.total()))


async def main(cells: Sequence[str], modes: Sequence[str]) -> None:
    """The table, a row as soon as it is known."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for row in (HEADER, ("---",) * len(HEADER)):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    for (name, cell), mode in itertools.product(CELLS.items(), modes):
        if any(wanted in name for wanted in cells):
            sys.stdout.write(f"| {' | '.join(await measure(name, cell, mode))} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the producer does under faults.")
    parser.add_argument("--cells", default="", help="parts of names, separated by commas")
    parser.add_argument("--modes", default=",".join(MODES))
    arguments = parser.parse_args()
    asyncio.run(main(arguments.cells.split(","), arguments.modes.split(",")))
