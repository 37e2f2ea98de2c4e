"""The short way of batches: what it writes is what aiokafka would write, and what it cannot do aiokafka does."""

from __future__ import annotations

import asyncio
import gc
import inspect
import struct
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import pytest
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.structs import TopicPartition

from service.bus.kafka_client import KafkaClient, Timing
from service.bus.kafka_connection import Connection
from service.bus.kafka_express import Batch, Express, _read_next_at_once, _Request
from service.bus.kafka_producer import KafkaProducer
from service.bus.topics import TopicPlan
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, first_occurrences, numbered, outgoing, partitions, producing, read_topic
from tests.kafka.test_kafka_producer import until

PLACES = [TopicPartition("work", 0), TopicPartition("meetings", 3), TopicPartition("work", 1)]


def builder(count: int) -> BatchBuilder:
    """With so many records."""
    made = BatchBuilder(10_000, 0)
    for n in range(count):
        made.append(timestamp=n, key=b"k", value=b"v" * n, headers=[])
    return made


async def batches() -> dict[TopicPartition, Batch]:
    """Of two topics, in no order."""
    loop = asyncio.get_running_loop()
    return {place: Batch(place, builder(n + 1), loop.create_future(), told) for n, place in enumerate(PLACES)}


def told(_: asyncio.Future[Any]) -> None:
    """By nobody who minds."""


async def test_a_batch_is_one_of_aiokafka() -> None:
    """It has everything that aiokafka's own has, and one who is told."""
    ours = (await batches())[PLACES[0]]
    theirs = MessageBatch(PLACES[0], builder(1), float("inf"), 0)
    assert vars(ours).keys() == vars(theirs).keys() | {"told", "under_way"}
    ours.failure(ValueError("the sender died"))
    assert isinstance(ours.future.exception(), ValueError)


def test_the_books_are_kept_as_aiokafka_keeps_them() -> None:
    """With a new aiokafka ``Express._number`` and ``_landed`` are looked at again."""
    numbering, sending = inspect.getsource(MessageAccumulator._pop_batch), inspect.getsource(SendProduceReqHandler.do)
    assert "increment_sequence_number(batch.tp, batch.record_count)" in numbering
    assert "self._pending_batches.add(batch)" in numbering
    assert "response = await self._client.send(node_id, request)" in sending


async def test_the_request_is_that_of_aiokafka() -> None:
    """To the byte."""
    client = KafkaClient(Connection("127.0.0.1:1"), client_id="téster", timing=Timing(request=1.5), idempotent=True)
    express: Any = client._express
    given = await batches()
    encoded = b"".join(express._encoded(77, given))
    topics = [
        (topic, [(p, given[TopicPartition(topic, p)].get_data_buffer()) for p in found]) for topic, found in BY_TOPIC
    ]
    request = ProduceRequest_v7(None, -1, 1500, topics)
    expected = request.build_request_header(77, "téster").encode() + request.encode()
    assert encoded == struct.pack(">i", len(expected)) + expected
    await client.end()


BY_TOPIC = [("work", [0, 1]), ("meetings", [3])]


def answer(errors: dict[TopicPartition, int], number: int = 77) -> bytes:
    """As a broker encodes it, to the request of this number."""
    topics = [
        (topic, [(p, errors[TopicPartition(topic, p)], 5, -1, 0) for p in found if TopicPartition(topic, p) in errors])
        for topic, found in BY_TOPIC
    ]
    return bytes(struct.pack(">i", number) + ProduceResponse_v7(topics, 0).encode())


@pytest.mark.parametrize(
    ("errors", "all_written"),
    [
        (dict.fromkeys(PLACES, 0), True),
        (dict.fromkeys(PLACES, 0) | {PLACES[1]: 10}, False),  # one is refused
        (dict.fromkeys(PLACES, 0) | {PLACES[1]: 46}, False),  # a duplicate: aiokafka knows that this is well
        (dict.fromkeys(PLACES[:2], 0), False),  # one is not spoken of
        (dict.fromkeys(PLACES, 0) | {TopicPartition("work", 1): 0}, True),
    ],
)
async def test_only_a_good_answer_is_read_here(errors: dict[TopicPartition, int], all_written: bool) -> None:
    """Any other is as aiokafka reads it."""
    request = _Request(await batches())
    stream = BytesIO(answer(errors))
    assert request.parse_response_header(stream).correlation_id == 77
    found = request.decode(stream)
    assert (found is None) is all_written
    assert found is None or found == ProduceResponse_v7.decode(answer(errors)[4:])


