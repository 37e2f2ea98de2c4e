"""Consumers on a real broker: two members, restarts, rebalances, and a broker that goes away. The rest is in tests/bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiokafka
import pytest
from aiokafka.errors import CorruptRecordException
from structlog.testing import capture_logs

from service.bus.kafka import KafkaConsumer, KafkaReader
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.kafka_partitioner import partition_for
from service.bus.kafka_plain import read_plainly
from service.bus.topics import TopicPlan
from service.core.errors import CannotStore, KafkaUnavailable
from service.core.message import Message
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.foreign import ODD, committed, delete_before, delete_topic, foreign, set_position, write_batch
from tests.kafka.harness import Cluster
from tests.kafka.member import PATIENCE, Member, member, until
from tests.kafka.records import create_topics, numbered, producing, read_topic, send_all

FOUR = frozenset(range(4))


@asynccontextmanager
async def topic_of_four(cluster: Cluster, prefix: str) -> AsyncIterator[Callable[[range], Awaitable[None]]]:
    """``work`` with four partitions; gives a function that writes each number of a range to every one of twenty keys."""
    await create_topics(cluster, prefix, [TopicPlan(name="work", partitions=4)])
    async with producing(cluster, prefix) as producer:

        async def write(numbers: range) -> None:
            await send_all(producer, [numbered(f"k{key}", n) for n in numbers for key in range(20)])

        yield write


async def test_two_members_share_and_each_change_revokes_everything(kafka: Cluster, topic_prefix: str) -> None:
    """The first drains, commits and is fenced when the second joins; together they have all, and nothing is done twice."""
    async with topic_of_four(kafka, topic_prefix) as write, AsyncExitStack() as stack:
        await write(range(10))
        first = member(kafka, topic_prefix)
        await first.start()
        stack.push_async_callback(first.stop)
        await until(lambda: len(first.records) == 200)
        second = member(kafka, topic_prefix)
        await second.start()
        stack.push_async_callback(second.stop)
        await until(lambda: len(first.partitions) == 2 == len(second.partitions))
        await write(range(10, 20))
        await until(lambda: len(first.records) + len(second.records) >= 400)
    assert first.told[:2] == [("assigned", FOUR), ("revoked", FOUR)]
    assert len({(r.partition, r.offset) for r in first.records + second.records}) == 400
    assert len(first.records) + len(second.records) == 400
    assert first.early == second.early == []


async def test_what_was_not_finished_at_a_rebalance_goes_to_the_new_owner(kafka: Cluster, topic_prefix: str) -> None:
    """Finished work is committed at the revoke; a later finish is ignored, even where the partition is ours again."""
    async with topic_of_four(kafka, topic_prefix) as write, AsyncExitStack() as stack:
        await write(range(10))
        first = member(kafka, topic_prefix, hold=True)
        await first.start()
        stack.push_async_callback(first.stop)
        await until(lambda: len(first.records) == 200)
        held = list(first.records)
        for record in held:
            if record.offset < 5:
                first.consumer.finish(record)
        second = member(kafka, topic_prefix, hold=True)
        await second.start()
        stack.push_async_callback(second.stop)
        await until(lambda: len(first.records) + len(second.records) >= 380)
        for record in held:
            first.consumer.finish(record)  # of the assignment before
        await first.consumer.commit()
    again = first.records[200:] + second.records
    assert sorted((r.partition, r.offset) for r in again) == sorted(
        (r.partition, r.offset) for r in held if r.offset >= 5
    )
    third = member(kafka, topic_prefix)
    await third.start()
    await until(lambda: len(third.records) >= 180)
    await third.stop()
    assert min(r.offset for r in third.records) == 5


async def test_nothing_is_delivered_before_a_long_restore_is_over(kafka: Cluster, topic_prefix: str) -> None:
    """``assigned`` is awaited first, and the group goes on meanwhile: a rebalance in the middle begins it anew."""
    async with topic_of_four(kafka, topic_prefix) as write, AsyncExitStack() as stack:
        await write(range(5))
        first, second = member(kafka, topic_prefix, restore=4.0), member(kafka, topic_prefix)
        for each in (first, second):
            await each.start()
            stack.push_async_callback(each.stop)
            await asyncio.sleep(0.3)
        await until(lambda: len(first.records) + len(second.records) == 100)
        told = [kind for kind, _ in first.told]
        assert told == ["revoked", "assigned"]  # the first restore was cut off
    assert first.early == second.early == []


async def test_a_drain_that_does_not_end_is_cut_short(kafka: Cluster, topic_prefix: str) -> None:
    """The listener has five seconds; then the commit happens without it."""
    async with topic_of_four(kafka, topic_prefix) as write:
        await write(range(1))
        slow = member(kafka, topic_prefix)
        await slow.start()
        await until(lambda: len(slow.records) == 20)
        slow.revoked = lambda partitions: asyncio.sleep(60)  # type: ignore[method-assign]  # a listener that hangs
        started = time.monotonic()
        await slow.stop()
        assert 4 < time.monotonic() - started < 9
        await write(range(1, 2))
        other = member(kafka, topic_prefix)
        await other.start()
        await until(lambda: len(other.records) >= 20)
        await other.stop()
    assert {record.value for record in other.records} == {b"1"}


async def test_a_static_member_has_its_partitions_back(kafka: Cluster, topic_prefix: str) -> None:
    """Stopped and started again under the same instance id, it disturbs nobody and takes nobody's partitions."""
    async with topic_of_four(kafka, topic_prefix) as write, AsyncExitStack() as stack:
        await write(range(1))
        a = member(kafka, topic_prefix, instance_id="a")
        b = member(kafka, topic_prefix, instance_id="b")
        for each in (a, b):
            await each.start()
        stack.push_async_callback(b.stop)
        await until(lambda: len(a.partitions) == 2 == len(b.partitions))
        told, mine = len(b.told), a.partitions
        await a.stop()
        again = member(kafka, topic_prefix, instance_id="a")
        await again.start()
        stack.push_async_callback(again.stop)
        await until(lambda: again.partitions == mine)
        assert len(b.told) == told


