"""Reading meetings: ``GET /meetings/{meetingId}`` (Webex OpenAPI, ``getMeetingById``)."""

from __future__ import annotations

from typing import Any

from service.core.meetings import Meeting
from service.webex.client import WebexClient
from service.webex.protocol import Request, path, unreadable

_OPERATION = "meetings.get"


async def get_meeting(client: WebexClient, meeting_id: str, *, host_email: str = "") -> Meeting:
    """The meeting as it is now. ``current`` stays at its default, false: the whole series.

    Raises WebexNotFound where there is none.
    """
    request = Request(
        operation=_OPERATION,
        method="GET",
        path=path("meetings", meeting_id),
        query={"hostEmail": host_email} if host_email else {},
        reads=True,
    )
    return to_meeting((await client.call(request)).value)


def to_meeting(value: Any) -> Meeting:
    """A meeting from Webex's object; only ``id`` is required. Raises WebexRejected for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise unreadable(_OPERATION)
    title = value.get("title")
    return Meeting(id=value["id"], title=title if isinstance(title, str) else "", fields=value)
