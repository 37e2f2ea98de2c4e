"""What the controllers may ask of Webex, behind one object."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from service.core.meetings import Meeting
from service.core.registrants import Registrant
from service.webex import meetings, registrants
from service.webex.client import WebexClient


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
