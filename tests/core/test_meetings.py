"""Meetings: what may be set of them, what their times are, and what follows from the operator's rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import meeting_rules as rules
from service.core.ledger import RulesRecord
from service.core.meeting_fields import body_of, digest, fields_of, same, shown, told, whole_body
from service.core.meeting_rules import Plan
from service.core.meetings import Meeting, ends, in_progress, is_recurring, starts
from service.core.wishes import Wish

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def meeting(**fields: Any) -> Meeting:
    """A series that begins tomorrow."""
    shown = {"id": "5" * 32, "title": "Partner day", "state": "active", "start": "2026-03-02T09:00:00Z", **fields}
    return Meeting(id=shown["id"], title=shown["title"], fields=shown)


def wish(rule: str = "rule", *, version: str = "v1", **more: Any) -> Wish:
    """What one rule wants; what is no attribute of a wish is a field."""
    own = {name: more.pop(name) for name in ("enforce", "notify", "method", "reason", "failure") if name in more}
    return Wish(rule=rule, version=version, set=more.pop("set", more), **own)


def plan(
    shows: Meeting,
    *wishes: Wish,
    record: RulesRecord | None = None,
    now: datetime = NOW,
    policy: str = "p1",
    **more: Any,
) -> Plan:
    """What follows."""
    return rules.plan(shows, wishes, record, now=now, policy=policy, **more)


def aims(made: Plan) -> dict[str, Any]:
    """What is to be written."""
    return {each.field: each.after for each in made.changes}


def verdicts(made: Plan) -> list[tuple[str, str, str]]:
    """What was found about every field."""
    return [(note.rule, note.field, note.what) for note in made.notes]


def wrote(made: Plan, after: Meeting, *, now: datetime = NOW) -> RulesRecord:
    """The record after its changes were written, and ``after`` is shown."""
    return rules.written(rules.asked(made.record, made.changes, now), made.changes, after, now)


# --- what Webex shows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-02T09:00:00Z", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("2026-03-02T17:00:00+08:00", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("2026-03-02T09:00:00", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("soon", None),
        (1772442000, None),
        (None, None),
    ],
)
def test_times_are_moments_or_nothing(text: object, moment: datetime | None) -> None:
    """Whatever Webex says, reading it never fails."""
    assert (starts(meeting(start=text)), ends(meeting(end=text))) == (moment, moment)


def test_a_series_recurs_and_is_in_progress_as_webex_says() -> None:
    """By ``recurrence`` and ``state``."""
    assert is_recurring(meeting(recurrence="FREQ=DAILY;COUNT=3"))
    assert not is_recurring(meeting())
    assert in_progress(meeting(state="inProgress"))
    assert not in_progress(meeting())


# --- meaning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "wanted", "present"),
    [
        ("start", "2026-03-02T17:00:00+08:00", "2026-03-02T09:00:00Z"),
        ("end", "2026-03-02T09:00:31.5Z", "2026-03-02T09:00:00Z"),
        ("agenda", "One\r\nTwo ", "One\nTwo"),
        ("agenda", "", None),
        ("trackingCodes", [], None),
        ("joinBeforeHostMinutes", 15, 15.0),
        ("recurrence", "RRULE:FREQ=DAILY;COUNT=3", "COUNT=3;freq=daily"),
        ("integrationTags", ["b", "a"], ["a", "b"]),
        ("trackingCodes", [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}], [
            {"name": "A", "value": "1"}, {"value": "2", "name": "B"}]),
        ("registration.customizedQuestions", [{"question": "Diet?"}], [{"id": 1, "question": "Diet?", "required": False}]),
    ],
)  # fmt: skip
def test_values_that_mean_the_same_are_no_difference(field: str, wanted: object, present: object) -> None:
    """Webex spells times, lists and texts as it likes."""
    assert same(field, wanted, present)


@pytest.mark.parametrize(
    ("field", "wanted", "present"),
    [
        ("start", "2026-03-02T09:01:00Z", "2026-03-02T09:00:00Z"),
        ("enabledAutoRecordMeeting", False, None),
        ("enabledAutoRecordMeeting", True, 1),
        ("joinBeforeHostMinutes", 1, True),
        ("joinBeforeHostMinutes", 0, None),
        ("title", "Partner day", "Partner Day"),
        ("integrationTags", ["a"], ["a", "b"]),
        (
            "registration.customizedQuestions",
            [{"question": "A"}, {"question": "B"}],
            [{"question": "B"}, {"question": "A"}],
        ),
        ("registration.rules", [{"value": "x"}], "x"),
    ],
)
def test_values_that_mean_something_else_differ(field: str, wanted: object, present: object) -> None:
    """What is not shown is not off: a setting of security must be written to be sure."""
    assert not same(field, wanted, present)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["title", "start", "recurrence", "integrationTags", "trackingCodes", "registration.rules"]), _JSON
)
def test_every_value_means_the_same_as_itself(field: str, value: object) -> None:
    """Of every field, whatever its type: nothing fails, and nothing is written for it."""
    assert same(field, value, value)
    assert digest(field, value) == digest(field, value)


# --- fields and bodies ------------------------------------------------------------------------------------------------


def test_what_is_in_an_object_is_a_field_of_its_own() -> None:
    """An object in a list is not."""
    wanted = {"title": "T", "meetingOptions": {"enabledChat": False}, "trackingCodes": [{"name": "A", "value": "1"}]}
    assert dict(fields_of(wanted)) == {
        "title": "T",
        "meetingOptions.enabledChat": False,
        "trackingCodes": [{"name": "A", "value": "1"}],
    }


def test_an_object_goes_whole() -> None:
    """Webex does not say whether it merges objects; the rest of one is never lost."""
    present = {"meetingOptions": {"enabledChat": True, "enabledVideo": True}, "liveStream": None}
    changes = [("meetingOptions.enabledChat", False), ("liveStream.destination", "here"), ("title", "T")]
    assert body_of(changes, present) == {
        "meetingOptions": {"enabledChat": False, "enabledVideo": True},
        "liveStream": {"destination": "here"},
        "title": "T",
    }
    assert present["meetingOptions"] == {"enabledChat": True, "enabledVideo": True}


def test_a_put_has_everything_that_can_be_set() -> None:
    """But the registration form, which it cannot carry, and the time zone, which an answer does not tell."""
    present = meeting(
        agenda="A", password="p", timezone="UTC", registration={}, hostEmail="h@example.com", publicMeeting=None
    )
    assert whole_body(present.fields, {"title": "T"}) == {
        "title": "T",
        "agenda": "A",
        "password": "p",
        "start": "2026-03-02T09:00:00Z",
    }


def test_an_option_of_a_form_is_off_where_it_is_not_mentioned() -> None:
    """Only where there is a form."""
    assert shown(meeting(registration={}), "registration.requireJobTitle") is False
    assert shown(meeting(registration={}), "registration.maxRegisterNum") is None
    assert shown(meeting(), "registration.requireJobTitle") is None


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_event_tells_a_secret() -> None:
    """No password or stream key, nor the meeting's own in a text, nor a link."""
    one = meeting(password="S3cret-pw", hostKey="123456")
    assert told("password", "new", meeting=one) == "***"
    assert told("panelistPassword", None, meeting=one) is None
    assert told("liveStream.rtmpUrl", "rtmp://x/key", meeting=one) == "***"
    agenda = "Use S3cret-pw and 123456 at https://example.webex.com/j.php?MTID=m1 now"
    assert told("agenda", agenda, meeting=one) == "Use *** and *** at *** now"
    nested = [{"question": "See https://a.example/x", "password": "p"}]
    assert told("registration.customizedQuestions", nested, meeting=one) == [{"question": "See ***", "password": "***"}]