async def test_a_partition_is_paused_when_too_much_is_unfinished(kafka: Cluster, topic_prefix: str) -> None:
    """No partition has more than its limit unfinished; the others go on, and finishing lets the rest come."""
    async with topic_of_four(kafka, topic_prefix) as write:
        await write(range(40))
        holding = member(kafka, topic_prefix, hold=True, max_unfinished=50)
        await holding.start()
        await until(lambda: len(holding.records) >= 4 * 50)
        await asyncio.sleep(1)
        counts = [sum(r.partition == p for r in holding.records) for p in range(4)]
        assert max(counts) <= 50
        done = 0
        while done < 800:
            for record in holding.records[done:]:
                holding.consumer.finish(record)
                done += 1
            await asyncio.sleep(0.05)
        await holding.stop()
    offsets = [[r.offset for r in holding.records if r.partition == p] for p in range(4)]
    assert all(each == list(range(len(each))) for each in offsets)


async def test_a_consumer_waits_for_kafka_and_survives_its_restart(
    kafka_clusters: ClusterFactory, topic_prefix: str
) -> None:
    """Started with Kafka down it polls in vain; it joins when Kafka comes, and goes on after a SIGKILL of the broker."""
    cluster = kafka_clusters(1)
    broker = cluster.brokers[0]
    async with topic_of_four(cluster, topic_prefix) as write:
        await write(range(1))
        broker.kill()
        patient = member(cluster, topic_prefix)
        await patient.start()
        await asyncio.sleep(1)
        assert patient.told == []
        broker.start()
        await until(lambda: len(patient.records) == 20)
        await patient.consumer.commit()
        broker.kill()
        await asyncio.sleep(2)
        broker.start()
        await cluster.ready()
        await write(range(1, 2))
        await until(lambda: {record.value for record in patient.records} == {b"0", b"1"})
        await patient.stop()
    assert patient.early == []


