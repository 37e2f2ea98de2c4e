from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import guests
from service.core.guests import Admitted, InProgress, Instance, Person, Refused, Reservation, SponsorBody

NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
SERIES = [f"{n:032x}" for n in range(8)]
WANTED = "wanted"


def _at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def _place(series: int | str, since: int, until: int, *, early: int = 0) -> Reservation:
    name = SERIES[series] if isinstance(series, int) else series
    return Reservation(series=name, since=_at(since - early), until=_at(until), early=timedelta(minutes=early))


def _instance(series: int, n: int = 1, *, end: int | None = None, host: str = "app") -> Instance:
    ends = None if end is None else _at(end)
    return Instance(id=f"{SERIES[series]}_I_{n}", series=SERIES[series], host=host, heard=NOW, end=ends)


# --- what is asked for ------------------------------------------------------------------------------------------------


def _body(**meeting: Any) -> dict[str, Any]:
    return {
        "meeting": {"title": "Consultation", "start": "2026-01-10T10:00:00Z", "end": "2026-01-10T10:30:00Z", **meeting},
        "host": {"email": "doctor@example.org", "displayName": "Dr. Ada"},
        "guests": [{"email": "patient@example.net", "displayName": "Bea"}],
    }


def _without(name: str) -> dict[str, Any]:
    body = _body()
    del body["meeting"][name]
    return body


def test_a_complete_body_is_read() -> None:
    """Links last an hour and nobody gets a token unless the body says otherwise; the host comes first."""
    wanted = guests.read(_body(), now=NOW)

    assert isinstance(wanted, SponsorBody)
    assert (wanted.expirationMinutes, wanted.tokens) == (60, False)
    assert [person.email for person in wanted.people] == ["doctor@example.org", "patient@example.net"]


_PERSON = {"email": "c@example.org", "displayName": "Cy"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param([], "Expected `object`", id="no object"),
        pytest.param({}, "missing required field `meeting`", id="empty"),
        pytest.param({**_body(), "licence": 3}, "unknown field `licence`", id="unknown field"),
        pytest.param({**_body(), "guests": []}, "$.guests", id="no guest"),
        pytest.param({**_body(), "guests": [_PERSON] * 400}, "$.guests", id="more than a meeting takes"),
        pytest.param({**_body(), "guests": [_PERSON, _PERSON]}, "address of their own", id="the same guest twice"),
        pytest.param({**_body(), "guests": [{"email": "c@example.org"}]}, "displayName", id="no name"),
        pytest.param({**_body(), "host": {**_PERSON, "displayName": ""}}, "$.host.displayName", id="empty name"),
        pytest.param({**_body(), "host": {**_PERSON, "displayName": "x" * 129}}, "$.host.displayName", id="long name"),
        pytest.param({**_body(), "host": {**_PERSON, "email": "c@@x"}}, "$.host.email", id="no address"),
        pytest.param({**_body(), "expirationMinutes": 0}, "$.expirationMinutes", id="no minutes"),
        pytest.param({**_body(), "expirationMinutes": 61}, "$.expirationMinutes", id="more than an hour"),
        pytest.param({**_body(), "tokens": "yes"}, "$.tokens", id="tokens no boolean"),
        pytest.param(_without("title"), "meeting.title", id="no title"),
        pytest.param(_without("start"), "meeting.start", id="no start"),
        pytest.param(_without("end"), "meeting.end", id="no end"),
        pytest.param(_body(start="tomorrow"), "meeting.start", id="no time"),
        pytest.param(_body(start="2026-01-10T08:00Z", end="2026-01-10T09:00Z"), "in the past", id="over"),
        pytest.param(_body(start="2099-01-10T10:00:00Z", end="2099-01-10T11:00:00Z"), "10 years", id="far away"),
        pytest.param(_body(end="2026-01-10T10:09:59Z"), "at least 10 minutes", id="too short"),
        pytest.param(_body(end="2026-01-11T10:00:00Z"), "23 hours 59", id="too long"),
        pytest.param(_body(start="2026-01-10T10:00", timezone="Asia/Shanghai"), "offset", id="local time"),
        pytest.param(_body(recurrence="FREQ=DAILY;COUNT=3"), "meeting.recurrence", id="series"),
        pytest.param(_body(adhoc=True), "meeting.adhoc", id="ad hoc"),
        pytest.param(_body(roomId="room"), "meeting.roomId", id="space"),
        pytest.param(_body(hostEmail="h@example.org"), "meeting.hostEmail", id="another host"),
        pytest.param(_body(scheduledType="webinar"), "meeting.scheduledType", id="webinar"),
        pytest.param(_body(joinBeforeHostMinutes=7), "0, 5, 10 or 15", id="odd minutes before the host"),
        pytest.param(_body(joinBeforeHostMinutes=True), "0, 5, 10 or 15", id="minutes no number"),
        pytest.param(_body(enabledJoinBeforeHost="true"), "true or false", id="join before host no boolean"),
        pytest.param(_body(integrationTags=["a", "b"]), "one is left", id="too many tags"),
        pytest.param(_body(integrationTags=["x" * 65]), "64 characters", id="long tag"),
        pytest.param(_body(integrationTags=["webex-events-1"]), "are ours", id="one of our tags"),
        pytest.param(_body(agenda=object()), "not JSON", id="no JSON"),
        pytest.param(_body(agenda="\ud800"), "not JSON", id="no text"),
    ],
)
def test_what_cannot_be_sponsored_is_refused_with_the_place(body: object, says: str) -> None:
    """The refusal names the field and what it wants."""
    refused = guests.read(body, now=NOW)

    assert isinstance(refused, Refused)
    assert refused.reason == "invalidBody"
    assert says in refused.message


