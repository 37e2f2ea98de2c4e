"""Meeting rules: what they want of which meeting, and what a file may say of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import PolicyError
from service.core.meetings import SETTABLE, Meeting
from service.core.policy import HOLD_EVERYTHING, Wish, parse

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def wishes(rules: str, *, title: str = "Spring day", **fields: Any) -> tuple[Wish, ...]:
    """What the rules want of a meeting."""
    policy = parse(f"version: 1\nlists: {{hosts: [ann@example.org], tags: [a, b]}}\nmeetingRules:\n{rules}\n")
    return policy.wishes(Meeting(id="m", title=title, fields={"title": title, **fields}), now=NOW)


def one(keys: str, **fields: Any) -> Wish:
    """What a single rule wants, which it has to."""
    (wish,) = wishes(f"- {{name: r, when: true, {keys}}}", **fields)
    return wish


def test_every_rule_that_matches_wants_something() -> None:
    """In the order of the file; what they say beside the fields comes with it, and has its defaults."""
    found = wishes(
        """
- name: record-webinars
  when: meeting.scheduledType == "webinar"
  set: {enabledAutoRecordMeeting: true, enabledJoinBeforeHost: false}
- {name: never, when: meeting.scheduledType == "meeting", set: {agenda: x}}
- name: title
  meetings: {title: "*DAY"}
  when: meeting.hostEmail in lists.hosts
  set: {title: "${meeting.title} (2026)", reminderTime: 15}
  enforce: always
  notify: true
  method: put
  reason: The year is missing
