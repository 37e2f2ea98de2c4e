"""The ledger as a file: one JSON document a line, so that it can be looked at, kept, and put back, on another bus too.

    {"format": "webex-events ledger", "version": 1, "at": "2027-01-10T09:00:00.000Z", "partitions": 3}
    {"partition": 0, "key": "seen/<series>/<registrant>", "value": {"status": "approved", "facts": 2}}
    {"records": 1}

Only the last record of each key is there, in the order of the ledger, which matters: a release takes back what stands before
it. What is about a partition and not about meetings (owner, founded, observing) is left out, and never read from a file. The
last line says how many records there are, so that a file cut short is known as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from service.core.errors import EventProcessorError
from service.core.event import rfc3339
from service.core.ledger import Dirty, KnownMeeting, from_record
from service.core.message import UNREADABLE, Message

FORMAT = "webex-events ledger"
VERSION = 1

_OF_THE_PARTITION = ("owner", "founded", "observing")
_OF_AN_ORGANIZATION = ("paused", "policy")
_TAKING_BACK = ("released", "intent")

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

    @property
    def registrant(self) -> str:
        """Whom the record is about, as ``<series>/<registrant>``; "" where it is about nobody."""
        return _registrant_of(self.key)


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

    @property
    def registrants(self) -> frozenset[str]:
        """Everybody about whom there is a record, as ``<series>/<registrant>``."""
        return frozenset(map(_registrant_of, self.keys)) - {""}

    @property
    def left_out(self) -> list[str]:
        """The keys of records that no file can have: this version cannot read them, nor can its processors."""
        return [key for (_, key), value in self._values.items() if _exported(key, value) is None]

    def add(self, partition: int, key: str, value: bytes | None) -> None:
        """One record; the last one of a key counts, a tombstone takes it away."""
        place = partition, key
        self._values.pop(place, None)  # its place in the order is the new one
        if value is not None and key.partition("/")[0] not in _OF_THE_PARTITION:
            self._values[place] = value

    def lines(self, *, partitions: int, at: datetime) -> Iterator[bytes]:
        """The file, without what is :attr:`left_out`."""
        written = 0
        yield _line(_Head(format=FORMAT, version=VERSION, at=rfc3339(at), partitions=partitions))
        for (partition, key), value in self._values.items():
            if (exported := _exported(key, value)) is not None:
                written += 1
                yield _line(Line(partition=partition, key=key, value=msgspec.Raw(exported)))
        yield _line(_Foot(records=written))


def _line(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _registrant_of(key: str) -> str:
    rest = key.partition("/")[2]
    return rest if "/" in rest else ""


def _exported(key: str, value: bytes) -> bytes | None:
    """``value`` on one line, or None where nobody can read it. A fact is told by its key alone."""
    try:
        if from_record(key, value) is None:
            return None
        msgspec.json.decode(value)  # also what no field asks for has to be JSON
        return msgspec.json.format(value, indent=-1)
    except UNREADABLE:
        return _by_its_key(key)


def _by_its_key(key: str) -> bytes | None:
    try:
        entry = from_record(key, b"")
    except UNREADABLE:
        return None
    return msgspec.json.encode(entry.value) if entry is not None else None


def parse(lines: Iterable[bytes]) -> list[Line]:
    """The records of a file. Raises LedgerFileError where it is none, is cut short, or has what no processor could read."""
    rows = [(number, row) for number, row in enumerate(lines, start=1) if row.strip()]
    number, row = rows[0] if rows else (1, b"")
    head = _decoded(row, _Head, number)
    if head.format != FORMAT or head.version != VERSION:
        raise LedgerFileError(f"line {number}: this is no {FORMAT} of version {VERSION}")
    number, row = rows[-1]
    foot = _decoded(row, _Foot, number)
    if foot.records != len(rows) - 2:
        raise LedgerFileError(f"line {number}: the file says {foot.records} records and has {len(rows) - 2}")
    return [_checked(_decoded(row, Line, number), number) for number, row in rows[1:-1]]


def _checked(line: Line, number: int) -> Line:
    """``line``, where an export could have written it."""
    if line.kind in _OF_THE_PARTITION:
        raise LedgerFileError(f"line {number}: what is about a partition ({line.kind}) is never put back")
    try:
        entry = from_record(line.key, bytes(line.value))
    except UNREADABLE:
        raise LedgerFileError(f"line {number}: no value of a record of this kind ({line.kind})") from None
    if entry is None:
        raise LedgerFileError(f"line {number}: no key of a record of the ledger")
    return line


def missing(lines: Iterable[Line], there: Records) -> list[Line]:
    """Those of ``lines`` that a ledger with the records ``there`` does not have.

    A release takes back what stands before it, and so does what we were about to do once it is read behind what a person did:
    neither is put behind what the ledger says of a registrant by now.
    """
    keys, registrants = there.keys, there.registrants
    return [
        line
        for line in lines
        if line.key not in keys and not (line.kind in _TAKING_BACK and line.registrant in registrants)
    ]


def _decoded(row: bytes, type_: type[_T], number: int) -> _T:
    try:
        return msgspec.json.decode(row, type=type_)
    except UNREADABLE:
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
    except UNREADABLE:
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