@pytest.mark.parametrize(("seconds", "refused"), [(0, False), (3659, False), (3660, True)])
def test_a_meeting_begins_in_this_minute_at_the_earliest(seconds: int, refused: bool) -> None:
    """Webex schedules to the minute; what has begun before cannot be made any more."""
    wanted = guests.read(_body(), now=NOW)
    assert isinstance(wanted, SponsorBody)

    assert (guests.begun(wanted, now=NOW + timedelta(seconds=seconds)) is not None) == refused


def test_every_problem_of_the_meeting_is_said_at_once() -> None:
    """One try shows all that is wrong with it, and no value that was given."""
    refused = guests.read(_body(title="", roomId="a-secret-room", joinBeforeHostMinutes=7), now=NOW)

    assert isinstance(refused, Refused)
    assert all(name in refused.message for name in ("title", "roomId", "joinBeforeHostMinutes"))
    assert "a-secret-room" not in refused.message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(list(_body())), inner),
        max_leaves=12,
    )
)
def test_reading_is_total(body: object) -> None:
    """Whatever is given, it is read or refused."""
    assert isinstance(guests.read(body, now=NOW), SponsorBody | Refused)


@given(
    st.dictionaries(
        st.sampled_from(
            ["title", "start", "end", "timezone", "joinBeforeHostMinutes", "integrationTags", "recurrence"]
        ),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()) | st.datetimes().map(str),
    )
)
def test_reading_a_meeting_is_total(fields: Mapping[str, Any]) -> None:
    """Whatever the meeting's fields are, what is read has a place to be reserved, and a body to create it with."""
    wanted = guests.read(_body(**fields), now=NOW)

    if isinstance(wanted, SponsorBody):
        assert guests.reservation_of(wanted.meeting, series=WANTED) is not None
        assert len(guests.create_body(wanted, "mark")["integrationTags"]) <= 3


# --- marks ------------------------------------------------------------------------------------------------------------


def test_a_meeting_is_found_again_by_its_key() -> None:
    """The marker says for which key and which meeting it was made, and fits into a tag."""
    meeting = _body()["meeting"]
    mark, other = guests.marker("order 7", meeting), guests.marker("order 7", {**meeting, "title": "Another"})
    listed: list[dict[str, Any]] = [
        {"id": "a", "integrationTags": [guests.SPONSORED]},
        {"id": "b", "integrationTags": ["x", mark]},
        {"id": "c"},
    ]

    assert guests.made_for("order 7", listed) == listed[1]
    assert guests.made_for("order 8", listed) is None
    assert mark == guests.marker("order 7", dict(reversed(meeting.items())))
    assert mark != other
    assert guests.is_for("order 7", other)
    assert len(mark) <= 64


