"""What is decided about commands, without Webex and without a bus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import commands
from service.core.commands import Allowed, Answer
from service.core.confidential import without_secrets
from service.core.errors import (
    WebexConflict,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexThrottled,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.core.ledger import Intent, Memory, Seen, SeriesMemory
from service.core.organizations import SINGLE, Organization, Organizations
from service.core.work import Command, decode, encode

SERIES = "5" * 32
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def command(operation: str, *, body: Any = None, **parameters: Any) -> Command:
    """One of these, about the series unless told otherwise."""
    given = {"meetingId": SERIES, **parameters}
    return Command(
        organization="default",
        id="id 1",
        digest="d",
        operation=operation,
        series=SERIES,
        parameters={name: value for name, value in given.items() if value is not None},
        body=body,
        key="k",
        at="2026-03-01T12:00:00.000Z",
    )


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"password": "x", "title": "t"}, {"title": "t"}),
        ({"phoneAndVideoSystemPassword": "1", "panelistPassword": "2", "hostKey": 123456}, {}),
        ({"webLink": "x", "registerLink": "x", "joinLink": "x", "startLink": "x", "links": [{"href": "x"}]}, {}),
        (
            {"access_token": "x", "accessToken": "x", "refresh_token": "x", "clientSecret": "x", "nextPageToken": "x"},
            {},
        ),
        ({"telephony": {"accessCode": "1", "callInNumbers": [1]}}, {"telephony": {"callInNumbers": [1]}}),
        ({"registrationId": "123456", "enabledRegistrationId": True}, {"enabledRegistrationId": True}),
        ({"excludePassword": False, "startLink": None}, {"excludePassword": False, "startLink": None}),
        ({"new": "https://example.webex.com/m/1"}, {}),
        ({"new": "example.webex.com/m/1?MTID=2"}, {}),
        ({"new": "webex://join/1"}, {}),
        ({"new": "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc-_"}, {}),
        ({"agenda": "Join https://x.example/1 at 10"}, {"agenda": "Join *** at 10"}),
        ({"agenda": "Read HTTP://X.EXAMPLE/1."}, {"agenda": "Read ***"}),
        ({"siteUrl": "example.webex.com", "id": "5_I_7"}, {"siteUrl": "example.webex.com", "id": "5_I_7"}),
        ({"start": "2026-01-10T09:00:00Z", "n": 1.5}, {"start": "2026-01-10T09:00:00Z", "n": 1.5}),
        (["https://x.example/1", "a"], ["a"]),
        ({"guests": ({"joinLink": "x", "email": "a@b.example"},)}, {"guests": [{"email": "a@b.example"}]}),
        ({"odd": object()}, {"odd": "***"}),
        ("https://x.example", "***"),
        (7, 7),
        ({"title": "Node.js/React", "agenda": "asp.net/core?"}, {"title": "Node.js/React", "agenda": "asp.net/core?"}),
        ({"agenda": "join: site.webex.com?MTID=m1"}, {"agenda": "join: ***"}),
        ({"agenda": "webex.com/j?x //a.webex.com:443/join/abc (a.b.WEBEX.com/m)"}, {"agenda": "*** *** (***"}),
        ({"new": "site.my.webex.com.cn/x"}, {}),
        (
            {"password": "pW77x", "hostKey": "123456", "agenda": "pw pW77x, key 123456", "title": "pW77"},
            {"agenda": "pw ***, key ***", "title": "pW77"},
        ),
        (
            {"a": {"password": "long-er"}, "b": [{"panelistPassword": "long"}, "long-er long"]},
            {"a": {}, "b": [{}, "*** ***"]},
        ),
        ({"password": "of", "agenda": "of no use"}, {"agenda": "of no use"}),
        ({"agenda": "of myxwebex.com/x, webex.community/x"}, {"agenda": "of myxwebex.com/x, webex.community/x"}),
    ],
)
def test_nothing_that_lets_somebody_in(shown: Any, said: Any) -> None:
    """By names and by values, at any depth."""
    assert without_secrets(shown) == said


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=6), inside, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("part", ["a", "a.", "a-", "eyJ-", "webex.com", "a:", "//"])
def test_a_long_text_takes_no_time(part: str) -> None:
    """Whatever somebody wrote into an agenda: half a megabyte is looked through once, not once for each letter (that would
    outlast every test's time limit).
    """
    assert isinstance(without_secrets(part * (500_000 // len(part))), str)


@given(_JSON, st.sampled_from(["password", "HostKey", "join_link", "access-token", "clientSecret", "x"]))
def test_a_secret_is_found_wherever_it_is(around: Any, name: str) -> None:
    """Whatever stands around it."""
    secret = "https://example.webex.com/j.php?MTID=m1" if name == "x" else "s3cr3t-and-long"
    hidden = {"a": [around, {"b": {name: secret}, "c": (around, [{name: secret}])}]}

    assert secret not in str(without_secrets(hidden))


# --- what is allowed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "operation", "allowed"),
    [
        ((), "meetings.get", False),
        (("*",), "meetings.get", True),
        (("registrants.*", "meetings.get"), "meetings.get", True),
        (("registrants.*",), "registrants.bulk-insert", True),
        (("registrants.*",), "meetings.get", False),
        (("Meetings.Get",), "meetings.get", True),
        (("*",), "webhooks.create", False),
        (("webhooks.*",), "webhooks.list", False),
        (("applications.token",), "applications.token", False),
    ],
)
def test_operations(patterns: tuple[str, ...], operation: str, allowed: bool) -> None:
    """Shell-style; webhooks and applications never."""
    assert Allowed(patterns).operation(operation) is allowed


@pytest.mark.parametrize(
    ("allowed", "operation", "parameters", "body", "expected"),
    [
        (Allowed(("*",)), "meetings.create", {}, {}, ""),
        (Allowed(("*",), hosts=("a@x.example",)), "meetings.list", {}, None, "hostNotAllowed"),
        (Allowed(("*",), hosts=("a@x.example",)), "meetings.list", {"hostEmail": "A@X.example"}, None, ""),
        (Allowed(("*",), hosts=("a@x.example",)), "meetings.get", {"meetingId": SERIES}, None, ""),
        (
            Allowed(("*",), hosts=("a@x.example",)),
            "meetings.get",
            {"meetingId": SERIES, "hostEmail": "b@x.example"},
            None,
            "hostNotAllowed",
        ),
        (Allowed(("*",), hosts=("a@x.example",)), "meetings.join", {}, {"webLink": "x"}, "hostNotAllowed"),
        (Allowed(("*",), hosts=("a@x.example",)), "meetings.join", {}, {"meetingId": SERIES}, ""),
        (
            Allowed(("*",), hosts=("a@x.example",)),
            "meetings.join",
            {},
            {"meetingId": SERIES, "webLink": "x"},
            "hostNotAllowed",
        ),
        (
            Allowed(("*",), sites=("x.webex.com",)),
            "meetings.join",
            {},
            {"meetingId": SERIES, "meetingNumber": "1"},
            "hostNotAllowed",
        ),
        (Allowed(("*",)), "meetings.join", {}, {"meetingId": SERIES, "webLink": "x"}, ""),
        (Allowed(("*",), hosts=("a@x.example",)), "guests.sponsor", {}, {"meeting": {}}, ""),
        (Allowed(("*",), hosts=("a@x.example",)), "guests.create", {}, {}, ""),
        (Allowed(("*",), sites=("x.webex.com",)), "guests.sponsor", {}, {"meeting": {}}, "siteNotAllowed"),
        (Allowed(("*",), sites=("x.webex.com",)), "guests.sponsor", {}, {"meeting": {"siteUrl": "x.webex.com"}}, ""),
        (Allowed(("*",), sites=("x.webex.com",)), "meetings.create", {}, {"siteUrl": "y.webex.com"}, "siteNotAllowed"),
    ],
)
def test_hosts_and_sites_as_the_command_names_them(
    allowed: Allowed, operation: str, parameters: dict[str, Any], body: Any, expected: str
) -> None:
    """What is named must fit; what names no meeting must name its host and its site."""
    assert allowed.named(operation, parameters, body) == expected


@pytest.mark.parametrize("host", [None, 7, "", "b@x.example", "a@x.example.evil", " "])
def test_an_unknown_host_is_none_of_the_allowed(host: object) -> None:
    """Whatever Webex shows instead."""
    assert Allowed(("*",), hosts=("a@x.example",)).owned(host, None) == "hostNotAllowed"


# --- taking in --------------------------------------------------------------------------------------------------------


class _Anything:
    """A catalogue in which everything is fine."""

    def __contains__(self, operation: object) -> bool:
        return True

    def problem(self, operation: str, event: Any) -> str:
        return ""


def _taken_in(*, key: str = "k", organizations: Organizations = SINGLE, **changes: Any) -> Command:
    event = {"id": "1", "source": "/s", "type": "webex.command.meetings.get.v1", "data": {"parameters": {}}, **changes}
    return commands.take_in(
        event,
        key=key,
        catalogue=_Anything(),
        allowed=Allowed(("*",)),
        organizations=organizations,
        now=NOW,
    )


def test_what_is_the_same_command() -> None:
    """Another time or trace does not make another one; anything asked for does, and so does who asks."""
    same = [_taken_in(), _taken_in(time="2026-03-01T12:00:00Z"), _taken_in(traceparent="x"), _taken_in(subject="y")]
    others = [
        _taken_in(source="/t"),
        _taken_in(data={"parameters": {"meetingId": SERIES}}),
        _taken_in(type="webex.command.meetings.delete.v1"),
        _taken_in(expirytime="2030-01-01T00:00:00Z"),
    ]

    assert len({each.digest for each in same}) == 1
    assert len({each.digest for each in (*same, *others)}) == 5


@pytest.mark.parametrize("id_", [SERIES, f"{SERIES}_I_5", f"{SERIES.upper()}_20260301T120000Z"])
def test_everything_of_a_series_is_in_order(id_: str) -> None:
    """Occurrences and instances too; join has its meeting in the body."""
    by_parameter = _taken_in(data={"parameters": {"meetingId": id_}})
    by_body = _taken_in(data={"body": {"meetingId": id_}}, type="webex.command.meetings.join.v1")

    assert (by_parameter.series, by_body.series) == (SERIES, SERIES)


def test_only_a_real_trace_goes_on() -> None:
    """It ends up in logs and in a header."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    assert _taken_in(traceparent=trace).traceparent == trace
    assert _taken_in(traceparent="bob@example.org").traceparent is None


def test_a_refused_command_carries_nothing_of_what_it_asked() -> None:
    """Neither people nor passwords; and it survives its topic."""
    taken = _taken_in(type="webex.command.webhooks.create.v1", data={"body": {"secret": "s"}})

    assert (taken.refusal, taken.parameters, taken.body, taken.series) == ("notAllowed", {}, None, "")
    assert decode(encode(taken)) == taken


@pytest.mark.parametrize(
    ("key", "fits"), [("k" * 1024, True), ("k" * 1025, False), ("é" * 512, True), ("é" * 513, False)]
)
def test_a_key_that_no_outcome_could_repeat(key: str, fits: bool) -> None:
    """Is refused, and the outcome has a hash of it: the same for the same key."""
    taken, again = _taken_in(key=key), _taken_in(key=key, id="2")

    assert taken.refusal == ("" if fits else "malformed")
    assert (taken.key == key) is fits
    assert taken.key == again.key != _taken_in(key=key + "x").key
    assert len(taken.key.encode()) <= 1024


_BARE, _OTHER = "7" * 8 + "-7777" * 3 + "-" + "7" * 12, "8" * 8 + "-8888" * 3 + "-" + "8" * 12


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (_OTHER, _OTHER),
        (_OTHER.upper(), _OTHER),
        ("emea", _OTHER),
        ("EMEA", _OTHER),
        ("default", "default"),
        ("", ""),
        ("eme", ""),
        (None, ""),
        (7, ""),
        ("twice", ""),
    ],
)
def test_which_organisation_is_meant(given: object, key: str) -> None:
    """By its id, by its name in the settings; what could be two is nobody."""
    several = Organizations(
        (
            Organization("default", _BARE),
            Organization(_OTHER, _OTHER, "emea"),
            Organization("a", name="twice"),
            Organization("twice", name="b"),
        )
    )
    taken = _taken_in(organizations=several, data={"organization": given})

    assert (taken.organization, taken.refusal) == ((key, "") if key else ("default", "unknownOrganization"))


