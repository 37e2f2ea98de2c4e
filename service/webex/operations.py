"""Webex's operations as a table: what each is called, where it goes, what it takes and what it gives back.

Names, places, types, required fields and choices are those of Cisco's OpenAPI ("Webex Meetings", with Webhooks, Guest
Management and Service Apps); a contract test compares the two. The descriptions are ours. The typed functions, the
command line and the contract tests all read this table, so that an operation is described once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.core.errors import WebexRejected
from service.webex.protocol import Request
from service.webex.protocol import path as encoded_path

JSON = "application/json"

#: What ``PATCH /meetings/{meetingId}`` declares. The body is a plain partial object all the same, not RFC 6902.
JSON_PATCH = "application/json-patch+json"


class Parameter(msgspec.Struct, frozen=True):
    """One parameter. ``place`` is ``path``, ``query`` or ``header``; ``type`` is ``string``, ``integer``, ``boolean``
    or ``array``. ``choices`` empty: any value.
    """

    name: str
    place: str
    type: str
    required: bool = False
    choices: tuple[str, ...] = ()
    description: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of Webex.

    ``id`` is Cisco's operationId; ``resource`` and ``verb`` are the words of our command line. ``body`` names the
    schema of the request body ("" = none; a name of ours where Cisco's document has no name for it, see
    :mod:`service.webex.objects`), ``body_required`` its required fields. ``reads``: it changes nothing, so the client
    may repeat it. ``destroys``: what it does cannot be taken back. ``answers`` is ``object``, ``items``, ``nothing``
    or ``text``. ``host_email`` says where ``hostEmail`` goes: ``query``, ``body``, ``header``, or "" for nowhere.
    """

    id: str
    resource: str
    verb: str
    method: str
    path: str
    parameters: tuple[Parameter, ...] = ()
    body: str = ""
    body_required: tuple[str, ...] = ()
    media_type: str = JSON
    reads: bool = False
    destroys: bool = False
    answers: str = "object"
    host_email: str = ""
    summary: str = ""

    @property
    def name(self) -> str:
        """What logs, errors and metrics call it: ``registrants.bulk-insert``."""
        return f"{self.resource}.{self.verb}"

    def placed(self, place: str) -> Iterator[Parameter]:
        """The parameters of one place."""
        return (parameter for parameter in self.parameters if parameter.place == place)


MEETING_TYPES = ("meetingSeries", "scheduledMeeting", "meeting")
MEETING_STATES = ("active", "scheduled", "ready", "lobby", "inProgress", "ended", "missed", "expired")
SCHEDULED_TYPES = ("meeting", "webinar", "personalRoomMeeting")

_MEETING = Parameter("meetingId", "path", "string", True, (), "A meeting: series, occurrence or instance")
_PLANNED = Parameter("meetingId", "path", "string", True, (), "A meeting series or one of its occurrences")
_SERIES = Parameter("meetingId", "path", "string", True, (), "A meeting series; no occurrence, instance or own room")
_REGISTRANT = Parameter("registrantId", "path", "string", True, (), "A registrant")
_WEBHOOK = Parameter("webhookId", "path", "string", True, (), "A webhook")
_CURRENT = Parameter("current", "query", "boolean", False, (), "Only the current occurrence, not the whole series")
_HOST = Parameter("hostEmail", "query", "string", False, (), "Act for this host; needs an admin-level scope")
_MAX = Parameter("max", "query", "integer", False, (), "Items on one page: 10 unless told, 100 at most")
_PASSWORD = Parameter("password", "header", "string", False, (), "The meeting's password")
_TIMEZONE = Parameter("timezone", "header", "string", False, (), "Time zone of the times in the answer, e.g. UTC")