def test_the_body_of_create_is_what_was_asked_for_with_our_tags() -> None:
    """Nothing is lost, no mail is sent unless it was asked for, and a time without an offset is sent as UTC."""
    asked = _body(
        start="2026-01-10T10:00", end="2026-01-10T12:00:00+01:00", agenda="Check", integrationTags=["ticket 9"]
    )
    wanted = guests.read(asked, now=NOW)
    assert isinstance(wanted, SponsorBody)

    assert guests.create_body(wanted, "mark") == {
        **asked["meeting"],
        "start": "2026-01-10T10:00:00+00:00",
        "sendEmail": False,
        "integrationTags": [guests.SPONSORED, "mark", "ticket 9"],
    }


# --- the licence ------------------------------------------------------------------------------------------------------

_LISTED = {"id": SERIES[1], "start": "2026-01-10T10:00:00Z", "end": "2026-01-10T11:00:00Z", "state": "active"}


@pytest.mark.parametrize(
    ("changes", "since", "until"),
    [
        pytest.param({}, 60, 120, id="start to end"),
        pytest.param({"enabledJoinBeforeHost": True, "joinBeforeHostMinutes": 15}, 45, 120, id="join before host"),
        pytest.param({"enabledJoinBeforeHost": False, "joinBeforeHostMinutes": 15}, 60, 120, id="not enabled"),
        pytest.param({"enabledJoinBeforeHost": True, "joinBeforeHostMinutes": "x"}, 60, 120, id="no number"),
        pytest.param({"start": "2026-01-10T18:00:00+08:00"}, 60, 120, id="another offset"),
        pytest.param({"start": "2026-01-10T10:00:42Z"}, 60, 120, id="minutes are exact enough"),
        pytest.param({"state": "somethingNew"}, 60, 120, id="unknown state"),
        pytest.param({"state": "inProgress"}, 60, 120, id="in progress"),
    ],
)
def test_a_meeting_takes_a_place_from_when_it_can_be_joined_to_its_end(
    changes: Mapping[str, Any], since: int, until: int
) -> None:
    """The place is taken from the start, less the minutes before the host, to the end."""
    found = guests.reservation_of({**_LISTED, **changes})

    assert found is not None
    assert (found.series, found.since, found.until) == (SERIES[1], _at(since), _at(until))


@pytest.mark.parametrize(
    "changes",
    [{"state": "ended"}, {"state": "expired"}, {"state": "missed"}, {"start": None}, {"end": 3}, {"id": "PR-room"}],
    ids=str,
)
def test_what_is_over_or_unreadable_takes_no_place(changes: Mapping[str, Any]) -> None:
    """A meeting that cannot be held any more is not counted."""
    assert guests.reservation_of({**_LISTED, **changes}) is None


