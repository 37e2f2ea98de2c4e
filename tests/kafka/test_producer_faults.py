"""The producer while something is wrong: Kafka away or frozen, a client that hangs, permissions that are missing.

Three brokers and minutes of it: ``python -m tests.kafka.producer_modes`` and ``tests/faults``.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from structlog.testing import capture_logs

from service.bus.kafka import KafkaProducer
from service.bus.kafka_client import KafkaClient
from service.bus.kafka_connection import Connection
from service.bus.kafka_producer import Timing
from service.bus.kafka_refusal import reason_of
from service.bus.record_size import BATCH_OVERHEAD, MAX_BATCH_BYTES
from service.bus.topics import TopicPlan
from service.core.errors import RecordRefused
from service.core.message import Message
from tests.kafka.harness import Broker, Cluster
from tests.kafka.records import (
    create_topics,
    first_occurrences,
    limit_batches,
    numbered,
    outgoing,
    partitions,
    producing,
    read_topic,
    send_all,
)
from tests.kafka.secured import SecuredKafka
from tests.kafka.test_kafka_producer import WORK, until

#: As by default, but quicker.
QUICK = Timing(request=1.0, connect=2.0, slow=0.5, stall=1.5, backoff=0.1, longest_backoff=0.3)


@pytest.fixture
def cluster(secured_kafka: SecuredKafka) -> Cluster:
    """The broker of this file: a test may kill or freeze it, and starts it again."""
    secured_kafka.cluster.wait_ready()
    return secured_kafka.cluster


def hang(producer: KafkaProducer, *, partition: int) -> None:
    """What a lost wake-up in aiokafka would do: the partition is never looked at again by this client."""
    client: Any = producer._client
    client._kafka._sender._muted_partitions.add(aiokafka.TopicPartition(producer._prefix + "work", partition))


def deafen(producer: KafkaProducer, *, reaches_kafka: bool = True) -> None:
    """From now on this client hears of no batch that it sends, nor does Kafka, unless it ``reaches_kafka``."""
    client: Any = producer._client
    send = client._kafka.client.send

    async def unheard(node: int, request: Any, **more: Any) -> Any:
        produce = isinstance(request, ProduceRequest)
        answer = await send(node, request, **more) if reaches_kafka or not produce else None
        return await asyncio.Event().wait() if produce else answer

    client._kafka.client.send = unheard
    client._express._answered = lambda *_: None
    if not reaches_kafka:
        client._express._encoded = lambda *_: []


def kill_sender(producer: KafkaProducer) -> None:
    """End the task that sends."""
    client: Any = producer._client
    client._kafka._sender.sender_task.cancel()


async def numbers(cluster: Cluster, prefix: str, *, partitions: int = 1) -> list[int]:
    """What the records on ``work`` say, repetitions too."""
    records = await read_topic(cluster, prefix, "work", partitions=partitions)
    return [int(record.value or b"-1") for record in records]


# --- a client that is of no more use ----------------------------------------------------------------------------------


def test_what_is_private_in_aiokafka_is_as_it_was() -> None:
    """There is no public way to any of it; with a new aiokafka it is looked at again, and decision 3 measured again."""
    assert version("aiokafka").startswith("0.14.")

    async def look() -> None:
        client = KafkaClient(Connection("127.0.0.1:1"), client_id="t", timing=QUICK, idempotent=True)
        kafka = client._kafka
        assert kafka._message_accumulator._batch_ttl == float("inf")
        assert "self._batch_ttl" in inspect.getsource(type(kafka._message_accumulator)._append_batch)
        assert kafka._sender.sender_task is None
        assert kafka._closed is False
        assert "self.client.force_metadata_update()" in inspect.getsource(type(kafka._sender)._sender_routine)
        assert kafka.client.force_metadata_update == client._update_in_turn
        await client.end()

    asyncio.run(look())


async def test_a_sequence_that_broke(cluster: Cluster, topic_prefix: str) -> None:
    """A refused batch has used up its sequence numbers: aiokafka would never get the partition any further (its #1017)."""
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=2)])
    large = outgoing(Message(topic="work", key="k", value=b"9" * 5000, partition_by="k"))
    with capture_logs() as logs:
        async with producing(cluster, topic_prefix) as producer:
            await partitions(producer, "work")
            await producer.send("work", 0, [outgoing(numbered("k", 0))])
            await limit_batches(cluster, f"{topic_prefix}work", 2000)
            with pytest.raises(RecordRefused):
                await producer.send("work", 0, [large])
            async with asyncio.timeout(5):
                await producer.send("work", 0, [outgoing(numbered("k", 1))])
                await producer.send("work", 0, [outgoing(numbered("k", 2))])
            assert producer.replacements.total() == 1
    assert await numbers(cluster, topic_prefix) == [0, 1, 2]
    assert [(line["event"], line["reason"]) for line in logs] == [("producer.replaced", "OutOfOrderSequenceNumber")]


