"""The calls that sponsoring a guest-to-guest meeting takes, behind one object, with the Service App's token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from service.webex import guests, meetings
from service.webex.client import WebexClient
from service.webex.objects import CreateMeetingObject, JoinMeetingObject, ListMeetingsQuery


class SponsoringApi:
    """Bodies and answers are Webex's objects. Every method raises only subclasses of WebexError, besides ValueError for a call
    that could never be right.
    """

    def __init__(self, client: WebexClient) -> None:
        self._client = client

    async def create_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /meetings``; nobody gets a mail unless ``sendEmail`` is true."""
        send_email = body.get("sendEmail") is True
        return await meetings.create_meeting(self._client, cast(CreateMeetingObject, body), send_email=send_email)

    async def list_meetings(self, query: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """``GET /meetings``, all pages."""
        return [item async for item in meetings.list_meetings(self._client, cast(ListMeetingsQuery, query))]

    async def show_meeting(self, meeting_id: str) -> Mapping[str, Any]:
        """``GET /meetings/{meetingId}``: a series, an occurrence or an instance."""
        return await meetings.get_meeting_by_id(self._client, meeting_id)

    async def join_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /meetings/join``, never with a redirection."""
        return await meetings.join_meeting(self._client, cast(JoinMeetingObject, body))

    async def create_guest(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /guests/token``."""
        return await guests.create_guest(self._client, subject=body["subject"], display_name=body["displayName"])
