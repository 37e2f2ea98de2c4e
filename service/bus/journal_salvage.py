"""What can be saved of a damaged journal: every record that is still as it was written, in a new journal, at its offset.

The damaged files are only read, and not by SQLite. They end in a folder of their own beside the new journal, unchanged.
Until the new one is complete and on the disk nothing is moved, and from then on every interrupted step is finished by the
next open: whatever happens in between, there is either the old journal or the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import ne
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec
import structlog

from service.bus.journal_check import Progress
from service.bus.journal_file import (
    FILE_NAME,
    FORMAT,
    FORMATS,
    FURTHEST,
    OFFSET_BITS,
    SCHEMA,
    WAL_NAME,
    Stream,
    checksum_of,
    size_of,
)
from service.bus.journal_lock import FolderLock
from service.bus.journal_pages import (
    TABLE_LEAF,
    Remains,
    Row,
    Unreadable,
    first_key,
    opened_for_reading,
    read_log_of,
    walk,
)
from service.core.errors import JournalError

#: Streams of which the last record of each key counts. With a part of it missing they would say what was never true.
TABLES = ("ledger", "partitions")

#: The files of a journal, and the folder in which the new one is built.
_FILES = (WAL_NAME, f"{FILE_NAME}-journal", f"{FILE_NAME}-shm", FILE_NAME)
_WORKSHOP = "salvaging"
_SALVAGED = "salvaged.db"

_MAGIC = b"SQLite format 3\0"
_APPLICATION = b"wxev"
_FORMAT_AT = 60  # in the header: https://www.sqlite.org/fileformat2.html#user_version_number
_APPLICATION_AT = 68
_INSERT = (
    "REPLACE INTO records (place, timestamp, topic, key, partition_by, value, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_COLUMNS = ("place", "timestamp", "topic", "key", "partition_by", "value", "checksum")
_ROWS_AT_ONCE = 1000

T = TypeVar("T")


class Salvaged(msgspec.Struct, kw_only=True):
    """By stream: the records kept, and how many are missing. ``set_aside``: streams that are kept as a whole or not at all.

    ``tail``: so many of the last records that were ever appended are missing, and nobody knows of which stream.
    """

    kept: dict[str, int] = msgspec.field(default_factory=dict)
    missing: dict[str, int] = msgspec.field(default_factory=dict)
    set_aside: list[str] = msgspec.field(default_factory=list)
    tail: int = 0
    positions_complete: bool = True

    def __str__(self) -> str:
        parts = [f"{count} records of {name}" for name, count in self.missing.items()]
        parts += [f"{self.tail} records that were appended last"] if self.tail else []
        parts += [f"all of {name}" for name in self.set_aside]
        parts += [] if self.positions_complete else ["perhaps some consumers' positions"]
        return f"missing: {', '.join(parts)}" if parts else "nothing is missing"


# The steps


def salvage(folder: Path, reason: str, *, lock: FolderLock, now: datetime) -> str:
    """Make a new journal of what can be verified, and move the damaged one aside. What happened, in a sentence.

    Raises JournalError, with every file where it was: no journal of ours, or no room to make another one.
    """
    workshop = folder / _WORKSHOP
    workshop.mkdir(mode=0o700)
    try:
        salvaged = _rebuild(folder, workshop / _SALVAGED, lock.appended)
    except (OSError, apsw.Error) as exc:
        shutil.rmtree(workshop, ignore_errors=True)
        needed = -(-(size_of(folder / FILE_NAME) + size_of(folder / WAL_NAME)) // (1 << 20))
        raise JournalError(
            f"it is damaged ({reason}) and could not be mended ({exc}); every file is as it was. What can be read is copied:"
            f" free {needed} MiB on its volume, or make the volume larger, and start again. To go on without it, move"
            f" {FILE_NAME} and {WAL_NAME} together to another place"
        ) from exc
    except BaseException:
        shutil.rmtree(workshop, ignore_errors=True)
        raise
    side = _side_folder(folder, now)
    left = any((folder / name).exists() for name in _FILES)
    workshop.rename(side)  # from here on it will be done, by the next open if not by this one
    sync_folder(folder)
    _say(reason, salvaged, side)
    finish_salvage(folder, lock)
    return f"{reason}; {salvaged}; " + (f"the damaged files are in {side.name}" if left else "no file of it was left")


def finish_salvage(folder: Path, lock: FolderLock) -> str | None:
    """Put a new journal in its place, and forget one that was not finished. The name of the folder with the damaged files."""
    shutil.rmtree(folder / _WORKSHOP, ignore_errors=True)
    side = None
    for new in sorted(folder.glob(f"damaged-*/{_SALVAGED}")):
        side = new.parent
        lock.forget()
        for name in _FILES:
            if (folder / name).exists():
                (folder / name).rename(side / name)
        sync_folder(side)
        sync_folder(folder)
        new.rename(folder / FILE_NAME)
        sync_folder(folder)  # it must have its new name before it can lose the old one
        sync_folder(side)
        with contextlib.suppress(OSError):
            side.rmdir()  # nothing was left to be moved
        sync_folder(folder)
    return None if side is None else side.name


def warn_of_damaged(folder: Path) -> None:
    """What was moved aside before stays until somebody deletes it. Raises OSError."""
    if sides := damaged_folders(folder):
        held = sum(path.stat().st_blocks * 512 for side in sides for path in side.rglob("*") if path.is_file())
        structlog.get_logger().warning(
            "journal.damaged_kept",
            folders=len(sides),
            bytes=held,
            advice="each is a whole journal that was found damaged, and takes room on this volume. Delete them when you know"
            " what was missing (docs/reference/journal.md)",
        )


def damaged_folders(folder: Path) -> list[Path]:
    """What was moved aside and not deleted since, oldest first. Raises OSError."""
    return sorted(side for side in folder.glob("damaged-*") if side.is_dir())


def _side_folder(folder: Path, now: datetime) -> Path:
    stem = f"damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while os.path.lexists(side := folder / (stem if number == 1 else f"{stem}-{number}")):
        number += 1
    return side


def sync_folder(folder: Path) -> None:
    """A file is only durable once the folder that names it is. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _say(reason: str, salvaged: Salvaged, side: Path) -> None:
    structlog.get_logger().error(
        "journal.damaged",
        reason=reason,
        kept=salvaged.kept,
        missing=salvaged.missing,
        missing_at_the_end=salvaged.tail,
        set_aside=salvaged.set_aside,
        positions_complete=salvaged.positions_complete,
        files=side.name,
        advice="the service goes on with a new journal of what could be read. Look at the disk, and keep the folder until you"
        " know what was missing (docs/reference/journal.md)",
    )


