"""The journal's file: its tables, its checksums, and the way it is opened. All of it runs in the writer thread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from service.bus.group_commit import StoreBroken, StoreFull
from service.core.errors import JournalError
from service.core.message import Message

FILE_NAME = "journal.db"
LOCK_NAME = "journal.lock"

#: ``PRAGMA application_id``: "wxev". ``PRAGMA user_version``: the format of the tables below.
APPLICATION_ID = 0x77786576
FORMAT = 1

#: The first SQLite without the WAL-reset bug (https://www.sqlite.org/changes.html).
OLDEST_SQLITE = (3, 51, 3)

#: One read returns no more than this many bytes of values (and always at least one record).
READ_BYTES = 8 * 1024 * 1024

#: Rows that one operation removes at most, so that appends never wait long behind housekeeping.
STEP = 1000

#: Pages in the WAL after which it is copied into the file (4 MiB; as SQLite's own default).
CHECKPOINT_PAGES = 1000

_OFFSET_BITS = 40  # place = stream id << 40 | offset: one integer key, in order of stream and offset

_SCHEMA = f"""
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


class _Stream(msgspec.Struct, frozen=True):
    """One row of ``streams``."""

    id: int
    name: str
    first: int
    next: int
    rows: int
    compacted: bool

    def place(self, offset: int) -> int:
        return self.id << _OFFSET_BITS | offset

    def offset(self, place: int) -> int:
        return place - (self.id << _OFFSET_BITS)


class JournalFile:
    """The SQLite side: every method runs in the writer thread. ``rows`` and ``commits`` may be read from elsewhere."""

    def __init__(self, connection: apsw.Connection, lock: int) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._lock = lock
        self._wal_pages = 0
        self._streams = self._load()
        self._changed: set[str] = set()
        self.rows = self._count()
        self.commits = 0
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
        if os.fstat(self._lock).st_nlink == 0:  # what is in an unlinked file ends with the process
            raise StoreBroken("its folder was deleted while it was in use")
        self.rows = self._count()

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")
        self._changed.clear()
        self._streams = self._load()

    def settle(self) -> None:
        """Checkpoint here and not inside COMMIT: nobody waits for it, and SQLite does not swallow its errors."""
        if self._wal_pages >= CHECKPOINT_PAGES:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._wal_pages = 0

    def translated(self, error: Exception) -> Exception:
        return _translated(error)

    def close(self, *, trusted: bool) -> None:
        if not trusted:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()
        if trusted:
            os.close(self._lock)

    def _committed(self, connection: apsw.Connection, database: str, pages: int) -> int:  # noqa: ARG002 - SQLite's signature
        self.commits += 1
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # Streams

    def _load(self) -> dict[str, _Stream]:
        streams = {}
        row: Any
        for row in self._execute("SELECT id, name, first, next, rows, compacted, checksum FROM streams"):
            number, name, first, following, rows, compacted, checksum = row
            if _checksum(*row[:-1]) != checksum:
                raise StoreBroken("the list of streams is not what was written")
            streams[name] = _Stream(number, name, first, following, rows, bool(compacted))
        return streams

    def _save(self, stream: _Stream) -> None:
        values = (stream.id, stream.name, stream.first, stream.next, stream.rows, int(stream.compacted))
        self._execute(
            "REPLACE INTO streams (id, name, first, next, rows, compacted, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*values, _checksum(*values)),
        )

    def _change(self, stream: _Stream) -> None:
        self._streams[stream.name] = stream
        self._changed.add(stream.name)

    def _stream(self, name: str) -> _Stream:
        if (stream := self._streams.get(name)) is not None:
            return stream
        return _Stream(1 + max((known.id for known in self._streams.values()), default=0), name, 0, 0, 0, False)

    def _count(self) -> int:
        return sum(stream.rows for stream in self._streams.values())

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
                (stream.place(offset), *values, _checksum(name, offset, *values)),
            )
            self._change(_Stream(stream.id, name, stream.first, offset + 1, stream.rows + 1, stream.compacted))
            offsets.append(offset)
        return offsets

    def extent(self, name: str) -> Extent:
        stream = self._stream(name)
        return Extent(first=stream.first, next=stream.next, rows=stream.rows, compacted=stream.compacted)

    def read(self, name: str, start: int, limit: int) -> list[Stored]:
        stream = self._stream(name)
        expected, size, records = max(start, stream.first), 0, list[Stored]()
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
        end = min(before, stream.next, stream.first + STEP)
        if older_than is not None:
            end = self._first_young(stream, end, older_than)
        if end <= stream.first:
            return 0
        self._execute(
            "DELETE FROM records WHERE place >= ? AND place < ?", (stream.place(stream.first), stream.place(end))
        )
        removed = end - stream.first
        self._change(_Stream(stream.id, name, end, stream.next, stream.rows - removed, stream.compacted))
        return removed

    def _first_young(self, stream: _Stream, end: int, older_than: int) -> int:
        place = self._execute(
            "SELECT place FROM records WHERE place >= ? AND place < ? AND timestamp >= ? ORDER BY place LIMIT 1",
            (stream.place(stream.first), stream.place(end), older_than),
        ).get
        return end if place is None else stream.offset(place)

    def remove(self, *, stream: str, offsets: Sequence[int]) -> int:
        """Compaction's step."""
        known = self._stream(stream)
        for offset in offsets:
            self._execute("DELETE FROM records WHERE place = ?", (known.place(offset),))
            if self._connection.changes() != 1:
                raise JournalError(f"stream {stream}: record {offset} is missing")
        self._change(_Stream(known.id, stream, known.first, known.next, known.rows - len(offsets), compacted=True))
        return len(offsets)

    def positions(self, stream: str) -> dict[str, int]:
        positions = {}
        for group, position, checksum in self._execute(
            "SELECT consumers, position, checksum FROM positions WHERE stream = ?", (stream,)
        ):
            if _checksum(group, stream, position) != checksum:
                raise JournalError(f"stream {stream}: a committed position is not what was written")
            positions[group] = position
        return positions

    def commit_position(self, group: str, stream: str, position: int) -> None:
        self._execute(
            "REPLACE INTO positions (consumers, stream, position, checksum) VALUES (?, ?, ?, ?)",
            (group, stream, position, _checksum(group, stream, position)),
        )


