"""What a member of a consumer group has between two rebalances: its partitions, and what was delivered of them. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from service.bus.offsets import OffsetTracker
from service.bus.protocols import RebalanceListener
from service.core.message import Received

#: Bytes of the values delivered and not finished, at most, for one partition (and what one more fetch brings).
MAX_BYTES = 16 * 1024 * 1024

#: Room for so many records is worth a resume: what was fetched ahead is thrown away at a pause.
WORTH_A_RESUME = 500


class Assignment:
    """The partitions that are ours until the next rebalance. ``max_unfinished`` is for each of them.

    ``delivering`` is true once the listener was told, and until they are revoked; ``telling`` is the task that tells it.
    """

    def __init__(self, partitions: frozenset[int], listener: RebalanceListener, max_unfinished: int) -> None:
        self.partitions = partitions
        self.listener = listener
        self.trackers = {partition: OffsetTracker() for partition in partitions}
        self.paused: set[int] = set()
        self.delivering = False
        self.telling: asyncio.Task[None] | None = None
        self._max_unfinished = max_unfinished
        self._delivered: dict[tuple[int, int], Received] = {}  # (partition, offset) → not finished
        self._bytes = dict.fromkeys(partitions, 0)  # of those

    @property
    def unfinished(self) -> int:
        """Records delivered and not finished."""
        return len(self._delivered)

    def deliver(self, record: Received) -> Received:
        """``record`` is handed out."""
        self._delivered[record.partition, record.offset] = record
        self._bytes[record.partition] += len(record.value or b"")
        self.trackers[record.partition].delivered(record.offset)
        return record

    def finish(self, record: Received) -> None:
        """``record`` needs nothing more. Ignored for one that was not handed out during this assignment."""
        place = record.partition, record.offset
        if self._delivered.get(place) is record:
            del self._delivered[place]
            self._bytes[record.partition] -= len(record.value or b"")
            self.trackers[record.partition].finished(record.offset)

    def begin_anew(self, partition: int) -> None:
        """Its offsets begin again: what was handed out is of a log that is no more."""
        self.trackers[partition] = OffsetTracker()
        self._bytes[partition] = 0
        self._delivered = {place: record for place, record in self._delivered.items() if place[0] != partition}

    def committable(self) -> Mapping[int, int]:
        """Partition → the position to commit, of those where there is another one than before."""
        positions = {partition: tracker.committable() for partition, tracker in self.trackers.items()}
        return {partition: position for partition, position in positions.items() if position is not None}

    def committed(self, positions: Mapping[int, int]) -> None:
        """These are committed."""
        for partition, position in positions.items():
            self.trackers[partition].committed(position)

    def is_full(self, partition: int) -> bool:
        """Nothing more may be delivered of it for now."""
        unfinished = self.trackers[partition].unfinished
        return unfinished >= self._max_unfinished or self._bytes[partition] >= MAX_BYTES

    def has_room_again(self, partition: int) -> bool:
        """Enough was finished for it to be worth a resume."""
        room = self._max_unfinished - self.trackers[partition].unfinished
        return room >= min(WORTH_A_RESUME, self._max_unfinished // 2) and self._bytes[partition] <= MAX_BYTES // 2

    def room(self) -> int:
        """Records that may be fetched before some partition has too many unfinished ones."""
        limit = self._max_unfinished
        unfinished = [
            limit // 2 if partition in self.paused else tracker.unfinished
            for partition, tracker in self.trackers.items()
        ]  # a paused one may be resumed meanwhile, at half of the limit
        return limit - max(unfinished, default=0)

    def raise_what_the_listener_raised(self) -> None:
        """Nothing would ever be delivered."""
        if self.telling is not None and self.telling.done() and not self.telling.cancelled():
            self.telling.result()
