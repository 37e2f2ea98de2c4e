"""The ledger at work: restored before the first decision, written before the memory changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from service.controllers.ports import LedgerReader, Publisher
from service.core import event as events
from service.core import ledger
from service.core.errors import NotOwner
from service.core.event import CloudEvent
from service.core.ledger import Entry, PartitionMemory, SeriesMemory


@dataclass(frozen=True)
class Place:
    """Where a series stands: its organisation, and the partition of ``work`` and ``ledger`` which that has."""

    organization: str
    partition: int


class Ledger:
    """What is remembered of the partitions that are ours."""

    def __init__(self, *, reader: LedgerReader, publisher: Publisher) -> None:
        self._reader, self._publisher = reader, publisher
        self._partitions: dict[int, PartitionMemory] = {}
        self._log = structlog.get_logger()

    async def restore(self, partition: int) -> int:
        """Read the partition up to its present end; returns how many records it had."""
        memory, count = PartitionMemory(), 0
        async for record in self._reader.read("ledger", partition):
            count += 1
            self._apply(memory, record.key, record.value)
        self._partitions[partition] = memory
        return count

    def _apply(self, memory: PartitionMemory, key: str, value: bytes | None) -> None:
        try:
            entry = ledger.from_record(key, value)
        except (msgspec.ValidationError, msgspec.DecodeError):
            # A record that only a newer version can read must not keep the rest from us.
            self._log.error("ledger.record_unreadable", kind=key.partition("/")[0])
            return
        if entry is not None:
            memory.apply(entry)

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._partitions.pop(partition, None)

    def owns(self, partition: int) -> bool:
        """Whether the partition is restored and ours."""
        return partition in self._partitions

    def partition(self, partition: int) -> PartitionMemory:
        """The memory of one partition. Raises NotOwner where it is not ours."""
        if partition not in self._partitions:
            raise NotOwner("the partition is not ours, or not restored yet")
        return self._partitions[partition]

    def series(self, place: Place, series: str) -> SeriesMemory:
        """The memory of one series as it is now. Raises NotOwner where its partition is not ours."""
        return self.partition(place.partition).series.get(series) or SeriesMemory()

    def known(self) -> Iterator[tuple[int, str, SeriesMemory]]:
        """``(partition, series, memory)`` of every series remembered."""
        for partition, memory in self._partitions.items():
            for series, remembered in memory.series.items():
                yield partition, series, remembered

    async def record(self, place: Place, entries: Sequence[Entry], facts: Iterable[CloudEvent] = ()) -> None:
        """Make ``facts`` and ``entries`` durable together, then remember.

        Raises NotOwner, or CannotStore: then nothing is remembered, and a repeat publishes the same facts under the same ids.
        """
        memory = self.partition(place.partition)
        messages = [events.to_message(fact) for fact in facts]
        messages += [ledger.to_message(entry, organization=place.organization) for entry in entries]
        if not messages:
            return
        await self._publisher.publish(messages)
        for entry in entries:
            memory.apply(entry)
