"""The short way of batches through aiokafka, while all is well: aiokafka's own way without its tasks, its waits and its copies.

Whatever was taken for one broker by the end of a turn goes in one request, straight to the open connection. The books that
aiokafka keeps (sequence numbers, what is in flight, what is not answered) are kept as its sender keeps them. What cannot go
this way joins aiokafka's queue, and every answer but "all of it is written" is left to aiokafka, which tries again or gives up
as it would have done: nothing here judges an error.

What a slow connection has not taken yet is bounded as with aiokafka: a broker has one request to answer at a time, with one
batch of a partition, and loses its connection where that takes too long.
"""

from __future__ import annotations

import asyncio
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import structlog
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import RequestTimedOutError
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceRequest_v7 as Produce
from aiokafka.structs import TopicPartition

from service.core.errors import whereabouts

#: https://kafka.apache.org/protocol.html#The_Messages_Produce, version 7; brokers since 2.1 know it.
_SHORT, _INT = struct.Struct(">h"), struct.Struct(">i")
_HEADER = struct.Struct(">ihhi")  # length, what it asks for, version, number of the request
_TERMS = struct.Struct(">hhi")  # no transaction, acks, time-out (ms)
_RECORDS = struct.Struct(">ii")  # partition, length
_RESULT = struct.Struct(">ihqqq")  # partition, error, and three numbers that nobody needs

_NO_TRANSACTION, _ALL_IN_SYNC = -1, -1


class _Drained:
    """In place of a future that is done: nobody waits until a batch of ours is taken, for it is at once."""

    @staticmethod
    def done() -> bool:
        return True


#: As a future tells those who wait for it, once.
Told = Callable[[asyncio.Future[Any]], object]


class Batch(MessageBatch):  # type: ignore[misc] # aiokafka has no types
    """aiokafka's, made with less ado. ``told`` when its future is done: at once where all is well, else in the next turn."""

    def __init__(self, place: TopicPartition, builder: Any, future: asyncio.Future[Any], told: Told) -> None:
        self.told = told
        self.under_way = False
        self._builder = builder
        self._tp = place
        self._ttl = float("inf")
        self._linger_time = 0
        self._ctime = 0.0
        self.future = future
        self._msg_futures: list[Any] = []
        self._drain_waiter: Any = _Drained
        self._retry_count = 0

    def failure(self, exception: BaseException) -> None:
        """Not of what is under way: it may be written, whatever aiokafka's sender has died of. The answer says it."""
        if not self.under_way:
            super().failure(exception)


#: What goes in one request.
Batches = dict[TopicPartition, Batch]


