"""What the bus costs for each event: ``python -m tests.benchmarks.bench_publish [--broker | --journal | --away] [--profile]``.

So many events are on their way all the time, as with so many senders who wait for their answers. CPU time of this process
(all threads, from the operating system) for each event, without what the measuring itself takes: the median of five rounds.
Against a sender that acknowledges in the next turn of the loop; with ``--journal`` the embedded bus, on a real disk; with
``--away`` the same disk behind a Kafka that is not there; with ``--broker`` one real broker, acks=all, on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import logging
import pstats
import resource
import statistics
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import structlog

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher
from service.bus.kafka import KafkaProducer
from service.bus.outgoing import Outgoing
from service.bus.protocols import OfferingPublisher
from service.bus.publisher import KafkaFirstPublisher
from service.bus.record_size import MAX_BATCH_BYTES
from service.bus.topics import TopicPlan
from service.bus.waiting import Done
from service.core.message import Message
from service.receiver.endpoint import GROUP
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, partitions

IN_FLIGHT = 64
PARTITIONS = 6
TOPICS = ("registrants", "work")
EVENT = b"x" * 1400
HINT = b"x" * 320
ROUNDS = 5
EVENTS = 20_000

#: The keys of the events; all hints are of one organisation.
KEYS = {"one hot key": 1, "200 keys": 200, "1000 keys": 1000}


class NullSender:
    """The publisher's BatchSender without Kafka: acknowledges in the next turn of the loop."""

    def __init__(self, *, healthy: bool = True) -> None:
        self.healthy = healthy
        self._loop = asyncio.get_running_loop()
        self._given: list[asyncio.Future[None]] = []
        self.batches = 0

    def partitions(self, topic: str) -> int:
        """Of every topic."""
        return PARTITIONS

    def largest(self, topic: str) -> int:
        """Of every topic."""
        return MAX_BATCH_BYTES

    def busy(self, topic: str, partition: int) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing to do."""

    async def start(self) -> None:
        """Nothing to do."""

    def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Take it."""
        answer: asyncio.Future[None] = self._loop.create_future()
        if not self._given:
            self._loop.call_soon(self._acknowledge)
        self._given.append(answer)
        self.batches += 1
        return answer

    def _acknowledge(self) -> None:
        given, self._given = self._given, []
        for answer in given:
            answer.set_result(None)

    async def stop(self, timeout: float = 5.0) -> None:
        """Nothing to do."""


class Nobody:
    """A publisher that does nothing: what the measuring takes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Done] = []

    def offer(self, messages: Sequence[Message], done: Done) -> None:
        """Stored in the next turn."""
        if not self._waiting:
            self._loop.call_soon(self._tell)
        self._waiting.append(done)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(None)

    def withdraw(self, offer: object) -> None:
        """Never asked for."""

    def flush(self) -> None:
        """Nothing to do."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Never asked for."""


class Senders:
    """So many who offer an event, and the next one in a turn of their own when that is stored."""

    def __init__(self, publisher: OfferingPublisher, events: Sequence[Sequence[Message]], count: int) -> None:
        self._publisher, self._events = publisher, events
        self._loop = asyncio.get_running_loop()
        self._running = IN_FLIGHT
        self._left = count - IN_FLIGHT
        self._next = 0
        self.finished: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Until all are stored. Raises what one of them was told."""
        for _ in range(self._running):
            self._loop.call_soon(self._offer)
        await self.finished

    def _offer(self) -> None:
        self._next = (self._next + 1) % len(self._events)
        self._publisher.offer(self._events[self._next], self._stored)
        if self._next % GROUP == 0:  # as the endpoint does
            self._publisher.flush()

    def _stored(self, error: Exception | None) -> None:
        if error is not None and not self.finished.done():
            self.finished.set_exception(error)
        if self._left:
            self._left -= 1
            self._loop.call_soon(self._offer)
            return
        self._running -= 1
        if not self._running and not self.finished.done():
            self.finished.set_result(None)


def events_of(keys: int, records: int) -> list[list[Message]]:
    """As they come from the endpoint: each with strings of its own."""

    def messages(n: int) -> list[Message]:
        key = f"{n * 7919 % keys:032x}"
        event = Message(topic=TOPICS[0], key=key, value=EVENT, partition_by=key)
        return [event, Message(topic=TOPICS[1], key="default", value=HINT, partition_by="default")][:records]

    return [messages(n) for n in range(EVENTS)]


def cpu() -> float:
    """Microseconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e6


