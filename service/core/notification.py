"""What Webex sends, turned into events: any signed bytes give an event, if only one that says they were not understood.

A notification is an envelope about the webhook's registration, and ``data``, a thin picture of the resource (Webex for
Developers, "Webhooks" guide and "Meeting Resource Guide"). It has no event id, no delivery id and no time of its own.
Only ``resource``, ``event`` and ``data.id`` are needed. Webex extends its enums and objects without warning: a new state
or field passes, and what does not have the type that it should have is kept as it came.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import msgspec

from service.core import event as events
from service.core import work
from service.core.event import CloudEvent, rfc3339
from service.core.identifiers import is_instance, series_of
from service.core.message import Message
from service.core.organizations import SINGLE, Organizations
from service.core.resources import FAMILIES, Envelope, Family, ServiceApp, Shape, data_reader

#: Far deeper than anything that Webex sends, and no trouble for any consumer's parser.
MAX_DEPTH = 64

#: A body of 64 KiB may have 30 000 values, or numbers that take as long to read: nobody else would be answered meanwhile.
#: Webex's notifications have about 40 values. Either limit is also one on commas and opening brackets, or on digits.
MAX_VALUES = 2000
MAX_DIGITS = 2000

#: An id becomes a record's key and part of its subject; Webex's are a tenth of this.
MAX_ID_LENGTH = 512

#: What is longer (bytes before ``data``, characters of a time) is not remembered for the next notification.
MAX_REMEMBERED = 4096
MAX_TIME_LENGTH = 64

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


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """What became of a notification: the records that must be durable before Webex gets its 2xx, its event's first.

    ``org_id`` and ``registration`` are the envelope's ``orgId`` and ``id`` as they came, also of what is quarantined; ""
    where there is none.
    """

    messages: tuple[Message, ...]
    quarantined: bool
    org_id: str = ""
    registration: str = ""

    @property
    def event(self) -> CloudEvent:
        """The event, read back from its record: almost nobody looks at it."""
        return events.decode(self.messages[0].value or b"")


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One request: its bytes, and the circumstances in which they came.

    ``received`` is as :func:`service.core.event.rfc3339` writes it; ``receiver`` names this instance; ``traceparent`` is of
    W3C's form, or None.
    """

    body: bytes
    received: str
    receiver: str
    traceparent: str | None


def accept(
    body: bytes,
    *,
    received: datetime,
    receiver: str,
    traceparent: str | None = None,
    organizations: Organizations = SINGLE,
) -> Accepted:
    """What :func:`accepted` gives for that delivery. ``received`` knows its time zone; a malformed ``traceparent`` is left
    out.
    """
    traced = traceparent and _traceparent.fullmatch(traceparent)
    return accepted(Delivery(body, rfc3339(received), receiver, traceparent if traced else None), organizations)


def accepted(delivery: Delivery, organizations: Organizations) -> Accepted:
    """The event's record, and the hint's where one is due. Total: there are no bytes for which this raises.

    ``organizations`` are those that the hint may be for.
    """
    body = delivery.body
    if (overload := _overload(body)) is not None:
        return _kept(_skimmed(body) or overload, delivery)
    if notification := quickly(body):
        return _published(notification, delivery, organizations)
    read = _read(body)
    if isinstance(read, Doubt):
        return _kept(read, delivery)
    understood = _understand(read)
    if isinstance(understood, Doubt):
        return _kept(understood, delivery, _text(read.envelope.get("orgId")), _text(read.envelope.get("id")))
    return _published(understood, delivery, organizations)


class Doubt(msgspec.Struct, frozen=True):
    """Why a notification goes to quarantine: a stable code, and a sentence that quotes nothing from ``data``."""

    reason: str
    detail: str


class Read(msgspec.Struct, frozen=True):
    """What the bytes say: ``data``, and all that is beside it."""

    envelope: dict[str, Any]
    data: Any


