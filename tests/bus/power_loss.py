"""What a loss of power may leave of a journal: SQLite's writes are recorded through a VFS of ours, and put together again.

What was synchronised is there. Of what was written to a file since, anything may be there: nothing, everything, some of the
writes, or some of their 512-byte sectors (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). The
lock file is never synchronised: it may be as it was at any earlier time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from service.bus.journal_lock import LOCK_NAME

SECTOR = 512

Change = tuple[int, bytes] | int
"""A write, or the length to which the file was cut."""


@dataclass(frozen=True)
class Step:
    """One call of SQLite's: a change of the file ``name``, or (None) that it was synchronised; ``deleted``: it is gone."""

    name: str
    change: Change | None = None
    deleted: bool = False


class Recorder(apsw.VFS):
    """Writes as SQLite asks for it, and keeps a list of that."""

    def __init__(self, name: str) -> None:
        super().__init__(name, base="")
        self.steps: list[Step] = []

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _RecordedFile:  # noqa: N802 - apsw's name
        return _RecordedFile(self.steps, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's name and signature
        super().xDelete(filename, syncdir)
        self.steps.append(Step(Path(filename).name, deleted=True))


class _RecordedFile(apsw.VFSFile):
    def __init__(self, steps: list[Step], name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._steps = steps
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's name
        super().xWrite(data, offset)
        self._steps.append(Step(self._name, (offset, bytes(data))))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        super().xTruncate(newsize)
        self._steps.append(Step(self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        super().xSync(flags)
        self._steps.append(Step(self._name))


@dataclass
class _Disk:
    """One file: what is safe, and what was changed since."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[Change] = field(default_factory=list)

    def synchronised(self) -> None:
        for change in self.since:
            _apply(self.safe, change)
        self.since.clear()

    def left(self, choose: Callable[[list[Change]], list[Change]]) -> bytes:
        content = bytearray(self.safe)
        for change in choose(self.since):
            _apply(content, change)
        return bytes(content)


def _apply(content: bytearray, change: Change) -> None:
    if isinstance(change, int):
        del content[change:]
        return
    offset, data = change
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@dataclass(frozen=True)
class Left:
    """What is left when the power goes after ``step`` calls, in one of the ways in which that may happen."""

    step: int
    way: str
    files: dict[str, bytes]


def states(steps: list[Step], locks: list[tuple[int, bytes]], chance: random.Random, *, count: int) -> Iterator[Left]:
    """About ``count`` states, spread over all of ``steps``. ``locks``: the lock file's content from a step on."""
    disks: dict[str, _Disk] = {}
    due = 0.0
    ways = _ways(chance)
    for number, step in enumerate(steps, 1):
        _advance(disks, step)
        due += count / len(steps)
        while due >= 1:
            due -= 1
            way = ("none", "all", "some", "torn")[chance.randrange(4)]
            files = {name: disk.left(ways[way]) for name, disk in disks.items()}
            known = [content for at, content in locks if at <= number]
            yield Left(number, way, files | ({LOCK_NAME: chance.choice(known)} if known else {}))


def _advance(disks: dict[str, _Disk], step: Step) -> None:
    if step.deleted:
        disks.pop(step.name, None)
        return
    disk = disks.setdefault(step.name, _Disk())
    if step.change is None:
        disk.synchronised()
    else:
        disk.since.append(step.change)


def _ways(chance: random.Random) -> dict[str, Callable[[list[Change]], list[Change]]]:
    return {
        "none": lambda _: [],
        "all": list,
        "some": lambda since: [change for change in since if chance.random() < 0.5],
        "torn": lambda since: [piece for change in since for piece in _sectors(change) if chance.random() < 0.7],
    }


def _sectors(change: Change) -> Iterator[Change]:
    if isinstance(change, int):
        yield change
        return
    offset, data = change
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
        yield offset + start, data[start:end]
        start = end
