"""What Webex sends, turned into events: any signed bytes give an event, if only one that says they were not understood.

A notification is an envelope about the webhook's registration, and ``data``, a thin picture of the resource (Webex for
Developers, "Webhooks" guide and "Meeting Resource Guide"). It has no event id, no delivery id and no time of its own.
Only ``resource``, ``event`` and ``data.id`` are needed. Webex extends its enums and objects without warning: a new state
or field passes, and what does not have the type that it should have is kept as it came.
"""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.core import event as events
from service.core import work
from service.core.event import CloudEvent
from service.core.identifiers import series_of
from service.core.message import Message
from service.core.organizations import SINGLE, Organizations
from service.core.resources import FAMILIES, Envelope, Family, ServiceApp, Shape, documented

#: Far deeper than anything that Webex sends, and no trouble for any consumer's parser.
MAX_DEPTH = 64

#: A body of 64 KiB may have 30 000 values, or numbers that take as long to read: nobody else would be answered meanwhile.
#: Webex's notifications have about 40 values. Either limit is also one on commas and opening brackets, or on digits.
MAX_VALUES = 2000
MAX_DIGITS = 2000

#: An id becomes a record's key and part of its subject; Webex's are a tenth of this.
MAX_ID_LENGTH = 512

#: Fields that open a door. They never go on a topic that everybody reads: who may know them can ask Webex.
WITHHELD = frozenset(
    {
        "accessToken",
        "hostKey",
        "joinLink",
        "panelistPassword",
        "password",
        "phoneAndVideoSystemPassword",
        "secret",
        "startLink",
        "temporaryDirectDownloadLinks",
    }
)


class Accepted(msgspec.Struct, frozen=True):
    """What became of a notification: its event, and the records that must be durable before Webex gets its 2xx.

    ``org_id`` and ``registration`` are the envelope's ``orgId`` and ``id`` as they came, also of what is quarantined; ""
    where there is none.
    """

    event: CloudEvent
    messages: tuple[Message, ...]
    quarantined: bool
    org_id: str = ""
    registration: str = ""


def accept(
    body: bytes,
    *,
    received: datetime,
    receiver: str,
    traceparent: str | None = None,
    organizations: Organizations = SINGLE,
) -> Accepted:
    """The event, and the hint beside it where one is due. Total: there are no bytes for which this raises.

    ``received`` knows its time zone; ``receiver`` names this instance; a malformed ``traceparent`` is left out;
    ``organizations`` are those that the hint may be for.
    """
    delivery = Delivery(body, received, receiver, _trace_context(traceparent))
    read = _read(body)
    if isinstance(read, Doubt):
        return _kept(read, delivery)
    org_id, registration = _text(read.envelope.get("orgId")), _text(read.envelope.get("id"))
    notification = _understand(read)
    if isinstance(notification, Doubt):
        return _kept(notification, delivery, org_id, registration)
    event = _normalized(notification, delivery)
    messages = (events.to_message(event), *_hints(notification, event, organizations))
    return Accepted(event, messages, False, org_id, registration)


class Delivery(msgspec.Struct, frozen=True):
    """One request: its bytes, and the circumstances in which they came."""

    body: bytes
    received: datetime
    receiver: str
    traceparent: str | None


class Doubt(msgspec.Struct, frozen=True):
    """Why a notification goes to quarantine: a stable code, and a sentence that quotes nothing from ``data``."""

    reason: str
    detail: str


class Read(msgspec.Struct, frozen=True):
    """What the bytes say: ``data``, and all that is beside it. ``plain``: nothing but fields that are known."""

    envelope: dict[str, Any]
    data: Any
    plain: bool


class Notification(msgspec.Struct, frozen=True):
    """A notification of a known kind. ``meeting`` is its series, or else its meeting's id as Webex wrote it; "" for none."""

    family: Family
    verb: str
    id: str
    series: str
    meeting: str
    read: Read


def _read(body: bytes) -> Read | Doubt:
    """Read the bytes as strictly as any later reader may."""
    if (overload := _overload(body)) is not None:
        return _skimmed(body) or overload
    if envelope := documented(body):
        return Read(envelope, envelope.pop("data"), plain=True)
    try:
        envelope = _decoder.decode(body)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:  # msgspec's own errors, invalid UTF-8, an integer that Python declines to read
        return _NOT_JSON
    if not isinstance(envelope, dict):
        return Doubt("notAnObject", "The body is JSON, but not an object.")
    return Read(envelope, envelope.pop("data", None), plain=False)


_NOT_JSON = Doubt("notJson", "The body is not strict JSON in UTF-8.")
_TOO_DEEP = Doubt("tooDeep", f"The body is nested more than {MAX_DEPTH} levels deep.")
_HUGE_NUMBER = Doubt("hugeNumber", "The body has an integer of more than 64 bits.")
_TOO_MANY_VALUES = Doubt("tooManyValues", f"The body has more than {MAX_VALUES} values.")
_TOO_MANY_DIGITS = Doubt("tooManyDigits", f"The numbers of the body have more than {MAX_DIGITS} digits.")