def _rebuild(folder: Path, path: Path, appended: int) -> Salvaged:
    path.touch(mode=0o600)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.pragma("journal_mode", "off")  # nobody sees it before it is complete
        connection.pragma("synchronous", 0)
        connection.execute(SCHEMA)
        with opened_for_reading(folder / FILE_NAME) as database, opened_for_reading(folder / WAL_NAME) as log:
            salvaged = _salvaged(connection, database, log, appended)
    finally:
        connection.close()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return salvaged


def _salvaged(connection: apsw.Connection, database: int | None, log: int | None, appended: int) -> Salvaged:
    wal = read_log_of(database, log)
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))  # the same in every journal
    remains = Remains(database, log, wal, wal.end)
    found = _find(remains, roots)
    if wal.last > wal.end and (wal.cut or sum(stream.next for stream in found.streams.values()) < appended):
        remains = Remains(database, log, wal, wal.last)
        found = _find(remains, roots)
    header = _format_of(remains)
    with connection:
        salvaged = _Salvage(connection, remains, found, roots["records"]).run(appended)
    if not (header or appended or found.streams or found.positions or salvaged.kept):
        raise JournalError(f"{FILE_NAME} is not a journal of this program")
    return salvaged


def _format_of(remains: Remains) -> bool:
    """Whether the header is ours, give or take a byte. Raises JournalError where it is that of a later version."""
    page = remains.page(1)
    said = page[: len(_MAGIC)] + page[_APPLICATION_AT : _APPLICATION_AT + len(_APPLICATION)]
    if len(page) < _APPLICATION_AT or sum(map(ne, said, _MAGIC + _APPLICATION)) > 1:
        return False
    version = int.from_bytes(page[_FORMAT_AT : _FORMAT_AT + 4], "big")
    if FORMAT < version < FORMATS:
        raise JournalError(f"its format is {version}, this version of the program reads {FORMAT}")
    return True


# What is left of the small tables


class _Found(msgspec.Struct, kw_only=True):
    """Rows that are as they were written. ``names``: what else may be a stream's name. ``complete``: none is missing."""

    streams: dict[int, Stream]
    positions: dict[tuple[str, str], int]
    holes: dict[str, set[tuple[int, int]]]
    names: dict[int, str]
    streams_complete: bool
    positions_complete: bool


