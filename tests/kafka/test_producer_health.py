"""When the producer says that it is healthy, and what makes it so again: with clients that answer when they are told to.

Nothing here may depend on somebody who risks a batch: where no journal is, the publisher gives nothing to an unhealthy one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError, OutOfOrderSequenceNumber
from structlog.testing import capture_logs

from service.bus import kafka_producer
from service.bus.kafka_client import KafkaClient, Timing
from service.bus.kafka_connection import Connection
from service.bus.kafka_express import Told
from service.bus.kafka_producer import KafkaProducer
from service.bus.outgoing import Outgoing
from service.bus.publisher import KafkaFirstPublisher
from service.core.errors import CannotStore, RecordRefused
from service.core.message import Message
from tests.kafka.records import numbered, outgoing
from tests.kafka.test_kafka_producer import until

TIMING = Timing(request=0.2, connect=1.0, slow=0.1, stall=0.6, backoff=0.05, longest_backoff=0.1)

#: Longer than ``slow``, shorter than ``stall``.
A_WHILE = 0.3


class Brokers:
    """What every StubClient talks to. ``wedged``: clients with such a number never hear of a batch again. ``direct``: batches
    are handed over, and no task waits for them.
    """

    def __init__(self, *, direct: bool) -> None:
        self.direct = direct
        self.known, self.room = asyncio.Event(), asyncio.Event()  # the topic is, and there is some for a batch
        self.known.set()
        self.room.set()
        self.bug: Exception | None = None  # of what hands over
        self.fails: dict[int, list[Exception]] = {}
        self.released = [asyncio.Event() for _ in range(100)]  # by the number of the client, where it is wedged
        self.up = asyncio.Event()
        self.up.set()
        self.clients: list[StubClient] = []
        self.wedged: set[int] = set()
        self.silent: set[int] = set()
        self.ends_badly: set[int] = set()
        self.written: list[int] = []
        self.topics = {"work": 2}

    def client(self, *_: Any, **__: Any) -> StubClient:
        """In the place of KafkaClient."""
        self.clients.append(StubClient(self, len(self.clients)))
        return self.clients[-1]


class StubClient:
    """A KafkaClient without aiokafka: what is sent while Kafka is away goes when it is back."""

    def __init__(self, brokers: Brokers, number: int) -> None:
        self.brokers, self.number = brokers, number
        self.spent: str | None = None
        self.acknowledged = False
        self.ended = False
        self.given = 0
        self.writing: set[asyncio.Task[None]] = set()

    @property
    def dead(self) -> bool:
        """It was let go of."""
        return self.ended

    async def connect(self, topics: Iterable[str]) -> str:
        """Whether somebody is there."""
        return "" if self.brokers.up.is_set() else "nobody there"

    def leads(self, topic: str, partition: int) -> bool:
        """As metadata say that are not renewed."""
        return True

    async def ask(self, request: Any) -> Any:
        """The metadata, or no limits."""
        if not self.brokers.up.is_set() or self.number in self.brokers.silent:
            raise KafkaConnectionError
        return Answer(self.brokers.topics)

    def hand_over(
        self, topic: str, partition: int, batch: Sequence[Outgoing], told: Told
    ) -> asyncio.Future[None] | None:
        """What there is room for."""
        if self.brokers.bug is not None:
            raise self.brokers.bug
        if not self.brokers.direct or self.spent is not None or not self.brokers.room.is_set():
            return None
        taken = self._taken(batch)
        taken.add_done_callback(told)
        return taken

    def busy(self, topic: str, partition: int) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing to do."""

    async def look_up(self, topic: str, partition: int) -> None:
        """Return when it is known."""
        await self.brokers.known.wait()

    async def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Take it when there is room."""
        await self.brokers.room.wait()
        return self._taken(batch)

    def _taken(self, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """As aiokafka's own future: what becomes of it concerns the client alone."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writing.add(task := asyncio.create_task(self._write(taken, batch)))
        task.add_done_callback(self.writing.discard)
        return asyncio.shield(taken)

    async def _write(self, taken: asyncio.Future[None], batch: Sequence[Outgoing]) -> None:
        try:
            await self._written(batch)
        except Exception as error:  # noqa: BLE001 - it is the future's
            taken.set_exception(error)
        else:
            taken.set_result(None)

    async def _written(self, batch: Sequence[Outgoing]) -> None:
        """When that is possible."""
        await self.brokers.up.wait()
        self.given += 1
        if self.number in self.brokers.wedged:
            await self.brokers.released[self.number].wait()
        if failures := self.brokers.fails.get(self.number):
            raise failures.pop(0)
        self.brokers.written += [int(each.message.value or b"-1") for each in batch]

    def take_over(self, other: StubClient, again: Iterable[Sequence[Outgoing]]) -> None:
        """There are no producer ids here."""

    async def end(self) -> None:
        """Let go of it."""
        self.ended = True
        if self.number in self.brokers.ends_badly:
            raise ValueError


