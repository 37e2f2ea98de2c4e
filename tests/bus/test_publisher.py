"""What the publisher does in which order, with a real journal and a Kafka that answers when it is told to.

Everything at once, in any order: test_publisher_machine.py. On real brokers, with faults: tests/kafka/test_publisher.py.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.bus import publisher as publishing_module
from service.bus.journal import Journal
from service.bus.journal_file import Extent, JournalFile, Stored
from service.bus.lane import Call, Delivery, Entry, Flight
from service.bus.outgoing import Outgoing
from service.bus.publisher import REFUSED, SPOOL, KafkaFirstPublisher
from service.bus.record_size import MAX_RECORD_BYTES
from service.bus.routing import stream_of
from service.bus.waiting import Done
from service.core.dead_letters import LONGEST
from service.core.errors import CannotStore, JournalError, JournalFull, Overloaded, RecordRefused
from service.core.message import Message
from tests.fakes import FakeSender

STREAM = stream_of("work", 0)


@asynccontextmanager
async def publishing(
    sender: FakeSender,
    folder: Path,
    *,
    deadline: float = 0.5,
    letter: Callable[[Message, str], Message] | None = None,
) -> AsyncIterator[tuple[KafkaFirstPublisher, Journal]]:
    """A publisher and its journal while the block runs."""
    async with (
        await Journal.open(folder) as journal,
        started(KafkaFirstPublisher(sender, journal, deadline=deadline, letter=letter)) as publisher,
    ):
        yield publisher, journal


@asynccontextmanager
async def started(publisher: KafkaFirstPublisher) -> AsyncIterator[KafkaFirstPublisher]:
    """It runs."""
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


def record(n: int, *, topic: str = "work", key: str = "k") -> Message:
    """A record whose value says its number."""
    return Message(topic=topic, key=key, value=b"%d" % n, partition_by=key)


def numbers(values: Sequence[bytes | None]) -> list[int]:
    """What they say."""
    return [int(value or b"-1") for value in values]


async def rows(journal: Journal | Troubled, stream: str = STREAM) -> list[int]:
    """The numbers in a stream."""
    return numbers([row.message.value for row in await journal.read(stream, 0, 10_000)])


async def left(journal: Journal, expected: list[int], stream: str = STREAM) -> None:
    """Wait until these are in the stream, and no others."""
    async with asyncio.timeout(10):
        while True:
            if await rows(journal, stream) == expected:
                return
            await asyncio.sleep(0.005)


async def steps(count: int = 10) -> None:
    """Everything that can go on goes on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, 10 s at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


def letter(message: Message, why: str) -> Message:
    """As the program makes them, but shorter."""
    return Message(topic="dead-letters", key="letter", value=b"letter of %b" % (message.value or b""), partition_by="k")


# --- straight to Kafka ------------------------------------------------------------------------------------------------


async def test_what_comes_meanwhile_goes_together(tmp_path: Path) -> None:
    """What arrives in one turn of the loop goes at once; what arrives until it is acknowledged is the next batch."""
    sender = FakeSender()
    async with publishing(sender, tmp_path) as (publisher, journal):
        calls = [asyncio.create_task(publisher.publish([record(n)])) for n in range(3)]
        await steps()
        assert [len(each.records) for each in sender.given] == [3]
        calls += [asyncio.create_task(publisher.publish([record(n)])) for n in range(3, 10)]
        await steps()
        assert [len(each.records) for each in sender.given] == [3]
        sender.acknowledge()
        await steps()
        assert [len(each.records) for each in sender.given] == [3, 7]
        assert [call.done() for call in calls] == [True] * 3 + [False] * 7
        sender.acknowledge()
        await asyncio.gather(*calls)
        assert publisher.spooled == 0
        assert STREAM not in await journal.streams()
    assert numbers(sender.values()) == list(range(10))


async def test_the_messages_of_one_call_keep_their_order(tmp_path: Path) -> None:
    """Those for the same partition go in one batch."""
    sender = FakeSender(answering=True)
    async with publishing(sender, tmp_path) as (publisher, _):
        await publisher.publish([record(n) for n in range(700)])
    assert numbers(sender.values()) == list(range(700))
    assert len(sender.given) == 2


async def test_a_batch_is_no_larger_than_its_topic_takes(tmp_path: Path) -> None:
    """Records that would be too much together go one batch after the other; one that is too large goes alone."""
    sender = FakeSender(answering=True)
    sender.limit = 300
    async with publishing(sender, tmp_path, letter=letter) as (publisher, journal):
        large = Message(topic="work", key="k", value=b"7" * 500, partition_by="k")
        await publisher.publish([record(0), large, *(record(n) for n in range(1, 20))])
        assert [row.message for row in await journal.read(REFUSED, 0, 10)] == [large]
    assert numbers(sender.values()) == list(range(20))
    assert [len(each.records) for each in sender.given if each.topic == "work"] == [1, 1, 10, 9]


async def test_a_call_waits_for_each_of_its_lanes(tmp_path: Path) -> None:
    """Two messages on two partitions: one is acknowledged, the other's partition is silent and goes to the journal."""
    sender = FakeSender(counts={"work": 1, "meetings": 1})
    async with publishing(sender, tmp_path) as (publisher, journal):
        call = asyncio.create_task(publisher.publish([record(0), record(1, topic="meetings")]))
        await steps()
        sender.acknowledge(1)
        await steps()
        assert not call.done()
        await call
        assert await rows(journal, "spool/meetings/0") == [1]
        assert STREAM not in await journal.streams()
        assert publisher.journalling == 1
    assert list(sender.log) == [("work", 0)]


async def test_no_lane_waits_for_another(tmp_path: Path) -> None:
    """A topic that is missing holds up itself only."""
    sender = FakeSender(answering=True)
    async with publishing(sender, tmp_path, deadline=0.5) as (publisher, journal):
        await publisher.publish([record(0, topic="missing")])
        assert await rows(journal, "spool/missing") == [0]
        for n in range(1, 5):
            await publisher.publish([record(n)])
        assert await rows(journal, "spool/missing") == [0]
        assert publisher.spooled == 1
    assert numbers(sender.values()) == [1, 2, 3, 4]