def _find(remains: Remains, roots: dict[str, int]) -> _Found:
    streams, streams_complete = _table(remains, roots["streams"], _stream)
    positions, positions_complete = _table(remains, roots["positions"], _position)
    known: dict[int, Stream] = {}
    for stream in streams:  # of several versions the one that came last
        before = known.get(stream.id, stream)
        if (stream.next, stream.first) >= (before.next, before.first):
            known[stream.id] = stream
    furthest: dict[tuple[str, str], int] = {}
    for group, name, position in positions:
        furthest[group, name] = max(position, furthest.get((group, name), position))
    holes: dict[str, set[tuple[int, int]]] = {}
    names: dict[int, str] = {}
    for row in remains.rows(wanted=lambda page: not _has_records(page)):
        if (hole := _hole(row)) is not None:
            holes.setdefault(hole[0], set()).add(hole[1:])
        elif (indexed := _name(row)) is not None:
            names[indexed[1]] = indexed[0]
    return _Found(
        streams=known,
        positions=furthest,
        holes=holes,
        names=names,
        streams_complete=streams_complete,
        positions_complete=positions_complete,
    )


def _table(remains: Remains, root: int, verified: Callable[[Row], T | None]) -> tuple[list[T], bool]:
    """The table as it was at last; where that cannot be read, all rows of it that there ever were."""
    try:
        rows = [verified(row) for row in walk(root, remains.page)]
    except Unreadable:
        rows = [None]
    if None not in rows:
        return [row for row in rows if row is not None], True
    found = map(verified, remains.rows(wanted=lambda page: not _has_records(page)))
    return [row for row in found if row is not None], False


def _has_records(page: bytes) -> bool:
    return page[0] == TABLE_LEAF and (first_key(page) or 0) > FURTHEST


def _stream(row: Row) -> Stream | None:
    key, values = row
    match values:
        case (None, str(name), int(first), int(following), int(rows), int(compacted), int(checksum)) if key is not None:
            if checksum_of(key, name, first, following, rows, compacted) == checksum:
                return Stream(key, name, first, following, rows, bool(compacted))
    return None


def _position(row: Row) -> tuple[str, str, int] | None:
    match row:
        case (None, (str(group), str(stream), int(position), int(checksum))):
            if checksum_of(group, stream, position) == checksum:
                return group, stream, position
    return None


def _hole(row: Row) -> tuple[str, int, int] | None:
    match row:
        case (None, (str(stream), int(start), int(following), int(checksum))):
            if checksum_of(stream, start, following) == checksum:
                return stream, start, following
    return None


def _name(row: Row) -> tuple[str, int] | None:
    """From the index of the streams' names. It has no checksum: a record has to confirm it."""
    match row:
        case (None, (str(name), int(number))):
            return name, number
    return None


# Into the new journal