class Registration(msgspec.Struct, frozen=True):
    """What all notifications of one webhook have in common: what they are about, and whose they are.

    ``id`` and ``org_id`` are the envelope's as they came, "" where there is none; ``owner`` is the latter where it can be a
    key. ``identity`` is their share in the ids of events, and ``begun`` its hash; where ``repeatable``, the same bytes may
    mean another event later. ``moment`` is the field of ``data`` that says when it happened, "" where none does. ``hinted``:
    the processor has to look.
    """

    id: str
    org_id: str
    family: Family
    moment: str
    type: str
    topic: str
    owner: str
    source: str
    identity: tuple[str, str, str]
    begun: hashlib._Hash
    repeatable: bool
    hinted: bool


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A notification of a known kind. ``meeting`` is its series, or else its meeting's id as Webex wrote it; "" for none.

    ``fields`` has those of ``data`` as attributes; ``published`` is the event's data: whatever msgspec writes as that object.
    """

    registration: Registration
    id: str
    series: str
    meeting: str
    fields: object
    published: Any


def quickly(body: bytes) -> Notification | None:
    """The notification, if its data has nothing but fields that are known, each of its type; None where a closer look is due.

    It is what the closer look would give, only sooner: the envelope, the same in all notifications of a webhook, is not read
    again, and ``data`` stays as it is read. All in it is plain: no integer of more than 64 bits, nothing nested deeply,
    nothing to withhold. To cut the bytes is exact: they are JSON if both pieces are.
    """
    end = body.rfind(b'"data":')
    if not 0 < end <= MAX_REMEMBERED or not (known := _before_data(body[:end])):
        return None
    try:
        data = known.reader.decode(b"{" + body[end:]).data
    except (ValueError, RecursionError):
        return None
    data.webhook = known.webhook
    notification = _recognise(known.registration, data, data)
    return notification if isinstance(notification, Notification) else None


class Known(msgspec.Struct, frozen=True):
    """An envelope, as events have it, and what reads the data that belongs to it."""

    registration: Registration
    webhook: msgspec.Raw
    reader: msgspec.json.Decoder[Any]


@lru_cache(maxsize=512)
def _before_data(head: bytes) -> Known | None:
    """What the bytes before the data say, read as closely as any; None where that is no envelope, or of no known kind."""
    if head.endswith(b"\\"):  # within a name, whose quote this is not: ``"x\\"data":``
        return None
    read = _read(head + b'"data":null}')
    if isinstance(read, Doubt):
        return None
    registration = _unportable(read) or _registration(read.envelope)
    if isinstance(registration, Doubt):
        return None
    webhook = msgspec.Raw(msgspec.json.encode(_webhook(read.envelope, {})))
    return Known(registration, webhook, data_reader(registration.family.shape))


def _read(body: bytes) -> Read | Doubt:
    """Read the bytes as strictly as any later reader may."""
    try:
        envelope = _decoder.decode(body)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:  # msgspec's own errors, invalid UTF-8, an integer that Python declines to read
        return _NOT_JSON
    if not isinstance(envelope, dict):
        return Doubt("notAnObject", "The body is JSON, but not an object.")
    return Read(envelope, envelope.pop("data", None))


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
    """What any later reader can read too, and of a kind that we know; what is not known in it goes where it does no harm."""
    registration = _unportable(read) or _registration(read.envelope)
    if isinstance(registration, Doubt):
        return registration
    data = read.data if isinstance(read.data, dict) else {}
    published = _sorted_out(read.envelope, data, registration.family)
    return _recognise(registration, SimpleNamespace(**data), published)


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


def _registration(envelope: dict[str, Any]) -> Registration | Doubt:
    """Which family and verb the notifications are about, and whose they are."""
    resource, verb = envelope.get("resource"), envelope.get("event")
    if not isinstance(resource, str) or (family := FAMILIES.get(resource)) is None:
        return Doubt("unknownResource", f"The resource {_word(resource)} is not one that is known.")
    if not isinstance(verb, str) or verb not in family.verbs:
        return Doubt("unknownEvent", f"{resource} has no event {_word(verb)} that is known.")
    id_, org_id = _text(envelope.get("id")), _text(envelope.get("orgId"))
    type_, identity = f"webex.{family.name}.{verb}.v1", (id_, resource, verb)
    return Registration(
        id=id_,
        org_id=org_id,
        family=family,
        moment=family.moments.get(verb, ""),
        type=type_,
        topic=events.topic_of(type_),
        owner=_identifier(org_id),
        source=events.source_of(_short(org_id)),
        identity=identity,
        begun=events.begun(*identity),
        repeatable=verb in family.repeatable,
        hinted=work.triggers(type_),
    )


def _short(org_id: str) -> str:
    """Escaping what is far too long to be an id would take long; it stays under ``webhook``."""
    return "" if len(org_id) > MAX_ID_LENGTH else org_id


def _recognise(registration: Registration, fields: object, published: Any) -> Notification | Doubt:
    """Which resource and meeting the notification is about: its series, wherever that stands, or else the id as it came."""
    value = getattr(fields, "id", None)
    if not (id_ := _identifier(value)):
        return _nameless(value)
    for name in registration.family.meeting_fields:
        value = getattr(fields, name, None)
        if isinstance(value, str) and len(value) <= MAX_ID_LENGTH and (series := _series_of(value)):
            return Notification(registration, id_, series, series, fields, published)
    return Notification(registration, id_, "", _meeting(registration.family, fields), fields, published)


def _nameless(id_: object) -> Doubt:
    if id_ is None:
        return Doubt("missingId", "There is no data.id.")
    return Doubt("invalidId", f"data.id is not a printable text of 1 to {MAX_ID_LENGTH} characters.")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _word(value: object) -> str:
    """A name of Webex's kind as it is; anything else could be anything, and is not repeated."""
    return value if isinstance(value, str) and _name.fullmatch(value) else "(not a name)"


