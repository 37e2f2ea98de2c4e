"""Fetches of a consumer that a rebalance overtakes, on a real broker: nothing of an assignment that is over is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError

from service.bus import kafka_consumer
from service.bus.kafka_plain import read_plainly
from service.bus.topics import TopicPlan
from tests.kafka.foreign import set_position
from tests.kafka.harness import Cluster
from tests.kafka.member import Member, member, until
from tests.kafka.records import create_topics, numbered, producing, send_all


@asynccontextmanager
async def holding_five(cluster: Cluster, prefix: str) -> AsyncIterator[Member]:
    """A member that was given five records of its only partition, and has finished none."""
    await create_topics(cluster, prefix, [TopicPlan(name="work", partitions=1)])
    await set_position(cluster, f"{prefix}g", f"{prefix}work", 0)
    async with producing(cluster, prefix) as producer:
        await send_all(producer, [numbered("k", n) for n in range(5)])
    one = member(cluster, prefix, hold=True)
    await one.start()
    try:
        await until(lambda: len(one.records) == 5)
        yield one
    finally:
        await one.stop()


async def rebalanced(one: Member) -> None:
    """Until it has the partition once more, and knows where that begins."""
    consumer: Any = one.consumer
    before = consumer._assignment
    consumer._client._coordinator.request_rejoin()
    await until(
        lambda: (
            consumer._assignment not in (None, before)
            and consumer._assignment.delivering
            and None not in consumer._positions().values()
        )
    )


def overtake(monkeypatch: pytest.MonkeyPatch, one: Member, error: Exception, *, late: bool = False) -> asyncio.Event:
    """The next fetch raises ``error`` after a rebalance; ``late``: before it, as if nobody had looked. Returns "it did"."""
    client: Any = one.consumer._client
    getmany, did = client.getmany, asyncio.Event()

    async def overtaken(**limits: Any) -> Any:
        if did.is_set():
            return await getmany(**limits)
        did.set()
        if not late:
            await rebalanced(one)
        raise error

    monkeypatch.setattr(client, "getmany", overtaken)
    return did


def offsets(one: Member) -> list[int]:
    return [record.offset for record in one.records]


async def test_positions_of_an_assignment_that_is_over_skip_nothing(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that cannot be decoded is met after a rebalance that came during the fetch: what was unfinished comes again."""
    async with holding_five(kafka, topic_prefix) as one:
        did = overtake(monkeypatch, one, CorruptRecordException("odd"))
        await did.wait()
        await until(lambda: len(one.records) >= 10)
    assert offsets(one) == [*range(5), *range(5)]


async def test_a_plain_reading_of_an_assignment_that_is_over_moves_nothing(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebalance comes while a batch is read plainly: the next assignment begins with what is committed."""
    async with holding_five(kafka, topic_prefix) as one:
        read = 0

        async def slowly(client: Any, place: Any, _: int) -> Any:
            nonlocal read
            read += 1
            found = await read_plainly(client, place, 0)
            if read == 1:
                await rebalanced(one)
            return found

        monkeypatch.setattr(kafka_consumer, "read_plainly", slowly)
        overtake(monkeypatch, one, CorruptRecordException("odd"), late=True)
        await until(lambda: len(one.records) >= 10)
    assert offsets(one) == [*range(5), *range(5)]


async def test_an_error_of_an_assignment_that_is_over_is_nothing_to_the_next_one(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looked at the fetch before the rebalance: the offset that was gone is not ours any more."""
    async with holding_five(kafka, topic_prefix) as one:
        consumer: Any = one.consumer
        did = overtake(monkeypatch, one, OffsetOutOfRangeError({}), late=True)
        begun: list[object] = []
        looked: list[object] = []

        async def begin(*told: object) -> None:
            begun.append(told)

        fetched = consumer._fetched

        async def late(client: Any, fetching: Any) -> Any:
            if not looked:
                looked.append(fetching)
                await rebalanced(one)
            return await fetched(client, fetching)

        monkeypatch.setattr(consumer, "_begin_at_the_earliest", begin)
        await did.wait()
        monkeypatch.setattr(consumer, "_fetched", late)
        await until(lambda: len(one.records) >= 10)
    assert (offsets(one), len(looked), begun) == ([*range(5), *range(5)], 1, [])


async def test_a_client_that_is_given_up_gets_nothing_any_more(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may join again while the group is asked who has our name: what it is assigned then would outlive it."""
    async with holding_five(kafka, topic_prefix) as one:
        consumer: Any = one.consumer
        client = consumer._client

        async def asked(*, thrown_out: bool) -> bool:
            if not thrown_out:
                consumer.assign(client, frozenset({0}))  # as aiokafka would
            return False

        monkeypatch.setattr(consumer, "is_name_taken", asked)
        await consumer._lose(client, "test")
        assert (consumer._client, consumer._assignment) == (None, None)
        await until(lambda: len(one.records) >= 10)
    assert [told for told, _ in one.told] == ["assigned", "revoked", "assigned", "revoked"]
    assert offsets(one) == [*range(5), *range(5)]