class Answer:
    """Of Metadata, and of DescribeConfigs."""

    resources = ()

    def __init__(self, topics: dict[str, int]) -> None:
        self._topics = topics

    def to_object(self) -> dict[str, Any]:
        """As aiokafka gives it."""
        return {
            "topics": [
                {"topic": name, "error_code": 0, "partitions": [{}] * count} for name, count in self._topics.items()
            ]
        }


@pytest.fixture(params=[True, False], ids=["handed over", "by a task"])
def brokers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Brokers:
    """They are there."""
    brokers = Brokers(direct=request.param)
    monkeypatch.setattr(kafka_producer, "KafkaClient", brokers.client)
    return brokers


@asynccontextmanager
async def producing() -> AsyncIterator[KafkaProducer]:
    """A producer on them while the block runs, which knows the topic."""
    producer = KafkaProducer(connection=Connection("127.0.0.1:1"), topic_prefix="", timing=TIMING)
    await producer.start()
    try:
        producer.partitions("work")
        await until(lambda: producer.partitions("work") == 2)
        yield producer
    finally:
        await producer.stop(0)


async def sent_and_withdrawn(producer: KafkaProducer, number: int, *, partition: int = 0) -> None:
    """As the publisher does when nobody waits any longer."""
    answer = producer.send("work", partition, [outgoing(numbered("k", number))])
    await asyncio.sleep(0.01)
    answer.cancel()
    await asyncio.sleep(0)


# --- what was withdrawn -----------------------------------------------------------------------------------------------


async def test_a_silent_wedge_is_cured_though_nobody_waits(brokers: Brokers) -> None:
    """The batch is withdrawn long before another client would be tried: not healthy until then, and not sent by that one."""
    async with producing() as producer:
        brokers.wedged.add(0)
        await sent_and_withdrawn(producer, 1)
        assert producer.pending == 0
        await asyncio.sleep(A_WHILE)
        assert not producer.healthy
        await until(lambda: producer.healthy)
        assert producer.replacements == {"stalled": 1}
        await producer.send("work", 0, [outgoing(numbered("k", 2))])
    assert brokers.written == [2]


async def test_a_publisher_without_a_journal_gets_over_a_silent_wedge(brokers: Brokers) -> None:
    """Each call is refused long before a stall, and while it is not healthy none is even tried; then all is well again."""

    async def publish(publisher: KafkaFirstPublisher, number: int) -> bool:
        try:
            await publisher.publish([Message(topic="work", key="k", value=b"%d" % number, partition_by="k")])
        except CannotStore:
            return False
        return True

    async with producing() as producer:
        publisher = KafkaFirstPublisher(producer, None, deadline=0.3)
        brokers.wedged.add(0)
        async with asyncio.timeout(10):
            number = 0
            while not await publish(publisher, number):
                number += 1
                await asyncio.sleep(0.02)
        await publisher.stop()
    assert number > 1
    assert brokers.written == [number]


async def test_an_unhealthy_producer_recovers_by_the_late_acknowledgement(brokers: Brokers) -> None:
    """Kafka was away, and nothing that was withdrawn meanwhile makes it look healthy; the answer does, on the same client."""
    async with producing() as producer:
        await producer.send("work", 0, [outgoing(numbered("k", 0))])
        brokers.up.clear()
        await sent_and_withdrawn(producer, 1)
        await sent_and_withdrawn(producer, 2, partition=1)
        await until(lambda: not producer.healthy)
        for _ in range(30):  # twice as long as a stall: nobody else can be had
            await asyncio.sleep(0.05)
            assert not producer.healthy
        brokers.up.set()
        await until(lambda: producer.healthy)
        await asyncio.sleep(TIMING.slow * 2)
        assert producer.healthy
        assert not producer.replacements
    assert sorted(brokers.written) == [0, 1, 2]


async def test_a_later_acknowledgement_on_the_partition_clears_what_was_withdrawn(brokers: Brokers) -> None:
    """aiokafka keeps the order: whatever became of the one before, the partition goes on."""
    async with producing() as producer:
        brokers.wedged.add(0)
        await sent_and_withdrawn(producer, 1)
        brokers.wedged.clear()
        await producer.send("work", 0, [outgoing(numbered("k", 2))])
        await asyncio.sleep(TIMING.slow * 2)
        assert producer.healthy
        await asyncio.sleep(TIMING.stall)
        assert producer.healthy
        assert not producer.replacements


