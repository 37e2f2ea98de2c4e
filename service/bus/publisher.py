"""Kafka first, journal second: the one way in which records leave this program while Kafka is its bus.

``publish`` waits for Kafka's acknowledgement, for the deadline at most, and goes to the journal's stream ``spool`` then, or
at once while the producer is not healthy or the spool holds anything. The spool is sent in order and trimmed as Kafka
acknowledges it; when it is empty again, publishing goes straight to Kafka.

Order for each partition: a record never overtakes one that was published before it. Both ways lead into one producer,
which sends in the order that it was given; nothing goes straight to it while an older record is in the spool or on its
way into it. When one record misses its deadline, all that wait go to the spool together, in their order.

"Not acknowledged in time" never means "not sent": a record that was already given to the producer stays with it, and its
row in the spool waits for that same acknowledgement instead of being sent twice. After a restart it is sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from service.bus.journal_file import Stored
from service.bus.record_size import MAX_RECORD_BYTES, record_size
from service.core.errors import CannotStore, JournalError, RecordRefused, whereabouts
from service.core.message import Message

#: Streams of the journal: what Kafka has not acknowledged yet, and what it will never take (kept for the operator).
SPOOL = "spool"
REFUSED = "refused"

#: Rows that are sent together; the last ones are sent while publishing waits, so that there is an end under any load.
DRAIN_ROWS = 500

#: Seconds before a journal that failed is asked again.
JOURNAL_RETRY = 5.0


class RecordSender(Protocol):
    """What the publisher asks of the Kafka producer."""

    @property
    def healthy(self) -> bool:
        """Records given to it now will most likely be acknowledged in time."""

    async def start(self) -> None:
        """Begin."""

    def send(self, message: Message, *, timestamp: int | None = None) -> asyncio.Future[None]:
        """Take a record; the future is done when it is durable and fails with RecordRefused only."""

    async def stop(self) -> None:
        """Let go of what is pending, within a bounded time."""


class Spool(Protocol):
    """What the publisher asks of the journal. All raise JournalError."""

    async def append(self, entries: Sequence[tuple[str, Message]]) -> list[int]:
        """Append to the streams, durable on return."""

    async def read(self, stream: str, start: int, limit: int) -> list[Stored]:
        """Records from ``start`` on."""

    async def trim(self, stream: str, before: int) -> int:
        """Remove what is before."""

    async def bounds(self, stream: str) -> tuple[int, int]:
        """First offset and next one."""


@dataclass(eq=False)
class _Publication:
    """One call of ``publish``; ``sent`` has a future for each message once it was given to the producer."""

    messages: tuple[Message, ...]
    durable: asyncio.Future[None]
    sent: tuple[asyncio.Future[None], ...] = ()
    missing: int = field(default=0)

    def give_to(self, producer: RecordSender) -> None:
        self.missing = len(self.messages)
        self.sent = tuple(producer.send(message) for message in self.messages)
        for future in self.sent:
            future.add_done_callback(self._acknowledged)

    def _acknowledged(self, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        self.missing -= 1
        if self.missing == 0 and not self.durable.done():
            self.durable.set_result(None)

    def give_up(self) -> None:
        """What is not sent yet is not to be sent any more."""
        for future in self.sent:
            future.cancel()


class KafkaFirstPublisher:
    """Publisher on Kafka with the journal as its spool; ``journal`` None: without one. ``deadline`` is in seconds."""

    def __init__(self, producer: RecordSender, journal: Spool | None, *, deadline: float = 2.0) -> None:
        self._producer = producer
        self._journal = journal
        self._deadline = deadline
        self._log = structlog.get_logger()
        self._publications: dict[_Publication, None] = {}  # running calls, in order
        self._bound_for_spool = 0
        self._appending = asyncio.Lock()
        self._rounds: set[asyncio.Task[None]] = set()
        self._first = 0  # of the spool: first row that is not acknowledged
        self._next = 0
        self._on_their_way: dict[int, asyncio.Future[None]] = {}  # row → what the producer has of it already
        self._more = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def healthy(self) -> bool:
        """Kafka acknowledges."""
        return self._producer.healthy

    @property
    def spooled(self) -> int:
        """Rows in the spool that Kafka has not acknowledged."""
        return self._next - self._first

    async def start(self) -> None:
        """Begin, whatever Kafka's state; rows of an earlier run are sent first. Raises JournalError."""
        if self._journal is not None:
            self._first, self._next = await self._journal.bounds(SPOOL)
            if self.spooled:
                self._log.warning("publisher.spooling", rows_of_an_earlier_run=self.spooled)
                self._more.set()
            self._drain = asyncio.create_task(self._keep_draining(self._journal), name="spool-drain")
        await self._producer.start()

    async def stop(self) -> None:
        """Take nothing more, wait for calls that are running (each has its deadline), then let go of Kafka.

        What is in the spool stays there for the next start.
        """
        self._closed = True
        if self._publications:
            await asyncio.wait({each.durable for each in self._publications}, timeout=self._deadline + 1)
        if self._rounds:
            await asyncio.wait(self._rounds)
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait({self._drain})
        await self._producer.stop()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once all of ``messages`` are durable: acknowledged by every in-sync replica, or in the journal (fsync).

        Raises CannotStore when neither could do it; RecordRefused for one that Kafka can never take (over 1 MiB).
        """
        _refuse_oversize(messages)
        if not messages:
            return
        if self._closed:
            raise CannotStore("the publisher was stopped")
        publication = _Publication(tuple(messages), asyncio.get_running_loop().create_future())
        self._publications[publication] = None
        try:
            await self._make_durable(publication)
        finally:
            del self._publications[publication]
            if not publication.durable.done():
                publication.durable.cancel()

    async def _make_durable(self, publication: _Publication) -> None:
        if self._straight_to_kafka():
            publication.give_to(self._producer)
        else:
            await self._to_spool(publication)
        await self._wait_for_kafka(publication)
        if not publication.durable.done():
            await self._to_spool(publication)
        if not publication.durable.done() and self._journal is not None and not publication.sent:
            publication.give_to(self._producer)  # the journal failed: Kafka is what is left
            await self._wait_for_kafka(publication)
        if not publication.durable.done():
            publication.give_up()
            raise CannotStore("Kafka did not acknowledge in time, and there is no journal that could keep it")

    def _straight_to_kafka(self) -> bool:
        return self._producer.healthy and not self.spooled and not self._bound_for_spool

    async def _wait_for_kafka(self, publication: _Publication) -> None:
        if publication.sent:
            await asyncio.wait({publication.durable}, timeout=self._deadline)

    async def _to_spool(self, publication: _Publication) -> None:
        """Append it, with everything else that waits; the next in line finds its work done.

        It goes on when the caller is cancelled: what the journal has taken must be known here.
        """
        if self._journal is None:
            return
        self._bound_for_spool += 1
        late = bool(publication.sent)  # Kafka has it, and did not acknowledge in time
        round_ = asyncio.create_task(self._spool_round(self._journal, publication, late=late))
        self._rounds.add(round_)
        round_.add_done_callback(self._rounds.discard)
        await asyncio.shield(round_)

    async def _spool_round(self, journal: Spool, publication: _Publication, *, late: bool) -> None:
        try:
            async with self._appending:
                waiting = [each for each in self._publications if not each.durable.done()]
                if publication not in waiting or (publication.sent and not late):
                    return  # somebody has done it for us
                if late or self.spooled or not self._producer.healthy:
                    await self._append(journal, waiting)
                else:  # the spool has become empty meanwhile
                    for each in waiting:
                        if not each.sent:
                            each.give_to(self._producer)
        except (JournalError, CannotStore) as error:
            self._log.error("publisher.journal_failed", reason=str(error))
        finally:
            self._bound_for_spool -= 1

    async def _append(self, journal: Spool, waiting: Sequence[_Publication]) -> None:
        offsets = await journal.append([(SPOOL, message) for each in waiting for message in each.messages])
        if not self.spooled:
            self._first = offsets[0]
            self._log.warning("publisher.spooling", kafka_healthy=self._producer.healthy)
        sent = [future for each in waiting for future in each.sent or (None,) * len(each.messages)]
        self._on_their_way |= {offset: future for offset, future in zip(offsets, sent, strict=True) if future}
        self._next = offsets[-1] + 1
        for each in waiting:
            if not each.durable.done():
                each.durable.set_result(None)
        self._more.set()

    # --- from the spool to Kafka --------------------------------------------------------------------------------------

    async def _keep_draining(self, journal: Spool) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            try:
                await self._drain_all(journal)
            except (JournalError, CannotStore) as error:
                self._log.error("publisher.journal_failed", reason=str(error))
            except Exception as error:  # noqa: BLE001 - a drain that dies in silence would keep the spool for ever
                self._log.error("publisher.drain_failed", error=type(error).__name__, where=whereabouts(error))
            else:
                continue
            self._more.set()
            await asyncio.sleep(JOURNAL_RETRY)

    async def _drain_all(self, journal: Spool) -> None:
        while self.spooled:
            if self.spooled > DRAIN_ROWS or not self._producer.healthy:
                await self._drain_some(journal, timeout=None)
            else:
                async with self._appending:
                    await self._drain_some(journal, timeout=self._deadline / 2)
            if not self.spooled:
                self._log.info("publisher.drained")

    async def _drain_some(self, journal: Spool, *, timeout: float | None) -> None:
        """Send the first rows and remove them once they are acknowledged; after ``timeout`` they stay on their way."""
        stored = await journal.read(SPOOL, self._first, min(DRAIN_ROWS, self.spooled))
        futures = [self._send_row(row) for row in stored]
        _, pending = await asyncio.wait(futures, timeout=timeout)
        if pending:
            return
        for row, future in zip(stored, futures, strict=True):
            if isinstance(future.exception(), RecordRefused):
                await journal.append([(REFUSED, row.message)])
                self._log.error("publisher.record_refused", topic=row.message.topic, offset=row.offset)
            self._on_their_way.pop(row.offset, None)
            self._first = row.offset + 1
        await journal.trim(SPOOL, self._first)

    def _send_row(self, row: Stored) -> asyncio.Future[None]:
        future = self._on_their_way.get(row.offset)
        if future is None:
            future = self._producer.send(row.message, timestamp=row.timestamp)
            self._on_their_way[row.offset] = future
        return future


def _refuse_oversize(messages: Sequence[Message]) -> None:
    for message in messages:
        if record_size(message) > MAX_RECORD_BYTES:
            raise RecordRefused(f"{record_size(message)} bytes for {message.topic}: Kafka takes {MAX_RECORD_BYTES}")
