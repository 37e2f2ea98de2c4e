"""``kill -9`` of the receiver at any moment while Kafka is away: every 2xx is in Kafka in the end (S1)."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.receiver import Receiver, standing, until
from tests.kafka.fixtures import ClusterFactory

#: Requests under way at any time; and the seconds after the first of them in which the process is killed.
WIDTH = 8
MOMENTS = (0.001, 0.5)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [pytest.param(10, marks=pytest.mark.quick), 200])
async def test_what_was_stored_survives_kill_9(kafka_clusters: ClusterFactory, tmp_path: Path, kills: int) -> None:
    """So many starts, each killed amid requests; then Kafka comes back, and what is in the journal goes there."""
    chance = random.Random(kills)  # noqa: S311 - chance that can be repeated
    async with standing(kafka_clusters(1), tmp_path) as receiver:
        receiver.broker.kill()
        begun = time.monotonic()
        for _ in range(kills):
            receiver.process.start()
            await until(receiver.is_ready, within=60)
            await _posting(receiver, chance.uniform(*MOMENTS))
        seconds = time.monotonic() - begun
        receiver.broker.start()
        await receiver.cluster.ready()
        await receiver.start()
        drained = await until(lambda: receiver.measures("journal_rows", lambda value: value == 0), within=120)
        posts, report = await receiver.judged()
    statuses = Counter(post.status for post in posts)
    sys.stdout.write(
        f"\n{kills} times kill -9 in {seconds:.0f} s, answers {dict(statuses)} (0: cut off);"
        f" empty {drained:.1f} s after the start with Kafka\n{report}\n"
    )
    assert report.ok, str(report)
    assert statuses[204] > kills
    assert statuses[0] > kills  # they were killed amid requests
    assert statuses.keys() <= {0, 204, 401}


async def _posting(receiver: Receiver, seconds: float) -> None:
    """Requests side by side, until the process is killed after so many seconds."""
    killed = asyncio.Event()

    async def one_after_the_other() -> None:
        while not killed.is_set():
            await receiver.post()

    async with asyncio.TaskGroup() as senders:
        for _ in range(WIDTH):
            senders.create_task(one_after_the_other())
        await asyncio.sleep(seconds)
        receiver.process.kill()
        killed.set()
