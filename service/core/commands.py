"""Commands: what is checked when one is taken in, how its effect is looked for, and the outcome that it gets.

A command is a CloudEvent ``webex.command.<resource>.<verb>.v1``. It becomes a :class:`service.core.work.Command`, with the
reason for its refusal where it may not be carried out, so that whoever remembers the ids gives every one exactly one outcome.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Protocol

import msgspec

from service.core.confidential import without_secrets
from service.core.errors import (
    WebexConflict,
    WebexError,
    WebexNotFound,
    WebexThrottled,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.core.event import CloudEvent, event_id, new_event, rfc3339, source_of
from service.core.guests import tags_of
from service.core.identifiers import is_series, series_of
from service.core.ledger import CommandRecord, Entry, Fact, Intent, Memory, SeriesMemory, command_entry
from service.core.message import UNREADABLE
from service.core.organizations import Organization, Organizations
from service.core.registrants import DELETED
from service.core.work import Command

PREFIX = "webex.command."
_TYPE = re.compile(r"webex\.command\.([a-z]+\.[a-z-]+)\.v1")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TYPE_CHARACTERS = 100

#: Longest ``id`` of a command; one that is longer cannot be repeated in an outcome.
ID_CHARACTERS = 1024

#: Longest record key of a command, in bytes: its outcome repeats it, and has to fit into a record.
KEY_BYTES = 1024

#: Webex's resources that are never written, nor read, by a command: who receives what, and tokens of applications.
NEVER = ("webhooks", "applications")
SPONSOR = "guests.sponsor"

#: For so long from its first try a command is tried, and what it may have done is looked for (REST may lag by 10 minutes); for
#: so long from its acceptance it waits for an organisation that may be called, and written to.
PATIENCE = timedelta(minutes=15)

SUCCEEDED, FAILED, REFUSED = "succeeded", "failed", "refused"


# --- what may be asked for --------------------------------------------------------------------------------------------


class Catalogue(Protocol):
    """The operations that there are, and the published schemas of their commands."""

    def __contains__(self, operation: object) -> bool:
        """Whether there is a command of this name (``registrants.approve``)."""

    def problem(self, operation: str, event: Mapping[str, Any]) -> str:
        """The first thing that its schema has against ``event``, "" for nothing. Names fields, never values."""


class Allowed(msgspec.Struct, frozen=True):
    """What the settings allow: patterns of operations, of hosts' addresses and of sites. No operation: nothing; no host, no
    site: any.
    """

    operations: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    @property
    def narrowed(self) -> bool:
        """Whether it matters whose meeting it is."""
        return bool(self.hosts or self.sites)

    def operation(self, name: str) -> bool:
        """Whether commands may ask for it at all."""
        return name.partition(".")[0] not in NEVER and _fits(name, self.operations)

    def owned(self, host: object, site: object) -> str:
        """Why a meeting of this host on this site is out of bounds, "" where it is not. Both as Webex shows them."""
        if self.hosts and not _fits(_folded(host), self.hosts):
            return "hostNotAllowed"
        return "siteNotAllowed" if self.sites and not _fits(_folded(site), self.sites) else ""

    def named(self, operation: str, parameters: Mapping[str, Any], body: Any) -> str:
        """The same by what the command itself says. One that names no meeting has to name its host and its site.

        Guests belong to no host, and a sponsored meeting to the Service App itself.
        """
        if not self.narrowed:
            return ""
        given = {**_object(_object(body).get("meeting")), **_object(body), **parameters}
        host, site = given.get("hostEmail"), given.get("siteUrl")
        if operation == "meetings.join" and not _joins_by_id(parameters, body):
            return "hostNotAllowed"  # a number or a link leads to anybody's meeting
        of_guests = operation.startswith("guests.")
        needs = not of_guests and not meeting_of(parameters, body)
        hosts = self.hosts if not of_guests and (needs or host is not None) else ()
        sites = self.sites if needs or site is not None or operation == SPONSOR else ()
        return Allowed(self.operations, hosts, sites).owned(host, site)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)


def _folded(value: object) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def meeting_of(parameters: Mapping[str, Any], body: Any) -> str:
    """The id of the meeting that a command is about, as it says it; "" where it names none."""
    found = parameters.get("meetingId") or _object(body).get("meetingId") or parameters.get("meetingSeriesId")
    return found if isinstance(found, str) else ""


def _joins_by_id(parameters: Mapping[str, Any], body: Any) -> bool:
    """Whether nothing but the id says which meeting is joined: Webex does not say which of two it would follow."""
    others = [_object(body).get(name) for name in ("meetingNumber", "webLink")]
    return bool(meeting_of(parameters, body)) and others == [None, None]


# --- taking in --------------------------------------------------------------------------------------------------------


def read(value: bytes | None) -> dict[str, Any] | None:
    """The JSON object of a record, where it has a usable ``id``; None for anything that nobody could be answered about."""
    try:
        event = msgspec.json.decode(value or b"")
    except UNREADABLE:
        return None
    id_ = event.get("id") if isinstance(event, dict) else None
    return event if isinstance(id_, str) and 0 < len(id_) <= ID_CHARACTERS else None


def take_in(
    event: Mapping[str, Any],
    *,
    key: str,
    catalogue: Catalogue,
    allowed: Allowed,
    organizations: Organizations,
    now: datetime,
) -> Command:
    """The command of ``event`` (see :func:`read`), ready for the owner of its organisation. Total.

    One that is refused carries the reason, and nothing of what it asked for.
    """
    operation, data = operation_of(event.get("type")), _object(event.get("data"))
    organization = organizations.named(data.get("organization"))
    reason, message = _refusal(event, operation, catalogue, allowed, organization, now)
    if _too_long(key):
        reason, message = "malformed", f"the record's key: must have at most {KEY_BYTES} bytes"
    parameters, body = _object(data.get("parameters")), data.get("body")
    fallback = organizations.known[0]  # somebody has to answer
    traceparent = event.get("traceparent")
    return Command(
        organization=(organization or fallback).key,
        id=event["id"],
        digest=digest(event),
        operation=operation,
        series="" if reason else series_of(meeting_of(parameters, body)) or "",
        parameters={} if reason else dict(parameters),
        body=None if reason else body,
        key=_short(key),
        at=rfc3339(now),
        org_id=organization.org_id if organization else "",
        expires=str(event.get("expirytime") or "") if not reason else "",
        traceparent=traceparent if isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent) else None,
        refusal=reason,
        message=message,
    )


def too_large(command: Command) -> Command:
    """The same, refused: with what it asks for it fits into no record."""
    bare = msgspec.structs.replace(command, parameters={}, body=None, series="", expires="")
    return msgspec.structs.replace(bare, refusal="malformed", message="the command is too large")


def _too_long(key: str) -> bool:
    return len(key.encode("utf-8", "surrogatepass")) > KEY_BYTES


def _short(key: str) -> str:
    """The key, or where it is too long a hash of it: equal keys stay equal."""
    return event_id(key) if _too_long(key) else key


def operation_of(type_: object) -> str:
    """``registrants.approve``; of a type that is none of ours as much as can be said."""
    if not isinstance(type_, str) or not type_.startswith(PREFIX):
        return ""
    match = _TYPE.fullmatch(type_)
    return match[1] if match else type_.removeprefix(PREFIX)[:_TYPE_CHARACTERS]


def digest(event: Mapping[str, Any]) -> str:
    """Of what is asked for, and by whom. Times and the trace may differ when the same command is sent again."""
    said = {name: event.get(name) for name in ("source", "type", "data", "expirytime")}
    return event_id(msgspec.json.encode(said, order="sorted"))


def _refusal(
    event: Mapping[str, Any],
    operation: str,
    catalogue: Catalogue,
    allowed: Allowed,
    organization: Organization | None,
    now: datetime,
) -> tuple[str, str]:
    """``(reason, message)``, both "" where it may be carried out."""
    if _TYPE.fullmatch(str(event.get("type"))) is None:
        return "malformed", "type: must be webex.command.<resource>.<verb>.v1"
    barred = not_to_be_asked(operation, catalogue, allowed)
    if barred != ("", ""):
        return barred
    if problem := catalogue.problem(operation, event) or _expiry_problem(event.get("expirytime")):
        return "malformed", problem
    if organization is None:
        return "unknownOrganization", "data.organization must name one of the configured organisations"
    if late(event.get("expirytime"), now):
        return "expired", "its expirytime is past"
    parameters = _object(event["data"].get("parameters"))
    if reason := allowed.named(operation, parameters, event["data"].get("body")):
        return reason, OUT_OF_BOUNDS
    return "", ""


def not_to_be_asked(operation: str, known: Container[str], allowed: Allowed) -> tuple[str, str]:
    """``(reason, message)`` where no command may ask for it at all, else both ""."""
    if operation.partition(".")[0] not in NEVER and operation not in known:
        return "unknownOperation", "there is no command of this type"
    if not allowed.operation(operation):
        return "notAllowed", "the settings (COMMANDS__ALLOW) do not allow this operation"
    return "", ""


OUT_OF_BOUNDS = "the settings (COMMANDS__HOSTS, COMMANDS__SITES) do not allow this meeting, or one that is not named"


def _expiry_problem(value: object) -> str:
    return "" if value is None or moment(value) else "expirytime: must be a time in RFC 3339, with an offset"


def moment(value: object) -> datetime | None:
    """An RFC 3339 time with an offset, in UTC; None for anything else."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.astimezone(UTC) if found is not None and found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def late(expires: object, now: datetime) -> bool:
    """Whether this time is past."""
    until = moment(expires)
    return until is not None and until <= now


