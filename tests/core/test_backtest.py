"""The replay: who would be decided otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from service.core import event
from service.core.backtest import Case, Cases, Difference, Judged, Meetings, differences, judged, unknown
from service.core.event import CloudEvent
from service.core.meetings import Meeting
from service.core.policy import parse
from tests.facts import NOW, SERIES, fact

APPROVE_ALL = "version: 1\ndefault: approve\n"
HOLD_ALL = "version: 1\ndefault: hold\n"
BY_NAME = """
version: 1
default: hold
rules:
  - {name: anna-in, when: registrant.firstName == "Anna", then: approve}
  - {name: bo-out, when: registrant.firstName == "Bo", then: reject}
"""


def cases_of(*facts: CloudEvent) -> list[Case]:
    """As the topic has them."""
    cases = Cases()
    for each in facts:
        cases.add(event.encode(each))
    return cases.in_order()


def verdicts(policy: str, *facts: CloudEvent, **fields: Any) -> list[tuple[str, str, str]]:
    """(id, before, after) of everybody, at a meeting with these fields."""
    meetings = {SERIES: Meeting(id=SERIES, title=str(fields.get("title", "")), fields=fields)}
    return [(each.id, each.before, each.after) for each in judged(cases_of(*facts), parse(policy), meetings)]


def decided(what: str, id_: str, by: str = "policy", **more: Any) -> tuple[CloudEvent, CloudEvent]:
    """Somebody who registered, and was decided a minute later."""
    later = NOW + timedelta(minutes=1)
    return fact("registered", id_, **more), fact(what, id_, by=by, rule="old-rule", at=later, **more)


@pytest.mark.parametrize(
    ("what", "before"),
    [("approved", "approve"), ("rejected", "reject"), ("held", "hold"), ("waitlisted", "waitlist")],
)
def test_what_was_decided_is_what_the_facts_say(what: str, before: str) -> None:
    """The last decision, and by which rule."""
    (result,) = judged(cases_of(*decided(what, "p")), parse(APPROVE_ALL), {})

    assert (result.before, result.before_rule, result.after, result.rule) == (before, "old-rule", "approve", "")
    assert result.changed == (before != "approve")


def test_somebody_without_a_decision_is_decided() -> None:
    """Registered, and nothing else yet."""
    assert verdicts(APPROVE_ALL, fact("registered", "p")) == [("p", "none", "approve")]


def test_a_proposal_of_shadow_mode_is_a_decision() -> None:
    """Its outcome is in the decision."""
    proposed = fact("proposed", "p", by="policy")
    proposed.data["decision"]["outcome"] = "reject"
    assert verdicts(HOLD_ALL, proposed) == [("p", "reject", "hold")]


def test_a_proposal_is_still_open() -> None:
    """Nobody did it: another policy would really change it, and no undo takes it for something that was done."""
    proposed = fact("proposed", "p", by="policy", rule="r")
    proposed.data["decision"]["outcome"] = "approve"
    really = fact("approved", "p", by="policy", rule="r")
    (case,), (done,) = cases_of(proposed), cases_of(proposed, really)
    (difference,) = differences(judged([case], parse(HOLD_ALL), {}))

    assert (case.outcome, case.proposed, difference.count, difference.open) == ("approve", True, 1, 1)
    assert (done.outcome, done.proposed) == ("approve", False)
    assert cases_of(proposed, fact("registered", "p"))[0].proposed


@pytest.mark.parametrize("by", ["host", "command"])
@pytest.mark.parametrize(("what", "before"), [("approved", "approve"), ("rejected", "reject"), ("cancelled", "none")])
def test_people_stay_as_they_are(by: str, what: str, before: str) -> None:
    """Neither a host nor a command is overruled."""
    (result,) = judged(cases_of(*decided("held", "p"), fact(what, "p", by=by)), parse(BY_NAME), {})
    assert (result.before, result.after, result.people, result.changed) == (before, before, True, False)


def test_a_deleted_registrant_is_not_asked_about() -> None:
    """... unless they came back."""
    assert cases_of(*decided("held", "p"), fact("deleted", "p")) == []
    assert cases_of(*decided("held", "p"), fact("deleted", "p"), fact("deleted", "p")) == []
    assert len(cases_of(*decided("held", "p"), fact("deleted", "p"), fact("registered", "p"))) == 1


def test_whoever_comes_back_is_new() -> None:
    """What was decided about them before went with them, and their turn is that of the new registration."""
    later = NOW + timedelta(hours=1)
    back = fact("registered", "p", at=later)
    (case,) = cases_of(*decided("approved", "p"), fact("deleted", "p"), back)
    (again,) = cases_of(*decided("approved", "p"), back)

    assert (case.outcome, case.by, case.rule, case.at) == ("none", "", "", later)
    assert (again.outcome, again.by, again.at) == ("approve", "policy", NOW)  # delivered twice, and nobody went


def test_the_latest_fields_count_and_an_update_is_no_decision() -> None:
    """Who corrects the name is judged by the new one."""
    facts = (*decided("held", "p", firstName="Ana"), fact("updated", "p", firstName="Anna"))
    assert verdicts(BY_NAME, *facts) == [("p", "hold", "approve")]


def test_everybody_is_judged_as_pending_and_when_they_registered() -> None:
    """A rule about the status, and one that was in force for an hour."""
    policy = """
version: 1
rules:
  - {name: early, when: registrant.status == "pending", then: approve, active: {until: "2026-03-01T12:30:00Z"}}