_LIST_MEETINGS = (
    Parameter("meetingNumber", "query", "string", False, (), "By number; excludes webLink and roomId"),
    Parameter("webLink", "query", "string", False, (), "By link; excludes meetingNumber and roomId"),
    Parameter("roomId", "query", "string", False, (), "By space; excludes meetingNumber and webLink"),
    Parameter("meetingSeriesId", "query", "string", False, (), "Occurrences and instances of this series"),
    _MAX,
    Parameter("from", "query", "string", False, (), "Earliest time, inclusive (ISO 8601); by default 7 days in all"),
    Parameter("to", "query", "string", False, (), "Latest time, exclusive (ISO 8601)"),
    Parameter("meetingType", "query", "string", False, MEETING_TYPES, "Series, occurrences or instances"),
    Parameter("state", "query", "string", False, MEETING_STATES, "Only meetings in this state"),
    Parameter("scheduledType", "query", "string", False, SCHEDULED_TYPES, "Meeting, webinar or personal room"),
    Parameter("isModified", "query", "boolean", False, (), "Only occurrences that were (false: were not) changed"),
    Parameter("hasChat", "query", "boolean", False, (), "Only instances with (false: without) a chat"),
    Parameter("hasRecording", "query", "boolean", False, (), "Only instances with (false: without) a recording"),
    Parameter("hasTranscription", "query", "boolean", False, (), "Only instances with (false: without) a transcript"),
    Parameter("hasSummary", "query", "boolean", False, (), "Only instances with (false: without) a summary"),
    Parameter(
        "hasClosedCaption", "query", "boolean", False, (), "Only instances with (false: without) closed captions"
    ),
    Parameter("hasPolls", "query", "boolean", False, (), "Only instances with (false: without) polls"),
    Parameter("hasQA", "query", "boolean", False, (), "Only instances with (false: without) questions and answers"),
    Parameter("hasSlido", "query", "boolean", False, (), "Only instances with (false: without) Slido interactions"),
    Parameter("current", "query", "boolean", False, (), "The current occurrence (the default), or the whole series"),
    _HOST,
    Parameter("siteUrl", "query", "string", False, (), "Only this Webex site; by default all of the user's"),
    Parameter("integrationTag", "query", "string", False, (), "Only meetings tagged so by the same integration"),
    _PASSWORD,
    _TIMEZONE,
)

_MEETINGS = (
    Operation(
        id="createMeeting",
        resource="meetings",
        verb="create",
        method="POST",
        path="/meetings",
        body="CreateMeetingObject",
        body_required=("title", "start", "end"),
        host_email="body",
        summary="Schedule a meeting",
    ),
    Operation(
        id="listMeetings",
        resource="meetings",
        verb="list",
        method="GET",
        path="/meetings",
        parameters=_LIST_MEETINGS,
        reads=True,
        answers="items",
        host_email="query",
        summary="List meetings",
    ),
    Operation(
        id="getMeetingById",
        resource="meetings",
        verb="get",
        method="GET",
        path="/meetings/{meetingId}",
        parameters=(_MEETING, _CURRENT, _HOST, _PASSWORD, _TIMEZONE),
        reads=True,
        host_email="query",
        summary="Show one meeting",
    ),
    Operation(
        id="patchMeeting",
        resource="meetings",
        verb="patch",
        method="PATCH",
        path="/meetings/{meetingId}",
        parameters=(_PLANNED,),
        body="PatchMeetingObject",
        media_type=JSON_PATCH,
        host_email="body",
        summary="Change some fields of a meeting",
    ),
    Operation(
        id="updateMeeting",
        resource="meetings",
        verb="update",
        method="PUT",
        path="/meetings/{meetingId}",
        parameters=(_PLANNED,),
        body="UpdateMeetingObject",
        host_email="body",
        summary="Change a meeting; Cisco will retire this in favour of patch",
    ),
    Operation(
        id="deleteMeeting",
        resource="meetings",
        verb="delete",
        method="DELETE",
        path="/meetings/{meetingId}",
        parameters=(
            _PLANNED,
            _HOST,
            Parameter("sendEmail", "query", "boolean", False, (), "Tell host and invitees by e-mail"),
        ),
        destroys=True,
        answers="nothing",
        host_email="query",
        summary="Delete a meeting; it cannot be recovered",
    ),
    Operation(
        id="meetingJoin",
        resource="meetings",
        verb="join",
        method="POST",
        path="/meetings/join",
        body="JoinMeetingObject",
        host_email="body",
        summary="Get the links with which somebody joins or starts a meeting",
    ),
    Operation(
        id="endMeeting",
        resource="meetings",
        verb="end",
        method="POST",
        path="/meetings/{meetingId}/end",
        parameters=(_MEETING,),
        body="EndMeetingRequestObject",
        destroys=True,
        answers="nothing",
        summary="End a meeting that is in progress, for everybody in it",
    ),
)