def patience_left(command: Command, now: datetime) -> float:
    """Seconds for which it still waits until its organisation may be called, and written to."""
    accepted = moment(command.at)
    ends = [accepted + PATIENCE if accepted else now, moment(command.expires) or now + PATIENCE]
    return max((min(ends) - now).total_seconds(), 0.0)


# --- what is sent to Webex --------------------------------------------------------------------------------------------

#: Webex's default is to send mail; it is said all the same, as whoever reads a record should see it.
_SAYS_MAIL = (
    *("meetings.create", "meetings.patch", "meetings.update", "registrants.register"),
    *("registrants.approve", "registrants.reject", "registrants.cancel", "registrants.bulk-delete"),
)


def body_for(command: Command) -> Any:
    """The body as it is sent: with what Webex would suppose said, and a mark by which a new meeting is found again."""
    body, operation = command.body, command.operation
    if operation in _SAYS_MAIL:
        return _marked(command, {"sendEmail": body.get("adhoc") is not True, **body})
    if operation == "registrants.bulk-insert":
        return {**body, "items": [{"sendEmail": True, **each} for each in body["items"]]}
    return {**body, "joinDirectly": False} if operation == "meetings.join" else body


def _marked(command: Command, body: dict[str, Any]) -> dict[str, Any]:
    if command.operation != "meetings.create":
        return body
    return {**body, "integrationTags": [*body.get("integrationTags", ()), mark_of(command.id)]}


