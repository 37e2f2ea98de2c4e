"""What every bus does; one set of tests for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.core.message import Message, Received
from tests.bus.behaviour import BUSES, PATIENCE, Bus, Listener, OpenBus, numbers, publish, record, take


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    """Each bus in turn, empty."""
    open_bus: OpenBus = request.param
    async with open_bus(request, tmp_path) as opened:
        yield opened


async def test_records_arrive_in_the_order_of_publishing(bus: Bus) -> None:
    """Within a partition the order of publishing is the order of delivery, and offsets say so."""
    await publish(bus, range(1200))
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    records = await take(consumer, 1200)
    await consumer.stop()
    assert numbers(records) == list(range(1200))
    assert [received.offset for received in records] == sorted({received.offset for received in records})


async def test_a_record_arrives_as_it_was_published(bus: Bus) -> None:
    """Topic without prefix, key, value bytes and a time in milliseconds."""
    before = time.time() * 1000
    value = bytes(range(256))
    await bus.publisher().publish([Message(topic="work", key="schlüssel-键", value=value, partition_by="org")])
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    (received,) = await take(consumer, 1)
    await consumer.stop()
    assert (received.topic, received.partition, received.key, received.value) == ("work", 0, "schlüssel-键", value)
    assert before - 1000 <= received.timestamp <= time.time() * 1000 + 1000


async def test_a_record_published_while_polling_arrives(bus: Bus) -> None:
    """A consumer that waits is told of what comes later."""
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    polling = asyncio.create_task(take(consumer, 1))
    await asyncio.sleep(0.05)
    await publish(bus, range(7, 8))
    assert numbers(await polling) == [7]
    await consumer.stop()


async def test_poll_comes_back_empty(bus: Bus) -> None:
    """Without records a poll waits about a second, not for ever and not for nothing."""
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    await publish(bus, range(1))
    await take(consumer, 1)
    started = time.monotonic()
    assert list(await consumer.poll()) == []
    assert 0.1 <= time.monotonic() - started <= 3
    await consumer.stop()


async def test_assignment_comes_before_the_first_record(bus: Bus) -> None:
    """The listener has returned from ``assigned`` before anything is delivered, however long it took."""
    await publish(bus, range(3))
    listener, consumer = Listener(delay=0.2), bus.consumer("g")
    starting = asyncio.create_task(consumer.start(listener))
    async with asyncio.timeout(PATIENCE):
        while not (records := list(await consumer.poll())):
            assert "revoked" not in dict(listener.told)
    assert listener.told[-1] == ("assigned", frozenset({0}))
    assert numbers(records)[0] == 0
    await starting
    await consumer.stop()
    assert listener.told[-1] == ("revoked", frozenset({0}))


@pytest.mark.parametrize(
    ("finished", "first_again"),
    [
        pytest.param([], 0, id="nothing finished"),
        pytest.param([1, 2, 3, 4, 5, 6, 7, 8, 9], 0, id="all but the first"),
        pytest.param([0, 1, 2, 4, 9], 3, id="a gap"),
        pytest.param([4, 3, 2, 1, 0], 5, id="in reverse order"),
        pytest.param([0, 0, 0], 1, id="one of them three times"),
    ],
)
async def test_only_contiguous_work_is_committed(bus: Bus, finished: list[int], first_again: int) -> None:
    """The next member starts at the first unfinished record, whatever was finished behind it."""
    await publish(bus, range(10))
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    records = await take(consumer, 10)
    for index in finished:
        consumer.finish(records[index])
    await consumer.commit()
    await consumer.stop()
    assert numbers(await _from_new_member(bus, 10 - first_again)) == list(range(first_again, 10))


async def test_what_the_drain_finishes_is_committed(bus: Bus) -> None:
    """Work that ends while the listener is in ``revoked`` is not done again."""
    await publish(bus, range(4))
    consumer, records = bus.consumer("g"), list[Received]()

    def finish_three() -> None:
        for received in records[:3]:
            consumer.finish(received)

    await consumer.start(Listener(finish_three))
    records += await take(consumer, 4)
    await consumer.stop()
    assert numbers(await _from_new_member(bus, 1)) == [3]


async def test_a_finish_after_revoke_is_ignored(bus: Bus) -> None:
    """Whoever lost the partition changes nothing any more."""
    await publish(bus, range(3))
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    records = await take(consumer, 3)
    await consumer.stop()
    for received in records:
        consumer.finish(received)
    await consumer.commit()
    assert numbers(await _from_new_member(bus, 3)) == [0, 1, 2]


async def test_each_group_gets_everything(bus: Bus) -> None:
    """What one group has finished is still there for another."""
    await publish(bus, range(5))
    first = bus.consumer("one")
    await first.start(Listener())
    for received in await take(first, 5):
        first.finish(received)
    await first.stop()
    second = bus.consumer("two")
    await second.start(Listener())
    assert numbers(await take(second, 5)) == [0, 1, 2, 3, 4]
    await second.stop()


async def test_delivery_pauses_at_ten_thousand_unfinished(bus: Bus) -> None:
    """At most 10 000 records are unfinished; finishing some lets the rest come, and none is skipped."""
    await publish(bus, range(10_400))
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    records = await take(consumer, 9_500)
    while more := await consumer.poll():
        records += more
    assert 9_500 <= len(records) <= 10_000
    assert list(await consumer.poll()) == []
    for received in records[:1000]:
        consumer.finish(received)
    records += await take(consumer, 10_400 - len(records))
    assert numbers(records) == list(range(10_400))
    await consumer.stop()


async def test_a_reader_reads_all_there_is_and_ends(bus: Bus) -> None:
    """A partition is read from its start, tombstones included, up to the end seen at the call and no further."""
    publisher = bus.publisher()
    await publisher.publish([record(n, topic="ledger", key=f"k{n}") for n in range(50)])
    await publisher.publish([Message(topic="ledger", key="k7", value=None, partition_by="org")])
    seen: list[Received] = []
    async for received in bus.reader().read("ledger", 0):
        if not seen:
            await publisher.publish([record(99, topic="ledger", key="late")])
        seen.append(received)
    assert [(received.key, received.value) for received in seen[:-1]] == [(f"k{n}", b"%d" % n) for n in range(50)]
    assert (seen[-1].key, seen[-1].value) == ("k7", None)


async def test_a_reader_of_an_empty_partition_ends(bus: Bus) -> None:
    """Nothing there is an end, not a wait."""
    async with asyncio.timeout(PATIENCE):
        assert [received async for received in bus.reader().read("ledger", 0)] == []


async def test_publishing_nothing_is_done_at_once(bus: Bus) -> None:
    """An empty call is no error, and writes nothing."""
    await bus.publisher().publish([])
    await publish(bus, range(1))
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    assert numbers(await take(consumer, 1)) == [0]
    await consumer.stop()


async def _from_new_member(bus: Bus, count: int) -> list[Received]:
    """What a new member of group ``g`` gets first."""
    consumer = bus.consumer("g")
    await consumer.start(Listener())
    records = await take(consumer, count)
    await consumer.stop()
    return records