def test_no_record_has_a_digest_of_a_secret() -> None:
    """A password is too short to hide behind a hash."""
    made = plan(meeting(password="old"), wish(password="new", enforce="always"))
    record = rules.asked(made.record, made.changes, NOW)
    assert record.rules["rule"].intent["password"].startswith("asked:***:***:")
    assert "new" not in repr(made.changes)


# --- the smallest change ----------------------------------------------------------------------------------------------


def test_only_what_differs_is_written() -> None:
    """Beside what is so already."""
    one = meeting(enabledAutoRecordMeeting=True, meetingOptions={"enabledChat": True, "enabledVideo": True})
    options = {"enabledChat": False, "enabledVideo": True}
    made = plan(one, wish(enabledAutoRecordMeeting=True, meetingOptions=options))
    assert aims(made) == {"meetingOptions.enabledChat": False}


def test_nothing_is_written_where_nothing_differs() -> None:
    """And ``always`` leaves no trace of it."""
    made = plan(meeting(publicMeeting=False), wish(publicMeeting=False, enforce="always"))
    assert (made.changes, made.record) == ((), RulesRecord())


def test_the_first_rule_that_sets_a_field_has_it() -> None:
    """Others keep their other fields; that they wanted something else is noted."""
    first = wish("first", title="A", meetingOptions={"enabledChat": False})
    second = wish("second", title="B", agenda="B", meetingOptions={"enabledChat": False, "enabledVideo": False})
    made = plan(meeting(), first, second)
    assert aims(made) == {
        "title": "A",
        "agenda": "B",
        "meetingOptions.enabledChat": False,
        "meetingOptions.enabledVideo": False,
    }
    assert [note for note in verdicts(made) if note[2] == "overruled"] == [("second", "title", "overruled")]


