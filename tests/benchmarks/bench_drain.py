"""How fast the journal is drained, and what live traffic notices: ``python -m tests.benchmarks.bench_drain [rows] [folder]``.

One real broker, six partitions, records of 1.5 kB. At first 200 calls a second with an empty journal; then the same with
rows of an outage behind them, until the journal is empty. The figures say as much about the machine as about the program:
compare ratios.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
import uuid
from pathlib import Path

import structlog

from service.bus.journal import Journal
from service.bus.kafka import KafkaProducer
from service.bus.publisher import KafkaFirstPublisher
from service.bus.topics import TopicPlan
from service.core.message import Message
from tests.fakes import FakeSender
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics

PARTITIONS = 6
KEYS = [f"key-{n}" for n in range(50)]
VALUE = b"x" * 1500
RATE = 200
SECONDS = 10.0


def record(n: int) -> Message:
    """Of the size of a webhook's event."""
    key = KEYS[n % len(KEYS)]
    return Message(topic="work", key=key, value=VALUE, partition_by=key)


async def fill(journal: Journal, rows: int) -> None:
    """As an outage does."""
    publisher = KafkaFirstPublisher(FakeSender(healthy=False, counts={"work": PARTITIONS}), journal)
    await publisher.start()
    for start in range(0, rows, 500):
        await publisher.publish([record(n) for n in range(start, min(rows, start + 500))])
    await publisher.stop()


class Live:
    """Calls at a steady rate, whatever becomes of those before; their durations from the moment they were due."""

    def __init__(self, publisher: KafkaFirstPublisher) -> None:
        self._publisher = publisher
        self._calls: set[asyncio.Task[None]] = set()
        self.durations: list[float] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        started = time.perf_counter()
        for n in range(10**9):
            due = started + n / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            call = asyncio.create_task(self._call(n, due))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, n: int, due: float) -> None:
        await self._publisher.publish([record(n)])
        self.durations.append(time.perf_counter() - due)

    async def stop(self) -> list[float]:
        """Sorted."""
        self._task.cancel()
        await asyncio.wait({self._task, *self._calls})
        return sorted(self.durations)


def percentiles(durations: list[float]) -> str:
    """p50, p99 and the longest."""
    p50, p99 = (durations[len(durations) * percent // 100] * 1000 for percent in (50, 99))
    return f"p50 {p50:.1f} ms  p99 {p99:.1f} ms  max {durations[-1] * 1000:.1f} ms  ({len(durations)} calls)"


async def measure(cluster: Cluster, folder: Path, rows: int) -> None:
    """Print the figures."""
    prefix = f"b{uuid.uuid4().hex[:8]}."
    await create_topics(cluster, prefix, [TopicPlan(name="work", partitions=PARTITIONS)])
    async with await Journal.open(folder) as journal:
        await fill(journal, rows)
        producer = KafkaProducer(connection=cluster.connection, topic_prefix=prefix)
        publisher = KafkaFirstPublisher(producer, journal)
        began, cpu = time.perf_counter(), time.process_time()
        await publisher.start()
        live = Live(publisher)
        while publisher.spooled:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        during = await live.stop()
        live = Live(publisher)
        await asyncio.sleep(SECONDS)
        normal = await live.stop()
        await publisher.stop()
    p99 = during[len(during) * 99 // 100] / normal[len(normal) * 99 // 100]
    for line in (
        f"drained {rows} rows in {seconds:.1f} s: {rows / seconds:.0f} rows/s, {cpu / rows * 1e6:.0f} us CPU/row",
        f"live, empty journal: {percentiles(normal)}",
        f"live, meanwhile:     {percentiles(during)}",
        f"ratios: {rows / seconds / RATE:.0f} times the live rate; p99 {p99:.1f} times the usual",
    ):
        sys.stdout.write(line + "\n")


def main(rows: int = 20_000, parent: str | None = None) -> None:
    """Once, in a folder that is removed again."""
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with Cluster.started(1) as cluster, tempfile.TemporaryDirectory(dir=parent) as folder:
        asyncio.run(measure(cluster, Path(folder), rows))


if __name__ == "__main__":
    main(*[int(text) if text.isdigit() else text for text in sys.argv[1:]])  # type: ignore[arg-type]  # as the usage says
