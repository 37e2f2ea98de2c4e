"""Appends per second and transactions per append: ``python -m tests.benchmarks.bench_journal [folder]``.

Each append carries one record of 760 bytes and waits for its fsync; ``in flight`` of them wait at the same time.
The figures say as much about the disk as about the program: compare ratios, not machines.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from service.bus.journal import Journal
from service.core.message import Message

VALUE = b"x" * 760
SECONDS = 3.0


async def measure(folder: Path, in_flight: int) -> str:
    """One line of figures."""
    message = Message(topic="meetings", key="k" * 32, value=VALUE, partition_by="k" * 32)
    latencies: list[float] = []
    async with await Journal.open(folder) as journal:
        end = time.perf_counter() + SECONDS

        async def append_until_end() -> None:
            while (started := time.perf_counter()) < end:
                await journal.append([("meetings", message)])
                latencies.append(time.perf_counter() - started)

        cpu = time.process_time()
        await asyncio.gather(*(append_until_end() for _ in range(in_flight)))
        cpu = time.process_time() - cpu
        commits = journal.state.commits
    latencies.sort()
    count = len(latencies)
    p50, p99 = latencies[count // 2] * 1000, latencies[count * 99 // 100] * 1000
    return (
        f"{in_flight:>4} in flight  {count / SECONDS:>8.0f} events/s  {commits / count:.4f} commits/event  "
        f"p50 {p50:.2f} ms  p99 {p99:.2f} ms  {cpu / count * 1e6:.1f} us CPU/event"
    )


async def main(parent: Path | None) -> None:
    """All sizes, each on a new journal in a folder that is removed again."""
    for in_flight in (1, 64, 256):
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            line = await measure(Path(folder), in_flight)
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