@pytest.mark.parametrize(
    ("wanted", "reserved", "live", "licence", "expected"),
    [
        pytest.param((60, 90), [], [], 1, 1, id="empty"),
        pytest.param((60, 90), [], [], 0, "none", id="no licence"),
        pytest.param((60, 90), [(1, 60, 90)], [], 1, 90, id="full"),
        pytest.param((60, 90), [(1, 60, 90)], [], 2, 2, id="the second of two"),
        pytest.param((60, 90), [(1, 60, 90), (2, 70, 80)], [], 2, 80, id="the third of two"),
        pytest.param((60, 90), [(1, 60, 70), (2, 70, 90)], [], 2, 2, id="one after the other"),
        pytest.param((60, 90), [(1, 30, 60), (2, 90, 120)], [], 1, 1, id="between two"),
        pytest.param((60, 90), [(1, 60, 90), (1, 60, 90)], [], 2, 2, id="listed twice counts once"),
        pytest.param((1500, 1530), [(1, 60, 90)], [], 1, 1, id="today does not count tomorrow"),
        pytest.param((60, 90), [(1, 1500, 1530)], [], 1, 1, id="tomorrow does not count today"),
        pytest.param((60, 90), [(1, 30, 61), (2, 89, 100)], [], 1, 100, id="the gap is too short"),
        pytest.param((60, 90), [(1, 30, 61), (2, 91, 100)], [], 1, 61, id="the gap is long enough"),
        pytest.param((0, 30), [], [(1, None)], 1, 30, id="in progress, end unknown"),
        pytest.param((0, 30), [(1, -60, -5)], [(1, None)], 1, 30, id="overrun"),
        pytest.param((0, 30), [(1, -60, 20)], [(1, None)], 1, 20, id="in progress until its end"),
        pytest.param((25, 55), [(1, -60, 20)], [(1, None)], 1, 1, id="in progress, free in time"),
        pytest.param((0, 30), [(1, -60, 20)], [(1, None), (1, None)], 2, 2, id="its instance is the same place"),
        pytest.param((0, 30), [(1, 1500, 1530)], [(1, None)], 1, 30, id="started long before its time"),
        pytest.param((700, 730), [(1, 1500, 1530)], [(1, None)], 1, 1, id="and not in progress until then"),
        pytest.param((0, 30), [], [(1, 45)], 1, 45, id="in progress, end known from the webhook"),
        pytest.param((0, 30), [], [(1, -45)], 1, 30, id="in progress beyond the end of the webhook"),
    ],
)
def test_admission(
    wanted: tuple[int, int],
    reserved: list[tuple[int, int, int]],
    live: list[tuple[int, int | None]],
    licence: int,
    expected: int | str,
) -> None:
    """Admitted with the greatest number at one time, or refused with when there will be room (minutes from now)."""
    verdict = guests.admit(
        _place(WANTED, *wanted),
        [_place(*one) for one in reserved],
        [_instance(series, n, end=end) for n, (series, end) in enumerate(live)],
        licence,
        NOW,
    )

    if isinstance(verdict, Admitted):
        assert verdict.greatest == expected
    else:
        assert verdict.reason == "licenceFull"
        assert verdict.free_at == (None if expected == "none" else _at(int(expected)))


def test_the_refusal_says_why_and_when() -> None:
    """An operator reads the licence, how many are taken, and the first start with room, joining early included."""
    refused = guests.admit(_place(WANTED, 60, 90, early=15), [_place(1, 50, 100)], [], 1, NOW)

    assert isinstance(refused, Refused)
    assert refused.free_at == _at(115)
    assert refused.message == (
        "The licence is full: 1 of 1 places are taken by sponsored or running meetings then; "
        "by what is known now there is room from 2026-01-10T10:55Z on"
    )


def test_a_meeting_does_not_stand_in_its_own_way() -> None:
    """What the series itself has reserved, or holds, is not counted against it."""
    own = [_place(1, 60, 90)]

    assert guests.admit(_place(1, 60, 90), own, [_instance(1)], 1, NOW) == Admitted(greatest=1)


# The model: a day in minutes, and how many series hold each of them.

_intervals = st.tuples(st.integers(0, 7), st.integers(-60, 240), st.integers(10, 120)).map(
    lambda each: _place(each[0], each[1], each[1] + each[2])
)
_instances = st.builds(_instance, st.integers(0, 7), st.integers(1, 3), end=st.none() | st.integers(-60, 240))
_wanted = st.tuples(st.integers(0, 240), st.integers(10, 120), st.sampled_from([0, 5, 10, 15])).map(
    lambda each: _place(WANTED, each[0], each[0] + each[1], early=each[2])
)


def _minutes_taken(reserved: list[Reservation], live: list[Instance]) -> list[set[str]]:
    """Who has a place in each minute from now on."""
    minutes = [set[str]() for _ in range(600)]
    ends: dict[str, datetime] = {}
    for one in reserved:
        if one.since <= NOW < one.until:
            ends[one.series] = max(one.until, ends.get(one.series, one.until))
    for n, holders in enumerate(minutes):
        holders |= {one.series for one in reserved if one.since <= _at(n) < one.until}
        for instance in live:
            unplanned = instance.end if instance.end and instance.end > NOW else NOW + guests.OVERRUN
            if _at(n) < ends.get(instance.series, unplanned):
                holders.add(instance.series)
    return minutes


