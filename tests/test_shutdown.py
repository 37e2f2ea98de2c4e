"""SIGTERM, seen from outside: real processes that end in order within 25 s, whatever is under way, and lose nothing.

What was answered 2xx is on the topic or in the journal afterwards. The drains that take their whole time are in
tests/faults/test_shutdown.py.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from service.bus.topics import standard
from service.core import work
from service.core.organizations import UNKNOWN_ORGANIZATION
from service.core.work import Hint
from tests.ending import LIMIT, Role, Sender, Slow, in_journal, kafka_settings, lost, on_topic, role, silent
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, producing, send_all
from tests.line import PARTITIONS, until
from tests.ports import free_port

Start = Callable[..., Awaitable[Role]]


async def with_topics(cluster: Cluster, prefix: str) -> dict[str, str]:
    """The settings of a role on a cluster that has all topics."""
    plan = standard(partitions=PARTITIONS, replication=1, min_insync=1, retention=timedelta(days=1))
    await create_topics(cluster, prefix, plan)
    return kafka_settings(cluster.bootstrap, prefix)


async def has_stored(sender: Sender, count: int) -> None:
    """Wait until so many were answered 2xx."""

    async def enough() -> bool:
        return len(sender.stored) >= count

    await until(enough)


# --- the receiver -----------------------------------------------------------------------------------------------------


async def test_the_receiver_finishes_what_is_under_way(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """Not ready at once, nobody listens, what has begun is answered, and the process ends with 0; nothing is lost."""
    settings = await with_topics(kafka, topic_prefix)
    async with role("receiver", tmp_path, **settings) as receiver:
        await receiver.start()
        sender = Sender(receiver)
        async with sender.going():
            await has_stored(sender, 20)
            slow = await Slow.begin(sender)
            since = receiver.signal()
            await asyncio.sleep(0.4)
            assert (await receiver.probe("readyz"), await receiver.probe("livez")) == (503, 200)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*receiver.address)
            answer = await slow.finish()
            code, seconds = await receiver.ended(since)

    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"connection: close" in answer
    assert (code, sender.others) == (0, [])
    assert seconds < LIMIT
    assert receiver.steps() == ["requests", "probes", "flush", "journal"]
    stored = sender.stored | {slow.marker}
    assert lost(stored, await on_topic(kafka.bootstrap, topic_prefix), in_journal(tmp_path)) == set()


async def test_the_receiver_without_kafka_ends_as_well(tmp_path: Path) -> None:
    """It has started without it, what it took is in the journal, and asking twice changes nothing."""
    settings = kafka_settings(f"127.0.0.1:{free_port()}", "nowhere.")
    async with role("receiver", tmp_path, **settings) as receiver:
        await receiver.start()
        sender = Sender(receiver)
        async with sender.going():
            await has_stored(sender, 20)
            slow = await Slow.begin(sender)
            since = receiver.signal()
            await asyncio.sleep(0.3)
            receiver.signal()
            await asyncio.sleep(0.3)
            answer = await slow.finish()
            code, seconds = await receiver.ended(since)

    assert answer.startswith(b"HTTP/1.1 204 ")
    assert (code, sender.others) == (0, [])
    assert seconds < LIMIT
    assert lost(sender.stored | {slow.marker}, in_journal(tmp_path)) == set()


@pytest.mark.parametrize("name", ["receiver", "processor"])
async def test_a_start_that_waits_for_kafka_is_ended(name: str, tmp_path: Path) -> None:
    """SIGTERM before Kafka has answered for the first time: nothing has to be finished, so nothing is waited for."""
    async with silent() as (address, asked), role(name, tmp_path, **kafka_settings(address, "nowhere.")) as started:
        started.process.start()
        async with asyncio.timeout(30):
            await asked.wait()
        since = started.signal()
        code, seconds = await started.ended(since)

    assert code == 0
    assert seconds < 6
    assert started.said("process.stopped")


async def test_frozen_brokers_hold_nobody_up(kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path) -> None:
    """Connections that stay open and never answer: both roles end within their time, and the journal has what was taken."""
    cluster = kafka_clusters(1)
    settings = await with_topics(cluster, topic_prefix)
    async with (
        silent() as (webex, asked),
        role("receiver", tmp_path / "receiver", **settings) as receiver,
        role("processor", tmp_path / "processor", **settings, WEBEX__BASE_URL=f"http://{webex}/v1") as processor,
    ):
        await asyncio.gather(receiver.start(), processor.start())
        sender = Sender(receiver)
        async with asyncio.timeout(30), sender.going(8):
            await has_stored(sender, 20)
            await asked.wait()
            cluster.brokers[0].pause()
            await has_stored(sender, len(sender.stored) + 20)
            since = receiver.signal()
            processor.signal()
            (code, seconds), (other_code, other_seconds) = await asyncio.gather(
                receiver.ended(since), processor.ended(since)
            )
    cluster.brokers[0].resume()

    assert (code, other_code, sender.others) == (0, 0, [])
    assert max(seconds, other_seconds) < LIMIT
    places = await on_topic(cluster.bootstrap, topic_prefix), in_journal(tmp_path / "receiver")
    assert lost(sender.stored, *places) == set()


# --- the processor ----------------------------------------------------------------------------------------------------


async def test_the_processor_commits_and_leaves(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """What is finished is committed, and the group has no member any more."""
    settings = await with_topics(kafka, topic_prefix)
    hint = work.to_message(Hint(organization=UNKNOWN_ORGANIZATION, org_id="", series="5" * 32, reason="a.b.v1", at=""))
    webex = f"http://127.0.0.1:{free_port()}/v1"
    async with (
        role("processor", tmp_path, **settings, WEBEX__BASE_URL=webex) as processor,
        producing(kafka, topic_prefix) as producer,
    ):
        await processor.start()
        await send_all(producer, [hint] * 5)

        async def taken() -> bool:
            return len(processor.said("organization.unknown")) == 5

        async with asyncio.timeout(30):
            await until(taken)
            await until(lambda: _says(processor, 'consumer_lag_records{topic="work"} 0.0'))
        for loop in ("work", "commands", "leases", "parking"):
            assert await _says(processor, f'loop_age_seconds{{loop="{loop}"}} ')
        code, seconds = await processor.ended(processor.signal())

    assert code == 0
    assert seconds < LIMIT
    assert processor.steps() == ["work", "commands", "calls", "probes", "flush"]
    assert await _group(kafka, f"{topic_prefix}processors", f"{topic_prefix}work") == (0, 5)


async def _says(role: Role, line: str) -> bool:
    """Whether a scrape shows it."""
    return f"\nwebex_events_{line}" in await role.scraped()


async def _group(cluster: Cluster, group: str, topic: str) -> tuple[int, int]:
    """Its members, and the sum of what it has committed on the topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await admin.start()
    try:
        described = (await admin.describe_consumer_groups([group]))[0].to_object()["groups"][0]
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return len(described["members"]), sum(
        max(each.offset, 0) for place, each in offsets.items() if place.topic == topic
    )


