"""The journal as a bus: every topic is a stream with the one partition 0. Delivery is at least once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import structlog

from service.bus.journal import Journal
from service.bus.journal_file import STEP, Stored
from service.bus.offsets import OffsetTracker
from service.bus.protocols import RebalanceListener
from service.bus.topics import LEDGER
from service.bus.waiting import Done, durable
from service.core.errors import CannotStore, JournalError, JournalFull
from service.core.message import Message, Received

PARTITION = 0

#: Seconds after which the sender may try again when the journal is full: emptying takes its time.
FULL_RETRY_AFTER = 30

#: Records delivered and not finished, at most; then the partition is paused.
MAX_UNFINISHED = 10_000

#: Records that one poll returns at most, and the seconds that it waits for the first.
POLL_RECORDS = 500
POLL_SECONDS = 1.0

#: Compaction pays when the stream has grown by this many records and doubled.
COMPACT_AFTER = 1000

#: Share of what the journal could have on its volume that retention leaves it, SQLite's log included: less than the 70 % at
#: which it takes events again, so that old events go before new ones are refused.
KEPT_SHARE = 0.6

#: How old what a group has not finished must be to say that the group holds back retention; and how often that is said.
HELD_BACK = timedelta(days=2)
REMIND = timedelta(days=1)


class JournalPublisher:
    """Publisher on the journal: the topic is the stream, and one call is one transaction.

    ``essential``: for whoever finishes what is there already, and so makes room; goes on above the journal's watermark.
    """

    def __init__(self, journal: Journal, *, essential: bool = False) -> None:
        self._journal = journal
        self._essential = essential

    def offer(self, messages: Sequence[Message], done: Done) -> Offer:
        """Take ``messages``; ``done`` is called once, after this has returned: with None when all are on the disk, or with
        CannotStore. Raises CannotStore where that is known before.
        """
        offer = Offer(done)
        try:
            if messages:
                rows = [(message.topic, message) for message in messages]
                self._journal.offer(rows, offer.appended, essential=self._essential)
            else:
                asyncio.get_running_loop().call_soon(offer.appended, [], None)
        except JournalError as error:
            raise _refused(error) from error
        return offer

    def withdraw(self, offer: Offer) -> None:
        """Nobody waits for it any more: its ``done`` is not called. The journal has it, and may store it all the same."""
        offer.done = None

    def flush(self) -> None:
        """Nothing to do: the journal takes whatever waits as soon as it can."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """:meth:`offer` for those who wait: all of ``messages`` are on the disk on return. Raises CannotStore."""
        await durable(partial(self.offer, messages), self.withdraw)


class Offer:
    """What :meth:`JournalPublisher.offer` took. ``done`` is told; None: nobody waits any more."""

    __slots__ = ("done",)

    def __init__(self, done: Done) -> None:
        self.done: Done | None = done

    def appended(self, _: list[int] | None, error: Exception | None) -> None:
        """The journal has it, or not."""
        if self.done is not None:
            self.done(_refused(error) if isinstance(error, JournalError) else error)


def _refused(error: JournalError) -> CannotStore:
    if isinstance(error, JournalFull):
        return CannotStore("the journal is full", retry_after=FULL_RETRY_AFTER)
    return CannotStore("the journal cannot store now")


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
        """Whether the group has ever finished a record. Raises CannotStore.

        A journal that was damaged may have lost its position together with the ledger; but not, that a ledger was there.
        """
        try:
            committed = await self._journal.committed(self._group, self._topic) or 0
            ledger = await self._journal.extent(LEDGER)
        except JournalError as exc:
            raise CannotStore("the journal cannot be read now") from exc
        return committed > 0 or (ledger.next > 0 and not ledger.rows)

    @property
    def unfinished(self) -> int:
        """Records delivered and not finished."""
        return 0 if self._tracker is None else self._tracker.unfinished

    @property
    def lag(self) -> int:
        """Records that are not finished, delivered or not."""
        if self._tracker is None or not self._delivering:
            return 0
        first = self._tracker.position
        return max(0, self._journal.end(self._topic) - (self._position if first is None else first))

    def unconfirmed(self) -> float:
        """Nobody else can be a member."""
        return 0.0

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
    """How long records are kept; and from how many bytes of the journal on, of whatever, the oldest go earlier."""

    max_age: timedelta
    max_bytes: int


class HeldBack(msgspec.Struct, frozen=True):
    """What a group has not finished stands in the way of retention. ``since``: when its first record was appended."""

    topic: str
    group: str
    waiting: int
    since: datetime


class _Kept(msgspec.Struct, frozen=True):
    """A topic's front: ``first`` is there, ``floor`` is the first record that a group has not committed."""

    first: int
    floor: int


async def _kept(journal: Journal, topic: str) -> _Kept:
    extent = await journal.extent(topic)
    return _Kept(extent.first, min((await journal.positions(topic)).values(), default=extent.next))


async def retain_by_age(journal: Journal, topic: str, max_age: timedelta, *, now: datetime) -> int:
    """Remove what is older, never past what a consumer group of the topic has not committed; returns how many records.

    Raises JournalError.
    """
    cutoff = int((now - max_age).timestamp() * 1000)
    return await journal.trim(topic, (await _kept(journal, topic)).floor, older_than=cutoff)


