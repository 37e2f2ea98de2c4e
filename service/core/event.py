"""CloudEvents 1.0 in structured JSON mode: the one shape in which events leave this program.

Attributes and their rules: CloudEvents 1.0.2, sections "Context Attributes" and "JSON Event Format".
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from service.core.message import Message

CONTENT_TYPE = "application/cloudevents+json"

#: Resource family (the middle of ``webex.<family>.<verb>.v1``) → topic, without the prefix.
TOPICS = {
    "meeting": "meetings",
    "registrant": "registrants",
    "participant": "participants",
    "recording": "recordings",
    "converged-recording": "recordings",
    "transcript": "transcripts",
    "service-app": "service-apps",
    "notification": "quarantine",
    "command": "outcomes",
    "record": "dead-letters",
}


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. ``time`` and ``receivedtime`` are RFC 3339 texts in UTC; ``partitionkey`` is the record's key too.

    ``origin`` says how we know: ``webhook``, ``sweep`` or ``command``.
    """

    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: dict[str, Any]
    datacontenttype: str
    partitionkey: str
    origin: str
    receivedtime: str
    receiver: str
    subject: str | None = None
    traceparent: str | None = None


def new_event(  # noqa: PLR0913 - one argument for each attribute
    *,
    id: str,  # noqa: A002 - CloudEvents' own name
    type: str,  # noqa: A002 - CloudEvents' own name
    source: str,
    key: str,
    origin: str,
    received: datetime,
    receiver: str,
    data: dict[str, Any],
    subject: str | None = None,
    time: datetime | None = None,
    traceparent: str | None = None,
) -> CloudEvent:
    """Build an event; ``time`` is when it happened, where that is known, else when it was received."""
    return CloudEvent(
        specversion="1.0",
        id=id,
        type=type,
        source=source,
        subject=subject,
        time=rfc3339(time or received),
        datacontenttype="application/json",
        data=data,
        partitionkey=key,
        origin=origin,
        receivedtime=rfc3339(received),
        receiver=receiver,
        traceparent=traceparent,
    )


def encode(event: CloudEvent) -> bytes:
    """Structured JSON, UTF-8."""
    return msgspec.json.encode(event)


def decode(raw: bytes) -> CloudEvent:
    """The inverse of :func:`encode`. Raises msgspec.ValidationError or msgspec.DecodeError for anything else."""
    return _decoder.decode(raw)


_decoder = msgspec.json.Decoder(CloudEvent)


def to_message(event: CloudEvent, *, topic: str = "") -> Message:
    """The record that carries the event, on ``topic``, by default that of its family."""
    return Message(
        topic=topic or TOPICS[event.type.split(".")[1]],
        key=event.partitionkey,
        value=encode(event),
        partition_by=event.partitionkey,
    )


def event_id(*parts: str | bytes) -> str:
    """A deterministic id: the same parts give the same id; SHA-256 over length-prefixed parts, 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:32]


def source_of(org_id: object) -> str:
    """``source`` of an event of this organisation; ``/webex`` where it is not known."""
    return f"/webex/orgs/{quote(org_id, safe='=+')}" if isinstance(org_id, str) and org_id else "/webex"


def rfc3339(moment: datetime) -> str:
    """``2026-01-10T09:00:00.000Z``: UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
