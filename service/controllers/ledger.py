"""The ledger at work: restored before the first decision, written before the memory changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from service.controllers.ports import LedgerReader, Publisher
from service.core import event as events
from service.core import ledger
from service.core.errors import NotOwner
from service.core.event import CloudEvent
from service.core.ledger import CommandRecord, Entry, Fact, PartitionMemory, SeriesMemory
from service.core.message import UNREADABLE

#: Tombstones are written so many at a time: other writes of the partition come in between.
CHUNK = 500


@dataclass(frozen=True)
class Place:
    """Where a series stands: its organisation ("": the partition itself), the partition of ``work`` and ``ledger`` which that
    has, and during which assignment of it to this process. What belongs to an earlier one may not read or write any more.
    """

    organization: str
    partition: int
    assignment: int


@dataclass
class _Owned:
    """One partition during one assignment. One write at a time, so that a re-read misses none."""

    assignment: int
    memory: PartitionMemory
    writing: asyncio.Lock


class Ledger:
    """What is remembered of the partitions that are ours."""

    def __init__(self, *, reader: LedgerReader, publisher: Publisher, atomic: bool = False) -> None:
        """``atomic``: ``publisher`` stores all that it is given, or nothing."""
        self._reader, self._publisher, self._atomic = reader, publisher, atomic
        self._partitions: dict[int, _Owned] = {}
        self._assignments = 0
        self._log = structlog.get_logger()

    async def restore(self, partition: int) -> int:
        """Begin a new assignment of the partition with what the ledger says up to its present end; returns the records."""
        memory, count = await self._read(partition)
        self._assignments += 1
        self._partitions[partition] = _Owned(self._assignments, memory, asyncio.Lock())
        return count

    async def read_again(self, place: Place) -> None:
        """Take in what the former owner still wrote after the partition was restored. Raises NotOwner."""
        owned = self._owned(place)
        async with owned.writing:
            before, (owned.memory, _) = owned.memory, await self._read(place.partition)
            if before.founded is not None and owned.memory.founded is None:
                self._log.error("ledger.lost", partition=place.partition)  # the topic was made anew under our hands
                owned.memory.observing = before.founded

    async def _read(self, partition: int) -> tuple[PartitionMemory, int]:
        memory, count = PartitionMemory(), 0
        async for record in self._reader.read("ledger", partition):
            count += 1
            self._apply(memory, record.key, record.value)
        return memory, count

    def _apply(self, memory: PartitionMemory, key: str, value: bytes | None) -> None:
        try:
            entry = ledger.from_record(key, value)
        except UNREADABLE:
            # A record that only a newer version can read must not keep the rest from us.
            self._log.error("ledger.record_unreadable", kind=key.partition("/")[0])
            return
        if entry is not None:
            memory.apply(entry)

    async def found(self, partition: int, *, consumed: bool, now: datetime) -> None:
        """Begin the ledger of a partition, or find out that it was lost; before the first decision, once it is restored.

        Every ledger begins with ``founded``, written before the group finishes its first record of ``work``. Where that
        record is not there although the group ``consumed`` already, what people decided is not known any more: then
        nothing is written to Webex until an operator adopts it. Raises NotOwner, CannotStore.
        """
        place = self.place("", partition)
        memory = self.partition(place)
        if memory.founded is not None or memory.observing is not None:
            return
        if consumed:
            self._log.error("ledger.lost", partition=partition, entries=memory.entries)
        kind = "observing" if consumed else "founded"
        await self.record(place, [Entry(kind=kind, subject=str(partition), value=Fact(at=now))])

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._partitions.pop(partition, None)

    def owns(self, partition: int) -> bool:
        """Whether the partition is restored and ours."""
        return partition in self._partitions

    def place(self, organization: str, partition: int) -> Place:
        """Where an organisation stands during the present assignment. Raises NotOwner where the partition is not ours."""
        if partition not in self._partitions:
            raise NotOwner("the partition is not ours, or not restored yet")
        return Place(organization, partition, self._partitions[partition].assignment)

    def _owned(self, place: Place) -> _Owned:
        owned = self._partitions.get(place.partition)
        if owned is None or owned.assignment != place.assignment:
            raise NotOwner("the partition went to somebody else meanwhile")
        return owned

    def partition(self, place: Place) -> PartitionMemory:
        """The memory of one partition. Raises NotOwner where it is not ours any more."""
        return self._owned(place).memory

    def series(self, place: Place, series: str) -> SeriesMemory:
        """The memory of one series as it is now. Raises NotOwner where its partition is not ours any more."""
        return self.partition(place).series.get(series) or SeriesMemory()

    def command(self, place: Place, id_: str) -> CommandRecord | None:
        """What is remembered of the command with this CloudEvent id. Raises NotOwner where it is not ours to know."""
        return self.partition(place).command(id_)

    @property
    def entries(self) -> int:
        """How many records of the ledger are in memory."""
        return sum(owned.memory.entries for owned in self._partitions.values())

    def known(self, partition: int | None = None) -> Iterator[tuple[int, str, SeriesMemory]]:
        """``(partition, series, memory)`` of every series remembered, of one partition or all."""
        for number, owned in self._partitions.items():
            if partition in (None, number):
                for series, remembered in owned.memory.series.items():
                    yield number, series, remembered

    def remember(self, place: Place, entries: Sequence[Entry]) -> None:
        """Remember what must not be forgotten even where it cannot be written now. Raises NotOwner."""
        for entry in entries:
            self.partition(place).apply(entry)

    async def record(
        self, place: Place, entries: Sequence[Entry], facts: Iterable[CloudEvent] = (), *, topic: str = ""
    ) -> None:
        """Make ``facts`` (on ``topic``, by default that of their family) and ``entries`` durable, then remember.

        The facts come first where the bus cannot write both at once: after a crash between them they are published again,
        under the same ids, whereas an entry without its facts would silence them for ever. Raises NotOwner, or CannotStore:
        then nothing is remembered, and a repeat publishes the same.
        """
        told = [events.to_message(fact, topic=topic) for fact in facts]
        partition = None if place.organization else place.partition
        kept = [ledger.to_message(entry, organization=place.organization, partition=partition) for entry in entries]
        async with self._owned(place).writing:
            self._owned(place)
            for messages in ([*told, *kept],) if self._atomic else (told, kept):
                if messages:
                    await self._publisher.publish(messages)
            self.remember(place, entries)

    async def retire(self, place: Place, series: str) -> int:
        """Forget a series for good, tombstone by tombstone; returns how many. Nothing else may work on it meanwhile.

        Raises NotOwner, CannotStore: then what is left is still known, and it can be repeated.
        """
        return await self._take_away(place, list(ledger.tombstones(series, self.series(place, series))))

    async def expire(self, partition: int, now: datetime) -> int:
        """Forget what is only remembered for a time; returns how many records. Raises NotOwner, CannotStore."""
        place = self.place("", partition)
        return await self._take_away(place, list(self.partition(place).forgettable(now)))

    async def _take_away(self, place: Place, entries: Sequence[Entry]) -> int:
        for start in range(0, len(entries), CHUNK):
            await self.record(place, entries[start : start + CHUNK])
        return len(entries)
