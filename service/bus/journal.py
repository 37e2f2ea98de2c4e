"""The journal: a durable log in one SQLite file. The spool while Kafka cannot answer, and the bus where there is no Kafka.

What is promised once ``append`` has returned: the records survive ``kill -9`` and power loss (WAL with ``synchronous=FULL``:
one fsync for each transaction), they have consecutive offsets in their stream, and they are read back as they were written
or not at all. Every row carries a CRC-32 over all it says: SQLite itself does not notice a flipped bit in a payload. A CRC
is enough: it finds every error burst up to 32 bits and all but one in 4 billion of the others, and it guards against a
failing disk, not against an attacker, who could compute any unkeyed digest anew.

One process, one connection, one thread (https://www.sqlite.org/wal.html, "The WAL-Reset Bug", needs two connections): a
lock file keeps every other process out, and the connection holds SQLite's exclusive lock.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from service.bus.group_commit import GroupCommit
from service.bus.journal_file import STEP, Extent, JournalFile, Stored, size_of_rows
from service.bus.journal_opening import open_file
from service.bus.journal_space import Space, free_bytes
from service.bus.waiting import resolve
from service.core.errors import CannotStore, JournalError, JournalFull
from service.core.message import Message

#: Appends that may wait, and the bytes of their values; beyond that new ones are refused at once.
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024

#: Told of an append: the offsets, or why it failed.
Appended = Callable[[list[int] | None, Exception | None], None]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a metric wants to know. ``bytes`` is the size of the files; ``commits`` counts transactions that wrote.

    ``used`` is the share (0 to 1) of what the journal could have on its volume; ``full``: it takes no more events now. Both
    are at most a second old. ``failure``: why nothing is written any more in this process. ``damage``: what was found,
    and mended, when it was opened.
    """

    rows: int
    bytes: int
    waiting: int
    commits: int
    full: bool
    used: float
    failure: str | None
    damage: str | None