async def test_the_reader_gives_up_where_nobody_answers() -> None:
    """A clear error within its patience."""
    reader = KafkaReader(connection=Connection(bootstrap_servers="127.0.0.1:9"), topic_prefix="", patience=2)
    with pytest.raises(KafkaUnavailable):
        [record async for record in reader.read("ledger", 0)]


async def test_the_reader_reads_past_what_compaction_took(kafka: Cluster, topic_prefix: str) -> None:
    """Holes in the offsets are no end and no wait: the last record of each key is there, whatever was removed."""
    name = f"{topic_prefix}ledger"
    await create_topics(kafka, topic_prefix, [TopicPlan(name="ledger", partitions=1, compacted=True)])
    async with kafka_admin(kafka.connection) as admin:
        overrides = (await admin.describe([name]))[name].overrides
        await admin.configure(name, {**overrides, "segment.ms": "200", "min.cleanable.dirty.ratio": "0.01"})
    async with producing(kafka, topic_prefix) as producer:
        numbers = [Message(topic="ledger", key=f"k{n % 3}", value=b"%d" % n, partition_by="o") for n in range(300)]
        await send_all(producer, numbers)
        await asyncio.sleep(0.5)
        await send_all(producer, [Message(topic="ledger", key="end", value=b"end", partition_by="o")])
    async with asyncio.timeout(PATIENCE):
        while len(records := await read_topic(kafka, topic_prefix, "ledger")) > 4:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.2)
    assert [(r.key, r.value, r.offset) for r in records] == [
        ("k0", b"297", 297),
        ("k1", b"298", 298),
        ("k2", b"299", 299),
        ("end", b"end", 300),
    ]


class Asking(Member):
    """Asks, while it is told of its partitions, what a processor asks there."""

    def __init__(self, consumer: KafkaConsumer, *, failures: int = 0) -> None:
        super().__init__(consumer)
        self.failures = failures
        self.consumed: dict[int, bool] = {}
        self.places: dict[str, int | None] = {}

    async def assigned(self, partitions: frozenset[int]) -> None:
        if self.failures:
            self.failures -= 1
            raise CannotStore
        self.consumed = {partition: await self.consumer.consumed(partition) for partition in partitions}
        self.places = {key: self.consumer.partition_of(key) for key in map(str, range(20))}
        await super().assigned(partitions)


def asking(kafka: Cluster, prefix: str, *, failures: int = 0) -> Asking:
    """A member that is the only one of its group."""
    consumer = KafkaConsumer(
        connection=kafka.connection, topic_prefix=prefix, topic="work", group=f"{prefix}g", instance_id="i"
    )
    return Asking(consumer, failures=failures)


async def test_a_partition_is_consumed_once_a_record_of_it_is_finished(kafka: Cluster, topic_prefix: str) -> None:
    """That is known when the partitions are assigned; a group that finished nothing consumed nothing."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=4)])
    first = asking(kafka, topic_prefix)
    await first.start()
    await until(lambda: first.partitions == FOUR)
    assert first.consumed == dict.fromkeys(FOUR, False)
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [Message(topic="work", key="k", value=b"0", partition_by="k", partition=2)])
    await until(lambda: len(first.records) == 1)
    await first.stop()

    second = asking(kafka, topic_prefix)
    await second.start()
    await until(lambda: second.partitions == FOUR)
    await second.stop()
    assert second.consumed == {0: False, 1: False, 2: True, 3: False}


async def test_partition_of_is_where_the_producer_puts_it(kafka: Cluster, topic_prefix: str) -> None:
    """Where the record does not name its partition itself."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=4)])
    member = asking(kafka, topic_prefix)
    await member.start()
    await until(lambda: member.partitions == FOUR)
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [numbered(key, 0) for key in member.places])
    await until(lambda: len(member.records) == len(member.places))
    await member.stop()
    assert {record.key: record.partition for record in member.records} == member.places
    assert member.places == {key: partition_for(key, 4) for key in member.places}


