"""The registration form of a meeting series: get, update, delete (Webex OpenAPI, tag "Meetings").

Errors and ``host_email`` as in :mod:`service.webex.meetings`. Webex has no form for recurring meetings, and none for
meetings without a password.
"""

from __future__ import annotations

from service.webex.calls import ask
from service.webex.client import WebexClient
from service.webex.objects import Registration, RegistrationForUpdate
from service.webex.operations import by_id


async def get_registration(
    client: WebexClient, meeting_id: str, *, current: bool | None = None, host_email: str = ""
) -> Registration:
    """The form. Raises WebexNotFound (or WebexRejected) where the meeting has none."""
    answer: Registration = await ask(
        client,
        by_id("getMeetingRegistration"),
        path={"meetingId": meeting_id},
        query={"current": current},
        host_email=host_email,
    )
    return answer


async def update_registration(
    client: WebexClient, meeting_id: str, body: RegistrationForUpdate, *, host_email: str = ""
) -> Registration:
    """Switch the form on, or replace it."""
    answer: Registration = await ask(
        client,
        by_id("updateMeetingRegistration"),
        path={"meetingId": meeting_id},
        body={**body},
        host_email=host_email,
    )
    return answer


async def delete_registration(client: WebexClient, meeting_id: str, *, host_email: str = "") -> None:
    """Switch the form off. ``hostEmail`` travels in a header here, as Cisco's document says."""
    await ask(client, by_id("deleteMeetingRegistration"), path={"meetingId": meeting_id}, host_email=host_email)
