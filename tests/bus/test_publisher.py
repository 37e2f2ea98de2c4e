"""What the publisher does in which order, with a real journal and a Kafka that answers when it is told to.

The same on real brokers, with faults: tests/kafka/test_publisher.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.publisher import SPOOL, KafkaFirstPublisher
from service.core.errors import CannotStore
from service.core.message import Message


class HeldSender:
    """The producer's port: keeps what it is given and acknowledges on demand, or at once while ``answering``."""

    def __init__(self, *, healthy: bool = True, answering: bool = False) -> None:
        self.healthy = healthy
        self.answering = answering
        self.sent: list[int] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Nothing to do."""

    def send(self, message: Message, *, timestamp: int | None = None) -> asyncio.Future[None]:
        """Keep it."""
        self.sent.append(number(message))
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(acknowledged)
        if self.answering:
            asyncio.get_running_loop().call_soon(self.acknowledge)
        return acknowledged

    def recover(self) -> None:
        """Healthy, and answering from now on, and also what waits."""
        self.healthy = self.answering = True
        self.acknowledge()

    def acknowledge(self) -> None:
        """All that wait."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def stop(self) -> None:
        """Let go of them."""
        for each in self._waiting:
            each.cancel()


@asynccontextmanager
async def publishing(
    sender: HeldSender, folder: Path, *, deadline: float = 0.2
) -> AsyncIterator[tuple[KafkaFirstPublisher, Journal]]:
    """A publisher and its journal while the block runs."""
    async with await Journal.open(folder) as journal:
        publisher = KafkaFirstPublisher(sender, journal, deadline=deadline)
        await publisher.start()
        try:
            yield publisher, journal
        finally:
            await publisher.stop()


def record(n: int) -> Message:
    """A record whose value says its number."""
    return Message(topic="work", key="k", value=b"%d" % n, partition_by="k")


def number(message: Message) -> int:
    """What the value says."""
    return int(message.value or b"-1")


async def rows(journal: Journal) -> list[int]:
    """The numbers in the spool."""
    return [number(row.message) for row in await journal.read(SPOOL, 0, 10_000)]


async def drained(publisher: KafkaFirstPublisher) -> None:
    """Wait until the spool is empty."""
    async with asyncio.timeout(10):
        while publisher.spooled:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


async def test_what_waits_goes_to_the_spool_before_what_came_later(tmp_path: Path) -> None:
    """One record waits for Kafka, then Kafka is found unhealthy: the next takes the older one with it, in order."""
    sender = HeldSender()
    async with publishing(sender, tmp_path, deadline=30) as (publisher, journal):
        waiting = [asyncio.create_task(publisher.publish([record(n)])) for n in range(3)]
        await asyncio.sleep(0)
        sender.healthy = False
        await publisher.publish([record(3)])
        await asyncio.gather(*waiting)  # they are durable now, and need not wait for their deadline
        assert await rows(journal) == [0, 1, 2, 3]
    assert sender.sent[:3] == [0, 1, 2]


async def test_a_row_waits_for_the_acknowledgement_that_is_on_its_way(tmp_path: Path) -> None:
    """Not acknowledged in time is not "not sent": when the answer comes after all, nothing is sent twice."""
    sender = HeldSender()
    async with publishing(sender, tmp_path) as (publisher, journal):
        await publisher.publish([record(0), record(1)])
        assert await rows(journal) == [0, 1]
        sender.acknowledge()
        await drained(publisher)
        assert await rows(journal) == []
    assert sender.sent == [0, 1]


async def test_nothing_overtakes_the_spool(tmp_path: Path) -> None:
    """While rows wait, what is published goes behind them, though Kafka seems to be healthy again."""
    sender = HeldSender(healthy=False)
    async with publishing(sender, tmp_path) as (publisher, journal):
        await publisher.publish([record(0)])
        sender.healthy = True
        await publisher.publish([record(1)])
        assert await rows(journal) == [0, 1]
        sender.recover()
        await drained(publisher)
        await publisher.publish([record(2)])
        assert await rows(journal) == []
    assert sender.sent == [0, 1, 2]


