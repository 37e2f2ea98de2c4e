"""SIGTERM where the drains take their whole time: clients that drip, brokers that are frozen, calls of Webex that last."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.ending import LIMIT, Role, Sender, Slow, in_journal, lost, on_topic, role
from tests.faults.conftest import Start
from tests.faults.stage import Stories, eventually, fault, figures, no_faults, people, quiet
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.line import Line, schedule, touch
from tests.test_shutdown import has_stored, with_topics

pytestmark = [pytest.mark.timeout(300), pytest.mark.kafka]

DRIPPING = 30


async def dripped_on(receiver: Role, sender: Sender) -> tuple[int, float, Counter[bytes]]:
    """SIGTERM among webhooks and clients that drip: exit code, seconds, and what those were answered."""
    async with sender.going():
        await has_stored(sender, 50)
        slow = [await Slow.begin(sender) for _ in range(DRIPPING)]
        dripping = [asyncio.create_task(each.drip()) for each in slow]
        await asyncio.sleep(0.5)
        code, seconds = await receiver.ended(receiver.signal())
        answers = await asyncio.gather(*dripping)
    return code, seconds, Counter(answer.partition(b"\r\n")[0] for answer in answers)


async def test_clients_that_drip_are_cut_off(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """Each had its 10 s; nobody is waited for any longer, and what was stored meanwhile is there."""
    settings = await with_topics(kafka, topic_prefix)
    async with role("receiver", tmp_path, **settings) as receiver:
        await receiver.start()
        sender = Sender(receiver)
        code, seconds, answers = await dripped_on(receiver, sender)

    print(f"\ndripping clients: exit {code} after {seconds:.1f} s, answers {dict(answers)}")  # noqa: T201
    assert (code, sender.others) == (0, [])
    assert seconds < LIMIT
    assert answers == {b"HTTP/1.1 408 Request Timeout": DRIPPING}
    assert lost(sender.stored, await on_topic(kafka.bootstrap, topic_prefix), in_journal(tmp_path)) == set()


@pytest.mark.quick
async def test_clients_that_drip_while_brokers_are_frozen(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path
) -> None:
    """The worst of both: still within the time, with 0, and nothing lost."""
    cluster = kafka_clusters(1)
    settings = await with_topics(cluster, topic_prefix)
    async with role("receiver", tmp_path, **settings) as receiver:
        await receiver.start()
        sender = Sender(receiver)
        cluster.brokers[0].pause()
        code, seconds, answers = await dripped_on(receiver, sender)
    cluster.brokers[0].resume()

    print(f"\ndripping clients, frozen brokers: exit {code} after {seconds:.1f} s, answers {dict(answers)}")  # noqa: T201
    assert (code, sender.others) == (0, [])
    assert seconds < LIMIT
    assert lost(sender.stored, await on_topic(cluster.bootstrap, topic_prefix), in_journal(tmp_path)) == set()


async def test_brokers_that_die_during_the_end(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path
) -> None:
    """Between SIGTERM and the last acknowledgement: what Kafka did not acknowledge is in the journal."""
    cluster = kafka_clusters(1)
    settings = await with_topics(cluster, topic_prefix)
    async with role("receiver", tmp_path, **settings) as receiver:
        await receiver.start()
        sender = Sender(receiver)
        async with sender.going(16):
            await has_stored(sender, 200)
            since = receiver.signal()
            cluster.brokers[0].kill()
            code, seconds = await receiver.ended(since)
    cluster.brokers[0].start()
    await cluster.ready()

    print(f"\nbroker killed with SIGTERM: exit {code} after {seconds:.1f} s")  # noqa: T201
    assert code == 0
    assert seconds < LIMIT
    assert lost(sender.stored, await on_topic(cluster.bootstrap, topic_prefix), in_journal(tmp_path)) == set()


async def test_a_write_to_webex_that_lasts_is_not_repeated(start_on_kafka: Start) -> None:
    """Its answer takes 8 s and SIGTERM comes in the middle: the process ends in time, and after the next start everybody is
    decided exactly once.
    """
    async with start_on_kafka() as line:
        meeting = await schedule(line, "Partner day")
        await quiet(line, seconds=1)
        await fault(line, operation="approve", delaySeconds=8.0, times=10**6)
        await people(line, meeting, 40, "partner.example", spread=0)
        await touch(line, meeting)
        await eventually(lambda: _intended(line), within=60)
        begun = time.monotonic()
        code = await asyncio.to_thread(line.decides.stop)
        seconds = time.monotonic() - begun
        await no_faults(line)
        line.decides.start()

        async def settled() -> bool:
            return bool((await figures(line, meeting))["statuses"] == {"approved": 40})

        await eventually(settled, within=90)
        await quiet(line)
        found = await figures(line, meeting)
        await line.stop()
        stories = await Stories.of(line, [meeting])

    print(f"\na write of 8 s: exit {code} after {seconds:.1f} s")  # noqa: T201
    assert code == 0
    assert seconds < LIMIT
    assert (found["most"]["approved"], found["sums"]["repeated"]) == (1, 0)
    assert stories.count() == {("registered", "approved"): 40}


async def _intended(line: Line) -> bool:
    """Whether somebody is being approved: the intent comes before the call."""
    return any(b'"verb":"approve"' in (record.value or b"") for record in await line.records("ledger"))