class _Salvage:
    """Fills a new journal with what was ``found``, and with every record in the ``remains`` that is as it was written."""

    def __init__(self, connection: apsw.Connection, remains: Remains, found: _Found, root: int) -> None:
        self._connection = connection
        self._remains = remains
        self._found = found
        self._root = root
        self._names = {number: stream.name for number, stream in found.streams.items()}
        self._others = {*found.names.values(), *(stream for _, stream in found.positions), *TABLES}
        self._progress = Progress("journal.salvaging")
        self._progress.of = sum(stream.rows for stream in found.streams.values())

    def run(self, appended: int) -> Salvaged:
        """``appended``: records that there ever were, at least."""
        self._connection.executemany(_INSERT, self._told(self._records()))
        whole = {stream.id for stream in self._found.streams.values() if stream.compacted and self._is_whole(stream)}
        streams = [self._counted(number) for number in sorted(self._names)]
        salvaged = Salvaged(positions_complete=self._found.positions_complete)
        salvaged.tail = max(0, appended - sum(stream.next for stream in streams))
        for stream in streams:
            self._keep(_going_on(stream, salvaged.tail), salvaged, whole=stream.id in whole)
        if salvaged.tail or not self._found.streams_complete:
            self._doubt_tables(streams)
        self._connection.executemany(
            "INSERT INTO positions (consumers, stream, position, checksum) VALUES (?, ?, ?, ?)",
            [(*row, checksum_of(*row)) for row in ((*key, at) for key, at in self._found.positions.items())],
        )
        return salvaged

    def _told(self, rows: Iterable[T]) -> Iterator[T]:
        for number, row in enumerate(rows):
            if number % _ROWS_AT_ONCE == 0:
                self._progress.rows = number
                self._progress.tell()
            yield row

    def _records(self) -> Iterator[tuple[Any, ...]]:
        """Of streams that were never compacted: where a record stood once, it stands, unless it was trimmed."""
        for place, values in self._remains.rows(wanted=_has_records):
            if place is None or len(values) != len(_COLUMNS):
                continue
            number, offset = place >> OFFSET_BITS, place & FURTHEST
            stream = self._found.streams.get(number)
            if stream is not None and (stream.compacted or offset < stream.first):
                continue
            if self._is_known(number, offset, values):
                yield place, *values[1:]

    def _is_known(self, number: int, offset: int, values: tuple[Any, ...]) -> bool:
        """A stream whose name was lost has the name with which its records' checksums are right."""
        if (known := self._names.get(number)) is not None:
            return bool(checksum_of(known, offset, *values[1:-1]) == values[-1])
        for name in {self._found.names.get(number), values[2], *self._others} - set(self._names.values()):
            if checksum_of(name, offset, *values[1:-1]) == values[-1]:
                self._names[number] = name
                return True
        return False

    def _is_whole(self, stream: Stream) -> bool:
        """Insert a compacted stream: exactly the records that it had at last, or it is not whole."""
        low, high, count = stream.place(0), stream.place(FURTHEST), 0
        try:
            for place, values in walk(self._root, self._remains.page, low=low, high=high):
                if place is None or not low <= place <= high:
                    continue
                if not self._is_known(stream.id, stream.offset(place), values):
                    return False
                self._connection.execute(_INSERT, (place, *values[1:]))
                count += 1
        except Unreadable:
            return False
        return count == stream.rows

    def _counted(self, number: int) -> Stream:
        """The stream with what is there of it now: it begins with the first of its records, and its offsets go on."""
        name, known = self._names[number], self._found.streams.get(number)
        positions = [at for (_, stream), at in self._found.positions.items() if stream == name]
        stream = known or Stream(number, name, 0, 0, 0, False)
        expected, rows, first = 0, 0, None
        holes = list[tuple[int, int]]()
        for (offset,) in self._connection.execute(
            "SELECT place - ? FROM records WHERE place >= ? AND place <= ? ORDER BY place",
            (stream.place(0), stream.place(0), stream.place(FURTHEST)),
        ):
            if first is None:
                first = offset
            elif offset != expected:
                holes.append((expected, offset))
            expected, rows = offset + 1, rows + 1
        following = max(stream.next, expected, *positions)
        counted = Stream(
            number, name, following if first is None else first, expected, rows, stream.compacted, tuple(holes)
        )
        return _going_on(counted, following - expected)

    def _keep(self, stream: Stream, salvaged: Salvaged, *, whole: bool) -> None:
        known = self._found.streams.get(stream.id)
        lost = 0
        if not stream.compacted:
            start = stream.first if known is None else known.first
            before = sum(stop - at for at, stop in self._found.holes.get(stream.name, ()) if start <= at < stream.next)
            lost = stream.next - start - stream.rows - before
        doubtful = stream.compacted or stream.name in TABLES
        if doubtful and (lost or salvaged.tail or known is None or (stream.compacted and not whole)):
            salvaged.set_aside.append(stream.name)
            self._set_aside(stream)
            return
        salvaged.kept[stream.name] = stream.rows
        if lost > 0:
            salvaged.missing[stream.name] = lost
        self._save(stream if not stream.compacted else msgspec.structs.replace(stream, holes=()))

    def _set_aside(self, stream: Stream) -> None:
        """Nothing of it is kept but that it was there, and which offsets it had."""
        self._connection.execute(
            "DELETE FROM records WHERE place >= ? AND place <= ?", (stream.place(0), stream.place(FURTHEST))
        )
        self._save(Stream(stream.id, stream.name, stream.next, stream.next, 0, True))

    def _doubt_tables(self, streams: list[Stream]) -> None:
        """One that is not even known any more may have been there: it must not look as if it had never begun."""
        number = max((stream.id for stream in streams), default=0)
        for name in set(TABLES) - {stream.name for stream in streams}:
            number += 1
            self._save(Stream(number, name, 1, 1, 0, True))

    def _save(self, stream: Stream) -> None:
        values = (stream.id, stream.name, stream.first, stream.next, stream.rows, int(stream.compacted))
        self._connection.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, checksum_of(*values)))
        self._connection.executemany(
            "INSERT INTO holes VALUES (?, ?, ?, ?)",
            [(stream.name, *hole, checksum_of(stream.name, *hole)) for hole in stream.holes],
        )


def _going_on(stream: Stream, skipped: int) -> Stream:
    """An offset that may have been given out is not given out again."""
    following = stream.next + skipped
    if not skipped or not stream.rows:
        return msgspec.structs.replace(stream, first=stream.first if stream.rows else following, next=following)
    *holes, last = stream.holes or ((0, -1),)
    if last[1] != stream.next:
        holes, last = [*stream.holes], (stream.next, stream.next)
    return msgspec.structs.replace(stream, next=following, holes=(*holes, (last[0], following)))