""",
        scheduledType="webinar",
        hostEmail="ann@example.org",
        title="Spring day",
    )[:1]

    assert found == (
        Wish(
            rule="record-webinars",
            version=found[0].version,
            set={"enabledAutoRecordMeeting": True, "enabledJoinBeforeHost": False},
            enforce="once",
            notify=False,
            method="patch",
            reason='Meeting rule "record-webinars" matched',
        ),
    )


def test_what_a_rule_says_beside_its_fields_comes_with_its_wish() -> None:
    """How often, how, with or without mail, and why."""
    wish = one("set: {agenda: x}, enforce: always, notify: true, method: put, reason: Because")

    assert (wish.enforce, wish.notify, wish.method, wish.reason) == ("always", True, "put", "Because")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"${meeting.title}!"', "Spring day!"),
        ('"${meeting.title} ${meeting.title}"', "Spring day Spring day"),
        ("\"${meeting.title.startsWith('S') ? 'yes' : 'no'}\"", "yes"),
        ("\"a ${1 + 1} b ${true} c ${1.5} d ${'}' + '{' + '${'}\"", "a 2 b true c 1.5 d }{${"),
        ("\"${{'a': 'in a map'}['a']}\"", "in a map"),
        ('"$${meeting.title} costs $5 {}"', "${meeting.title} costs $5 {}"),
        ('"$$${meeting.title}"', "$${meeting.title}"),
        ("\"${timestamp('2026-01-01T01:00:00+01:00')}\"", "2026-01-01T00:00:00Z"),
        ('"no expression"', "no expression"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("''", ""),
        ("~", None),
    ],
)
def test_texts_hold_expressions(value: str, expected: str | None) -> None:
    """Between `${` and the brace that closes it; numbers, times, true and false are written as JSON has them."""
    (wish,) = wishes(f"- name: r\n  when: 'true'\n  set:\n    agenda: {value.replace(chr(10), chr(10) + '    ')}")

    assert wish.set == {"agenda": expected}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("set: {enabledAutoRecordMeeting: \"${meeting.title == 'Spring day'}\"}", {"enabledAutoRecordMeeting": True}),
        ('set: {joinBeforeHostMinutes: "${5 * 3}"}', {"joinBeforeHostMinutes": 15}),
        ('set: {integrationTags: "${lists.tags}"}', {"integrationTags": ["a", "b"]}),
        (
            "set: {integrationTags: [crm, \"${meeting.title.contains('day') ? 'day' : ''}\"]}",
            {"integrationTags": ["crm", "day"]},
        ),
        (
            'set: {meetingOptions: {enabledChat: false, noteType: "allowAll", deep: [{a: "${1}"}]}}',
            {"meetingOptions": {"enabledChat": False, "noteType": "allowAll", "deep": [{"a": 1}]}},
        ),
        ('set: {agenda: "${1}", title: "${true}"}', {"agenda": "1", "title": "true"}),
        ('set: {agenda: "${null}"}', {"agenda": None}),
        ("set: {visualWatermarkOpacity: 12.5}", {"visualWatermarkOpacity": 12.5}),
        ("set: {registration: {autoAcceptRequest: false}}", {"registration": {"autoAcceptRequest": False}}),
        ("set: {recurrence: ~, trackingCodes: ~}", {"recurrence": None, "trackingCodes": None}),
    ],
)
def test_a_text_that_is_one_expression_is_its_value(keys: str, expected: dict[str, Any]) -> None:
    """So that numbers, lists, true and false can be computed too; objects and lists may hold expressions inside."""
    assert one(keys).set == expected


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("when: meeting.nope, set: {agenda: x}", "KeyError: a field, an answer or a key is not there"),
        ("when: '1', set: {agenda: x}", "int instead of true or false"),
        ('when: true, set: {agenda: "${meeting.nope}", title: fine}', "KeyError: a field, an answer or a key is not"),
        ('when: true, set: {agenda: "x ${[1]}"}', "no text, number, time, true or false"),
        ('when: true, set: {agenda: "${[1]}"}', "agenda is a JSON string"),
        ('when: true, set: {title: "${null}"}', "title is a JSON string"),
        (
            'when: true, set: {unlockedMeetingJoinSecurity: "${meeting.title}"}',
            "unlockedMeetingJoinSecurity is one of ",
        ),
        (
            'when: true, set: {enabledAutoRecordMeeting: "${meeting.title}"}',
            "enabledAutoRecordMeeting is a JSON boolean",
        ),
        ('when: true, set: {reminderTime: "${true}"}', "reminderTime is a JSON number"),
        ('when: true, set: {reminderTime: "${1.0 / 0.0}"}', "a value that JSON does not have"),
        ('when: true, set: {reminderTime: "${0.0 / 0.0}"}', "a value that JSON does not have"),
        ("when: true, set: {agenda: \"${b'x'}\"}", "a value that JSON does not have"),
        ("when: true, set: {meetingOptions: {a: \"${b'x'}\"}}", "a value that JSON does not have"),
    ],
)
def test_a_rule_without_a_result_wants_nothing_and_says_why(rule: str, why: str) -> None:
    """The other rules go on; the sentence has nothing of the meeting."""
    failed, fine = wishes(f"- {{name: r, {rule}}}\n- {{name: fine, when: true, set: {{agenda: y}}}}", title="Secret")

    assert failed.set == {}
    assert failed.failure.startswith(f'Meeting rule "r" could not be evaluated ({why}')
    assert "Secret" not in failed.failure
    assert (fine.failure, fine.set) == ("", {"agenda": "y"})


@pytest.mark.parametrize(
    ("rule", "grows"),
    [
        ('set: {title: "[Rec] ${meeting.title}"}, enforce: always', True),
        ('set: {title: "[Rec] ${meeting.title}"}, enforce: once', False),
        ('set: {title: "${meeting.agenda}", agenda: "${meeting.title}"}, enforce: always', True),
        ('set: {title: "${meeting.title}"}, enforce: always', False),
        (
            "enforce: always, set: {title: \"${meeting.title.startsWith('R ') ? meeting.title : 'R ' + meeting.title}\"}",
            False,
        ),
        ('set: {agenda: "${meeting.title}"}, enforce: always', False),
        ('set: {agenda: "${size(meeting) > 0}"}, enforce: always', False),
    ],
)
def test_a_rule_that_would_never_rest_wants_nothing(rule: str, grows: bool) -> None:
    """A title made of the title grows with every look, unless the rule is for once or knows what it did."""
    wish = one(rule, agenda="x")

    assert ("without end" in wish.failure) is grows
    assert bool(wish.set) is not grows


def test_a_rule_that_stops_to_match_rests() -> None:
    """Where its condition is false once it is done, it may set what it reads."""
    (wish,) = wishes(
        "- {name: r, when: '!meeting.title.startsWith(\"A\")', set: {title: 'A${meeting.title}'}, enforce: always}"
    )

    assert wish.set == {"title": "ASpring day"}


def version(keys: str) -> str:
    """That of one rule."""
    return parse(f"version: 1\nmeetingRules: [{{{keys}}}]\n").meeting_rules[0].version


def test_the_version_of_a_rule_is_that_of_what_it_does() -> None:
    """A comment, another reason, another order: no reason to overrule a person once more."""
    plain = version("name: r, when: true, set: {agenda: x, title: y}")

    assert version("set: {title: 'y', agenda: \"x\"}, when: true, name: r") == plain
    assert version("name: r, when: true, set: {agenda: x, title: y}, reason: z, notify: true, enforce: always") == plain
    others = {
        version("name: q, when: true, set: {agenda: x, title: y}"),
        version("name: r, when: 1 == 1, set: {agenda: x, title: y}"),
        version("name: r, when: true, set: {agenda: x, title: z}"),
        version("name: r, when: true, meetings: {title: a}, set: {agenda: x, title: y}"),
        version("name: r, when: true, active: {until: 2030-01-01T00:00:00Z}, set: {agenda: x, title: y}"),
    }
    assert len(others | {plain}) == 6


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("set: {enabledAutoRecordMeting: true}", ['cannot set "enabledAutoRecordMeting"; did you mean "enabledAutoRe']),
        ("set: {sendEmail: true, hostEmail: a}", ['cannot set "sendEmail"', 'cannot set "hostEmail"']),
        ("set: {}", ["set wants at least one field"]),
        ("set: [a]", ["set must be keys with values"]),
        ("set: {enabledAutoRecordMeeting: 'true'}", ["enabledAutoRecordMeeting is a JSON boolean"]),
        ("set: {title: 5}", ["a text is wanted here; put it in quotes"]),
        ("set: {title: ~}", ["title is a JSON string"]),
        ("set: {title: [a]}", ["title is a JSON string"]),
        ("set: {reminderTime: '15'}", ["reminderTime is a JSON number"]),
        ("set: {reminderTime: 010}", ["a text is wanted here; put it in quotes"]),
        ("set: {meetingOptions: x}", ["meetingOptions is a JSON object"]),
        ("set: {meetingOptions: {a: 1, a: 2}}", ['"a" stands here for the second time']),
        ("set: {reminderTime: '1${5}'}", ["reminderTime is a JSON number, no text"]),
        ("set: {integrationTags: 'x ${1}'}", ["integrationTags is a JSON array, no text"]),
        ("set: {integrationTags: {a: 1}}", ["integrationTags is a JSON array"]),
        (
            "set: {unlockedMeetingJoinSecurity: allowJoinWithLoby}",
            ["unlockedMeetingJoinSecurity is one of allowJoin, allowJoinWithLobby, blockFromJoin; did you mean"],
        ),
        (
            "set: {title: 'x ${registrant.email}'}",
            ['there is no "registrant" here: it can talk about meeting and lists'],
        ),
        ("set: {title: 'x ${metting.title}'}", ['unknown variable "metting"; did you mean "meeting"?']),
        ("set: {title: 'x ${meeting.title'}", ['"${" without its "}"']),
        ("set: {title: '${}'}", ["not a valid CEL expression: it ends too early"]),
        ("set: {title: '${a} ${b}'}", ['unknown variable "a"', 'unknown variable "b"']),
        ("set: {agenda: " + "x" * 10_001 + "}", ["the text is longer than 10000 characters"]),
        ("set: {meetingOptions: " + "{a: " * 20 + "1" + "}" * 20 + "}", ["nested too deeply"]),
        ("set: {agenda: x}, enforce: never", ["once or always is wanted here"]),
        ("set: {agenda: x}, method: post", ["patch or put is wanted here"]),
        ("set: {agenda: x}, then: approve", ['a meeting rule has no key "then"']),
        ("set: {agenda: x}, notify: 1", ["true or false is wanted here"]),
    ],
)
def test_a_rule_that_webex_could_not_follow_is_refused(keys: str, expected: list[str]) -> None:
    """With its place, before any meeting is touched."""
    with pytest.raises(PolicyError) as refusal:
        parse(f"version: 1\nmeetingRules:\n  - {{name: r, when: true, {keys}}}\n")

    found = [str(problem) for problem in refusal.value.problems]
    assert all(sentence.startswith("line 3, column ") for sentence in found)
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


def test_the_place_of_a_wrong_expression_is_its_own() -> None:
    """The column is that of the word in the text."""
    with pytest.raises(PolicyError) as refusal:
        parse("version: 1\nmeetingRules:\n  - name: r\n    when: 'true'\n    set:\n      title: 'A ${x} ${yy}'\n")

    assert [str(problem) for problem in refusal.value.problems] == [
        'line 6, column 19: unknown variable "x"',
        'line 6, column 24: unknown variable "yy"',
    ]


@pytest.mark.parametrize("when", ["registrant.email == ''", "counts.approved > 1", "emailDomain == ''"])
def test_conditions_of_meeting_rules_talk_about_meetings_only(when: str) -> None:
    """There is no registrant."""
    with pytest.raises(PolicyError, match=r"there is no|unknown variable"):
        parse(f'version: 1\nmeetingRules: [{{name: r, when: "{when}", set: {{agenda: x}}}}]\n')


def test_every_settable_field_can_be_set() -> None:
    """With a value of its type, and with an expression."""
    values = {"string": "allowJoin", "boolean": "true", "number": "1", "array": "[a]", "object": "{a: 1}"}
    for name, kind in SETTABLE.items():
        assert name in one(f"set: {{{name}: {values[kind]}}}").set


def test_without_rules_nothing_is_wanted() -> None:
    """Neither by an empty policy nor by none."""
    meeting = Meeting(id="m", title="x", fields={})

    assert parse("version: 1\n").wishes(meeting, now=NOW) == HOLD_EVERYTHING.wishes(meeting, now=NOW) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from(["title", "agenda", "hostEmail", "siteUrl", "start", "integrationTags", "reminderTime"]), JSON
    ),
    title=st.text(max_size=10),
)
def test_wishes_are_total(fields: dict[str, Any], title: str) -> None:
    """Whatever Webex sends, nothing raises, and what is wanted has the type that Webex takes."""
    policy = parse(
        """