def mark_of(id_: str) -> str:
    """The ``integrationTag`` of the meeting that the command with this id creates."""
    return f"webex-events-command-{event_id(id_)[:24]}"


# --- looking for what may have been done ------------------------------------------------------------------------------

#: They change nothing at Webex that could be found again, or be too much: they are simply asked once more.
READS = frozenset(
    {
        *("meetings.list", "meetings.get", "meetings.join", "registration.get", "guests.count"),
        *("registrants.list", "registrants.get", "registrants.query"),
    }
)

#: Never run twice: where what they did cannot be found, their outcome stays unknown.
ONCE = frozenset({"meetings.create", "registrants.register", "registrants.bulk-insert", "guests.create", SPONSOR})

#: Everything else: done again where a look shows that it was not done.
REPEATABLE = frozenset(
    {
        *("meetings.patch", "meetings.update", "meetings.delete", "meetings.end"),
        *("registration.update", "registration.delete"),
        *("registrants.approve", "registrants.reject", "registrants.cancel"),
        *("registrants.delete", "registrants.bulk-delete"),
    }
)

#: Every command that there is.
OPERATIONS = READS | ONCE | REPEATABLE

#: Of those that are done once: of this one nothing can be found, so there is nothing to wait for.
UNTRACEABLE = "guests.create"

