"""Named lists: in the policy, and in files of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import PolicyError
from service.core.meetings import Meeting
from service.core.policy import Counts, Policy, files_of, parse
from service.core.policy.conditions import Condition, ConditionFailed, View
from service.core.registrants import Registrant

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MEETING = Meeting(id="m", title="", fields={})
COUNTS = Counts(approved=0, pending=1, capacity=None)


def policy(when: str, content: str, *, name: str = "vips.txt") -> Policy:
    """One rule that approves, and one list in a file."""
    quoted = when.replace("'", "''")
    lists = f"lists: {{vips: {{file: {name}}}, none: []}}\n"
    return parse(f"version: 1\n{lists}rules: [{{name: r, when: '{quoted}', then: approve}}]\n", {name: content})


def outcome(of: Policy, email: str = "ann@example.org", **fields: Any) -> str:
    """What it says of somebody."""
    registrant = Registrant(id="r", status="pending", email=email, registered=None, fields=fields)
    return str(of.decide(registrant, meeting=MEETING, counts=COUNTS, now=NOW).outcome)


def problems(text: str, files: dict[str, str]) -> list[str]:
    """The sentences of the refusal."""
    with pytest.raises(PolicyError) as refusal:
        parse(text, files)
    return [str(problem) for problem in refusal.value.problems]


CODES = "# codes of the spring campaign\n\nSPRING\n  A#1  \nTWO WORDS\t# said on the phone\n#END\n\n"


@pytest.mark.parametrize(
    ("code", "listed"),
    [("SPRING", True), ("A#1", True), ("TWO WORDS", True), ("spring", False), ("#END", False), ("", False), (7, False)],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_has_one_entry_a_line(code: object, listed: bool, ends: str) -> None:
    """Comments, empty lines and the white space around an entry do not count."""
    of = policy("registrant.sourceId in lists.vips", CODES.replace("\n", ends))

    assert outcome(of, sourceId=code) == ("approve" if listed else "hold")


@pytest.mark.parametrize(
    ("when", "content", "email", "expected"),
    [
        ("registrant.emailAddress in lists.vips", "Ann@Example.ORG\n", "aNN@example.org", "approve"),
        ("registrant.emailAddress in lists.vips", "ann@straße.example\n", "ann@xn--strae-oqa.example", "approve"),
        ("registrant.emailAddress in lists.vips", "ann@example.org\n", "bob@example.org", "hold"),
        ("registrant.emailDomain in lists.vips", "Straße.example\n", "ann@strasse.example", "hold"),
        ("registrant.emailDomain in lists.vips", "Straße.example\n", "ann@straße.example", "approve"),
        ("registrant.companyName in lists.vips", "Example.ORG\n", "ann@example.org", "approve"),
    ],
)
def test_addresses_in_a_file_may_be_written_as_people_write_them(
    when: str, content: str, email: str, expected: str
) -> None:
    """They come out of other programs; where they are compared with an address or a domain, they get its spelling."""
    assert outcome(policy(when, content), email, companyName="Example.ORG") == expected


def test_an_entry_that_can_never_match_refuses_the_policy() -> None:
    """With the file and the line; of thousands, the first ten."""
    text = (
        "version: 1\nlists:\n  vips: {file: lists/vips.txt}\n"
        "rules: [{name: r, when: registrant.emailDomain in lists.vips, then: approve}]\n"
    )
    wrong = "".join(f"no domain {number}\n" for number in range(25))
    found = problems(text, {"lists/vips.txt": f"example.org\n{wrong}"})

    assert len(found) == 11
    assert found[0].startswith('line 3, column 16: lists/vips.txt, line 2: "no domain 0" never equals')
    assert found[10] == "line 3, column 16: ... and 15 more entries of vips"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param("{file: gone.txt}", 'line 2, column 19: the file "gone.txt" cannot be read', id="missing"),
        pytest.param("{}", 'line 2, column 12: a list lacks the key "file"', id="no name"),
        pytest.param("{fiel: a.txt}", 'line 2, column 12: a list lacks the key "file"', id="misspelt"),
        pytest.param("{file: [a]}", "line 2, column 19: a text is wanted here", id="two names"),
        *(
            pytest.param(f"{{file: '{name}'}}", "line 2, column 19: a list's file stands below the policy's", id=name)
            for name in ("/etc/passwd", "../a.txt", "a/../b", "~/a", ".hidden", "a//b", "C:\\a", "a/", "a b")
        ),
        pytest.param("{file: odd.txt}", "line 2, column 19: odd.txt, line 2: an entry has at most", id="control"),
        pytest.param("{file: long.txt}", "line 2, column 19: long.txt, line 1: an entry has at most", id="long"),
        pytest.param("{file: many.txt}", "line 2, column 19: many.txt has 100001 entries, 100000 at most", id="many"),
    ],
)
def test_a_bad_list_file_is_refused(value: str, problem: str) -> None:
    """With the place of its name in the policy."""
    files = {"odd.txt": "fine\nnot\x1bfine\n", "long.txt": "x" * 1001, "many.txt": "x\n" * 100_001}
    found = problems(f"version: 1\nlists: {{a: {value}}}\n", files)

    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("version: 1\n", ()),
        ("version: 1\nlists: {a: [x], b: {file: b.txt}, c: {file: c/d.txt}, e: {file: b.txt}}", ("b.txt", "c/d.txt")),
        ("nonsense: 1\nlists: {b: {file: b.txt, more: 1}}", ("b.txt",)),
        ("lists: {b: {file: ../b.txt}, c: {file: [x]}, d: {file: /etc/passwd}}", ()),
        ("lists: [a]", ()),
        ("lists: {a: &a {file: b}, b: *a}", ()),
        ("[", ()),
        ("", ()),
    ],
)
def test_the_files_of_a_text_are_known_before_it_is_read(text: str, names: tuple[str, ...]) -> None:
    """Each once, and none outside of the policy's folder."""
    assert files_of(text) == names