@pytest.mark.parametrize("length", range(0, 60, 7))
async def test_what_is_no_answer_ends_the_connection(length: int) -> None:
    """As with aiokafka, whose connection is closed by any error of its reader."""
    with pytest.raises((struct.error, ValueError)):
        _Request(await batches()).decode(BytesIO(answer(dict.fromkeys(PLACES, 0))[4:][:length]))


# --- the next answer on a connection ------------------------------------------------------------------------------------


class Known(AIOKafkaConnection):  # type: ignore[misc] # aiokafka has no types
    """A connection to a server that need not be asked what it knows."""

    async def _do_version_lookup(self) -> None:
        """Nothing."""


@asynccontextmanager
async def asked(*numbers: int) -> AsyncIterator[tuple[Any, list[asyncio.Future[Any]]]]:
    """A connection with requests of these numbers, the next answer of which is to be read at once; and their futures."""
    others: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: others.append(writer), "127.0.0.1", 0)
    connection: Any = Known(*server.sockets[0].getsockname())
    await connection.connect()
    _read_next_at_once(connection)
    answers: list[asyncio.Future[Any]] = []
    for number in numbers:
        answers.append(asyncio.get_running_loop().create_future())
        connection._requests.append((number, _Request(await batches()), answers[-1]))
    try:
        yield connection, answers
    finally:
        await connection.close()
        server.close()
        for other in others:
            other.close()
            await other.wait_closed()


def frame(number: int, encoded: bytes | None = None) -> bytes:
    """The answer to this request, as it is sent; all is written."""
    encoded = answer(dict.fromkeys(PLACES, 0), number) if encoded is None else struct.pack(">i", number) + encoded
    return struct.pack(">i", len(encoded)) + encoded


def fed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What goes to the task that reads, from now on."""
    found, feed = list[bytes](), asyncio.StreamReader.feed_data

    def feeding(self: asyncio.StreamReader, data: bytes) -> None:
        found.append(data)
        feed(self, data)

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", feeding)
    return found


ONE, TWO = frame(1), frame(2)


@pytest.mark.parametrize(
    ("pieces", "for_the_task"),
    [
        pytest.param([ONE, TWO], TWO, id="whole and alone"),
        pytest.param([ONE + TWO], ONE + TWO, id="both at once"),
        pytest.param([ONE + TWO[:5], TWO[5:]], ONE + TWO, id="with a part of the next"),
        *(pytest.param([ONE[:n], ONE[n:], TWO], ONE + TWO, id=f"cut at {n}") for n in (1, 3, 4, 5, 30)),
    ],
)
async def test_only_an_answer_that_comes_whole_and_alone_is_read_at_once(
    pieces: list[bytes], for_the_task: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the one behind it is for the task again, as every other one; none is read twice or by nobody."""
    tasks = fed(monkeypatch)
    async with asked(1, 2) as (connection, answers):
        for piece in pieces:
            connection._protocol.data_received(piece)
        assert answers[0].done() is (for_the_task == TWO)
        async with asyncio.timeout(5):
            assert await asyncio.gather(*answers) == [None, None]
        assert not connection._requests
        assert connection.connected()
    assert b"".join(tasks) == for_the_task


@pytest.mark.parametrize(
    "sent", [frame(1, b"abc"), frame(1, b""), frame(7), frame(0)], ids=["too short", "empty", "of another", "of none"]
)
async def test_an_answer_that_cannot_be_read_ends_the_connection(sent: bytes) -> None:
    """At once or by the task: whoever waits hears of it."""
    async with asked(1, 2) as (connection, answers):
        connection._protocol.data_received(sent)
        async with asyncio.timeout(5):
            found = await asyncio.gather(*answers, return_exceptions=True)
        assert [isinstance(each, KafkaError) for each in found] == [True, True]
        assert not connection.connected()