#: Of these the effect is that nothing is shown any more, which proves nothing of what was never there.
VANISHING = frozenset(
    {"meetings.delete", "meetings.end", "registration.delete", "registrants.delete", "registrants.bulk-delete"}
)


def label(command: Command) -> str:
    """Its operation for logs and metrics: no text of a stranger's gets there."""
    return command.operation if command.operation in OPERATIONS else "other"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What Webex answered; ``status`` is None where the answer was lost, and what it must have done was found."""

    status: int | None
    value: Any = None

    def __repr__(self) -> str:
        return f"Answer(status={self.status})"  # the value may be anything


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A read that shows whether a command has had its effect."""

    operation: str
    parameters: dict[str, Any]
    body: Any = None

    def __repr__(self) -> str:
        return f"Look({self.operation})"


#: Parameters that a look has in common with its command.
_SHARED = ("meetingId", "hostEmail", "current")


def looks(command: Command) -> Iterator[Look]:
    """The reads that show it, all of them."""
    shared = {name: value for name, value in command.parameters.items() if name in _SHARED}
    host = _object(command.body).get("hostEmail")
    shared |= {"hostEmail": host} if host else {}
    match command.operation:
        case "meetings.create":
            yield Look(operation="meetings.list", parameters=_list_of_mark(command, shared))
        case "meetings.end" if not command.series:
            return
        case "meetings.end":
            running = {"meetingSeriesId": command.series, "meetingType": "meeting", "state": "inProgress"}
            yield Look(operation="meetings.list", parameters=running)
        case "meetings.patch" | "meetings.update" | "meetings.delete":
            yield Look(operation="meetings.get", parameters=shared)
        case "registration.update" | "registration.delete":
            yield Look(operation="registration.get", parameters=shared)
        case "registrants.register" | "registrants.bulk-insert":
            emails = [each["email"] for each in forms_of(command)]
            yield Look(operation="registrants.query", parameters={**shared, "max": 100}, body={"emails": emails})
        case _:
            for id_ in ids_of(command):
                yield Look(operation="registrants.get", parameters={**shared, "registrantId": id_})


def _list_of_mark(command: Command, shared: Mapping[str, Any]) -> dict[str, Any]:
    day = timedelta(days=1)
    start, end = (_webex_time(command.body.get(name)) for name in ("start", "end"))
    begin = start or moment(command.at) or datetime.fromtimestamp(0, UTC)
    bounds = {"from": rfc3339(begin - day), "to": rfc3339(max(end or begin, begin) + day)}
    return {**shared, "integrationTag": mark_of(command.id), "meetingType": "meetingSeries", "current": False, **bounds}