@pytest.mark.parametrize(
    ("organization", "source"),
    [
        (
            Organization("default", _BARE),
            "/webex/orgs/Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi83Nzc3Nzc3Ny03Nzc3LTc3NzctNzc3Ny03Nzc3Nzc3Nzc3Nzc",
        ),
        (Organization("default", "acme-1"), "/webex/orgs/Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi9hY21lLTE"),
        (Organization("default"), "/webex"),
    ],
)
def test_whose_outcome_it_is(organization: Organization, source: str) -> None:
    """Its source is that of the organisation's events, where the settings say which that is."""
    taken = _taken_in(organizations=Organizations((organization,)))
    said = commands.outcome(taken, commands.refused("expired", "m"), now=NOW, receiver="a")

    assert said.source == source


@given(_JSON, _JSON, _JSON)
def test_taking_in_is_total(data: Any, type_: Any, expiry: Any) -> None:
    """Any JSON gets an answer."""
    taken = _taken_in(type=type_, expirytime=expiry, data=data if isinstance(data, dict) else {})

    assert taken.id == "1"


# --- looking for what was done ----------------------------------------------------------------------------------------

_BATCH = {"registrants": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}
_PERSON = {"firstName": "B", "lastName": "L", "email": "Bob@example.org"}


@pytest.mark.parametrize(
    ("asked", "seen", "done"),
    [
        (command("registrants.approve", body=_BATCH), [{"status": "approved"}, {"status": "approved"}], True),
        (command("registrants.approve", body=_BATCH), [{"status": "approved"}, {"status": "pending"}], False),
        (command("registrants.approve", body=_BATCH), [{"status": "approved"}, None], False),
        (command("registrants.cancel", body=_BATCH), [{"status": "pending"}, {"status": "pending"}], True),
        (command("registrants.reject", body=_BATCH), [{"status": "pending"}, {"status": "rejected"}], False),
        (command("registrants.bulk-delete", body=_BATCH), [None, None], True),
        (command("registrants.bulk-delete", body=_BATCH), [None, {"id": "b"}], False),
        (command("registrants.delete", registrantId="a"), [None], True),
        (command("registrants.delete", registrantId="a"), [{"id": "a"}], False),
        (command("meetings.delete"), [None], True),
        (command("meetings.delete"), [{"id": SERIES}], False),
        (command("meetings.end"), [{"items": []}], True),
        (command("meetings.end"), [None], True),
        (command("meetings.end"), [{"items": [{"id": "x"}]}], False),
        (command("meetings.patch", body={"title": "t", "sendEmail": False}), [{"title": "t", "x": 1}], True),
        (command("meetings.patch", body={"title": "t"}), [{"title": "u"}], False),
        (command("meetings.patch", body={"title": "t"}), [None], False),
        (command("meetings.patch", body={"agenda": None}), [{}], True),
        (
            command("meetings.patch", body={"start": "2026-03-01T12:00:00+01:00"}),
            [{"start": "2026-03-01T11:00:00Z"}],
            True,
        ),
        (
            command("meetings.patch", body={"meetingOptions": {"a": True}}),
            [{"meetingOptions": {"a": True, "b": 1}}],
            True,
        ),
        (command("meetings.patch", body={"integrationTags": ["a"]}), [{"integrationTags": ["a", "b"]}], False),
        (command("registration.update", body={"requireCity": True}), [{"requireCity": True}], True),
        (command("registration.delete"), [None], True),
        (command("registrants.register", body=_PERSON), [{"items": [{"id": "7", "email": "bob@EXAMPLE.org"}]}], True),
        (command("registrants.register", body=_PERSON), [{"items": []}], False),
        (command("registrants.bulk-insert", body={"items": [_PERSON]}), [{"items": [{"email": "x@y.example"}]}], False),
        (command("meetings.create", body={}), [{"items": [{"integrationTags": [commands.mark_of("id 1")]}]}], True),
        (command("meetings.create", body={}), [{"items": [{"integrationTags": ["a"]}, {}]}], False),
        (
            command("meetings.create", body={}),
            [{"items": [{"integrationTags": None}, {"integrationTags": 5}, {"integrationTags": [7]}]}],
            False,
        ),
        (command("meetings.end", body=None), [], False),
    ],
)
def test_whether_it_was_done(asked: Command, seen: Sequence[Any], done: bool) -> None:
    """By what Webex shows; where that is not everything, it was not."""
    assert (commands.effect(asked, seen) is not None) is done


