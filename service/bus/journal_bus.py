"""The journal as a bus: every topic is a stream with the one partition 0. Delivery is at least once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from service.bus.journal import Journal
from service.bus.journal_file import Stored
from service.bus.offsets import OffsetTracker
from service.bus.protocols import RebalanceListener
from service.core.errors import CannotStore, JournalError
from service.core.message import Message, Received

PARTITION = 0

#: Records delivered and not finished, at most; then the partition is paused.
MAX_UNFINISHED = 10_000

#: Records that one poll returns at most, and the seconds that it waits for the first.
POLL_RECORDS = 500
POLL_SECONDS = 1.0

#: Compaction pays when the stream has grown by this many records and doubled.
COMPACT_AFTER = 1000


class JournalPublisher:
    """Publisher on the journal: the topic is the stream, and one call is one transaction."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def publish(self, messages: Sequence[Message]) -> None:
        """All of ``messages`` are on the disk on return. Raises CannotStore."""
        try:
            await self._journal.append([(message.topic, message) for message in messages])
        except JournalError as exc:
            raise CannotStore("the journal cannot store now") from exc


class JournalConsumer:
    """Consumer on the journal: the only member of its group on this topic. Started once, stopped once.

    ``drain`` is the time (s) that the listener has in ``revoked``; it is cancelled then.
    """

    def __init__(self, journal: Journal, *, topic: str, group: str, drain: float = 5.0) -> None:
        self._journal = journal
        self._topic = topic
        self._group = group
        self._drain = drain
        self._listener: RebalanceListener | None = None
        self._tracker: OffsetTracker | None = None  # None: partition 0 is not ours
        self._delivering = False
        self._position = 0
        self._progress = asyncio.Event()

    async def start(self, listener: RebalanceListener) -> None:
        """Join; the partition is ours when this returns. Raises JournalError where the group has another member."""
        self._journal.join(self._group, self._topic)
        try:
            self._tracker = OffsetTracker()
            self._listener = listener
            await listener.assigned(frozenset({PARTITION}))
            self._position = await self._starting_position()
            self._delivering = True
        except BaseException:
            self._fence()
            raise

    async def _starting_position(self) -> int:
        """Where the group left off; a group without a position gets one, so that retention waits for it."""
        first, following = await self._journal.bounds(self._topic)
        committed = await self._journal.committed(self._group, self._topic)
        if committed is None:
            await self._journal.commit(self._group, self._topic, first)
            return first
        position = min(max(committed, first), following)
        if position != committed:
            structlog.get_logger().warning(
                "consumer.position_out_of_range",
                topic=self._topic,
                group=self._group,
                committed=committed,
                first=first,
                next=following,
            )
        return position

    async def poll(self) -> Sequence[Received]:
        """The next records, in order; empty after about a second without any, or with 10 000 unfinished."""
        tracker = self._tracker
        if tracker is None or not self._delivering:
            await asyncio.sleep(POLL_SECONDS)
            return ()
        if tracker.unfinished >= MAX_UNFINISHED and not await self._wait_for_progress():
            return ()
        if records := await self._read(tracker):
            return self._deliver(tracker, records)
        if not await self._journal.wait_for_append(self._topic, self._position, POLL_SECONDS):
            return ()
        return self._deliver(tracker, await self._read(tracker))

    async def _read(self, tracker: OffsetTracker) -> Sequence[Stored]:
        limit = min(POLL_RECORDS, MAX_UNFINISHED - tracker.unfinished)
        return await self._journal.read(self._topic, self._position, limit)

    async def _wait_for_progress(self) -> bool:
        self._progress.clear()
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def _deliver(self, tracker: OffsetTracker, records: Sequence[Stored]) -> Sequence[Received]:
        if not self._delivering:  # revoked while we were reading
            return ()
        for stored in records:
            tracker.delivered(stored.offset)
            self._position = stored.offset + 1
        return [_received(self._topic, stored) for stored in records]

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``. Ignored after :meth:`stop`."""
        if self._tracker is not None:
            before = self._tracker.unfinished
            self._tracker.finished(record.offset)
            if self._tracker.unfinished < before:
                self._progress.set()

    async def commit(self) -> None:
        """Commit what is contiguously finished. Raises JournalError."""
        tracker = self._tracker
        if tracker is not None and (position := tracker.committable()) is not None:
            await self._journal.commit(self._group, self._topic, position)
            tracker.committed(position)

    def partition_of(self, key: str) -> int:  # noqa: ARG002 - there is only one
        """The one partition."""
        return PARTITION

    async def consumed(self, partition: int) -> bool:  # noqa: ARG002 - there is only one
        """Whether the group has ever finished a record. Raises CannotStore."""
        try:
            return (await self._journal.committed(self._group, self._topic) or 0) > 0
        except JournalError as exc:
            raise CannotStore("the journal cannot be read now") from exc

    async def stop(self) -> None:
        """Revoke, drain, commit, fence. Idempotent."""
        if not self._delivering or self._listener is None:
            return
        self._delivering = False
        try:
            await self._revoke(self._listener)
            await self.commit()
        finally:
            self._fence()

    async def _revoke(self, listener: RebalanceListener) -> None:
        try:
            async with asyncio.timeout(self._drain):
                await listener.revoked(frozenset({PARTITION}))
        except TimeoutError:
            structlog.get_logger().warning("consumer.drain_cut_short", topic=self._topic, group=self._group)

    def _fence(self) -> None:
        self._delivering = False
        self._tracker = None
        self._journal.leave(self._group, self._topic)


class JournalReader:
    """PartitionReader on the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        """Every record up to the end as it is at the first step; from the first one on that was appended at ``since`` or
        later, where that is said.

        Raises JournalError, and ValueError for any partition but 0.
        """
        if partition != PARTITION:
            raise ValueError(f"the journal has one partition, {PARTITION}, not {partition}")
        pages = self._journal.scan(topic) if since is None else self._pages(topic, since)
        async for page in pages:
            for stored in page:
                yield _received(topic, stored)

    async def _pages(self, topic: str, since: datetime) -> AsyncIterator[list[Stored]]:
        first, end = await self._journal.bounds(topic)
        position = await self._first(topic, first, end, int(since.timestamp() * 1000))
        while position < end and (page := await self._journal.read(topic, position, POLL_RECORDS)):
            position = page[-1].offset + 1
            yield [stored for stored in page if stored.offset < end]

    async def _first(self, topic: str, low: int, high: int, since: int) -> int:
        """The first offset from ``low`` on whose record is of that time (ms), by halving; ``high`` where there is none."""
        while low < high:
            middle = (low + high) // 2
            page = await self._journal.read(topic, middle, 1)
            if not page or page[0].offset >= high or page[0].timestamp >= since:
                high = middle
            else:
                low = page[0].offset + 1
        return low


