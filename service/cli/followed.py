"""A consumer of whose progress the metrics know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from service.bus.protocols import Consumer, RebalanceListener
from service.core.message import Received


class FollowedConsumer:
    """Consumer: another one, and since when it makes no progress. ``monotonic`` and ``now`` (since 1970) are in seconds."""

    def __init__(
        self,
        consumer: Consumer,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer, self._monotonic, self._now = consumer, monotonic, now
        self._progress = monotonic()
        self._written: dict[
            int, dict[int, int]
        ] = {}  # of what is unfinished: partition → offset → when (ms since 1970)

    @property
    def unfinished(self) -> int:
        """Records delivered and not finished."""
        return self._consumer.unfinished

    @property
    def lag(self) -> int:
        """Records that are not finished, delivered or not."""
        return self._consumer.lag

    @property
    def waiting(self) -> float:
        """Seconds since a record was finished; 0.0 where none waits."""
        return self._monotonic() - self._progress if self._consumer.lag else 0.0

    @property
    def oldest(self) -> float:
        """Age (s) of the oldest record that was delivered and is not finished; 0.0 without any."""
        return max(0.0, self._now() - min(self._heads(), default=float("inf")) / 1000)

    def _heads(self) -> Iterator[int]:
        """When the first unfinished record of each partition was written."""
        for written in self._written.values():
            yield from islice(written.values(), 1)

    @property
    def partitions(self) -> int:
        """How many are ours."""
        return len(self._written)

    async def start(self, listener: RebalanceListener) -> None:
        """Join the group."""
        await self._consumer.start(_Following(listener, self._written))

    async def poll(self) -> Sequence[Received]:
        """The next records."""
        if not self._consumer.lag:
            self._progress = self._monotonic()
        records = await self._consumer.poll()
        for record in records:
            if (written := self._written.get(record.partition)) is not None:
                written[record.offset] = record.timestamp
        return records

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``."""
        self._progress = self._monotonic()
        self._written.get(record.partition, {}).pop(record.offset, None)
        self._consumer.finish(record)

    async def commit(self) -> None:
        """Commit what is contiguously finished."""
        await self._consumer.commit()

    def partition_of(self, key: str) -> int | None:
        """The partition in which records with this key stand."""
        return self._consumer.partition_of(key)

    async def consumed(self, partition: int) -> bool:
        """Whether the group has ever finished a record of the partition."""
        return await self._consumer.consumed(partition)

    def unconfirmed(self) -> float:
        """Seconds since the group last said that we are a member of it."""
        return self._consumer.unconfirmed()

    async def stop(self) -> None:
        """Revoke, then leave."""
        await self._consumer.stop()


class _Following:
    """RebalanceListener: another one, and which partitions are ours."""

    def __init__(self, listener: RebalanceListener, written: dict[int, dict[int, int]]) -> None:
        self._listener, self._written = listener, written

    async def assigned(self, partitions: frozenset[int]) -> None:
        """From now on, whether or not the other one is ready for them."""
        self._written |= {partition: {} for partition in partitions}
        await self._listener.assigned(partitions)

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Once the other one has let go of them."""
        try:
            await self._listener.revoked(partitions)
        finally:
            for partition in partitions:
                self._written.pop(partition, None)