def _overload(body: bytes) -> Doubt | None:
    """What would take long to read, seen before anything is made of it; exact for all that is JSON.

    Almost always the first line has the answer: there are not that many such bytes, be they within texts or not.
    """
    if len(body) <= MAX_VALUES or len(body.translate(None, _LIGHT)) <= MAX_VALUES:
        return None
    pieces = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', 4 * MAX_VALUES + 1)
    outside = b"".join(pieces[::2])
    if len(pieces) > 4 * MAX_VALUES + 1 or sum(map(outside.count, (b",", b"[", b"{"))) > MAX_VALUES:
        return _TOO_MANY_VALUES
    return _TOO_MANY_DIGITS if len(outside.translate(None, _NO_DIGITS)) > MAX_DIGITS else None


def _skimmed(body: bytes) -> Doubt | None:
    """Whether it is JSON in the first place, found without making anything of it."""
    try:
        _skimmer.decode(body)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return _NOT_JSON
    return None


_skimmer = msgspec.json.Decoder(msgspec.Raw)

_DIGITS = b"0123456789"
_NO_DIGITS = bytes(set(range(256)) - set(_DIGITS))
_LIGHT = bytes(set(_NO_DIGITS) - set(b",[{"))


def _finite(number: str) -> float:
    """A fraction, or what has an exponent. Python's own reading takes 0.5 µs at most; msgspec's takes 8 µs for 1e308."""
    value = float(number)
    if math.isinf(value):
        raise ValueError("no number holds it")
    return value


_decoder = msgspec.json.Decoder(float_hook=_finite)


def _understand(read: Read) -> Notification | Doubt:
    """What any later reader can read too, and of a kind that we know. What is plain needs no close look."""
    recognised = _recognise(read)
    return recognised if read.plain else _unportable(read) or recognised


def _unportable(read: Read) -> Doubt | None:
    """What we could read but a consumer may not: very deep nesting, integers that fit no 64-bit type (RFC 8259 §6, §9)."""
    level: list[object] = [read.envelope, [read.data]]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                below += node.values()
            elif isinstance(node, list):
                below += node
            elif isinstance(node, int) and not -(2**63) <= node < 2**64:
                return _HUGE_NUMBER
        if not below:
            return None
        level = below
    return _TOO_DEEP


def _recognise(read: Read) -> Notification | Doubt:
    """Which family, verb and resource the notification is about."""
    resource, verb, data = read.envelope.get("resource"), read.envelope.get("event"), read.data
    family = FAMILIES.get(resource) if isinstance(resource, str) else None
    if family is None:
        return Doubt("unknownResource", f"The resource {_word(resource)} is not one that is known.")
    if not isinstance(verb, str) or verb not in family.verbs:
        return Doubt("unknownEvent", f"{resource} has no event {_word(verb)} that is known.")
    if not isinstance(data, dict) or data.get("id") is None:
        return Doubt("missingId", "There is no data.id.")
    if not (id_ := _identifier(data["id"])):
        return Doubt("invalidId", f"data.id is not a printable text of 1 to {MAX_ID_LENGTH} characters.")
    series = _series(id_, data, family)
    return Notification(family, verb, id_, series, series or _meeting(data, family), read)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _word(value: object) -> str:
    """A name of Webex's kind as it is; anything else could be anything, and is not repeated."""
    return value if isinstance(value, str) and _name.fullmatch(value) else "(not a name)"


_name = re.compile(r"[A-Za-z_]{1,40}")


def _identifier(value: object) -> str:
    """The value if it can be a key and an attribute (CloudEvents allows no control characters), else ""."""
    return value if isinstance(value, str) and len(value) <= MAX_ID_LENGTH and value.isprintable() else ""


def _series(id_: str, data: dict[str, Any], family: Family) -> str:
    """The meeting's series, wherever it stands; "" where it has none, as in a personal room."""
    for name in family.meeting_fields:
        if series := series_of(id_ if name == "id" else _identifier(data.get(name))):
            return series
    return ""


def _meeting(data: dict[str, Any], family: Family) -> str:
    """The meeting's id as Webex wrote it."""
    return _identifier(data.get(family.meeting_fields[0])) if family.meeting_fields else ""


def _normalized(notification: Notification, delivery: Delivery) -> CloudEvent:
    meeting = notification.meeting
    return events.new_event(
        id=_event_id(notification, delivery),
        type=f"webex.{notification.family.name}.{notification.verb}.v1",
        source=events.source_of(_short(notification.read.envelope.get("orgId"))),
        subject=f"meetings/{meeting}" if meeting else notification.id,
        key=meeting or notification.id,
        time=_moment(notification),
        origin="webhook",
        received=delivery.received,
        receiver=delivery.receiver,
        data=_published(notification),
        traceparent=delivery.traceparent,
    )