async def test_an_assignment_that_cannot_be_taken_up_now_is_tried_again(kafka: Cluster, topic_prefix: str) -> None:
    """Where the ledger cannot be written at that moment, nothing is delivered until it can."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=4)])
    member = asking(kafka, topic_prefix, failures=2)
    await member.start()
    await until(lambda: member.partitions == FOUR)
    await member.stop()
    assert (member.failures, member.early) == (0, [])


async def test_nobody_knows_what_was_consumed_without_a_connection() -> None:
    """That is an error, not a no."""
    member = asking(Cluster("127.0.0.1:9"), "p.")
    with pytest.raises(CannotStore):
        await member.consumer.consumed(0)


async def test_partitions_are_remembered_and_never_guessed(kafka: Cluster, topic_prefix: str) -> None:
    """Before anything is known there is no answer; a topic that aiokafka forgot keeps the one it had."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=4)])
    member = asking(kafka, topic_prefix)
    assert member.consumer.partition_of("default") is None
    await member.start()
    await until(lambda: member.partitions == FOUR)
    known = member.consumer.partition_of("default")
    # What an error in a metadata response does.
    member.consumer._client._client.cluster._partitions.clear()
    assert member.consumer.partition_of("default") == known is not None
    await member.stop()


# --- where a partition begins (C10) ---------------------------------------------------------------------------------------


async def test_a_new_group_begins_with_the_first_record_and_says_so(kafka: Cluster, topic_prefix: str) -> None:
    """Whatever stands on the topic already is read; the log says how much."""
    async with topic_of_four(kafka, topic_prefix) as write:
        await write(range(10))
        new = member(kafka, topic_prefix)
        with capture_logs() as logs:
            await new.start()
            await until(lambda: len(new.records) == 200)
        await new.stop()
    told = [line for line in logs if line["event"] == "consumer.begins_at_the_earliest"]
    assert sorted(line["partition"] for line in told) == [0, 1, 2, 3]
    assert {line["log_level"] for line in told} == {"warning"}
    assert sum(line["records"] for line in told) == 200


async def one_partition(cluster: Cluster, prefix: str, count: int) -> None:
    """``work`` with one partition and so many records."""
    await create_topics(cluster, prefix, [TopicPlan(name="work", partitions=1)])
    await write_more(cluster, prefix, range(count))


async def write_more(cluster: Cluster, prefix: str, numbers: range) -> None:
    """Further ones."""
    async with producing(cluster, prefix) as producer:
        await send_all(producer, [numbered("k", n) for n in numbers])


async def test_records_that_are_gone_are_an_alert_with_their_number(kafka: Cluster, topic_prefix: str) -> None:
    """Retention took what the group had not read: it begins at the earliest there is, and says how many are missing."""
    await one_partition(kafka, topic_prefix, 40)
    await set_position(kafka, f"{topic_prefix}g", f"{topic_prefix}work", 10)
    await delete_before(kafka, f"{topic_prefix}work", 25)
    late = member(kafka, topic_prefix)
    with capture_logs() as logs:
        await late.start()
        await until(lambda: len(late.records) >= 15)
    (alert,) = [line for line in logs if line["event"] == "consumer.records_gone"]
    assert (alert["log_level"], alert["position"], alert["earliest"], alert["gone"]) == ("error", 10, 25, 15)
    assert [record.offset for record in late.records] == list(range(25, 40))
    assert late.consumer.gone == 15
    await late.stop()
    assert await committed(kafka, f"{topic_prefix}g") == {0: 40}


