"""A small process around one ``KafkaConsumer``, to be killed: ``python -m tests.faults.consumer FILE …``

Eight workers take what is delivered, one record each, for a random time. What happens to a record is appended to FILE
before it happens to the consumer: a kill between the two leaves the file ahead of Kafka, never behind.

    D <partition> <offset>     delivered
    F <partition> <offset>     finished
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

from service.bus.kafka import KafkaConsumer
from service.bus.kafka_connection import Connection
from service.core.message import Received

WORKERS = 8


class Consuming:
    """The listener and the workers."""

    def __init__(self, consumer: KafkaConsumer, file: Path, longest: float) -> None:
        self._consumer, self._longest = consumer, longest
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._queue: asyncio.Queue[Received] = asyncio.Queue()
        self._busy = 0

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing to restore."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """What waits goes to whoever comes next; what is worked on is drained."""
        while not self._queue.empty():
            self._queue.get_nowait()
        while self._busy:  # noqa: ASYNC110 - the consumer has a limit for it
            await asyncio.sleep(0.02)

    def _tell(self, what: str, record: Received) -> None:
        os.write(self._file, f"{what} {record.partition} {record.offset}\n".encode())

    async def work(self) -> None:
        """For ever."""
        while True:
            record = await self._queue.get()
            self._busy += 1
            await asyncio.sleep(random.uniform(0, self._longest))  # noqa: S311 - not a secret
            self._tell("F", record)
            self._consumer.finish(record)
            self._busy -= 1

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``."""
        await self._consumer.start(self)
        workers = [asyncio.create_task(self.work()) for _ in range(WORKERS)]
        while not stop.is_set():
            for record in await self._consumer.poll():
                self._tell("D", record)
                self._queue.put_nowait(record)
            await self._consumer.commit()
        await self._consumer.stop()
        for worker in workers:
            worker.cancel()


def told(file: Path) -> Iterator[tuple[str, int, int]]:
    """The whole lines of a file, which may be written to meanwhile."""
    *lines, _torn = file.read_bytes().split(b"\n")
    for line in lines:
        what, partition, offset = line.split()
        yield what.decode(), int(partition), int(offset)


async def main() -> None:
    """Consume until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--instance")
    parser.add_argument("--longest", type=float, default=2.0)
    given = parser.parse_args()
    consumer = KafkaConsumer(
        connection=Connection(bootstrap_servers=given.bootstrap),
        topic_prefix=given.prefix,
        topic="work",
        group=f"{given.prefix}g",
        instance_id=given.instance,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await Consuming(consumer, given.file, given.longest).run(stop)


if __name__ == "__main__":
    asyncio.run(main())
