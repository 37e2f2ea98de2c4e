"""The journal's file: its tables, its checksums, its transactions. All of it runs in the writer thread."""

from __future__ import annotations

import errno
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from service.bus.group_commit import StoreBroken, StoreFull
from service.bus.journal_lock import FolderLock
from service.bus.journal_space import Holding, Space
from service.core.errors import JournalError
from service.core.message import Message

FILE_NAME = "journal.db"
WAL_NAME = f"{FILE_NAME}-wal"

#: ``PRAGMA application_id``: "wxev". ``PRAGMA user_version``: the format of the tables below.
APPLICATION_ID = 0x77786576
FORMAT = 1

#: Formats that a later version may have are below; a number beyond is a damaged one.
FORMATS = 256

#: One read returns no more than this many bytes of values (and always at least one record).
READ_BYTES = 8 * 1024 * 1024

#: Rows that one operation removes at most, so that appends never wait long behind housekeeping; and where there is hardly
#: room for removing.
STEP = 1000
SMALL_STEP = 100

#: Pages in the WAL after which it is copied into the file (4 MiB; as SQLite's own default).
CHECKPOINT_PAGES = 1000
TIGHT_CHECKPOINT_PAGES = 100

#: What a row needs beside its value, about.
ROW_BYTES = 100

#: place = stream id << 40 | offset: one integer key, in order of stream and offset. No offset is greater.
OFFSET_BITS = 40
FURTHEST = (1 << OFFSET_BITS) - 1

HOLES = """CREATE TABLE holes (
  stream TEXT NOT NULL, start INTEGER NOT NULL, next INTEGER NOT NULL, checksum INTEGER NOT NULL,
  PRIMARY KEY (stream, start)
) STRICT, WITHOUT ROWID;"""

