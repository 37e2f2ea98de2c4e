"""The ledger as a file: one JSON document a line, so that it can be looked at, kept, and put back, on another bus too.

    {"format": "webex-events ledger", "version": 1, "at": "2027-01-10T09:00:00.000Z", "partitions": 3}
    {"partition": 0, "key": "seen/<series>/<registrant>", "value": {"status": "approved", "facts": 2}}
    {"records": 1}

Only the last record of each key is there, in the order of the ledger, which matters: a release takes back what stands before
it. What is about a partition and not about meetings (owner, founded, observing) is left out. The last line says how many
records there are, so that a file cut short is known as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from service.core.errors import EventProcessorError
from service.core.event import rfc3339
from service.core.ledger import Dirty, KnownMeeting, from_record
from service.core.message import Message

FORMAT = "webex-events ledger"
VERSION = 1

_OF_THE_PARTITION = ("owner", "founded", "observing")
_OF_AN_ORGANIZATION = ("paused", "policy")

_T = TypeVar("_T")


class LedgerFileError(EventProcessorError):
    """The file is not what an export writes; says which line."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the ledger. ``value`` is its JSON."""

    partition: int
    key: str
    value: msgspec.Raw

    @property
    def kind(self) -> str:
        """Of the record."""
        return self.key.partition("/")[0]

    @property
    def subject(self) -> str:
        """Of the record."""
        return self.key.split("/", 2)[1] if "/" in self.key else ""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    version: int
    at: str
    partitions: int


class _Foot(msgspec.Struct, frozen=True, kw_only=True):
    records: int


class Records:
    """The records of a ledger that count, by key; ``add`` them in the order of the ledger."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, str], bytes] = {}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def keys(self) -> frozenset[str]:
        """Of the records."""
        return frozenset(key for _, key in self._values)

    def add(self, partition: int, key: str, value: bytes | None) -> None:
        """One record; the last one of a key counts, a tombstone takes it away."""
        place = partition, key
        self._values.pop(place, None)  # its place in the order is the new one
        if value is not None and key.partition("/")[0] not in _OF_THE_PARTITION:
            self._values[place] = value

    def lines(self, *, partitions: int, at: datetime) -> Iterator[bytes]:
        """The file. A value that is no JSON is left out: nobody could read it anyway."""
        written = 0
        yield _line(_Head(format=FORMAT, version=VERSION, at=rfc3339(at), partitions=partitions))
        for (partition, key), value in self._values.items():
            if _is_json(value):
                written += 1
                yield _line(Line(partition=partition, key=key, value=msgspec.Raw(value)))
        yield _line(_Foot(records=written))


def _line(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def parse(lines: Iterable[bytes]) -> list[Line]:
    """The records of a file. Raises LedgerFileError where it is none, or is cut short."""
    rows = [row for row in lines if row.strip()]
    head = _decoded(rows[0] if rows else b"", _Head, 1)
    if head.format != FORMAT or head.version != VERSION:
        raise LedgerFileError(f"line 1: this is no {FORMAT} of version {VERSION}")
    foot = _decoded(rows[-1], _Foot, len(rows))
    if foot.records != len(rows) - 2:
        raise LedgerFileError(f"the file says {foot.records} records and has {len(rows) - 2}")
    return [_decoded(row, Line, number) for number, row in enumerate(rows[1:-1], start=2)]


def _decoded(row: bytes, type_: type[_T], number: int) -> _T:
    try:
        return msgspec.json.decode(row, type=type_)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise LedgerFileError(f"line {number}: not what an export writes there, or the file is cut short") from None


def owners(lines: Sequence[Line]) -> Mapping[str, str]:
    """Whose each series is: series → organisation, as its meeting, or its dirty mark, says."""
    found: dict[str, str] = {}
    for line in lines:
        if line.kind in ("meeting", "dirty") and (organization := _organization(line)):
            found[line.subject] = organization
    return found


def _organization(line: Line) -> str:
    try:
        entry = from_record(line.key, bytes(line.value))
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""
    value = entry.value if entry is not None else None
    return value.organization if isinstance(value, KnownMeeting | Dirty) else ""


def to_messages(lines: Sequence[Line], *, otherwise: Sequence[str]) -> list[Message]:
    """The records to write, each with its organisation's; ``otherwise``: the organisations that there are.

    What does not say whose it is goes to whoever else had something in its partition; a command to all of them, since it is
    better known twice than run twice. Raises LedgerFileError where a series is nobody's.
    """
    series = owners(lines)
    own = [_own(line, series) for line in lines]
    neighbours: dict[int, dict[str, None]] = {}
    for line, organization in zip(lines, own, strict=True):
        if organization:
            neighbours.setdefault(line.partition, {})[organization] = None
    messages = []
    for line, organization in zip(lines, own, strict=True):
        places = [organization] if organization else list(neighbours.get(line.partition, otherwise))
        if len(places) != 1 and line.kind != "command":
            raise LedgerFileError(f"nothing says whose {line.key} is")
        messages += [Message(topic="ledger", key=line.key, value=bytes(line.value), partition_by=p) for p in places]
    return messages


def _own(line: Line, series: Mapping[str, str]) -> str:
    return line.subject if line.kind in _OF_AN_ORGANIZATION else series.get(line.subject, "")