@pytest.mark.parametrize(
    ("asked", "seen", "there"),
    [
        (command("meetings.delete"), [{"id": SERIES}], True),
        (command("meetings.delete"), [None], False),
        (command("meetings.end"), [{"items": [{"id": "x"}]}], True),
        (command("meetings.end"), [{"items": []}], False),
        (command("meetings.end"), [None], False),
        (command("meetings.end"), [], False),
        (command("registrants.bulk-delete", body=_BATCH), [{"id": "a"}, {"id": "b"}], True),
        (command("registrants.bulk-delete", body=_BATCH), [{"id": "a"}, None], False),
    ],
)
def test_whether_there_was_anything_to_take_away(asked: Command, seen: Sequence[Any], there: bool) -> None:
    """All of it."""
    assert commands.was_there(asked, seen) is there


@pytest.mark.parametrize(
    ("statuses", "there"),
    [
        ({"a": "pending", "b": "approved"}, True),
        ({"a": "pending", "b": "deleted"}, False),
        ({"a": "pending", "b": None}, False),
        ({"a": "pending"}, False),
        ({}, False),
    ],
)
def test_what_the_ledger_knows_to_be_there(statuses: dict[str, str | None], there: bool) -> None:
    """Everybody whom a look has shown, and none has missed since."""
    seen = {id_: Memory(seen=Seen(status=status) if status else None) for id_, status in statuses.items()}
    asked = command("registrants.bulk-delete", body=_BATCH)

    assert commands.remembered_there(asked, SeriesMemory(registrants=seen)) is there
    assert not commands.remembered_there(command("meetings.delete"), SeriesMemory(registrants=seen))