"""
    late = NOW + timedelta(hours=1)
    facts = (*decided("approved", "in", status="approved"), fact("registered", "out", at=late, status="approved"))
    assert verdicts(policy, *facts) == [("in", "approve", "approve"), ("out", "none", "hold")]


def test_places_are_taken_in_the_order_of_registration() -> None:
    """Two places: a person's approval takes one, the first newcomer the other; the facts' own order does not matter."""
    facts = [fact("registered", id_, at=NOW + timedelta(minutes=n)) for n, id_ in ((3, "a"), (2, "b"), (1, "c"))]
    host = fact("approved", "c", by="host", at=NOW + timedelta(minutes=9))
    found = verdicts(APPROVE_ALL, *facts, host, registration={"maxRegisterNum": 2})

    assert found == [("c", "approve", "approve"), ("b", "none", "approve"), ("a", "none", "waitlist")]


def test_meetings_fill_up_by_themselves() -> None:
    """The counts of one say nothing about another."""
    policy = "version: 1\nrules:\n  - {name: first, when: counts.approved == 0, then: approve}\n"
    other = "b" * 32
    facts = [fact("registered", "p"), fact("registered", "q", series=other), fact("registered", "r", series=other)]
    results = judged(cases_of(*facts), parse(policy), {})
    assert [(each.id, each.after) for each in results] == [("p", "approve"), ("q", "approve"), ("r", "hold")]


def test_differences_stand_by_rule() -> None:
    """Who changes from what to what; how many of them are still open."""
    people = [
        Judged(series=SERIES, id=id_, before=before, before_rule=old, after=after, rule=rule)
        for id_, before, old, after, rule in [
            ("1", "hold", "", "approve", "vip"),
            ("2", "hold", "", "approve", "vip"),
            ("3", "approve", "partners", "approve", "vip"),
            ("4", "approve", "partners", "hold", ""),
        ]
    ]
    assert differences(people) == [
        Difference(
            rule="",
            before="approve",
            before_rule="partners",
            after="hold",
            count=1,
            open=0,
            registrants=[f"{SERIES}/4"],
        ),
        Difference(
            rule="vip",
            before="hold",
            before_rule="",
            after="approve",
            count=2,
            open=2,
            registrants=[f"{SERIES}/1", f"{SERIES}/2"],
        ),
    ]


def test_what_is_no_fact_is_counted() -> None:
    """And is not in the way."""
    cases = Cases()
    for value in (None, b"{", b"[" * 100_000, b'{"id": "\xff"}', event.encode(fact("held", "p"))):
        cases.add(value)
    assert (cases.unreadable, len(cases.in_order())) == (4, 1)


def test_a_case_shows_nobody() -> None:
    """Its repr may stand in a log."""
    (case,) = cases_of(fact("held", "p", firstName="Anna"))
    assert "Anna" not in repr(case)
    assert "@" not in repr(case)


def test_meetings_are_known_from_their_events() -> None:
    """The last word about a field counts; the times of an instance are not those of the series."""
    meetings = Meetings()
    for each in (
        fact("created", SERIES, family="meeting", start="2026-03-02", hostEmail="g@example.org"),
        fact("updated", SERIES, family="meeting", hostEmail="h@example.org", raw={"state": "x"}, webhook={"id": "w"}),
        fact("started", f"{SERIES}_I_1", family="meeting", start="2026-03-09", siteUrl="example.webex.com"),
        fact("joined", "x", family="participant"),
    ):
        meetings.add(event.encode(each))
    for value in (b"{", b'{"id": "\xff"}'):
        meetings.add(value)
    meeting = meetings.known()[SERIES]

    assert (meeting.title, meeting.fields["start"], meeting.host_email) == ("", "2026-03-02", "h@example.org")
    assert (meeting.fields["id"], meeting.fields["state"]) == (SERIES, "x")
    assert meeting.fields["siteUrl"] == "example.webex.com"
    assert "webhook" not in meeting.fields


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        pytest.param('{name: r, meetings: {title: "Tea*"}, when: "true", then: approve}', True, id="scope"),
        pytest.param("{name: r, when: 'meeting.title == \"Tea\"', then: approve}", True, id="condition"),
        pytest.param("{name: r, when: 'meeting.hostEmail == \"h\"', then: approve}", False, id="host"),
        pytest.param(
            '{name: r, meetings: {host: "h@example.org"}, when: "true", then: approve}', False, id="other scope"
        ),
    ],
)
def test_a_meeting_without_a_title_is_not_known_where_that_is_asked_for(rule: str, asks: bool) -> None:
    """No event has one; nothing is silently taken to be called nothing."""
    policy = parse(f"version: 1\nrules:\n  - {rule}\n")
    titled = Meeting(id="b" * 32, title="Tea", fields={})
    meetings = {SERIES: Meeting(id=SERIES, title="", fields={}), titled.id: titled}
    found = unknown([SERIES, titled.id, "c" * 32], policy, meetings)
    assert found == ([SERIES] if asks else []) + ["c" * 32]


def test_a_case_holds_its_fields_as_bytes() -> None:
    """A week of facts has to fit into memory; it is the same person after it."""
    (case,) = cases_of(fact("held", "p", firstName="Anna"))
    assert isinstance(case.fields, bytes)
    assert msgspec.json.decode(case.fields)["firstName"] == "Anna"
    assert case.registrant.fields["status"] == case.registrant.status == "pending"
    assert case.registrant.email == "p@example.org"
