"""The published schemas of commands and their examples. ``python -m tests.webex.test_commanding`` writes the schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core import commands
from service.core.work import Command
from service.webex.commanding import Catalogue
from service.webex.operations import OPERATIONS

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "commands"
CATALOGUE = Catalogue()
OPERATIONS_COMMANDED = CATALOGUE.operations


def example(operation: str) -> dict[str, Any]:
    """The published example of a command."""
    return dict(json.loads((FOLDER / f"{operation}.example.json").read_text()))


def _written(operation: str) -> str:
    return json.dumps(CATALOGUE.schema(operation), indent=2) + "\n"


@pytest.mark.parametrize("operation", OPERATIONS_COMMANDED)
def test_the_published_schema_is_the_one_that_is_checked(operation: str) -> None:
    """... to the byte; `python -m tests.webex.test_commanding` writes it anew."""
    assert (FOLDER / f"{operation}.schema.json").read_text() == _written(operation)


@pytest.mark.parametrize("operation", OPERATIONS_COMMANDED)
def test_the_published_example_fits(operation: str) -> None:
    """Its schema is a schema, and its type is that of its file."""
    event = example(operation)

    assert CATALOGUE.problem(operation, event) == ""
    jsonschema.Draft202012Validator.check_schema(CATALOGUE.schema(operation))
    assert commands.operation_of(event["type"]) == operation


def test_every_operation_of_webex_but_webhooks_and_tokens_is_a_command() -> None:
    """... and sponsoring; each has a place in the table that says what is done when its answer is lost."""
    wanted = {op.name for op in OPERATIONS if op.resource not in commands.NEVER} | {"guests.sponsor"}

    assert set(OPERATIONS_COMMANDED) == wanted == commands.READS | commands.ONCE | commands.REPEATABLE
    assert {path.name.removesuffix(".schema.json") for path in FOLDER.glob("*.schema.json")} == wanted
    assert {path.name.removesuffix(".example.json") for path in FOLDER.glob("*.example.json")} == wanted


def test_what_reads_at_webex_reads_here() -> None:
    """Nothing that changes anything is among the reads, but for links, which may be made again."""
    reads = {op.name for op in OPERATIONS if op.reads and op.resource not in commands.NEVER}

    assert reads | {"meetings.join"} == commands.READS


_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        101,
        1.5,
        "",
        "x",
        "canary" * 100,
        "canary@b.example",
        "webex-events-x",
        [],
        {},
        [{}],
        [None],
        ["x"],
        {"x": 1},
    ]
)


@pytest.mark.parametrize("operation", OPERATIONS_COMMANDED)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_is_answered_without_repeating_it(operation: str, data: st.DataObject) -> None:
    """Nothing raises, and what somebody wrote is in no sentence: it may be an address, or a password."""
    event = example(operation)
    place = data.draw(st.sampled_from(list(_places(event))))
    _change(event, place, data)

    assert "canary" not in CATALOGUE.problem(operation, event)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        yield (*place, name)
        yield from _places(each, (*place, name))


def _change(event: dict[str, Any], place: tuple[Any, ...], data: st.DataObject) -> None:
    inside: Any = event
    for name in place[:-1]:
        inside = inside[name]
    if data.draw(st.booleans()):
        inside[place[-1]] = data.draw(_ODD)
    elif isinstance(inside, dict) and data.draw(st.booleans()):
        inside["sendEmial"] = False
    else:
        del inside[place[-1]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sendEmial": False}, r"^data\.body\.sendEmial: is not known; sendEmail is$"),
        ({"registrants": []}, r"^data\.body\.registrants: must keep to minItems 1$"),
        ({"registrants": [{"id": str(n)} for n in range(101)]}, r"must keep to maxItems 100$"),
        ({"registrants": [{"id": 7}]}, r"^data\.body\.registrants\[0\]\.id: must be string$"),
        ({"registrants": [{}]}, r"^data\.body\.registrants\[0\]\.id: is required$"),
        ({"sendEmail": "no"}, r"^data\.body\.sendEmail: must be boolean$"),
    ],
)
def test_a_slip_is_told_by_its_place(change: dict[str, Any], said: str) -> None:
    """The message names the field, suggests the nearest, and never repeats a value."""
    event = example("registrants.approve")
    event["data"]["body"] |= change

    assert re.search(said, CATALOGUE.problem("registrants.approve", event))


@pytest.mark.parametrize(
    ("operation", "change"),
    [
        ("meetings.create", {"integrationTags": ["a", "b", "c"]}),
        ("meetings.create", {"integrationTags": ["webex-events-sponsored"]}),
        ("meetings.join", {"joinDirectly": True}),
        ("guests.sponsor", {"guests": []}),
        ("guests.sponsor", {"meeting": {"title": "x", "start": "y", "end": "z", "hostEmail": "a@b.example"}}),
        ("meetings.patch", None),
    ],
)
def test_what_webex_takes_and_we_must_not(operation: str, change: dict[str, Any] | None) -> None:
    """Tags that are ours, an answer that is a redirection, a host of the caller's choice for a sponsored meeting, nothing."""
    event = example(operation)
    event["data"]["body"] = {**event["data"]["body"], **change} if change else {}

    assert CATALOGUE.problem(operation, event)