async def test_a_batch_grows_while_its_broker_is_busy(tmp_path: Path) -> None:
    """What arrives in several turns goes together when an answer comes; and soon, whether one comes or not."""
    sender = FakeSender(counts={"work": 1, "meetings": 1})
    async with publishing(sender, tmp_path, deadline=5) as (publisher, journal):
        first = asyncio.create_task(publisher.publish([record(0, topic="meetings")]))
        await steps()
        sender.occupied = True
        calls = []
        for n in range(1, 4):
            calls.append(asyncio.create_task(publisher.publish([record(n)])))
            await steps()
        assert [len(each.records) for each in sender.given] == [1]
        sender.occupied = False
        sender.acknowledge()
        await first
        await steps()
        assert [len(each.records) for each in sender.given] == [1, 3]
        sender.acknowledge()
        await asyncio.gather(*calls)
        sender.occupied = True
        last = asyncio.create_task(publisher.publish([record(4)]))
        await steps()
        assert len(sender.given) == 2
        async with asyncio.timeout(1):
            await until(lambda: len(sender.given) == 3)
        sender.acknowledge()
        await last
        assert not await journal.streams()
    assert numbers(sender.values()) == [1, 2, 3, 4]


async def test_what_is_flushed_departs_at_once(tmp_path: Path) -> None:
    """Whoever offers much in one turn need not wait for its end; in order, what comes behind it too, and nobody is told too
    early.
    """
    sender = FakeSender(answering=True, counts={"work": 1, "meetings": 2})
    keys = [f"k{n}" for n in range(20)]
    async with publishing(sender, tmp_path, deadline=5) as (publisher, journal):
        told = [Told() for _ in range(53)]
        for n, each in enumerate(told):
            publisher.offer([record(n, topic="meetings", key=keys[n % 20]), record(n)], each)
            assert sum(len(batch.records) for batch in sender.given) == 2 * 24 * (n >= 24)
            if n == 23:
                publisher.flush()
                assert sum(len(batch.records) for batch in sender.given) == 2 * 24
            assert sender.flushed == ([3] if n >= 23 else [])
        assert [each.errors for each in told] == [[]] * len(told)
        await until(lambda: all(each.errors for each in told))
        assert [each.errors for each in told] == [[None]] * len(told)
        assert not await journal.streams()
    assert numbers(sender.values()) == list(range(len(told)))
    for key in keys:
        of_key = [each.message for each in sender.log["meetings", 0] + sender.log["meetings", 1]]
        found = numbers([each.value for each in of_key if each.key == key])
        assert found == sorted(found)


async def test_what_is_flushed_waits_for_a_busy_broker(tmp_path: Path) -> None:
    """It goes with whatever else was offered until the broker has answered; nothing is flushed that does not depart."""
    sender, told = FakeSender(), Told()
    async with publishing(sender, tmp_path, deadline=5) as (publisher, _):
        publisher.offer([record(0)], told)
        publisher.flush()
        sender.occupied = True
        for n in range(1, 4):
            publisher.offer([record(n)], told)
            publisher.flush()
        assert ([len(each.records) for each in sender.given], sender.flushed) == ([1], [1])
        await steps()
        publisher.offer([record(4)], told)
        publisher.flush()
        await steps()
        assert [len(each.records) for each in sender.given] == [1]
        sender.occupied = False
        sender.acknowledge()
        await steps()
        assert [len(each.records) for each in sender.given] == [1, 4]
        sender.acknowledge()
        await until(lambda: len(told.errors) == 5)
    assert set(told.errors) == {None}
    assert numbers(sender.values()) == list(range(5))


@pytest.mark.parametrize("busy", ["work", "meetings"])
async def test_a_busy_broker_holds_up_no_other(tmp_path: Path, busy: str) -> None:
    """Where records are flushed for several, those for an idle one depart, whichever was offered last."""
    sender, told = FakeSender(counts={"work": 1, "meetings": 1}), Told()
    async with publishing(sender, tmp_path, deadline=5) as (publisher, _):
        sender.occupied_topics = {busy}
        publisher.offer([record(0, topic="meetings"), record(1)], told)
        publisher.flush()
        assert ([each.topic for each in sender.given], sender.flushed) == (list({"work", "meetings"} - {busy}), [1])
        sender.occupied_topics = set()
        sender.acknowledge()
        await steps()
        assert [each.topic for each in sender.given][1:] == [busy]
        sender.acknowledge()
        await until(lambda: told.errors == [None])


async def test_where_nothing_is_ready_nothing_is_flushed(tmp_path: Path) -> None:
    """Calls without a record, and what has departed before, are no reason to disturb the sender; at the end of the turn it is
    told that nothing more comes with what departs then.
    """
    sender, told = FakeSender(), Told()
    async with publishing(sender, tmp_path) as (publisher, _):
        for _ in range(3):
            publisher.offer([], told)
            publisher.flush()
        assert sender.flushed == []
        publisher.offer([record(0)], told)
        assert sender.flushed == []
        await steps()
        assert sender.flushed == [1]
        publisher.flush()
        assert sender.flushed == [1]
        publisher.offer([record(1)], told)
        publisher.withdraw(publisher.offer([record(2)], told))
        publisher.flush()
        publisher.flush()
        assert len(sender.flushed) == 2
        sender.acknowledge()
        await steps()
        sender.acknowledge()
        await until(lambda: len(told.errors) == 5)
    assert set(told.errors) == {None}
    assert numbers(sender.values()) == [0, 1]


# --- offers -----------------------------------------------------------------------------------------------------------


class Told:
    """What is given as ``done``: every error that it was told, None for none."""

    def __init__(self) -> None:
        self.errors: list[Exception | None] = []

    def __call__(self, error: Exception | None) -> None:
        self.errors.append(error)


