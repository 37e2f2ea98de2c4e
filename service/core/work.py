"""The records of the topic ``work``: hints, operators' orders and accepted commands. They are keyed by organisation, so that
every organisation has one owner.

A hint never says what to do; it says where to look. An order is what an operator told us by the command line. A command is
what a downstream system asked for, checked already.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from service.core.event import CloudEvent
from service.core.identifiers import is_series
from service.core.message import Message
from service.core.organizations import ONLY_ORGANIZATION

#: Event types after which the processor has to look. Participants, recordings and transcripts trigger nothing.
TRIGGERS = ("webex.meeting.", "webex.registrant.", "webex.service-app.")

#: ... of these the ones that are about an organisation, and name no meeting.
ABOUT_ORGANIZATION = "webex.service-app."
AUTHORIZED = "webex.service-app.authorized.v1"


class Hint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="hint", tag_field="kind", gc=False):
    """Look at ``series``, because of ``reason`` (an event type, or ``sweep``); without one, at the organisation itself.

    ``org_id`` is Webex's organisation id and ``host_email`` the host's address where the event had them, else "": Webex wants
    the latter from administrators. ``instance`` is the meeting instance that started or ended, "" for anything else. ``at``
    is RFC 3339.
    """

    organization: str
    series: str = ""
    reason: str
    at: str
    event_id: str = ""
    org_id: str = ""
    host_email: str = ""
    instance: str = ""
    traceparent: str | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="order", tag_field="kind"):
    """What an operator wants of the owner of ``organization``. ``at`` is RFC 3339.

    ``pause`` and ``resume``: every write to Webex. ``confirm``: the version ``policy`` of the policy may change as much as it
    does. ``adopt``: a ledger that was found empty is the truth from now on. ``release``: what people decided about
    ``registrants`` of ``series`` does not bind the policy any more.
    """

    organization: str
    verb: Literal["pause", "resume", "confirm", "adopt", "release"]
    at: str
    policy: str = ""
    series: str = ""
    registrants: tuple[Annotated[str, msgspec.Meta(pattern=r"^[^/\s]{1,256}$")], ...] = ()

    def __post_init__(self) -> None:
        if self.verb == "release" and not (is_series(self.series) and self.registrants):
            raise ValueError("a release names a meeting series and registrants")


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="command", tag_field="kind"):
    """A command that was checked when it was taken in.

    ``id`` is that of its CloudEvent and ``digest`` a hash of the whole of it. ``operation`` is ``registrants.approve`` and so
    on; ``series`` the meeting series that it is about, "" where there is none: then it waits for no other. ``parameters`` and
    ``body`` are its ``data``. ``key`` is the record key of the command, which its outcome repeats. ``at`` (when it was taken
    in) and ``expires`` ("" = never) are RFC 3339. ``refusal`` is why it may not be carried out, "" where it may, and
    ``message`` says it to people: whoever remembers the ids answers these too.
    """

    organization: str
    id: str
    digest: str
    operation: str
    series: str = ""
    parameters: dict[str, Any] = {}
    body: Any = None
    key: str
    at: str
    expires: str = ""
    org_id: str = ""
    traceparent: str | None = None
    refusal: str = ""
    message: str = ""

    def __repr__(self) -> str:
        return f"Command(id={self.id!r}, operation={self.operation!r})"  # the rest is people and passwords


Item = Hint | Order | Command


def hint_for(
    event: CloudEvent,
    *,
    series: str | None,
    org_id: str,
    host_email: str,
    instance: str = "",
    organization: str = ONLY_ORGANIZATION,
) -> Hint | None:
    """The hint that goes beside ``event``, or None where it triggers nothing, or names no meeting and has to.

    ``organization`` is the key of the organisation's work (:class:`service.core.organizations.Organizations`), ``instance``
    the meeting instance that the event is about, if it is about one.
    """
    if not triggers(event.type):
        return None
    if event.type.startswith(ABOUT_ORGANIZATION):
        series = ""
    if series is None:
        return None
    return Hint(
        organization=organization,
        series=series,
        reason=event.type,
        at=event.receivedtime,
        event_id=event.id,
        org_id=org_id,
        host_email=host_email,
        instance=instance,
        traceparent=event.traceparent,
    )


@lru_cache(maxsize=256)
def triggers(type_: str) -> bool:
    """Whether the processor has to look somewhere after events of this type."""
    return type_.startswith(TRIGGERS)


def encode(item: Item) -> bytes:
    """JSON, UTF-8."""
    return _encoder.encode(item)


def decode(raw: bytes) -> Item:
    """The inverse of :func:`encode`. Raises msgspec.ValidationError or msgspec.DecodeError for anything else."""
    return _decoder.decode(raw)


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)


def to_message(item: Item) -> Message:
    """The record on ``work`` that carries it to the owner of its organisation."""
    key = item.organization
    return Message("work", key, _encoder.encode(item), key)
