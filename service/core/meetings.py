"""Meetings as Webex shows them, and what may be set of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

#: What meeting rules may set, with its JSON type: the fields of Webex's PATCH (Cisco's OpenAPI, ``PatchMeetingObject``)
#: without ``sendEmail`` and ``hostEmail``, which say how it is called; and ``registration``, the form, which has a call of
#: its own.
SETTABLE: Mapping[str, str] = MappingProxyType(
    {
        "title": "string",
        "agenda": "string",
        "password": "string",
        "start": "string",
        "end": "string",
        "timezone": "string",
        "recurrence": "string",
        "enabledAutoRecordMeeting": "boolean",
        "allowAnyUserToBeCoHost": "boolean",
        "enabledJoinBeforeHost": "boolean",
        "enableConnectAudioBeforeHost": "boolean",
        "joinBeforeHostMinutes": "number",
        "excludePassword": "boolean",
        "publicMeeting": "boolean",
        "reminderTime": "number",
        "unlockedMeetingJoinSecurity": "string",
        "sessionTypeId": "number",
        "enabledWebcastView": "boolean",
        "panelistPassword": "string",
        "enableAutomaticLock": "boolean",
        "automaticLockMinutes": "number",
        "allowFirstUserToBeCoHost": "boolean",
        "allowAuthenticatedDevices": "boolean",
        "meetingOptions": "object",
        "attendeePrivileges": "object",
        "integrationTags": "array",
        "enabledBreakoutSessions": "boolean",
        "trackingCodes": "array",
        "enabledAudioWatermark": "boolean",
        "enabledVisualWatermark": "boolean",
        "visualWatermarkOpacity": "number",
        "audioConnectionOptions": "object",
        "requireAttendeeLogin": "boolean",
        "restrictToInvitees": "boolean",
        "enabledLiveStream": "boolean",
        "liveStream": "object",
        "registration": "object",
    }
)

#: ... of these, what null takes away ("Patch a Meeting").
ERASABLE = frozenset({"agenda", "recurrence", "trackingCodes"})

#: ... and the words that a text may be.
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"unlockedMeetingJoinSecurity": ("allowJoin", "allowJoinWithLobby", "blockFromJoin")}
)


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """A meeting series. ``fields`` is Webex's whole object, by Webex's names."""

    id: str
    title: str
    fields: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Meeting(id={self.id!r})"  # the fields have passwords and people in them

    @property
    def has_registration(self) -> bool:
        """Whether people register for this meeting: then it has the ``registration`` object."""
        return isinstance(self.fields.get("registration"), Mapping)

    @property
    def host_email(self) -> str:
        """The host's address, "" where Webex did not give it."""
        value = self.fields.get("hostEmail")
        return value if isinstance(value, str) else ""


def starts(meeting: Meeting) -> datetime | None:
    """When it starts (of a series, its first occurrence); None where Webex does not say."""
    return moment(meeting.fields.get("start"))


def ends(meeting: Meeting) -> datetime | None:
    """When it ends (of a series, its first occurrence); None where Webex does not say."""
    return moment(meeting.fields.get("end"))


def is_recurring(meeting: Meeting) -> bool:
    """Whether it has more than one occurrence."""
    return bool(meeting.fields.get("recurrence"))


def in_progress(meeting: Meeting) -> bool:
    """Whether an instance of it is happening now: Webex refuses every change then."""
    return meeting.fields.get("state") == "inProgress"


def moment(value: object) -> datetime | None:
    """The moment of an ISO 8601 text, in UTC where it names no zone; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