def _webex_time(value: object) -> datetime | None:
    """A time of a body. Without an offset it may be anywhere within a day of UTC, which is what it counts as."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC) if found else None
    except (ValueError, OverflowError):
        return None


def forms_of(command: Command) -> Sequence[Mapping[str, Any]]:
    """The people whom a command registers."""
    return command.body["items"] if command.operation == "registrants.bulk-insert" else [command.body]


def ids_of(command: Command) -> list[str]:
    """The registrants that a command names, each once."""
    named = [each["id"] for each in _object(command.body).get("registrants", ())]
    one = command.parameters.get("registrantId")
    return list(dict.fromkeys([*named, *([one] if one else [])]))


#: What a registrant's status is once the command is carried out.
_STATUS = {"registrants.approve": "approved", "registrants.reject": "rejected", "registrants.cancel": "pending"}


def effect(command: Command, seen: Sequence[Any]) -> Answer | None:
    """What the command did, by what its :func:`looks` showed (None for a 404 each); None where that is not (all) there."""
    if not seen:
        return None
    match command.operation:
        case "meetings.create":
            items = seen[0]["items"] if seen[0] else ()
            return _found([each for each in items if mark_of(command.id) in tags_of(each)])
        case "meetings.end":
            return Answer(status=None) if not seen[0] or not seen[0]["items"] else None
        case "meetings.patch" | "meetings.update" | "registration.update":
            same = seen[0] is not None and _shows(seen[0], command.body)
            return Answer(status=None, value=seen[0]) if same else None
        case "registrants.register" | "registrants.bulk-insert":
            return _registered(command, seen[0])
        case "registrants.approve" | "registrants.reject" | "registrants.cancel":
            wanted = _STATUS[command.operation]
            return Answer(status=None) if all(each and each.get("status") == wanted for each in seen) else None
    return Answer(status=None) if not any(seen) else None  # deleted


def was_there(command: Command, seen: Sequence[Any]) -> bool:
    """Whether all that the command (one of ``VANISHING``) takes away was there, by what its looks showed."""
    if command.operation == "meetings.end":
        return any(each and each["items"] for each in seen)
    return bool(seen) and all(each is not None for each in seen)


def remembered_there(command: Command, before: SeriesMemory) -> bool:
    """... by what was seen of registrants earlier, so that no look is needed."""
    ids = _remembered(command)
    known = [memory.seen for id_ in ids if (memory := before.registrants.get(id_))]
    return bool(ids) and len(known) == len(ids) and all(seen and seen.status != DELETED for seen in known)


def _found(items: Sequence[Any]) -> Answer | None:
    return Answer(status=None, value=items[0]) if items else None


def _registered(command: Command, shown: Any) -> Answer | None:
    people = {str(each.get("email", "")).casefold(): each for each in (shown or {}).get("items", ())}
    wanted = [str(each["email"]).casefold() for each in forms_of(command)]
    if not people.keys() >= set(wanted):
        return None
    if command.operation == "registrants.register":
        return Answer(status=None, value=people[wanted[0]])
    return Answer(status=None, value={"items": [people[email] for email in wanted]})


#: Not fields of what is shown, but of how it is asked for.
_ASKING = ("sendEmail", "hostEmail")


def _shows(shown: Any, wanted: Any) -> bool:
    """Whether everything that is ``wanted`` is so; more may be shown. Times are compared as moments."""
    if isinstance(wanted, dict):
        fields = {name: value for name, value in wanted.items() if name not in _ASKING}
        return isinstance(shown, dict) and all(_shows(shown.get(name), value) for name, value in fields.items())
    if isinstance(wanted, list):
        same = isinstance(shown, list) and len(shown) == len(wanted)
        return same and all(_shows(*pair) for pair in zip(shown, wanted, strict=True))
    if wanted is None:
        return shown in (None, "", [])
    return bool(shown == wanted) or (_webex_time(wanted) is not None and _webex_time(wanted) == _webex_time(shown))


def remaining(command: Command, seen: Sequence[Any]) -> Command:
    """The command for those whom its looks do not show as wanted: nobody gets a second mail."""
    wanted = _STATUS.get(command.operation)
    if command.operation != "registrants.bulk-delete" and wanted is None:
        return command
    ids = [
        id_
        for id_, shown in zip(ids_of(command), seen, strict=True)
        if (shown is not None if wanted is None else not shown or shown.get("status") != wanted)
    ]
    return msgspec.structs.replace(command, body={**command.body, "registrants": [{"id": id_} for id_ in ids]})


# --- what is remembered -----------------------------------------------------------------------------------------------

_VERBS = {
    "registrants.approve": "approve",
    "registrants.reject": "reject",
    "registrants.cancel": "cancel",
    "registrants.delete": "delete",
    "registrants.bulk-delete": "delete",
}
_REGISTERING = ("registrants.register", "registrants.bulk-insert")


def begun(command: Command, *, now: datetime, seen: bool = False) -> list[Entry]:
    """What must be acked before the call: that it is made, and for whom. ``seen``: what it takes away was there."""
    record = CommandRecord(digest=command.digest, at=now)
    there = [Entry(kind="command", subject=seen_subject(command), value=record)] if seen else []
    return [command_entry(command.id, record), *there, *_intents(command, now=now, unsettled=False)]


def seen_subject(command: Command) -> str:
    """Under which it is remembered, beside the command, that what it takes away was there. Digests have no ``-``."""
    return f"{command_entry(command.id, None).subject}-seen"


def reused_subject(command: Command) -> str:
    """Under which it is remembered that this command was refused, as its id belongs to another one."""
    return f"{command_entry(command.id, None).subject}-{command.digest}"


def reused(command: Command, *, now: datetime) -> Entry:
    """It has its outcome, and the other command of the same id keeps its own."""
    record = CommandRecord(digest=command.digest, at=now, finished=now)
    return Entry(kind="command", subject=reused_subject(command), value=record)


def accepted(command: Command, answer: Answer, *, now: datetime) -> list[Entry]:
    """What is remembered of the registrants once Webex has said yes, so that what is seen of them is put down to the command.
    A cancel takes them out of the policy's hands for good.
    """
    verb = _VERBS.get(command.operation)
    if verb == "cancel":
        return [_entry(command, id_, "human", Fact(at=now)) for id_ in _remembered(command)]
    if verb in ("approve", "reject"):
        return _intents(command, now=now, unsettled=True)
    if command.operation not in _REGISTERING or not _is_about_series(command):
        return []
    made = [answer.value] if command.operation == _REGISTERING[0] else answer.value["items"]
    intent = _intent(command, "register", now=now, unsettled=False)
    return [_entry(command, str(each["id"]), "intent", intent) for each in made if each.get("id")]


def undone(command: Command, before: SeriesMemory) -> list[Entry]:
    """... and once it has said no: what we meant to do before."""
    return [
        _entry(command, id_, "intent", before.registrants.get(id_, Memory()).intent) for id_ in _remembered(command)
    ]


def forgotten(command: Command) -> list[Entry]:
    """The command was begun, and certainly had no effect."""
    return [command_entry(command.id, None), *_not_seen(command)]


def ended(command: Command, *, begun_at: datetime | None, now: datetime, seen: bool = False) -> list[Entry]:
    """It has its outcome; ``seen``: as given to :func:`begun`, which need not be remembered any longer."""
    record = CommandRecord(digest=command.digest, at=begun_at or now, finished=now)
    return [command_entry(command.id, record), *(_not_seen(command) if seen else ())]


def _not_seen(command: Command) -> list[Entry]:
    vanishing = command.operation in VANISHING
    return [Entry(kind="command", subject=seen_subject(command), value=None)] if vanishing else []


def _is_about_series(command: Command) -> bool:
    return is_series(meeting_of(command.parameters, command.body))


def _remembered(command: Command) -> list[str]:
    return ids_of(command) if command.operation in _VERBS and _is_about_series(command) else []


def _intents(command: Command, *, now: datetime, unsettled: bool) -> list[Entry]:
    intent = _intent(command, _VERBS.get(command.operation, ""), now=now, unsettled=unsettled)
    return [_entry(command, id_, "intent", intent) for id_ in _remembered(command)]


def _intent(command: Command, verb: str, *, now: datetime, unsettled: bool) -> Intent:
    return Intent(
        verb=verb,
        rule=command.id,
        reason="Asked for by a command",
        notify=_object(command.body).get("sendEmail", True) is not False,
        policy="",
        at=now,
        unsettled=unsettled,
        by="command",
    )


def _entry(command: Command, id_: str, kind: str, value: Intent | Fact | None) -> Entry:
    return Entry(kind=kind, subject=command.series, registrant=id_, value=value)


# --- the outcome ------------------------------------------------------------------------------------------------------


class Problem(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a command did not succeed. ``message`` is a sentence for people, without personal data."""

    reason: str
    message: str
    tracking_id: str | None = None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: ``kind`` is succeeded, failed or refused. ``entries`` are remembered with it."""

    kind: str
    status: int | None = None
    response: Any = None
    problem: Problem | None = None
    entries: tuple[Entry, ...] = ()

    def __repr__(self) -> str:
        return f"Ending(kind={self.kind!r}, status={self.status})"  # the response may be anything


def succeeded(answer: Answer, entries: Sequence[Entry] = ()) -> Ending:
    """Webex did it."""
    return Ending(kind=SUCCEEDED, status=answer.status, response=answer.value, entries=tuple(entries))


def refused(reason: str, message: str) -> Ending:
    """It was not sent to Webex."""
    return Ending(kind=REFUSED, problem=Problem(reason=reason, message=message))


def failed(error: WebexError, entries: Sequence[Entry] = (), *, reason: str = "") -> Ending:
    """Webex said no, or could not be asked for long enough."""
    problem = Problem(reason=reason or _reason(error), message=str(error), tracking_id=error.tracking_id)
    return Ending(kind=FAILED, status=error.status, problem=problem, entries=tuple(entries))


def unknown(error: WebexError | None) -> Ending:
    """It may have been done, cannot be found, and must not be done twice."""
    problem = Problem(
        reason="outcomeUnknown",
        message="Webex did not answer, and does not show what it may have done; it was not tried again",
        tracking_id=error.tracking_id if error else None,
    )
    return Ending(kind=FAILED, status=error.status if error else None, problem=problem)


def passing(error: WebexError) -> bool:
    """Whether the same call may succeed later. A 404 is an answer here, and so is a conflict."""
    return isinstance(error, WebexThrottled | WebexUnavailable)


_REASONS: Mapping[type[WebexError], str] = {
    WebexNotFound: "notFound",
    WebexUnauthorized: "unauthorized",
    WebexConflict: "conflict",
    WebexThrottled: "temporarilyUnavailable",
    WebexUnavailable: "temporarilyUnavailable",
}


def _reason(error: WebexError) -> str:
    if error.status == 403:
        return "forbidden"
    if error.status is not None and error.status < 300:
        return "unreadableAnswer"
    return _REASONS.get(type(error), "rejected")


def bare(command: Command) -> Command:
    """The same with nothing that may be long, for an outcome that fits into a record whatever else does not."""
    return msgspec.structs.replace(command, key=_short(command.key), series="", org_id="", traceparent=None)


def outcome(command: Command, ending: Ending, *, now: datetime, receiver: str, whole: bool = True) -> CloudEvent:
    """The event that says so; the same command and kind give the same id. Without ``whole`` the response is left out, as it
    is too long for a record.
    """
    problem = ending.problem
    if not whole and ending.response is not None:
        problem = Problem(reason="responseTooLarge", message="Webex's answer is too long for a record")
    data = {
        "commandId": command.id,
        "operation": command.operation,
        "status": ending.status,
        "response": without_secrets(ending.response) if whole else None,
        "error": None if problem is None else msgspec.to_builtins(problem),
    }
    return _event(command, ending.kind, data, now=now, receiver=receiver)


def answered(command: Command, ending: Ending, *, now: datetime, receiver: str) -> CloudEvent:
    """The whole response, for the topic ``restricted``."""
    data = {
        "commandId": command.id,
        "operation": command.operation,
        "status": ending.status,
        "response": ending.response,
    }
    return _event(command, "answered", data, now=now, receiver=receiver)


def _event(command: Command, what: str, data: dict[str, Any], *, now: datetime, receiver: str) -> CloudEvent:
    return new_event(
        id=event_id("outcome", command.id, command.digest, what),
        type=f"{PREFIX}{what}.v1",
        source=source_of(command.org_id),
        subject=f"meetings/{command.series}" if command.series else None,
        key=command.key,
        origin="command",
        received=now,
        receiver=receiver,
        traceparent=command.traceparent,
        data=data,
    )