def test_whom_to_ask_for_again() -> None:
    """Only those who are not as wanted yet, each once."""
    asked = command("registrants.approve", body={**_BATCH, "sendEmail": True})
    again = commands.remaining(asked, [{"status": "approved"}, {"status": "pending"}])

    assert again.body == {"sendEmail": True, "registrants": [{"id": "b"}]}


@pytest.mark.parametrize("operation", sorted(commands.ONCE | commands.REPEATABLE))
def test_every_write_can_be_looked_for(operation: str) -> None:
    """By reads only; guest tokens leave no trace, and sponsoring looks by itself."""
    body = {"items": [_PERSON]} if operation == "registrants.bulk-insert" else {**_PERSON, **_BATCH}
    if operation in (commands.UNTRACEABLE, commands.SPONSOR):
        return
    looks = list(commands.looks(command(operation, body=body, registrantId="a")))

    assert looks
    assert {look.operation for look in looks} <= commands.READS


def test_what_webex_would_suppose_is_said() -> None:
    """That mail is sent, that links are wanted and no redirection; and a new meeting is marked."""
    create = commands.body_for(command("meetings.create", body={"title": "t", "integrationTags": ["crm"]}))

    assert create == {"sendEmail": True, "title": "t", "integrationTags": ["crm", commands.mark_of("id 1")]}
    assert commands.body_for(command("registrants.approve", body=_BATCH)) == {"sendEmail": True, **_BATCH}
    assert commands.body_for(command("meetings.join", body={"meetingId": SERIES}))["joinDirectly"] is False
    assert commands.body_for(command("registrants.bulk-insert", body={"items": [_PERSON]}))["items"][0]["sendEmail"]
    assert commands.body_for(command("meetings.patch", body={"sendEmail": False})) == {"sendEmail": False}
    assert len(commands.mark_of("id 1")) <= 64


