"""Members of a consumer group, as tests drive them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.bus.kafka import KafkaConsumer
from service.core.message import Received
from tests.kafka.harness import Cluster

PATIENCE = 40.0


class Member:
    """A consumer with a listener that remembers, polled in the background. Records are finished at once unless ``hold``."""

    def __init__(self, consumer: KafkaConsumer, *, hold: bool = False, restore: float = 0.0) -> None:
        self.consumer = consumer
        self.records: list[Received] = []
        self.told: list[tuple[str, frozenset[int]]] = []
        self.partitions = frozenset[int]()
        self.early: list[Received] = []  # delivered while their partition was not ours
        self.drain: Callable[[], object] = lambda: None
        self.ended: BaseException | None = None
        self._hold = hold
        self._restore = restore
        self._polling: asyncio.Task[None] | None = None

    async def assigned(self, partitions: frozenset[int]) -> None:
        await asyncio.sleep(self._restore)
        self.partitions = partitions
        self.told.append(("assigned", partitions))

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.drain()
        self.partitions = frozenset()
        self.told.append(("revoked", partitions))

    async def start(self) -> None:
        await self.consumer.start(self)
        self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        await self.kill()
        await self.consumer.stop()

    async def kill(self) -> None:
        """Stop polling."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait({self._polling})
            if not self._polling.cancelled() and self.ended is None:
                self._polling.result()

    async def _poll(self) -> None:
        try:
            while True:
                for record in await self.consumer.poll():
                    self.records.append(record)
                    if record.partition not in self.partitions:
                        self.early.append(record)
                    if not self._hold:
                        self.consumer.finish(record)
        except Exception as error:
            self.ended = error
            raise


async def until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for it."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's
            await asyncio.sleep(0.02)


def member(
    cluster: Cluster,
    prefix: str,
    *,
    hold: bool = False,
    restore: float = 0.0,
    instance_id: str | None = None,
    group: str = "g",
    max_unfinished: int = 10_000,
) -> Member:
    """A member of a group of this prefix, on ``work``."""
    consumer = KafkaConsumer(
        connection=cluster.connection,
        topic_prefix=prefix,
        topic="work",
        group=prefix + group,
        instance_id=instance_id,
        max_unfinished=max_unfinished,
    )
    return Member(consumer, hold=hold, restore=restore)