SCHEMA = f"""
CREATE TABLE streams (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, first INTEGER NOT NULL, next INTEGER NOT NULL,
  rows INTEGER NOT NULL, compacted INTEGER NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE records (
  place INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL,
  partition_by TEXT NOT NULL, value BLOB, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE positions (
  consumers TEXT NOT NULL, stream TEXT NOT NULL, position INTEGER NOT NULL, checksum INTEGER NOT NULL,
  PRIMARY KEY (consumers, stream)
) STRICT, WITHOUT ROWID;
{HOLES}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""

_UNTRUSTED = (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError, apsw.ProtocolError)


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One record with its place in the stream. ``timestamp``: when it was appended, in milliseconds since 1970."""

    offset: int
    timestamp: int
    message: Message


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream holds: the first offset, the next one to be given out, and how many rows are between them."""

    first: int = 0
    next: int = 0
    rows: int = 0
    compacted: bool = False


class Stream(msgspec.Struct, frozen=True):
    """One row of ``streams``, with its ``holes``: from where to where records were lost, and said to be so.

    Holes are in order and never touch; none begins before ``first``.
    """

    id: int
    name: str
    first: int
    next: int
    rows: int
    compacted: bool
    holes: tuple[tuple[int, int], ...] = ()

    def behind_hole(self, offset: int) -> int:
        """``offset``, or where the hole ends in which it is."""
        at = bisect_right(self.holes, (offset, FURTHEST)) - 1
        return max(offset, self.holes[at][1]) if at >= 0 else offset

    def behind_rows(self, count: int) -> int:
        """The offset before which so many records are, from the first one on; where nothing is missing but in holes."""
        end = self.first + count
        for start, following in self.holes:
            if start >= end:
                break
            end += following - start
        return end

    def accepts(self, expected: int, found: int) -> bool:
        """Whether the record ``found`` may come where ``expected`` would."""
        return found == self.behind_hole(expected) or self.compacted

    def place(self, offset: int) -> int:
        return self.id << OFFSET_BITS | offset

    def offset(self, place: int) -> int:
        return place - (self.id << OFFSET_BITS)


class JournalFile:
    """The SQLite side: every method runs in the writer thread. ``rows`` and ``commits`` may be read from elsewhere.

    ``damage``: what was found, and mended, when it was opened.
    """

    def __init__(self, connection: apsw.Connection, lock: FolderLock, *, damage: str | None = None) -> None:
        self.damage = damage
        self._connection = connection
        self._execute = connection.cursor().execute
        self._lock = lock
        self._space: Space | None = None
        self._wal_pages = 0
        self._files = self._files_by_name()
        self._streams = self._load()
        self._changed: set[str] = set()
        self.rows = 0
        self.commits = 0
        self._counted()
        connection.set_wal_hook(self._committed)

    # Transactions (group_commit.Store)

    def begin(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def attempt(self, run: Callable[[JournalFile], Any]) -> Any:
        kept = self._streams.copy()
        self._execute("SAVEPOINT operation")
        try:
            result = run(self)
        except BaseException as exc:
            if (
                not self._connection.in_transaction
            ):  # SQLite undid all of it: https://www.sqlite.org/lang_transaction.html
                raise self._lost(exc) from exc
            self._execute("ROLLBACK TO operation")
            self._execute("RELEASE operation")
            self._streams = kept
            raise
        self._execute("RELEASE operation")
        return result

    def _lost(self, exc: BaseException) -> Exception:
        error = self.translated(exc) if isinstance(exc, Exception) else exc
        return error if isinstance(error, StoreFull) else StoreBroken(f"the transaction was lost: {error}")

    def commit(self) -> None:
        for name in self._changed & self._streams.keys():
            self._save(self._streams[name])
        self._changed.clear()
        self._execute("COMMIT")
        if self._lock.deleted or self._files_by_name() != self._files:  # an unlinked file ends with the process
            raise StoreBroken("its files were deleted or replaced while they were in use")
        self._counted()

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
        self._changed.clear()
        self._streams = self._load()

    def settle(self) -> None:
        """Checkpoint here and not inside COMMIT: nobody waits for it, and SQLite does not swallow its errors."""
        tight = self._space is not None and self._space.tight
        if self._wal_pages >= (TIGHT_CHECKPOINT_PAGES if tight else CHECKPOINT_PAGES):
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._wal_pages = 0
        if self._space is not None and self._space.due():
            self._space.measure(self._holding())

    def no_room(self, *, freeing: bool) -> bool:
        """Give up the ballast, for removing only."""
        if self._space is None:
            return False
        if freeing:
            return self._space.make_room()
        self._space.refused()
        return False

    def distrust(self) -> None:
        """Undo what is not committed; reads see the last commit, and their checksums."""
        self.rollback()
        self._connection.pragma("query_only", 1)

    def translated(self, error: Exception) -> Exception:
        unwritten = getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_WRITE
        if unwritten and self._connection.system_errno == errno.EDQUOT:
            # SQLite takes ENOSPC alone for a full disk; it undoes what a quota refused in the same way. Not so an fsync.
            return StoreFull("there is no room for the journal: the quota is used up")
        return _translated(error)

    def close(self, *, trusted: bool) -> None:
        if not trusted:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()
        if trusted:
            self._lock.release()

    def _files_by_name(self) -> list[tuple[int, int] | None]:
        """The files that have the names now; SQLite holds those that had them when it opened them."""
        return [identity_of(Path(name)) for name in (self._connection.filename, self._connection.filename_wal)]

    def _committed(self, connection: apsw.Connection, database: str, pages: int) -> int:  # noqa: ARG002 - SQLite's signature
        self.commits += 1
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # Room

    def keep_within(self, space: Space) -> None:
        """From now on appends are refused where ``space`` says so, and it is told what there is."""
        self._space = space
        space.measure(self._holding())

    def occupied(self) -> int:
        """Bytes of the pages that hold something."""
        return self._holding().occupied

    def _holding(self) -> Holding:
        page = self._connection.pragma("page_size")
        pages, unused = self._connection.pragma("page_count"), self._connection.pragma("freelist_count")
        file, log = (size_of(Path(name)) for name in (self._connection.filename, self._connection.filename_wal))
        return Holding(
            occupied=(pages - unused) * page,
            unused=unused * page,
            log=log,
            outstanding=max(0, pages * page - file),
            files=file + log,
        )

    @property
    def _step(self) -> int:
        return SMALL_STEP if self._space is not None and self._space.tight else STEP

    def admit(self, size: int, *, essential: bool) -> None:
        """Before rows of ``size`` bytes are appended. Raises JournalFull."""
        if self._space is not None:
            if self._space.due(size):
                self._space.measure(self._holding())
            self._space.admit(size, essential=essential)

    # Streams

    def _load(self) -> dict[str, Stream]:
        return {stream.name: stream for stream in load_streams(self._connection)}

    def _save(self, stream: Stream) -> None:
        values = (stream.id, stream.name, stream.first, stream.next, stream.rows, int(stream.compacted))
        self._execute(
            "REPLACE INTO streams (id, name, first, next, rows, compacted, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*values, checksum_of(*values)),
        )

    def _change(self, stream: Stream) -> None:
        self._streams[stream.name] = stream
        self._changed.add(stream.name)

    def _stream(self, name: str) -> Stream:
        if (stream := self._streams.get(name)) is not None:
            return stream
        return Stream(1 + max((known.id for known in self._streams.values()), default=0), name, 0, 0, 0, False)

    def _counted(self) -> None:
        self.rows = sum(stream.rows for stream in self._streams.values())
        self._lock.count(sum(stream.next for stream in self._streams.values()))

    # Operations

    def append(self, entries: Sequence[tuple[str, Message]], timestamp: int) -> list[int]:
        offsets = []
        for name, message in entries:
            stream = self._stream(name)
            offset = stream.next
            values = (timestamp, message.topic, message.key, message.partition_by, message.value)
            self._execute(
                "INSERT INTO records (place, timestamp, topic, key, partition_by, value, checksum)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (stream.place(offset), *values, checksum_of(name, offset, *values)),
            )
            self._change(
                Stream(stream.id, name, stream.first, offset + 1, stream.rows + 1, stream.compacted, stream.holes)
            )
            offsets.append(offset)
        return offsets

    def reaches(self, name: str, offset: int) -> bool:
        """Whether there is a record at ``offset`` or behind it."""
        stream = self._stream(name)
        return stream.behind_hole(offset) < stream.next

    def lacks(self, name: str, *, kept: int, seen: int) -> None:
        """A reader of the whole compacted stream has not seen all: nothing may be asked of it any more."""
        raise StoreBroken(f"stream {name}: {kept} records were kept, {seen} are there")

    def extents(self) -> dict[str, Extent]:
        return {name: self.extent(name) for name in self._streams}

    def end(self, name: str) -> int:
        """The next offset to be given out; may be read from elsewhere."""
        stream = self._streams.get(name)
        return 0 if stream is None else stream.next

    def extent(self, name: str) -> Extent:
        stream = self._stream(name)
        return Extent(first=stream.first, next=stream.next, rows=stream.rows, compacted=stream.compacted)

    def read(self, name: str, start: int, limit: int) -> list[Stored]:
        stream = self._stream(name)
        expected, size, records = stream.behind_hole(max(start, stream.first)), 0, list[Stored]()
        places = (stream.place(expected), stream.place(stream.next), limit)
        row: Any
        for row in self._execute(
            "SELECT place, timestamp, topic, key, partition_by, value, checksum FROM records"
            " WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
            places,
        ):
            stored = _verified(stream, row)
            _refuse_gap(stream, expected, stored.offset)
            records.append(stored)
            expected, size = stored.offset + 1, size + len(stored.message.value or b"")
            if size >= READ_BYTES or len(records) == limit:
                return records
        _refuse_gap(stream, expected, max(stream.next, expected))
        return records

    def trim(self, name: str, before: int, older_than: int | None) -> int:
        stream = self._stream(name)
        if stream.compacted:
            raise JournalError(f"stream {name} is compacted: it is never trimmed")
        end = min(before, stream.next, stream.behind_rows(self._step))
        if older_than is not None:
            end = self._first_young(stream, end, older_than)
        if end <= stream.first:
            return 0
        self._execute(
            "DELETE FROM records WHERE place >= ? AND place < ?", (stream.place(stream.first), stream.place(end))
        )
        removed = self._connection.changes()
        if removed != end - stream.first - sum(max(0, min(stop, end) - start) for start, stop in stream.holes):
            raise StoreBroken(f"stream {name}: of the records {stream.first} to {end - 1} only {removed} were there")
        end = stream.behind_hole(end)
        holes = tuple(hole for hole in stream.holes if hole[0] >= end)
        if len(holes) < len(stream.holes):
            self._execute("DELETE FROM holes WHERE stream = ? AND start < ?", (name, end))
        self._change(Stream(stream.id, name, end, stream.next, stream.rows - removed, stream.compacted, holes))
        return removed

    def _first_young(self, stream: Stream, end: int, older_than: int) -> int:
        place = self._execute(
            "SELECT place FROM records WHERE place >= ? AND place < ? AND timestamp >= ? ORDER BY place LIMIT 1",
            (stream.place(stream.first), stream.place(end), older_than),
        ).get
        return end if place is None else stream.offset(place)

    def remove(self, *, stream: str, offsets: Sequence[int]) -> int:
        """Compaction's step: the first of ``offsets``, as many as one step takes."""
        known = self._stream(stream)
        offsets = offsets[: self._step]
        for offset in offsets:
            self._execute("DELETE FROM records WHERE place = ?", (known.place(offset),))
            if self._connection.changes() != 1:
                raise StoreBroken(f"stream {stream}: record {offset} is missing")
        self._change(Stream(known.id, stream, known.first, known.next, known.rows - len(offsets), True, known.holes))
        return len(offsets)

    def positions(self, stream: str) -> dict[str, int]:
        positions = {}
        for group, position, checksum in self._execute(
            "SELECT consumers, position, checksum FROM positions WHERE stream = ?", (stream,)
        ):
            if checksum_of(group, stream, position) != checksum:
                raise StoreBroken(f"stream {stream}: a committed position is not what was written")
            positions[group] = position
        return positions

    def forget_positions(self, group: str) -> list[str]:
        found: Any = self._execute("DELETE FROM positions WHERE consumers = ? RETURNING stream", (group,))
        return sorted(stream for (stream,) in found)

    def commit_position(self, group: str, stream: str, position: int) -> None:
        self._execute(
            "REPLACE INTO positions (consumers, stream, position, checksum) VALUES (?, ?, ?, ?)",
            (group, stream, position, checksum_of(group, stream, position)),
        )


