"""The resources that Webex notifies about: their fields, their events, and how each becomes one of our types.

Fields are those of Webex for Developers' REST reference and "Webhooks" guide (its filters name more of them). Which of
them a notification carries is documented for ``meetings.ended`` only, so none is demanded here, nor any that is new refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields by Webex's own names, and the types to expect. Any may be missing or null."""


class Envelope(Shape, frozen=True):
    """The webhook's registration. ``id`` is the registration's and ``created`` its age: neither is about the event."""

    id: str | None = None
    name: str | None = None
    target_url: str | None = None
    resource: str | None = None
    event: str | None = None
    filter: str | None = None
    org_id: str | None = None
    created_by: str | None = None
    app_id: str | None = None
    owned_by: str | None = None
    status: str | None = None
    created: str | None = None
    actor_id: str | None = None


class Resource(Shape, frozen=True):
    """What every resource may have. The organisation's id in here is internal to Webex: the envelope's is the one."""

    id: str | None = None
    org_id: str | None = None
    site_url: str | None = None
    host_email: str | None = None
    host_user_id: str | None = None


class Meeting(Resource, frozen=True):
    """``id`` may be a series, an occurrence or an instance: look at ``meetingType`` and at its form."""

    meeting_series_id: str | None = None
    scheduled_meeting_id: str | None = None
    meeting_number: str | None = None
    meeting_type: str | None = None
    scheduled_type: str | None = None
    title: str | None = None
    state: str | None = None
    timezone: str | None = None
    start: str | None = None
    end: str | None = None
    recurrence: str | None = None
    host_display_name: str | None = None


class Participant(Resource, frozen=True):
    """One person's presence; ``meetingId`` is an instance. Who rejoins keeps the ``id`` and gains a device."""

    meeting_id: str | None = None
    email: str | None = None
    display_name: str | None = None
    host: bool | None = None
    co_host: bool | None = None
    space_moderator: bool | None = None
    invitee: bool | None = None
    muted: bool | None = None
    video: str | None = None
    state: str | None = None
    joined_time: str | None = None
    left_time: str | None = None
    source_id: str | None = None
    devices: list[dict[str, Any]] | None = None


class Recording(Resource, frozen=True):
    """A meeting's recording. Links to it expire within hours and are withheld."""

    meeting_id: str | None = None
    scheduled_meeting_id: str | None = None
    meeting_series_id: str | None = None
    topic: str | None = None
    create_time: str | None = None
    time_recorded: str | None = None
    format: str | None = None
    service_type: str | None = None
    status: str | None = None
    duration_seconds: int | None = None
    size_bytes: int | None = None


class ConvergedRecording(Resource, frozen=True):
    """A recording of a call: it has an owner instead of a host, and no meeting."""

    owner_id: str | None = None
    owner_email: str | None = None
    owner_type: str | None = None
    storage_region: str | None = None
    service_type: str | None = None
    location_id: str | None = None
    topic: str | None = None
    create_time: str | None = None
    time_recorded: str | None = None
    format: str | None = None
    status: str | None = None
    duration_seconds: int | None = None
    size_bytes: int | None = None


class Transcript(Resource, frozen=True):
    """A meeting's transcript; its own id is none of a meeting."""

    meeting_id: str | None = None
    scheduled_meeting_id: str | None = None
    meeting_series_id: str | None = None
    meeting_topic: str | None = None
    start_time: str | None = None
    status: str | None = None


class ServiceApp(Resource, frozen=True):
    """``authorizerOrgId`` is the customer; the envelope's organisation is the one that owns the webhook."""

    friendly_name: str | None = None
    authorizer_org_id: str | None = None
    authorization_date: str | None = None
    scopes: list[str] | None = None
    train_site_names: list[str] | None = None
    admin_train_site_names: list[str] | None = None


