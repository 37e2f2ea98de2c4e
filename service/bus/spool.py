"""The journal's side of the publisher: lanes' records go in, are read back and are removed, and its troubles are judged.

One transaction takes what all lanes have to append at the time, the next one what has come meanwhile. A journal that is
full is asked again; one that failed is given up in this process: what can be read of it is still read, nothing is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from service.bus.journal_file import Extent, Stored
from service.bus.lane import FLIGHT_RECORDS, Entry, Lane, row
from service.bus.routing import place_of
from service.core.errors import CannotStore, JournalError, JournalFull, whereabouts
from service.core.message import Message

#: Streams of the journal beside those of the lanes. What Kafka will never take, and there is no letter of: kept for the
#: operator.
REFUSED = "refused"
#: How many partitions each topic has (the last record of a key counts).
PARTITIONS = "partitions"

#: Appended together at most.
APPEND_RECORDS = 1000
APPEND_BYTES = 2 * 1024 * 1024

#: Bytes that are read back together, about.
PAGE_BYTES = 256 * 1024

#: Seconds before a journal that refused is asked again.
AGAIN = 1.0

#: Rows of ``partitions`` from which it is worth compacting.
MANY_COUNTS = 100


class JournalState(Protocol):
    """What the journal says of itself."""

    @property
    def failure(self) -> str | None:
        """Why nothing is written to it any more in this process."""


class Rows(Protocol):
    """What is asked of the journal. All raise JournalError."""

    @property
    def state(self) -> JournalState:
        """Read without waiting."""

    @property
    def accepting(self) -> bool:
        """It would store an event now."""

    async def append(self, entries: Sequence[tuple[str, Message]], *, essential: bool = False) -> list[int]:
        """Append to the streams, durable on return. Raises JournalFull and CannotStore where a later try may succeed."""

    async def read(self, stream: str, start: int, limit: int) -> list[Stored]:
        """Records from ``start`` on."""

    async def trim(self, stream: str, before: int) -> int:
        """Remove what is before."""

    async def compact(self, stream: str) -> int:
        """Keep the last record of each key."""

    async def streams(self) -> Mapping[str, Extent]:
        """All there are."""


class Spool:
    """``appended`` is told of a lane's entries that are rows now, and at which offsets; ``refused`` of a lane whose entries
    are not, or not yet after ``patience`` (s): while an append takes longer, the journal is not to be counted on.
    """

    def __init__(
        self,
        journal: Rows,
        *,
        patience: float,
        appended: Callable[[Lane, Sequence[int]], None],
        refused: Callable[[Lane], None],
    ) -> None:
        self._journal = journal
        self._patience = patience
        self._appended = appended
        self._refused = refused
        self._log = structlog.get_logger()
        self._loop = asyncio.get_running_loop()
        self._to_append: dict[Lane, None] = {}
        self._to_trim: dict[Lane, None] = {}
        # One page at a time, and a pause as long as that took: what arrives has the other half of the journal's time.
        self._turn = asyncio.Lock()
        self._next_page = 0.0
        self._counts: dict[str, int] = {}
        self._stored_counts: dict[str, int] = {}
        self._hanging = False
        self._not_before = 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def usable(self) -> bool:
        """An event that is given to it now will most likely be stored."""
        return not self._hanging and self._loop.time() >= self._not_before and self._journal.accepting

    @property
    def failed(self) -> bool:
        """Nothing is written any more in this process."""
        return self._journal.state.failure is not None

    async def stop(self, timeout: float) -> None:
        """Finish what was begun, within ``timeout`` seconds."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=timeout)
            for task in late:
                task.cancel()

    def _keep_doing(self, what: Callable[[], Awaitable[None]], name: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = asyncio.ensure_future(self._do(what, name))

    async def _do(self, what: Callable[[], Awaitable[None]], name: str) -> None:
        try:
            await what()
        finally:
            del self._tasks[name]  # in the same step in which it found nothing more: what comes then starts it anew

    # --- what an earlier run left -------------------------------------------------------------------------------------

    async def lanes(self) -> list[Lane]:
        """Those with rows. Raises JournalError."""
        streams = await self._journal.streams()
        if (counts := streams.get(PARTITIONS)) is not None:
            await self._load_counts(counts)
        return [
            await self._lane(place, name, extent)
            for name, extent in streams.items()
            if extent.rows and (place := place_of(name)) is not None
        ]

    async def _lane(self, place: tuple[str, int | None], stream: str, extent: Extent) -> Lane:
        lane = Lane(*place, stream, first=extent.first, next_=extent.next)
        with suppress(JournalError):  # told of when it is to be sent
            for head in await self._journal.read(stream, extent.first, 1):
                lane.head_timestamp = head.timestamp
        return lane

    async def _load_counts(self, extent: Extent) -> None:
        position = extent.first
        while page := await self._journal.read(PARTITIONS, position, APPEND_RECORDS):
            self._stored_counts |= {each.message.key: int(each.message.value or b"0") for each in page}
            position = page[-1].offset + 1
        self._counts = dict(self._stored_counts)
        if extent.rows > MANY_COUNTS:
            await self._journal.compact(PARTITIONS)

    def partitions(self, topic: str, told: int | None) -> int | None:
        """How many the topic has: as Kafka ``told``, else as it was known in an earlier run."""
        if told is not None and told != self._counts.get(topic):
            self._counts[topic] = told
        return told or self._counts.get(topic)

    # --- in -----------------------------------------------------------------------------------------------------------

    def append(self, lane: Lane) -> None:
        """Everything that waits in the lane, as long as it is in journal mode."""
        self._to_append[lane] = None
        self._keep_doing(self._append_all, "append")

    async def _append_all(self) -> None:
        while chunk := self._chunk():
            counts = self._new_counts(lane.topic for lane, _ in chunk)
            entries = [(PARTITIONS, count) for count in counts]
            entries += [(lane.stream, entry.message) for lane, taken in chunk for entry in taken]
            timer = self._loop.call_later(self._patience, self._hangs)
            try:
                offsets = await self._journal.append(entries)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for an answer that never comes
                self._not_before = self._loop.time() + AGAIN
                self._say(error)
                for lane, _ in chunk:
                    lane.not_appended()
                self._refuse_all()
                continue
            finally:
                timer.cancel()
                self._hanging = False
            self._stored_counts |= {count.key: int(count.value or b"0") for count in counts}
            start = len(counts)
            for lane, taken in chunk:
                self._appended(lane, offsets[start : start + len(taken)])
                start += len(taken)

    def _hangs(self) -> None:
        """It is too late for those who wait for this append, and nothing else would tell them so before they give up."""
        self._hanging = True
        self._log.warning("publisher.journal_hangs", seconds=self._patience)
        self._refuse_all()

    def _refuse_all(self) -> None:
        for lane in tuple(self._to_append):
            self._refused(lane)

    def _chunk(self) -> list[tuple[Lane, list[Entry]]]:
        """From each lane what fits; they all stay in line for the next one."""
        chunk, records, size = list[tuple[Lane, list[Entry]]](), APPEND_RECORDS, APPEND_BYTES
        for lane in tuple(self._to_append) if self.usable else ():
            if records <= 0 or size <= 0:
                return chunk
            taken = lane.append(records, size) if lane.journalling else []
            if not taken:
                del self._to_append[lane]
                continue
            chunk.append((lane, taken))
            records -= len(taken)
            size -= sum(entry.size for entry in taken)
        if not chunk:
            self._to_append.clear()
        return chunk

    def _new_counts(self, topics: Iterable[str]) -> list[Message]:
        """Before anything stands in a partition's stream, it is known how many there are: the next run asks first there."""
        return [
            Message(topic=PARTITIONS, key=topic, value=b"%d" % self._counts[topic], partition_by=topic)
            for topic in dict.fromkeys(topics)
            if self._counts.get(topic) != self._stored_counts.get(topic)
        ]

    async def keep(self, message: Message) -> bool:
        """In the stream of what Kafka refuses, whatever the watermark says. Whether that is done."""
        if self.failed:
            return False
        try:
            await self._journal.append([(REFUSED, message)], essential=True)
        except (JournalError, CannotStore) as error:
            self._say(error)
            return False
        return True

    # --- back, and out ------------------------------------------------------------------------------------------------

    async def front(self, lane: Lane) -> tuple[list[Entry], list[int]]:
        """Some of the lane's first rows, with their offsets. Raises JournalError."""
        async with self._turn:
            if (pause := self._next_page - self._loop.time()) > 0:
                await asyncio.sleep(pause)
            began = self._loop.time()
            found = await self._journal.read(lane.stream, lane.first, lane.page)
            self._next_page = 2 * self._loop.time() - began
        # The others are still in memory, for all we were told.
        rows = [each for each in found if each.offset < lane.next]
        entries = [row(each.message, each.timestamp) for each in rows]
        if entries:
            mean = sum(entry.size for entry in entries) // len(entries)
            lane.page = min(FLIGHT_RECORDS, max(1, PAGE_BYTES // mean))
        return entries, [each.offset for each in rows]

    def trim(self, lane: Lane) -> None:
        """What is before the lane's first row is acknowledged: remove it."""
        self._to_trim[lane] = None
        self._keep_doing(self._trim_all, "trim")

    async def _trim_all(self) -> None:
        while self._to_trim and not self.failed:
            lane = next(iter(self._to_trim))
            del self._to_trim[lane]
            try:
                await self._journal.trim(lane.stream, lane.first)
            except JournalFull:
                self._to_trim[lane] = None
                await asyncio.sleep(AGAIN)
            except Exception as error:  # noqa: BLE001 - what was not removed is sent once more by the next run
                self._say(error)

    def _say(self, error: Exception) -> None:
        if isinstance(error, JournalFull | CannotStore) or self.failed:
            return  # the journal has said so, once
        if isinstance(error, JournalError):
            self._log.error("publisher.journal_refused", reason=str(error))
        else:
            self._log.error("publisher.journal_crashed", error=type(error).__name__, where=whereabouts(error))
