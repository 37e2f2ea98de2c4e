"""Hints: what the processor is told to look at. A hint never says what to do; it says where to look.

Records of the topic ``work`` are keyed by organisation, so that every organisation has one owner.
"""

from __future__ import annotations

import msgspec

from service.core.event import CloudEvent
from service.core.message import Message
from service.core.organizations import ONLY_ORGANIZATION

#: Event types after which the processor has to look. Participants, recordings and transcripts trigger nothing.
TRIGGERS = ("webex.meeting.", "webex.registrant.", "webex.service-app.")

#: ... of these the ones that are about an organisation, and name no meeting.
ABOUT_ORGANIZATION = "webex.service-app."
AUTHORIZED = "webex.service-app.authorized.v1"


class Hint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="hint", tag_field="kind"):
    """Look at ``series``, because of ``reason`` (an event type, or ``sweep``); without one, at the organisation itself.

    ``org_id`` is Webex's organisation id and ``host_email`` the host's address where the event had them, else "": Webex wants
    the latter from administrators. ``at`` is RFC 3339.
    """

    organization: str
    series: str = ""
    reason: str
    at: str
    event_id: str = ""
    org_id: str = ""
    host_email: str = ""
    traceparent: str | None = None


def hint_for(
    event: CloudEvent, *, series: str | None, org_id: str, host_email: str, organization: str = ONLY_ORGANIZATION
) -> Hint | None:
    """The hint that goes beside ``event``, or None where it triggers nothing, or names no meeting and has to.

    ``organization`` is the key of the organisation's work (:class:`service.core.organizations.Organizations`).
    """
    about_organization = event.type.startswith(ABOUT_ORGANIZATION)
    if not event.type.startswith(TRIGGERS) or (series is None and not about_organization):
        return None
    return Hint(
        organization=organization,
        series="" if about_organization or series is None else series,
        reason=event.type,
        at=event.receivedtime,
        event_id=event.id,
        org_id=org_id,
        host_email=host_email,
        traceparent=event.traceparent,
    )


def encode(hint: Hint) -> bytes:
    """JSON, UTF-8."""
    return msgspec.json.encode(hint)


def decode(raw: bytes) -> Hint:
    """The inverse of :func:`encode`. Raises msgspec.ValidationError or msgspec.DecodeError for anything else."""
    return _decoder.decode(raw)


_decoder = msgspec.json.Decoder(Hint)


def to_message(hint: Hint) -> Message:
    """The record on ``work`` that carries the hint to the owner of its organisation."""
    return Message(topic="work", key=hint.organization, value=encode(hint), partition_by=hint.organization)