def _received(topic: str, stored: Stored) -> Received:
    return Received(
        topic=topic,
        partition=PARTITION,
        offset=stored.offset,
        key=stored.message.key,
        value=stored.message.value,
        timestamp=stored.timestamp,
    )


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a topic is kept: what is older, or more than that, goes."""

    max_age: timedelta
    max_rows: int


async def retain(journal: Journal, topic: str, retention: Retention, *, now: datetime) -> int:
    """Remove what ``retention`` does not keep, never past what a consumer group of the topic has not committed.

    Returns how many records went. Raises JournalError.
    """
    _, following = await journal.bounds(topic)
    floor = min((await journal.positions(topic)).values(), default=following)
    removed = await journal.trim(topic, min(floor, following - retention.max_rows))
    cutoff = int((now - retention.max_age).timestamp() * 1000)
    return removed + await journal.trim(topic, floor, older_than=cutoff)


async def keep_tidy(
    journal: Journal,
    *,
    retention: Mapping[str, Retention],
    now: Callable[[], datetime],
    compacted: Collection[str] = ("ledger",),
    interval: float = 60.0,
) -> None:
    """Until cancelled, every ``interval`` seconds: retention for the topics named, compaction for those in ``compacted``.

    A topic in neither is left alone, a compacted one is never trimmed. Errors are logged and the next topic has its turn:
    the journal itself says in its state whether it is still trusted.
    """
    kept: dict[str, int] = {}
    while True:
        for topic in sorted(retention.keys() - set(compacted)):
            await _logged(topic, retain(journal, topic, retention[topic], now=now()))
        for topic in compacted:
            await _logged(topic, _compact_when_grown(journal, topic, kept))
        await asyncio.sleep(interval)


async def _compact_when_grown(journal: Journal, topic: str, kept: dict[str, int]) -> int:
    if await journal.rows(topic) < 2 * kept.get(topic, 0) + COMPACT_AFTER:
        return 0
    removed = await journal.compact(topic)
    kept[topic] = await journal.rows(topic)
    return removed


async def _logged(topic: str, job: Awaitable[int]) -> None:
    log = structlog.get_logger()
    try:
        if removed := await job:
            log.info("journal.tidied", topic=topic, removed=removed)
    except JournalError as exc:
        log.error("journal.tidy_failed", topic=topic, reason=str(exc))  # noqa: TRY400 - the reason says it all