class Prompt(FakeSender):
    """Has answered before it returns."""

    def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """At once."""
        answer = super().send(topic, partition, batch)
        self.acknowledge()
        return answer


@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_an_offer_is_told_once_after_it_has_returned(tmp_path: Path, healthy: bool, count: int) -> None:
    """By Kafka or by the journal, and also where there is nothing to store."""
    async with publishing(Prompt(healthy=healthy), tmp_path) as (publisher, _):
        told, withdrawn = Told(), Told()
        publisher.offer([record(n) for n in range(count)], told)
        publisher.withdraw(publisher.offer([record(9)] * count, withdrawn))
        assert told.errors == []
        await until(lambda: bool(told.errors))
        await asyncio.sleep(0.02)
        assert (told.errors, withdrawn.errors) == ([None], [])


async def test_an_offer_that_cannot_be_stored_is_told_why(tmp_path: Path) -> None:
    """By ``done`` where that shows later, at once where it is known; nothing of it waits any more."""
    sender = FakeSender()
    async with troubled(sender, tmp_path, deadline=0.2) as (publisher, journal):
        journal.failure = "the disk failed"
        late, known, refused = Told(), Told(), Told()
        publisher.offer([record(0)], late)
        await until(lambda: bool(late.errors))
        assert [type(error) for error in late.errors] == [CannotStore]
        sender.healthy = False
        with pytest.raises(CannotStore):
            publisher.offer([record(1)], known)
        sender.recover()
        sender.refuse = lambda message: True
        publisher.offer([record(2)], refused)
        await until(lambda: bool(refused.errors))
        assert [type(error) for error in refused.errors] == [RecordRefused]
        await publisher.stop()
        with pytest.raises(CannotStore):
            publisher.offer([record(3)], known)
    assert known.errors == []
    assert publisher._bytes == 0


@pytest.mark.parametrize("when", ["at once", "waiting", "in the air", "in the journal", "done"])
async def test_what_is_withdrawn_is_not_told(tmp_path: Path, when: str) -> None:
    """And not sent, where it had not been handed over. Withdrawing twice, or what is done, does nothing."""
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=0.3) as (publisher, _):
        told, others = Told(), Told()
        if when == "waiting":
            publisher.offer([record(0)], others)
            await steps()
        offer = publisher.offer([record(1), record(2)], told)
        if when != "at once":
            await steps()
        if when == "in the journal":
            await until(lambda: bool(publisher.spooled))
        if when == "done":
            sender.acknowledge()
            await steps()
        publisher.withdraw(offer)
        publisher.withdraw(offer)
        publisher.offer([record(3)], others)
        await steps()
        sender.recover()
        await until(lambda: len(others.errors) == 1 + (when == "waiting"))
        assert told.errors == ([None] if when in ("in the journal", "done") else [])
        assert publisher._bytes == 0
    sent = {"at once": [3], "waiting": [0, 3], "in the air": [3]}.get(when, [1, 2, 3])
    assert numbers(sender.values()) == sent


@pytest.mark.parametrize("journalled", [False, True])
async def test_who_is_told_may_offer_more_at_once(tmp_path: Path, journalled: bool) -> None:
    """In the same breath, as a connection with its next request; the order holds, and nobody is told twice."""
    sender = FakeSender(answering=True, healthy=not journalled)
    async with publishing(sender, tmp_path, deadline=5) as (publisher, _):
        told = Told()

        def next_one(error: Exception | None) -> None:
            told(error)
            if len(told.errors) < 30:
                publisher.offer([record(len(told.errors))], next_one)

        publisher.offer([record(0)], next_one)
        await until(lambda: len(told.errors) == 30)
        sender.recover()
        await until(lambda: not publisher.spooled)
    assert told.errors == [None] * 30
    assert numbers(sender.values()) == list(range(30))


@pytest.mark.parametrize("journalled", [False, True])
async def test_who_fails_on_being_told_holds_up_nobody(tmp_path: Path, journalled: bool) -> None:
    """It is a bug of theirs, and is logged without what it says; everybody else hears, and the lane goes on."""

    def fail(_: Exception | None) -> None:
        raise ValueError("secret")

    sender = FakeSender(answering=True, healthy=not journalled)
    with capture_logs() as logs:
        async with publishing(sender, tmp_path, deadline=5) as (publisher, _):
            told = Told()
            offering: list[Done] = [fail, told, fail, told]
            for n, done in enumerate(offering):
                publisher.offer([record(n)], done)
            await until(lambda: len(told.errors) == 2)
            await publisher.publish([record(4)])
            sender.recover()
            await until(lambda: not publisher.spooled)
    assert numbers(sender.values()) == list(range(5))
    assert [line["event"] for line in logs].count("publisher.tell_crashed") == 2
    assert "secret" not in str(logs)


async def test_what_was_offered_leaves_no_garbage() -> None:
    """Nothing that only the collector finds: its pauses would be in every request's way."""
    sender = FakeSender(answering=True)
    publisher = KafkaFirstPublisher(sender, None, letter=letter)
    told = Told()
    gc.collect()
    gc.disable()
    try:
        publisher.offer([record(0), record(1)], told)
        await until(lambda: bool(told.errors))
        await steps()
        sender.given.clear()
        sender.log.clear()
        assert not [each for each in gc.get_objects() if isinstance(each, (Call, Entry, Flight, Delivery))]
    finally:
        gc.enable()
    await publisher.stop()


# --- the journal ------------------------------------------------------------------------------------------------------


async def test_what_waits_goes_to_the_journal_before_what_came_later(tmp_path: Path) -> None:
    """One record waits for Kafka, then Kafka is found unhealthy: the next takes the older one with it, in order."""
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=30) as (publisher, journal):
        waiting = [asyncio.create_task(publisher.publish([record(0)]))]
        await steps()
        waiting += [asyncio.create_task(publisher.publish([record(n)])) for n in (1, 2)]
        await steps()
        sender.healthy = False
        await publisher.publish([record(3)])
        await asyncio.gather(*waiting)  # they are durable now, and need not wait for their deadline
        assert await rows(journal) == [0, 1, 2, 3]
    assert [len(each.records) for each in sender.given] == [1]


