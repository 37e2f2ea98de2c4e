"""Which meetings a rule is for, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from service.core.errors import PolicyError
from service.core.meetings import Meeting
from service.core.policy import Counts, parse
from service.core.registrants import Registrant

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REGISTRANT = Registrant(id="r", status="pending", email="ann@example.org", registered=None, fields={})
COUNTS = Counts(approved=0, pending=1, capacity=None)

MEETING: dict[str, Any] = {
    "hostEmail": "Ann.Lee@Example.ORG",
    "siteUrl": "events.webex.com",
    "scheduledType": "webinar",
    "integrationTags": ["crm-17", "Spring"],
    "start": "2026-03-10T09:00:00+01:00",
}


def matches(scope: str, *, now: datetime = NOW, **fields: Any) -> bool:
    """Whether a rule with this scope decides about a registrant of the meeting, and one for meetings wants something."""
    rules = f"rules: [{{name: r, {scope}, when: true, then: approve}}]\n"
    for_meetings = f"meetingRules: [{{name: m, {scope}, when: true, set: {{agenda: x}}}}]\n"
    policy = parse(f"version: 1\n{rules}{for_meetings}")
    meeting = Meeting(id="m", title="Spring Day", fields={**MEETING, **fields})
    decided = policy.decide(REGISTRANT, meeting=meeting, counts=COUNTS, now=now).outcome == "approve"
    assert bool(policy.wishes(meeting, now=now)) is decided
    return decided


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ("title: spring*", True),
        ("title: [Autumn*, Spring*]", True),
        ("title: [Autumn*, Winter*]", False),
        ("host: ann.lee@example.org", True),
        ("host: Ann.Lee@EXAMPLE.org", True),
        ("host: '*@example.org'", True),
        ("host: '*@*.org'", True),
        ("host: [bob@example.org, 'a*@example.org']", True),
        ("host: bob@example.org", False),
        ("host: '*@ample.org'", False),
        ("host: 'ann?lee@example.org'", True),
        ("site: events.webex.com", True),
        ("site: '*.WEBEX.com'", True),
        ("site: other.webex.com", False),
        ("scheduledType: webinar", True),
        ("scheduledType: [meeting, personalRoomMeeting]", False),
        ("scheduledType: 'web*'", True),
        ("integrationTag: spring", True),
        ("integrationTag: 'crm-*'", True),
        ("integrationTag: 'crm'", False),
        ("startsAfter: 2026-03-10T08:00:00Z", True),
        ("startsAfter: '2026-03-10T08:00:01Z'", False),
        ("startsBefore: 2026-03-10T09:00:00+01:00", False),
        ("startsBefore: 2026-03-10T09:00:01+01:00", True),
        ("title: Spring*, scheduledType: webinar, host: '*@example.org', site: '*', integrationTag: '*'", True),
        ("title: Spring*, scheduledType: meeting", False),
    ],
)
def test_everything_given_has_to_fit(scope: str, covered: bool) -> None:
    """Of several patterns for one thing, one; of several things, all. It is the same for both sorts of rules."""
    assert matches(f"meetings: {{{scope}}}") is covered


@pytest.mark.parametrize(
    ("scope", "fields"),
    [
        ("host: '*@*'", {"hostEmail": None}),
        ("host: '*@*'", {"hostEmail": "ann@example.org,bob@example.org"}),
        ("host: '*@example.org'", {"hostEmail": "ann@evil.example\n@example.org"}),
        ("host: '*@example.org'", {"hostEmail": "ann@example.org.evil.example"}),
        ("site: '*'", {"siteUrl": None}),
        ("integrationTag: '*'", {"integrationTags": None}),
        ("integrationTag: '*'", {"integrationTags": [1, {}]}),
        ("startsAfter: 2020-01-01T00:00:00Z", {"start": "soon"}),
        ("startsBefore: 2030-01-01T00:00:00Z", {"start": None}),
    ],
)
def test_what_webex_does_not_say_fits_nothing(scope: str, fields: dict[str, Any]) -> None:
    """A meeting without the field is in no scope that asks for it."""
    assert not matches(f"meetings: {{{scope}}}", **fields)


@pytest.mark.parametrize(
    ("active", "covered"),
    [
        ("{from: 2026-03-01T12:00:00Z}", True),
        ("{from: 2026-03-01T12:00:01Z}", False),
        ("{until: 2026-03-01T12:00:00Z}", False),
        ("{until: 2026-03-01T13:00:01+01:00}", True),
        ("{from: 2026-02-01T00:00:00Z, until: 2026-04-01T00:00:00Z}", True),
        ("{from: '2026-02-01 00:00:00z'}", True),
    ],
)
def test_a_rule_is_in_force_for_a_time(active: str, covered: bool) -> None:
    """From the one moment on, and before the other."""
    assert matches(f"active: {active}") is covered


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("meetings: {}", "column 29: meetings wants one of title, host, site, "),
        ("meetings: {title: []}", "column 37: there are 0 entries, 1 to 100 are wanted"),
        ("meetings: {title: [a, 1]}", "column 41: a text is wanted here; put it in quotes"),
        ("meetings: {hots: a@b.example}", 'column 30: meetings has no key "hots"; did you mean "host"?'),
        ("meetings: {host: '*example.org'}", 'column 36: a host is an address: "…'),
        ("meetings: {host: 'a@b@example.org'}", 'column 36: a host is an address: "…'),
        ("meetings: {host: 'a[@]example.org'}", 'column 36: a host is an address: "…'),
        ("meetings: {host: 'a@b_c.example'}", "column 36: this never equals the address of a host"),
        ("meetings: {host: 'ä@b.example'}", "column 36: this never equals the address of a host"),
        (
            "meetings: {scheduledType: webniar}",
            'column 45: no meeting has this scheduledType; did you mean "webinar"?',
        ),
        ("meetings: {startsAfter: 2026-01-01}", "column 43: a time with its offset is wanted here: "),
        ("meetings: {startsAfter: '2026-01-01T00:00:00'}", "column 43: a time with its offset is wanted here: "),
        ("meetings: {startsAfter: 2026-13-01T00:00:00Z}", "column 43: a time with its offset is wanted here: "),
        ("active: {form: 2026-01-01T00:00:00Z}", 'column 28: active has no key "form"; did you mean "from"?'),
        (
            "active: {from: 2026-01-02T00:00:00Z, until: 2026-01-01T00:00:00Z}",
            "column 63: this is not after the time that it begins with",
        ),
    ],
)
def test_a_scope_that_cannot_be_meant_is_refused(keys: str, problem: str) -> None:
    """With its place."""
    with pytest.raises(PolicyError) as refusal:
        parse(f"version: 1\nrules: [{{name: r, {keys}, when: true, then: hold}}]\n")

    assert [str(one).partition(", ")[2][: len(problem)] for one in refusal.value.problems] == [problem]