async def test_a_restart_sends_what_the_spool_holds(tmp_path: Path) -> None:
    """Everything that was not acknowledged, in order, before anything new."""
    async with publishing(HeldSender(healthy=False), tmp_path) as (publisher, _):
        for n in range(700):
            await publisher.publish([record(n)])
    sender = HeldSender(answering=True)
    async with publishing(sender, tmp_path) as (publisher, _):
        assert publisher.spooled == 700
        await publisher.publish([record(700)])
        await drained(publisher)
    assert sender.sent == list(range(701))


async def test_the_spool_comes_to_an_end_under_any_load(tmp_path: Path) -> None:
    """Publishing without a pause cannot keep the publisher in the journal for ever."""
    sender = HeldSender(healthy=False)
    async with publishing(sender, tmp_path) as (publisher, _):
        counter = iter(range(1_000_000))

        async def publish_for_ever() -> None:
            while True:
                await publisher.publish([record(next(counter))])

        publishers = [asyncio.create_task(publish_for_ever()) for _ in range(20)]
        try:
            await asyncio.sleep(0.2)
            assert publisher.spooled
            sender.recover()
            await drained(publisher)
            before = len(sender.sent)
            await asyncio.sleep(0.1)
            assert publisher.spooled == 0
            assert len(sender.sent) > before
        finally:
            for each in publishers:
                each.cancel()
            await asyncio.wait(publishers)


async def test_modes_are_logged_once_and_records_never(tmp_path: Path) -> None:
    """One line when the spool begins, one when it is empty."""
    sender = HeldSender(healthy=False)
    with capture_logs() as logs:
        async with publishing(sender, tmp_path) as (publisher, _):
            for n in range(5):
                await publisher.publish([record(n)])
            sender.recover()
            await drained(publisher)
            await publisher.publish([record(5)])
    assert [line["event"] for line in logs] == ["publisher.spooling", "publisher.drained"]


async def test_without_a_journal_an_unhealthy_kafka_is_said_at_once() -> None:
    """There is nobody who could keep it."""
    publisher = KafkaFirstPublisher(HeldSender(healthy=False), None, deadline=30)
    await publisher.start()
    async with asyncio.timeout(1):
        with pytest.raises(CannotStore):
            await publisher.publish([record(0)])
    await publisher.stop()


STEPS = st.lists(
    st.sampled_from(["publish", "publish", "publish two", "sick", "well", "answer", "hold", "wait"]), max_size=40
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
@example(steps=["sick", "publish", "well", "publish"])  # the first is on its way into the journal
@example(steps=["hold", "publish", "publish", "wait", "publish", "answer", "publish"])
async def test_first_occurrences_are_in_order_whatever_happens(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Kafka answers, is silent, sick and well again in any order: every record is sent, first occurrences in order."""
    sender = HeldSender()
    calls: list[asyncio.Task[None]] = []
    async with publishing(sender, tmp_path_factory.mktemp("journal"), deadline=0.01) as (publisher, _):
        published = 0
        for step in steps:
            count = {"publish": 1, "publish two": 2}.get(step, 0)
            if count:
                batch = [record(published + n) for n in range(count)]
                published += count
                calls.append(asyncio.create_task(publisher.publish(batch)))
                await asyncio.sleep(0)
            sender.healthy = {"sick": False, "well": True}.get(step, sender.healthy)
            sender.answering = {"hold": False, "answer": True}.get(step, sender.answering)
            if step == "answer":
                sender.acknowledge()
            await asyncio.sleep(0.012 if step == "wait" else 0)
        sender.recover()
        await asyncio.gather(*calls)
        await drained(publisher)
    assert list(dict.fromkeys(sender.sent)) == list(range(published))