async def test_a_row_waits_for_the_acknowledgement_that_is_on_its_way(tmp_path: Path) -> None:
    """Not acknowledged in time is not "not sent": when the answer comes after all, nothing is sent twice."""
    sender = FakeSender()
    async with publishing(sender, tmp_path) as (publisher, journal):
        await publisher.publish([record(0), record(1)])
        assert await rows(journal) == [0, 1]
        assert publisher.oldest > 0.3
        sender.acknowledge()
        await until(lambda: not publisher.spooled)
        await left(journal, [])
        assert publisher.oldest == 0.0
    assert [numbers(sender.values()), len(sender.given)] == [[0, 1], 1]


async def test_a_late_acknowledgement_removes_its_own_rows_only(tmp_path: Path) -> None:
    """What came after the batch that is acknowledged stays until it is acknowledged itself."""
    sender = FakeSender()
    async with publishing(sender, tmp_path) as (publisher, journal):
        first = asyncio.create_task(publisher.publish([record(0)]))
        await steps()
        await asyncio.gather(first, *(publisher.publish([record(n)]) for n in range(1, 6)))
        assert await rows(journal) == [0, 1, 2, 3, 4, 5]
        sender.acknowledge()
        await until(lambda: len(sender.given) == 2)
        await left(journal, [1, 2, 3, 4, 5])
        assert numbers([each.message.value for each in sender.given[1].records]) == [1, 2, 3, 4, 5]


async def test_nothing_overtakes_the_rows(tmp_path: Path) -> None:
    """While rows wait, what is published goes behind them, though Kafka seems to be healthy again."""
    sender = FakeSender(healthy=False)
    async with publishing(sender, tmp_path) as (publisher, journal):
        await publisher.publish([record(0)])
        sender.healthy = True
        await publisher.publish([record(1)])
        assert await rows(journal) == [0, 1]
        sender.recover()
        await until(lambda: not publisher.spooled)
        await publisher.publish([record(2)])
        assert await rows(journal) == []
    assert numbers(sender.values()) == [0, 1, 2]


async def test_with_few_rows_left_what_arrives_waits_in_memory(tmp_path: Path) -> None:
    """Kafka acknowledges again, and rows for one batch are left: the journal gets no more, and nothing overtakes."""
    sender = FakeSender(healthy=False)
    async with publishing(sender, tmp_path, deadline=30) as (publisher, journal):
        await publisher.publish([record(n) for n in range(30)])
        sender.healthy = True
        await until(lambda: len(sender.waiting) == 1)
        sender.acknowledge()
        await until(lambda: len(sender.waiting) == 1)
        call = asyncio.create_task(publisher.publish([record(30)]))
        await steps(50)
        assert publisher.journalling == 1
        assert not call.done()
        assert max(await rows(journal)) == 29
        sender.recover()
        await call
    assert numbers(sender.values()) == list(range(31))


async def test_a_restart_sends_what_the_journal_holds(tmp_path: Path) -> None:
    """Everything that was not acknowledged, in order, before anything new, though Kafka has not said how many partitions
    there are: that is in the journal too.
    """
    async with publishing(FakeSender(healthy=False, counts={"work": 3}), tmp_path) as (publisher, _):
        for n in range(700):
            await publisher.publish([record(n)])
    sender = FakeSender(counts={}, answering=True)
    async with publishing(sender, tmp_path) as (publisher, _):
        assert publisher.spooled == 700
        await publisher.publish([record(700)])
        await until(lambda: not publisher.spooled)
    ((_, partition),) = sender.log
    assert numbers(sender.values("work", partition)) == list(range(701))


async def test_the_rows_come_to_an_end_under_any_load(tmp_path: Path) -> None:
    """Publishing without a pause cannot keep the publisher in the journal for ever."""
    sender = FakeSender(healthy=False)
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
            await until(lambda: not publisher.spooled)
            before = len(sender.values())
            await asyncio.sleep(0.1)
            assert publisher.spooled == 0
            assert len(sender.values()) > before
        finally:
            for each in publishers:
                each.cancel()
            await asyncio.wait(publishers)


async def test_modes_are_logged_once_and_records_never(tmp_path: Path) -> None:
    """One line when the journal is first used, one when it is empty."""
    sender = FakeSender(healthy=False)
    with capture_logs() as logs:
        async with publishing(sender, tmp_path) as (publisher, _):
            for n in range(5):
                await publisher.publish([record(n)])
            sender.recover()
            await until(lambda: not publisher.spooled)
            await publisher.publish([record(5)])
    assert [line["event"] for line in logs] == ["publisher.spooling", "publisher.drained"]


# --- whose partitions are not known, and what an earlier version left --------------------------------------------------


async def test_partitions_become_known(tmp_path: Path) -> None:
    """What came before goes before: in memory, in the journal, and after a restart."""
    sender = FakeSender(counts={}, answering=True)
    async with publishing(sender, tmp_path, deadline=0.3) as (publisher, journal):
        for n in range(20):
            await publisher.publish([record(n, key=f"k{n % 4}")])
        assert await rows(journal, "spool/work") == list(range(20))
    async with publishing(sender, tmp_path, deadline=5) as (publisher, journal):
        calls = [asyncio.create_task(publisher.publish([record(n, key=f"k{n % 4}")])) for n in range(20, 24)]
        await steps()
        sender.counts["work"] = 3
        calls += [asyncio.create_task(publisher.publish([record(n, key=f"k{n % 4}")])) for n in range(24, 40)]
        await asyncio.gather(*calls)
        await until(lambda: not publisher.spooled)
    written = {place: numbers([each.message.value for each in log]) for place, log in sender.log.items()}
    assert len(written) > 1
    assert all(values == sorted(values) for values in written.values())
    assert sorted(n for values in written.values() for n in values) == list(range(40))