# --- everything in one process ----------------------------------------------------------------------------------------


async def test_dev_ends_in_order(tmp_path: Path) -> None:
    """Receiver, processor and sandbox in the middle of their work; the journal has what was taken."""
    async with role("dev", tmp_path, SANDBOX__PACE="0.05", SWEEP__INTERVAL="1") as dev:
        await dev.start()
        sender = Sender(dev)
        async with sender.going():
            await has_stored(sender, 100)
            slow = await Slow.begin(sender)
            since = dev.signal()
            await asyncio.sleep(0.3)
            answer = await slow.finish()
            code, seconds = await dev.ended(since)

    assert answer.startswith(b"HTTP/1.1 204 ")
    assert (code, sender.others) == (0, [])
    assert seconds < LIMIT
    assert lost(sender.stored | {slow.marker}, in_journal(tmp_path)) == set()


# --- when it would not end --------------------------------------------------------------------------------------------

HANGS = """
import asyncio, threading
from service.cli.shutdown import Watchdog

async def main():
    asyncio.current_task().set_name("the one that hangs")
    watchdog = Watchdog(limit=0.5)
    watchdog.arm()
    {how}

asyncio.run(main())
"""


#: How it hangs → what is said of it.
WAYS = {
    "await asyncio.Event().wait()": "the one that hangs (main)",
    "await asyncio.to_thread(threading.Event().wait)": "wait",
    "threading.Event().wait()": "MainThread: ",
}


async def test_the_watchdog_ends_a_process_that_hangs() -> None:
    """Whether a task waits for ever, a thread, or the loop itself: exit code 1, after it has said what still ran."""

    def hang(how: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-c", HANGS.format(how=how))
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    for ended, shown in zip(
        await asyncio.gather(*(asyncio.to_thread(hang, how) for how in WAYS)), WAYS.values(), strict=True
    ):
        assert ended.returncode == 1
        assert "shutdown.overdue" in ended.stdout
        assert shown in ended.stdout