@given(_wanted, st.lists(_intervals, max_size=12), st.lists(_instances, max_size=4), st.integers(0, 5))
def test_admission_agrees_with_counting_every_minute(
    wanted: Reservation, reserved: list[Reservation], live: list[Instance], licence: int
) -> None:
    """The greatest overlap, and the first start with room, are those of a model that counts minute by minute."""
    minutes = _minutes_taken(reserved, live)

    def greatest(begin: int, end: int) -> int:
        return 1 + max((len(holders) for holders in minutes[begin:end]), default=0)

    since = max(0, int((wanted.since - NOW).total_seconds()) // 60)
    until = int((wanted.until - NOW).total_seconds()) // 60
    length = int((wanted.until - wanted.since).total_seconds()) // 60
    early = int(wanted.early.total_seconds()) // 60
    verdict = guests.admit(wanted, reserved, live, licence, NOW)

    if isinstance(verdict, Admitted):
        assert verdict.greatest == greatest(since, until) <= licence
    else:
        assert greatest(since, until) > licence
        fits = (n for n in range(since + 1, 600) if greatest(n, n + length) <= licence)
        first = next(fits, None) if licence else None
        assert verdict.free_at == (None if first is None else _at(first + early))


@given(_wanted, st.lists(_intervals, max_size=12), st.lists(_instances, max_size=4), st.integers(1, 5))
def test_the_promised_start_is_admitted(
    wanted: Reservation, reserved: list[Reservation], live: list[Instance], licence: int
) -> None:
    """Who asks for the start that a refusal named is admitted, as long as nothing else changes."""
    refused = guests.admit(wanted, reserved, live, licence, NOW)
    if isinstance(refused, Refused):
        assert refused.free_at is not None
        since = refused.free_at - wanted.early
        later = msgspec.structs.replace(wanted, since=since, until=since + (wanted.until - wanted.since))

        assert isinstance(guests.admit(later, reserved, live, licence, NOW), Admitted)


# --- the set of instances in progress ---------------------------------------------------------------------------------


def test_a_meeting_starts_and_ends_and_the_set_is_empty_again() -> None:
    """Replays of either change nothing, in any order."""
    started = InProgress().started(_instance(1)).started(_instance(1))
    ended = started.ended(_instance(1).id, at=NOW).ended(_instance(1).id, at=_at(1))

    assert set(started.live) == {_instance(1).id}
    assert ended.live == {}
    assert ended.started(_instance(1)) == ended


def test_an_end_that_is_heard_first_is_final() -> None:
    """``started`` may come after ``ended``: the instance is over all the same."""
    assert InProgress().ended(_instance(1).id, at=NOW).started(_instance(1)).live == {}


def test_a_meeting_that_is_held_again_is_another_instance() -> None:
    """The end of one instance says nothing of the next one."""
    again = InProgress().started(_instance(1, 1)).ended(_instance(1, 1).id, at=NOW).started(_instance(1, 2))

    assert set(again.live) == {_instance(1, 2).id}


def test_an_old_replay_opens_nothing() -> None:
    """A captured ``started`` verifies for ever, but a meeting lasts a day at most."""
    data = {"id": _instance(1).id, "start": "2026-01-08T08:00:00Z", "hostUserId": "app"}
    instance = guests.instance_of(data, heard=NOW)

    assert instance is not None
    assert InProgress().started(instance).live == {}


def test_ends_are_not_remembered_for_ever() -> None:
    """Nothing grows without bounds: neither what has ended, nor what nobody says has ended."""
    many = InProgress()
    for n in range(50):
        at = _at(n * 24 * 60)
        many = many.started(_instance(1, n)).ended(_instance(1, n).id, at=at)
    stale = InProgress().started(_instance(2)).reconciled([], [], at=NOW + guests.REMEMBERED)

    assert len(many.over) <= 3
    assert stale.live == {}


def test_the_reconcile_adds_what_is_shown_and_removes_what_has_ended() -> None:
    """A lost ``started`` and a lost ``ended`` are both healed; a list that lags opens nothing that has ended."""
    before = InProgress().started(_instance(1)).started(_instance(2)).ended(_instance(3).id, at=NOW)
    after = before.reconciled([_instance(2), _instance(3), _instance(4)], [_instance(1).id], at=_at(1))

    assert set(after.live) == {_instance(2).id, _instance(4).id}


_events = st.lists(st.tuples(st.sampled_from(["started", "ended"]), st.integers(0, 3), st.integers(1, 2)), max_size=8)


@given(_events, st.data())
def test_replays_and_any_order_lead_to_the_same_set(events: list[tuple[str, int, int]], data: st.DataObject) -> None:
    """The set only depends on which events were heard, neither on their order nor on how often."""
    replayed = data.draw(
        st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=8) if events else st.just([])))
    )
    ended = {(series, n) for event, series, n in events if event == "ended"}
    expected = {_instance(series, n).id for event, series, n in events if (series, n) not in ended}

    progress = InProgress()
    for event, series, n in replayed:
        instance = _instance(series, n)
        progress = progress.started(instance) if event == "started" else progress.ended(instance.id, at=NOW)

    assert set(progress.live) == expected


