"""What commands print about Webex's answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.output import Format, rendered

PEOPLE = {
    "items": [
        {"id": "1" * 50, "status": "approved", "email": "a@example.com", "answers": [{"id": 1}]},
        {"id": "2", "status": "pending", "email": "b@example.com", "lastName": "Łęcka"},
    ]
}
ANSWERS = [
    pytest.param(PEOPLE, id="list"),
    pytest.param({"items": []}, id="empty list"),
    pytest.param({"id": "1", "nested": {"deep": [1, None, "ü"]}}, id="object"),
    pytest.param(12, id="number"),
    pytest.param("text", id="text"),
]

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("answer", ANSWERS)
def test_json_is_what_webex_answered(answer: Any) -> None:
    """Nothing is left out, added or renamed."""
    assert msgspec.json.decode(rendered(answer, Format.JSON)) == answer


@pytest.mark.parametrize(
    ("answer", "lines"), [(PEOPLE, 2), ({"items": []}, 0), ({"id": "1", "text": "a\nb"}, 1), (12, 1)], ids=str
)
def test_json_lines_are_one_item_a_line(answer: Any, lines: int) -> None:
    """A list gives a line for each item, anything else gives one."""
    text = rendered(answer, Format.JSONL)

    items = answer["items"] if isinstance(answer, dict) and "items" in answer else [answer]
    assert [msgspec.json.decode(line) for line in text.splitlines()] == items
    assert len(text.splitlines()) == lines


def test_a_table_has_known_columns_in_line() -> None:
    """Ids come first and are never cut; the columns begin at the same place in every row."""
    heading, *rows = rendered(PEOPLE, Format.TABLE).splitlines()

    assert heading.split() == ["ID", "EMAIL", "LASTNAME", "STATUS"]
    assert [row.split()[0] for row in rows] == ["1" * 50, "2"]
    assert {row.index("@example.com") for row in rows} == {heading.index("EMAIL") + 1}


def test_a_table_of_items_without_known_columns_shows_their_own() -> None:
    """Something is always shown."""
    assert rendered({"items": [{"odd": 1}]}, Format.TABLE).splitlines() == ["ODD", "1"]


def test_an_object_is_a_line_for_each_field_below_it() -> None:
    """Nested objects are shown with the way to each field."""
    shown = rendered({"id": "1", "host": {"email": "a"}, "rules": [{"n": 1}, {"n": 2}], "tags": ["x"]}, Format.TABLE)

    assert [line.split() for line in shown.splitlines()] == [
        ["id", "1"],
        ["host.email", "a"],
        ["rules.0.n", "1"],
        ["rules.1.n", "2"],
        ["tags", '["x"]'],
    ]


@pytest.mark.parametrize("form", Format)
def test_no_body_prints_nothing(form: Format) -> None:
    """An answer without a body leaves stdout empty, so that scripts need no special case."""
    assert rendered(None, form) == ""


def test_an_empty_table_says_so() -> None:
    """A person sees that there was an answer."""
    assert rendered({"items": []}, Format.TABLE) == "(none)"


def test_wide_characters_keep_the_columns_in_line() -> None:
    """A title in Chinese takes two columns a character."""
    items = {"items": [{"title": "会议会议", "state": "active"}, {"title": "12345678", "state": "ended"}]}

    _, first, second = rendered(items, Format.TABLE).splitlines()
    assert first == "会议会议  active"
    assert second == "12345678  ended"


@pytest.mark.parametrize("form", Format)
@given(value=_JSON)
def test_whatever_webex_shows_can_not_steer_a_terminal(form: Format, value: Any) -> None:
    """No control characters but line feeds, and none that turns the direction of writing round."""
    text = rendered({"items": [{"id": "1", "title": value}], "other": value}, form)

    assert not set(text) & {*map(chr, range(10)), *map(chr, range(11, 32)), *map(chr, range(127, 160))}
    assert not set(text) & set("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(value=_JSON)
def test_escaping_changes_no_value(value: Any) -> None:
    """Whatever is escaped for the terminal's sake decodes to the same."""
    assert msgspec.json.decode(rendered({"items": value}, Format.JSON)) == {"items": value}
