"""Rows from the pages of a SQLite file, read without SQLite: https://www.sqlite.org/fileformat2.html#b_tree_pages

For files that SQLite cannot read any more, or must not touch. A page that is whole gives its rows, whatever happened to
those around it. Nothing here is trusted: whoever reads rows verifies them by their own checksums.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from service.bus.journal_wal import Log, read_log

INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF = 0x02, 0x05, 0x0A, 0x0D

#: One value of a row: a row id is not among them, its column is None.
Value: TypeAlias = int | float | str | bytes | None
#: A row's id (None in an index, or a table without such ids) and its values.
Row: TypeAlias = tuple[int | None, tuple[Value, ...]]

#: The bytes of a page by its number.
ReadPage: TypeAlias = Callable[[int], bytes]

_PAGE_SIZE = 4096  # that of SQLite since 2016, where nothing else is known
_BLOCK = 4096
_LARGEST = 128 * 1024 * 1024  # bytes of a row: a size beyond it is a damaged one
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)  # of values by their kind


class Unreadable(Exception):
    """A page makes no sense."""


class _Cell(NamedTuple):
    child: int
    key: int | None
    size: int  # of the whole content
    content: int  # where it begins


def read_anyway(descriptor: int, size: int, start: int) -> bytes:
    """As much of ``size`` bytes as the file has; zeros where the disk does not give them."""
    try:
        return os.pread(descriptor, size, start)
    except OSError:
        if size <= _BLOCK:
            return bytes(size)
    blocks = (min(_BLOCK, size - offset) for offset in range(0, size, _BLOCK))
    return b"".join(read_anyway(descriptor, block, start + n * _BLOCK) for n, block in enumerate(blocks))


@contextlib.contextmanager
def opened_for_reading(path: Path) -> Iterator[int | None]:
    """A descriptor, or None where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_log_of(database: int | None, log: int | None) -> Log:
    """What the log of the database says, or an empty one where either is missing."""
    page_size = _PAGE_SIZE if database is None else _page_size(read_anyway(database, 18, 0)[16:])
    if log is None:
        return Log(page_size=page_size)
    return read_log(lambda size, start: read_anyway(log, size, start), size=os.fstat(log).st_size, page_size=page_size)


def _page_size(said: bytes) -> int:
    size = int.from_bytes(said, "big")
    return size if size in {512, 1024, 2048, 4096, 8192, 16384, 32768} else _PAGE_SIZE


def rows_of(page: bytes, read: ReadPage) -> Iterator[Row | None]:
    """The rows that stand in the page itself; None for one that makes no sense."""
    for cell in _cells(page):
        if cell is None:
            yield None
        elif page[0] != TABLE_INNER:
            try:
                yield cell.key, _values(_content(page, cell, read))
            except (ValueError, IndexError, struct.error, Unreadable):
                yield None


def first_key(page: bytes) -> int | None:
    """The id of the first row of a leaf page, or None."""
    cell = next(iter(_cells(page)), None)
    return None if cell is None else cell.key


def walk(root: int, read: ReadPage, *, low: int | None = None, high: int | None = None) -> Iterator[Row]:
    """Every row of the tree; of a table those with ids from ``low`` to below ``high`` at least, where that is said.

    In no order. Raises Unreadable where anything is wrong.
    """
    pending, seen = [root], set[int]()
    while pending:
        number = pending.pop()
        page = read(number)
        if number in seen or not page or page[0] not in {INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF}:
            raise Unreadable(f"page {number}")
        seen.add(number)
        if page[0] in {INDEX_INNER, TABLE_INNER}:
            pending.extend(_children(number, page, low, high))
        for row in rows_of(page, read):
            if row is None:
                raise Unreadable(f"a row of page {number}")
            yield row


def _children(number: int, page: bytes, low: int | None, high: int | None) -> Iterator[int]:
    """A child's keys are at most the key beside it, and greater than the one before."""
    after: int | None = None
    for cell in _cells(page):
        if cell is None:
            raise Unreadable(f"a child of page {number}")
        beyond = high is not None and after is not None and after >= high
        if not beyond and not (low is not None and cell.key is not None and cell.key < low):
            yield cell.child
        after = cell.key
    if high is None or after is None or after < high:
        yield int.from_bytes(page[8:12], "big")


def _cells(page: bytes) -> Iterator[_Cell | None]:
    if len(page) < 12 or page[0] not in {INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF}:
        return
    kind, count = page[0], int.from_bytes(page[3:5], "big")
    header = 12 if kind in {INDEX_INNER, TABLE_INNER} else 8
    for pointer in range(header, min(header + 2 * count, len(page) - 1), 2):
        try:
            yield _cell(page, kind, int.from_bytes(page[pointer : pointer + 2], "big"))
        except IndexError:
            yield None