async def test_what_is_acknowledged_as_it_is_withdrawn_is_not_waited_for(brokers: Brokers) -> None:
    """Both in one turn of the loop: nothing is owed any more."""
    async with producing() as producer:
        brokers.up.clear()
        answer = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await asyncio.sleep(0.01)
        brokers.up.set()
        answer.cancel()
        await until(lambda: producer.healthy)
        await asyncio.sleep(TIMING.slow * 2)
        assert producer.healthy


async def test_what_is_refused_as_nobody_waits_is_owed_by_none(brokers: Brokers) -> None:
    """That is an answer, too."""
    async with producing() as producer:
        brokers.up.clear()
        await sent_and_withdrawn(producer, 1)
        brokers.fails[0] = [MessageSizeTooLargeError()]
        brokers.up.set()
        await asyncio.sleep(TIMING.stall * 2)
        assert producer.healthy
        assert not producer.replacements
    assert brokers.written == []


async def test_what_was_never_given_to_a_client_is_owed_by_none(brokers: Brokers) -> None:
    """It is withdrawn before anybody had it."""
    brokers.direct = False
    async with producing() as producer:
        brokers.wedged.add(0)
        producer.send("work", 0, [outgoing(numbered("k", 1))]).cancel()
        await asyncio.sleep(TIMING.stall * 2)
        assert producer.healthy
        assert not producer.replacements


async def test_what_waits_for_room_is_withdrawn_for_good(brokers: Brokers) -> None:
    """It would come behind newer ones of its partition, and be written after them; and the client owes no answer to it."""
    async with producing() as producer:
        brokers.room.clear()
        await sent_and_withdrawn(producer, 1)
        assert not list(producer._unanswered())
        brokers.room.set()
        await producer.send("work", 0, [outgoing(numbered("k", 2))])
        await asyncio.sleep(0.01)
        assert brokers.written == [2]


async def test_what_is_withdrawn_as_its_topic_gets_known_is_not_sent(brokers: Brokers) -> None:
    """Both in one turn of the loop."""
    brokers.direct = False
    async with producing() as producer:
        brokers.known.clear()
        answer = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await asyncio.sleep(0.01)
        brokers.known.set()
        answer.cancel()
        await asyncio.sleep(0.01)
        assert brokers.written == []


async def test_what_is_withdrawn_between_two_attempts_is_owed_by_none(brokers: Brokers) -> None:
    """The client has answered, and got nothing since."""
    async with producing() as producer:
        brokers.fails[0] = [KafkaConnectionError()]
        answer = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await until(lambda: not brokers.fails[0])
        await asyncio.sleep(0.01)
        answer.cancel()
        await asyncio.sleep(0)
        assert not list(producer._unanswered())
        await asyncio.sleep(TIMING.backoff * 2)
    assert brokers.written == []


# --- what fails -------------------------------------------------------------------------------------------------------


async def test_what_fails_is_tried_again_or_given_to_another_or_refused(brokers: Brokers) -> None:
    """As the error says; the others wait for nobody, and everything that was not refused is written once."""
    async with producing() as producer:
        brokers.fails[0] = [KafkaConnectionError(), KafkaConnectionError()]
        await producer.send("work", 0, [outgoing(numbered("k", 1))])
        brokers.fails[0] = [MessageSizeTooLargeError()]
        with pytest.raises(RecordRefused, match=r"^work: MessageSizeTooLargeError, 1 records"):
            await producer.send("work", 0, [outgoing(numbered("k", 2))])
        assert not producer.replacements
        brokers.fails[0] = [OutOfOrderSequenceNumber()]
        await asyncio.gather(*(producer.send("work", n - 3, [outgoing(numbered("k", n))]) for n in (3, 4)))
        assert producer.replacements == {"OutOfOrderSequenceNumber": 1}
        assert producer.pending == 0
    assert sorted(brokers.written) == [1, 3, 4]


async def test_the_answer_of_a_client_that_was_replaced_is_not_heard(brokers: Brokers) -> None:
    """The batch belongs to the next one by then: the first is not asked again, and its errors say nothing."""
    async with producing() as producer:
        brokers.wedged |= {0, 1}
        brokers.fails[0] = [KafkaConnectionError()]
        answer = producer.send("work", 0, [outgoing(numbered("k", 1))])
        await until(lambda: len(brokers.clients) == 2 and brokers.clients[1].given == 1)
        brokers.released[0].set()
        await asyncio.sleep(TIMING.backoff * 2)
        brokers.released[1].set()
        await answer
        assert [client.given for client in brokers.clients] == [1, 1]
        assert [client.acknowledged for client in brokers.clients] == [False, True]
    assert brokers.written == [1]


async def test_a_bug_in_what_hands_over_is_said_and_costs_nothing(brokers: Brokers) -> None:
    """The batch goes the longer way. It is said once for each place, or it might come with every batch; no value is said."""
    brokers.bug = ValueError("secret")
    with capture_logs() as logs:
        async with producing() as producer:
            for number in range(3):
                await producer.send("work", 0, [outgoing(numbered("k", number))])
            assert not producer.replacements
    assert brokers.written == [0, 1, 2]
    (line,) = logs
    assert (line["event"], line["error"], line["log_level"]) == ("producer.crashed", "ValueError", "error")
    assert line["where"][-1].endswith(" hand_over")
    assert "secret" not in str(line)


