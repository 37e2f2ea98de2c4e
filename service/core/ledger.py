"""What we saw and did, for each registrant: the records of the compacted topic ``ledger`` and the memory they make.

A record's key names its kind and its subject; the last record of a key counts. Facts about people (``approved``,
``rejected``, ``human``, ``released``) are keys of their own that are only ever added, so that no stale writer can take one
back; they go when the meeting has ended for good.

    intent/<series>/<registrant>     what we are about to do, or did, and whether Webex confirmed the call
    approved/<series>/<registrant>   was seen approved in a list
    rejected/<series>/<registrant>   was seen rejected in a list
    human/<series>/<registrant>      was put back to pending by a person: never decided by us again
    released/<series>/<registrant>   an operator takes back what the facts above, and the intent, said until then
    seen/<series>/<registrant>       the status and decision published last, and how many facts were published
    meeting/<series>                 a meeting, and how far it was looked at
    rules/<series>                   what the meeting rules did to it
    dirty/<series>                   must be looked at again, whatever became of the hint that said so
    command/<digest of its id>       a command that was begun, or has its outcome (:func:`command_entry`); behind it ``-seen``:
                                     what it takes away was there; ``-<digest>``: another body under this id was refused
    policy/<organization>            the version of the policy in force, and how much it changed
    paused/<organization>            an operator stopped every write
    owner/<partition>                who may write to Webex for the organisations of this partition
    founded/<partition>              the ledger was begun here, so that an empty one can be told from a lost one
    observing/<partition>            it was found empty beside committed offsets: nothing is written until it is adopted
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from service.core.message import UNREADABLE, Message


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A decision that we act on. ``unsettled``: Webex answered with 204, but no list has shown the effect yet.

    ``by`` is ``policy`` or ``command``; ``rule`` is that of the policy, or the id of the command.
    """

    verb: str
    rule: str
    reason: str
    notify: bool
    policy: str
    at: datetime
    unsettled: bool = False
    by: str = "policy"


class Fact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened at ``at`` and stays true."""

    at: datetime


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was published last. ``held`` is the version of the policy that left a pending registrant undecided, "" otherwise;
    ``waiting``: because there was no place. ``print`` is a short digest of Webex's fields, "" where none was taken.
    """

    status: str
    held: str = ""
    facts: int = 0
    waiting: bool = False
    print: str = ""


class KnownMeeting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A meeting, and how far it was looked at. ``registration``: people register for it, so it is swept.

    ``newest`` is the newest registration time seen, ``full`` when all were last looked at, ``policy`` by which version.
    ``active`` is when something new was last seen, ``start`` and ``end`` are Webex's (of a series, of its first occurrence;
    ``recurring`` then), ``missing`` when Webex first answered 404, and ``deleted`` whether a webhook said so too.
    """

    organization: str
    org_id: str = ""
    host_email: str = ""
    newest: datetime | None = None
    full: datetime | None = None
    policy: str = ""
    registration: bool = True
    active: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    recurring: bool = False
    missing: datetime | None = None
    deleted: bool = False


class RuleRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one meeting rule did to a meeting. ``version`` is that of the rule.

    ``fields`` are those it was done with for good (``enforce: once``), whoever set them last. ``intent`` holds, by field, a
    digest of the value that was about to be written.
    """

    version: str
    fields: tuple[str, ...] = ()
    intent: dict[str, str] = {}


class RulesRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the meeting rules did to a meeting: by rule; when each field was written in the last hour; and whether the meeting
    is parked since then, because somebody else writes the same fields again and again.
    """

    rules: dict[str, RuleRecord] = {}
    writes: dict[str, tuple[datetime, ...]] = {}
    parked: datetime | None = None
    policy: str = ""


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A command that was ``begun`` at ``at``, and when it was ``finished`` (its outcome published)."""

    digest: str
    at: datetime
    finished: datetime | None = None


class PolicyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The version of the policy that an organisation's meetings are under.

    ``accepted`` may change as much as it does. ``trial`` is the one that replaces it, "" for none: since ``since`` it changed
    ``changed`` registrants in the hour that began at ``hour``; ``held`` says why it may not go on, "" while it may.
    """

    accepted: str
    trial: str = ""
    since: datetime | None = None
    hour: datetime | None = None
    changed: int = 0
    held: str = ""


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


Value = Intent | Fact | Seen | KnownMeeting | RulesRecord | CommandRecord | PolicyRecord | Dirty | Owner

_KINDS: dict[str, type[Value]] = {
    "intent": Intent,
    "approved": Fact,
    "rejected": Fact,
    "human": Fact,
    "released": Fact,
    "seen": Seen,
    "meeting": KnownMeeting,
    "rules": RulesRecord,
    "dirty": Dirty,
    "command": CommandRecord,
    "policy": PolicyRecord,
    "paused": Fact,
    "owner": Owner,
    "founded": Fact,
    "observing": Fact,
}
#: Kinds whose subject is a series, with a registrant and without; the other kinds are about something else.
_OF_REGISTRANT = ("intent", "approved", "rejected", "human", "released", "seen")
_OF_SERIES = ("rules", "dirty", "meeting")
#: Kinds that are kept by their subject: in which mapping.
_BY_SUBJECT = {"paused": "paused", "policy": "policies", "command": "commands"}

#: How long the id of a finished command is remembered, and that of one that was begun and never ended.
COMMAND_KEPT = timedelta(days=7)
BEGUN_KEPT = timedelta(days=30)

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


def to_message(entry: Entry, *, organization: str, partition: int | None = None) -> Message:
    """The record of ``entry``; it stands in the partition of its organisation, or in the one that is given."""
    value = None if entry.value is None else msgspec.json.encode(entry.value)
    return Message(topic="ledger", key=entry.key, value=value, partition_by=organization, partition=partition)


def from_record(key: str, value: bytes | None) -> Entry | None:
    """The entry of a record, or None for a kind, or a shape of a key, that this version does not know.

    Raises one of :data:`service.core.message.UNREADABLE` where a known kind cannot be read. A fact is never lost that way:
    that its key is there says enough.
    """
    kind, _, rest = key.partition("/")
    if kind not in _DECODERS:
        return None
    subject, _, registrant = rest.partition("/")
    if not subject or (kind in _OF_REGISTRANT) != bool(registrant):
        return None
    try:
        decoded = None if value is None else _DECODERS[kind].decode(value)
    except UNREADABLE:
        if _KINDS[kind] is not Fact:
            raise
        decoded = Fact(at=_LONG_AGO)
    return Entry(kind=kind, subject=subject, registrant=registrant, value=decoded)


def command_entry(id_: str, record: CommandRecord | None) -> Entry:
    """What is remembered of the command with this CloudEvent id, which is any text of a stranger's."""
    return Entry(kind="command", subject=_digest(id_), value=record)