def _checksum(*values: str | int | bytes | None) -> int:
    """CRC-32 over an encoding in which every value has its type and length: nothing can move from one to the next."""
    return zlib.crc32(_encode(values))


_encode = msgspec.msgpack.Encoder().encode


def _verified(stream: _Stream, row: Any) -> Stored:
    place, timestamp, topic, key, partition_by, value, checksum = row
    offset = stream.offset(place)
    if _checksum(stream.name, offset, timestamp, topic, key, partition_by, value) != checksum:
        raise JournalError(f"stream {stream.name}: record {offset} is not what was written")
    message = Message(topic=topic, key=key, value=value, partition_by=partition_by)
    return Stored(offset=offset, timestamp=timestamp, message=message)


def _refuse_gap(stream: _Stream, expected: int, found: int) -> None:
    if found != expected and not stream.compacted:
        raise JournalError(f"stream {stream.name}: records {expected} to {found - 1} are missing")


# Opening


def check_sqlite(version: str) -> None:
    """Refuse a SQLite that can lose committed transactions. Raises JournalError."""
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        raise JournalError(
            f"SQLite {version} has the WAL-reset bug; {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed"
        )


def open_file(folder: Path, max_bytes: int | None) -> JournalFile:
    check_sqlite(apsw.sqlite_lib_version())
    try:
        _make_folder(folder)
        return _open_locked(folder, max_bytes)
    except (apsw.Error, OSError, UnicodeError, JournalError) as exc:
        raise JournalError(f"the journal in {folder} cannot be opened: {exc}") from exc


def _open_locked(folder: Path, max_bytes: int | None) -> JournalFile:
    with contextlib.ExitStack() as undo:
        lock = _lock(folder)
        undo.callback(os.close, lock)
        connection = apsw.Connection(str(folder / FILE_NAME), flags=apsw.SQLITE_OPEN_READWRITE)
        undo.callback(connection.close)
        _prepare(connection, max_bytes)
        _sync(folder)  # now the WAL is there too; SQLite syncs the folder as well, but ignores a failure
        file = JournalFile(connection, lock)
        undo.pop_all()
        return file


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)
    (folder / FILE_NAME).touch(mode=0o600)  # SQLite gives the WAL the same mode


def _sync(folder: Path) -> None:
    """A file is only durable once the folder that names it is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """The kernel releases it with the process, however that ends. A second open in this process is refused as well."""
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
        os.close(descriptor)
        raise JournalError(
            f"it is in use (process {holder}). Stop that process, or give this one a folder of its own"
            " (WEBEX_EVENTS_JOURNAL__PATH): only `dev` runs several roles on one journal"
        ) from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _prepare(connection: apsw.Connection, max_bytes: int | None) -> None:
    connection.pragma("locking_mode", "exclusive")
    new = _is_new(connection)  # before anything is written: the file may be somebody else's
    if connection.pragma("journal_mode", "wal") != "wal":
        raise JournalError("SQLite cannot keep a write-ahead log there")
    for pragma, value in (
        ("synchronous", "full"),
        ("fullfsync", 1),
        ("checkpoint_fullfsync", 1),
        ("trusted_schema", 0),
    ):
        connection.pragma(pragma, value)
    if connection.pragma("synchronous") != 2:
        raise JournalError("SQLite did not accept synchronous=FULL")
    if max_bytes is not None:
        connection.pragma("max_page_count", max(1, max_bytes // connection.pragma("page_size")))
    if new:
        connection.execute(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")


def _is_new(connection: apsw.Connection) -> bool:
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != APPLICATION_ID:
        raise JournalError(f"{FILE_NAME} is not a journal of this program")
    if version != FORMAT:
        raise JournalError(f"its format is {version}, this version of the program reads {FORMAT}")
    return False


def _translated(error: Exception) -> Exception:
    if isinstance(error, apsw.FullError):
        return StoreFull(f"there is no room for the journal: {error}")
    if isinstance(error, _UNTRUSTED):
        return StoreBroken(str(error))
    if isinstance(error, (apsw.Error, UnicodeError)):
        return JournalError(str(error))
    return error


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
