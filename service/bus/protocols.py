"""What the rest of the program may ask of a bus. Kafka and the journal pass the same set of behaviour tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from service.bus.waiting import Done
from service.core.message import Message, Received


class Publisher(Protocol):
    """Makes records durable."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once *all* of ``messages`` are durable (acks=all, or fsync).

        Raises CannotStore: then some may be durable all the same.
        """


class OfferingPublisher(Publisher, Protocol):
    """The same for whoever must not wait: no task and no future for each call."""

    def offer(self, messages: Sequence[Message], done: Done) -> Any:
        """Take them; ``done`` is called once, after this has returned: with None when *all* are durable, or with an error, as
        :meth:`publish` raises them. Raises such an error itself where it is known before.
        """

    def withdraw(self, offer: Any) -> None:
        """Nobody waits for what :meth:`offer` returned: ``done`` is not called, what is not handed over is not sent."""

    def flush(self) -> None:
        """What was offered had better not wait for more."""


class RebalanceListener(Protocol):
    """Told which partitions are ours. Both calls may take their time; the consumer keeps its membership alive meanwhile."""

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Records of ``partitions`` are delivered only after this has returned."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Stop starting, drain (5 s at most), then return: finished work is committed and the rest is fenced off."""


class Consumer(Protocol):
    """Reads one topic as a member of a group; offsets are committed only up to the highest contiguous finished one."""

    async def start(self, listener: RebalanceListener) -> None:
        """Join the group."""

    async def poll(self) -> Sequence[Received]:
        """The next records, in order for each partition; empty after about a second without any.

        At most 10 000 of a partition are unfinished, then it is paused.
        """

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``. Ignored when its partition was revoked since."""

    async def commit(self) -> None:
        """Commit what is contiguously finished."""

    def partition_of(self, key: str) -> int | None:
        """The partition in which records with this key stand; None as long as nobody knows."""

    async def consumed(self, partition: int) -> bool:
        """Whether the group has ever finished a record of the partition: its committed offset is beyond the start.

        Raises CannotStore where that cannot be found out now.
        """

    @property
    def unfinished(self) -> int:
        """Records delivered and not finished."""

    @property
    def lag(self) -> int:
        """Records of our partitions that are not finished, delivered or not, as far as is known now."""

    def unconfirmed(self) -> float:
        """Seconds since the group last said that we are a member of it; 0.0 where there cannot be another one."""

    async def stop(self) -> None:
        """Revoke (listener, drain, commit), then leave."""


class PartitionReader(Protocol):
    """Reads a partition of a topic, without a group: a compacted one from its start."""

    def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        """Every record up to the end offset seen at the call, oldest first; several of a key may come, the last one counts.

        ``since``: from the first record on that was written then or later.
        """