_name = re.compile(r"[A-Za-z_]{1,40}")


def _identifier(value: object) -> str:
    """The value if it can be a key and an attribute (CloudEvents allows no control characters), else ""."""
    return value if isinstance(value, str) and len(value) <= MAX_ID_LENGTH and value.isprintable() else ""


@lru_cache(maxsize=1024)
def _series_of(meeting: str) -> str | None:
    return series_of(_identifier(meeting))


def _meeting(family: Family, fields: object) -> str:
    """The meeting's id as Webex wrote it; "" where the family has none."""
    return _identifier(getattr(fields, family.meeting_fields[0], None)) if family.meeting_fields else ""


def _published(notification: Notification, delivery: Delivery, organizations: Organizations) -> Accepted:
    registration, event = notification.registration, _normalized(notification, delivery)
    key = event.partitionkey
    message = Message(registration.topic, key, events.encode(event), key)
    hint = _hint(notification, event, organizations) if registration.hinted else None
    return Accepted((message, hint) if hint else (message,), False, registration.org_id, registration.id)


def _normalized(notification: Notification, delivery: Delivery) -> CloudEvent:
    registration, id_, meeting = notification.registration, notification.id, notification.meeting
    received, key = delivery.received, meeting or id_
    return CloudEvent(
        specversion=events.SPEC_VERSION,
        id=_event_id(notification, delivery.body, received),
        source=registration.source,
        type=registration.type,
        subject=f"meetings/{meeting}" if meeting else id_,
        time=_moment(notification) or received,
        datacontenttype=events.DATA_CONTENT_TYPE,
        data=notification.published,
        partitionkey=key,
        origin="webhook",
        receivedtime=received,
        receiver=delivery.receiver,
        traceparent=delivery.traceparent,
    )