def _short(org_id: object) -> object:
    """Escaping what is far too long to be an id would take long; it stays under ``webhook``."""
    return "" if isinstance(org_id, str) and len(org_id) > MAX_ID_LENGTH else org_id


def _event_id(notification: Notification, delivery: Delivery) -> str:
    """Equal for a byte-identical redelivery; what can happen again with the same bytes has the minute in it too."""
    envelope, verb = notification.read.envelope, notification.verb
    common = (_text(envelope.get("id")), envelope["resource"], verb)
    if verb not in notification.family.repeatable:
        return events.event_id(notification.id, delivery.body, after=common)
    minute = events.rfc3339(delivery.received)[: len("2026-01-10T09:00")] + "Z"
    return events.event_id(notification.id, minute, delivery.body, after=common)


def _moment(notification: Notification) -> datetime | None:
    """When it happened by Webex's word. While a meeting runs, Webex may give 1970 as ``joinedTime``: that is no time."""
    value = notification.read.data.get(notification.family.moments.get(notification.verb, ""))
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        in_utc = moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
    return in_utc if in_utc and in_utc.year > 1970 else None


def _published(notification: Notification) -> dict[str, Any]:
    """The event's data: the typed fields, ``webhook``, and ``raw`` with whatever else there was."""
    read = notification.read
    return {**read.data, "webhook": read.envelope} if read.plain else _sorted_out(read, notification.family)


def _sorted_out(read: Read, family: Family) -> dict[str, Any]:
    """The same where there is something that is not known: it goes where it does no harm."""
    webhook = _webhook(read)
    typed, rest = _sorted(read.data, family.shape)
    if not family.keeps_unknown:
        return {**typed, "webhook": webhook, **({"raw": rest} if rest else {})}
    if "webhook" in rest:  # the name is ours; theirs moves to where it stood in the envelope
        webhook.setdefault("raw", {})["data"] = {"webhook": rest["webhook"]}
    return {**typed, **rest, "webhook": webhook}


def _webhook(read: Read) -> dict[str, Any]:
    """The envelope; ``raw`` has the fields that we do not know, ``withheld`` the names of those not passed on."""
    typed, rest = _sorted(read.envelope, Envelope)
    withheld = sorted(WITHHELD & (read.envelope.keys() | read.data.keys()))
    return {**typed, **({"raw": rest} if rest else {}), **({"withheld": withheld} if withheld else {})}


def _sorted(fields: dict[str, Any], shape: type[Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that the shape knows and whose types are as expected, and the rest; neither has what is withheld."""
    typed = {name: fields[name] for name in shape.__struct_encode_fields__ if name in fields}
    if not _fits(typed, shape):
        typed = {name: value for name, value in typed.items() if _fits({name: value}, shape)}
    return typed, {name: value for name, value in fields.items() if name not in typed and name not in WITHHELD}


def _fits(fields: dict[str, Any], shape: type[Shape]) -> bool:
    try:
        msgspec.convert(fields, shape)
    except msgspec.ValidationError:
        return False
    return True


def _kept(doubt: Doubt, delivery: Delivery, org_id: str = "", registration: str = "") -> Accepted:
    event = _quarantined(doubt, delivery)
    return Accepted(event, (events.to_message(event),), True, org_id, registration)


def _quarantined(doubt: Doubt, delivery: Delivery) -> CloudEvent:
    """The event of what was not understood, with its exact bytes."""
    id_ = events.event_id("quarantined", delivery.body)
    return events.new_event(
        id=id_,
        type="webex.notification.quarantined.v1",
        source="/webex",
        key=id_,
        origin="webhook",
        received=delivery.received,
        receiver=delivery.receiver,
        data={
            "reason": doubt.reason,
            "detail": doubt.detail,
            "bodyBase64": base64.b64encode(delivery.body).decode("ascii"),
        },
        traceparent=delivery.traceparent,
    )


def _hints(notification: Notification, event: CloudEvent, organizations: Organizations) -> tuple[Message, ...]:
    """The record for the processor, where the event is one after which it has to look at a series or an organisation."""
    if not event.type.startswith(work.TRIGGERS):
        return ()
    org_id = _organization(notification)
    hint = work.hint_for(
        event,
        organization=organizations.key_of(org_id),
        series=notification.series or None,
        org_id=org_id,
        host_email=_text(notification.read.data.get("hostEmail")),
    )
    return (work.to_message(hint),) if hint else ()


def _organization(notification: Notification) -> str:
    """The organisation concerned: where a Service App is authorised that is the customer, and not who owns the webhook."""
    envelope, data = notification.read.envelope, notification.read.data
    customer = _identifier(data.get("authorizerOrgId")) if notification.family.shape is ServiceApp else ""
    return customer or _identifier(envelope.get("orgId"))


def _trace_context(value: str | None) -> str | None:
    """The header if it is one of W3C Trace Context; it comes from outside, and nothing depends on it."""
    return value if value and _traceparent.fullmatch(value) else None


_traceparent = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
