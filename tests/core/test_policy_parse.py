"""What a policy file may say, and how it is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import PolicyError, Problem
from service.core.meetings import Meeting
from service.core.policy import Counts, Policy, parse
from service.core.policy.conditions import Condition, ConditionRefused
from service.core.policy.expressions import FUNCTIONS, MACROS, METHODS, TYPES, VARIABLES, Expression, Fault
from service.core.registrants import Registrant

EXAMPLE = Path(__file__).parents[2] / "deploy" / "policy.example.yaml"

NEVER = "never equals registrant.emailDomain, which is a lower-case ASCII domain"
NO_ADDRESS = "never equals registrant.emailAddress, which is one plain address in lower case"
AT_PATTERN = "line 6, column 31"


def problems(text: str) -> list[str]:
    """The sentences of the refusal."""
    with pytest.raises(PolicyError) as refusal:
        parse(text)
    return [str(problem) for problem in refusal.value.problems]


def read(text: str) -> tuple[Policy | None, tuple[Problem, ...]]:
    """The policy, or what is wrong."""
    try:
        return parse(text), ()
    except PolicyError as refusal:
        return None, refusal.problems


def with_condition(when: str, *, lists: str = "{partners: [example.org], cities: [Berlin]}") -> str:
    """A file whose only condition begins at line 6, column 7, as it stands."""
    indented = when.replace("\n", "\n      ")
    return f"version: 1\nlists: {lists}\nrules:\n  - name: only\n    when: |-\n      {indented}\n    then: hold\n"


def test_the_example_is_accepted() -> None:
    """The commented example beside the deployment files is a policy."""
    policy = parse(EXAMPLE.read_text(encoding="utf-8"))

    assert [rule.name for rule in policy.rules] == [
        "competitors-out",
        "partners-in",
        "no-company",
        "webinar-customers",
        "campaign",
    ]
    assert policy.paused is False


@pytest.mark.parametrize(
    ("text", "paused"), [("version: 1", False), ("version: 1\npaused: true", True), ("{version: 1, paused: no}", False)]
)
def test_a_policy_can_be_paused(text: str, paused: bool) -> None:
    """`paused` is false unless the file says otherwise."""
    assert parse(text).paused is paused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", ["line 1, column 1: the file is empty"], id="an empty file"),
        pytest.param("# nothing\n", ["line 1, column 1: the file is empty"], id="comments only"),
        pytest.param("hello", ["line 1, column 1: the policy must be keys with values"], id="a word"),
        pytest.param("default: hold", ['line 1, column 1: the policy lacks the key "version"'], id="no version"),
        pytest.param(
            "version: 2", ["line 1, column 10: this program reads version 1 of the policy file"], id="another version"
        ),
        pytest.param(
            "version: [1]",
            ["line 1, column 10: this program reads version 1 of the policy file"],
            id="a version that is no number",
        ),
        pytest.param(
            "version: 1\ndefualt: hold",
            ['line 2, column 1: the policy has no key "defualt"; did you mean "default"?'],
            id="a misspelt key",
        ),
        pytest.param(
            "version: 1\nzzz: hold", ['line 2, column 1: the policy has no key "zzz"'], id="a key unlike any other"
        ),
        pytest.param(
            "version: 1\nmeetingRules:\n  - name: x",
            [
                'line 3, column 5: a meeting rule lacks the key "when"',
                'line 3, column 5: a meeting rule lacks the key "set"',
            ],
            id="a meeting rule without its keys",
        ),
        pytest.param(
            "version: 1\npaused: false\npaused: true",
            ['line 3, column 1: "paused" stands here for the second time'],
            id="a key twice",
        ),
        pytest.param(
            "version: 1\nlists: {a: [x], a: [y]}",
            ['line 2, column 17: "a" stands here for the second time'],
            id="a list twice",
        ),
        pytest.param(
            "version: 1\ndefault: aprove",
            ['line 2, column 10: approve, reject, hold or waitlist is wanted here; did you mean "approve"?'],
            id="a misspelt outcome",
        ),
        pytest.param(
            "version: 1\npaused: maybe", ["line 2, column 9: true or false is wanted here"], id="neither true nor false"
        ),
        pytest.param(
            "version: 1\nlists: [a]", ["line 2, column 8: lists must be keys with values"], id="lists without names"
        ),
        pytest.param(
            "version: 1\nlists: {a: b}",
            ["line 2, column 12: a list of texts is wanted here: [one, two]"],
            id="a list that is none",
        ),
        pytest.param(
            "version: 1\nlists: {my-list: [a]}",
            ['line 2, column 9: "my-list" cannot stand in a condition: use letters, digits and "_", a letter first'],
            id="a list whose name is a subtraction",
        ),
        pytest.param(
            "version: 1\nlists:\n  a: [NO, 012, 1:30, 1.5, 2026-01-01, ~, '', [x]]",
            [
                "line 3, column 7: a text is wanted here; put it in quotes",
                "line 3, column 11: a text is wanted here; put it in quotes",
                "line 3, column 16: a text is wanted here; put it in quotes",
                "line 3, column 22: a text is wanted here; put it in quotes",
                "line 3, column 27: a text is wanted here; put it in quotes",
                "line 3, column 39: a text is wanted here; put it in quotes",
                "line 3, column 42: the text must be one line and not empty",
                "line 3, column 46: a text is wanted here; put it in quotes",
            ],
            id="entries that YAML reads as something else",
        ),
        pytest.param(
            "version: 1\nrules: {name: a}",
            ['line 2, column 8: rules must be a list: each one begins with "- name:"'],
            id="rules that are no list",
        ),
        pytest.param(
            "version: 1\nrules:\n  - a",
            ["line 3, column 5: a rule must be keys with values"],
            id="a rule that is a word",
        ),
        pytest.param(
            "version: 1\nrules:\n  - {nmae: a}",
            [
                'line 3, column 5: a rule lacks the key "name"',
                'line 3, column 5: a rule lacks the key "when"',
                'line 3, column 5: a rule lacks the key "then"',
                'line 3, column 6: a rule has no key "nmae"; did you mean "name"?',
            ],
            id="a rule without its keys",
        ),
        pytest.param(
            "version: 1\nrules:\n  - {name: a, when: true, then: hold}\n  - {name: a, when: true, then: hold}",
            ['line 4, column 12: another rule is called "a"'],
            id="two rules of one name",
        ),
        pytest.param(
            'version: 1\nrules:\n  - {name: "a\\nb", when: true, then: wait, notify: 1, reason: 2}',
            [
                "line 3, column 12: the text must be one line and not empty",
                'line 3, column 38: approve, reject, hold or waitlist is wanted here; did you mean "waitlist"?',
                "line 3, column 52: true or false is wanted here",
                "line 3, column 63: a text is wanted here; put it in quotes",
            ],
            id="wrong values in a rule",
        ),
        pytest.param(
            f"version: 1\nrules:\n  - {{name: a, when: true, then: hold, reason: {'x' * 1001}}}",
            ["line 3, column 47: the text is longer than 1000 characters"],
            id="a reason like a book",
        ),
        pytest.param(
            "version: 1\nrules:\n  - name: a\n    meetings: {titel: x}\n    when: true\n    then: hold",
            ['line 4, column 16: meetings has no key "titel"; did you mean "title"?'],
            id="a scope by something else",
        ),
        pytest.param(
            "version: 1\nrules:\n  - {name: a, when: [true], then: hold}",
            ["line 3, column 21: a condition is a text; put it in quotes"],
            id="a condition that is a list",
        ),
        pytest.param(
            "version: 1\ndefault: hold\n bad: x",
            ["line 3, column 5: mapping values are not allowed here"],
            id="no YAML",
        ),
        pytest.param(
            "version: 1\nrules: [", ["line 2, column 9: expected the node content, but found '<stream end>'"], id="open"
        ),
        pytest.param(
            "version: 1\n---\nversion: 1", ["line 2, column 1: but found another document"], id="two documents"
        ),
        pytest.param(
            "version: 1\nlists: &all {a: [x]}",
            ["line 2, column 8: anchors and aliases are not supported"],
            id="an anchor",
        ),
        pytest.param(
            "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
            ["line 1, column 4: anchors and aliases are not supported"],
            id="a bomb of aliases",
        ),
        pytest.param(
            "version: 1\n<<: {default: hold}",
            ['line 2, column 1: the policy has no key "<<"'],
            id="a merge",
        ),
        pytest.param("version: 1\n? [a]\n: 1", ["line 2, column 3: a key must be a word"], id="a key that is a list"),
        pytest.param(
            "version: !!python/object/apply:os.system [x]",
            ["line 1, column 10: this program reads version 1 of the policy file"],
            id="a tag that builds objects",
        ),
        pytest.param("[" * 5000, ["line 1, column 1: nested too deeply"], id="nested without end"),
        pytest.param(
            "version: 1\n#" + "x" * 1024 * 1024, ["line 1, column 1: the file is larger than 1048576 bytes"], id="large"
        ),
        pytest.param("version: 1\na: \0", ["line 2, column 4: a character that YAML does not allow"], id="NUL"),
        pytest.param(
            'version: 1\na: "\\U99999999"',
            ["line 1, column 1: a character escape that stands for no character"],
            id="an escape for nothing",
        ),
        pytest.param(
            "version: 1\nlists: {a: [" + "x," * 10_001 + "]}",
            ["line 2, column 12: the list has 10001 entries, 10000 at most"],
            id="a long list",
        ),
        pytest.param(
            "version: 1\nrules: [" + "a," * 501 + "]",
            ["line 2, column 8: there are 501 rules, 500 at most"],
            id="many rules",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_every_problem(text: str, expected: list[str]) -> None:
    """Each problem has its line and column, and all of them come at once."""
    assert problems(text) == expected


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        pytest.param("", ["line 5, column 11: not a valid CEL expression: it ends too early"], id="empty"),
        pytest.param("1 +", ["line 6, column 10: not a valid CEL expression: it ends too early"], id="cut short"),
        pytest.param(
            'registrant.city == "x" and true',
            ['line 6, column 30: not a valid CEL expression: write "&&" for "and"'],
            id="and",
        ),
        pytest.param(
            'registrant.city = "x"', ['line 6, column 23: not a valid CEL expression: write "==" for "="'], id="="
        ),
        pytest.param(
            'registrant.city == "ä"\n  && (\n',
            ["line 7, column 13: not a valid CEL expression: it ends too early"],
            id="an open bracket in the second line",
        ),
        pytest.param(
            "registrat.city",
            ['line 6, column 7: unknown variable "registrat"; did you mean "registrant"?'],
            id="a misspelt variable",
        ),
        pytest.param(
            "true &&\n  emailDomain in lists.partners",
            ['line 7, column 9: unknown variable "emailDomain"'],
            id="a field without its variable",
        ),
        pytest.param(
            "registrant.city.endswith('x')",
            ['line 6, column 23: unknown function "endswith"; did you mean "endsWith"?'],
            id="a misspelt function",
        ),
        pytest.param(
            'matches(registrant.city, "x")',
            ['line 6, column 7: "matches" stands after a value and a dot: value.matches(…)'],
            id="a method as a function",
        ),
        pytest.param(
            "registrant.zipCode.string()",
            ['line 6, column 26: "string" stands before its value: string(value)'],
            id="a function as a method",
        ),
        pytest.param(
            "registrant.city in lists.citys || registrant.city in lists.cities",
            ['line 6, column 32: unknown list "citys"; did you mean "cities"?'],
            id="an unknown list",
        ),
        pytest.param(
            "lists.cities.exists(c, c == registrant.city) && c == 'x'",
            ['line 6, column 55: unknown variable "c"'],
            id="an element outside of its loop",
        ),
        pytest.param(
            "lists.cities.exists(registrant, true)",
            ['line 6, column 27: "registrant" is a variable already: call the element by another name'],
            id="an element that hides a variable",
        ),
        pytest.param(
            "lists.cities.exists('Berlin')",
            ['line 6, column 20: "exists" wants a name for the element and a condition: list.exists(x, …)'],
            id="a loop without a name",
        ),
        pytest.param(
            "[1].all(a, [1].all(b, [1].all(c, true)))",
            ["line 6, column 37: loops stand at most 2 deep within each other"],
            id="three loops",
        ),
        pytest.param(
            ".registrant.city == 'x'",
            ['line 6, column 8: write "registrant" without the dot before it'],
            id="a leading dot",
        ),
        pytest.param(
            "registrant.city.matches('(a')",
            ["line 6, column 31: not a regular expression: unclosed group"],
            id="a broken pattern",
        ),
        pytest.param(
            "registrant.city.matches('(?=a)')",
            [
                f"{AT_PATTERN}: not a regular expression: look-around, including look-ahead and look-behind, is not supported"
            ],
            id="look-around",
        ),
        pytest.param(
            "registrant.city.matches('(x{1,999}){1,999}')",
            ["line 6, column 31: not a regular expression: it is too large, or no text"],
            id="a pattern that explodes",
        ),
        pytest.param(
            "registrant.city.matches(registrant.state)",
            ["line 6, column 31: the pattern of matches must be a text in quotes, written here"],
            id="a pattern by the registrant",
        ),
        pytest.param(
            'registrant.emailDomain != "Gmail.com"',
            [
                f'line 6, column 33: "Gmail.com" {NEVER}; write "gmail.com"',
            ],
            id="a domain in capitals",
        ),
        pytest.param(
            'registrant.emailAddress == "Ann@Straße.de" || registrant.emailAddress != "ann"',
            [
                f'line 6, column 34: "…" {NO_ADDRESS}; write "…"',
                f'line 6, column 80: "ann" {NO_ADDRESS}',
            ],
            id="an address in capitals, and no address",
        ),
        pytest.param(
            'registrant.emailDomain in ["a.example", "@b.example", "straße.de"]',
            [
                f'line 6, column 47: "@b.example" {NEVER}',
                f'line 6, column 61: "straße.de" {NEVER}; write "xn--strae-oqa.de"',
            ],
            id="no domain, and an international one",
        ),
        pytest.param(
            "'" + "x" * 4095 + "'", ["line 6, column 7: the condition has 4097 characters, 4096 at most"], id="long"
        ),
        pytest.param(
            "a || b\n|| c",
            [
                'line 6, column 7: unknown variable "a"',
                'line 6, column 12: unknown variable "b"',
                'line 7, column 10: unknown variable "c"',
            ],
            id="several at once",
        ),
    ],
)
def test_a_wrong_condition_is_refused_at_its_place(when: str, expected: list[str]) -> None:
    """A condition that cannot work is found before anything starts, at the word that is wrong."""
    assert problems(with_condition(when)) == expected


@pytest.mark.parametrize(
    ("scalar", "place"),
    [
        pytest.param("registrant.city == nope", "line 4, column 30", id="plain"),
        pytest.param("registrant.city ==\n        nope", "line 5, column 9", id="plain over two lines"),
        pytest.param("'registrant.city == nope'", "line 4, column 31", id="single quotes"),
        pytest.param("'registrant.city == ''x'' || nope'", "line 4, column 40", id="doubled single quotes"),
        pytest.param('"registrant.city == \\"x\\" || nope"', "line 4, column 40", id="escaped double quotes"),
        pytest.param('"registrant.city\n      == nope"', "line 5, column 10", id="double quotes over two lines"),
        pytest.param("|\n      registrant.city\n        == nope\n", "line 6, column 12", id="literal"),
        pytest.param(">-  # folded\n      registrant.city\n      == nope", "line 6, column 10", id="folded"),
        pytest.param("registrant.city == 'ä😀' || nope", "line 4, column 38", id="letters beyond ASCII"),
    ],
)
def test_the_place_is_that_in_the_file(scalar: str, place: str) -> None:
    """However YAML writes the text, line and column are those that an editor shows."""
    text = f"version: 1\nrules:\n  - name: a\n    when: {scalar}\n    then: hold\n"

    assert problems(text) == [f'{place}: unknown variable "nope"']


def test_windows_line_ends_count_once() -> None:
    """A file with CRLF has the same places."""
    text = with_condition("true &&\n  nope").replace("\n", "\r\n")

    assert problems(text) == ['line 7, column 9: unknown variable "nope"']


def test_a_list_of_domains_must_be_able_to_match() -> None:
    """Where emailDomain is looked up in a list, an entry that could never equal one is refused with its right spelling."""
    lists = "{partners: [example.org, Example.NET, straße.de, '@b.example', 7], cities: [Booking.com]}"

    assert problems(with_condition("registrant.emailDomain in lists.partners", lists=lists)) == [
        f'line 2, column 33: "Example.NET" {NEVER}; write "example.net"',
        f'line 2, column 46: "straße.de" {NEVER}; write "xn--strae-oqa.de"',
        f'line 2, column 57: "@b.example" {NEVER}',
        f'line 2, column 71: "7" {NEVER}',
    ]
    parse(with_condition("registrant.companyName in lists.partners", lists=lists))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(with_condition("registrant.emailDomain in lists.a", lists="{a: [ann@corp.com]}"), id="in a list"),
        pytest.param(with_condition("registrant.email == 'x' 'ann@corp.com'"), id="in a condition"),
        pytest.param(with_condition("registrant.email == 'ann@corp.com"), id="in a text that does not end"),
        pytest.param(with_condition("true", lists="{ann@corp.com: [x]}"), id="as a name"),
        pytest.param("version: 1\nann@corp.com: x", id="as a key"),
    ],
)
def test_problems_quote_no_address(text: str) -> None:
    """Problems are logged, and no log holds an e-mail address."""
    found = " ".join(problems(text))

    assert "…" in found
    assert "corp" not in found


def test_an_endless_domain_is_none() -> None:
    """An entry longer than any domain gets no advice."""
    entry = "ä" * 300 + ".example"
    found = problems(with_condition("registrant.emailDomain in lists.a", lists=f"{{a: [{entry}]}}"))

    assert found == [f'line 2, column 13: "{entry}" {NEVER}']


def test_what_the_engine_cannot_even_read_is_refused() -> None:
    """A failure of the engine without a place is one at the beginning."""
    with pytest.raises(ConditionRefused) as refusal:
        Condition("'\ud800'", {})

    assert refusal.value.faults == (Fault("not a valid CEL expression (UnicodeEncodeError)", 0),)


@pytest.mark.parametrize(
    ("when", "entries", "accepted"),
    [
        ("registrant.city in lists.a", 10_000, True),
        ("lists.a.exists(x, x == registrant.city)", 10_000, True),
        ("lists.a.exists(x, x in lists.a)", 500, True),
        ("lists.a.exists(x, x in lists.a)", 501, False),
        ("lists.a.exists(x, lists.a.exists(y, x == y))", 501, False),
        ("lists.b.exists(x, x in lists.b)", 10_000, True),
        ("registrant.city in lists[registrant.state]", 10_000, True),
        ("lists.b.exists(x, x in lists[registrant.state])", 501, False),
    ],
)
def test_loops_over_lists_are_bounded(when: str, entries: int, accepted: bool) -> None:
    """A loop within a loop over a long list is refused, as it would stop everything else."""
    text = with_condition(when, lists="{a: [" + "x," * entries + "], b: [x]}")
    if accepted:
        parse(text)
    else:
        assert "takes too long" in problems(text)[0]


SAMPLES = {
    "bytes": "bytes('a') == b'a'",
    "double": "double('1.5') == 1.5",
    "duration": "duration('1h') > duration('1m')",
    "dyn": "dyn(1) == 1",
    "has": "has(registrant.email)",
    "int": "int('1') == 1",
    "size": "size('ab') == 2 && 'ab'.size() == 2",
    "string": "string(1) == '1'",
    "timestamp": "timestamp('2026-01-10T09:00:00Z') > timestamp('2025-01-10T09:00:00Z')",
    "type": "type(1) == int",
    "uint": "uint(1) == 1u",
    "contains": "'abc'.contains('b')",
    "endsWith": "'abc'.endsWith('c')",
    "matches": "'abc'.matches('^a')",
    "startsWith": "'abc'.startsWith('a')",
    "all": "[1].all(x, x == 1)",
    "exists": "[1].exists(x, x == 1)",
    "existsOne": "[1].existsOne(x, x == 1)",
    "exists_one": "[1].exists_one(x, x == 1)",
    "filter": "[1].filter(x, x == 1) == [1]",
    "map": "[1].map(x, x + 1) == [2]",
    **{name: f"timestamp('2026-01-10T09:00:00Z').{name}() >= 0" for name in METHODS if name.startswith("get")},
}


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *METHODS, *MACROS}))
def test_each_allowed_function_works(name: str) -> None:
    """Every function that the check lets pass is one that the engine has."""
    assert run(parse(with_condition(SAMPLES[name]).replace("then: hold", "then: approve"))) == "approve"


@pytest.mark.parametrize("name", TYPES)
def test_each_type_has_a_name(name: str) -> None:
    """Types can be compared."""
    assert (
        run(parse(with_condition(f"type({name}) == type && true").replace("then: hold", "then: approve"))) == "approve"
    )


def run(policy: Policy) -> str:
    """The outcome for somebody."""
    somebody = Registrant(id="r", status="pending", email="ann@example.org", registered=None, fields={"city": "Berlin"})
    meeting = Meeting(id="m", title="A meeting", fields={})
    counts = Counts(approved=0, pending=1, capacity=None)
    return policy.decide(somebody, meeting=meeting, counts=counts, now=datetime(2026, 3, 1, tzinfo=UTC)).outcome


READINGS = [
    ("registrant.city == 'registrant.state'", {"city"}),
    ("has(registrant.city) && registrant . state == r'\\' ", {"city", "state"}),
    ("registrant.city // registrant.state\n == 'x'", {"city"}),
    ('registrant.city == """a"registrant.b"""', {"city"}),
    ("registrant.city == '\\'registrant.state'", {"city"}),
    ("registrant.answers['Why?'].size() == 1", {"answers"}),
    ("registrant['city'] == 'x'", None),
    ("registrant.exists(f, f == 'city')", None),
    ("registrant.city == 'x' || size(registrant) == 1", None),
    ("registrant == meeting", None),
    ("[registrant].exists(r, r.city == 'x')", None),
    ("{registrant.city: registrant.state}.size() == 1", {"city", "state"}),
    ("counts.approved == 1", set()),
]