def _event_id(notification: Notification, body: bytes, received: str) -> str:
    """Equal for a byte-identical redelivery; what can happen again with the same bytes has the minute in it too."""
    registration = notification.registration
    if not registration.repeatable:
        return events.event_id_after(registration.begun, notification.id, body)
    minute = received[: len("2026-01-10T09:00")] + "Z"
    return events.event_id(*registration.identity, notification.id, minute, body)


def _moment(notification: Notification) -> str:
    """When it happened by Webex's word, in RFC 3339; "" where that is not known."""
    name = notification.registration.moment
    value = getattr(notification.fields, name, None) if name else None
    if not isinstance(value, str):
        return ""
    return _usual_time(value) if len(value) <= MAX_TIME_LENGTH else _time(value)


@lru_cache(maxsize=1024)
def _usual_time(value: str) -> str:
    return _time(value)


def _time(value: str) -> str:
    """While a meeting runs, Webex may give 1970 as ``joinedTime``: that is no time."""
    try:
        moment = datetime.fromisoformat(value)
        in_utc = moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return ""
    return rfc3339(in_utc) if in_utc and in_utc.year > 1970 else ""


def _sorted_out(envelope: dict[str, Any], data: dict[str, Any], family: Family) -> dict[str, Any]:
    """The event's data: the typed fields, ``webhook``, and ``raw`` with whatever else there was, where it does no harm."""
    webhook = _webhook(envelope, data)
    typed, rest = _sorted(data, family.shape)
    if not family.keeps_unknown:
        return {**typed, "webhook": webhook, **({"raw": rest} if rest else {})}
    if "webhook" in rest:  # the name is ours; theirs moves to where it stood in the envelope
        webhook.setdefault("raw", {})["data"] = {"webhook": rest["webhook"]}
    return {**typed, **rest, "webhook": webhook}


def _webhook(envelope: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The envelope; ``raw`` has the fields that we do not know, ``withheld`` the names of those not passed on."""
    typed, rest = _sorted(envelope, Envelope)
    withheld = sorted(WITHHELD & (envelope.keys() | data.keys()))
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
    return Accepted((events.to_message(_quarantined(doubt, delivery)),), True, org_id, registration)


def _quarantined(doubt: Doubt, delivery: Delivery) -> CloudEvent:
    """The event of what was not understood, with its exact bytes."""
    id_ = events.event_id("quarantined", delivery.body)
    return events.new_event(
        id=id_,
        type="webex.notification.quarantined.v1",
        source="/webex",
        key=id_,
        origin="webhook",
        received=datetime.fromisoformat(delivery.received),
        receiver=delivery.receiver,
        data={
            "reason": doubt.reason,
            "detail": doubt.detail,
            "bodyBase64": base64.b64encode(delivery.body).decode("ascii"),
        },
        traceparent=delivery.traceparent,
    )


def _hint(notification: Notification, event: CloudEvent, organizations: Organizations) -> Message | None:
    """The record for the processor, if there is a series or an organisation at which it can look."""
    org_id = _organization(notification)
    hint = work.hint_for(
        event,
        organization=organizations.key_of(org_id),
        series=notification.series or None,
        org_id=org_id,
        host_email=_text(getattr(notification.fields, "hostEmail", None)),
        instance=_instance_of(notification.id),
    )
    return work.to_message(hint) if hint else None


@lru_cache(maxsize=1024)
def _instance_of(id_: str) -> str:
    return id_ if is_instance(id_) else ""


def _organization(notification: Notification) -> str:
    """The organisation concerned: where a Service App is authorised that is the customer, and not who owns the webhook."""
    registration = notification.registration
    if registration.family.shape is not ServiceApp:
        return registration.owner
    return _identifier(getattr(notification.fields, "authorizerOrgId", None)) or registration.owner


#: The header ``traceparent`` of W3C Trace Context: it comes from outside, and nothing depends on it.
_traceparent = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
