"""A consumer of whose progress the metrics know."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from service.bus.protocols import Consumer, RebalanceListener
from service.core.message import Received


class FollowedConsumer:
    """Consumer: another one, and since when it makes no progress. ``monotonic`` is in seconds."""

    def __init__(self, consumer: Consumer, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._consumer, self._monotonic = consumer, monotonic
        self._progress = monotonic()

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

    async def start(self, listener: RebalanceListener) -> None:
        """Join the group."""
        await self._consumer.start(listener)

    async def poll(self) -> Sequence[Received]:
        """The next records."""
        if not self._consumer.lag:
            self._progress = self._monotonic()
        return await self._consumer.poll()

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``."""
        self._progress = self._monotonic()
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
