"""What meeting rules set, against Cisco's document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from service.core.meeting_fields import form_body
from service.core.meetings import CHOICES, ERASABLE, SETTABLE
from tests.contracts.document import Document

_OBJECTS = sorted(name for name, kind in SETTABLE.items() if kind == "object" and name != "registration")


def _properties(cisco: Document, schema: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = cisco.schemas[schema]["properties"]
    return found


def test_what_can_be_set_is_what_a_patch_takes(cisco: Document) -> None:
    """Every field with its type, but for the two that say how the call is made; and the form, which has its own call."""
    taken = {name: cisco.resolved(schema)["type"] for name, schema in _properties(cisco, "PatchMeetingObject").items()}
    assert {name: taken[name] for name in taken.keys() - {"sendEmail", "hostEmail"}} | {
        "registration": "object"
    } == SETTABLE


def test_a_put_takes_the_same(cisco: Document) -> None:
    """So one body serves both."""
    assert _properties(cisco, "UpdateMeetingObject").keys() == _properties(cisco, "PatchMeetingObject").keys()


def test_words_and_nulls_are_ciscos(cisco: Document) -> None:
    """The words of a text, and what null takes away."""
    taken = _properties(cisco, "PatchMeetingObject")
    assert {name: tuple(schema["enum"]) for name, schema in taken.items() if "enum" in schema} == CHOICES
    assert {name for name, schema in taken.items() if "specified `null`" in schema.get("description", "")} == ERASABLE


@pytest.mark.parametrize("name", _OBJECTS)
def test_an_object_can_be_sent_as_it_is_shown(cisco: Document, name: str) -> None:
    """What else is in it goes back with our field, and is nothing that Webex does not take."""
    sent, shown = (
        cisco.resolved(_properties(cisco, schema)[name])["properties"].keys()
        for schema in ("PatchMeetingObject", "MeetingSeriesObject")
    )
    assert shown <= sent


def test_a_form_is_sent_with_nothing_that_cisco_does_not_name(cisco: Document) -> None:
    """Whatever an answer shows of it."""
    rule = {"condition": "equals", "value": "x", "result": "approve", "matchCase": True, "order": 1}
    shown = {
        "id": 1,
        "question": "Diet?",
        "required": True,
        "type": "radioButtons",
        "maxLength": 9,
        "options": [{"id": 1, "value": "none"}],
        "rules": [rule],
    }
    assert set(shown) == set(_properties(cisco, "CustomizedQuestionForGetMeeting"))
    [question] = form_body({"requireEmail": True, "customizedQuestions": [shown]})["customizedQuestions"]
    sent = _properties(cisco, "CustomizedQuestionForCreateMeeting")
    assert question.keys() == sent.keys()
    assert question["options"][0].keys() == sent["options"]["items"]["properties"].keys()
    assert question["rules"][0].keys() == sent["rules"]["items"]["properties"].keys()


def test_a_form_can_be_sent_as_it_is_shown(cisco: Document) -> None:
    """Both answers that show it, put together."""
    sent = _properties(cisco, "RegistrationForUpdate").keys() - {"hostEmail"}
    series = _properties(cisco, "MeetingSeriesObject")["registration"]["properties"].keys()
    assert series | _properties(cisco, "Registration").keys() <= sent