class Figure(NamedTuple):
    """CPU microseconds and seconds for each event, and how many records were in a batch (0: not known)."""

    cpu: float
    seconds: float


async def measure(publisher: OfferingPublisher, events: Sequence[Sequence[Message]], count: int) -> Figure:
    """One round."""
    loop = asyncio.get_running_loop()
    used, began = cpu(), loop.time()
    await Senders(publisher, events, count).run()
    return Figure((cpu() - used) / count, (loop.time() - began) / count)


async def compare(
    publisher: OfferingPublisher, say: Callable[[str], None], count: int, batches: Callable[[], int]
) -> None:
    """Every number of keys, with one record for each event and with two."""
    for name, keys in KEYS.items():
        for records in (1, 2):
            events, rounds = events_of(keys, records), list[Figure]()
            await measure(publisher, events, count // 4)
            sent = batches()
            for _ in range(ROUNDS):
                ours, own = await measure(publisher, events, count), await measure(Nobody(), events, count)
                rounds.append(Figure(ours.cpu - own.cpu, ours.seconds))
            sent, total = batches() - sent, count * ROUNDS * records
            cost, seconds = (statistics.median(column) for column in zip(*rounds, strict=True))
            size = f"{total / sent:6.1f} records/batch" if sent else ""
            say(f"{name:12} {records} record(s): {cost:6.2f} us CPU/event {1 / seconds:9.0f} events/s {size}")


def no_letter(message: Message, why: str) -> Message:
    """Nothing is refused here; with letters a record's size is looked at as in the receiver."""
    raise NotImplementedError


@asynccontextmanager
async def nobody() -> AsyncIterator[tuple[OfferingPublisher, Callable[[], int]]]:
    """On a sender that acknowledges everything."""
    sender = NullSender()
    publisher = KafkaFirstPublisher(sender, None, letter=no_letter)
    await publisher.start()
    yield publisher, lambda: sender.batches
    await publisher.stop()


@asynccontextmanager
async def journal(parent: Path | None) -> AsyncIterator[tuple[OfferingPublisher, Callable[[], int]]]:
    """On the disk; a batch is a transaction."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        async with await Journal.open(Path(folder)) as opened:
            yield JournalPublisher(opened), lambda: opened.state.commits


@asynccontextmanager
async def away(parent: Path | None) -> AsyncIterator[tuple[OfferingPublisher, Callable[[], int]]]:
    """On the disk, as Kafka acknowledges nothing."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        async with await Journal.open(Path(folder)) as opened:
            publisher = KafkaFirstPublisher(NullSender(healthy=False), opened, letter=no_letter)
            await publisher.start()
            yield publisher, lambda: opened.state.commits
            await publisher.stop()


@asynccontextmanager
async def broker() -> AsyncIterator[tuple[OfferingPublisher, Callable[[], int]]]:
    """On a real one."""
    with Cluster.started(1) as cluster:
        prefix = f"b{uuid.uuid4().hex[:8]}."
        await create_topics(cluster, prefix, [TopicPlan(name=topic, partitions=PARTITIONS) for topic in TOPICS])
        producer = Counting(connection=cluster.connection, topic_prefix=prefix)
        publisher = KafkaFirstPublisher(producer, None, letter=no_letter)
        await publisher.start()
        for topic in TOPICS:
            await partitions(producer, topic)
        yield publisher, lambda: producer.batches
        await publisher.stop()


class Counting(KafkaProducer):
    """Says how many batches it was given."""

    batches = 0

    def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """As it does."""
        self.batches += 1
        return super().send(topic, partition, batch)


async def main(arguments: argparse.Namespace) -> None:
    """Print the figures, and where the time went."""
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    on_disk = journal if arguments.journal else away if arguments.away else None
    made = on_disk(arguments.folder) if on_disk is not None else broker() if arguments.broker else nobody()
    async with made as (publisher, batches):
        if not arguments.profile:
            await compare(publisher, lambda line: print(line, flush=True), arguments.events, batches)  # noqa: T201
            return
        events = events_of(200, 2)
        with cProfile.Profile() as profile:
            await measure(publisher, events, arguments.events)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", action="store_true")
    parser.add_argument("--journal", action="store_true")
    parser.add_argument("--away", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--folder", type=Path, help="of the journal")
    parser.add_argument("--events", type=int, default=EVENTS)
    asyncio.run(main(parser.parse_args()))