async def test_records_that_go_under_our_hands_are_an_alert_too(kafka: Cluster, topic_prefix: str) -> None:
    """Also while the consumer runs; what is unfinished before the gap is still not committed past."""
    await one_partition(kafka, topic_prefix, 10)
    slow = member(kafka, topic_prefix, hold=True, max_unfinished=10)
    with capture_logs() as logs:
        await slow.start()
        await until(lambda: len(slow.records) == 10)
        await asyncio.sleep(0.3)  # it is paused now: nothing more is fetched
        await write_more(kafka, topic_prefix, range(10, 30))
        await delete_before(kafka, f"{topic_prefix}work", 20)
        for record in slow.records[1:]:
            slow.consumer.finish(record)
        await until(lambda: len(slow.records) >= 19)
    (alert,) = [line for line in logs if line["event"] == "consumer.records_gone"]
    assert (alert["position"], alert["gone"]) == (10, 10)
    assert [record.offset for record in slow.records[:19]] == [*range(10), *range(20, 29)]
    for record in slow.records[1:]:
        slow.consumer.finish(record)
    await slow.consumer.commit()
    assert await committed(kafka, f"{topic_prefix}g") == {}
    slow.consumer.finish(slow.records[0])
    await until(lambda: len(slow.records) == 20)
    slow.consumer.finish(slow.records[-1])
    await slow.stop()
    assert await committed(kafka, f"{topic_prefix}g") == {0: 30}


async def test_a_position_beyond_the_end_begins_anew(kafka: Cluster, topic_prefix: str) -> None:
    """The topic was made anew with fewer records: all of them are read, and committed although their offsets are lower."""
    await one_partition(kafka, topic_prefix, 5)
    await set_position(kafka, f"{topic_prefix}g", f"{topic_prefix}work", 1000)
    lost = member(kafka, topic_prefix)
    with capture_logs() as logs:
        await lost.start()
        await until(lambda: len(lost.records) == 5)
    (alert,) = [line for line in logs if line["event"] == "consumer.position_beyond_the_end"]
    assert (alert["log_level"], alert["position"], alert["records"]) == ("error", 1000, 5)
    await lost.stop()
    assert await committed(kafka, f"{topic_prefix}g") == {0: 5}


async def test_offsets_that_begin_again_are_committed_again(kafka: Cluster, topic_prefix: str) -> None:
    """Under a consumer that runs: what it finishes of the new log counts, although it had been further in the old one."""
    await one_partition(kafka, topic_prefix, 10)
    one = member(kafka, topic_prefix, hold=True)
    await one.start()
    await until(lambda: len(one.records) == 10)
    for record in one.records[:10]:
        one.consumer.finish(record)
    await one.consumer.commit()
    place = aiokafka.TopicPartition(f"{topic_prefix}work", 0)
    one.consumer._client.seek(place, 1000)  # as if the log had been that long
    await until(lambda: len(one.records) == 20)
    assert (one.consumer.unfinished, one.consumer.lag) == (10, 10)
    for record in one.records[10:13]:
        one.consumer.finish(record)
    await one.stop()
    assert await committed(kafka, f"{topic_prefix}g") == {0: 3}


async def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a consumer that runs: Kafka forgets the group's position with the topic."""
    monkeypatch.setattr("service.bus.kafka_consumer.METADATA", 2)
    await one_partition(kafka, topic_prefix, 20)
    constant = member(kafka, topic_prefix)
    await constant.start()
    await until(lambda: len(constant.records) == 20)
    await constant.consumer.commit()
    await delete_topic(kafka, f"{topic_prefix}work")
    await until(lambda: constant.told[-1][0] == "revoked")
    await one_partition(kafka, topic_prefix, 3)
    await until(lambda: len(constant.records) == 23)
    assert [record.offset for record in constant.records[20:]] == [0, 1, 2]
    await constant.stop()
    assert await committed(kafka, f"{topic_prefix}g") == {0: 3}


# --- what foreign producers write (C5) ------------------------------------------------------------------------------------


