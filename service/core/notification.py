"""What Webex sends, turned into events: any signed bytes give an event, if only one that says they were not understood.

A notification is an envelope about the webhook's registration, and ``data``, a thin picture of the resource (Webex for
Developers, "Webhooks" guide and "Meeting Resource Guide"). It has no event id, no delivery id and no time of its own.
Only ``resource``, ``event`` and ``data.id`` are needed. Webex extends its enums and objects without warning: a new state
or field passes, and what does not have the type that it should have is kept as it came.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.core import event as events
from service.core import work
from service.core.event import CloudEvent
from service.core.identifiers import series_of
from service.core.message import Message
from service.core.organizations import SINGLE, Organizations
from service.core.resources import FAMILIES, Envelope, Family, ServiceApp, Shape

#: Far deeper than anything that Webex sends, and no trouble for any consumer's parser.
MAX_DEPTH = 64

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
    """What became of a notification: its event, and the records that must be durable before Webex gets its 2xx."""

    event: CloudEvent
    messages: tuple[Message, ...]
    quarantined: bool


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
    delivery = Delivery(body=body, received=received, receiver=receiver, traceparent=_trace_context(traceparent))
    notification = _understand(body)
    if isinstance(notification, Doubt):
        event = _quarantined(notification, delivery)
        return Accepted(event, (events.to_message(event),), quarantined=True)
    event = _normalized(notification, delivery)
    return Accepted(event, (events.to_message(event), *_hints(notification, event, organizations)), quarantined=False)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One request: its bytes, and the circumstances in which they came."""

    body: bytes
    received: datetime
    receiver: str
    traceparent: str | None


class Doubt(msgspec.Struct, frozen=True):
    """Why a notification goes to quarantine: a stable code, and a sentence that quotes nothing from ``data``."""

    reason: str
    detail: str


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification of a known kind."""

    family: Family
    verb: str
    id: str
    data: dict[str, Any]
    envelope: dict[str, Any]


def _understand(body: bytes) -> Notification | Doubt:
    """Read the bytes as strictly as any later reader may, and recognise what they tell."""
    try:
        envelope = msgspec.json.decode(body)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:  # msgspec's own errors, invalid UTF-8, an integer that Python declines to read
        return Doubt("notJson", "The body is not strict JSON in UTF-8.")
    if not isinstance(envelope, dict):
        return Doubt("notAnObject", "The body is JSON, but not an object.")
    return _unportable(envelope) or _recognise(envelope)


_TOO_DEEP = Doubt("tooDeep", f"The body is nested more than {MAX_DEPTH} levels deep.")
_HUGE_NUMBER = Doubt("hugeNumber", "The body has an integer of more than 64 bits.")


def _unportable(value: object) -> Doubt | None:
    """What we could read but a consumer may not: very deep nesting, integers that fit no 64-bit type (RFC 8259 §6, §9)."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(node, int) and not -(2**63) <= node < 2**64 for node in level):
            return _HUGE_NUMBER
        level = [child for node in level for child in _children(node)]
        if not level:
            return None
    return _TOO_DEEP


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _recognise(envelope: dict[str, Any]) -> Notification | Doubt:
    """Which family, verb and resource the envelope is about."""
    resource, verb, data = envelope.get("resource"), envelope.get("event"), envelope.get("data")
    family = FAMILIES.get(resource) if isinstance(resource, str) else None
    if family is None:
        return Doubt("unknownResource", f"The resource {_word(resource)} is not one that is known.")
    if not isinstance(verb, str) or verb not in family.verbs:
        return Doubt("unknownEvent", f"{resource} has no event {_word(verb)} that is known.")
    if not isinstance(data, dict) or data.get("id") is None:
        return Doubt("missingId", "There is no data.id.")
    if not (id_ := _identifier(data["id"])):
        return Doubt("invalidId", f"data.id is not a printable text of 1 to {MAX_ID_LENGTH} characters.")
    return Notification(family=family, verb=verb, id=id_, data=data, envelope=envelope)