@pytest.mark.parametrize(
    "operation", ["meetings.get", "meetings.delete", "registrants.list", "guests.count", "meetings.end"]
)
@pytest.mark.parametrize("body", [{}, None])
def test_a_body_with_nothing_in_it(operation: str, body: Any) -> None:
    """Whoever always sends one may do so."""
    event = example(operation)
    event["data"]["body"] = body

    assert CATALOGUE.problem(operation, event) == ""


def test_a_body_where_there_is_none() -> None:
    """What stands in it would be lost in silence."""
    event = example("meetings.get")
    event["data"]["body"] = {"title": "x"}

    assert CATALOGUE.problem("meetings.get", event) == "data.body: must keep to maxProperties 0"
    event["data"]["body"] = []
    assert CATALOGUE.problem("meetings.get", event) == "data.body: must be object or null"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sendEmial", "data.body.sendEmial: is not known; sendEmail is"),
        ("x" * 41, f"data.body.{'x' * 41}: is not known"),
        ("x" * 42, "data.body: has a field that is not known"),
        ("alice@example.org", "data.body: has a field that is not known"),
        ("a b", "data.body: has a field that is not known"),
        ("4711", "data.body: has a field that is not known"),
        ("", "data.body: has a field that is not known"),
        ("name\n", "data.body: has a field that is not known"),
    ],
)
def test_a_field_that_nobody_knows_is_named_where_it_has_a_name(name: str, said: str) -> None:
    """Anything else may be an address: somebody mixed up names and values."""
    event = example("registrants.approve")
    event["data"]["body"][name] = 1

    assert CATALOGUE.problem("registrants.approve", event) == said


@pytest.mark.parametrize("depth", [500, 970, 5000])
def test_what_is_nested_deeply_is_refused_not_raised(depth: int) -> None:
    """jsonschema writes out what it refuses: at some depth that raises, and one command must not end a process."""
    event = example("meetings.patch")
    title: Any = "deep"
    for _ in range(depth):
        title = [title]
    event["data"]["body"]["title"] = title

    assert CATALOGUE.problem("meetings.patch", event)


def test_an_id_cannot_steer_the_url() -> None:
    """What could change the path is no id, before anything is sent."""
    event = example("meetings.get")
    event["data"]["parameters"]["meetingId"] = "x/../../webhooks"

    assert CATALOGUE.problem("meetings.get", event) == "data.parameters.meetingId: has not the form that is wanted"


def test_nothing_of_a_command_is_in_its_repr() -> None:
    """It may be in a log one day."""
    command = Command(
        organization="o", id="1", digest="d", operation="x.y", key="k", at="", body={"email": "bob@example.org"}
    )

    assert "bob" not in repr(command)


def main() -> None:
    """Write the schemas."""
    for operation in OPERATIONS_COMMANDED:
        (FOLDER / f"{operation}.schema.json").write_text(_written(operation))


if __name__ == "__main__":
    main()