async def test_a_header_that_is_not_utf8_stops_nobody(kafka: Cluster, topic_prefix: str) -> None:
    """aiokafka cannot decode its batch; every record of it is delivered all the same, and what comes behind it too."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    topic = f"{topic_prefix}work"
    odd: Sequence[tuple[str, bytes | None]] = [(ODD, b"x"), ("fine", None)]
    async with foreign(kafka) as client:
        await write_batch(client, topic, [(b"k", b"%d" % n, odd if n == 3 else []) for n in range(6)])
        await write_batch(client, topic, [(None, None, odd), (b"k", b"7", [])])
        await write_batch(client, topic, [(b"k", b"8", [])])
        await write_batch(client, topic, [(b"k", b"%d" % n, odd) for n in range(3)], partition=1)
    one = member(kafka, topic_prefix)
    await one.start()
    await until(lambda: len(one.records) >= 12)
    await write_more_to(kafka, topic)
    await until(lambda: len(one.records) >= 13)
    await one.stop()
    first = [(record.offset, record.value) for record in one.records if record.partition == 0]
    assert first == [(n, None if n == 6 else b"%d" % n) for n in range(10)]
    assert [(record.offset, record.value) for record in one.records if record.partition == 1] == [
        (n, b"%d" % n) for n in range(3)
    ]
    assert await committed(kafka, f"{topic_prefix}g") == {0: 10, 1: 3}
    read = await read_topic(kafka, topic_prefix, "work", partitions=2)
    assert [(record.offset, record.value) for record in read if record.partition == 0] == first


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_batch_that_cannot_be_decoded_takes_nothing_away_from_others(
    kafka: Cluster, topic_prefix: str, *, waiting: bool
) -> None:
    """aiokafka forgets what it had collected of the other partitions, and has moved past it: whoever commits after that
    loses it. Whether the records wait when the consumer comes, or come while it waits.
    """
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=6)])
    topic, one = f"{topic_prefix}work", member(kafka, topic_prefix)
    for partition in range(6):
        await set_position(kafka, f"{topic_prefix}g", topic, 0, partition=partition)
    with capture_logs() as logs:
        if not waiting:
            await one.start()
            await until(lambda: bool(one.partitions))
        async with foreign(kafka) as client:
            for round_ in range(3):
                await asyncio.gather(*(_write_round(client, topic, partition, round_) for partition in range(6)))
                await asyncio.sleep(0.3)
        if waiting:
            await one.start()
        await until(lambda: len(one.records) >= 180)
        await one.stop()
    found = sorted((record.partition, record.offset, record.value) for record in one.records)
    assert found == [(partition, n, b"%d" % n) for partition in range(6) for n in range(30)]
    assert await committed(kafka, f"{topic_prefix}g") == dict.fromkeys(range(6), 30)
    assert [line for line in logs if line["event"] == "consumer.lost"] == []


async def test_what_cannot_be_decoded_in_the_middle_of_a_rebalance_skips_nothing(
    kafka: Cluster, topic_prefix: str
) -> None:
    """The positions before the fetch were those of another assignment: what was not finished then comes again."""
    await one_partition(kafka, topic_prefix, 10)
    one = member(kafka, topic_prefix, hold=True)
    await one.start()
    await until(lambda: len(one.records) == 10)
    client = one.consumer._client
    usual = client.getmany

    async def late(**options: Any) -> Any:
        client.getmany = usual
        await until(lambda: one.told[-1][0] == "assigned" and len(one.told) == 3)
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a header")

    client.getmany = late
    await asyncio.sleep(1.5)
    client._coordinator.request_rejoin()
    await until(lambda: len(one.records) == 20)
    assert [record.offset for record in one.records[10:]] == list(range(10))
    await one.stop()


async def _write_round(client: Any, topic: str, partition: int, round_: int) -> None:
    """Ten records; in two of the partitions aiokafka cannot decode them."""
    headers: Sequence[tuple[str, bytes | None]] = [(ODD, b"x")] if partition in (1, 4) else []
    records = [(b"k", b"%d" % (round_ * 10 + n), headers) for n in range(10)]
    await write_batch(client, topic, records, partition=partition)


async def test_a_batch_that_is_damaged_stops_its_own_partition_only(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an alert, once, and no reason to leave the group again and again."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    topic = f"{topic_prefix}work"

    async def damaged(client: Any, place: Any, position: int) -> Any:
        if place.partition == 0:
            raise CorruptRecordException
        return await read_plainly(client, place, position)

    monkeypatch.setattr("service.bus.kafka_consumer.read_plainly", damaged)
    one = member(kafka, topic_prefix)
    with capture_logs() as logs:
        await one.start()
        await until(lambda: bool(one.partitions))
        async with foreign(kafka) as client:
            await write_batch(client, topic, [(b"k", b"0", [(ODD, b"x")])])
            for n in range(10):
                await write_batch(client, topic, [(b"k", b"%d" % n, [])], partition=1)
                await asyncio.sleep(0.3)
        await until(lambda: len(one.records) >= 10)
        await one.stop()
    assert [record.value for record in one.records] == [b"%d" % n for n in range(10)]
    alerts = [line for line in logs if line["event"] == "consumer.batch_unreadable"]
    assert [(line["log_level"], line["partition"], line["position"]) for line in alerts] == [("error", 0, 0)]
    assert [line for line in logs if line["event"] == "consumer.lost"] == []
    assert await committed(kafka, f"{topic_prefix}g") == {1: 10}


async def write_more_to(cluster: Cluster, topic: str) -> None:
    """One more, with nothing odd about it."""
    async with foreign(cluster) as client:
        await write_batch(client, topic, [(b"k", b"9", [])])


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_of_kafka_is_read(kafka: Cluster, topic_prefix: str, compression: str) -> None:
    """Whatever a downstream system's producer is set to."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    producer = aiokafka.AIOKafkaProducer(**kafka.connection.options(), compression_type=compression)
    await producer.start()
    await producer.send_and_wait(f"{topic_prefix}work", b"x" * 10_000)
    await producer.stop()
    one = member(kafka, topic_prefix)
    await one.start()
    await until(lambda: len(one.records) == 1)
    await one.stop()
    assert one.records[0].value == b"x" * 10_000