class Registrant(Resource, frozen=True):
    """Webex has no webhook for registrants; a relay, or a later Webex, may send their objects as REST shows them."""

    meeting_id: str | None = None
    meeting_series_id: str | None = None
    status: str | None = None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    registration_time: str | None = None
    registration_id: str | None = None
    source_id: str | None = None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """How notifications of one resource become events of the types ``webex.<name>.<verb>.v1``.

    ``verbs`` are the events known; those in ``repeatable`` can truly happen again with the same bytes. ``meeting_fields``
    are where the meeting's id may stand, the meeting's own first; ``moments`` where a verb's own time stands.
    ``keeps_unknown``: what the shape does not know stays among the typed fields, instead of in ``raw``.
    """

    name: str
    shape: type[Shape]
    verbs: frozenset[str]
    repeatable: frozenset[str] = frozenset()
    meeting_fields: tuple[str, ...] = ()
    moments: Mapping[str, str] = {}
    keeps_unknown: bool = False


_CHANGES = frozenset({"created", "updated", "deleted"})
_UPDATED = frozenset({"updated"})
_IN_A_MEETING = ("meetingId", "meetingSeriesId", "scheduledMeetingId")
_STATUSES = frozenset({"approved", "rejected", "canceled", "cancelled", "statusChanged"})

_REGISTRANTS = Family(
    name="registrant",
    shape=Registrant,
    verbs=_CHANGES | _STATUSES | {"registered"},
    repeatable=_UPDATED | _STATUSES,
    meeting_fields=_IN_A_MEETING,
    keeps_unknown=True,
)

#: Webex's resource → its family. Everything else goes to quarantine.
FAMILIES: Mapping[str, Family] = {
    "meetings": Family(
        name="meeting",
        shape=Meeting,
        verbs=_CHANGES | {"started", "ended"},
        repeatable=_UPDATED,
        meeting_fields=("id", "meetingSeriesId", "scheduledMeetingId"),
        moments={"started": "start", "ended": "end"},
    ),
    "meetingParticipants": Family(
        name="participant",
        shape=Participant,
        verbs=frozenset({"joined", "left"}),
        meeting_fields=_IN_A_MEETING,
        moments={"joined": "joinedTime", "left": "leftTime"},
        keeps_unknown=True,
    ),
    "recordings": Family(
        name="recording", shape=Recording, verbs=_CHANGES, repeatable=_UPDATED, meeting_fields=_IN_A_MEETING
    ),
    "convergedRecordings": Family(
        name="converged-recording", shape=ConvergedRecording, verbs=_CHANGES, repeatable=_UPDATED
    ),
    "meetingTranscripts": Family(
        name="transcript", shape=Transcript, verbs=frozenset({"created"}), meeting_fields=_IN_A_MEETING
    ),
    "serviceApp": Family(name="service-app", shape=ServiceApp, verbs=frozenset({"authorized", "deauthorized"})),
    "registrants": _REGISTRANTS,
    "meetingRegistrants": _REGISTRANTS,
}


@cache
def data_reader(shape: type[Shape]) -> msgspec.json.Decoder[Any]:
    """Reads an object that has nothing but ``data`` of this shape, in which there is nothing but what is known.

    What it gives is written as it was read; the name ``webhook`` is left free in it for us.
    """
    return msgspec.json.Decoder(_closed(Shape, data=_closed(shape, webhook=Ours)))


def _closed(shape: type[Shape], **more: type) -> type[msgspec.Struct]:
    """The shape, but closed: no other fields, and those that may hold anything hold plain values only."""
    types = get_type_hints(shape)
    named = zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True)
    known = {name: _PLAIN.get(types[field], types[field]) for field, name in named}
    fields = [(name, type_ | UnsetType, UNSET) for name, type_ in (known | more).items()]
    return msgspec.defstruct(shape.__name__, fields, kw_only=True, forbid_unknown_fields=True, gc=False)


class Ours:
    """What no notification may have: nothing in JSON is of this type."""


_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Plain = str | bool | _Integer | None
_PLAIN: Mapping[Any, Any] = {int | None: _Integer | None, list[dict[str, Any]] | None: list[dict[str, _Plain]] | None}