def _cell(page: bytes, kind: int, at: int) -> _Cell:
    child = 0
    if kind in {INDEX_INNER, TABLE_INNER}:
        child, at = int.from_bytes(page[at : at + 4], "big"), at + 4
    if kind == TABLE_INNER:
        key, at = _number(page, at)
        return _Cell(child, key, 0, at)
    size, at = _number(page, at)
    if kind == TABLE_LEAF:
        key, at = _number(page, at)
        return _Cell(child, key, size, at)
    return _Cell(child, None, size, at)


def _content(page: bytes, cell: _Cell, read: ReadPage) -> bytes:
    """What stands in the page, and behind it what stands in a chain of further pages."""
    local = _local(len(page), cell.size, table=page[0] == TABLE_LEAF)
    content = page[cell.content : cell.content + local]
    if local == cell.size:
        return content
    if cell.size > _LARGEST:
        raise Unreadable(f"a row of {cell.size} bytes")
    parts, left = [content], cell.size - local
    following = int.from_bytes(page[cell.content + local : cell.content + local + 4], "big")
    while left > 0:
        further = read(following)
        if not further:
            raise Unreadable(f"page {following} is missing")
        parts.append(further[4 : 4 + left])
        left -= len(parts[-1])
        following = int.from_bytes(further[:4], "big")
    return b"".join(parts)


def _local(page_size: int, size: int, *, table: bool) -> int:
    """How many bytes of the content stand in the page itself."""
    most = page_size - 35 if table else (page_size - 12) * 64 // 255 - 23
    if size <= most:
        return size
    least = (page_size - 12) * 32 // 255 - 23
    local = least + (size - least) % (page_size - 4)
    return local if local <= most else least


def _values(content: bytes) -> tuple[Value, ...]:
    end, at = _number(content, 0)
    body, values = end, list[Value]()
    while at < end:
        kind, at = _number(content, at)
        size = (kind - 12) // 2 if kind >= 12 else _SIZES[kind]
        values.append(_value(kind, content[body : body + size]))
        body += size
    if body != len(content):
        raise Unreadable("a row is longer or shorter than it says")
    return tuple(values)


def _value(kind: int, content: bytes) -> Value:
    if kind >= 12:
        return content.decode() if kind % 2 else content
    if 1 <= kind <= 6:
        return int.from_bytes(content, "big", signed=True)
    if kind == 0:
        return None
    if kind in {8, 9}:
        return kind - 8
    raise Unreadable("a value of a kind that we never write")


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer, and where the next thing begins. Raises IndexError."""
    if (number := content[at]) < 0x80:  # nearly all
        return number, at + 1
    number = 0
    for step in range(8):
        byte = content[at + step]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + step + 1
    number = number << 8 | content[at + 8]
    return (number - (1 << 64) if number >> 63 else number), at + 9


class Remains:
    """What is left of a database and its log, as files that are only read; either may be missing (None).

    ``last``: how many frames of the log count.
    """

    def __init__(self, database: int | None, log: int | None, wal: Log, last: int) -> None:
        self._database = database
        self._log = log
        self._size = wal.page_size
        self._frames = wal.frames[:last]
        self._newest = {frame.page: frame.start for frame in self._frames if frame.current or frame.linked}
        self.count = 0 if database is None else -(-os.fstat(database).st_size // self._size)

    def page(self, number: int) -> bytes:
        """The newest version of a page; nothing where there is none."""
        if self._log is not None and (start := self._newest.get(number)) is not None:
            return read_anyway(self._log, self._size, start)
        return self._stored(number)

    def _stored(self, number: int) -> bytes:
        if self._database is None or not 0 < number <= self.count:
            return b""
        return read_anyway(self._database, self._size, (number - 1) * self._size).ljust(self._size, b"\0")

    def versions(self) -> Iterator[bytes]:
        """Every page as it was at some time, the newest version of it last. Page 1 holds no rows of ours."""
        yield from map(self._stored, range(2, self.count + 1))
        if self._log is not None:
            for frame in self._frames:
                if (frame.current or frame.linked) and frame.page != 1:
                    yield read_anyway(self._log, self._size, frame.start)

    def rows(self, *, wanted: Callable[[bytes], bool]) -> Iterator[Row]:
        """Of every version of every page that is ``wanted``, what can be read."""
        pages = (rows_of(page, self.page) for page in self.versions() if page and wanted(page))
        return (row for row in chain.from_iterable(pages) if row is not None)