async def retain_by_size(journal: Journal, topics: Collection[str], max_bytes: int) -> Counter[str]:
    """While the journal holds more: remove the oldest records of all ``topics``, never past what a group has not committed.

    Returns how many went, by topic. Raises JournalError.
    """
    removed = Counter[str]()
    while await is_above(journal, max_bytes) and (topic := await _oldest(journal, topics)) is not None:
        kept = await _kept(journal, topic)
        removed[topic] += await journal.trim(topic, min(kept.floor, kept.first + STEP))
    return removed


async def is_above(journal: Journal, max_bytes: int) -> bool:
    """Whether the journal holds more, or uses (with its log, as the watermark does) more than its share of its room."""
    occupied = await journal.occupied()
    return occupied > max_bytes or occupied + journal.overhead > KEPT_SHARE * journal.capacity


async def _oldest(journal: Journal, topics: Collection[str]) -> str | None:
    """The topic with the oldest record that may go."""
    found: list[tuple[int, str]] = []
    for topic in topics:
        kept = await _kept(journal, topic)
        if kept.first < kept.floor and (page := await journal.read(topic, kept.first, 1)):
            found.append((page[0].timestamp, topic))
    return min(found)[1] if found else None


async def held_back(journal: Journal, topic: str, older_than: timedelta, *, now: datetime) -> list[HeldBack]:
    """The groups of the topic whose first unfinished record is older. Raises JournalError."""
    extent, found = await journal.extent(topic), list[HeldBack]()
    for group, position in sorted((await journal.positions(topic)).items()):
        for stored in await journal.read(topic, position, 1):
            since = datetime.fromtimestamp(stored.timestamp / 1000, UTC)
            if now - since > older_than:
                found.append(HeldBack(topic, group, extent.next - stored.offset, since))
    return found


async def keep_tidy(
    journal: Journal,
    *,
    topics: Collection[str],
    retention: Retention,
    now: Callable[[], datetime],
    compacted: Collection[str] = ("ledger",),
    interval: float = 60.0,
) -> None:
    """Until cancelled, every ``interval`` seconds: retention for ``topics``, compaction for those in ``compacted``.

    A topic in neither is left alone, a compacted one is never trimmed. Errors are logged and the next topic has its turn:
    the journal itself says in its state whether it is still trusted.
    """
    tidying = _Tidying(journal, sorted(set(topics) - set(compacted)), retention, now)
    while True:
        await tidying.retain()
        for topic in compacted:
            await _logged(topic, tidying.compact(topic))
        await asyncio.sleep(interval)


class _Tidying:
    """What one round remembers for the next."""

    def __init__(
        self, journal: Journal, topics: Sequence[str], retention: Retention, now: Callable[[], datetime]
    ) -> None:
        self._journal = journal
        self._topics = topics
        self._retention = retention
        self._now = now
        self._compacted: dict[str, int] = {}  # topic → rows after the last time
        self._reminded: dict[tuple[str, str], datetime] = {}  # topic and group → when it was said

    async def retain(self) -> None:
        """By age, then by size; then say who holds it back."""
        for topic in self._topics:
            await _logged(topic, retain_by_age(self._journal, topic, self._retention.max_age, now=self._now()))
        await _logged("all", self._by_size())
        for topic in self._topics:
            await _logged(topic, self._remind(topic))

    async def _by_size(self) -> int:
        removed = await retain_by_size(self._journal, self._topics, self._retention.max_bytes)
        return removed.total()

    async def _remind(self, topic: str) -> int:
        now = self._now()
        above = await is_above(self._journal, self._retention.max_bytes)
        patience = HELD_BACK if above else max(HELD_BACK, self._retention.max_age)
        for each in await held_back(self._journal, topic, patience, now=now):
            if now - self._reminded.get((topic, each.group), datetime.min.replace(tzinfo=UTC)) >= REMIND:
                self._reminded[topic, each.group] = now
                _say(each)
        return 0

    async def compact(self, topic: str) -> int:
        """Where it pays; returns how many records went."""
        if await self._journal.rows(topic) < 2 * self._compacted.get(topic, 0) + COMPACT_AFTER:
            return 0
        removed = await self._journal.compact(topic)
        self._compacted[topic] = await self._journal.rows(topic)
        return removed


def _say(held: HeldBack) -> None:
    structlog.get_logger().warning(
        "journal.group_holds_back_retention",
        topic=held.topic,
        group=held.group,
        waiting=held.waiting,
        since=held.since.isoformat(timespec="seconds"),
        advice="nothing behind its position is removed, and in the end the journal is full. Start what reads as this group"
        " (KAFKA__GROUP); for a group that was given up: `webex-events journal forget`",
    )


async def _logged(topic: str, job: Awaitable[int]) -> None:
    log = structlog.get_logger()
    try:
        if removed := await job:
            log.info("journal.tidied", topic=topic, removed=removed)
    except JournalError as exc:
        log.error("journal.tidy_failed", topic=topic, reason=str(exc))  # noqa: TRY400 - the reason says it all