# --- what is remembered, and what is said -----------------------------------------------------------------------------


def test_an_occurrence_has_no_registrants_to_remember() -> None:
    """Webex refuses such an id; nothing is put down to it."""
    asked = command("registrants.approve", body=_BATCH, meetingId=f"{SERIES}_20260301T120000Z")

    assert [entry.kind for entry in commands.begun(asked, now=NOW)] == ["command"]
    assert commands.accepted(asked, Answer(status=204), now=NOW) == []


def test_what_was_meant_before_comes_back() -> None:
    """For each registrant of the command: the former intent, or none."""
    earlier = Intent(verb="approve", rule="r", reason="", notify=True, policy="v", at=NOW)
    before = SeriesMemory(registrants={"a": Memory(intent=earlier)})
    undone = commands.undone(command("registrants.reject", body=_BATCH), before)

    assert [(entry.registrant, entry.value) for entry in undone] == [("a", earlier), ("b", None)]


@pytest.mark.parametrize(
    ("error", "reason", "passing"),
    [
        (WebexNotFound("no", status=404), "notFound", False),
        (WebexUnauthorized("no", status=401), "unauthorized", False),
        (WebexUnauthorized("no", status=403), "forbidden", False),
        (WebexConflict("no", status=409), "conflict", False),
        (WebexRejected("no", status=400), "rejected", False),
        (WebexRejected("no", status=200), "unreadableAnswer", False),
        (WebexThrottled("no", status=429), "temporarilyUnavailable", True),
        (WebexUnavailable("no", status=503), "temporarilyUnavailable", True),
        (WebexUnavailable("no"), "temporarilyUnavailable", True),
    ],
)
def test_what_webex_said(error: WebexError, reason: str, passing: bool) -> None:
    """Its status and ours words for it; only busy and away pass."""
    ending = commands.failed(error)

    assert ending.problem is not None
    assert (ending.status, ending.problem.reason) == (error.status, reason)
    assert commands.passing(error) is passing


def test_an_outcome_is_the_same_event_when_it_is_said_again() -> None:
    """... and another kind another one, as is that of another body under the same id."""
    asked = command("meetings.get")
    ending = commands.succeeded(Answer(status=200, value={"id": SERIES}))
    first = commands.outcome(asked, ending, now=NOW, receiver="a")
    again = commands.outcome(asked, ending, now=NOW + timedelta(hours=1), receiver="b")
    refused = commands.outcome(asked, commands.refused("expired", "m"), now=NOW, receiver="a")

    assert first.id == again.id != refused.id
    assert (first.partitionkey, first.subject) == ("k", f"meetings/{SERIES}")
    assert refused.data["error"] == {"reason": "expired", "message": "m", "trackingId": None}