_REGISTRATION = (
    Operation(
        id="getMeetingRegistration",
        resource="registration",
        verb="get",
        method="GET",
        path="/meetings/{meetingId}/registration",
        parameters=(_SERIES, _CURRENT, _HOST),
        reads=True,
        host_email="query",
        summary="Show a meeting's registration form",
    ),
    Operation(
        id="updateMeetingRegistration",
        resource="registration",
        verb="update",
        method="PUT",
        path="/meetings/{meetingId}/registration",
        parameters=(_SERIES,),
        body="RegistrationForUpdate",
        host_email="body",
        summary="Switch a meeting's registration form on, or change it",
    ),
    Operation(
        id="deleteMeetingRegistration",
        resource="registration",
        verb="delete",
        method="DELETE",
        path="/meetings/{meetingId}/registration",
        parameters=(_SERIES, Parameter("hostEmail", "header", "string", False, (), _HOST.description)),
        destroys=True,
        answers="nothing",
        host_email="header",
        summary="Switch a meeting's registration form off",
    ),
)


_REGISTRANTS = (
    Operation(
        id="listMeetingRegistrants",
        resource="registrants",
        verb="list",
        method="GET",
        path="/meetings/{meetingId}/registrants",
        parameters=(
            _SERIES,
            _MAX,
            _HOST,
            _CURRENT,
            Parameter("email", "query", "string", False, (), "Only the registrant with this address"),
            Parameter(
                "registrationTimeFrom",
                "query",
                "string",
                False,
                (),
                "Earliest, inclusive (ISO 8601); 7 days by default",
            ),
            Parameter(
                "registrationTimeTo", "query", "string", False, (), "Latest, exclusive; 90 days after From at most"
            ),
        ),
        reads=True,
        answers="items",
        host_email="query",
        summary="List registrants, by default those of the last seven days",
    ),
    Operation(
        id="createRegistrant",
        resource="registrants",
        verb="register",
        method="POST",
        path="/meetings/{meetingId}/registrants",
        parameters=(_SERIES, _CURRENT, _HOST),
        body="RegistrantFormObject",
        body_required=("firstName", "lastName", "email"),
        host_email="query",
        summary="Register one person",
    ),
    Operation(
        id="getRegistrant",
        resource="registrants",
        verb="get",
        method="GET",
        path="/meetings/{meetingId}/registrants/{registrantId}",
        parameters=(_SERIES, _REGISTRANT, _CURRENT, _HOST),
        reads=True,
        host_email="query",
        summary="Show one registrant",
    ),
    Operation(
        id="deleteRegistrant",
        resource="registrants",
        verb="delete",
        method="DELETE",
        path="/meetings/{meetingId}/registrants/{registrantId}",
        parameters=(_SERIES, _REGISTRANT, _CURRENT, _HOST),
        destroys=True,
        answers="nothing",
        host_email="query",
        summary="Delete one registrant",
    ),
    Operation(
        id="queryMeetingRegistrants",
        resource="registrants",
        verb="query",
        method="POST",
        path="/meetings/{meetingId}/registrants/query",
        parameters=(_SERIES, _MAX, _CURRENT, _HOST),
        body="queryRegistrants",
        body_required=("emails",),
        reads=True,
        answers="items",
        host_email="query",
        summary="Find registrants by their addresses",
    ),
    Operation(
        id="batchApproveMeetingRegistrants",
        resource="registrants",
        verb="approve",
        method="POST",
        path="/meetings/{meetingId}/registrants/approve",
        parameters=(_SERIES, _CURRENT, _HOST),
        body="RegistrantBatch",
        answers="nothing",
        host_email="query",
        summary="Approve registrants",
    ),
    Operation(
        id="batchRejectMeetingRegistrants",
        resource="registrants",
        verb="reject",
        method="POST",
        path="/meetings/{meetingId}/registrants/reject",
        parameters=(_SERIES, _CURRENT, _HOST),
        body="RegistrantBatch",
        answers="nothing",
        host_email="query",
        summary="Reject registrants",
    ),
    Operation(
        id="batchCancelMeetingRegistrants",
        resource="registrants",
        verb="cancel",
        method="POST",
        path="/meetings/{meetingId}/registrants/cancel",
        parameters=(_SERIES, _CURRENT, _HOST),
        body="RegistrantBatch",
        answers="nothing",
        host_email="query",
        summary="Put registrants back to where nobody has decided",
    ),
    Operation(
        id="createRegistrants",
        resource="registrants",
        verb="bulk-insert",
        method="POST",
        path="/meetings/{meetingId}/registrants/bulkInsert",
        parameters=(_SERIES, _CURRENT, _HOST),
        body="RegistrantForms",
        answers="items",
        host_email="query",
        summary="Register many people at once",
    ),
    Operation(
        id="batchDeleteMeetingRegistrants",
        resource="registrants",
        verb="bulk-delete",
        method="POST",
        path="/meetings/{meetingId}/registrants/bulkDelete",
        parameters=(_SERIES, _CURRENT, _HOST),
        body="RegistrantBatch",
        destroys=True,
        answers="nothing",
        host_email="query",
        summary="Delete registrants",
    ),
)

