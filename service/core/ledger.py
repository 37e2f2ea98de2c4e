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
    command/<digest of its id>       a command that was begun, or has its outcome
    policy/<organization>            the version of the policy in force, and how much it changed
    paused/<organization>            an operator stopped every write
    owner/<partition>                who may write to Webex for the organisations of this partition
    founded/<partition>              the ledger was begun here, so that an empty one can be told from a lost one
    observing/<partition>            it was found empty beside committed offsets: nothing is written until it is adopted
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from service.core.message import Message


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at ``at`` and stays true."""

    at: datetime


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was published last. ``held`` is the version of the policy that left a pending registrant undecided, "" otherwise;
    ``waiting``: because there was no place. ``print`` is a short digest of Webex's fields, "" where none was taken.
    """

    status: str
    held: str = ""
    facts: int = 0
    waiting: bool = False
    print: str = ""


class KnownMeeting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    rules: RulesRecord | None = None
    dirty: Dirty | None = None
    registrants: dict[str, Memory] = msgspec.field(default_factory=dict)


class PartitionMemory(msgspec.Struct):
    """What is remembered of one partition of the ledger."""

    owner: Owner | None = None
    founded: Fact | None = None
    observing: Fact | None = None
    paused: dict[str, Fact] = msgspec.field(default_factory=dict)
    policies: dict[str, PolicyRecord] = msgspec.field(default_factory=dict)
    commands: dict[str, CommandRecord] = msgspec.field(default_factory=dict)
    series: dict[str, SeriesMemory] = msgspec.field(default_factory=dict)

    def of(self, series: str) -> SeriesMemory:
        """The memory of ``series``, empty at first."""
        return self.series.setdefault(series, SeriesMemory())

    def apply(self, entry: Entry) -> None:
        """Remember ``entry``. Applying the records of a partition in order restores the memory."""
        if entry.registrant:
            self._apply_to_registrant(entry)
        elif entry.kind in ("meeting", "rules", "dirty"):
            setattr(self.of(entry.subject), entry.kind, entry.value)
            self._forget_if_empty(entry.subject)
        elif entry.kind in _BY_SUBJECT:
            _put(getattr(self, _BY_SUBJECT[entry.kind]), entry.subject, entry.value)
        else:
            setattr(self, entry.kind, entry.value)

    def _apply_to_registrant(self, entry: Entry) -> None:
        registrants = self.of(entry.subject).registrants
        memory = registrants.setdefault(entry.registrant, Memory())
        _remember(memory, entry)
        if memory == Memory():
            del registrants[entry.registrant]
            self._forget_if_empty(entry.subject)

    def _forget_if_empty(self, series: str) -> None:
        if self.of(series) == SeriesMemory():
            del self.series[series]


#: Kinds that are kept by their subject: in which mapping.
_BY_SUBJECT = {"paused": "paused", "policy": "policies", "command": "commands"}


def _put(mapping: dict[str, Any], subject: str, value: Value | None) -> None:
    if value is None:
        mapping.pop(subject, None)
    else:
        mapping[subject] = value


def _remember(memory: Memory, entry: Entry) -> None:
    if entry.kind in ("approved", "rejected", "human"):
        setattr(memory, entry.kind, entry.value is not None)
    elif entry.kind == "released":
        if entry.value is not None:
            memory.intent, memory.approved, memory.rejected, memory.human = None, False, False, False
            memory.seen = msgspec.structs.replace(memory.seen, held="") if memory.seen else None
    else:
        setattr(memory, entry.kind, entry.value)
