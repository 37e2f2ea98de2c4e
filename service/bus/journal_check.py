"""Everything that can be verified of a journal, verified once: when it is opened, before anything is written to it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache
from itertools import islice
from typing import Any

import apsw
import structlog

from service.bus.group_commit import StoreBroken
from service.bus.journal_file import FURTHEST, OFFSET_BITS, SCHEMA, Stream, altered, checksum_of, gap, load_streams

#: Seconds between two lines in the log about how far it is; shorter than that, nothing is said.
PATIENCE = 2.0

_LARGEST = (1 << 63) - 1  # of SQLite's integers
_ROWS_AT_ONCE = 20_000
_STEPS = 1_000_000  # of SQLite's machine, between two looks at the clock


class Damaged(Exception):
    """What is there is not what was written. The sentence holds no names and no values of anybody's."""


class Progress:
    """Says in the log how far a long job is."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._begin = self._said = time.monotonic()
        self._log = structlog.get_logger()
        self.rows = 0
        self.of = 0

    def tell(self) -> bool:
        """Called every now and then. False, so that SQLite goes on (https://www.sqlite.org/c3ref/progress_handler.html)."""
        now = time.monotonic()
        if now - self._said >= PATIENCE:
            self._said = now
            self._log.info(self._event, seconds=round(now - self._begin), rows=self.rows, of=self.of)
        return False


def check(connection: apsw.Connection, *, appended: int, progress: Progress) -> None:
    """Verify SQLite's structure, every checksum, that nothing is missing, and that ``appended`` records ever were.

    Only reads. Raises Damaged; apsw's errors where SQLite itself cannot go on.
    """
    connection.set_progress_handler(progress.tell, _STEPS)
    try:
        _check_schema(connection)
        try:
            streams = load_streams(connection)
        except StoreBroken as exc:
            raise Damaged(str(exc)) from exc
        progress.of = sum(stream.rows for stream in streams)
        if (total := sum(stream.next for stream in streams)) < appended:
            raise Damaged(f"the last {appended - total} of {appended} records that were ever appended are missing")
        _check_positions(connection)
        for stream in streams:
            _check_rows(connection, stream, progress)
        _check_strays(connection, [stream.id for stream in streams])
        if (found := connection.pragma("integrity_check", 1)) != "ok":
            raise Damaged(f"SQLite finds: {_inline(found)}")
    finally:
        connection.set_progress_handler(None)


def _inline(found: Any) -> str:
    return " ".join(str(found).split())[:200]


def _check_schema(connection: apsw.Connection) -> None:
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema"))
    wanted = _schema()
    if found not in (wanted, {name: sql for name, sql in wanted.items() if name != "holes"}):  # before 2026-11-22
        raise Damaged("the tables are not those that were made")


@cache
def _schema() -> dict[str, str | None]:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    schema = dict(connection.execute("SELECT name, sql FROM sqlite_schema"))
    connection.close()
    return schema


def _check_positions(connection: apsw.Connection) -> None:
    row: Any
    for row in connection.execute("SELECT consumers, stream, position, checksum FROM positions"):
        if checksum_of(*row[:-1]) != row[-1]:
            raise Damaged(f"stream {row[1]}: a committed position is not what was written")


def _check_rows(connection: apsw.Connection, stream: Stream, progress: Progress) -> None:
    """All of the stream's, also those that would stand where there are none."""
    cursor: Any = connection.execute(
        "SELECT place - ?, timestamp, topic, key, partition_by, value, checksum FROM records"
        " WHERE place >= ? AND place <= ? ORDER BY place",
        (stream.place(0), stream.place(0), stream.place(FURTHEST)),
    )
    expected, count = stream.first, 0
    while True:
        following, seen = _check_some(islice(cursor, _ROWS_AT_ONCE), stream, expected)
        expected, count = following, count + seen
        progress.rows += seen
        progress.tell()
        if seen < _ROWS_AT_ONCE:
            break
    if expected > stream.next or not stream.accepts(expected, stream.next):
        raise Damaged(gap(stream, expected, stream.next))
    if count != stream.rows:
        raise Damaged(f"stream {stream.name}: {stream.rows} records were kept, {count} are there")


def _check_some(rows: Iterable[Any], stream: Stream, expected: int) -> tuple[int, int]:
    """Where the next one has to be, and how many there were. The one loop here that has to be quick."""
    name, count, checksum, accepts = stream.name, 0, checksum_of, stream.accepts
    for offset, timestamp, topic, key, partition_by, value, said in rows:
        if checksum(name, offset, timestamp, topic, key, partition_by, value) != said:
            raise Damaged(altered(stream, offset))
        if offset != expected and (offset < expected or not accepts(expected, offset)):
            raise Damaged(gap(stream, expected, offset))
        expected = offset + 1
        count += 1
    return expected, count


def _check_strays(connection: apsw.Connection, numbers: list[int]) -> None:
    """Records of no stream."""
    starts = [-_LARGEST, *((number + 1) << OFFSET_BITS for number in numbers)]
    ends = [*(number << OFFSET_BITS for number in numbers), _LARGEST]
    for start, end in zip(starts, ends, strict=True):
        if connection.execute("SELECT 1 FROM records WHERE place >= ? AND place < ? LIMIT 1", (start, end)).get:
            raise Damaged("there are records of a stream that does not exist")