@pytest.mark.parametrize("data", [{}, {"id": 3}, {"id": ""}], ids=str)
def test_news_without_an_id_are_no_instance(data: Mapping[str, Any]) -> None:
    """Only an id makes an instance."""
    assert guests.instance_of(data, heard=NOW) is None


def test_the_end_of_a_notification_counts_only_as_a_schedule() -> None:
    """An ``end`` before the start, or none at all, says nothing; ids of personal rooms are taken as they are."""
    odd = {"id": "PR-room", "start": "2026-01-10T09:00:00Z", "end": "2026-01-10T08:00:00Z"}
    instance = guests.instance_of(odd, heard=NOW)

    assert instance == Instance(id="PR-room", series="PR-room", host="", heard=NOW, start=NOW, end=None)


# --- who gets which link ----------------------------------------------------------------------------------------------

DOCTOR = Person(email="doctor@example.org", displayName="Dr. Ada")
_LINKS = {
    "joinLink": "https://x/join?secret",
    "startLink": "https://x/start?secret",
    "expiration": "2026-01-10T10:00:00Z",
}


def test_only_the_host_gets_the_start_link() -> None:
    """Webex answers our token with a start link for everybody; a guest who opened it would be the host."""
    host = guests.credentials(DOCTOR, _LINKS, host=True)
    guest = guests.credentials(DOCTOR, _LINKS, host=False)

    assert host is not None
    assert guest is not None
    assert (host.start_link, host.join_link) == (_LINKS["startLink"], _LINKS["joinLink"])
    assert (guest.start_link, guest.join_link, guest.expiration) == (None, _LINKS["joinLink"], _LINKS["expiration"])


@pytest.mark.parametrize(
    ("links", "host"),
    [({}, False), ({"joinLink": 3}, False), ({"joinLink": "https://x/join"}, True), ({"startLink": "https://x"}, True)],
    ids=str,
)
def test_an_answer_without_the_link_is_no_answer(links: Mapping[str, Any], host: bool) -> None:
    """Nobody is told to be equipped who is not."""
    assert guests.credentials(DOCTOR, links, host=host) is None


def test_the_body_of_join_never_asks_for_a_redirect() -> None:
    """It has the person's name and address, the meeting's password, and the host that Webex requires of a Service App."""
    meeting = {"id": SERIES[1], "password": "Pa55", "hostEmail": "app@example.com", "title": "Not sent"}

    assert guests.join_body(meeting, DOCTOR, minutes=20) == {
        "meetingId": SERIES[1],
        "joinDirectly": False,
        "email": "doctor@example.org",
        "displayName": "Dr. Ada",
        "expirationMinutes": 20,
        "password": "Pa55",
        "hostEmail": "app@example.com",
    }


def test_the_subject_of_a_guest_is_the_same_person_and_not_the_address() -> None:
    """The same address is the same guest, however it is written."""
    first, again = guests.guest_body(DOCTOR), guests.guest_body(Person(email="Doctor@example.org", displayName="Ada"))

    assert first["subject"] == again["subject"]
    assert "doctor" not in first["subject"]


def test_nothing_secret_or_personal_shows_in_a_repr() -> None:
    """Neither links nor tokens nor addresses nor names."""
    given = guests.credentials(DOCTOR, _LINKS, host=True)
    assert given is not None
    complete = guests.with_token(given, {"accessToken": "eyJ-token", "expiresIn": 64799})
    assert complete is not None
    wanted = guests.read(_body(), now=NOW)
    shown = f"{given!r} {complete!r} {DOCTOR!r} {wanted!r} {given.__rich_repr__()} {wanted.__rich_repr__()}"

    assert complete.expires_in == 64799
    assert not any(word in shown for word in ("http", "eyJ", "doctor", "Ada", "patient", "Consultation"))
    assert guests.with_token(given, {"id": "no token"}) is None
