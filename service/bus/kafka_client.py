"""One aiokafka producer from its making to its end, and (``kafka_express`` beside) all that is private in aiokafka and needed.

``stop()`` of aiokafka is never called: it waits for what is pending, for ever while Kafka is away. ``start()`` against
frozen brokers does not return, and is bounded. A builder that was sent once must not be sent again (the idempotent sender
dies of it, the plain one writes it twice): each try builds its own from the records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiokafka
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest

from service.bus.kafka_connection import Connection
from service.bus.kafka_express import Express, Told
from service.bus.kafka_record import headers
from service.bus.kafka_refusal import reason_of
from service.bus.outgoing import Outgoing
from service.bus.record_size import MAX_BATCH_BYTES

#: After these the client will not get this partition any further; a new one will. aiokafka takes the sequence number of a
#: batch before it knows that the batch was taken, and never asks for a new epoch (aio-libs/aiokafka#1017).
SPENT = (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
)


#: Seconds between two requests for metadata; aiokafka's own pause where it makes one.
UPDATE_PAUSE = 0.1


@dataclass(frozen=True)
class Timing:
    """Limits in seconds.

    ``request`` for one request to a broker; ``connect`` for ``start()``; ``slow``: with something unacknowledged for so
    long, or nobody answering, the producer is not healthy; ``stall``: after so long of that a new client is tried; ``backoff``
    between two attempts, doubled up to ``longest_backoff``; ``look`` between two looks at the topics.
    """

    request: float = 5.0
    connect: float = 8.0
    slow: float = 2.0
    stall: float = 15.0
    backoff: float = 1.0
    longest_backoff: float = 5.0
    look: float = 60.0


class KafkaClient:
    """An AIOKafkaProducer. ``spent``: why it can be of no more use, None while it can. Topics are named with their prefix."""

    def __init__(self, connection: Connection, *, client_id: str, timing: Timing, idempotent: bool) -> None:
        self.spent: str | None = None
        self.acknowledged = False
        self._end: asyncio.Task[None] | None = None
        self._timing = timing
        self._kafka: Any = connection.client(
            aiokafka.AIOKafkaProducer,
            client_id=client_id,
            acks="all",
            enable_idempotence=idempotent,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_BATCH_BYTES,
            request_timeout_ms=int(timing.request * 1000),
            metadata_max_age_ms=30_000,
        )
        # No option does that. A batch that expired has used up its sequence number, and would be overtaken in plain mode.
        self._kafka._message_accumulator._batch_ttl = float("inf")
        self._update = self._kafka.client.force_metadata_update
        self._next_update = 0.0
        self._later: asyncio.Task[Any] | None = None
        self._kafka.client.force_metadata_update = self._update_in_turn
        self._again: dict[aiokafka.TopicPartition, Any] = {}  # records that had numbers with the client before
        accumulator = self._kafka._message_accumulator
        self._pop_batch, accumulator._pop_batch = accumulator._pop_batch, self._pop_in_turn
        self._express = (
            Express(self._kafka, client_id=client_id, timeout=timing.request, before_numbers=self._take_back)
            if idempotent
            else None
        )

    async def connect(self, topics: Iterable[str]) -> str:
        """Connect and look up ``topics``; the problem, or ""."""
        try:
            async with asyncio.timeout(self._timing.connect):
                await self._kafka.start()
                if wanted := set(topics):  # none would mean all of the cluster's
                    await self._kafka.client.set_topics(wanted)
        except ClusterAuthorizationFailedError:  # the right to any topic gives the right to a producer id (KIP-679)
            return "no permission to write to any topic; add the ACLs, docs/reference/kafka.md has them all"
        except (KafkaError, TimeoutError) as error:
            return reason_of(error)
        return ""

    @property
    def ended(self) -> bool:
        """It was let go of."""
        return self._end is not None

    @property
    def dead(self) -> bool:
        """Nothing will be sent any more, whatever is given to it."""
        tasks = (self._sender_task, self._kafka.client._sync_task)  # without metadata the sender waits for ever
        return self.ended or any(task is None or task.done() for task in tasks)

    def leads(self, topic: str, partition: int) -> bool:
        """Some broker leads the partition, as far as this client knows."""
        leader = self._kafka.client.cluster.leader_for_partition(aiokafka.TopicPartition(topic, partition))
        return leader is not None and leader != -1

    async def ask(self, request: Any) -> Any:
        """The answer of any broker, on a connection beside that of the batches. Raises KafkaError."""
        client = self._kafka.client
        return await client.send(client.get_random_node(), request, group=ConnectionGroup.COORDINATION)

    async def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[Any]:
        """Return when aiokafka has it, for a partition that it was told to :meth:`look_up`: cancelled before, it is not sent.

        The future is done when every in-sync replica has it. Either raises KafkaError; retriable errors of Kafka are not raised
        but retried, for ever.
        """
        taken: asyncio.Future[Any] = await self._kafka.send_batch(self._built(batch), topic, partition=partition)
        return taken

    def hand_over(
        self, topic: str, partition: int, batch: Sequence[Outgoing], told: Told
    ) -> asyncio.Future[Any] | None:
        """:meth:`send` without a task, for where there is nothing to wait for: ``told`` is called when the future is done,
        which is not to be cancelled. None: there is something.
        """
        accumulator, place, express = self._kafka._message_accumulator, _place(topic, partition), self._express
        metadata = self._kafka.client.cluster._partitions.get(topic)
        if metadata is None or partition not in metadata or accumulator._batches.get(place):
            return None  # nobody knows of it, or the batch before is still there
        if self.spent is not None or self._end is not None or accumulator._exception is not None:
            return None
        if express is None:
            taken: asyncio.Future[Any] = accumulator._append_batch(self._built(batch), place).future
            taken.add_done_callback(told)
            return taken
        return None if express.leaves(place) else express.take(place, self._built(batch), told)

    def flush(self) -> None:
        """Send what was handed over in this turn of the loop now."""
        if self._express is not None:
            self._express.flush()

    def busy(self, topic: str, partition: int) -> bool:
        """The partition's leader has not answered the last request: what is given now has to wait for that."""
        in_flight = self._kafka._sender._in_flight
        return (
            bool(in_flight) and self._kafka.client.cluster.leader_for_partition(_place(topic, partition)) in in_flight
        )

    def take_over(self, other: KafkaClient, again: Iterable[Sequence[Outgoing]]) -> None:
        """Go on with the producer id of ``other``, which has ended, before anything is sent: what it wrote without hearing of
        it is recognised by the brokers when it is sent ``again`` (these batches and no others), and is not written twice
        (KIP-98). They go by the first and the last number of a batch, so one that is not sent again keeps its numbers.
        """
        mine, its = self._kafka._txn_manager, other._kafka._txn_manager
        if its is None:
            return
        mine._pid_and_epoch = its._pid_and_epoch
        mine._sequence_numbers.clear()
        mine._sequence_numbers.update(its._sequence_numbers)
        numbered = other._again | {each.tp: each._builder.records for each in other._numbered()}
        wanted = {id(batch) for batch in again}
        self._again = {place: records for place, records in numbered.items() if id(records) in wanted}

    def _take_back(self, batch: Any) -> None:
        """It is about to get numbers: its own ones again, where it is the next of its partition as it was with the client
        before. Only then: another batch with numbers that the brokers know would be taken for that one, and be lost.
        """
        if self._again and self._again.pop(batch.tp, None) is batch._builder.records:
            self._kafka._txn_manager._sequence_numbers[batch.tp] -= batch.record_count

    def _pop_in_turn(self, place: aiokafka.TopicPartition) -> Any:
        batch = self._kafka._message_accumulator._batches[place][0]
        if not batch.retry_count:
            self._take_back(batch)
        return self._pop_batch(place)

    def _numbered(self) -> list[Any]:
        """What has sequence numbers and no answer: one batch of a partition at most, aiokafka sends no other meanwhile."""
        accumulator = self._kafka._message_accumulator
        queued = (batch for queue in accumulator._batches.values() for batch in queue if batch.retry_count)
        return [batch for batch in (*accumulator._pending_batches, *queued) if not batch.future.done()]

    async def look_up(self, topic: str, partition: int) -> None:
        """Before aiokafka does: it would ask ten times a second for a topic that is missing, and might have it created.

        Raises KafkaError.
        """
        client = self._kafka.client
        if partition in (client.cluster.partitions_for_topic(topic) or ()):
            return
        answer = await self.ask(MetadataRequest([topic], allow_auto_topic_creation=False))
        if code := answer.topics[0][0]:
            raise for_code(code)(topic)
        await client.add_topic(topic)
        if partition not in (client.cluster.partitions_for_topic(topic) or ()):
            await client.force_metadata_update()  # it has new ones
        if partition not in (client.cluster.partitions_for_topic(topic) or ()):
            raise UnknownTopicOrPartitionError

    def _update_in_turn(self) -> asyncio.Future[Any]:
        """While a partition has no leader the sender asks without a pause: 3 000 requests a second were counted."""
        loop = asyncio.get_running_loop()
        if self.ended:
            never = loop.create_future()
            never.cancel()
            return never
        if (now := loop.time()) >= self._next_update:
            self._next_update = now + UPDATE_PAUSE
            updated: asyncio.Future[Any] = self._update()
            return updated
        if self._later is None or self._later.done():
            self._later = asyncio.create_task(self._update_later(self._next_update - now))
        return asyncio.shield(self._later)

    async def _update_later(self, pause: float) -> Any:
        await asyncio.sleep(pause)
        self._next_update = asyncio.get_running_loop().time() + UPDATE_PAUSE
        return await self._update()

    def _built(self, batch: Sequence[Outgoing]) -> Any:
        accumulator = self._kafka._message_accumulator
        builder = BatchBuilder(accumulator._batch_size, accumulator._compression_type)
        append, beside = builder._builder.append, headers(batch[0].message.topic)
        for place, record in enumerate(batch):
            if append(place, record.timestamp, record.key, record.message.value, beside) is None:
                raise MessageSizeTooLargeError(f"{len(batch)} records do not fit into {MAX_BATCH_BYTES} bytes")
        builder._relative_offset = len(batch)
        builder._closed = True
        builder.records = batch
        return builder

    async def end(self) -> None:
        """Let go of it, whatever is pending; within 2.6 s."""
        if self._end is None:
            self._end = asyncio.create_task(self._let_go())
        await asyncio.shield(self._end)

    async def _let_go(self) -> None:
        self._kafka._closed = True  # its __del__ asks
        due = self._express.due if self._express is not None else frozenset()
        if self._sender_task is not None:
            for patience in (1.0, 0.3):  # at first it waits for the answers that are due
                self._sender_task.cancel()
                await asyncio.wait({self._sender_task, *due}, timeout=patience)
                due = frozenset()
        if self._express is not None:
            self._express.end()
        if self._later is not None:
            self._later.cancel()
        client = self._kafka.client
        client._get_conn = _no_connection
        with suppress(TimeoutError):  # one that is being made is closed with the others
            async with asyncio.timeout(0.3), client._get_conn_lock:
                pass
        synchronizer = client._sync_task
        client._sync_task = None  # close() would raise what it died of, and close nothing
        with suppress(Exception):
            async with asyncio.timeout(1):
                if synchronizer is not None:
                    synchronizer.cancel()
                    await asyncio.gather(synchronizer, return_exceptions=True)
                await client.close()
        if client._md_update_fut is not None:  # nobody is left to set it, and what waits for it would never end
            client._md_update_fut.cancel()

    @property
    def _sender_task(self) -> asyncio.Task[None] | None:
        task: asyncio.Task[None] | None = self._kafka._sender.sender_task
        return task


@lru_cache(maxsize=1024)
def _place(topic: str, partition: int) -> aiokafka.TopicPartition:
    return aiokafka.TopicPartition(topic, partition)


async def _no_connection(*_: Any, **__: Any) -> None:
    """For what still wants one after the end."""
