"""The producer: supervised, in order for each partition, at least once.

Mode: ``acks=all`` without idempotence, and batches that never expire. aiokafka's idempotent producer never recovers from a
batch that expired or was refused, because its sequence number is spent (aio-libs/aiokafka#1017); the plain one has no
sequence to spoil. What it costs is a duplicate when an answer got lost, which the deterministic event ids make harmless.
Batches never expire, because an expired one would be overtaken by the one behind it. One batch of a partition is in
flight at a time, so first occurrences stay in the order of ``send``.

Whatever goes wrong (refused, stalled, dead sender, no answer to ``start()``) has one cure: a new producer, and everything
that was not acknowledged is sent once more, in order.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiokafka
import structlog
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)

from service.bus.kafka_connection import Connection
from service.bus.kafka_partitioner import partition_for
from service.bus.record_size import MAX_BATCH_BYTES, MAX_RECORD_BYTES, record_size
from service.core.errors import RecordRefused
from service.core.event import CONTENT_TYPE, TOPICS
from service.core.message import Message

#: Beyond this the producer is not healthy: nothing more is to be given to it.
MAX_PENDING_BYTES = 64 * 1024 * 1024

EVENT_TOPICS = frozenset(TOPICS.values())

_EVENT_HEADERS = (("content-type", CONTENT_TYPE.encode()),)
_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError, InvalidTimestampError)


@dataclass(frozen=True)
class Timing:
    """Limits in seconds.

    ``request`` for one request to a broker; ``connect`` for ``start()``; ``slow``: with something unacknowledged for so
    long the producer is not healthy; ``stall``: with nothing acknowledged for so long it is replaced; ``backoff`` between
    two producers, doubled up to ``longest_backoff``.
    """

    request: float = 5.0
    connect: float = 10.0
    slow: float = 2.0
    stall: float = 15.0
    backoff: float = 0.5
    longest_backoff: float = 5.0


@dataclass(eq=False)
class _Pending:
    message: Message
    timestamp: int
    size: int
    since: float
    acknowledged: asyncio.Future[None]


class KafkaProducer:
    """Gives records to Kafka until it has acknowledged them. For one event loop; ``start`` once, ``stop`` once."""

    def __init__(
        self,
        *,
        connection: Connection,
        topic_prefix: str,
        client_id: str = "webex-events",
        timing: Timing | None = None,
    ) -> None:
        self._connection = connection
        self._prefix = topic_prefix
        self._client_id = client_id
        self._timing = timing or Timing()
        self._log = structlog.get_logger()
        self._unacknowledged: dict[_Pending, None] = {}  # in order of send
        self._pending_bytes = 0
        self._unsent: deque[_Pending] = deque()
        self._one_by_one = 0  # so many of the next records go alone, to find the one that is refused
        self._connected = False
        self._unreachable = False
        self._life: _Life | None = None
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Connected, and nothing has been waiting for its acknowledgement for long."""
        oldest = next(iter(self._unacknowledged), None)
        in_time = oldest is None or time.monotonic() - oldest.since < self._timing.slow
        return self._connected and in_time and self._pending_bytes < MAX_PENDING_BYTES

    @property
    def pending(self) -> int:
        """Records that are not acknowledged yet."""
        return len(self._unacknowledged)

    async def start(self) -> None:
        """Begin; returns when the first attempt to connect has ended, well or not. It goes on trying."""
        self._supervisor = asyncio.create_task(self._supervise(), name="kafka-producer")
        tried = asyncio.create_task(self._tried.wait())
        await asyncio.wait({tried, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()

    def send(self, message: Message, *, timestamp: int | None = None) -> asyncio.Future[None]:
        """Take the record; the future is done when every in-sync replica has it.

        It fails with RecordRefused only; anything else is tried again for as long as it takes. Cancelling the future means
        "do not send it again": what is on its way may arrive. ``timestamp`` is in milliseconds since 1970.
        """
        pending = _Pending(
            message=message,
            timestamp=int(time.time() * 1000) if timestamp is None else timestamp,
            size=record_size(message),
            since=time.monotonic(),
            acknowledged=asyncio.get_running_loop().create_future(),
        )
        self._unacknowledged[pending] = None
        self._pending_bytes += pending.size
        self._unsent.append(pending)
        self._wake.set()
        return pending.acknowledged

    async def stop(self, timeout: float = 5.0) -> None:
        """Wait for what is pending, ``timeout`` seconds at most, then let go of the rest: its futures are cancelled."""
        waiting = [pending.acknowledged for pending in self._unacknowledged]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        for pending in list(self._unacknowledged):
            pending.acknowledged.cancel()
            self._forget(pending)

    # --- one producer after the other ---------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        delay = self._timing.backoff
        while True:
            self._life = life = _Life(self._new_client())
            try:
                reason = await self._live(life)
            except Exception as error:  # noqa: BLE001 - a supervisor: a new producer is the cure, whatever it was
                reason = _place_of(error)
                self._log.error("producer.crashed", reason=reason)  # not the traceback: it may show records
            finally:
                self._connected = False
                await life.end()
            self._say_why(life, reason)
            delay = self._timing.backoff if life.acknowledged else min(delay * 2, self._timing.longest_backoff)
            await asyncio.sleep(delay)

    def _say_why(self, life: _Life, reason: str) -> None:
        if life.connected:
            self._log.warning("producer.replaced", reason=reason, pending=self.pending)
        elif not self._unreachable:
            self._unreachable = True
            self._log.warning("producer.unreachable", reason=reason, pending=self.pending)

    def _new_client(self) -> Any:
        client = aiokafka.AIOKafkaProducer(
            **self._connection.options(),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=False,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_BATCH_BYTES,
            request_timeout_ms=int(self._timing.request * 1000),
            metadata_max_age_ms=30_000,
        )
        client._message_accumulator._batch_ttl = float("inf")  # no option does that
        return client

    async def _live(self, life: _Life) -> str:
        """Use one producer until it has to be replaced; the reason."""
        try:
            async with asyncio.timeout(self._timing.connect):
                await life.client.start()
        except (KafkaError, TimeoutError) as error:
            return type(error).__name__
        finally:
            self._tried.set()
        self._connected = life.connected = True
        if self._unreachable:
            self._unreachable = False
            self._log.info("producer.connected", pending=self.pending)
        self._unsent = deque(self._unacknowledged)
        while life.broken is None:
            await self._step(life)
        return life.broken

    async def _step(self, life: _Life) -> None:
        if self._unsent:
            await self._feed(life, self._unsent.popleft())
            return
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._wake.wait()
        if self._unacknowledged and time.monotonic() - life.last_progress > self._timing.stall:
            life.break_off("stalled")

    async def _feed(self, life: _Life, pending: _Pending) -> None:
        if pending.acknowledged.done():
            self._forget(pending)
            return
        if len(self._unacknowledged) == 1:
            life.last_progress = time.monotonic()  # nothing was waiting before this one
        try:
            future = await self._hand_over(life.client, pending)
        except KafkaError as error:
            self._failed(life, pending, error)
            return
        future.add_done_callback(lambda done: self._settled(life, pending, done))
        if self._one_by_one:
            self._one_by_one -= 1
            await self._wait_alone(life, future)

    async def _hand_over(self, client: Any, pending: _Pending) -> asyncio.Future[Any]:
        message = pending.message
        topic = self._prefix + message.topic
        partition = message.partition
        if partition is None:
            partition = partition_for(message.partition_by, len(await client.partitions_for(topic)))
        future: asyncio.Future[Any] = await client.send(
            topic,
            key=message.key.encode(),
            value=message.value,
            partition=partition,
            timestamp_ms=pending.timestamp,
            headers=list(_EVENT_HEADERS) if message.topic in EVENT_TOPICS else None,  # a tuple is refused
        )
        return future

    async def _wait_alone(self, life: _Life, future: asyncio.Future[Any]) -> None:
        life.alone = True
        done, _ = await asyncio.wait(
            {future, life.over}, timeout=self._timing.stall, return_when=asyncio.FIRST_COMPLETED
        )
        life.alone = False
        if not done:
            life.break_off("stalled")

    def _settled(self, life: _Life, pending: _Pending, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._failed(life, pending, error)
            return
        life.last_progress = time.monotonic()
        life.acknowledged = True
        self._forget(pending)
        if not pending.acknowledged.done():
            pending.acknowledged.set_result(None)

    def _failed(self, life: _Life, pending: _Pending, error: BaseException) -> None:
        if life is not self._life or life.broken is not None:
            return  # it is sent again anyway
        refused = isinstance(error, _REFUSALS)
        if refused and (life.alone or pending.size > MAX_RECORD_BYTES):
            self._refuse(pending, error)
            return
        if refused:  # a batch fails whole: the next life looks for the one at fault
            self._one_by_one = len(self._unacknowledged)
        life.break_off(type(error).__name__)
        self._wake.set()

    def _refuse(self, pending: _Pending, error: BaseException) -> None:
        self._log.error("producer.record_refused", topic=pending.message.topic, reason=type(error).__name__)
        self._forget(pending)
        if not pending.acknowledged.done():
            refusal = RecordRefused(f"{pending.message.topic}: {type(error).__name__}, {pending.size} bytes")
            pending.acknowledged.set_exception(refusal)

    def _forget(self, pending: _Pending) -> None:
        if pending in self._unacknowledged:
            del self._unacknowledged[pending]
            self._pending_bytes -= pending.size


class _Life:
    """One AIOKafkaProducer, from its making to its end."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.broken: str | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connected = False
        self.alone = False
        self.acknowledged = False
        self.last_progress = time.monotonic()

    def break_off(self, reason: str) -> None:
        """Send nothing more: what waits behind a failed batch must not overtake it."""
        self.broken = self.broken or reason
        if not self.over.done():
            self.over.set_result(None)
        self._cancel_sender()

    async def end(self) -> None:
        """Let go of it, whatever is pending: ``AIOKafkaProducer.stop()`` would wait for that, for ever while Kafka is away."""
        self.client._closed = True  # its __del__ asks
        sender = self._cancel_sender()
        if sender is not None:
            await asyncio.wait({sender}, timeout=1)  # requests in flight may still be answered
            sender.cancel()
            await asyncio.wait({sender}, timeout=1)
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(2):
                await self.client.client.close()

    def _cancel_sender(self) -> asyncio.Task[None] | None:
        sender: asyncio.Task[None] | None = self.client._sender.sender_task
        if sender is not None and not sender.done() and not sender.cancelling():
            sender.cancel()
        return sender


def _place_of(error: Exception) -> str:
    """What it was and where, without what was in the record."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.name}:{frame.lineno}"
