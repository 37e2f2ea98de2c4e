"""The JSON Schema of the policy file, for editors: it says what the reader says, as far as the shape goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.core.errors import PolicyError
from service.core.meetings import SETTABLE
from service.core.policy import files_of, parse

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "reference" / "policy.schema.json").read_text(encoding="utf-8"))

RULE = "rules: [{name: r, when: 'true', then: hold, %s}]"
MEETING_RULE = "meetingRules: [{name: r, when: 'true', set: {agenda: x}, %s}]"
SET = "meetingRules: [{name: r, when: 'true', set: {%s}}]"

GOOD = [
    "default: waitlist",
    "{paused: true, shadow: false}",
    "lists: {a: [x, 7], b: {file: lists/b.txt}, c: []}",
    "rules: []",
    "rules: [{name: r, when: true, then: approve}]",
    RULE % "notify: false, reason: x",
    RULE % "meetings: {title: [a, b*], host: '*@example.org', site: x, scheduledType: webinar, integrationTag: y}",
    RULE % "meetings: {startsAfter: 2026-01-01T00:00:00Z, startsBefore: '2026-02-01T00:00:00.5+01:00'}",
    RULE % "active: {from: 2026-01-01T00:00:00Z}",
    RULE % "active: {}",
    MEETING_RULE % "enforce: always, notify: true, method: put, reason: x, meetings: {title: x}",
    SET % "enabledAutoRecordMeeting: true, title: x, reminderTime: 15, integrationTags: [a], meetingOptions: {a: 1}",
    SET % "enabledAutoRecordMeeting: '${meeting.agenda == \"x\"}', reminderTime: '${5}', meetingOptions: '${meeting}'",
    SET % "agenda: ~, recurrence: ~, trackingCodes: ~, unlockedMeetingJoinSecurity: blockFromJoin",
    SET % "unlockedMeetingJoinSecurity: '${meeting.title}', registration: {autoAcceptRequest: true}",
]
BAD = [
    "defualt: hold",
    "default: maybe",
    "paused: 1",
    "shadow: 'true'",
    "lists: [a]",
    "lists: {a: x}",
    "lists: {my-list: [x]}",
    "lists: {in: [x]}",
    "lists: {a: ['']}",
    "lists: {a: [true]}",
    "lists: {a: [1.5]}",
    "lists: {a: {file: ../b}}",
    "lists: {a: {file: /b}}",
    "lists: {a: {}}",
    "rules: {}",
    "rules: [{name: r, when: 'true'}]",
    "rules: [{when: 'true', then: hold}]",
    "rules: [{name: r, when: [x], then: hold}]",
    RULE % "notify: 1",
    RULE % "reason: ''",
    RULE % "meetings: {}",
    RULE % "meetings: {title: []}",
    RULE % "meetings: {titel: x}",
    RULE % "meetings: {host: example.org}",
    RULE % "meetings: {startsAfter: '2026-01-01'}",
    RULE % "meetings: {startsAfter: '2026-01-01T00:00:00'}",
    RULE % "active: {form: 2026-01-01T00:00:00Z}",
    RULE % "set: {agenda: x}",
    MEETING_RULE % "enforce: never",
    MEETING_RULE % "method: post",
    MEETING_RULE % "then: hold",
    "meetingRules: [{name: r, when: 'true'}]",
    SET % "",
    SET % "sendEmail: true",
    SET % "title: 5",
    SET % "title: ~",
    SET % "enabledAutoRecordMeeting: 'true'",
    SET % "reminderTime: '15'",
    SET % "integrationTags: {a: 1}",
    SET % "meetingOptions: x",
    SET % "unlockedMeetingJoinSecurity: open",
]


class _Texts(yaml.SafeLoader):
    """What an editor's YAML 1.2 does: a time is a text."""


_Texts.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def text_of(part: str) -> str:
    """A whole file."""
    return "{version: 1, " + part[1:] if part.startswith("{") else f"version: 1\n{part}\n"


def accepted_by_schema(text: str) -> bool:
    """Whether an editor finds nothing."""
    value: Any = yaml.load(text, Loader=_Texts)  # noqa: S506 - a SafeLoader
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(value))


def accepted_by_reader(text: str) -> bool:
    """Whether the program finds nothing."""
    try:
        parse(text, dict.fromkeys(files_of(text), ""))
    except PolicyError:
        return False
    return True


def test_the_schema_is_one() -> None:
    """Of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("part", GOOD)
def test_what_the_reader_accepts_the_schema_accepts(part: str) -> None:
    """No editor underlines what is right."""
    assert (accepted_by_reader(text_of(part)), accepted_by_schema(text_of(part))) == (True, True)


@pytest.mark.parametrize("part", BAD)
def test_what_the_schema_refuses_the_reader_refuses(part: str) -> None:
    """And wrong shapes are underlined."""
    assert (accepted_by_reader(text_of(part)), accepted_by_schema(text_of(part))) == (False, False)


@pytest.mark.parametrize("file", ["deploy/policy.example.yaml", "service/cli/demo-policy.yaml"])
def test_the_policies_that_people_copy_fit(file: str) -> None:
    """Those of the repository."""
    assert accepted_by_schema((ROOT / file).read_text(encoding="utf-8"))


def test_the_example_of_the_reference_is_a_policy() -> None:
    """The first thing that a reader of the page copies."""
    page = (ROOT / "docs" / "reference" / "policy.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]

    assert (accepted_by_reader(example), accepted_by_schema(example)) == (True, True)


def test_the_schema_knows_every_field_that_can_be_set() -> None:
    """And no other."""
    assert set(SCHEMA["$defs"]["settings"]["properties"]) == set(SETTABLE)