def test_the_first_rule_has_its_field_even_when_it_is_done_with_it() -> None:
    """Two rules do not take turns."""
    made = plan(meeting(title="A"), wish("first", title="A"), wish("second", title="B"))
    again = plan(meeting(title="Mine"), wish("first", title="A"), wish("second", title="B"), record=made.record)
    assert (made.changes, again.changes) == ((), ())


@pytest.mark.parametrize("fields", [{"state": "expired"}, {"state": "ended"}, {"scheduledType": "personalRoomMeeting"}])
def test_what_webex_never_changes_is_left_alone(fields: dict[str, Any]) -> None:
    """Meetings that are over, and personal rooms."""
    assert plan(meeting(**fields), wish(title="A")).changes == ()


def test_a_meeting_in_progress_waits() -> None:
    """A minute, and only where there is something to write."""
    one = meeting(state="inProgress")
    assert (plan(one, wish(title="A")).changes, plan(one, wish(title="A")).again) == ((), 60.0)
    assert plan(one, wish(title="Partner day")).again is None


def test_a_rule_without_a_result_is_told_of_once() -> None:
    """For each version of it and each failure; the other rules go on."""
    made = plan(meeting(), wish("bad", failure="no such key"), wish("good", title="A"))
    assert (dict(made.failures), aims(made)) == ({"bad": "no such key"}, {"title": "A"})
    again = plan(meeting(), wish("bad", failure="no such key"), record=made.record)
    newer = plan(meeting(), wish("bad", version="v2", failure="no such key"), record=made.record)
    assert (dict(again.failures), dict(newer.failures)) == ({}, {"bad": "no such key"})


# --- once and always --------------------------------------------------------------------------------------------------


def test_once_lets_a_person_win_for_good() -> None:
    """Until the rule is another one."""
    made = plan(meeting(), wish(title="A"))
    record = wrote(made, meeting(title="A"))
    assert plan(meeting(title="A"), wish(title="A"), record=record).record == record
    assert plan(meeting(title="Mine"), wish(title="A"), record=record).changes == ()
    assert aims(plan(meeting(title="Mine"), wish(title="A", version="v2"), record=record)) == {"title": "A"}


def test_once_counts_what_was_so_already() -> None:
    """Somebody who changes it later knew what they did."""
    record = plan(meeting(title="A"), wish(title="A")).record
    assert plan(meeting(title="Mine"), wish(title="A"), record=record).changes == ()


def test_always_writes_again() -> None:
    """What a person changed since."""
    record = wrote(plan(meeting(), wish(title="A", enforce="always")), meeting(title="A"))
    assert aims(plan(meeting(title="Mine"), wish(title="A", enforce="always"), record=record)) == {"title": "A"}


# --- a person beside us -----------------------------------------------------------------------------------------------