@pytest.mark.parametrize(("source", "fields"), READINGS)
def test_what_an_expression_reads_is_known(source: str, fields: set[str] | None) -> None:
    """Only these fields are converted for it; None stands for all."""
    assert Expression(source).reads("registrant") == fields


PARTS = st.sampled_from(
    [
        *(
            "registrant.city",
            "registrant",
            "lists.cities",
            "counts.approved",
            "meeting.title",
            "x",
            "registrant['city']",
        ),
        *("'a'", '"b"', "r'\\'", "1", "1.5", "true", "null", "[1]", "{'a': 1}", "// c\n", "lists.partners.size()"),
        *("lists.cities.exists(x, x == 'a')", "[1].map(y, [y].filter(x, x == y))", "(x)", "size('a')", "b'c'", "2u"),
    ]
)
OPERATORS = st.sampled_from([" == ", " && ", " || ", " + ", " in ", " < ", " ? 1 : ", "\n!= ", ".", " "])


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(PARTS, min_size=1, max_size=5), operators=st.lists(OPERATORS, min_size=5, max_size=5))
def test_the_reading_agrees_with_the_engine(parts: list[str], operators: list[str]) -> None:
    """For every expression that the engine compiles, the variables found are those that the engine names."""
    source = "".join(part + operator for part, operator in zip(parts, [*operators[: len(parts) - 1], ""], strict=True))
    try:
        named = cel.compile(source).references()
    except ValueError:
        return
    uses = Expression(source).uses
    found = {use.name for use in uses if use.role in ("variable", "bound")}

    assert found | {use.name for use in uses if use.role == "rooted"} >= {
        name.lstrip(".") for name in named["variables"]
    }
    assert found <= {*named["variables"], *TYPES}


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PARTS, min_size=1, max_size=4), operators=st.lists(OPERATORS, min_size=4, max_size=4))
def test_any_condition_is_refused_or_decides(parts: list[str], operators: list[str]) -> None:
    """A condition that is accepted never makes a decision raise."""
    source = "".join(part + operator for part, operator in zip(parts, [*operators[: len(parts) - 1], ""], strict=True))
    policy, found = read(with_condition(source))

    assert all(problem.line >= 5 for problem in found)
    assert policy is None or run(policy) == "hold"


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.characters())
    | st.lists(
        st.sampled_from(
            [
                *(
                    "version: 1\n",
                    "rules:\n",
                    "- name: a\n",
                    "  when: ",
                    "true",
                    "  then: hold\n",
                    "lists: ",
                    "{a: [b]}",
                ),
                *(
                    "\n",
                    "'",
                    '"',
                    "|\n",
                    " ",
                    "  ",
                    "&a",
                    "*a",
                    "- ",
                    "? ",
                    ": ",
                    "registrant.",
                    "!!int ",
                    "\t",
                    "\r",
                    "\ufeff",
                ),
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    """Reading raises nothing else, and every problem has a place."""
    policy, found = read(text)

    assert (policy is None) == bool(found)
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in found)


def test_the_variables_are_those_of_the_format() -> None:
    """Four names, and no other, can stand in a condition."""
    assert VARIABLES == ("registrant", "meeting", "counts", "lists")
