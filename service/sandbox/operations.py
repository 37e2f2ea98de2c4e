"""The API's operations as a table: Cisco's operationId, method, path, types, scopes, and what the world does about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.sandbox import schemas
from service.sandbox.api import guests, meetings, registrants, webhooks
from service.sandbox.api.calls import FLAG, NUMBER, Answer, Call, Kind, check_parameter
from service.sandbox.world import World

Handler = Callable[[World, Call], Answer]

READ = ("meeting:schedules_read", "meeting:admin_schedule_read")
WRITE = ("meeting:schedules_write", "meeting:admin_schedule_write")


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    ``id`` is Cisco's operationId; ``name`` is short, for faults. ``scopes``: one of them is needed. ``query``: its parameters
    that are not any text. ``body``: its type, None where there is none. ``oauth``: the body is a form, no token is needed.
    """

    id: str
    name: str
    method: str
    path: str
    handle: Handler
    scopes: tuple[str, ...] = ()
    query: Mapping[str, Kind] = field(default_factory=dict)
    body: Any = None
    oauth: bool = False

    def checked(self, query: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, Any]:
        """The body with its known fields. Raises Refusal (400) where a parameter or a field has not its type."""
        for name, kind in self.query.items():
            if name in query:
                check_parameter(name, query[name], kind)
        if self.oauth:
            return dict(body)
        return schemas.checked(body, self.body) if self.body else {}


_FIND: Mapping[str, Kind] = {
    "max": NUMBER,
    "meetingType": schemas.MEETING_TYPES,
    "state": schemas.STATES,
    "scheduledType": schemas.SCHEDULED_TYPES,
    "isModified": FLAG,
    "current": FLAG,
    **dict.fromkeys(meetings.ENDED_ONLY, FLAG),
}
_CURRENT: Mapping[str, Kind] = {"current": FLAG}
_PAGED: Mapping[str, Kind] = {"current": FLAG, "max": NUMBER}
_MAIL: Mapping[str, Kind] = {"sendEmail": FLAG}
_MAX: Mapping[str, Kind] = {"max": NUMBER}

_MEETING = "/meetings/{meetingId}"
_REGISTRATION = f"{_MEETING}/registration"
_REGISTRANTS = f"{_MEETING}/registrants"
_REGISTRANT = f"{_REGISTRANTS}/{{registrantId}}"
_WEBHOOK = "/webhooks/{webhookId}"
_APP_TOKEN = "/applications/{applicationId}/token"  # noqa: S105 - a path

#: Of two rows whose paths both fit, the first counts: ``/meetings/join`` stands before ``/meetings/{meetingId}``.
# fmt: off
OPERATIONS = (
    Operation("createMeeting", "createMeeting", "POST", "/meetings", meetings.create_meeting, WRITE, body=schemas.NewMeeting),
    Operation("listMeetings", "listMeetings", "GET", "/meetings", meetings.list_meetings, READ, _FIND),
    Operation("meetingJoin", "join", "POST", "/meetings/join", meetings.join_meeting, WRITE, body=schemas.Join),
    Operation("getMeetingById", "getMeeting", "GET", _MEETING, meetings.get_meeting, READ, _CURRENT),
    Operation("patchMeeting", "patchMeeting", "PATCH", _MEETING, meetings.update_meeting, WRITE, body=schemas.PatchedMeeting),
    Operation("updateMeeting", "updateMeeting", "PUT", _MEETING, meetings.update_meeting, WRITE, body=schemas.UpdatedMeeting),
    Operation("deleteMeeting", "deleteMeeting", "DELETE", _MEETING, meetings.delete_meeting, WRITE, _MAIL),
    Operation("endMeeting", "end", "POST", f"{_MEETING}/end", meetings.end_meeting, WRITE, body=schemas.End),

    Operation("getMeetingRegistration", "getRegistration", "GET", _REGISTRATION, registrants.get_form, READ, _CURRENT),
    Operation("updateMeetingRegistration", "updateRegistration", "PUT", _REGISTRATION, registrants.update_form, WRITE,
              body=schemas.RegistrationForm),
    Operation("deleteMeetingRegistration", "deleteRegistration", "DELETE", _REGISTRATION, registrants.delete_form, WRITE),

    Operation("listMeetingRegistrants", "list", "GET", _REGISTRANTS, registrants.list_registrants, READ, _PAGED),
    Operation("createRegistrant", "register", "POST", _REGISTRANTS, registrants.register, WRITE, _CURRENT,
              schemas.Registrant),
    Operation("queryMeetingRegistrants", "query", "POST", f"{_REGISTRANTS}/query", registrants.query_registrants, READ,
              _PAGED, schemas.Query),
    Operation("createRegistrants", "bulkInsert", "POST", f"{_REGISTRANTS}/bulkInsert", registrants.bulk_insert, WRITE,
              _CURRENT, schemas.BulkInsert),
    Operation("batchApproveMeetingRegistrants", "approve", "POST", f"{_REGISTRANTS}/approve", registrants.approve, WRITE,
              _CURRENT, schemas.Batch),
    Operation("batchRejectMeetingRegistrants", "reject", "POST", f"{_REGISTRANTS}/reject", registrants.reject, WRITE,
              _CURRENT, schemas.Batch),
    Operation("batchCancelMeetingRegistrants", "cancel", "POST", f"{_REGISTRANTS}/cancel", registrants.cancel, WRITE,
              _CURRENT, schemas.Batch),
    Operation("batchDeleteMeetingRegistrants", "bulkDelete", "POST", f"{_REGISTRANTS}/bulkDelete",
              registrants.bulk_delete, WRITE, _CURRENT, schemas.Batch),
    Operation("getRegistrant", "get", "GET", _REGISTRANT, registrants.get_registrant, READ, _CURRENT),
    Operation("deleteRegistrant", "delete", "DELETE", _REGISTRANT, registrants.delete_registrant, WRITE, _CURRENT),

    Operation("List Webhooks", "listWebhooks", "GET", "/webhooks", webhooks.list_webhooks, query=_MAX),
    Operation("Create a Webhook", "createWebhook", "POST", "/webhooks", webhooks.create_webhook, body=schemas.NewWebhook),
    Operation("Get Webhook Details", "getWebhook", "GET", _WEBHOOK, webhooks.get_webhook),
    Operation("Update a Webhook", "updateWebhook", "PUT", _WEBHOOK, webhooks.update_webhook, body=schemas.UpdatedWebhook),
    Operation("Delete a Webhook", "deleteWebhook", "DELETE", _WEBHOOK, webhooks.delete_webhook),

    Operation("Create a Guest", "createGuest", "POST", "/guests/token", guests.create_guest, ("guest-issuer:write",),
              body=schemas.Guest),
    Operation("Get Guest Count", "countGuests", "GET", "/guests/count", guests.count_guests,
              ("guest-issuer:read", "guest-issuer:write")),
    Operation("createServiceAppAccessToken", "serviceAppToken", "POST", _APP_TOKEN, guests.service_app_token,
              ("spark:applications_token",), body=schemas.ServiceAppToken),
    # Not in Cisco's OpenAPI; the guide "Integrations" has it.
    Operation("accessToken", "accessToken", "POST", "/access_token", guests.refresh_token, oauth=True),
)
# fmt: on