class Express:
    """For one idempotent AIOKafkaProducer; ``timeout`` (s) for one request; each batch is shown to ``before_numbers``."""

    def __init__(
        self, kafka: Any, *, client_id: str, timeout: float, before_numbers: Callable[[MessageBatch], None]
    ) -> None:
        self._before_numbers = before_numbers
        self._client = kafka.client
        self._accumulator = kafka._message_accumulator
        self._sender = kafka._sender
        self._numbers = kafka._txn_manager
        self._timeout = timeout
        self._log = structlog.get_logger()
        self._terms = _text(client_id) + _TERMS.pack(_NO_TRANSACTION, _ALL_IN_SYNC, int(timeout * 1000))
        self._loop = asyncio.get_running_loop()
        self._leaving: Batches = {}  # in the next turn of the loop at the latest
        self._due: set[asyncio.Future[Any]] = set()
        self._ended = False

    @property
    def due(self) -> frozenset[asyncio.Future[Any]]:
        """What is not answered yet, or not dealt with."""
        return frozenset(self._due)

    def end(self) -> None:
        """What is not answered stays so."""
        self._ended = True
        for each in self._due:
            if isinstance(each, asyncio.Task):
                each.cancel()

    def leaves(self, place: TopicPartition) -> bool:
        """Another batch of the partition was taken, and nothing may be given for it until that has left."""
        return place in self._leaving

    def take(self, place: TopicPartition, builder: Any, told: Told) -> asyncio.Future[Any]:
        """Of a partition that has none that :meth:`leaves`. The future is done when every in-sync replica has the batch, and
        ``told`` is called.
        """
        if not self._leaving:
            self._loop.call_soon(self._leave)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._leaving[place] = Batch(place, builder, future, told)
        return future

    def flush(self) -> None:
        """Send what was taken in this turn, and wait for no more of it."""
        if self._leaving:
            self._leave()

    def _leave(self) -> None:
        leaving, self._leaving = self._leaving, {}
        try:
            for leader, batches in self._by_leader(leaving).items():
                if self._open(leader, batches):
                    self._send(leader, batches)
                else:
                    self._queue(batches)
        except Exception as error:  # noqa: BLE001 - whatever it is, another client does not have it
            self._give_up(error)

    def _by_leader(self, leaving: Batches) -> dict[int | None, Batches]:
        """As it is known now; aiokafka finds the others."""
        found: dict[int | None, Batches] = {}
        leader_of = self._client.cluster.leader_for_partition
        for place, batch in leaving.items():
            found.setdefault(leader_of(place), {})[place] = batch
        return found

    def _open(self, leader: int | None, batches: Batches) -> bool:
        """All is well, the broker has answered everything, and nothing waits in aiokafka's queue."""
        connection = self._client._conns.get((leader, ConnectionGroup.DEFAULT))
        if connection is None or not connection.connected() or leader in self._sender._in_flight or self._ended:
            return False
        oldest, newest = connection._versions.get(Produce.API_KEY, (0, 0))
        sender = self._sender.sender_task
        return (
            oldest <= Produce.API_VERSION <= newest
            and self._numbers.has_pid()
            and not (sender is None or sender.done())
            and not self._accumulator._batches
            and self._sender._muted_partitions.isdisjoint(batches)
        )

    def _give_up(self, error: Exception) -> None:
        """aiokafka's sender would have died of it, which is noticed."""
        self._log.error("producer.crashed", error=type(error).__name__, where=whereabouts(error))
        if (sender := self._sender.sender_task) is not None:
            sender.cancel()

    def _queue(self, batches: Batches) -> None:
        """aiokafka's sender takes them, when it can."""
        for place, batch in batches.items():
            batch.future.add_done_callback(batch.told)
            batch._drain_waiter = self._loop.create_future()
            self._accumulator._batches[place].append(batch)
        self._wake_sender()

    def _wake_sender(self) -> None:
        if not (waiter := self._accumulator.waiter()).done():
            waiter.set_result(None)

    # --- one request --------------------------------------------------------------------------------------------------

    def _send(self, leader: int | None, batches: Batches) -> None:
        self._number(batches)
        self._sender._in_flight.add(leader)
        self._sender._muted_partitions.update(batches)
        connection = self._client._conns[leader, ConnectionGroup.DEFAULT]
        answer: asyncio.Future[Any] = self._loop.create_future()
        timer = self._loop.call_later(self._timeout, self._too_late, connection, answer)
        answer.add_done_callback(partial(self._answered, leader, batches, timer))
        self._due.add(answer)
        number = connection._next_correlation_id()
        if not connection._requests:
            _read_next_at_once(connection)
        connection._requests.append((number, _Request(batches), answer))
        try:
            connection._writer.writelines(self._encoded(number, batches))
        except (OSError, RuntimeError):
            # The latter is uvloop's, where asyncio is silent; the answer is then that it was closed.
            connection.close(reason=CloseReason.CONNECTION_BROKEN)

    def _number(self, batches: Batches) -> None:
        """As ``MessageAccumulator._pop_batch`` does."""
        numbers = self._numbers
        producer, epoch = numbers.producer_id, numbers.producer_epoch
        for place, batch in batches.items():
            builder = batch._builder
            self._before_numbers(batch)
            builder._builder.set_producer_state(producer, epoch, numbers.sequence_number(place))
            numbers.increment_sequence_number(place, builder._relative_offset)
            batch._retry_count = 1
            batch.under_way = True
        self._accumulator._pending_batches.update(batches.values())

    def _encoded(self, number: int, batches: Batches) -> list[bytes]:
        """In parts: what the records take is not copied."""
        topics: dict[str, list[bytes]] = {}
        for (topic, partition), batch in batches.items():
            records = batch._builder._build()
            topics.setdefault(topic, []).extend((_RECORDS.pack(partition, len(records)), records))
        parts = [self._terms + _INT.pack(len(topics))]
        for topic, encoded in topics.items():
            parts += (_text(topic) + _INT.pack(len(encoded) // 2), *encoded)
        length = sum(map(len, parts)) + _HEADER.size - _INT.size
        return [_HEADER.pack(length, Produce.API_KEY, Produce.API_VERSION, number), *parts]

    def _too_late(self, connection: Any, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(RequestTimedOutError())
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)

    def _answered(
        self, leader: int | None, batches: Batches, timer: asyncio.TimerHandle, answer: asyncio.Future[Any]
    ) -> None:
        timer.cancel()
        self._due.discard(answer)
        if answer.exception() is None and answer.result() is None:
            self._accumulator._pending_batches.difference_update(batches.values())
            self._landed(leader, batches)
            for batch in batches.values():
                if not batch.future.done():
                    batch.future.set_result(None)
            for batch in batches.values():
                self._tell(batch)
            return
        for batch in batches.values():
            batch.under_way = False
            batch.future.add_done_callback(batch.told)
        if not self._ended:
            task = self._loop.create_task(self._leave_to_aiokafka(leader, batches, answer))
            self._due.add(task)
            task.add_done_callback(self._due.discard)

    def _tell(self, batch: Batch) -> None:
        try:
            batch.told(batch.future)
        except Exception as error:  # noqa: BLE001 - as asyncio does: the others are to be told all the same
            self._loop.call_exception_handler({"message": "who waits for a batch has failed", "exception": error})

    def _landed(self, leader: int | None, batches: Batches) -> None:
        self._sender._in_flight.discard(leader)
        self._sender._muted_partitions.difference_update(batches)
        if self._accumulator._batches:
            self._wake_sender()

    async def _leave_to_aiokafka(self, leader: int | None, batches: Batches, answer: asyncio.Future[Any]) -> None:
        for batch in batches.values():
            batch.future.add_done_callback(partial(self._no_longer_pending, batch))
        handler = SendProduceReqHandler(self._sender, batches)
        handler._client = _Sent(self._client, answer)
        try:
            await handler.do(leader)
        except Exception as error:  # noqa: BLE001 - whatever it is, another client does not have it
            self._give_up(error)
        else:
            self._landed(leader, batches)

    def _no_longer_pending(self, batch: Batch, _: asyncio.Future[Any]) -> None:
        self._accumulator._pending_batches.discard(batch)


class _Request:
    """What aiokafka's connection asks of a request when its answer comes."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.correlation_id = 0

    @property
    def RESPONSE_TYPE(self) -> _Request:  # noqa: N802 - aiokafka's name
        """Not an attribute: a ring of references would keep the records until the collector comes."""
        return self

    def parse_response_header(self, answer: BytesIO) -> _Request:
        (self.correlation_id,) = _INT.unpack(answer.read(_INT.size))
        return self

    def decode(self, answer: BytesIO) -> Any:
        """None where all of it is written, else aiokafka's own reading of it."""
        encoded = answer.read()
        written = {(topic, partition) for topic, partition, error in _results(encoded) if not error}
        return None if written == self._batches.keys() else Produce.RESPONSE_TYPE.decode(encoded)


def _read_next_at_once(connection: Any) -> None:
    """Nothing is on its way on it: let the next answer be read where it comes, if it comes whole and alone, and not by a task
    that has to be woken for its length and for the rest of it. Whatever else comes is for that task.
    """
    found = weakref.ref(connection)  # not the connection: a ring, if no answer ever comes

    def at_once(data: bytes) -> None:
        connection = found()
        if connection is None or connection._reader is None:
            return  # closed: nobody reads
        reader = connection._reader
        del reader.feed_data
        if len(data) - _INT.size == int.from_bytes(data[: _INT.size], "big"):
            with suppress(Exception):  # the task will meet it as well, and close the connection
                connection._handle_frame(data[_INT.size :])
                return
        reader.feed_data(data)

    connection._reader.feed_data = at_once


class _Sent:
    """aiokafka's client, for who thinks that the request has to be sent."""

    def __init__(self, client: Any, answer: asyncio.Future[Any]) -> None:
        self._client, self._answer = client, answer

    async def send(self, *_: object) -> Any:
        return await self._answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _results(encoded: bytes) -> Iterator[tuple[str, int, int]]:
    """Topic, partition and error code. Raises struct.error and UnicodeDecodeError for what is no answer."""
    (topics,) = _INT.unpack_from(encoded)
    position = _INT.size
    for _ in range(topics):
        (length,) = _SHORT.unpack_from(encoded, position)
        named = position + _SHORT.size
        start = named + length + _INT.size
        (count,) = _INT.unpack_from(encoded, named + length)
        position = start + count * _RESULT.size
        topic = encoded[named : named + length].decode()
        for partition, error, *_rest in _RESULT.iter_unpack(encoded[start:position]):
            yield topic, partition, error


@lru_cache(maxsize=256)
def _text(text: str) -> bytes:
    encoded = text.encode()
    return _SHORT.pack(len(encoded)) + encoded