async def test_what_a_producer_took_back_was_never_there(kafka: Cluster, topic_prefix: str) -> None:
    """The records of a transaction that was aborted are not delivered, those of one that was committed are."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    producer = aiokafka.AIOKafkaProducer(**kafka.connection.options(), transactional_id=topic_prefix)
    await producer.start()
    for value in (b"taken back", b"kept"):
        await producer.begin_transaction()
        await producer.send_and_wait(f"{topic_prefix}work", value)
        await (producer.abort_transaction() if value == b"taken back" else producer.commit_transaction())
    await producer.stop()
    await write_more(kafka, topic_prefix, range(1))
    one = member(kafka, topic_prefix)
    await one.start()
    await until(lambda: len(one.records) >= 2)
    await one.stop()
    assert [record.value for record in one.records] == [b"kept", b"0"]


# --- what is measured -----------------------------------------------------------------------------------------------------


async def test_unfinished_and_lag_are_known(kafka: Cluster, topic_prefix: str) -> None:
    """What was delivered and is not finished; and with it what was not even delivered yet."""
    await one_partition(kafka, topic_prefix, 100)
    one = member(kafka, topic_prefix, hold=True, max_unfinished=20)
    assert (one.consumer.unfinished, one.consumer.lag) == (0, 0)
    await one.start()
    await until(lambda: len(one.records) == 20)
    assert (one.consumer.unfinished, one.consumer.lag) == (20, 100)
    for record in one.records[:5]:
        one.consumer.finish(record)
    assert (one.consumer.unfinished, one.consumer.lag) == (15, 95)
    await one.stop()
    assert (one.consumer.unfinished, one.consumer.lag) == (0, 0)
