"""The table of operations, and the types of objects, against Cisco's document."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from service.webex import objects
from service.webex.operations import OPERATIONS, Operation, Parameter, by_id, operation
from tests.contracts.document import Described, Document, Schema

_IDS = [each.id for each in OPERATIONS]

#: Schemas that Cisco's document writes inline, by operation: their names here.
_INLINE = {
    "createRegistrants": "RegistrantForms",
    "batchApproveMeetingRegistrants": "RegistrantBatch",
    "batchRejectMeetingRegistrants": "RegistrantBatch",
    "batchCancelMeetingRegistrants": "RegistrantBatch",
    "batchDeleteMeetingRegistrants": "RegistrantBatch",
    "Create a Webhook": "WebhookForm",
    "Update a Webhook": "WebhookUpdate",
    "Create a Guest": "GuestForm",
    "createServiceAppAccessToken": "ServiceAppTokenForm",
}


def test_every_operation_is_there_and_no_other(cisco: Document) -> None:
    """The table lists exactly the operations of the document, each once."""
    assert sorted(_IDS) == sorted(each.id for each in cisco.operations)


@pytest.mark.parametrize("op", OPERATIONS, ids=_IDS)
def test_an_operation_is_as_cisco_says(cisco: Document, op: Operation) -> None:
    """Method, path, parameters, body and answer are the document's."""
    described = cisco.operation(op.id)
    assert (op.method, op.path) == (described.method, described.path)
    assert {_plain(each) for each in op.parameters} == {_parameter(each) for each in described.parameters}
    assert op.answers == _answers(described)
    media, content = described.body
    assert op.body == (_body(described, content) if media else "")
    assert sorted(op.body_required) == sorted(cisco.required(content))
    assert op.media_type == (media or "application/json")
    assert op.host_email == _host_email(cisco, described)


def _plain(parameter: Parameter) -> tuple[Any, ...]:
    return parameter.name, parameter.place, parameter.type, parameter.required, parameter.choices


def _parameter(described: Mapping[str, Any]) -> tuple[Any, ...]:
    schema = described["schema"]
    kind = {"number": "integer"}.get(schema["type"], schema["type"])
    return described["name"], described["in"], kind, bool(described.get("required")), tuple(schema.get("enum", ()))


def _body(described: Described, content: Mapping[str, Any]) -> str:
    reference = content["schema"].get("$ref")
    return reference.rsplit("/", 1)[1] if reference else _INLINE[described.id]


def _answers(described: Described) -> str:
    status, media, content = described.success
    if status == 204:
        return "nothing"
    if media == "text/plain":
        return "text"
    listed = "items" in content["schema"].get("properties", ()) or "Collection" in content["schema"].get("$ref", "")
    return "items" if listed else "object"


def _host_email(cisco: Document, described: Described) -> str:
    places = [each["in"] for each in described.parameters if each["name"] == "hostEmail"]
    fields = cisco.resolved(described.body[1].get("schema", {})).get("properties", {})
    [place] = [*places, *(["body"] if "hostEmail" in fields else [])] or [""]
    return str(place)


def test_what_only_reads_is_never_a_write() -> None:
    """Whatever the client may repeat is a GET, or the one query that travels in a POST; what destroys is neither."""
    assert [each.id for each in OPERATIONS if each.reads and each.method != "GET"] == ["queryMeetingRegistrants"]
    assert all(each.reads for each in OPERATIONS if each.method == "GET")
    assert all(each.destroys for each in OPERATIONS if each.method == "DELETE")
    assert not [each.id for each in OPERATIONS if each.reads and each.destroys]


def test_our_words_name_one_operation_each() -> None:
    """Resource and verb find the operation again."""
    assert all(operation(each.resource, each.verb) is each is by_id(each.id) for each in OPERATIONS)
    assert len({each.name for each in OPERATIONS}) == len(OPERATIONS)


_ANSWERS = {
    "createMeeting": objects.MeetingSeriesObject,
    "listMeetings": objects.MeetingObjectForListMeeting,
    "getMeetingById": objects.MeetingSeriesObject,
    "patchMeeting": objects.MeetingObjectForListMeeting,
    "updateMeeting": objects.MeetingObjectForListMeeting,
    "meetingJoin": objects.JoinMeetingLinkObject,
    "getMeetingRegistration": objects.Registration,
    "updateMeetingRegistration": objects.Registration,
    "listMeetingRegistrants": objects.Registrant,
    "createRegistrant": objects.RegistrantCreateResponse,
    "getRegistrant": objects.Registrant,
    "queryMeetingRegistrants": objects.Registrant,
    "createRegistrants": objects.RegistrantCreateResponse,
    "List Webhooks": objects.Webhook,
    "Create a Webhook": objects.Webhook,
    "Get Webhook Details": objects.Webhook,
    "Update a Webhook": objects.Webhook,
    "Create a Guest": objects.Guest,
    "createServiceAppAccessToken": objects.ServiceAppToken,
}
_WITH_BODY = [each for each in OPERATIONS if each.body]
_ANSWERING = [each for each in OPERATIONS if each.answers in ("object", "items")]


@pytest.mark.parametrize("op", _WITH_BODY, ids=[each.id for each in _WITH_BODY])
def test_the_type_of_a_body_is_ciscos_schema(cisco: Document, op: Operation) -> None:
    """All keys, down to the last list, and their types."""
    schema = cisco.operation(op.id).body[1]["schema"]
    assert list(_differences(cisco, objects.BODIES[op.body], schema, op.body)) == []


@pytest.mark.parametrize("op", _ANSWERING, ids=[each.id for each in _ANSWERING])
def test_the_type_of_an_answer_is_ciscos_schema(cisco: Document, op: Operation) -> None:
    """All keys, down to the last list, and their types."""
    schema = cisco.resolved(cisco.operation(op.id).success[2]["schema"])
    if op.answers == "items":
        schema = schema["properties"]["items"]["items"]
    assert list(_differences(cisco, _ANSWERS[op.id], schema, op.id)) == []


def test_the_queries_are_the_parameters() -> None:
    """The typed queries of the two long lists name every query parameter."""
    for id_, query in (
        ("listMeetings", objects.ListMeetingsQuery),
        ("listMeetingRegistrants", objects.ListRegistrantsQuery),
    ):
        types = {"string": str, "integer": int, "boolean": bool}
        assert typing.get_type_hints(query) == {each.name: types[each.type] for each in by_id(id_).placed("query")}


def _differences(cisco: Document, type_: Any, schema: Schema, place: str) -> Iterator[str]:
    """Where a type and a schema are not the same."""
    schema = cisco.resolved(schema)
    options = [option for option in typing.get_args(type_) if option is not type(None)]
    if typing.get_origin(type_) is list:
        if schema.get("type") != "array":
            yield f"{place}: a list, {schema.get('type')} in the document"
        else:
            yield from _differences(cisco, options[0], schema["items"], f"{place}[]")
    elif options:  # something or None
        yield from _differences(cisco, options[0], schema, place)
    elif typing.is_typeddict(type_):
        hints, properties = typing.get_type_hints(type_), schema.get("properties", {})
        yield from (f"{place}: {name}" for name in hints.keys() ^ properties.keys())
        for name in hints.keys() & properties.keys():
            yield from _differences(cisco, hints[name], properties[name], f"{place}.{name}")
    elif {"string": str, "number": int, "integer": int, "boolean": bool}.get(schema.get("type", "")) is not type_:
        yield f"{place}: {type_}, {schema.get('type')} in the document"
