"""Commands at Webex: the schema of each, and the call that it stands for.

The schemas are made from the table of operations and Webex's objects, so that what is published, what is checked and what
is sent are one. They are stricter than Webex where a slip would be costly: a field that nobody knows is refused, because
``sendEmial: false`` would send mail.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from service.core import commands
from service.core.commands import PREFIX, SPONSOR, Answer
from service.core.guests import MOST_GUESTS
from service.core.registrants import BATCH
from service.webex.calls import shaped
from service.webex.client import WebexClient
from service.webex.objects import BODIES
from service.webex.operations import OPERATIONS, Operation, operation, request_for
from service.webex.protocol import ID_CHARACTERS, PAGE
from service.webex.schema_problems import problem, validator

_RESOURCES = ("meetings", "registration", "registrants", "guests")
_SCALARS: Mapping[type, str] = {str: "string", int: "integer", bool: "boolean", types.NoneType: "null"}

#: Webex takes three tags of an integration; by one of ours a meeting is found again.
_TAGS = 3
_OWN_TAGS: Mapping[str, Any] = {
    "type": "array",
    "maxItems": _TAGS - 1,
    "items": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^(?!webex-events-)"},
}
_EMAIL: Mapping[str, Any] = {"type": "string", "maxLength": 320, "pattern": "^[^@\\s]+@[^@\\s]+$"}
_ID: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": ID_CHARACTERS}
_PATH_ID: Mapping[str, Any] = {**_ID, "pattern": r"^[^\x00-\x20\x7f/\\?#%]+$"}
_MINUTES: Mapping[str, Any] = {"type": "integer", "minimum": 1, "maximum": 60}

#: What the objects' types do not say: keywords for the body itself, and for fields of it.
_KEYWORDS: Mapping[str, Mapping[str, Any]] = {
    "PatchMeetingObject": {"minProperties": 1},
    "UpdateMeetingObject": {"minProperties": 1},
    "RegistrationForUpdate": {"minProperties": 1},
    "JoinMeetingObject": {"minProperties": 1},
    "RegistrantBatch": {"required": ["registrants"]},
    "RegistrantForms": {"required": ["items"]},
}
_PERSON_REQUIRED = ("firstName", "lastName", "email")
_FIELDS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "CreateMeetingObject": {"integrationTags": _OWN_TAGS},
    "JoinMeetingObject": {"joinDirectly": {"type": "boolean", "const": False}, "expirationMinutes": _MINUTES},
    "RegistrantFormObject": {"email": _EMAIL},
    "RegistrantForms": {"items": {"type": "array", "minItems": 1, "maxItems": BATCH}},
    "RegistrantBatch": {
        "registrants": {
            "type": "array",
            "minItems": 1,
            "maxItems": BATCH,
            "items": {
                "type": "object",
                "required": ["id"],
                "properties": {"id": _ID},
                "additionalProperties": False,
            },
        }
    },
    "queryRegistrants": {
        "emails": {"type": "array", "minItems": 1, "maxItems": BATCH, "items": _EMAIL},
        "orderType": {"type": "string", "enum": ["ASC", "DESC"]},
    },
}
#: What sponsoring does not take of the fields of a new meeting (:mod:`service.core.guests` says why).
_NOT_SPONSORED = ("adhoc", "roomId", "recurrence", "hostEmail")
_TIME: Mapping[str, Any] = {"type": "string", "format": "date-time"}

#: Whoever always sends a body sends nothing in it.
_NO_BODY: Mapping[str, Any] = {"description": "There is none", "maxProperties": 0}


class Catalogue:
    """Every command that there is, with its schema."""

    def __init__(self) -> None:
        self._schemas = {op.name: _schema(op.name, op.summary, _data(op)) for op in _commanded()}
        self._schemas[SPONSOR] = _schema(SPONSOR, "Sponsor a guest-to-guest meeting", _sponsor_data())
        self._validators = {name: validator(schema) for name, schema in self._schemas.items()}

    def __contains__(self, operation: object) -> bool:
        """Whether there is a command of this name."""
        return operation in self._schemas

    @property
    def operations(self) -> Sequence[str]:
        """Their names, in the order of the command line."""
        return tuple(self._schemas)

    def schema(self, operation: str) -> Mapping[str, Any]:
        """The JSON Schema of the command's CloudEvent. Raises KeyError."""
        return self._schemas[operation]

    def problem(self, operation: str, event: Mapping[str, Any]) -> str:
        """The first thing that its schema has against ``event``, "" for nothing. Raises KeyError."""
        return problem(self._validators[operation], event)


def _commanded() -> Sequence[Operation]:
    return [op for op in OPERATIONS if op.resource in _RESOURCES]


# --- schemas ----------------------------------------------------------------------------------------------------------


