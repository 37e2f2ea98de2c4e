"""A lane: the records for one partition in their order, the front of them in the journal. No I/O and no clock here.

::

    acknowledged │ rows in the journal │ in memory
                 └first            next┘
                 [──flight──]  always the front of what is left, and one at a time

Whatever arrives goes to the end. Rows are removed from the front and only once Kafka has acknowledged them, so nothing is
lost; what is sent is the front, and only one flight of a lane is in the air, so nothing overtakes. Records in the air may
go to the journal meanwhile (their acknowledgement is late): they stay the front, and landing removes their rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice, takewhile

import msgspec

from service.bus.outgoing import Outgoing, stamped, total_size
from service.bus.record_size import size_beside
from service.bus.waiting import Done
from service.core.message import Message

#: Records in a flight at most.
FLIGHT_RECORDS = 500

#: Rows in the first flight of a lane: nothing is known yet of their sizes, nor of whether Kafka takes them.
FIRST_PAGE = 16


class Call(msgspec.Struct, eq=False):
    """What one call of ``offer`` gave, and when (s): ``missing`` of its entries are not durable. ``done`` ends it, and there
    are none then: no garbage is left that only a collector finds.
    """

    done: Done
    missing: int
    since: float
    entries: Sequence[Entry] = ()


class Entry(Outgoing, eq=False):
    """A record on its way. ``call`` None: nobody waits for it, because it is durable, or because it was withdrawn. ``lane``
    None: it did not come with a call, but was read from the journal.
    """

    call: Call | None = None
    lane: Lane | None = None


def row(message: Message, timestamp: int) -> Entry:
    """An entry as it was read from the journal."""
    return Entry(*msgspec.structs.astuple(stamped(message, timestamp)))


class Delivery:
    """Entries for one partition, sent batch after batch. A batch that is refused is halved until the one at fault is alone."""

    __slots__ = ("_end", "_suspect", "done", "entries", "partition", "topic")

    def __init__(self, topic: str, partition: int, entries: Sequence[Entry]) -> None:
        self.topic = topic
        self.partition = partition
        self.entries = entries
        self.done = 0
        self._end = 0
        self._suspect = 0  # one of those before it is at fault

    @property
    def finished(self) -> bool:
        """Nothing is left to be sent."""
        return self.done == len(self.entries)

    def batch(self, largest: int) -> Sequence[Entry]:
        """What is to be sent next: one record, or as many as ``largest`` bytes hold."""
        if not self._end and total_size(self.entries) <= largest:
            self._end = len(self.entries)
            return self.entries
        most = len(self.entries) - self.done
        if self._suspect > self.done:
            most = max(1, (self._suspect - self.done) // 2)
        self._end = self.done + fitting(self.entries[self.done : self.done + most], largest)
        return self.entries[self.done : self._end]

    def passed(self) -> Sequence[Entry]:
        """The batch needs nothing more. Its entries."""
        begun, self.done = self.done, self._end
        return self.entries[begun : self._end] if self._end - begun < len(self.entries) else self.entries

    def refused(self) -> Entry | None:
        """Kafka refused the batch: the one at fault, where that is known, else a smaller batch is to be tried."""
        self._suspect = self._end
        return self.entries[self.done] if self._end - self.done == 1 else None


def fitting(entries: Sequence[Entry], largest: int) -> int:
    """How many of ``entries`` fit into ``largest`` bytes together; at least one."""
    if total_size(entries) <= largest:
        return len(entries)
    count = size = 0
    for entry in entries:
        size += entry.size
        if count and size > largest:
            break
        count += 1
    return count


class Flight:
    """The front of a lane, on its way to Kafka: some ``rows`` (the last one stands before ``after``), then some ``memory``."""

    __slots__ = ("after", "deliveries", "memory", "rows")

    def __init__(self, deliveries: Sequence[Delivery], *, rows: int = 0, after: int = 0, memory: int = 0) -> None:
        self.deliveries = deliveries
        self.rows = rows
        self.after = after
        self.memory = memory

    @property
    def finished(self) -> bool:
        """Nothing of it is left to be sent."""
        return all(delivery.finished for delivery in self.deliveries)

    @property
    def wanted(self) -> bool:
        """Somebody waits for one of its records."""
        return any(entry.call is not None for delivery in self.deliveries for entry in delivery.entries)


class Lane:
    """``partition`` None: of a topic whose count of partitions is not known yet. ``topic`` "": of all topics.

    ``first`` and ``next`` are offsets in the journal's stream; ``stranded`` counts rows that cannot be read in this process.
    ``page``: rows in its next flight, at most. ``journalling``: what arrives is to be appended to the journal; else it waits
    in memory, and with no more rows than one flight takes, that is behind them. ``beside`` are the bytes that each record takes
    in a batch beside its key and value.
    """

    def __init__(self, topic: str, partition: int | None, stream: str, *, first: int = 0, next_: int = 0) -> None:
        self.topic = topic
        self.partition = partition
        self.beside = size_beside(topic)
        self.stream = stream
        self.first = first
        self.next = next_
        self.page = FIRST_PAGE
        self.stranded = 0
        self.journalling = next_ > first
        self.flight: Flight | None = None
        self.head_timestamp = 0  # of the first row, as far as it is known; ms since 1970
        self._memory: deque[Entry] = deque()
        self.add = self._memory.append  # to the end
        self._appending = 0  # of the memory's front: on its way into the journal
        self._landed = 0  # ... was before that front, and landed before the journal answered
        self._withdrawn = False

    @property
    def rows(self) -> int:
        """In the journal, not acknowledged."""
        return self.next - self.first

    @property
    def waiting(self) -> bool:
        """Something is in memory."""
        if self._withdrawn:
            self._forget_withdrawn()
        return bool(self._memory)

    @property
    def empty(self) -> bool:
        """Nothing is left: neither rows nor in memory."""
        if self._withdrawn:
            self._forget_withdrawn()
        return self.first == self.next and not self._memory

    def oldest(self) -> Call | None:
        """The oldest one with something in memory."""
        self._forget_withdrawn()
        return next((entry.call for entry in self._memory if entry.call is not None), None)

    def overdue(self, patience: float, now: float) -> list[Call]:
        """The calls that have waited in memory for so many seconds."""
        calls = (entry.call for entry in self._memory if entry.call is not None)
        return list(dict.fromkeys(takewhile(lambda call: call.since + patience <= now, calls)))

    def withdraw(self) -> None:
        """Nobody waits for some that are not durable: what is neither in the air nor bound for the journal is not sent."""
        self._withdrawn = True

    def _forget_withdrawn(self) -> None:
        if not self._withdrawn:
            return
        self._withdrawn = False
        kept = max(self._appending, self.flight.memory if self.flight else 0)
        left = [entry for n, entry in enumerate(self._memory) if n < kept or entry.call is not None]
        self._memory.clear()
        self._memory.extend(left)

    # --- into the journal ---------------------------------------------------------------------------------------------

    def append(self, most: int, largest: int) -> list[Entry]:
        """What goes to the journal now, at most so many and so many bytes (or one); :meth:`appended` has to follow."""
        self._forget_withdrawn()
        entries = list(islice(self._memory, most))
        self._appending = fitting(entries, largest)
        return entries[: self._appending]

    def appended(self, offsets: Sequence[int]) -> list[Entry]:
        """The journal has them, at ``offsets``; those that became rows. Whatever landed meanwhile stands before ``first``."""
        left = offsets[self._landed :]
        moved = [self._memory.popleft() for _ in left]
        if not self.rows:
            self.first = left[0] if left else offsets[-1] + 1
            self.head_timestamp = moved[0].timestamp if moved else 0
        self.next = offsets[-1] + 1
        if self.flight and (airborne := min(self.flight.memory, len(moved))):
            self.flight.memory -= airborne
            self.flight.rows += airborne
            self.flight.after = left[airborne - 1] + 1
        self._appending = self._landed = 0
        return moved

    def not_appended(self) -> None:
        """The journal does not have them, or nobody knows: they stay in memory, where they are."""
        self._appending = self._landed = 0
        self._withdrawn = True  # those that were withdrawn meanwhile are bound for it no more

    # --- to Kafka -----------------------------------------------------------------------------------------------------

    def front(self, largest: int) -> list[Entry]:
        """What may be sent from memory in one batch. For where there are no rows."""
        if self._withdrawn:
            self._forget_withdrawn()
        entries = list(islice(self._memory, FLIGHT_RECORDS))
        count = fitting(entries, largest)
        return entries if count == len(entries) else entries[:count]

    def depart(self, deliveries: Sequence[Delivery], *, rows_before: int | None = None) -> Flight:
        """The front is in the air: the rows before the offset ``rows_before``, or from memory."""
        count = sum([len(delivery.entries) for delivery in deliveries])
        if rows_before is None:
            self.flight = Flight(deliveries, memory=count)
        else:
            self.flight = Flight(deliveries, rows=count, after=rows_before)
        return self.flight

    def landed(self) -> bool:
        """The flight is over: its records need nothing more. Whether rows are to be removed: all before ``first``."""
        flight, self.flight = self.flight, None
        if flight is None:
            return False
        if flight.rows:
            self.first = flight.after
        if flight.memory == len(self._memory):
            self._memory.clear()
        else:
            for _ in range(flight.memory):
                self._memory.popleft()
        bound_for_journal = min(flight.memory, self._appending)
        self._appending -= bound_for_journal
        self._landed += bound_for_journal
        if self.rows + self._appending <= self.page:
            self.journalling = False
        return flight.rows > 0

    @property
    def abandoned(self) -> bool:
        """Nobody waits for what is in the air, and neither is it in the journal, nor on its way there."""
        flight = self.flight
        return flight is not None and not flight.rows and not self._appending and not flight.wanted

    def skip_rows(self, before: int) -> None:
        """There are none from ``first`` on, and before this offset: a journal that was mended has holes."""
        self.first = before

    def strand(self) -> None:
        """The rows cannot be read in this process. They stay in the journal, and what comes does not wait for them."""
        self.stranded += self.rows
        self.first = self.next
        self.journalling = False