def test_a_field_that_a_person_just_changed_is_left_alone() -> None:
    """This time with ``always``, for good with ``once``; other fields are written."""
    read, again = meeting(agenda="A"), meeting(agenda="A", title="Mine")
    edited = rules.edited(read, again, ["title", "agenda"])
    assert edited == {"title"}
    for enforce in ("once", "always"):
        made = plan(again, wish(title="T", agenda="B", enforce=enforce), edited=edited)
        assert aims(made) == {"agenda": "B"}
        after = plan(again, wish(title="T", enforce=enforce), record=made.record)
        assert aims(after) == ({} if enforce == "once" else {"title": "T"})


def test_a_person_who_does_what_the_rule_wants_is_no_conflict() -> None:
    """Nothing to write."""
    made = plan(meeting(title="T"), wish(title="T"), edited=frozenset({"title"}))
    assert verdicts(made) == [("rule", "title", "same")]


def test_what_is_added_to_an_object_is_an_edit_of_that_field_alone() -> None:
    """Three-way, field by field."""
    read = meeting(meetingOptions={"enabledChat": True})
    again = meeting(meetingOptions={"enabledChat": True, "enabledVideo": False})
    assert rules.edited(read, again, ["meetingOptions.enabledChat"]) == frozenset()
    assert rules.edited(read, again, ["meetingOptions.enabledVideo"]) == {"meetingOptions.enabledVideo"}


def test_only_changes_that_the_ledger_knows_are_made() -> None:
    """A template that came to something else meanwhile waits for the next look."""
    before = plan(meeting(), wish(title="A", agenda="B")).changes
    now = plan(meeting(), wish(title="A", agenda="C", publicMeeting=False)).changes
    assert [each.field for each in rules.still_wanted(before, now)] == ["title"]


# --- interrupted writes -----------------------------------------------------------------------------------------------


def _asked(enforce: str = "once", **fields: Any) -> RulesRecord:
    made = plan(meeting(), wish(**(fields or {"title": "A"}), enforce=enforce))
    return rules.asked(made.record, made.changes, NOW)


@pytest.mark.parametrize("enforce", ["once", "always"])
def test_a_write_whose_answer_got_lost_is_not_repeated(enforce: str) -> None:
    """Webex shows what we asked for: it is told once, as the write of then."""
    made = plan(meeting(title="A"), wish(title="A", enforce=enforce), record=_asked(enforce))
    assert (made.changes, [each.field for each in made.finished]) == ((), ["title"])
    again = plan(meeting(title="A"), wish(title="A", enforce=enforce), record=made.record)
    assert (again.changes, again.finished) == ((), ())


def test_a_template_of_its_own_field_is_not_applied_twice_after_a_crash() -> None:
    """The title was written already; what the template makes of it now is not what was asked for."""
    made = plan(meeting(title="A"), wish(title="AA"), record=_asked())
    assert (aims(made), len(made.finished)) == ({}, 1)


def test_a_write_that_did_not_happen_is_repeated_and_not_counted() -> None:
    """An outage parks nobody."""
    record = _asked()
    for minute in range(1, 10):
        made = plan(meeting(), wish(title="A"), record=record, now=NOW + timedelta(minutes=minute))
        assert (aims(made), made.parked) == ({"title": "A"}, "")
        record = rules.asked(made.record, made.changes, NOW + timedelta(minutes=minute))
        assert len(record.writes["title"]) == 1


def test_a_person_who_was_quicker_than_our_next_process_wins() -> None:
    """The value is neither the old one nor ours."""
    made = plan(meeting(title="Mine"), wish(title="A"), record=_asked())
    assert verdicts(made) == [("rule", "title", "yielded")]
    assert plan(meeting(title="Mine"), wish(title="A"), record=made.record).changes == ()


# --- what Webex makes of it -------------------------------------------------------------------------------------------


def test_a_list_that_lags_is_waited_for() -> None:
    """Within 15 minutes the old value says nothing; then it is written again."""
    wanted = wish(title="A", enforce="always")
    record = wrote(plan(meeting(), wanted), meeting())
    soon = plan(meeting(), wanted, record=record, now=NOW + timedelta(minutes=5))
    assert (soon.changes, soon.again) == ((), 600.0)
    assert aims(plan(meeting(), wanted, record=soon.record, now=NOW + timedelta(minutes=16))) == {"title": "A"}
    assert plan(meeting(title="A"), wanted, record=record).record.rules == {}