async def test_a_connection_that_closes_before_its_answer_goes_without_the_collector() -> None:
    """Brokers come and go, and the collector comes seldom."""
    gc.collect()
    gc.disable()
    try:
        async with asked(1) as (connection, answers):
            gone = weakref.ref(connection)
            del connection
        assert isinstance(answers[0].exception(), KafkaError)
        await until(lambda: gone() is None)
    finally:
        gc.enable()


# --- on a broker ------------------------------------------------------------------------------------------------------


def inside(producer: KafkaProducer) -> tuple[Express, Any]:
    """The express, and aiokafka's producer."""
    client: Any = producer._client
    return client._express, client._kafka


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches of each request from now on."""
    requests, send = list[int](), Express._send

    def sending(self: Express, leader: int, given: dict[TopicPartition, Batch]) -> None:
        requests.append(len(given))
        send(self, leader, given)

    monkeypatch.setattr(Express, "_send", sending)
    return requests


@asynccontextmanager
async def producing_to_three(kafka: Cluster, topic_prefix: str) -> AsyncIterator[KafkaProducer]:
    """To the partitions of ``work``, of which each has its first record."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=3)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 0))]) for p in range(3)))
        yield producer


async def test_one_request_for_what_comes_in_one_turn(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And aiokafka's sender has nothing to do."""
    async with producing_to_three(kafka, topic_prefix) as producer:
        requests = counted(monkeypatch)
        _, theirs = inside(producer)
        monkeypatch.setattr(theirs._sender, "_send_produce_req", None)
        for n in range(1, 20):
            await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", n))]) for p in range(3)))
        assert requests == [3] * 19
        assert is_at_rest(producer)
    written = await read_topic(kafka, topic_prefix, "work", partitions=3)
    assert first_occurrences(written) == {f"k{p}": list(range(20)) for p in range(3)}
    assert len(written) == 60


async def test_what_is_flushed_does_not_wait_for_the_end_of_the_turn(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it in one request; and that turn's end, or another flush, sends nothing again."""
    async with producing_to_three(kafka, topic_prefix) as producer:
        requests = counted(monkeypatch)
        express, _ = inside(producer)
        for n in range(1, 6):
            sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", n))]) for p in range(3)]
            assert len(requests) == n - 1
            producer.flush()
            assert requests == [3] * n
            assert len(express.due) == 1
            producer.flush()
            await asyncio.gather(*sent)
        assert requests == [3] * 5
        assert is_at_rest(producer)
    written = await read_topic(kafka, topic_prefix, "work", partitions=3)
    assert first_occurrences(written) == {f"k{p}": list(range(6)) for p in range(3)}
    assert len(written) == 18


@pytest.mark.parametrize("after", [(0,), (1,), (0, 1)])  # to the same partition as after one that was withdrawn
@pytest.mark.parametrize("flushed", [False, True])
async def test_what_comes_after_a_flush_waits_for_the_answer(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, after: tuple[int, ...], flushed: bool
) -> None:
    """In the same turn, and flushed or not: nothing overtakes what was sent, and the short way is open again afterwards."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 0))]) for p in (0, 1)))
        requests = counted(monkeypatch)
        _, theirs = inside(producer)
        for n in range(1, 16, 3):
            first = producer.send("work", 0, [outgoing(numbered("k0", n))])
            producer.flush()
            second = [producer.send("work", p, [outgoing(numbered(f"k{p}", n + 1))]) for p in after]
            if flushed:
                producer.flush()
            await asyncio.sleep(0)
            assert len(theirs._message_accumulator._batches) == len(after)
            await asyncio.gather(first, *second)
            await until(lambda: is_at_rest(producer))
            await producer.send("work", 0, [outgoing(numbered("k0", n + 2))])
        assert requests == [1] * 10
        assert producer.replacements.total() == 0
    written = await read_topic(kafka, topic_prefix, "work", partitions=2)
    found = {key: [int(record.value or b"-1") for record in written if record.key == key] for key in ("k0", "k1")}
    assert found["k0"] == [n for n in range(16) if n % 3 != 2 or 0 in after]
    assert found["k1"] == [0, *(range(2, 16, 3) if 1 in after else ())]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_flush_of_nothing(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, idempotent: bool
) -> None:
    """Before there is a client, with nothing taken, and where there is no short way."""
    requests = counted(monkeypatch)
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    producer = KafkaProducer(connection=kafka.connection, topic_prefix=topic_prefix, idempotent=idempotent)
    producer.flush()
    await producer.start()
    try:
        await partitions(producer, "work")
        producer.flush()
        await asyncio.sleep(0)
        assert requests == []
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        producer.flush()
    finally:
        await producer.stop()
    producer.flush()
    assert len(requests) <= idempotent
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": [0]}


async def test_what_waits_in_aiokafka_s_queue_can_be_withdrawn(kafka: Cluster, topic_prefix: str) -> None:
    """It would be queued again behind newer ones, and be written after them."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        express, theirs = inside(producer)
        muted, place = theirs._sender._muted_partitions, TopicPartition(f"{topic_prefix}work", 0)
        muted.add(place)
        first = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await until(lambda: bool(theirs._message_accumulator._batches))
        withdrawn = producer.send("work", 0, [outgoing(numbered("k", 2))])
        await asyncio.sleep(0.02)
        withdrawn.cancel()
        await asyncio.sleep(0)
        muted.discard(place)
        express._wake_sender()
        await first
        await producer.send("work", 0, [outgoing(numbered("k", 3))])
        await until(lambda: is_at_rest(producer))
        assert producer.replacements.total() == 0
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": [0, 1, 3]}


async def test_a_good_answer_is_good_whatever_became_of_the_sender(kafka: Cluster, topic_prefix: str) -> None:
    """It dies while a request is under way: what that has written is not written again by the next client."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        express, theirs = inside(producer)
        leader = theirs.client.cluster.leader_for_partition(TopicPartition(f"{topic_prefix}work", 0))
        connection = theirs.client._conns[leader, ConnectionGroup.DEFAULT]
        answers, heard = list[Any](), connection._handle_frame
        connection._handle_frame = answers.append
        sent = producer.send("work", 0, [outgoing(numbered("k", 1))])
        producer.flush()
        theirs._message_accumulator.drain_by_nodes = None
        express._wake_sender()
        await until(lambda: theirs._message_accumulator._exception is not None and bool(answers))
        for answer in answers:
            heard(answer)
        await asyncio.wait_for(sent, 5)
        await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", 2))]), 5)
        assert producer.replacements.total() == 1
    written = await read_topic(kafka, topic_prefix, "work")
    assert [int(record.value or b"-1") for record in written] == [0, 1, 2]


async def test_what_is_acknowledged_is_gone_at_once(kafka: Cluster, topic_prefix: str) -> None:
    """The collector finds no batch, whose records it would have kept until then."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        gc.collect()
        gc.disable()
        try:
            for n in range(10):
                await producer.send("work", 0, [outgoing(numbered("k", n))])
            await asyncio.sleep(0)
            left = [each for each in gc.get_objects() if isinstance(each, Batch)]
        finally:
            gc.enable()
    assert len(left) == 0


def busy(express: Express, theirs: Any) -> None:
    """The broker has something to answer all at once."""
    theirs._sender._in_flight.add(express._client.cluster.leader_for_partition(next(iter(express._leaving))))


def disconnected(_: Express, theirs: Any) -> None:
    """The broker has closed its connections."""
    for connection in theirs.client._conns.values():
        connection.close()


def ahead(express: Express, theirs: Any) -> None:
    """aiokafka's own sender has one of the partitions on its way, to the leader before this one."""
    theirs._sender._muted_partitions.add(next(iter(express._leaving)))


def nobody_leads(express: Express, theirs: Any) -> None:
    """The leader has gone, and the others know no other yet."""
    partitions = theirs.client.cluster._partitions[next(iter(express._leaving)).topic]
    for partition, known in partitions.items():
        partitions[partition] = known._replace(leader=-1)


@pytest.mark.parametrize("trouble", [busy, disconnected, ahead, nobody_leads])
async def test_what_cannot_leave_goes_the_longer_way(
    kafka: Cluster, topic_prefix: str, trouble: Callable[[Express, Any], None]
) -> None:
    """In order, once, and the short way is open again afterwards."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        express, theirs = inside(producer)
        sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", 1))]) for p in (0, 1)]
        assert len(express._leaving) == 2
        trouble(express, theirs)
        await asyncio.sleep(0)
        assert len(theirs._message_accumulator._batches) == 2
        theirs._sender._in_flight.clear()
        theirs._sender._muted_partitions.clear()
        express._wake_sender()
        await asyncio.wait_for(asyncio.gather(*sent), 10)
        await producer.send("work", 0, [outgoing(numbered("k0", 2))])
        assert not express.due
    found = first_occurrences(await read_topic(kafka, topic_prefix, "work", partitions=2))
    assert found == {"k": [0], "k0": [1, 2], "k1": [1]}


async def test_a_connection_that_is_lost_under_way(kafka: Cluster, topic_prefix: str) -> None:
    """aiokafka sends it again, with the same numbers: whether it was written or not, it stands there once."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 0))]) for p in (0, 1)))
        express, theirs = inside(producer)
        for n in range(1, 11):
            sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", n))]) for p in (0, 1)]
            await asyncio.sleep(0)
            assert express.due
            disconnected(express, theirs)
            await asyncio.wait_for(asyncio.gather(*sent), 10)
        await until(lambda: not express.due)
        assert is_at_rest(producer)
        assert producer.replacements.total() == 0
    written = await read_topic(kafka, topic_prefix, "work", partitions=2)
    assert first_occurrences(written) == {f"k{p}": list(range(11)) for p in (0, 1)}
    assert len(written) == 22


async def test_an_answer_that_nobody_understands(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of aiokafka's or ours in dealing with it ends this client, and another one goes on."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        monkeypatch.setattr(_Request, "decode", lambda *_: "nonsense")
        sent = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await until(lambda: producer.replacements.total() == 1)
        monkeypatch.undo()
        await asyncio.wait_for(sent, 10)
        assert list(producer.replacements) == ["died"]
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": [0, 1]}


async def test_an_answer_that_nobody_can_read(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the connection, not the client: aiokafka sends the same again and reads for itself, and nothing stays locked."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])

    def unreadable(*_: object) -> None:
        raise struct.error("too short")

    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k0", 0))])
        with monkeypatch.context() as patch:
            patch.setattr(_Request, "decode", unreadable)
            sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", 1))]) for p in (0, 1)]
            await asyncio.wait_for(asyncio.gather(*sent), 10)
        await until(lambda: is_at_rest(producer))
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 2))]) for p in (0, 1)))
        assert producer.replacements.total() == 0
    written = await read_topic(kafka, topic_prefix, "work", partitions=2)
    assert first_occurrences(written) == {"k0": [0, 1, 2], "k1": [1, 2]}
    assert len(written) == 5