def _schema(name: str, summary: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{PREFIX}{name}.v1",
        "description": f"{summary}. A CloudEvent 1.0 in structured JSON mode, on the topic commands.",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1, "maxLength": commands.ID_CHARACTERS},
            "source": {"type": "string", "minLength": 1},
            "type": {"const": f"{PREFIX}{name}.v1"},
            "time": _TIME,
            "datacontenttype": {"const": "application/json"},
            "expirytime": {**_TIME, "description": "After it the command is refused"},
            "traceparent": {"type": "string"},
            "data": data,
        },
    }


def _data(op: Operation) -> dict[str, Any]:
    parameters = _parameters(op)
    properties: dict[str, Any] = {"organization": _ORGANIZATION, "parameters": parameters}
    required = ["parameters"] if parameters.get("required") else []
    body = _body(op) if op.body else _NO_BODY
    needed = bool(body.get("required") or body.get("minProperties"))
    properties["body"] = body if needed else {**body, "type": ["object", "null"]}
    return _object(properties, [*required, *(["body"] if needed else [])])


_ORGANIZATION: Mapping[str, Any] = {
    "type": "string",
    "description": "Webex's id of the organisation, or its name in the settings; needed where there are several",
}


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", **needed, "properties": dict(properties), "additionalProperties": False}


def _parameters(op: Operation) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for each in op.parameters:
        kind = {"type": each.type}
        limits = {"minimum": 1, "maximum": PAGE} if each.name == "max" else {}
        choices = {"enum": list(each.choices)} if each.choices else {}
        of_path = _PATH_ID if each.place == "path" else {}
        properties[each.name] = {**kind, **of_path, **limits, **choices, "description": each.description}
    return _object(properties, [each.name for each in op.parameters if each.required])


def _body(op: Operation) -> dict[str, Any]:
    schema = {**_of(BODIES[op.body], op.body), **_KEYWORDS.get(op.body, {})}
    if op.body_required:
        schema["required"] = list(op.body_required)
    if op.body == "RegistrantForms":
        people = schema["properties"]["items"]
        person = _of(BODIES["RegistrantFormObject"], "RegistrantFormObject")
        people["items"] = {**person, "required": list(_PERSON_REQUIRED)}
    return schema


def _of(kind: Any, name: str = "") -> dict[str, Any]:
    """The schema of a type of :mod:`service.webex.objects`; ``name`` is that of a body."""
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if typing.is_typeddict(kind):
        fields = {field: _of(each) for field, each in typing.get_type_hints(kind).items()}
        return _object({**fields, **{field: dict(each) for field, each in _FIELDS.get(name, {}).items()}})
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": _of(*typing.get_args(kind))}
    parts = [_of(each) for each in typing.get_args(kind)]  # X | None
    return {**parts[0], "type": [part["type"] for part in parts]}


def _sponsor_data() -> dict[str, Any]:
    meeting = _of(BODIES["CreateMeetingObject"], "CreateMeetingObject")
    fields = {name: each for name, each in meeting["properties"].items() if name not in _NOT_SPONSORED}
    tags = {**_OWN_TAGS, "maxItems": _TAGS - 2}
    person = _object(
        {"email": _EMAIL, "displayName": {"type": "string", "minLength": 1, "maxLength": 128}},
        ["email", "displayName"],
    )
    body = {
        "meeting": _object({**fields, "integrationTags": tags}, ["title", "start", "end"]),
        "host": person,
        "guests": {"type": "array", "minItems": 1, "maxItems": MOST_GUESTS, "items": person},
        "expirationMinutes": _MINUTES,
        "tokens": {"type": "boolean", "description": "Also a guest token for everybody"},
    }
    properties = {
        "organization": _ORGANIZATION,
        "parameters": _object({}),
        "body": _object(body, ["meeting", "host", "guests"]),
    }
    return _object(properties, ["body"])


# --- calls ------------------------------------------------------------------------------------------------------------


class Commanding:
    """Any operation by its name, with the parameters and the body that its command has."""

    def __init__(self, client: WebexClient) -> None:
        self._client = client

    async def call(self, name: str, parameters: Mapping[str, Any], body: Any = None) -> Answer:
        """One call. Raises WebexError; ValueError for one that could never be right."""
        op = operation(*name.split(".", 1))
        placed = {place: _placed(op, place, parameters) for place in ("path", "query", "header")}
        sent = body if op.body else None
        request = request_for(op, path=placed["path"], query=placed["query"], headers=placed["header"], body=sent)
        reply = await self._client.call(request)
        shaped(op, reply)
        return Answer(status=reply.status, value=None if op.answers == "nothing" else reply.value)


def _placed(op: Operation, place: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in op.placed(place)}
    return {name: value for name, value in parameters.items() if name in names}