async def test_more_partitions_lose_nothing(tmp_path: Path) -> None:
    """A topic grows while rows wait for its old partitions: they go there, what comes goes by the new count."""
    sender = FakeSender(healthy=False, counts={"work": 1})
    async with publishing(sender, tmp_path) as (publisher, _):
        await publisher.publish([record(n, key=f"k{n}") for n in range(10)])
        sender.counts["work"] = 4
        await publisher.publish([record(n, key=f"k{n}") for n in range(10, 30)])
        sender.recover()
        await until(lambda: not publisher.spooled)
    assert numbers(sender.values())[:10] == list(range(10))
    assert sorted(n for part in range(4) for n in numbers(sender.values("work", part))) == list(range(30))


async def test_what_an_earlier_version_left_goes_first(tmp_path: Path) -> None:
    """Its one stream is sent before anything of the new lanes, also of other topics."""
    async with await Journal.open(tmp_path) as journal:
        await journal.append([(SPOOL, record(n, topic=("work", "meetings")[n % 2])) for n in range(40)])
    sender = FakeSender(counts={"work": 2, "meetings": 1})
    async with publishing(sender, tmp_path) as (publisher, journal):
        assert publisher.spooled == 40
        await publisher.publish([record(40), record(41, topic="meetings")])
        await until(lambda: bool(sender.waiting))
        assert {int(each.message.value or b"-1") for given in sender.given for each in given.records} <= set(range(40))
        sender.recover()
        await until(lambda: not publisher.spooled)
        await left(journal, [], SPOOL)
    written = [numbers([each.message.value for each in log]) for log in sender.log.values()]
    assert sorted(written) == [[*range(0, 41, 2)], [*range(1, 42, 2)]]


# --- callers that go, calls that fail ----------------------------------------------------------------------------------


async def test_what_a_caller_gave_up_is_not_sent(tmp_path: Path) -> None:
    """Cancelled before it was handed over: it is gone; what is in the air may arrive; the others are not touched."""
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=5) as (publisher, _):
        calls = [asyncio.create_task(publisher.publish([record(0)]))]
        await steps()
        calls += [asyncio.create_task(publisher.publish([record(n)])) for n in range(1, 5)]
        await steps()
        calls[2].cancel()
        await steps()
        sender.acknowledge()
        await steps()
        sender.acknowledge()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in results] == [type(None)] * 2 + [asyncio.CancelledError] + [type(None)] * 2
    assert numbers(sender.values()) == [0, 1, 3, 4]


async def test_what_nobody_waits_for_is_not_sent_again(tmp_path: Path) -> None:
    """All callers of the batch in the air have gone: the producer is told, and the lane goes on."""
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=5) as (publisher, _):
        call = asyncio.create_task(publisher.publish([record(0)]))
        await steps()
        call.cancel()
        await steps()
        assert sender.given[0].answer.cancelled()
        sender.answering = True
        await publisher.publish([record(1)])
    assert numbers(sender.values()) == [1]


async def test_what_the_journal_was_taking_is_known_when_its_caller_has_gone(tmp_path: Path) -> None:
    """Cancelled while the journal writes: the row is there, is counted, and is sent."""
    sender = FakeSender(healthy=False)
    async with publishing(sender, tmp_path) as (publisher, journal):
        with held(journal):
            call = asyncio.create_task(publisher.publish([record(0)]))
            await steps()
            call.cancel()
            await asyncio.wait({call})
        await until(lambda: publisher.spooled == 1)
        sender.recover()
        await until(lambda: not publisher.spooled)
    assert numbers(sender.values()) == [0]


async def test_without_a_journal_an_unhealthy_kafka_is_said_at_once() -> None:
    """There is nobody who could keep it."""
    publisher = KafkaFirstPublisher(FakeSender(healthy=False), None, deadline=30)
    await publisher.start()
    assert not publisher.accepting
    async with asyncio.timeout(1):
        with pytest.raises(CannotStore):
            await publisher.publish([record(0)])
    await publisher.stop()


async def test_without_a_journal_what_was_refused_is_not_sent() -> None:
    """Neither what waited behind a silent batch, nor that batch once more."""
    sender = FakeSender()
    publisher = KafkaFirstPublisher(sender, None, deadline=0.3)
    await publisher.start()
    results = await asyncio.gather(*(publisher.publish([record(n)]) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [CannotStore] * 3
    sender.recover()
    await publisher.publish([record(3)])
    await publisher.stop()
    assert numbers(sender.values()) == [3]


@pytest.mark.parametrize("journal", [True, False])
async def test_memory_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: bool) -> None:
    """With much in memory, what arrives goes to the journal; without one it is refused, and nothing is tried."""
    monkeypatch.setattr(publishing_module, "MOST_WAITING", 1000)
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=5) as (publisher, opened):
        if not journal:
            await publisher.stop()
            publisher = KafkaFirstPublisher(sender, None, deadline=5)
        large = Message(topic="work", key="k", value=b"7" * 700, partition_by="k")
        first = asyncio.create_task(publisher.publish([large]))
        await steps()
        assert not first.done()
        if journal:
            await publisher.publish([large])
            assert len(await opened.read(STREAM, 0, 10)) == 2
        else:
            with pytest.raises(Overloaded):
                await publisher.publish([large])
            sender.acknowledge()
        await first
        await publisher.stop()


async def test_a_record_that_no_batch_can_hold_is_refused_up_front(tmp_path: Path) -> None:
    """The caller is at fault, and is told the sizes; nothing else of the call is kept."""
    sender = FakeSender()
    async with publishing(sender, tmp_path) as (publisher, _):
        large = Message(topic="work", key="k", value=b"x" * MAX_RECORD_BYTES, partition_by="k")
        with pytest.raises(RecordRefused, match=f"{MAX_RECORD_BYTES + 1} bytes for work"):
            await publisher.publish([record(0), large])
    assert sender.given == []


