"""What the controllers may ask of Webex, behind one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

from service.core.meetings import Meeting
from service.core.registrants import Registrant
from service.webex import meetings, registrants, registration
from service.webex.client import WebexClient
from service.webex.objects import ListMeetingsQuery, PatchMeetingObject, RegistrationForUpdate, UpdateMeetingObject


class WebexApi:
    """The calls of one client.

    Every method raises only subclasses of WebexError, besides ValueError for a call that could never be right.
    """

    def __init__(self, client: WebexClient) -> None:
        self._client = client

    async def get_meeting(self, meeting_id: str, *, host_email: str = "") -> Meeting:
        """The meeting as it is now."""
        return await meetings.get_meeting(self._client, meeting_id, host_email=host_email)

    async def list_registrants(
        self, meeting_id: str, *, since: datetime | None, now: datetime, host_email: str = ""
    ) -> list[Registrant]:
        """All who registered from ``since`` on (None: all there are, as far as :mod:`service.webex.registrants` looks
        back).
        """
        return await registrants.list_registrants(self._client, meeting_id, since=since, now=now, host_email=host_email)

    async def get_registrant(self, meeting_id: str, registrant_id: str, *, host_email: str = "") -> Registrant:
        """One registrant. Raises WebexNotFound where there is none (any more)."""
        shown = await registrants.get_registrant(self._client, meeting_id, registrant_id, host_email=host_email)
        return registrants.to_registrants({"items": [shown]}, "registrants.get")[0]

    async def list_meetings(self, *, since: datetime, until: datetime, host_email: str = "") -> list[Meeting]:
        """The series that occur in this time, of the token's own user or of ``host_email``."""
        query = cast(
            ListMeetingsQuery,
            {
                "meetingType": "meetingSeries",
                "from": _wire_time(since),
                "to": _wire_time(until),
                "current": False,
                **({"hostEmail": host_email} if host_email else {}),
            },
        )
        return [meetings.to_meeting(item) async for item in meetings.list_meetings(self._client, query)]

    async def change_meeting(
        self,
        meeting_id: str,
        method: Literal["patch", "put"],
        fields: Mapping[str, Any],
        *,
        send_email: bool,
        host_email: str = "",
    ) -> None:
        """Change these fields (patch), or replace the meeting's settings by them (put)."""
        if method == "patch":
            body = cast(PatchMeetingObject, fields)
            await meetings.patch_meeting(self._client, meeting_id, body, send_email=send_email, host_email=host_email)
        else:
            whole = cast(UpdateMeetingObject, fields)
            await meetings.update_meeting(self._client, meeting_id, whole, send_email=send_email, host_email=host_email)

    async def get_registration(self, meeting_id: str, *, host_email: str = "") -> Mapping[str, Any]:
        """The registration form."""
        return await registration.get_registration(self._client, meeting_id, host_email=host_email)

    async def update_registration(self, meeting_id: str, form: Mapping[str, Any], *, host_email: str = "") -> None:
        """Replace the registration form."""
        body = cast(RegistrationForUpdate, form)
        await registration.update_registration(self._client, meeting_id, body, host_email=host_email)

    async def query_registrants(
        self, meeting_id: str, emails: Sequence[str], *, host_email: str = ""
    ) -> list[Registrant]:
        """The registrants with these addresses, whatever their status."""
        return await registrants.query_registrants(self._client, meeting_id, emails, host_email=host_email)

    async def change_status(
        self, meeting_id: str, verb: str, ids: Sequence[str], *, send_email: bool, host_email: str = ""
    ) -> None:
        """``approve`` or ``reject`` them in one call. Returning means accepted; what became of each, only a list
        tells.
        """
        await registrants.change_status(
            self._client, meeting_id, verb, ids, send_email=send_email, host_email=host_email
        )


def _wire_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
