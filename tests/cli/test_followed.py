"""What the metrics know of a consumer's progress."""

from __future__ import annotations

from pathlib import Path

from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher
from service.cli.followed import FollowedConsumer
from service.core.message import Message
from tests.bus.behaviour import Listener


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
