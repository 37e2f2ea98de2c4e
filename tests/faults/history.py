"""What happened in a fault test: one JSON line for each thing that did, written by whoever saw it.

Several processes write, each its own file; :func:`read` puts files together. ``at`` is the monotonic clock, which all
processes of one machine share, and ``wall`` the time of day in seconds since 1970, which Kafka's timestamps are in.
A last line without its end, as a killed process leaves it, is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec


class Line(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag=str.lower,
):
    """What every line has: when it was written."""

    at: float = msgspec.field(default_factory=time.monotonic)
    wall: float = msgspec.field(default_factory=time.time)


class Post(Line, frozen=True, kw_only=True):
    """A request and its answer. ``status`` 0: no answer came. Times are monotonic.

    ``ctr`` counts up for each key. ``due`` is when the timetable wanted it sent, ``t0`` when it was, ``t1`` when the answer
    came. ``topics`` are those where it has to arrive; none named: one of them, whichever. ``event`` is the id of the
    CloudEvent that it becomes, where the sender knows it.
    """

    id: str
    key: str
    ctr: int
    status: int
    t0: float
    t1: float
    due: float | None = None
    topics: tuple[str, ...] = ()
    event: str = ""


class Kafka(Line, frozen=True, kw_only=True):
    """A record that an independent reader found.

    ``received`` is when the product took the event in, by its own word, and ``appended`` when the broker wrote the record;
    both are times of day, 0.0 unknown.
    """

    topic: str = ""
    partition: int
    offset: int
    id: str
    key: str
    ctr: int
    received: float = 0.0
    appended: float = 0.0


class Letter(Line, frozen=True, kw_only=True):
    """The event was set aside with a reason: ``where`` is ``dead-letters``, ``quarantine``, or the journal's ``refused``."""

    id: str
    where: str = "dead-letters"
    reason: str = ""


class Journal(Line, frozen=True, kw_only=True):
    """The event still stands in the journal's ``stream`` when the history ends."""

    id: str
    stream: str = ""


class Effect(Line, frozen=True, kw_only=True):
    """A call of the outside world because of event ``id``. ``changed``: it did something that was not so before.

    ``retry_after`` is in seconds, where the answer asked for silence. Times are monotonic.
    """

    id: str
    key: str
    call: str
    status: int
    changed: bool = True
    credential: str = ""
    retry_after: float = 0.0
    t0: float
    t1: float


class Superseded(Line, frozen=True, kw_only=True):
    """A later event of the same key did the work of this one."""

    id: str


class Commit(Line, frozen=True, kw_only=True):
    """A consumer committed ``offset`` (the next one to read) while ``lowest_unfinished`` was not finished yet."""

    group: str = ""
    topic: str = ""
    partition: int
    offset: int
    lowest_unfinished: int


class Fault(Line, frozen=True, kw_only=True):
    """Something is broken on purpose, and mended again. ``target`` says what."""

    name: str
    phase: Literal["begin", "end"]
    target: str = ""


class Note(Line, frozen=True, kw_only=True):
    """A figure about the run: the machine's load, a seed."""

    name: str
    value: float


AnyLine = Post | Kafka | Letter | Journal | Effect | Superseded | Commit | Fault | Note
History = Sequence[AnyLine]


class HistoryUnreadable(Exception):
    """A line that is none. The message says where."""


_decoder: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)


class Writer:
    """Appends lines to a file; each is there for other processes when :meth:`write` returns."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab")

    def write(self, *lines: AnyLine) -> None:
        """Append."""
        self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        self._file.flush()

    def close(self) -> None:
        """End."""
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(*paths: Path) -> list[AnyLine]:
    """All lines of all files. Raises HistoryUnreadable, OSError."""
    return [line for path in paths for line in _lines(path)]


def _lines(path: Path) -> Iterable[AnyLine]:
    *whole, _torn = path.read_bytes().split(b"\n")
    for number, text in enumerate(whole, 1):
        try:
            yield _decoder.decode(text)
        except msgspec.DecodeError as error:  # ValidationError is one
            raise HistoryUnreadable(f"{path.name}:{number}: {error}") from None