@settings(max_examples=200, deadline=None)
@given(
    text=st.text()
    | st.lists(st.sampled_from(["lists:", " ", "a: ", "{", "}", "file: ", "b", "\n", "-", "&a"])).map("".join)
)
def test_the_files_of_any_text_are_known(text: str) -> None:
    """Nothing raises."""
    assert isinstance(files_of(text), tuple)


def test_the_version_is_that_of_the_files_too() -> None:
    """Each change of a list makes another version, and nothing can be moved from one file to another unnoticed."""
    text = "version: 1\nlists: {a: {file: a}, b: {file: b}}\n"
    versions = [
        parse(text, {"a": a, "b": b}).version for a, b in (("", ""), ("x", ""), ("", "x"), ("x\nb", ""), ("x", "y"))
    ]

    assert len(set(versions)) == 5
    assert parse(text, {"a": "x", "b": "y", "other": "z"}).version == versions[-1]


LISTS: dict[str, tuple[object, ...]] = {"a": ("x", "y", 1, 10115), "b": ()}

VALUES = [*("x", "", "X", 1, 1.0, 1.5, 2, True, False, None, [], ["x"], {"x": 1}, 10115, 10115.0, 2**70, float("nan"))]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize(
    "source",
    [
        "registrant.f in lists.a",
        "!(registrant.f in lists.a)",
        "registrant.f in lists.b || registrant.f in lists.a && true",
        "true ? registrant.f in lists.a : false",
        "[registrant.f in lists.a, true][0]",
        "lists.a.exists(e, registrant.f in lists.a)",
        "registrant.f in lists.a == true",
        "registrant.f in lists.a in [true]",
        "registrant.f in lists.a + lists.b",
        "'x' + registrant.f in lists.a",
        "!registrant.f in lists.a",
        "registrant.f // in\n in lists.a",
        "registrant . f in lists . a",
        "'registrant.f in lists.a' == 'x' || registrant.f in lists.a",
    ],
)
def test_a_look_up_is_what_cel_says(source: str, value: object) -> None:
    """Looking up is made quick, and is the same as in the engine: for every value, and wherever it stands."""
    condition = Condition(source, LISTS)
    slow = Condition(source.replace("registrant.f", 'registrant["f"]'), LISTS)

    assert result(condition, value) == result(slow, value)


def result(condition: Condition, value: object) -> object:
    """What it says, or why it says nothing."""
    view = View(LISTS)
    try:
        view.show("registrant", {"f": value})
        return condition.holds(view)
    except ConditionFailed as failure:
        return failure.kind


def test_a_list_that_is_only_looked_up_in_is_not_copied_for_each_registrant() -> None:
    """The engine copies what an expression names: the rewritten one names no list at all."""
    assert Condition("registrant.f in lists.a && registrant.g in lists.b", LISTS).whole_lists == frozenset[str]()
    assert Condition("registrant.f in lists.a || lists.b.size() == 0", LISTS).whole_lists == frozenset("b")
    assert Condition("registrant.f in lists[registrant.f]", LISTS).whole_lists is None