def _word(value: object) -> str:
    """A name of Webex's kind as it is; anything else could be anything, and is not repeated."""
    return value if isinstance(value, str) and _name.fullmatch(value) else "(not a name)"


_name = re.compile(r"[A-Za-z_]{1,40}")


def _identifier(value: object) -> str:
    """The value if it can be a key and an attribute (CloudEvents allows no control characters), else ""."""
    return value if isinstance(value, str) and len(value) <= MAX_ID_LENGTH and value.isprintable() else ""


def _normalized(notification: Notification, delivery: Delivery) -> CloudEvent:
    meeting = _meeting(notification)
    return events.new_event(
        id=_event_id(notification, delivery),
        type=f"webex.{notification.family.name}.{notification.verb}.v1",
        source=events.source_of(notification.envelope.get("orgId")),
        subject=f"meetings/{meeting}" if meeting else notification.id,
        key=meeting or notification.id,
        time=_moment(notification),
        origin="webhook",
        received=delivery.received,
        receiver=delivery.receiver,
        data=_published(notification),
        traceparent=delivery.traceparent,
    )


def _event_id(notification: Notification, delivery: Delivery) -> str:
    """Equal for a byte-identical redelivery; what can happen again with the same bytes has the minute in it too."""
    registration, resource = notification.envelope.get("id"), notification.envelope["resource"]
    parts = [registration if isinstance(registration, str) else "", resource, notification.verb, notification.id]
    if notification.verb in notification.family.repeatable:
        parts.append(delivery.received.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ"))
    return events.event_id(*parts, delivery.body)


def _meeting(notification: Notification) -> str:
    """The series, wherever it stands; else the meeting's id as Webex wrote it (a personal room's is different); else ""."""
    candidates = [_identifier(notification.data.get(name)) for name in notification.family.meeting_fields]
    series = next(filter(None, map(series_of, candidates)), None)
    return series or next(iter(candidates), "")


def _moment(notification: Notification) -> datetime | None:
    """When it happened by Webex's word. While a meeting runs, Webex may give 1970 as ``joinedTime``: that is no time."""
    value = notification.data.get(notification.family.moments.get(notification.verb, ""))
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        in_utc = moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
    return in_utc if in_utc and in_utc.year > 1970 else None


def _published(notification: Notification) -> dict[str, Any]:
    """The event's data: the typed fields, ``webhook``, and ``raw`` with whatever else there was."""
    family = notification.family
    webhook = _webhook(notification)
    typed, rest = _sorted(notification.data, family.shape)
    if not family.keeps_unknown:
        return {**typed, "webhook": webhook, **({"raw": rest} if rest else {})}
    if "webhook" in rest:  # the name is ours; theirs moves to where it stood in the envelope
        webhook.setdefault("raw", {})["data"] = {"webhook": rest["webhook"]}
    return {**typed, **rest, "webhook": webhook}


def _webhook(notification: Notification) -> dict[str, Any]:
    """The envelope; ``raw`` has the fields that we do not know, ``withheld`` the names of those not passed on."""
    envelope = {name: value for name, value in notification.envelope.items() if name != "data"}
    typed, rest = _sorted(envelope, Envelope)
    withheld = sorted(WITHHELD & (envelope.keys() | notification.data.keys()))
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
    series, host = series_of(_meeting(notification)), notification.data.get("hostEmail")
    org_id = _organization(notification)
    hint = work.hint_for(
        event,
        organization=organizations.key_of(org_id),
        series=series,
        org_id=org_id,
        host_email=host if isinstance(host, str) else "",
    )
    return (work.to_message(hint),) if hint else ()


def _organization(notification: Notification) -> str:
    """The organisation concerned: where a Service App is authorised that is the customer, and not who owns the webhook."""
    customer = _identifier(notification.data.get("authorizerOrgId")) if notification.family.shape is ServiceApp else ""
    return customer or _identifier(notification.envelope.get("orgId"))


def _trace_context(value: str | None) -> str | None:
    """The header if it is one of W3C Trace Context; it comes from outside, and nothing depends on it."""
    return value if value and _traceparent.fullmatch(value) else None


_traceparent = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