async def test_a_sender_that_died(cluster: Cluster, topic_prefix: str) -> None:
    """It is noticed, and everything that is not acknowledged is sent by a new client, in order."""
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(cluster, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 0)])
        kill_sender(producer)
        sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", n)) for n in (1, 2, 3)]) for p in (0, 1)]
        async with asyncio.timeout(5):
            await asyncio.gather(*sent)
        assert producer.replacements.total() == 1
    records = await read_topic(cluster, topic_prefix, "work", partitions=2)
    assert first_occurrences(records) == {"k": [0], "k0": [1, 2, 3], "k1": [1, 2, 3]}


async def test_a_client_that_hangs(cluster: Cluster, topic_prefix: str) -> None:
    """What is unacknowledged for too long though its partition has a leader is sent by a new client; nothing is sent twice."""
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=2)])
    with capture_logs() as logs:
        async with producing(cluster, topic_prefix, timing=QUICK) as producer:
            await partitions(producer, "work")
            hang(producer, partition=0)
            stuck = producer.send("work", 0, [outgoing(numbered("stuck", n)) for n in range(3)])
            for n in range(100, 110):
                await producer.send("work", 1, [outgoing(numbered("k", n))])
            async with asyncio.timeout(8):
                await stuck
                await producer.send("work", 0, [outgoing(numbered("stuck", 3))])
            assert producer.replacements.total() == 1
    assert await numbers(cluster, topic_prefix, partitions=2) == [0, 1, 2, 3, *range(100, 110)]
    assert [line["reason"] for line in logs] == ["stalled"]


