"""What we saw and did, for each registrant: the records of the compacted topic ``ledger`` and the memory they make.

A record's key names its kind and its subject; the last record of a key counts. Facts about people (``approved``,
``rejected``, ``human``) are keys of their own that are only ever added, so that no stale writer can take one back.

    intent/<series>/<registrant>     what we are about to do, or did, and whether Webex confirmed the call
    approved/<series>/<registrant>   was seen approved in a list
    rejected/<series>/<registrant>   was seen rejected in a list
    human/<series>/<registrant>      was put back to pending by a person: never decided by us again
    seen/<series>/<registrant>       the status and decision published last, and how many facts were published
    meeting/<series>                 a meeting with registration, and how far it was looked at
    dirty/<series>                   must be looked at again, whatever became of the hint that said so
    owner/<partition>                who may write to Webex for the organisations of this partition
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from service.core.message import Message


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that we act on. ``unsettled``: Webex answered with 204, but no list has shown the effect yet."""

    verb: str
    rule: str
    reason: str
    notify: bool
    policy: str
    at: datetime
    unsettled: bool = False


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at ``at`` and stays true."""

    at: datetime


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was published last. ``held`` is the version of the policy that holds a pending registrant, "" otherwise."""

    status: str
    held: str = ""
    facts: int = 0


class KnownMeeting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A meeting with registration, and how far it was looked at.

    ``newest`` is the newest registration time seen, ``full`` when all were last looked at, ``policy`` by which version.
    """

    organization: str
    org_id: str = ""
    host_email: str = ""
    newest: datetime | None = None
    full: datetime | None = None
    policy: str = ""


class Dirty(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A series that still has to be looked at."""

    organization: str
    since: datetime
    org_id: str = ""
    host_email: str = ""


class Owner(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``instance`` owns the partition since its last renewal; ``released`` when it gave it up in order."""

    instance: str
    at: datetime
    released: bool = False


Value = Intent | Fact | Seen | KnownMeeting | Dirty | Owner

_KINDS: dict[str, type[Value]] = {
    "intent": Intent,
    "approved": Fact,
    "rejected": Fact,
    "human": Fact,
    "seen": Seen,
    "meeting": KnownMeeting,
    "dirty": Dirty,
    "owner": Owner,
}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_DECODERS = {kind: msgspec.json.Decoder(value) for kind, value in _KINDS.items()}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record: its kind, what it is about, and its value (None takes the record away)."""

    kind: str
    subject: str
    registrant: str = ""
    value: Value | None

    @property
    def key(self) -> str:
        """The record's key."""
        return "/".join(filter(None, (self.kind, self.subject, self.registrant)))


def to_message(entry: Entry, *, organization: str) -> Message:
    """The record of ``entry``; it stands in the partition of its organisation."""
    value = None if entry.value is None else msgspec.json.encode(entry.value)
    return Message(topic="ledger", key=entry.key, value=value, partition_by=organization)


def from_record(key: str, value: bytes | None) -> Entry | None:
    """The entry of a record, or None for a kind that this version does not know.

    Raises msgspec.ValidationError or msgspec.DecodeError where a known kind cannot be read. A fact is never lost that way:
    that its key is there says enough.
    """
    kind, _, rest = key.partition("/")
    if kind not in _DECODERS:
        return None
    subject, _, registrant = rest.partition("/")
    try:
        decoded = None if value is None else _DECODERS[kind].decode(value)
    except (msgspec.ValidationError, msgspec.DecodeError):
        if _KINDS[kind] is not Fact:
            raise
        decoded = Fact(at=_LONG_AGO)
    return Entry(kind=kind, subject=subject, registrant=registrant, value=decoded)


class Memory(msgspec.Struct):
    """What is remembered of one registrant."""

    intent: Intent | None = None
    seen: Seen | None = None
    approved: bool = False
    rejected: bool = False
    human: bool = False


class SeriesMemory(msgspec.Struct):
    """What is remembered of one meeting series."""

    meeting: KnownMeeting | None = None
    dirty: Dirty | None = None
    registrants: dict[str, Memory] = msgspec.field(default_factory=dict)


class PartitionMemory(msgspec.Struct):
    """What is remembered of one partition of the ledger."""

    owner: Owner | None = None
    series: dict[str, SeriesMemory] = msgspec.field(default_factory=dict)

    def of(self, series: str) -> SeriesMemory:
        """The memory of ``series``, empty at first."""
        return self.series.setdefault(series, SeriesMemory())

    def apply(self, entry: Entry) -> None:
        """Remember ``entry``. Applying the records of a partition in order restores the memory."""
        if entry.kind == "owner":
            self.owner = entry.value if isinstance(entry.value, Owner) else None
        elif entry.registrant:
            _remember(self.of(entry.subject).registrants.setdefault(entry.registrant, Memory()), entry)
        elif entry.kind in ("meeting", "dirty"):
            setattr(self.of(entry.subject), entry.kind, entry.value)


def _remember(memory: Memory, entry: Entry) -> None:
    if entry.kind in ("approved", "rejected", "human"):
        setattr(memory, entry.kind, entry.value is not None)
    else:
        setattr(memory, entry.kind, entry.value)