async def test_what_cannot_be_placed_is_refused_whole(tmp_path: Path) -> None:
    """Its key is no text: the caller is at fault, and nothing of the call waits, or counts."""
    sender = FakeSender()
    async with publishing(sender, tmp_path) as (publisher, _):
        odd = Message(topic="work", key="k", value=b"1", partition_by="\ud800")
        with pytest.raises(UnicodeError):
            publisher.offer([record(0), odd], Told())
        await steps()
        assert publisher._bytes == 0
    assert sender.given == []


# --- a journal in trouble ---------------------------------------------------------------------------------------------


class Troubled:
    """In front of a journal: refuses what it is told to refuse. ``failure``: it is given up for good."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.full = False
        self.failure: str | None = None
        self.unreadable = False
        self.unsure = False
        self.appends = 0

    @property
    def state(self) -> Troubled:
        """It has a ``failure`` itself."""
        return self

    @property
    def accepting(self) -> bool:
        """Told by what it does only."""
        return self.failure is None

    async def append(self, entries: Sequence[tuple[str, Message]], *, essential: bool = False) -> list[int]:
        """Or not."""
        self.appends += 1
        if self.full and not essential:
            raise JournalFull("no room")
        if self.failure:
            raise JournalError(self.failure)
        offsets = await self.journal.append(entries, essential=essential)
        if self.unsure:
            self.failure = "nobody knows what reached the disk"
            raise JournalError(self.failure)
        return offsets

    async def read(self, stream: str, start: int, limit: int) -> list[Stored]:
        """Or not."""
        if self.unreadable:
            self.failure = self.failure or "a record is not what was written"
            raise JournalError("a record is not what was written")
        return await self.journal.read(stream, start, limit)

    async def trim(self, stream: str, before: int) -> int:
        """Or not."""
        if self.failure:
            raise JournalError(self.failure)
        return await self.journal.trim(stream, before)

    async def compact(self, stream: str) -> int:
        """As it is."""
        return await self.journal.compact(stream)

    async def streams(self) -> Mapping[str, Extent]:
        """As they are."""
        return await self.journal.streams()


@asynccontextmanager
async def troubled(
    sender: FakeSender, folder: Path, *, deadline: float
) -> AsyncIterator[tuple[KafkaFirstPublisher, Troubled]]:
    """A publisher whose journal can be told to have troubles."""
    async with await Journal.open(folder) as opened:
        journal = Troubled(opened)
        async with started(KafkaFirstPublisher(sender, journal, deadline=deadline)) as publisher:
            yield publisher, journal


class held:  # noqa: N801 - reads as what it is: with held(journal)
    """The journal's thread does nothing while the block runs: the disk hangs."""

    def __init__(self, journal: Journal) -> None:
        self._go = threading.Event()
        self._done = journal._writer.submit(lambda _: self._go.wait(30))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        self._go.set()


@pytest.mark.parametrize("answer", [True, False])
async def test_a_full_journal_gives_kafka_as_long_again(tmp_path: Path, answer: bool) -> None:
    """Then it is 503, and what was not handed over yet is not sent any more."""
    sender = FakeSender()
    async with troubled(sender, tmp_path, deadline=0.5) as (publisher, journal):
        journal.full = True
        calls = [asyncio.create_task(publisher.publish([record(n)])) for n in range(3)]
        await asyncio.sleep(0.6)
        assert journal.appends > 0
        assert not any(call.done() for call in calls)
        if answer:
            sender.recover()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in results] == [type(None) if answer else CannotStore] * 3
        sender.recover()
        await publisher.publish([record(3)])
        assert publisher.spooled == 0
    assert numbers(sender.values()) == ([0, 1, 2, 3] if answer else [3])


async def test_a_full_journal_takes_them_as_soon_as_there_is_room(tmp_path: Path) -> None:
    """What waits meanwhile is asked for again, within its second deadline."""
    sender = FakeSender()
    async with troubled(sender, tmp_path, deadline=1.5) as (publisher, journal):
        journal.full = True
        call = asyncio.create_task(publisher.publish([record(0)]))
        await until(lambda: journal.appends > 0)
        journal.full = False
        await call
        assert await rows(journal) == [0]


async def test_with_a_full_journal_nothing_overtakes_its_rows(tmp_path: Path) -> None:
    """Kafka is back and the journal takes nothing: what arrives waits behind the rows."""
    sender = FakeSender(healthy=False)
    async with troubled(sender, tmp_path, deadline=1) as (publisher, journal):
        await publisher.publish([record(n) for n in range(50)])
        journal.full, sender.healthy = True, True
        calls = [asyncio.create_task(publisher.publish([record(n)])) for n in range(50, 60)]
        await steps(50)
        sender.recover()
        await asyncio.gather(*calls)
    assert numbers(sender.values()) == list(range(60))


async def test_a_broken_journal_is_given_up(tmp_path: Path) -> None:
    """Kafka alone goes on; nothing is written to the journal any more; without Kafka it is 503, at once."""
    sender = FakeSender(answering=True)
    async with troubled(sender, tmp_path, deadline=0.5) as (publisher, journal):
        journal.failure = "the disk failed"
        assert publisher.accepting
        await publisher.publish([record(0)])
        sender.answering = False
        with pytest.raises(CannotStore):
            await publisher.publish([record(1)])
        sender.healthy = False
        assert not publisher.accepting
        async with asyncio.timeout(0.4):
            with pytest.raises(CannotStore):
                await publisher.publish([record(2)])
        sender.recover()
        await publisher.publish([record(3)])
        assert journal.appends == 0
    assert numbers(sender.values()) == [0, 3]


async def test_rows_of_a_broken_journal_are_sent_and_stay(tmp_path: Path) -> None:
    """They can be read, so they go first; removing them is not to be trusted any more."""
    sender = FakeSender(healthy=False)
    async with troubled(sender, tmp_path, deadline=1) as (publisher, journal):
        await publisher.publish([record(n) for n in range(30)])
        journal.failure, sender.healthy = "the disk failed", True
        call = asyncio.create_task(publisher.publish([record(30)]))
        await steps(50)
        sender.recover()
        await call
        assert publisher.spooled == 0
        assert await rows(journal) == list(range(30))
    assert numbers(sender.values()) == list(range(31))