def size_of_rows(entries: Sequence[tuple[str, Message]]) -> int:
    """Bytes that the file grows by, about."""
    return sum(len(message.value or b"") + len(message.key) + ROW_BYTES for _, message in entries)


def checksum_of(*values: str | int | bytes | None) -> int:
    """CRC-32 over an encoding in which every value has its type and length: nothing can move from one to the next."""
    return zlib.crc32(_encode(values))


_encode = msgspec.msgpack.Encoder().encode


def load_streams(connection: apsw.Connection) -> list[Stream]:
    """All streams, in the order of their ids. Raises StoreBroken."""
    holes = _load_holes(connection)
    streams = []
    row: Any
    for row in connection.execute("SELECT id, name, first, next, rows, compacted, checksum FROM streams ORDER BY id"):
        number, name, first, following, rows, compacted, checksum = row
        if checksum_of(*row[:-1]) != checksum:
            raise StoreBroken("the list of streams is not what was written")
        streams.append(Stream(number, name, first, following, rows, bool(compacted), tuple(holes.get(name, ()))))
    return streams


def has_holes(connection: apsw.Connection) -> bool:
    """Whether the table is there: it was added to the format later."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'holes'").get)


def _load_holes(connection: apsw.Connection) -> dict[str, list[tuple[int, int]]]:
    holes: dict[str, list[tuple[int, int]]] = {}
    if not has_holes(connection):
        return holes
    row: Any
    for row in connection.execute("SELECT stream, start, next, checksum FROM holes ORDER BY stream, start"):
        if checksum_of(*row[:-1]) != row[-1]:
            raise StoreBroken("the list of holes is not what was written")
        holes.setdefault(row[0], []).append(row[1:3])
    return holes


def _verified(stream: Stream, row: Any) -> Stored:
    place, timestamp, topic, key, partition_by, value, checksum = row
    offset = stream.offset(place)
    if checksum_of(stream.name, offset, timestamp, topic, key, partition_by, value) != checksum:
        raise StoreBroken(altered(stream, offset))
    message = Message(topic=topic, key=key, value=value, partition_by=partition_by)
    return Stored(offset=offset, timestamp=timestamp, message=message)


def _refuse_gap(stream: Stream, expected: int, found: int) -> None:
    if not stream.accepts(expected, found):
        raise StoreBroken(gap(stream, expected, found))


def altered(stream: Stream, offset: int) -> str:
    """A sentence about a record that is not the one that was appended."""
    return f"stream {stream.name}: record {offset} is not what was written"


def gap(stream: Stream, expected: int, found: int) -> str:
    """A sentence about records that should be there."""
    return f"stream {stream.name}: records {expected} to {found - 1} are missing"


def _translated(error: Exception) -> Exception:
    if isinstance(error, apsw.FullError):
        return StoreFull(f"there is no room for the journal: {error}")
    if isinstance(error, (*_UNTRUSTED, UnicodeDecodeError)):  # a text of ours that is no UTF-8 any more
        return StoreBroken(str(error))
    if isinstance(error, (apsw.Error, UnicodeError)):
        return JournalError(str(error))
    return error


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def identity_of(path: Path) -> tuple[int, int] | None:
    """Which file has the name; None: none. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