class Journal:
    """The log, for one event loop. Every method raises JournalError when the file cannot be trusted or was closed."""

    def __init__(
        self, writer: GroupCommit[JournalFile], file: JournalFile, space: Space, now: Callable[[], datetime]
    ) -> None:
        self._writer = writer
        self._file = file
        self._space = space
        self._now = now
        self._waiting = 0
        self._waiting_bytes = 0
        self._appended: dict[str, asyncio.Event] = {}
        self._scans: Counter[str] = Counter()
        self._members: set[tuple[str, str]] = set()

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        max_bytes: int | None = None,
        now: Callable[[], datetime] | None = None,
        free: Callable[[Path], int] = free_bytes,
        vfs: str | None = None,
    ) -> Journal:
        """Open the journal in ``folder``, making both where they do not exist (0700, 0600: it holds registrants' data).

        ``max_bytes`` bounds the file; beyond it appends are refused and everything else goes on. ``free`` says what is
        left on the folder's volume; ``vfs`` names what SQLite writes through (tests). Everything is verified first. What is
        damaged is moved aside, and the journal goes on with all that can be verified: ``state.damage``.
        Raises JournalError: in use by another process, another format, not a journal, no room to mend it.
        """
        space: list[Space] = []

        def keep_within(file: JournalFile) -> None:
            space.append(Space(folder, limit=max_bytes, free=free))
            file.keep_within(space[0])

        def open_store() -> JournalFile:
            return open_file(folder, max_bytes, now=now or _utc_now, vfs=vfs, prepare=keep_within)

        writer = GroupCommit(open_store, name="journal")
        file = await writer.start()
        return cls(writer, file, space[0], now or _utc_now)

    async def __aenter__(self) -> Journal:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish what was accepted and let go of the folder.

        After a failure the lock is kept until the process ends: nothing in it may trust that file again.
        """
        await self._writer.close()

    @property
    def state(self) -> State:
        """Read without waiting for anything."""
        return State(
            rows=self._file.rows,
            bytes=self._space.files,
            waiting=self._waiting,
            commits=self._file.commits,
            full=self._space.full,
            used=self._space.used,
            failure=self._writer.failure,
            damage=self._file.damage,
        )

    @property
    def accepting(self) -> bool:
        """Whether an event would be stored now: the journal has neither failed nor reached its watermark."""
        return self._writer.failure is None and not self._space.full

    @property
    def capacity(self) -> int:
        """Bytes that the journal could have on its volume, those included that it has. At most a second old."""
        return self._space.capacity

    async def append(self, entries: Sequence[tuple[str, Message]], *, essential: bool = False) -> list[int]:
        """:meth:`offer` for those who wait: durable on return, or raises what ``done`` is told. The offsets, in the same
        order. When cancelled, the records may be stored all the same.
        """
        if not entries:
            return []
        appended: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.offer(entries, partial(resolve, appended), essential=essential)
        return await appended

    def offer(self, entries: Sequence[tuple[str, Message]], done: Appended, *, essential: bool = False) -> None:
        """Append each message to its stream, all of them or none; ``done`` is called with the offsets once they are on the
        disk, or with the error, and after this has returned.

        Order in a stream is the order of the calls. Raises JournalFull above the watermark, to which what is ``essential``
        (without it, what is there could not be finished) is not subject, and ``done`` is told so where there is no room at
        all; CannotStore when too much is waiting already.
        """
        if self._space.full and not essential:
            raise JournalFull(self._space.refusal)
        rows, timestamp = tuple(entries), int(self._now().timestamp() * 1000)
        size = size_of_rows(rows)
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise CannotStore("too many records are waiting for the journal")

        def append(file: JournalFile) -> list[int]:
            file.admit(size, essential=essential)
            return file.append(rows, timestamp)

        def appended(offsets: list[int] | None, error: Exception | None) -> None:
            self._settled(size, rows)
            done(offsets, error)

        self._writer.enqueue(append, appended, size=size)
        self._waiting += 1
        self._waiting_bytes += size

    def _settled(self, size: int, rows: Sequence[tuple[str, Message]]) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        for stream, _ in rows if self._appended else ():
            if (event := self._appended.pop(stream, None)) is not None:
                event.set()

    async def read(self, stream: str, start: int, limit: int) -> list[Stored]:
        """Records from ``start`` on (from the first one where that was trimmed), oldest first.

        At most ``limit`` of them and about 8 MiB; empty only where nothing is there.
        Raises JournalError where a row is not what was written or, in a stream that was never compacted, missing.
        """
        records: list[Stored] = await self._writer.submit(lambda file: file.read(stream, start, limit), reads=True)
        return records

    async def extent(self, stream: str) -> Extent:
        """All bounds of the stream at one moment."""
        extent: Extent = await self._writer.submit(lambda file: file.extent(stream), reads=True)
        return extent

    async def streams(self) -> dict[str, Extent]:
        """Every stream that was ever appended to, at one moment."""
        streams: dict[str, Extent] = await self._writer.submit(JournalFile.extents, reads=True)
        return streams

    async def bounds(self, stream: str) -> tuple[int, int]:
        """The first offset held and the next one to be given out; equal where the stream is empty."""
        extent = await self.extent(stream)
        return extent.first, extent.next

    def end(self, stream: str) -> int:
        """The next offset to be given out, read without waiting for anything."""
        return self._file.end(stream)

    @property
    def overhead(self) -> int:
        """Bytes of what it uses that removing does not make less: SQLite's log. At most a second old."""
        return self._space.overhead

    async def occupied(self) -> int:
        """Bytes of the file that hold something: what removing makes less, though the file stays as large as it is."""
        occupied: int = await self._writer.submit(JournalFile.occupied, reads=True)
        return occupied

    async def rows(self, stream: str) -> int:
        """How many records the stream holds."""
        return (await self.extent(stream)).rows

    async def scan(self, stream: str) -> AsyncIterator[list[Stored]]:
        """Everything up to the end as it is at the first step, in pages. Compaction stands still meanwhile.

        Raises JournalError as :meth:`read` does, and also where rows of a compacted stream are missing.
        """
        self._scans[stream] += 1
        try:
            extent = await self.extent(stream)
            position, seen = extent.first, 0
            while position < extent.next and (page := await self.read(stream, position, STEP)):
                position = page[-1].offset + 1
                page = [stored for stored in page if stored.offset < extent.next]
                seen += len(page)
                yield page
            if extent.compacted and seen != extent.rows:
                lacks = partial(JournalFile.lacks, name=stream, kept=extent.rows, seen=seen)
                await self._writer.submit(lacks, reads=True)
        finally:
            self._scans[stream] -= 1

    async def wait_for_append(self, stream: str, offset: int, timeout: float) -> bool:
        """Wait until the stream holds a record at ``offset`` or behind it; False after ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            event = self._appended.setdefault(stream, asyncio.Event())  # before asking: no append slips in between
            if await self._writer.submit(lambda file: file.reaches(stream, offset), reads=True):
                return True
            try:
                async with asyncio.timeout_at(deadline):
                    await event.wait()
            except TimeoutError:
                return False

    async def committed(self, group: str, stream: str) -> int | None:
        """The position that the group committed: the offset of the first record it has not finished."""
        return (await self.positions(stream)).get(group)

    async def positions(self, stream: str) -> dict[str, int]:
        """The committed position of each group of the stream."""
        positions: dict[str, int] = await self._writer.submit(lambda file: file.positions(stream), reads=True)
        return positions

    async def commit(self, group: str, stream: str, position: int) -> None:
        """Remember ``position`` for the group; durable on return."""
        await self._writer.submit(lambda file: file.commit_position(group, stream, position), frees=True)

    async def forget(self, group: str) -> list[str]:
        """Forget where ``group`` was, on every stream: retention waits for it no more. The streams; durable on return.

        Should the group come again, it begins with what is there then.
        """
        streams: list[str] = await self._writer.submit(lambda file: file.forget_positions(group), frees=True)
        return streams

    async def trim(self, stream: str, before: int, *, older_than: int | None = None) -> int:
        """Remove records from the front, below the offset ``before`` and (where given) appended before ``older_than`` (ms).

        Returns how many. In steps, so that appends get in between. Raises JournalError for a compacted stream: a record
        that nothing has replaced would be lost.
        """
        removed = 0
        while True:
            step: int = await self._writer.submit(lambda file: file.trim(stream, before, older_than), frees=True)
            removed += step
            if not step:
                return removed

    async def compact(self, stream: str) -> int:
        """Keep the last record of each key, and no tombstone; returns how many were removed.

        Made for streams that are read from the start (:meth:`scan`), not for consumers: a tombstone may be gone before
        they come to it. Does nothing, or stops early, while somebody scans the stream; the next call goes on.
        """
        obsolete = await self._obsolete(stream)
        removed = 0
        while removed < len(obsolete) and not self._scans[stream]:
            step = partial(JournalFile.remove, stream=stream, offsets=obsolete[removed : removed + STEP])
            removed += await self._writer.submit(step, frees=True)
        return removed

    async def _obsolete(self, stream: str) -> list[int]:
        """In an order that may be cut anywhere: a tombstone comes behind all that it deletes."""
        last: dict[str, tuple[int, bool]] = {}
        obsolete: list[int] = []
        async for page in self.scan(stream):
            for stored in page:
                if (replaced := last.get(stored.message.key)) is not None:
                    obsolete.append(replaced[0])
                last[stored.message.key] = (stored.offset, stored.message.value is None)
        obsolete.extend(offset for offset, tombstone in last.values() if tombstone)
        return obsolete

    def join(self, group: str, stream: str) -> None:
        """Become the one member that the group can have: there is one partition. Raises JournalError where it has one."""
        if (group, stream) in self._members:
            raise JournalError(f"group {group} already has a member on {stream}; the journal has one partition")
        self._members.add((group, stream))

    def leave(self, group: str, stream: str) -> None:
        """Make room for another member. Idempotent."""
        self._members.discard((group, stream))


def _utc_now() -> datetime:
    return datetime.now(UTC)
