"""Kafka first, journal second: the one way in which records leave this program while Kafka is its bus. Decision 2 says why.

Each partition has a lane (``lane.py``). A record waits there in memory until Kafka has acknowledged it. Where that takes
longer than the deadline, or the producer is not healthy, everything that waits in the lane goes to the journal, and so does
what arrives until the rows are nearly drained. No lane waits for another, but for two: what an earlier version left in one
stream for all goes first, and what came before a topic's partitions were known goes before what came after.

What comes in one turn of the loop, for whatever lanes, goes together, and what comes while the broker has not answered the
last request goes with the next one: nothing lingers, and batches are as large as the load makes them. Whoever offers much
in one turn has the first of it ``flush``-ed before the rest is there: they and the broker would else wait for each other by
turns.

"Not acknowledged in time" never means "not sent": what is in the air stays there, and when its acknowledgement comes after
all it removes the rows. After a restart it is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from service.bus.lane import Call, Delivery, Entry, Flight, Lane
from service.bus.outgoing import Outgoing
from service.bus.record_size import MAX_RECORD_BYTES, record_size
from service.bus.routing import SPOOL, Routing
from service.bus.spool import REFUSED, Rows, Spool
from service.bus.waiting import Done, durable
from service.core import dead_letters
from service.core.errors import CannotStore, EventProcessorError, JournalError, Overloaded, RecordRefused, whereabouts
from service.core.event import TOPICS
from service.core.message import Message

__all__ = ["REFUSED", "SPOOL", "BatchSender", "KafkaFirstPublisher"]

#: Bytes that wait in memory, in all lanes: beyond this arrivals go to the journal; beyond twice as much they are refused.
MOST_WAITING = 64 * 1024 * 1024

#: Seconds before something is looked at again that cannot go on now: at first, and (doubled each time) at most.
SOON = 0.01
LATER = 1.0

#: Seconds that a lane waits at most for the answer to others before it, so that its batch grows meanwhile.
HOLD = 0.02

#: Seconds for acknowledgements that come late, and then for the journal to remove their rows, when the publisher is stopped:
#: everything is durable then, and what is not acknowledged is sent again by the next run.
LAST_ANSWERS = 1.0
LAST_ROWS = 1.0

#: Seconds that Kafka has to be there at the start, where a journal is: whoever calls us meanwhile gets no answer.
AT_FIRST = 0.75

_DEAD_LETTERS = TOPICS["record"]


class BatchSender(Protocol):
    """What is asked of the Kafka producer."""

    @property
    def healthy(self) -> bool:
        """Connected, and with room for more: a batch given now will most likely be acknowledged in time."""

    def partitions(self, topic: str) -> int | None:
        """How many it has; None: not known (yet). The first question makes the producer look."""

    def largest(self, topic: str) -> int:
        """What the ``batched_size`` of a batch's records may be together."""

    def busy(self, topic: str, partition: int) -> bool:
        """A batch given now would have to wait until others are answered."""

    def flush(self) -> None:
        """What was given in this turn of the loop need not wait for its end."""

    async def start(self) -> None:
        """Begin; returns after the first attempt to connect, well or not. Cancelled, it goes on trying all the same."""

    def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Done when every in-sync replica has all of it; fails with RecordRefused only, and then has none of it.

        Cancelling it: it is not to be sent again; what is on its way may arrive.
        """

    async def stop(self, timeout: float = 5.0) -> None:
        """Wait for what is pending, so many seconds; the rest is cancelled."""


class KafkaFirstPublisher:
    """Publisher on Kafka with the journal as its spool; ``journal`` None: without one. For one event loop.

    ``deadline`` (s) is Kafka's alone; where the journal refuses as well, Kafka has as long again. ``letter`` makes the dead
    letter of a record that Kafka refuses, given why; None: whoever publishes such a record is told, and may know better.
    """

    def __init__(
        self,
        sender: BatchSender,
        journal: Rows | None,
        *,
        deadline: float = 2.0,
        letter: Callable[[Message, str], Message] | None = None,
    ) -> None:
        self._sender = sender
        self._deadline = deadline
        self._limit = deadline if journal is None else 2 * deadline
        self._letter = letter
        self._log = structlog.get_logger()
        self._loop = asyncio.get_running_loop()
        self._spool = self._spool_on(journal) if journal is not None else None
        self._lanes = Routing(sender.partitions if journal is None else self._partitions)
        self._bytes = 0
        self._ready: dict[Lane, bool] = {}  # in the next turn of the loop at the latest; whether something arrived
        self._expected = False  # that turn
        self._arriving = False  # something has arrived in this turn, and found this
        self._now, self._timestamp, self._admitting = 0.0, 0, False
        self._held: dict[Lane, None] = {}  # until an answer comes, or for HOLD seconds
        self._holding: asyncio.TimerHandle | None = None
        self._with_rows: set[Lane] = set()
        self._reading: set[Lane] = set()
        self._answers: dict[Delivery, asyncio.Future[None]] = {}
        self._deadlines: dict[Lane, asyncio.TimerHandle] = {}
        self._later: dict[Lane, asyncio.TimerHandle] = {}
        self._delays: dict[Lane, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False  # nothing more is taken
        self._grounded = False  # nothing more is sent
        self._quiet: asyncio.Future[None] | None = None

    # --- what others may know -----------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Kafka acknowledges."""
        return self._sender.healthy

    @property
    def accepting(self) -> bool:
        """An event would be stored now."""
        return self._sender.healthy or self._storing

    @property
    def _storing(self) -> bool:
        return self._spool is not None and self._spool.usable

    @property
    def spooled(self) -> int:
        """Rows in the journal that Kafka has not acknowledged."""
        return sum(lane.rows + lane.stranded for lane in self._lanes)

    @property
    def journalling(self) -> int:
        """Lanes that have such rows."""
        return len(self._with_rows)

    @property
    def oldest(self) -> float:
        """Age (s) of the oldest record that Kafka has not acknowledged, in memory or in the journal; 0.0 without any."""
        now, today = self._loop.time(), time.time()
        ages = [now - call.since for lane in self._lanes if (call := lane.oldest()) is not None]
        heads = [lane.head_timestamp for lane in self._lanes if (lane.rows or lane.stranded) and lane.head_timestamp]
        return max([0.0, *ages, *(today - head / 1000 for head in heads)])

    # --- from the beginning to the end --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin, whatever Kafka's state; what an earlier run left is sent first. Raises JournalError.

        Where a journal is, events need not wait for Kafka any longer than ``AT_FIRST``.
        """
        for lane in await self._spool.lanes() if self._spool is not None else ():
            self._with_rows.add(lane)
            self._lanes.adopt(lane)
        if self._with_rows:
            self._log.warning("publisher.spooling", rows_of_an_earlier_run=self.spooled)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if self._spool is None else min(AT_FIRST, self._deadline)):
                await self._sender.start()
        for lane in self._lanes:
            self._go_on(lane)

    async def stop(self, within: float = math.inf) -> None:
        """Take nothing more, and wait for the calls that run: each has its deadline. What is not in Kafka then is in the
        journal, and is sent by the next run.

        So that the last acknowledgements are waited for ``within`` so many seconds, calls may be told earlier that they failed.
        """
        self._closed = True
        try:
            for lane in self._lanes:
                self._arrived(lane, healthy=self._sender.healthy)
            await self._until_quiet(max(0.0, within - LAST_ANSWERS - LAST_ROWS))
            self._grounded = True
            await self._sender.stop(LAST_ANSWERS)
            await asyncio.sleep(0)  # acknowledgements that came at the very end are heard
            if self._spool is not None:
                await self._spool.stop(LAST_ROWS)
        finally:
            self._grounded = True
            for timer in (*self._deadlines.values(), *self._later.values(), self._holding):
                if timer is not None:
                    timer.cancel()
            for task in self._tasks:
                task.cancel()

    async def _until_quiet(self, longest: float) -> None:
        if self._bytes:
            self._quiet = self._loop.create_future()
            await asyncio.wait({self._quiet}, timeout=min(self._limit + 1, longest))
        for lane in self._lanes:
            self._withdraw(lane.overdue(0, math.inf), CannotStore("the publisher was stopped"))

    # --- one call -----------------------------------------------------------------------------------------------------

    def offer(self, messages: Sequence[Message], done: Done) -> Call:
        """Take ``messages``; ``done`` is called once, after this has returned: with None when all of them are durable, which
        is acknowledged by every in-sync replica, or in the journal (fsync).

        One that Kafka refuses is durable as a dead letter. ``done`` is told CannotStore when neither could do it: then some
        may be durable all the same; RecordRefused for one that there can be no letter of. Raises CannotStore where that is
        known before; RecordRefused for one that is too large for any topic; UnicodeError for what cannot be encoded.
        """
        if self._closed:
            raise CannotStore("the publisher was stopped")
        call = self._take(messages, done)
        if not messages:
            self._loop.call_soon(self._tell, [call])
        return call

    def withdraw(self, offer: Call) -> None:
        """Nobody waits for it any more: its ``done`` is not called, and what is neither in the air nor in the journal is not
        sent.
        """
        offer.done = _nobody
        self._withdraw([offer])

    def flush(self) -> None:
        """What was offered in this turn of the loop need not wait for its end, unless all its brokers are busy: then what is
        offered until one of them has answered goes with it.
        """
        if not all(map(self._is_busy, self._ready)):
            self._depart()

    async def publish(self, messages: Sequence[Message]) -> None:
        """:meth:`offer` for those who wait: return once all of ``messages`` are durable, or raise what ``done`` is told."""
        if self._closed:
            raise CannotStore("the publisher was stopped")
        await self._published(messages)

    async def _published(self, messages: Sequence[Message]) -> None:
        if messages:
            await durable(partial(self._take, messages), self.withdraw)

    def _take(self, messages: Sequence[Message], done: Done) -> Call:
        if not self._arriving:
            self._first_arrives()
        call = Call(done, len(messages), self._now)
        entries: list[Entry] = []
        waiting = self._bytes
        for message in messages:
            lane, key = self._lanes.lane_for(message), message.key.encode()
            size = len(key) + len(message.value or b"") + lane.beside
            entry = Entry(message, self._timestamp, key, size, call, lane)
            if size > MAX_RECORD_BYTES or self._letter is None:
                self._refuse_too_large(entry)
            entries.append(entry)
            waiting += size
        if not (self._admitting or self.accepting):
            raise CannotStore("Kafka does not acknowledge, and there is no journal that could keep it")
        if waiting > MOST_WAITING and (waiting > 2 * MOST_WAITING or not self._storing):
            raise Overloaded("too many records wait to become durable")
        self._bytes = waiting
        call.entries = entries
        for entry in entries:
            if entry.lane is not None:
                entry.lane.add(entry)
                self._ready[entry.lane] = True
        return call

    def _refuse_too_large(self, entry: Entry) -> None:
        message, size = entry.message, entry.size
        if size > MAX_RECORD_BYTES and (own := record_size(message)) > MAX_RECORD_BYTES:
            raise RecordRefused(f"{own} bytes for {message.topic}: Kafka takes {MAX_RECORD_BYTES}")
        if self._letter is None and size > (largest := self._sender.largest(message.topic)):
            raise RecordRefused(f"{size} bytes for {message.topic}: it takes {largest}")

    def _durable(self, entries: Sequence[Entry]) -> list[Call]:
        """They are. The calls that have nothing else to wait for, which are to be told."""
        finished: list[Call] = []
        size = 0
        for entry in entries:
            call = entry.call
            if call is not None:
                entry.call = None
                size += entry.size
                call.missing -= 1
                if not call.missing:
                    finished.append(call)
        self._no_longer_wait(size)
        return finished

    def _withdraw(self, calls: Sequence[Call], error: Exception | None = None) -> None:
        """Nobody waits for them any more: what is neither in the air nor in the journal is not sent. Tell them ``error``."""
        lanes = dict[Lane, None]()
        for call in calls:
            for entry in call.entries:
                if entry.call is not None and entry.lane is not None:
                    entry.call = None
                    self._no_longer_wait(entry.size)
                    lanes[entry.lane] = None
        for lane in lanes:
            lane.withdraw()
        for lane in lanes:
            if lane.abandoned:
                self._recall(lane)
        self._tell(calls, error)

    def _no_longer_wait(self, size: int) -> None:
        self._bytes -= size
        if not self._bytes and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _tell(self, calls: Sequence[Call], error: Exception | None = None) -> None:
        """Last of all: they may come with more at once."""
        for call in calls:
            call.entries = ()
            try:
                call.done(error)
            except Exception as bug:  # noqa: BLE001 - of whoever offered it: the lane must not stand still because of it
                self._log.error("publisher.tell_crashed", error=type(bug).__name__, where=whereabouts(bug))

    # --- lanes --------------------------------------------------------------------------------------------------------

    def _partitions(self, topic: str) -> int | None:
        told = self._sender.partitions(topic)
        return told if self._spool is None else self._spool.partitions(topic, told)

    def _first_arrives(self) -> None:
        """What departs together, for whatever lane, needs to know this once."""
        self._now, self._timestamp, self._admitting = self._loop.time(), int(time.time() * 1000), self.accepting
        self._lanes.ask_again()
        self._expect()
        self._arriving = True

    def _soon(self, lane: Lane) -> None:
        """Go on with it in the next turn."""
        self._ready.setdefault(lane, False)
        self._expect()

    def _expect(self) -> None:
        if not self._expected:
            self._expected = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._expected = False
        self._depart()

    def _depart(self) -> None:
        """Whatever is ready."""
        self._arriving = False
        ready, self._ready = self._ready, {}
        healthy = self._sender.healthy
        for lane, arrived in ready.items():
            if arrived:
                self._arrived(lane, healthy=healthy)
            else:
                self._go_on(lane)
        self._sender.flush()

    def _arrived(self, lane: Lane, *, healthy: bool) -> None:
        if not lane.journalling and (not healthy or self._bytes > MOST_WAITING or self._held_up(lane)):
            lane.journalling = self._storing
        if lane not in self._deadlines:
            self._watch(lane)
        self._go_on(lane)

    def _held_up(self, lane: Lane) -> bool:
        before = self._lanes.before(lane)
        return before is not None and before.journalling

    def _go_on(self, lane: Lane, *, patient: bool = True) -> None:
        """Do whatever can be done for the lane now; ``patient``: its batch may grow while its broker is busy."""
        into_journal = lane.journalling and lane.waiting
        if into_journal and self._spool is not None:
            self._spool.append(lane) if self._storing else self._look_later(lane)
        if lane.flight is not None or self._grounded or self._lanes.before(lane) is not None:
            return
        if lane.empty:
            lane.journalling = False
            for other in self._lanes.emptied(lane):
                self._go_on(other)
        elif not self._lanes.leads_somewhere(lane):
            self._look_later(lane)
        elif lane.rows:
            self._read(lane)
        elif not (into_journal and self._storing) and not (patient and self._hold(lane)):
            self._send_front(lane)

    def _hold(self, lane: Lane) -> bool:
        """Whether its batch had better grow until the broker has answered what it has."""
        if not self._is_busy(lane):
            return False
        if self._holding is None:
            self._holding = self._loop.call_later(HOLD, self._hold_no_longer)
        self._held[lane] = None
        return True

    def _is_busy(self, lane: Lane) -> bool:
        return lane.partition is not None and self._sender.busy(lane.topic, lane.partition)

    def _hold_no_longer(self) -> None:
        self._holding = None
        held, self._held = self._held, {}
        for lane in held:
            self._go_on(lane, patient=False)

    def _look_later(self, lane: Lane) -> None:
        if lane in self._later or self._grounded:
            return
        delay = self._delays.get(lane, SOON)
        self._delays[lane] = min(2 * delay, LATER)
        self._later[lane] = self._loop.call_later(delay, self._look_again, lane)

    def _look_again(self, lane: Lane) -> None:
        del self._later[lane]
        self._go_on(lane)

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _watch(self, lane: Lane) -> None:
        """One timer for a lane, for its oldest."""
        if lane in self._deadlines or (oldest := lane.oldest()) is None:
            return
        due = oldest.since + self._deadline
        if due <= self._loop.time():
            due = oldest.since + self._limit
        self._deadlines[lane] = self._loop.call_at(due, self._due, lane)

    def _due(self, lane: Lane) -> None:
        del self._deadlines[lane]
        now = self._loop.time()
        if expired := lane.overdue(self._limit, now):
            self._withdraw(expired, CannotStore("Kafka did not acknowledge in time, and no journal could keep it"))
        late = (oldest := lane.oldest()) is not None and oldest.since + self._deadline <= now
        if late and self._spool is not None and not self._spool.failed:
            lane.journalling = True
        self._go_on(lane)
        self._watch(lane)

    # --- the journal --------------------------------------------------------------------------------------------------

    def _spool_on(self, journal: Rows) -> Spool:
        return Spool(journal, patience=self._deadline, appended=self._appended, refused=self._not_appended)

    def _appended(self, lane: Lane, offsets: Sequence[int]) -> None:
        finished = self._durable(lane.appended(offsets))
        if offsets[0] < lane.first and self._spool is not None:
            self._spool.trim(lane)  # acknowledged before the journal had it
        self._delays.pop(lane, None)
        if lane.rows:
            if not self._with_rows:
                self._log.warning("publisher.spooling", kafka_healthy=self.healthy)
            self._with_rows.add(lane)
        self._go_on(lane)
        self._tell(finished)

    def _not_appended(self, lane: Lane) -> None:
        if lane.abandoned:
            self._recall(lane)
        else:
            self._go_on(lane)

    def _rows_gone(self, lane: Lane) -> None:
        if lane.rows or lane not in self._with_rows:
            return
        self._with_rows.discard(lane)
        if not self.spooled:
            self._log.info("publisher.drained")

    def _read(self, lane: Lane) -> None:
        if lane not in self._reading and self._spool is not None:
            self._reading.add(lane)
            self._start(self._send_rows(lane, self._spool))

    async def _send_rows(self, lane: Lane, spool: Spool) -> None:
        end = lane.next
        try:
            entries, offsets = await spool.front(lane)
        except Exception as error:  # noqa: BLE001 - a lane that stood still in silence would keep its rows for ever
            self._not_read(lane, spool, error)
            return
        finally:
            self._reading.discard(lane)
        if self._grounded:
            return
        if not entries:
            lane.skip_rows(end)
            self._rows_gone(lane)
            self._go_on(lane)
            return
        lane.head_timestamp = entries[0].timestamp
        deliveries = self._lanes.deliveries(lane, entries)
        if count := sum(len(delivery.entries) for delivery in deliveries):
            self._take_off(lane, lane.depart(deliveries, rows_before=offsets[count - 1] + 1))
        else:
            self._look_later(lane)

    def _not_read(self, lane: Lane, spool: Spool, error: Exception) -> None:
        place = {"topic": lane.topic, "partition": lane.partition, "rows": lane.rows}
        if not isinstance(error, JournalError):
            self._log.error("publisher.read_crashed", error=type(error).__name__, where=whereabouts(error), **place)
        elif spool.failed:
            advice = "they stay in the journal, and are sent after a restart, later than what comes now"
            self._log.error("publisher.rows_unreadable", reason=str(error), advice=advice, **place)
            lane.strand()
            self._rows_gone(lane)
            self._go_on(lane)
            return
        else:
            self._log.error("publisher.read_failed", reason=str(error), **place)
        self._look_later(lane)

    # --- Kafka --------------------------------------------------------------------------------------------------------

    def _send_front(self, lane: Lane) -> None:
        self._take_off(lane, lane.depart(self._lanes.deliveries(lane, lane.front(self._sender.largest(lane.topic)))))

    def _take_off(self, lane: Lane, flight: Flight) -> None:
        self._delays.pop(lane, None)
        for delivery in flight.deliveries:
            self._send(lane, flight, delivery)

    def _send(self, lane: Lane, flight: Flight, delivery: Delivery) -> None:
        if lane.flight is not flight or self._grounded:
            return
        batch = delivery.batch(self._sender.largest(delivery.topic))
        answer = self._sender.send(delivery.topic, delivery.partition, batch)
        self._answers[delivery] = answer
        answer.add_done_callback(partial(self._answered, lane, flight, delivery))

    def _answered(self, lane: Lane, flight: Flight, delivery: Delivery, answer: asyncio.Future[None]) -> None:
        for held in self._held:
            self._soon(held)
        self._held.clear()
        error = None if answer.cancelled() else answer.exception()
        if answer.cancelled() or lane.flight is not flight:
            return
        del self._answers[delivery]
        if error is None:
            self._passed(lane, flight, delivery)
        elif not isinstance(error, RecordRefused):
            self._log.error("publisher.send_crashed", error=type(error).__name__, where=whereabouts(error))
            self._loop.call_later(LATER, self._send, lane, flight, delivery)
        elif (culprit := delivery.refused()) is None:
            self._send(lane, flight, delivery)
        else:
            self._start(self._bury(lane, flight, delivery, culprit, str(error)))

    def _passed(self, lane: Lane, flight: Flight, delivery: Delivery) -> None:
        finished = self._durable(delivery.passed())
        if not delivery.finished:
            self._send(lane, flight, delivery)
        elif flight.finished:
            self._land(lane)
        self._tell(finished)

    def _land(self, lane: Lane) -> None:
        if lane.landed() and self._spool is not None:
            self._spool.trim(lane)
            self._rows_gone(lane)
        if lane.partition is None or not lane.empty:
            self._soon(lane)
        else:
            lane.journalling = False

    def _recall(self, lane: Lane) -> None:
        """Nobody waits for what is in the air: it is not to be sent again."""
        for delivery in lane.flight.deliveries if lane.flight is not None else ():
            if (answer := self._answers.pop(delivery, None)) is not None:
                answer.cancel()
        self._land(lane)

    # --- what Kafka refuses -------------------------------------------------------------------------------------------

    async def _bury(self, lane: Lane, flight: Flight, delivery: Delivery, culprit: Entry, why: str) -> None:
        self._log.error("publisher.record_refused", topic=delivery.topic, partition=delivery.partition, reason=why)
        while lane.flight is flight:
            if await self._buried(culprit, why):
                break
            await asyncio.sleep(LATER)
        if lane.flight is flight:
            self._passed(lane, flight, delivery)

    async def _buried(self, entry: Entry, why: str) -> bool:
        """As a dead letter, else in the journal; whoever waits is told where there can be neither."""
        message, spool = entry.message, self._spool
        of_letter = message.topic == _DEAD_LETTERS
        if self._letter is not None and not of_letter and dead_letters.fits(message):
            if await self._written(self._letter, message, why):
                return True
        elif entry.call is not None and (spool is None or of_letter or self._letter is None):
            self._withdraw([entry.call], RecordRefused(why))
            return True
        return entry.call is None if spool is None else await spool.keep(message)

    async def _written(self, letter: Callable[[Message, str], Message], message: Message, why: str) -> bool:
        try:
            await self._published([letter(message, why)])
        except EventProcessorError as error:
            self._log.error("publisher.letter_failed", topic=message.topic, reason=str(error))
        except Exception as error:  # noqa: BLE001 - the lane must not stand still because of it
            self._log.error("publisher.letter_crashed", error=type(error).__name__, where=whereabouts(error))
        else:
            return True
        return False

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nobody(_: Exception | None) -> None:
    """Who does not wait any more."""