version: 1
meetingRules:
  - name: a
    meetings: {host: "*@*", site: "*", startsAfter: 2000-01-01T00:00:00Z, integrationTag: "*"}
    when: size(meeting) >= 0
    set: {agenda: x}
  - {name: b, when: meeting.agenda != "", set: {agenda: "${meeting.agenda}", title: "${meeting.title}."}, enforce: always}
  - {name: c, when: true, set: {reminderTime: "${meeting.reminderTime}", integrationTags: "${meeting.integrationTags}"}}
"""
    )
    for wish in policy.wishes(Meeting(id="m", title=title, fields=fields), now=NOW):
        assert bool(wish.failure) is not bool(wish.set)
        assert isinstance(wish.set.get("agenda", ""), str)
        assert isinstance(wish.set.get("integrationTags", []), list)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text()
    | st.lists(st.sampled_from(["${", "}", "$", "{", "'", '"', "a", "1", " ", "\\", "meeting.title"])).map("".join)
)
def test_any_text_is_a_value_or_refused(text: str) -> None:
    """Reading raises nothing else, and running it nothing at all."""
    quoted = text.replace("'", "''")
    try:
        policy = parse(f"version: 1\nmeetingRules: [{{name: r, when: true, set: {{agenda: '{quoted}'}}}}]\n")
    except PolicyError:
        return
    (wish,) = policy.wishes(Meeting(id="m", title="t", fields={}), now=NOW)
    assert wish.failure or isinstance(wish.set["agenda"], str)