async def test_rows_that_nobody_was_told_of_are_not_sent(tmp_path: Path) -> None:
    """The append failed after it was written: what waits for Kafka is sent from memory, once."""
    sender = FakeSender(healthy=False)
    async with troubled(sender, tmp_path, deadline=5) as (publisher, journal):
        await publisher.publish([record(n) for n in range(20)])
        journal.unsure = True
        call = asyncio.create_task(publisher.publish([record(20)]))
        await until(lambda: journal.failure is not None)
        assert len(await rows(journal)) == 21
        sender.recover()
        await call
        assert publisher.spooled == 0
    assert numbers(sender.values()) == list(range(21))


async def test_rows_that_cannot_be_read_hold_up_nobody(tmp_path: Path) -> None:
    """They stay in the journal for the next start, and are counted; what comes goes to Kafka."""
    sender = FakeSender(healthy=False)
    with capture_logs() as logs:
        async with troubled(sender, tmp_path, deadline=1) as (publisher, journal):
            await publisher.publish([record(n) for n in range(30)])
            await until(lambda: len(sender.waiting) == 1)
            journal.unreadable = True
            sender.recover()
            await publisher.publish([record(30)])
            assert publisher.spooled == 30 - 16
            journal.unreadable = False
            await steps(100)
            assert len(await rows(journal)) >= 14
    assert numbers(sender.values()) == [*range(16), 30]
    assert "publisher.rows_unreadable" in [line["event"] for line in logs]


async def test_an_acknowledgement_that_comes_while_the_journal_writes(tmp_path: Path) -> None:
    """The late batch is acknowledged before its rows are there: they are removed as soon as they are, and sent no more."""
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=0.5) as (publisher, journal):
        first = asyncio.create_task(publisher.publish([record(0)]))
        await steps()
        others = [asyncio.create_task(publisher.publish([record(n)])) for n in (1, 2)]
        with held(journal):
            await asyncio.sleep(0.6)
            sender.acknowledge()
            await first
            assert not any(call.done() for call in others)
        await asyncio.gather(*others)
        await until(lambda: len(sender.given) == 2)
        await left(journal, [1, 2])
        sender.recover()
        await until(lambda: not publisher.spooled)
    assert numbers(sender.values()) == [0, 1, 2]


async def test_a_disk_that_hangs_does_not_stop_kafka(tmp_path: Path) -> None:
    """In journal mode, and the journal does not answer: after the deadline Kafka is asked all the same."""
    sender = FakeSender(healthy=False)
    async with publishing(sender, tmp_path, deadline=0.5) as (publisher, journal):
        with held(journal):
            call = asyncio.create_task(publisher.publish([record(0)]))
            await steps()
            assert sender.given == []
            sender.healthy = sender.answering = True
            await call
            assert numbers(sender.values()) == [0]
            await publisher.publish([record(1)])
        await left(journal, [])
        assert publisher.spooled == 0
    assert numbers(sender.values()) == [0, 1]


async def test_a_disk_that_hangs_is_noticed_whenever_the_append_began(tmp_path: Path) -> None:
    """Begun a little after the record came, it hangs a little after the record's own deadline."""
    sender, told = FakeSender(healthy=False), Told()
    async with publishing(sender, tmp_path, deadline=0.3) as (publisher, journal):
        with held(journal):
            publisher.offer([record(0)], told)
            time.sleep(0.1)  # noqa: ASYNC251 - the loop has other things to do
            await steps()
            sender.healthy = sender.answering = True
            await until(lambda: bool(told.errors))
            assert numbers(sender.values()) == [0]
            sender.healthy = sender.answering = False
            assert not publisher.accepting
        await until(lambda: publisher.accepting)
        publisher.offer([record(1)], told)
        await until(lambda: len(told.errors) == 2)
        assert await rows(journal) == [1]
    assert told.errors == [None, None]


async def test_who_came_behind_an_append_that_fails_is_stored_as_soon(tmp_path: Path) -> None:
    """It need not wait for its own deadline to hear of it."""
    sender, told = FakeSender(healthy=False, counts={"work": 1, "meetings": 1}), Told()
    async with troubled(sender, tmp_path, deadline=3) as (publisher, journal):
        journal.unsure = True
        with held(journal.journal):
            publisher.offer([record(0)], told)
            await steps()
            publisher.offer([record(1, topic="meetings")], told)
            await steps()
        sender.healthy = sender.answering = True
        begun = time.monotonic()
        await until(lambda: len(told.errors) == 2)
        assert time.monotonic() - begun < 2
        await publisher.stop()
    assert told.errors == [None, None]


async def test_removed_in_the_middle_a_journal_goes_on(tmp_path: Path) -> None:
    """A journal that was mended has holes: what is behind them is sent."""
    async with publishing(FakeSender(healthy=False), tmp_path) as (publisher, _):
        await publisher.publish([record(n) for n in range(40)])
    async with await Journal.open(tmp_path) as journal:
        await journal._writer.submit(lambda file: JournalFile.remove(file, stream=STREAM, offsets=[3, 4, 5, 38, 39]))
    sender = FakeSender(answering=True)
    async with publishing(sender, tmp_path) as (publisher, _):
        await publisher.publish([record(40)])
        await until(lambda: not publisher.spooled)
    assert numbers(sender.values()) == [n for n in range(41) if n not in (3, 4, 5, 38, 39)]