def test_what_webex_makes_of_a_value_is_accepted() -> None:
    """It cut the title, say; until somebody changes that."""
    wanted = wish(title="A long title", enforce="always")
    record = wrote(plan(meeting(), wanted), meeting(title="A long"))
    assert verdicts(plan(meeting(title="A long"), wanted, record=record)) == [("rule", "title", "settled")]
    assert aims(plan(meeting(title="Mine"), wanted, record=record)) == {"title": "A long title"}


@pytest.mark.parametrize("fields", [{"timezone": "Europe/Berlin"}, {"panelistPassword": "p"}])
def test_what_webex_never_shows_is_written_once(fields: dict[str, Any]) -> None:
    """``always`` cannot tell more."""
    wanted = wish(enforce="always", **fields)
    one = meeting(timezone="UTC")
    record = wrote(plan(one, wanted), one)
    assert plan(one, wanted, record=record, now=NOW + timedelta(hours=2)).changes == ()


# --- parked -----------------------------------------------------------------------------------------------------------


def _fought_over() -> tuple[Plan, datetime]:
    """Somebody puts the title back every ten minutes."""
    record, now = RulesRecord(), NOW
    for _ in range(rules.MOST_WRITES):
        made = plan(meeting(), wish(title="A", enforce="always"), record=record, now=now)
        record = wrote(made, meeting(title="A"), now=now)
        now += timedelta(minutes=10)
    return plan(meeting(), wish(title="A", agenda="B", enforce="always"), record=record, now=now), now


def test_the_fourth_write_within_an_hour_parks_the_meeting() -> None:
    """With all its fields, once."""
    made, now = _fought_over()
    assert (made.parked, made.changes, made.record.parked) == ("title", (), now)
    again = plan(meeting(), wish(title="A", enforce="always"), record=made.record, now=now + timedelta(hours=23))
    assert (again.parked, again.changes, again.record.rules) == ("", (), made.record.rules)


def test_a_parked_meeting_is_taken_up_by_another_policy_or_a_day_later() -> None:
    """With nothing held against it."""
    made, now = _fought_over()
    wanted = wish(title="A", enforce="always")
    for record in (
        plan(meeting(), wanted, record=made.record, now=now, policy="p2"),
        plan(meeting(), wanted, record=made.record, now=now + timedelta(hours=24)),
    ):
        assert (aims(record), record.record.parked, record.record.writes) == ({"title": "A"}, None, {})


def test_three_writes_in_more_than_an_hour_are_nobody_else() -> None:
    """Each is forgotten after an hour."""
    record, now = RulesRecord(), NOW
    for _ in range(10):
        made = plan(meeting(), wish(title="A", enforce="always"), record=record, now=now)
        assert aims(made) == {"title": "A"}
        record = wrote(made, meeting(title="A"), now=now)
        now += timedelta(minutes=21)


# --- shadow mode and events -------------------------------------------------------------------------------------------


def test_shadow_mode_tells_once_and_hides_nothing_from_the_real_one() -> None:
    """For each version of the rule and each value."""
    made = plan(meeting(), wish(title="A"))
    record = rules.proposed(made.record, rules.unproposed(made.record, made.changes), NOW)
    again = plan(meeting(), wish(title="A"), record=record)
    assert (rules.unproposed(again.record, again.changes), aims(again)) == ((), {"title": "A"})
    other = plan(meeting(), wish(title="B"), record=record)
    assert len(rules.unproposed(other.record, other.changes)) == 1


def _events(changes: Any, **more: Any) -> list[dict[str, Any]]:
    attributes = {"policy": "p1", "org_id": "org", "now": NOW, "receiver": "one", "traceparent": None, **more}
    events = rules.to_events(changes, what="changed", meeting=meeting(), **attributes)
    return [{"id": event.id, "type": event.type, "key": event.partitionkey, **event.data} for event in events]


