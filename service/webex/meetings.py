"""Meetings: list, create, get, patch, update, delete, join, end (Webex OpenAPI, tag "Meetings").

Bodies and answers are Webex's own objects (:mod:`service.webex.objects`). Every function raises subclasses of WebexError,
and ValueError for a call that could never be right. ``host_email`` acts for that host and goes where the operation wants
it; ``send_email`` has no default here, for Webex's own is to send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from service.core.meetings import Meeting
from service.webex import pages
from service.webex.calls import ask
from service.webex.client import WebexClient
from service.webex.objects import (
    CreateMeetingObject,
    JoinMeetingLinkObject,
    JoinMeetingObject,
    ListMeetingsQuery,
    MeetingObjectForListMeeting,
    MeetingSeriesObject,
    PatchMeetingObject,
    UpdateMeetingObject,
)
from service.webex.operations import by_id
from service.webex.protocol import unreadable


async def get_meeting(client: WebexClient, meeting_id: str, *, host_email: str = "") -> Meeting:
    """The meeting as it is now, as our decisions see it: the whole series. Raises WebexNotFound where there is none."""
    return to_meeting(await get_meeting_by_id(client, meeting_id, host_email=host_email))


def to_meeting(value: Any) -> Meeting:
    """A meeting from Webex's object; only ``id`` is required. Raises WebexRejected for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise unreadable("meetings.get")
    title = value.get("title")
    return Meeting(id=value["id"], title=title if isinstance(title, str) else "", fields=value)


async def get_meeting_by_id(
    client: WebexClient,
    meeting_id: str,
    *,
    current: bool | None = None,
    host_email: str = "",
    password: str | None = None,
    timezone: str | None = None,
) -> MeetingSeriesObject:
    """A series, an occurrence or an instance. ``current``: of a series, only its present or next occurrence."""
    answer: MeetingSeriesObject = await ask(
        client,
        by_id("getMeetingById"),
        path={"meetingId": meeting_id},
        query={"current": current},
        headers=_headers(password, timezone),
        host_email=host_email,
    )
    return answer


def list_meetings(
    client: WebexClient, query: ListMeetingsQuery, *, password: str | None = None, timezone: str | None = None
) -> AsyncIterator[MeetingObjectForListMeeting]:
    """The meetings that ``query`` asks for, all pages; by default the series of the next seven days."""
    return pages.items(client, by_id("listMeetings"), query=query, headers=_headers(password, timezone))


def _headers(password: str | None, timezone: str | None) -> dict[str, str]:
    given = {"password": password, "timezone": timezone}
    return {name: value for name, value in given.items() if value is not None}


async def create_meeting(
    client: WebexClient, body: CreateMeetingObject, *, send_email: bool, host_email: str = ""
) -> MeetingSeriesObject:
    """Schedule a meeting.

    Webex knows no idempotency key: after a WebexError with ``maybe_done`` look for it, by ``integrationTags`` say.
    """
    answer: MeetingSeriesObject = await ask(
        client, by_id("createMeeting"), body={**body, "sendEmail": send_email}, host_email=host_email
    )
    return answer


async def patch_meeting(
    client: WebexClient, meeting_id: str, body: PatchMeetingObject, *, send_email: bool, host_email: str = ""
) -> MeetingObjectForListMeeting:
    """Change the given fields of a series or an occurrence; instances cannot be changed."""
    return await _change(client, "patchMeeting", meeting_id, {**body, "sendEmail": send_email}, host_email)


async def update_meeting(
    client: WebexClient, meeting_id: str, body: UpdateMeetingObject, *, send_email: bool, host_email: str = ""
) -> MeetingObjectForListMeeting:
    """PUT; Cisco will retire it and recommends :func:`patch_meeting`."""
    return await _change(client, "updateMeeting", meeting_id, {**body, "sendEmail": send_email}, host_email)


async def _change(
    client: WebexClient, id_: str, meeting_id: str, body: dict[str, Any], host_email: str
) -> MeetingObjectForListMeeting:
    answer: MeetingObjectForListMeeting = await ask(
        client, by_id(id_), path={"meetingId": meeting_id}, body=body, host_email=host_email
    )
    return answer


async def delete_meeting(client: WebexClient, meeting_id: str, *, send_email: bool, host_email: str = "") -> None:
    """Delete a series or an occurrence, for good."""
    await ask(
        client,
        by_id("deleteMeeting"),
        path={"meetingId": meeting_id},
        query={"sendEmail": send_email},
        host_email=host_email,
    )


async def join_meeting(client: WebexClient, body: JoinMeetingObject, *, host_email: str = "") -> JoinMeetingLinkObject:
    """The links of a meeting for one person; ``startLink`` only where we are its host.

    ``joinDirectly`` is always false: otherwise (Webex's default) the answer would be a redirection for a browser.
    """
    answer: JoinMeetingLinkObject = await ask(
        client, by_id("meetingJoin"), body={**body, "joinDirectly": False}, host_email=host_email
    )
    return answer


async def end_meeting(client: WebexClient, meeting_id: str, *, reason: str = "") -> None:
    """End what is in progress: of a series its present occurrence. Only for host, cohost or compliance officer."""
    await ask(client, by_id("endMeeting"), path={"meetingId": meeting_id}, body={"reason": reason} if reason else None)