_WEBHOOKS = (
    Operation(
        id="List Webhooks",
        resource="webhooks",
        verb="list",
        method="GET",
        path="/webhooks",
        parameters=(
            Parameter("max", "query", "integer", False, (), "Items on one page, 100 unless told"),
            Parameter("ownedBy", "query", "string", False, (), "org: the organisation's webhooks, not the creator's"),
        ),
        reads=True,
        answers="items",
        summary="List webhooks",
    ),
    Operation(
        id="Create a Webhook",
        resource="webhooks",
        verb="create",
        method="POST",
        path="/webhooks",
        body="WebhookForm",
        body_required=("name", "targetUrl", "resource", "event"),
        summary="Create a webhook",
    ),
    Operation(
        id="Get Webhook Details",
        resource="webhooks",
        verb="get",
        method="GET",
        path="/webhooks/{webhookId}",
        parameters=(_WEBHOOK,),
        reads=True,
        summary="Show one webhook",
    ),
    Operation(
        id="Update a Webhook",
        resource="webhooks",
        verb="update",
        method="PUT",
        path="/webhooks/{webhookId}",
        parameters=(_WEBHOOK,),
        body="WebhookUpdate",
        body_required=("name", "targetUrl"),
        summary="Change name, URL, secret, or switch on again what Webex switched off",
    ),
    Operation(
        id="Delete a Webhook",
        resource="webhooks",
        verb="delete",
        method="DELETE",
        path="/webhooks/{webhookId}",
        parameters=(_WEBHOOK,),
        destroys=True,
        answers="nothing",
        summary="Delete a webhook",
    ),
)

_GUESTS = (
    Operation(
        id="Create a Guest",
        resource="guests",
        verb="create",
        method="POST",
        path="/guests/token",
        body="GuestForm",
        body_required=("subject", "displayName"),
        summary="Create a token for a guest; earlier ones stay valid",
    ),
    Operation(
        id="Get Guest Count",
        resource="guests",
        verb="count",
        method="GET",
        path="/guests/count",
        reads=True,
        answers="text",
        summary="How many guests there are",
    ),
)

_APPLICATIONS = (
    Operation(
        id="createServiceAppAccessToken",
        resource="applications",
        verb="token",
        method="POST",
        path="/applications/{applicationId}/token",
        parameters=(Parameter("applicationId", "path", "string", True, (), "The Service App"),),
        body="ServiceAppTokenForm",
        body_required=("clientId", "clientSecret", "targetOrgId"),
        summary="Get the token pair of a Service App for one organisation",
    ),
)

#: Everything that this project calls.
OPERATIONS: tuple[Operation, ...] = (
    *_MEETINGS,
    *_REGISTRATION,
    *_REGISTRANTS,
    *_WEBHOOKS,
    *_GUESTS,
    *_APPLICATIONS,
)

_BY_ID: Mapping[str, Operation] = {each.id: each for each in OPERATIONS}
_BY_WORDS: Mapping[tuple[str, str], Operation] = {(each.resource, each.verb): each for each in OPERATIONS}


def operation(resource: str, verb: str) -> Operation:
    """The operation with our words for it. Raises KeyError where there is none."""
    return _BY_WORDS[resource, verb]