@pytest.mark.parametrize("direct", [True, False])
async def test_what_a_new_client_does_not_help_is_not_given_to_ever_more(
    cluster: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    """Each may cost a duplicate: the next one comes after twice the time, and then twice that."""
    await create_topics(cluster, topic_prefix, [WORK])
    send, never = KafkaClient.send, asyncio.Event()

    async def hangs(self: KafkaClient, *what: Any) -> None:
        await never.wait()
        await (await send(self, *what))

    async def sends(self: KafkaClient, *what: Any) -> asyncio.Future[None]:
        return asyncio.ensure_future(hangs(self, *what))

    def hand_over(self: KafkaClient, *what: Any) -> asyncio.Future[None] | None:
        *what_is_sent, told = what
        if not direct:
            return None
        taken = asyncio.shield(hangs(self, *what_is_sent))
        taken.add_done_callback(told)
        return taken

    timing = Timing(request=1.0, connect=2.0, slow=0.1, stall=0.2, backoff=0.1)
    async with producing(cluster, topic_prefix, timing=timing) as producer:
        await send_all(producer, [numbered("k", 0)])
        monkeypatch.setattr(KafkaClient, "send", sends)
        monkeypatch.setattr(KafkaClient, "hand_over", hand_over)
        waiting = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await asyncio.sleep(3)
        assert 2 <= producer.replacements.total() <= 4
        assert not producer.healthy
        never.set()
        await asyncio.wait_for(waiting, 5)
        assert producer.healthy
    assert await numbers(cluster, topic_prefix) == [0, 1]


async def test_what_was_cancelled_is_not_sent_again(cluster: Cluster, topic_prefix: str) -> None:
    """The next client gets what is still wanted, and only that; so does one that is stuck behind what was cancelled."""
    await create_topics(cluster, topic_prefix, [WORK])
    async with producing(cluster, topic_prefix, timing=QUICK) as producer:
        await partitions(producer, "work")
        hang(producer, partition=0)
        given_up = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await asyncio.sleep(0.1)
        given_up.cancel()
        await asyncio.sleep(0)
        assert producer.pending == 0
        await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", 2))]), 10)
        assert producer.replacements.total() == 1
    assert await numbers(cluster, topic_prefix) == [2]


@pytest.mark.parametrize("reaches_kafka", [True, False])
async def test_what_a_stalled_client_wrote_is_not_written_again(
    cluster: Cluster, topic_prefix: str, reaches_kafka: bool
) -> None:
    """Its answers got lost. The next one goes on with its producer id: Kafka knows what it has, and goes on counting."""
    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(cluster, topic_prefix, timing=QUICK) as producer:
        await partitions(producer, "work")
        for partition in (0, 1):
            await producer.send("work", partition, [outgoing(numbered("k", 10 * partition))])
        deafen(producer, reaches_kafka=reaches_kafka)
        batches = ([outgoing(numbered("k", n)) for n in range(first, first + 3)] for first in (1, 11))
        stuck = [producer.send("work", partition, batch) for partition, batch in enumerate(batches)]
        await asyncio.wait_for(asyncio.gather(*stuck), 10)
        for partition in (0, 1):
            await producer.send("work", partition, [outgoing(numbered("k", 10 * partition + 4))])
        assert producer.replacements == {"stalled": 1}
    assert await numbers(cluster, topic_prefix, partitions=2) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("reaches_kafka", [True, False])
async def test_what_follows_a_batch_that_was_withdrawn_is_not_taken_for_it(
    cluster: Cluster, topic_prefix: str, reaches_kafka: bool
) -> None:
    """Kafka goes by the numbers alone: another batch of as many records must not get those of one that it may have."""
    await create_topics(cluster, topic_prefix, [WORK])
    async with producing(cluster, topic_prefix, timing=QUICK) as producer:
        await send_all(producer, [numbered("k", 0)])
        deafen(producer, reaches_kafka=reaches_kafka)
        withdrawn = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await asyncio.sleep(0.2)
        withdrawn.cancel()
        await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", 2))]), 10)
        lost = [] if reaches_kafka else ["OutOfOrderSequenceNumber"]
        assert list(producer.replacements) == ["stalled", *lost]
    assert await numbers(cluster, topic_prefix) == ([0, 1, 2] if reaches_kafka else [0, 2])


async def test_nothing_of_an_old_client_is_left(cluster: Cluster, topic_prefix: str) -> None:
    """However often it is replaced: the same tasks run as at first, and none after ``stop``."""

    def running() -> Counter[str]:
        coroutines: list[Any] = [task.get_coro() for task in asyncio.all_tasks()]
        return Counter(coroutine.__qualname__ for coroutine in coroutines)

    await create_topics(cluster, topic_prefix, [TopicPlan(name="work", partitions=2)])
    before = running()
    async with producing(cluster, topic_prefix, timing=QUICK) as producer:
        await send_all(producer, [numbered("k", 0)])
        await until(lambda: producer.largest("work") > 0)
        at_first = running()
        for n in range(1, 4):
            hang(producer, partition=0)
            kill_sender(producer)
            await asyncio.gather(*(producer.send("work", p, [outgoing(numbered("k", n))]) for p in (0, 1)))
            assert producer.replacements.total() == n
        await until(lambda: running() == at_first)
    await until(lambda: running() == before)


async def test_a_connection_that_is_being_made_at_the_end_is_closed_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would stay open for as long as the process lives; and no new one is made afterwards."""
    make, made, ending = aiokafka.client.create_conn, asyncio.Event(), asyncio.Event()

    async def slowly(*where: Any, **how: Any) -> Any:
        connection = await make(*where, **how)
        made.set()
        await ending.wait()
        return connection

    client = KafkaClient(cluster.connection, client_id="t", timing=QUICK, idempotent=True)
    assert await client.connect([]) == ""
    kafka: Any = client._kafka.client
    before = kafka._get_conn
    monkeypatch.setattr(aiokafka.client, "create_conn", slowly)
    request = MetadataRequest([], allow_auto_topic_creation=False)
    asked = asyncio.create_task(client.ask(request))
    await asyncio.wait_for(made.wait(), 5)
    end = asyncio.create_task(client.end())
    await until(lambda: kafka._get_conn != before)
    ending.set()
    await end
    (outcome,) = await asyncio.wait_for(asyncio.gather(asked, return_exceptions=True), 5)
    assert not isinstance(outcome, BaseException) or isinstance(outcome, KafkaError)  # the broker may have been quicker
    with pytest.raises(KafkaError):
        await client.ask(request)
    assert not [connection for connection in kafka._conns.values() if connection.connected()]


async def test_what_waits_for_metadata_ends_with_its_client(cluster: Cluster, topic_prefix: str) -> None:
    """aiokafka's tasks wait for the next answer before they try again, for ever where nobody is left who asks."""
    client = KafkaClient(cluster.connection, client_id="t", timing=QUICK, idempotent=True)
    assert await client.connect([]) == ""
    kafka: Any = client._kafka.client
    await asyncio.sleep(0.2)  # what it asks for at the start is answered
    kafka._metadata_update = lambda *_: asyncio.Event().wait()
    kafka.force_metadata_update()
    await asyncio.sleep(0)
    waiting = asyncio.create_task(kafka._maybe_wait_metadata())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await client.end()
    assert (await asyncio.wait({waiting}, timeout=1))[0]
    assert kafka.force_metadata_update().cancelled()


# --- Kafka away or frozen ---------------------------------------------------------------------------------------------


async def test_an_outage_longer_than_every_timeout_costs_nothing_but_time(cluster: Cluster, topic_prefix: str) -> None:
    """What was sent before and meanwhile arrives once, in order, by the same client; one that hung all the while is replaced
    when there is one to be had.
    """
    (broker,) = cluster.brokers
    await create_topics(cluster, topic_prefix, [WORK])
    with capture_logs() as logs:
        async with producing(cluster, topic_prefix, timing=QUICK) as producer:
            await send_all(producer, [numbered("k", 0)])
            broker.kill()
            killed = producer.send("work", 0, [outgoing(numbered("k", n)) for n in (1, 2)])
            await asyncio.sleep(4)
            assert not producer.healthy
            broker.start()
            async with asyncio.timeout(20):
                await killed
                await producer.send("work", 0, [outgoing(numbered("k", 3))])
            assert producer.healthy
            assert producer.replacements.total() == 0
            hang(producer, partition=0)
            broker.pause()
            frozen = producer.send("work", 0, [outgoing(numbered("k", n)) for n in (4, 5)])
            await asyncio.sleep(4)
            assert not producer.healthy
            assert producer.replacements.total() == 0
            broker.resume()
            async with asyncio.timeout(20):
                await frozen
            assert producer.replacements.total() == 1
    assert await numbers(cluster, topic_prefix) == list(range(6))
    said = [line["event"] for line in logs]
    assert said == [
        "producer.unreachable",
        "producer.connected",
        "producer.unreachable",
        "producer.replaced",
        "producer.connected",
    ]


@asynccontextmanager
async def frozen(broker: Broker) -> AsyncIterator[None]:
    """While the block runs, or until it is resumed. A signal takes a moment, in which the broker may still answer; and one
    that was taken for dead is so until it has said that it is not.
    """
    broker.pause()
    await asyncio.sleep(0.5)
    try:
        yield
    finally:
        broker.resume()
        await asyncio.sleep(0.5)


async def test_stop_is_bounded(cluster: Cluster, topic_prefix: str) -> None:
    """With Kafka frozen it gives up what is pending, and returns; what comes later is given up at once."""
    await create_topics(cluster, topic_prefix, [WORK])
    async with producing(cluster, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 0)])
        async with frozen(cluster.brokers[0]):
            pending = producer.send("work", 0, [outgoing(numbered("k", 1))])
            await asyncio.sleep(0.1)
            started = time.monotonic()
            await producer.stop(timeout=1)
            assert time.monotonic() - started < 1 + 3 + 1
            assert pending.cancelled()
            assert producer.send("work", 0, [outgoing(numbered("k", 1))]).cancelled()


