"""What the metrics know of a consumer's progress."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher
from service.cli.followed import FollowedConsumer
from service.core.message import Message
from tests.bus.behaviour import Listener


async def test_the_oldest_unfinished_record_tells_its_age(tmp_path: Path) -> None:
    """By when it was written: what was finished out of turn does not make what is before it younger."""
    async with await Journal.open(tmp_path) as journal:
        now, publisher = 0.0, JournalPublisher(journal)
        consumer = FollowedConsumer(JournalConsumer(journal, topic="work", group="g"), now=lambda: now)
        await consumer.start(Listener())
        assert (consumer.oldest, consumer.partitions) == (0.0, 1)
        for _ in range(3):
            await publisher.publish([Message(topic="work", key="k", value=b"{}", partition_by="k")])
            await asyncio.sleep(0.02)  # else all three may be of one millisecond
        records = [record for _ in range(3) if consumer.unfinished < 3 for record in await consumer.poll()]
        ages = []
        now = records[0].timestamp / 1000 + 100
        for record in (records[1], records[0], records[2]):
            ages.append(consumer.oldest)
            consumer.finish(record)

        assert ages == pytest.approx([100, 100, now - records[2].timestamp / 1000])
        assert ages[2] < 99.99
        assert consumer.oldest == 0.0


async def test_what_was_taken_away_is_nobodys(tmp_path: Path) -> None:
    """What was not finished then has no age here, and its partition is not counted any more."""
    async with await Journal.open(tmp_path) as journal:
        consumer = FollowedConsumer(JournalConsumer(journal, topic="work", group="g"), now=lambda: 1e12)
        await JournalPublisher(journal).publish([Message(topic="work", key="k", value=b"{}", partition_by="k")])
        listener = Listener()
        await consumer.start(listener)
        (record,) = await consumer.poll()
        assert (consumer.oldest > 0, consumer.partitions) == (True, 1)
        await consumer.stop()
        consumer.finish(record)

        assert (consumer.oldest, consumer.partitions) == (0.0, 0)
        assert listener.told == [("assigned", frozenset({0})), ("revoked", frozenset({0}))]


async def test_waiting_is_the_time_without_progress_while_records_wait(tmp_path: Path) -> None:
    """0 where nothing waits, however long that is; else the seconds since something was finished."""
    now = 1000.0
    async with await Journal.open(tmp_path) as journal:
        consumer = FollowedConsumer(JournalConsumer(journal, topic="work", group="g"), monotonic=lambda: now)
        await consumer.start(Listener())
        now += 3600
        await consumer.poll()
        assert (consumer.unfinished, consumer.lag, consumer.waiting) == (0, 0, 0.0)

        message = Message(topic="work", key="k", value=b"{}", partition_by="k")
        await JournalPublisher(journal).publish([message] * 3)
        now += 5
        assert (consumer.unfinished, consumer.lag, consumer.waiting) == (0, 3, 5.0)
        records = await consumer.poll()
        assert (consumer.unfinished, consumer.lag, consumer.waiting) == (3, 3, 5.0)

        now += 10
        consumer.finish(records[0])
        now += 2
        assert (consumer.unfinished, consumer.lag, consumer.waiting) == (2, 2, 2.0)
        for record in records[1:]:
            consumer.finish(record)
        assert (consumer.unfinished, consumer.lag, consumer.waiting) == (0, 0, 0.0)
        await consumer.stop()
        assert consumer.lag == 0