def _digest(id_: str) -> str:
    return hashlib.sha256(id_.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Memory(msgspec.Struct, gc=False):
    """What is remembered of one registrant. ``released``: there is such a record, whatever came after it."""

    intent: Intent | None = None
    seen: Seen | None = None
    approved: bool = False
    rejected: bool = False
    human: bool = False
    released: bool = False

    @property
    def entries(self) -> int:
        """How many records this is."""
        flags = self.approved + self.rejected + self.human + self.released
        return flags + (self.intent is not None) + (self.seen is not None)


class SeriesMemory(msgspec.Struct):
    """What is remembered of one meeting series."""

    meeting: KnownMeeting | None = None
    rules: RulesRecord | None = None
    dirty: Dirty | None = None
    registrants: dict[str, Memory] = msgspec.field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not self.registrants and self.meeting is None and self.rules is None and self.dirty is None


_Shared = TypeVar("_Shared")


class Pool:
    """Equal values are kept once: statuses, versions, rules and their reasons are the same for thousands of people."""

    #: What is equal comes close together, so the pool may forget: then a value is kept once more.
    LARGEST = 4096

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def one(self, value: _Shared) -> _Shared:
        """The one that is kept of all that equal ``value``."""
        if len(self._values) >= self.LARGEST:
            self._values.clear()
        kept: _Shared = self._values.setdefault(value, value)
        return kept

    def compact(self, value: Value | None) -> Value | None:
        """``value`` with shared parts, where many of its kind are kept."""
        one = self.one
        if isinstance(value, Seen):
            seen = Seen(
                status=one(value.status),
                held=one(value.held),
                facts=value.facts,
                waiting=value.waiting,
                print=value.print,
            )
            return seen if value.print else one(seen)  # a print is a person's own
        if isinstance(value, Intent):
            return one(msgspec.structs.replace(value, rule=one(value.rule), reason=one(value.reason)))
        if isinstance(value, KnownMeeting):
            texts = {name: one(getattr(value, name)) for name in ("organization", "org_id", "host_email", "policy")}
            return msgspec.structs.replace(value, **texts)
        return value


class PartitionMemory(msgspec.Struct):
    """What is remembered of one partition of the ledger. ``entries`` counts the records that this is."""

    owner: Owner | None = None
    founded: Fact | None = None
    observing: Fact | None = None
    paused: dict[str, Fact] = msgspec.field(default_factory=dict)
    policies: dict[str, PolicyRecord] = msgspec.field(default_factory=dict)
    commands: dict[str, CommandRecord] = msgspec.field(default_factory=dict)
    series: dict[str, SeriesMemory] = msgspec.field(default_factory=dict)
    entries: int = 0
    pool: Pool = msgspec.field(default_factory=Pool)

    def of(self, series: str) -> SeriesMemory:
        """The memory of ``series``, empty at first."""
        memory = self.series.get(series)
        if memory is None:
            memory = self.series[series] = SeriesMemory()
        return memory

    def command(self, id_: str) -> CommandRecord | None:
        """What is remembered of the command with this CloudEvent id."""
        return self.commands.get(_digest(id_))

    def apply(self, entry: Entry) -> None:
        """Remember ``entry``. Applying the records of a partition in order restores the memory."""
        value = self.pool.compact(entry.value)
        if entry.registrant:
            self._apply_to_registrant(entry, value)
        elif entry.kind in _OF_SERIES:
            series = self.of(entry.subject)
            self._count(getattr(series, entry.kind), value)
            setattr(series, entry.kind, value)
            self._forget_if_empty(entry.subject)
        elif entry.kind in _BY_SUBJECT:
            mapping = getattr(self, _BY_SUBJECT[entry.kind])
            self._count(mapping.get(entry.subject), value)
            _put(mapping, entry.subject, value)
        else:
            self._count(getattr(self, entry.kind), value)
            setattr(self, entry.kind, value)

    def _count(self, before: Value | None, after: Value | None) -> None:
        self.entries += (after is not None) - (before is not None)

    def _apply_to_registrant(self, entry: Entry, value: Value | None) -> None:
        registrants = self.of(entry.subject).registrants
        memory = registrants.get(entry.registrant)
        if memory is None:
            memory = registrants[entry.registrant] = Memory()
        before = memory.entries
        _remember(memory, entry.kind, value)
        after = memory.entries
        self.entries += after - before
        if not after:
            del registrants[entry.registrant]
            self._forget_if_empty(entry.subject)

    def _forget_if_empty(self, series: str) -> None:
        if self.series[series].empty:
            del self.series[series]

    def forgettable(self, now: datetime) -> Iterator[Entry]:
        """Tombstones for what is remembered by the clock only: commands that ended long ago."""
        for digest, record in self.commands.items():
            kept_until = record.finished + COMMAND_KEPT if record.finished else record.at + BEGUN_KEPT
            if kept_until <= now:
                yield Entry(kind="command", subject=digest, value=None)


def _put(mapping: dict[str, Any], subject: str, value: Value | None) -> None:
    if value is None:
        mapping.pop(subject, None)
    else:
        mapping[subject] = value


def _remember(memory: Memory, kind: str, value: Value | None) -> None:
    if kind in ("intent", "seen"):
        setattr(memory, kind, value)
        return
    setattr(memory, kind, value is not None)
    if kind == "released" and value is not None:
        memory.intent, memory.approved, memory.rejected, memory.human = None, False, False, False
        memory.seen = msgspec.structs.replace(memory.seen, held="", waiting=False) if memory.seen else None


def tombstones(series: str, memory: SeriesMemory) -> Iterator[Entry]:
    """Everything that the ledger has of ``series``, taken away; the meeting goes last, so that an attempt that ends half-way
    is found and repeated.
    """
    for registrant, remembered in memory.registrants.items():
        for kind in _kinds_of(remembered):
            yield Entry(kind=kind, subject=series, registrant=registrant, value=None)
    for kind in _OF_SERIES:
        if getattr(memory, kind) is not None:
            yield Entry(kind=kind, subject=series, value=None)


def _kinds_of(memory: Memory) -> Iterator[str]:
    """The records that there are; what a release took back from memory is still on the topic."""
    for kind in _OF_REGISTRANT:
        if memory.released or getattr(memory, kind) not in (None, False):
            yield kind
