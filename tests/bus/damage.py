"""Journals to be damaged, and what must come back of them: their files as bytes, and what they held.

They are written and read without the thread (:class:`JournalFile`), since some thousand of them are opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from service.bus.journal_file import FILE_NAME, WAL_NAME, JournalFile, Stored
from service.bus.journal_lock import LOCK_NAME
from service.bus.journal_opening import open_file
from service.core.message import Message

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
SIDE = "damaged-20260506T070809Z"
FILES = (FILE_NAME, WAL_NAME)

Records = dict[str, dict[int, Stored]]
Operation = Callable[[JournalFile], Any]
Files = Mapping[str, bytes]


class Kept(NamedTuple):
    """A journal as its files, with what it holds, and every record that was ever in it."""

    files: Files
    records: Records
    ever: Records
    positions: dict[str, dict[str, int]]


def message(number: int, *, topic: str, key: str = "k", size: int = 0) -> Message:
    """A record whose value says its number."""
    return Message(topic=topic, key=key, value=b"%d " % number + b"v" * size, partition_by="org")


def appending(*entries: tuple[str, Message], timestamp: int = 1) -> Operation:
    """All of them in one operation."""
    return lambda file: file.append(entries, timestamp)


def committing(group: str, stream: str, position: int) -> Operation:
    """A group's position."""
    return lambda file: file.commit_position(group, stream, position)


def transact(file: JournalFile, *operations: Operation) -> list[Any]:
    """One transaction, and the housekeeping behind it."""
    file.begin()
    results = [file.attempt(operation) for operation in operations]
    file.commit()
    file.settle()
    return results


@contextmanager
def opened(folder: Path) -> Iterator[JournalFile]:
    """The journal, closed as it should be."""
    file = open_file(folder, None, now=lambda: NOW)
    try:
        yield file
    finally:
        file.close(trusted=True)


def contents(file: JournalFile) -> Records:
    """Everything that can be read."""
    return {name: {stored.offset: stored for stored in pages(file, name)} for name in file.extents()}


def pages(file: JournalFile, name: str) -> Iterator[Stored]:
    """One stream, page by page."""
    position = file.extent(name).first
    while page := file.read(name, position, 1000):
        yield from page
        position = page[-1].offset + 1


def positions(file: JournalFile) -> dict[str, dict[str, int]]:
    """Of all groups."""
    return {name: file.positions(name) for name in file.extents()}


def files_of(folder: Path) -> dict[str, bytes]:
    """As they are at this moment: what another process would find if this one were killed."""
    names = (*FILES, LOCK_NAME)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def put(folder: Path, files: Files) -> Path:
    """A folder with these files."""
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def missing(kept: Kept, records: Records) -> list[tuple[str, int]]:
    """What was there and is not any more."""
    return [(name, at) for name, rows in kept.records.items() for at in rows if at not in records.get(name, {})]


def altered(kept: Kept, records: Records) -> list[tuple[str, int]]:
    """What was never written as it is there now."""
    everything = kept.ever
    return [
        (name, at)
        for name, rows in records.items()
        for at, row in rows.items()
        if everything.get(name, {}).get(at) != row
    ]


def by_key(rows: Mapping[int, Stored]) -> dict[str, bytes | None]:
    """What a table says: the last record of each key."""
    return {rows[offset].message.key: rows[offset].message.value for offset in sorted(rows)}


class Writer:
    """Writes a journal with everything in it, and remembers what it wrote."""

    def __init__(self, file: JournalFile, chance: random.Random) -> None:
        self.file = file
        self.chance = chance
        self.ever: Records = {}

    def write(self, numbers: Iterable[int]) -> None:
        """Two streams and a table, large records among small ones, and positions; each number one transaction."""
        for number in numbers:
            size = self.chance.choice((0, 30, 200, 700, 6000))
            entries = [
                ("meetings", message(number, topic="meetings", size=size)),
                ("work", message(number, topic="work")),
            ]
            if number % 3 == 0:
                entries.append(("ledger", message(number, topic="ledger", key=f"k{number % 4}", size=150)))
            operations = [appending(*entries, timestamp=number)]
            if number % 4 == 0:
                operations += [committing("g", "work", number // 2), committing("h", "meetings", number // 3)]
            self._remember(entries, transact(self.file, *operations)[0], number)

    def _remember(self, entries: list[tuple[str, Message]], offsets: list[int], timestamp: int) -> None:
        for (name, each), offset in zip(entries, offsets, strict=True):
            self.ever.setdefault(name, {})[offset] = Stored(offset=offset, timestamp=timestamp, message=each)

    def compact(self) -> None:
        """The table keeps the last record of each key."""
        rows = contents(self.file)["ledger"]
        last = {stored.message.key: offset for offset, stored in rows.items()}
        obsolete = sorted(set(rows) - set(last.values()))
        transact(self.file, lambda file: file.remove(stream="ledger", offsets=obsolete))

    def trim(self, before: int) -> None:
        """From the front of ``work``."""
        transact(self.file, lambda file: file.trim("work", before, None))

    def kept(self, folder: Path) -> Kept:
        """As it is now."""
        return Kept(
            files_of(folder), contents(self.file), {n: dict(r) for n, r in self.ever.items()}, positions(self.file)
        )


def written(folder: Path, seed: int) -> dict[str, Kept]:
    """Four states of one journal: all of it in the log; closed; a part in the log; and in a log that has begun anew, with
    old frames behind the new ones.
    """
    states, chance = {}, random.Random(seed)  # noqa: S311 - sizes, not secrets
    with opened(folder) as file:
        writer = Writer(file, chance)
        writer.write(range(8))
        writer.trim(3)
        writer.compact()
        writer.write(range(8, 14))
        states["log"] = writer.kept(folder)
    states["closed"] = states["log"]._replace(files=files_of(folder))
    with opened(folder) as file:
        writer.file = file
        writer.write(range(14, 17))
        writer.compact()
        writer.write(range(17, 22))
        states["both"] = writer.kept(folder)
        file._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        writer.write(range(22, 25))
        states["anew"] = writer.kept(folder)
    return states