async def test_start_is_bounded(cluster: Cluster, topic_prefix: str) -> None:
    """With Kafka frozen it returns, and goes on trying."""
    (broker,) = cluster.brokers
    await create_topics(cluster, topic_prefix, [WORK])
    timing = Timing(connect=1.0, backoff=0.1, longest_backoff=0.5)
    async with frozen(broker):
        started = time.monotonic()
        async with producing(cluster, topic_prefix, timing=timing) as producer:
            assert time.monotonic() - started < 1 + 2
            assert not producer.healthy
            broker.resume()
            await until(lambda: producer.healthy)
            await send_all(producer, [numbered("k", 0)])


async def test_nobody_there_is_said_once(topic_prefix: str) -> None:
    """With nobody at the address ``start`` returns at once; what is sent waits, and is given up at the end."""
    producer = KafkaProducer(connection=Connection("127.0.0.1:1"), topic_prefix=topic_prefix, timing=QUICK)
    with capture_logs() as logs:
        await producer.start()
        assert not producer.healthy
        waiting = producer.send("work", 0, [outgoing(numbered("k", 0))])
        await asyncio.sleep(1)
        await producer.stop(timeout=0)
    assert waiting.cancelled()
    assert [(line["event"], line["reason"]) for line in logs] == [("producer.unreachable", "KafkaConnectionError")]