def is_at_rest(producer: KafkaProducer) -> bool:
    """Nothing is on its way, nothing waits, and nothing is locked."""
    express, theirs = inside(producer)
    accumulator, sender = theirs._message_accumulator, theirs._sender
    books = (sender._in_flight, sender._muted_partitions, accumulator._pending_batches, accumulator._batches)
    return not any((*books, express.due, express._leaving))


async def test_an_answer_to_another_request(kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is out of step, and ends; what was sent is sent again with the same numbers."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    numbers, read = iter([999]), _Request.parse_response_header

    def misread(self: _Request, answer: BytesIO) -> _Request:
        found = read(self, answer)
        found.correlation_id = next(numbers, found.correlation_id)
        return found

    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        monkeypatch.setattr(_Request, "parse_response_header", misread)
        for n in (1, 2):
            await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", n))]), 10)
            await until(lambda: is_at_rest(producer))
        assert producer.replacements.total() == 0
    written = await read_topic(kafka, topic_prefix, "work")
    assert first_occurrences(written) == {"k": [0, 1, 2]}
    assert len(written) == 3


def refusing(error: Exception) -> Callable[..., None]:
    """A connection that takes nothing."""

    def writelines(*_: object) -> None:
        raise error

    return writelines


@pytest.mark.parametrize(
    ("error", "replaced"),
    [(OSError(32, "broken pipe"), 0), (RuntimeError("the handler is closed"), 0), (ValueError("a bug"), 1)],
)
async def test_a_request_that_cannot_be_written(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, error: Exception, replaced: int
) -> None:
    """A broken connection is aiokafka's to mend; after anything else this client is not trusted any more."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k0", 0))])
        _, theirs = inside(producer)
        with monkeypatch.context() as patch:
            for connection in theirs.client._conns.values():
                patch.setattr(connection._writer, "writelines", refusing(error))
            sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", 1))]) for p in (0, 1)]
            await asyncio.wait_for(asyncio.gather(*sent), 5)
        await until(lambda: is_at_rest(producer))
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 2))]) for p in (0, 1)))
        assert producer.replacements.total() == replaced
    written = await read_topic(kafka, topic_prefix, "work", partitions=2)
    assert first_occurrences(written) == {"k0": [0, 1, 2], "k1": [1, 2]}
    assert len(written) == 5


async def test_a_second_batch_of_a_partition_in_one_turn(kafka: Cluster, topic_prefix: str) -> None:
    """As after one that was withdrawn: it stays behind the first, though both are of the same turn."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    async with producing(kafka, topic_prefix) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        for n in range(1, 21, 2):
            first = producer.send("work", 0, [outgoing(numbered("k", n))])
            first.cancel()
            await producer.send("work", 0, [outgoing(numbered("k", n + 1))])
            await until(lambda: is_at_rest(producer))
        assert producer.replacements.total() == 0
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": list(range(21))}


async def test_an_end_with_a_request_under_way(kafka: Cluster, topic_prefix: str) -> None:
    """The next client goes on with its numbers: what the broker has had is not written twice."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    timing = Timing(request=20, slow=0.5, stall=1.0, backoff=0.1)
    async with producing(kafka, topic_prefix, timing=timing) as producer:
        await partitions(producer, "work")
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 0))]) for p in (0, 1)))
        express, theirs = inside(producer)
        for connection in theirs.client._conns.values():
            connection._handle_frame = lambda _: None  # its answers get lost
        sent = [producer.send("work", p, [outgoing(numbered(f"k{p}", 1))]) for p in (0, 1)]
        await asyncio.wait_for(asyncio.gather(*sent), 15)
        assert list(producer.replacements) == ["stalled"]
        assert not express.due
        await asyncio.gather(*(producer.send("work", p, [outgoing(numbered(f"k{p}", 2))]) for p in (0, 1)))
    written = await read_topic(kafka, topic_prefix, "work", partitions=2)
    assert first_occurrences(written) == {f"k{p}": [0, 1, 2] for p in (0, 1)}
    assert len(written) == 6


@pytest.mark.parametrize("withdrawn", ["as the next client comes", "before it can be given to it"])
async def test_the_numbers_of_a_withdrawn_batch_are_nobody_else_s(
    kafka: Cluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, withdrawn: str
) -> None:
    """The broker has it, and would take the next one for it: acknowledged, and not written."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=1)])
    timing = Timing(request=20, slow=0.5, stall=1.0, backoff=0.1)
    async with producing(kafka, topic_prefix, timing=timing) as producer:
        await partitions(producer, "work")
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        old: Any = producer._client
        for connection in inside(producer)[1].client._conns.values():
            connection._handle_frame = lambda _: None  # its answers get lost
        sent = producer.send("work", 0, [outgoing(numbered("k", 1))])
        with monkeypatch.context() as patch:
            if withdrawn == "as the next client comes":
                _then(old, sent.cancel)
            else:
                patch.setattr(KafkaClient, "hand_over", lambda *_: None)
                patch.setattr(KafkaClient, "look_up", _knows_of_nothing)
            await until(lambda: producer._client is not old)
            await asyncio.sleep(0.03)
            sent.cancel()
        await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", 2))]), 10)
        assert next(iter(producer.replacements)) == "stalled"
    assert first_occurrences(await read_topic(kafka, topic_prefix, "work")) == {"k": [0, 1, 2]}


def _then(client: Any, call: Callable[[], object]) -> None:
    """In the turn after its end."""
    end = client.end

    async def ended() -> None:
        await end()
        asyncio.get_running_loop().call_soon(call)

    client.end = ended


async def _knows_of_nothing(*_: object) -> None:
    raise UnknownTopicOrPartitionError