def by_id(id_: str) -> Operation:
    """The operation with Cisco's operationId. Raises KeyError where there is none."""
    return _BY_ID[id_]


def request_for(
    op: Operation,
    *,
    path: Mapping[str, str] = {},
    query: Mapping[str, Any] = {},
    headers: Mapping[str, str] = {},
    body: Any = None,
    host_email: str = "",
) -> Request:
    """The request of ``op``. Parameters that are None are left out; ``host_email`` goes where the operation wants it.

    A datetime in ``query`` must have a time zone and is written in UTC, as whole seconds. Raises WebexRejected for an
    id that cannot be one, ValueError for anything else that the operation does not take. Neither quotes a value.
    """
    if host_email:
        query, headers, body = _with_host(op, host_email, query, headers, body)
    accept = {"Accept": "text/plain, application/json"} if op.answers == "text" else {}
    return Request(
        operation=op.name,
        method=op.method,
        path=_path(op, path),
        query=_written(op, "query", query),
        headers={**accept, **_written(op, "header", headers)},
        json=_body(op, body),
        media_type=op.media_type,
        reads=op.reads,
        answers=op.answers != "nothing",
    )


def _with_host(
    op: Operation, host_email: str, query: Mapping[str, Any], headers: Mapping[str, str], body: Any
) -> tuple[Mapping[str, Any], Mapping[str, str], Any]:
    given = {"hostEmail": host_email}
    match op.host_email:
        case "query":
            return {**query, **given}, headers, body
        case "header":
            return query, {**headers, **given}, body
        case "body":
            return query, headers, {**(body or {}), **given}
    raise ValueError(f"{op.name} takes no hostEmail")


_TEMPLATE = re.compile(r"\{(\w+)\}")

# Encoded they would do no harm here, but a gateway between us and Webex may decode before it routes.
_STEERS = re.compile(r"[\x00-\x20\x7f/\\?#%]")


def _path(op: Operation, values: Mapping[str, str]) -> str:
    wanted = {parameter.name for parameter in op.placed("path")}
    if wanted != set(values):
        raise ValueError(f"{op.name} takes {sorted(wanted) or 'nothing'} in its path, not {sorted(values)}")
    for name, value in values.items():
        if _STEERS.search(value):
            raise WebexRejected(f"{op.name}: {name} is not an id: the call was not made")
    segments = (_TEMPLATE.sub(lambda match: values[match[1]], part) for part in op.path.split("/")[1:])
    return encoded_path(*segments)


def _written(op: Operation, place: str, values: Mapping[str, Any]) -> dict[str, str]:
    known = {parameter.name: parameter for parameter in op.placed(place)}
    given = {name: value for name, value in values.items() if value is not None}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{op.name} takes no {place} parameter {', '.join(unknown)}")
    if missing := sorted(name for name, each in known.items() if each.required and name not in given):
        raise ValueError(f"{op.name} needs {', '.join(missing)}")
    written = {name: _text(op, known[name], value) for name, value in given.items()}
    if place == "header":
        _check_headers(op, written)
    return written


def _text(op: Operation, parameter: Parameter, value: Any) -> str:
    """The value as Webex reads it. Raises ValueError where it is not of the parameter's type, or no choice of it."""
    match parameter.type, value:
        case "boolean", bool():
            return "true" if value else "false"
        case "integer", int() if not isinstance(value, bool):
            return str(value)
        case "string", datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case "string", str() if not parameter.choices or value in parameter.choices:
            return value
    expected = " or ".join(parameter.choices) or f"of type {parameter.type}"
    raise ValueError(f"{op.name}: {parameter.name} must be {expected}")


def _check_headers(op: Operation, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"{op.name}: {name} must be printable ASCII, for it travels in a header")


def _body(op: Operation, body: Any) -> Any:
    if body is None and not op.body_required:
        return None
    if not op.body:
        raise ValueError(f"{op.name} has no body")
    if not isinstance(body, Mapping):
        raise ValueError(f"{op.name} needs an object as its body")  # noqa: TRY004 - one class for every wrong request
    if missing := [name for name in op.body_required if body.get(name) is None]:
        raise ValueError(f"{op.name}: its body needs {', '.join(missing)}")
    return body