# --- what Kafka refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journalled", [False, True])
async def test_a_refused_record_becomes_a_letter(tmp_path: Path, journalled: bool) -> None:
    """It alone; the others arrive in their order. Whoever published it has it stored."""
    sender = FakeSender(healthy=not journalled)
    sender.refuse = lambda message: message.value in (b"3", b"17") and message.topic == "work"
    with capture_logs() as logs:
        async with publishing(sender, tmp_path, letter=letter, deadline=5) as (publisher, journal):
            calls = [asyncio.create_task(publisher.publish([record(n)])) for n in range(30)]
            await steps()
            if journalled:
                await asyncio.gather(*calls)
            sender.recover()
            await asyncio.gather(*calls)
            await until(lambda: not publisher.spooled and len(sender.values("dead-letters")) == 2)
            assert REFUSED not in await journal.streams()
    assert numbers(sender.values()) == [n for n in range(30) if n not in (3, 17)]
    assert sender.values("dead-letters") == [b"letter of 3", b"letter of 17"]
    assert [line["event"] for line in logs].count("publisher.record_refused") == 2
    assert len(sender.given) < 30


async def test_a_refused_record_whose_letter_is_refused_is_kept(tmp_path: Path) -> None:
    """In the journal, for the operator; what is behind it arrives."""
    sender = FakeSender(answering=True)
    sender.refuse = lambda message: message.value == b"1" or message.topic == "dead-letters"
    async with publishing(sender, tmp_path, letter=letter) as (publisher, journal):
        await asyncio.gather(*(publisher.publish([record(n)]) for n in range(3)))
        assert await rows(journal, REFUSED) == [1]
    assert numbers(sender.values()) == [0, 2]


async def test_a_full_journal_still_keeps_what_is_refused(tmp_path: Path) -> None:
    """It makes room: the row that it was goes, and so do those behind it."""
    sender = FakeSender(healthy=False)
    sender.refuse = lambda message: message.value == b"0"
    async with troubled(sender, tmp_path, deadline=5) as (publisher, journal):
        await publisher.publish([record(n) for n in range(3)])
        journal.full = True
        sender.recover()
        await until(lambda: not publisher.spooled)
        assert await rows(journal, REFUSED) == [0]
    assert numbers(sender.values()) == [1, 2]


async def test_a_letter_waits_in_the_journal_like_any_record(tmp_path: Path) -> None:
    """Its topic is silent: after the deadline it is in the journal, and the record that it is about is finished."""
    sender = FakeSender(counts={"work": 1})
    sender.refuse = lambda message: message.value == b"0"
    async with publishing(sender, tmp_path, letter=letter, deadline=0.5) as (publisher, journal):
        call = asyncio.create_task(publisher.publish([record(0)]))
        await steps()
        sender.acknowledge()
        await call
        assert len(await journal.read("spool/dead-letters", 0, 10)) == 1


async def test_whoever_writes_letters_is_told_of_one_that_is_refused() -> None:
    """There is no letter of a letter: a shorter one may do."""
    sender = FakeSender(answering=True)
    sender.refuse = lambda message: True
    publisher = KafkaFirstPublisher(sender, None, letter=letter)
    with pytest.raises(RecordRefused):
        await publisher.publish([record(0, topic="dead-letters")])
    await publisher.stop()


@pytest.mark.parametrize("kept", [True, False])
async def test_what_a_letter_cannot_hold_is_kept_whole_or_told_of(tmp_path: Path, kept: bool) -> None:
    """A letter without the record would lose it: this one never had a place."""
    large = Message(topic="work", key="k", value=b"x" * (LONGEST + 1), partition_by="k")
    sender = FakeSender(answering=True)
    sender.refuse = lambda message: message.topic == "work"
    async with publishing(sender, tmp_path, letter=letter) as (publisher, journal):
        if kept:
            await publisher.publish([large])
            assert [row.message for row in await journal.read(REFUSED, 0, 10)] == [large]
        else:
            alone = KafkaFirstPublisher(sender, None, letter=letter)
            with pytest.raises(RecordRefused):
                await alone.publish([large])
            await alone.stop()
    assert "dead-letters" not in {topic for topic, _ in sender.log}


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_stopped_while_calls_wait(tmp_path: Path) -> None:
    """Kafka is silent: the calls have their deadline, and are in the journal then. Nothing more is taken."""
    sender = FakeSender()
    async with publishing(sender, tmp_path, deadline=0.5) as (publisher, journal):
        calls = [asyncio.create_task(publisher.publish([record(n)])) for n in range(5)]
        await steps()
        async with asyncio.timeout(3):
            await publisher.stop()
        await asyncio.gather(*calls)
        assert await rows(journal) == [0, 1, 2, 3, 4]
        with pytest.raises(CannotStore):
            await publisher.publish([record(5)])


async def test_stopped_with_nowhere_to_store(tmp_path: Path) -> None:
    """Whoever waits is told, in time."""
    publisher = KafkaFirstPublisher(FakeSender(), None, deadline=0.5)
    call = asyncio.create_task(publisher.publish([record(0)]))
    await steps()
    async with asyncio.timeout(3):
        await publisher.stop()
    with pytest.raises(CannotStore):
        await call


async def test_the_sender_is_stopped_within_the_time_that_there_is() -> None:
    """Calls with a longer deadline than the shutdown has are told; then there is still time for the last answers."""
    sender = FakeSender()
    publisher = KafkaFirstPublisher(sender, None, deadline=30)
    call = asyncio.create_task(publisher.publish([record(0)]))
    await steps()
    async with asyncio.timeout(3.5):
        await publisher.stop(within=2.5)
    with pytest.raises(CannotStore):
        await call


async def test_what_is_acknowledged_at_the_very_end_is_removed(tmp_path: Path) -> None:
    """So the next run does not send it again."""
    sender = FakeSender(healthy=False)
    async with publishing(sender, tmp_path) as (publisher, journal):
        await publisher.publish([record(n) for n in range(5)])
        await until(lambda: len(sender.waiting) == 1)
        sender.answering = True
        asyncio.get_running_loop().call_later(0.02, sender.acknowledge)
        await publisher.stop()
        assert await rows(journal) == [0, 1, 2, 3, 4] or await rows(journal) == []