async def test_what_cannot_be_handed_over_for_its_size_is_no_bug(brokers: Brokers) -> None:
    """The longer way says it to whoever sent it."""
    brokers.bug = MessageSizeTooLargeError()
    brokers.fails[0] = [MessageSizeTooLargeError()]
    with capture_logs() as logs:
        async with producing() as producer:
            with pytest.raises(RecordRefused):
                await producer.send("work", 0, [outgoing(numbered("k", 1))])
    assert logs == []


# --- with nothing sent ------------------------------------------------------------------------------------------------


async def test_kafka_that_dies_before_anything_is_known(brokers: Brokers) -> None:
    """Nothing can be sent then, so that nothing is ever late: the questions that are not answered say it."""
    producer = KafkaProducer(connection=Connection("127.0.0.1:1"), topic_prefix="", timing=TIMING)
    await producer.start()
    try:
        assert producer.healthy
        brokers.up.clear()
        assert producer.partitions("work") is None
        await until(lambda: not producer.healthy)
        for _ in range(30):
            await asyncio.sleep(0.05)
            assert not producer.healthy
        brokers.up.set()
        await until(lambda: producer.healthy)
        assert producer.partitions("work") == 2
        assert not producer.replacements
    finally:
        await producer.stop(0)


async def test_a_client_that_answers_no_question_is_replaced(brokers: Brokers) -> None:
    """Else it would be unhealthy for ever: nothing is given to it that could be late."""
    brokers.silent.add(0)
    producer = KafkaProducer(connection=Connection("127.0.0.1:1"), topic_prefix="", timing=TIMING)
    await producer.start()
    try:
        producer.partitions("work")
        await until(lambda: not producer.healthy)
        await until(lambda: producer.healthy)
        await until(lambda: producer.partitions("work") == 2)
        assert producer.replacements == {"silent": 1}
    finally:
        await producer.stop(0)


async def test_no_client_that_answers_is_to_be_had(brokers: Brokers) -> None:
    """They connect, and answer nothing: each has its time, and is healthy until it has shown what it is worth."""
    brokers.silent.update(range(100))
    producer = KafkaProducer(connection=Connection("127.0.0.1:1"), topic_prefix="", timing=TIMING)
    await producer.start()
    try:
        producer.partitions("work")
        await asyncio.sleep(2)
        assert 1 <= producer.replacements["silent"] <= 3
    finally:
        await producer.stop(0)


async def test_acknowledgements_are_a_sign_of_life(brokers: Brokers) -> None:
    """Whoever writes is alive, whatever becomes of the questions: neither unhealthy nor replaced."""
    async with producing() as producer:
        brokers.silent.add(0)
        producer._facts.look_again()
        for number in range(30):
            await producer.send("work", 0, [outgoing(numbered("k", number))])
            assert producer.healthy
            await asyncio.sleep(0.04)
        assert not producer.replacements


# --- the end of a client ----------------------------------------------------------------------------------------------


async def test_a_client_that_ends_badly_is_replaced_all_the_same(brokers: Brokers) -> None:
    """Whatever its end raises, what it did not send is the next one's."""
    async with producing() as producer:
        brokers.wedged.add(0)
        brokers.ends_badly.add(0)
        await asyncio.wait_for(producer.send("work", 0, [outgoing(numbered("k", 1))]), 5)
        assert producer.replacements == {"stalled": 1}


async def test_a_dead_synchronizer_is_a_dead_client_that_can_be_let_go_of() -> None:
    """Without metadata aiokafka's sender waits for ever; its ``close`` raises what the task died of, and closes nothing."""

    async def died() -> None:
        raise KeyError

    client = KafkaClient(Connection("127.0.0.1:1"), client_id="t", timing=TIMING, idempotent=True)
    kafka = client._kafka
    kafka._sender._sender_task = asyncio.create_task(asyncio.sleep(60))
    kafka.client._sync_task = asyncio.create_task(asyncio.sleep(60))
    assert not client.dead
    kafka.client._sync_task.cancel()
    kafka.client._sync_task = asyncio.create_task(died())
    connection = Closing()
    kafka.client._conns[0, 0] = connection
    await asyncio.sleep(0)
    assert client.dead
    for _ in range(2):
        await client.end()
    assert connection.closed
    kafka.client._conns.clear()


class Closing:
    """An AIOKafkaConnection."""

    closed = False

    def close(self, reason: object = None) -> asyncio.Future[None]:
        """It is."""
        self.closed = True
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done
