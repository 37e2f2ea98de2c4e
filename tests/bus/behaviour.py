"""What the behaviour tests need of a bus, and the buses that there are.

To add a bus: an async context manager that yields a :class:`Bus` and stops everything it started, and a line in ``BUSES``
(with ``marks=pytest.mark.kafka`` where it needs a broker). The topics ``work`` and ``ledger`` exist, are empty and have one
partition, 0; ``ledger`` is a compacted topic. Every call of ``consumer`` makes a new member.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher, JournalReader
from service.bus.protocols import Consumer, PartitionReader, Publisher
from service.core.message import Message, Received
from tests.kafka.bus import kafka_bus as open_kafka_bus

#: Seconds for anything that has to happen; a group join on a busy machine is the slowest of it.
PATIENCE = 30.0


class Bus(Protocol):
    """One bus, running."""

    def publisher(self) -> Publisher:
        """Started by the bus, stopped with it."""

    def consumer(self, group: str) -> Consumer:
        """A consumer of ``work``, not started; the test stops it."""

    def reader(self) -> PartitionReader:
        """Started by the bus, stopped with it."""


class JournalBus:
    """The bus of one process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def publisher(self) -> Publisher:
        return JournalPublisher(self._journal)

    def consumer(self, group: str) -> Consumer:
        return JournalConsumer(self._journal, topic="work", group=group)

    def reader(self) -> PartitionReader:
        return JournalReader(self._journal)


@asynccontextmanager
async def journal_bus(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Bus]:
    """The journal in a folder of its own."""
    async with await Journal.open(folder / "journal") as journal:
        yield JournalBus(journal)


@asynccontextmanager
async def kafka_bus(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Bus]:
    """The broker of this run, with a prefix of its own."""
    async with open_kafka_bus(request.getfixturevalue("kafka"), request.getfixturevalue("topic_prefix")) as bus:
        yield bus


OpenBus = Callable[[pytest.FixtureRequest, Path], AbstractAsyncContextManager[Bus]]

BUSES = [pytest.param(journal_bus, id="journal"), pytest.param(kafka_bus, id="kafka", marks=pytest.mark.kafka)]


class Listener:
    """Remembers what it was told. ``drain`` is awaited in ``revoked``."""

    def __init__(self, drain: Callable[[], object] = lambda: None, *, delay: float = 0.0) -> None:
        self.told: list[tuple[str, frozenset[int]]] = []
        self._drain = drain
        self._delay = delay

    async def assigned(self, partitions: frozenset[int]) -> None:
        await asyncio.sleep(self._delay)
        self.told.append(("assigned", partitions))

    async def revoked(self, partitions: frozenset[int]) -> None:
        self._drain()
        self.told.append(("revoked", partitions))


def record(number: int, *, topic: str = "work", key: str = "org") -> Message:
    """A record whose value says its number."""
    return Message(topic=topic, key=key, value=b"%d" % number, partition_by="org")


async def publish(bus: Bus, numbers: range) -> None:
    """Records of ``work``, 1 000 in a call."""
    publisher = bus.publisher()
    for start in range(numbers.start, numbers.stop, 1000):
        await publisher.publish([record(n) for n in range(start, min(start + 1000, numbers.stop))])


async def take(consumer: Consumer, count: int) -> list[Received]:
    """Poll until there are ``count`` records (or more: what a poll returns is kept)."""
    records: list[Received] = []
    async with asyncio.timeout(PATIENCE):
        while len(records) < count:
            records += await consumer.poll()
    return records


def numbers(records: Sequence[Received]) -> list[int]:
    """What the values say."""
    return [int(received.value or b"-1") for received in records]