async def test_no_leader_is_no_reason_to_ask_for_metadata_all_the_time(cluster: Cluster, topic_prefix: str) -> None:
    """aiokafka's sender asks without a pause (3 000 times a second were counted, and a third of a core)."""
    await create_topics(cluster, topic_prefix, [WORK])
    async with producing(cluster, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 0)])
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        await admin.start()
        await admin.delete_topics([f"{topic_prefix}work"])
        await admin.close()
        pending = producer.send("work", 0, [outgoing(numbered("k", 1))])
        client: Any = producer._client
        await until(lambda: not client.leads(f"{topic_prefix}work", 0))
        connections = client._kafka.client._conns
        before = sum(connection._correlation_id for connection in connections.values())
        await asyncio.sleep(1.5)
        assert sum(connection._correlation_id for connection in connections.values()) - before < 40
        assert not pending.done()
        await create_topics(cluster, topic_prefix, [WORK])
        await asyncio.wait_for(pending, 10)


# --- permissions ------------------------------------------------------------------------------------------------------


async def test_permissions_that_are_missing(secured_kafka: SecuredKafka, topic_prefix: str) -> None:
    """Without any: not healthy, said once, tried again. With the right to write: it works, with Kafka's default limit where
    the topic's must not be read. Taken away while we run: said once, not healthy, and the batch goes when it is given back.
    """
    name = f"{topic_prefix}work"
    write = ("topic", f"{topic_prefix}*", "write")
    await create_topics(secured_kafka.cluster, topic_prefix, [WORK])
    await limit_batches(secured_kafka.cluster, name, 2000)
    timing = Timing(slow=0.5, stall=2.0, backoff=0.2, longest_backoff=0.5)
    connection = secured_kafka.connection("SASL_SSL", user="clerk")
    producer = KafkaProducer(connection=connection, topic_prefix=topic_prefix, timing=timing)
    with capture_logs() as logs:
        await producer.start()
        assert not producer.healthy
        assert producer.partitions("work") is None
        early = producer.send("work", 0, [outgoing(numbered("k", 0))])
        await asyncio.sleep(2.5)
        await secured_kafka.allow("clerk", write)
        await asyncio.wait_for(early, 10)
        await until(lambda: producer.partitions("work") == 1)
        assert producer.largest("work") == MAX_BATCH_BYTES - BATCH_OVERHEAD
        with pytest.raises(RecordRefused):
            await producer.send(
                "work", 0, [outgoing(Message(topic="work", key="k", value=b"9" * 5000, partition_by="k"))]
            )
        await producer.send("work", 0, [outgoing(numbered("k", 1))])

        await secured_kafka.forbid("clerk", write)
        late = producer.send("work", 0, [outgoing(numbered("k", 2))])
        await until(lambda: not producer.healthy)
        await asyncio.sleep(3)  # longer than a stall: no other client is tried
        assert not late.done()
        await secured_kafka.allow("clerk", write)
        await asyncio.wait_for(late, 10)
        await producer.stop()
    said = Counter((line["event"], line.get("reason")) for line in logs)
    assert said.pop(("producer.connected", None)) == 1
    assert said.pop(("producer.replaced", "OutOfOrderSequenceNumber")) == 2  # after a refusal, and after a permission
    acls = "add the ACLs, docs/reference/kafka.md has them all"
    assert said == {
        ("producer.unreachable", f"no permission to write to any topic; {acls}"): 1,
        ("producer.limit_unknown", reason_of(TopicAuthorizationFailedError())): 1,
        ("producer.held_up", reason_of(TopicAuthorizationFailedError(name))): 1,
    }
    assert await numbers(secured_kafka.cluster, topic_prefix) == [0, 1, 2]