def test_an_event_says_who_changed_what() -> None:
    """One for each rule, with before and after of its fields."""
    made = plan(meeting(), wish("first", title="A", reason="House style"), wish("second", password="new", notify=True))
    first, second = _events(rules.dated(made.changes, NOW))
    assert first | {"id": ""} == {
        "id": "",
        "type": "webex.meeting.changed.v1",
        "key": "5" * 32,
        "meetingId": "5" * 32,
        "rule": "first",
        "reason": "House style",
        "before": {"title": "Partner day"},
        "after": {"title": "A"},
        "policy": "p1",
        "notify": False,
    }
    assert (second["before"], second["after"], second["notify"]) == ({"password": None}, {"password": "***"}, True)


def test_an_event_that_is_told_after_a_crash_has_the_id_of_the_first() -> None:
    """A consumer sees one change. What it was before, nobody knows any more."""
    made = plan(meeting(), wish(title="A"))
    told_then = _events(rules.dated(made.changes, NOW))
    later = NOW + timedelta(minutes=3)
    found = plan(meeting(title="A"), wish(title="A"), record=rules.asked(made.record, made.changes, NOW), now=later)
    told_now = _events(found.finished, now=later)
    assert [each["id"] for each in told_now] == [each["id"] for each in told_then]
    assert (told_now[0]["before"], told_now[0]["after"]) == ({}, {"title": "A"})


# --- at rest ----------------------------------------------------------------------------------------------------------

_TEXTS = st.text(st.sampled_from("ab \r\né"), max_size=4)
_SETS = st.fixed_dictionaries(
    {},
    optional={
        "title": _TEXTS,
        "agenda": st.none() | _TEXTS,
        "start": st.sampled_from(["2026-03-02T09:00:31Z", "2026-03-02T10:00:00+01:00", "2026-03-03T00:00:00Z", "soon"]),
        "publicMeeting": st.booleans(),
        "reminderTime": st.integers(0, 2) | st.sampled_from([0.0, 1.0]),
        "integrationTags": st.lists(st.sampled_from("abc"), max_size=3),
        "meetingOptions": st.dictionaries(st.sampled_from(["enabledChat", "enabledVideo"]), st.booleans()),
        "password": st.sampled_from(["one", "two"]),
    },
)
_WISHES = st.lists(st.tuples(_SETS, st.sampled_from(["once", "always"])), max_size=3)


def _applied(shows: Meeting, made: Plan) -> Meeting:
    """What Webex shows after the write."""
    return meeting(**{**shows.fields, **body_of([(c.field, c.after) for c in made.changes], shows.fields)})


@given(_SETS, _WISHES)
def test_one_write_is_enough(present: dict[str, Any], wanted: list[tuple[dict[str, Any], str]]) -> None:
    """Whatever is wanted of whatever there is: after one write nothing differs, and no record changes any more."""
    wishes = [wish(f"rule-{n}", set=fields, enforce=enforce) for n, (fields, enforce) in enumerate(wanted)]
    one = meeting(**present)
    made = plan(one, *wishes)
    after = _applied(one, made)
    record = wrote(made, after)
    for minutes in (1, 30):
        again = plan(after, *wishes, record=record, now=NOW + timedelta(minutes=minutes))
        assert (again.changes, again.finished, again.record.rules) == ((), (), record.rules)


@given(_SETS, _SETS, _WISHES, st.booleans())
def test_what_nobody_wants_set_is_never_touched(
    present: dict[str, Any], person: dict[str, Any], wanted: list[tuple[dict[str, Any], str]], interrupted: bool
) -> None:
    """A person's edit before the write, or before the next process, survives in every field that no rule names."""
    wishes = [wish(f"rule-{n}", set=fields, enforce=enforce) for n, (fields, enforce) in enumerate(wanted)]
    read = meeting(**present)
    made = plan(read, *wishes)
    fresh = meeting(**{**present, **person})
    if interrupted:
        record = rules.asked(made.record, made.changes, NOW)
        now = plan(fresh, *wishes, record=record, now=NOW + timedelta(minutes=1))
    else:
        edited = rules.edited(read, fresh, [each.field for each in made.changes])
        now = plan(fresh, *wishes, record=made.record, edited=edited)
        assert not edited & {each.field for each in rules.still_wanted(made.changes, now.changes)}
    after = _applied(fresh, now)
    named = {name for each in wishes for name, _ in fields_of(each.set)}
    for name, value in fields_of({**fresh.fields}):
        assert name in named or shown(after, name) == value
