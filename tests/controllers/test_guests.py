from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import structlog

from service.controllers.guests import Clock, OutcomeUnknown, Patience, Result, Sponsor, Sponsored, Unfinished
from service.core.errors import WebexError, WebexRejected, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.core.guests import Refused
from tests.fakes import FakeGuestToGuest

NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)


@pytest.fixture
def webex() -> FakeGuestToGuest:
    """Webex with nothing in it."""
    return FakeGuestToGuest(NOW)


def _sponsor(webex: FakeGuestToGuest, *, licence: int = 2) -> Sponsor:
    return Sponsor(webex, licence=licence, clock=Clock(now=webex.now, sleep=webex.sleep))


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _body(*, begins: timedelta = timedelta(hours=1), guests: int = 1, **more: Any) -> dict[str, Any]:
    start = NOW + begins
    return {
        "meeting": {"title": "Consultation", "start": _text(start), "end": _text(start + timedelta(minutes=30))},
        "host": {"email": "doctor@example.org", "displayName": "Dr. Ada"},
        "guests": [{"email": f"p{n}@example.net", "displayName": f"Patient {n}"} for n in range(guests)],
        **more,
    }


def _lost() -> WebexError:
    return WebexUnavailable("meetings.create: no answer", maybe_done=True)


def _sponsored(result: Result) -> Sponsored:
    assert isinstance(result, Sponsored), result
    return result


# --- what everybody gets ----------------------------------------------------------------------------------------------


async def test_a_doctor_and_a_patient_get_their_links(webex: FakeGuestToGuest) -> None:
    """One meeting is made; the host alone gets a start link, everybody a link and a token of their own."""
    result = _sponsored(await _sponsor(webex).sponsor(_body(guests=2, tokens=True, expirationMinutes=20), key="a"))
    people = (result.host, *result.guests)

    assert len(webex.made("create_meeting")) == 1
    assert result.meeting_id in webex.meetings
    assert [person.start_link is not None for person in people] == [True, False, False]
    assert len({person.join_link for person in people}) == len({person.access_token for person in people}) == 3
    assert [person.email for person in people] == ["doctor@example.org", "p0@example.net", "p1@example.net"]
    assert {body["expirationMinutes"] for body in webex.made("join_meeting")} == {20}
    assert not any(body["joinDirectly"] for body in webex.made("join_meeting"))


async def test_no_token_is_made_unless_it_is_asked_for(webex: FakeGuestToGuest) -> None:
    """Tokens need a scope of their own."""
    result = _sponsored(await _sponsor(webex).sponsor(_body(), key="a"))

    assert webex.made("create_guest") == []
    assert result.host.access_token is None


async def test_links_that_end_before_the_meeting_are_told(webex: FakeGuestToGuest) -> None:
    """Links last an hour at most; nearer to the meeting, the same key gives new ones for the same meeting."""
    sponsor, body = _sponsor(webex), _body(begins=timedelta(days=1))
    early = _sponsored(await sponsor.sponsor(body, key="a"))
    webex.time = NOW + timedelta(hours=23, minutes=30)
    again = _sponsored(await _sponsor(webex).sponsor(body, key="a"))

    assert (early.expire_before_start, again.expire_before_start) == (True, False)
    assert (early.existed, again.existed) == (False, True)
    assert early.meeting_id == again.meeting_id
    assert early.host.start_link != again.host.start_link
    assert len(webex.meetings) == 1


async def test_links_can_be_had_while_the_meeting_runs(webex: FakeGuestToGuest) -> None:
    """A meeting that has begun is not made any more, but the key of one that was made gives new links until its end."""
    body = _body(begins=timedelta(minutes=5))
    made = _sponsored(await _sponsor(webex).sponsor(body, key="a"))
    webex.time = NOW + timedelta(minutes=20)
    again = _sponsored(await _sponsor(webex).sponsor(body, key="a"))
    late = await _sponsor(webex).sponsor(body, key="b")

    assert again.meeting_id == made.meeting_id
    assert isinstance(late, Refused)
    assert (late.reason, late.message) == ("invalidBody", "meeting.start: is in the past")
    assert len(webex.made("create_meeting")) == 1


async def test_what_cannot_be_right_never_reaches_webex(webex: FakeGuestToGuest) -> None:
    """A bad body is refused without a single call."""
    result = await _sponsor(webex).sponsor({**_body(), "guests": []}, key="a")

    assert isinstance(result, Refused)
    assert result.reason == "invalidBody"
    assert webex.calls == []


async def test_nothing_secret_or_personal_is_shown_or_logged(webex: FakeGuestToGuest) -> None:
    """Neither the repr of a result nor a log line holds a link, token, address, name or title; the encoded result has them."""
    webex.failures["create_guest"] = [None, WebexRejected("guests.create: Webex answered 400", status=400)]
    with structlog.testing.capture_logs() as lines:
        sponsor = _sponsor(webex)
        results = [await sponsor.sponsor(_body(tokens=True), key=key) for key in ("a", "b", "c")]
    shown = repr(results) + repr(lines)

    assert [type(result) for result in results] == [Unfinished, Sponsored, Refused]
    assert [line["event"] for line in lines] == ["guests.unfinished", "guests.sponsored", "guests.refused"]
    assert not any(word in shown for word in ("https", "token-", "@", "Ada", "Patient", "Consultation"))
    assert msgspec.to_builtins(results[1])["host"]["startLink"].startswith("https://")


# --- the licence ------------------------------------------------------------------------------------------------------


async def test_the_third_at_the_same_time_is_refused_and_one_for_tomorrow_is_not(webex: FakeGuestToGuest) -> None:
    """With a licence of two; each comes from a process of its own, which knows nothing but what Webex lists."""
    results = [await _sponsor(webex).sponsor(_body(), key=f"today {n}") for n in range(3)]
    tomorrow = await _sponsor(webex).sponsor(_body(begins=timedelta(days=1)), key="tomorrow")

    assert [type(result) for result in results] == [Sponsored, Sponsored, Refused]
    refused = results[2]
    assert isinstance(refused, Refused)
    assert refused.reason == "licenceFull"
    assert refused.free_at == NOW + timedelta(minutes=90)
    assert isinstance(tomorrow, Sponsored)
    assert len(webex.meetings) == 3


async def test_two_who_ask_at_once_never_get_the_last_place(webex: FakeGuestToGuest) -> None:
    """Looking and reserving are one step, also while Webex does not list what it has made."""
    webex.lagging = True
    sponsor = _sponsor(webex, licence=3)
    results = await asyncio.gather(*(sponsor.sponsor(_body(), key=f"key {n}") for n in range(8)))

    assert sum(isinstance(result, Sponsored) for result in results) == 3
    assert sum(isinstance(result, Refused) for result in results) == 5


async def test_a_running_meeting_takes_a_place_beyond_its_end(webex: FakeGuestToGuest) -> None:
    """As long as the instance is in progress its place is taken; once it has ended it is free again."""
    sponsor = _sponsor(webex, licence=1)
    made = _sponsored(await sponsor.sponsor(_body(begins=timedelta(0)), key="a"))
    started = webex.start(made.meeting_id)
    sponsor.heard("started", started)
    webex.time = NOW + timedelta(minutes=45)
    full = await sponsor.sponsor(_body(begins=timedelta(minutes=50)), key="b")
    sponsor.heard("ended", webex.end(started))
    free = await sponsor.sponsor(_body(begins=timedelta(minutes=50)), key="b")

    assert isinstance(full, Refused)
    assert sponsor.in_progress == frozenset()
    assert isinstance(free, Sponsored)


async def test_replayed_webhooks_change_nothing(webex: FakeGuestToGuest) -> None:
    """started, started, ended, ended, started: the set has the instance once, then not, and it stays away."""
    sponsor = _sponsor(webex)
    started = webex.start("0" * 32)
    sets = []
    for event in ("started", "started", "ended", "ended", "started", "updated"):
        sponsor.heard(event, webex.end(started) if event == "ended" else started)
        sets.append(len(sponsor.in_progress))

    assert sets == [1, 1, 0, 0, 0, 0]


async def test_a_lost_end_is_healed(webex: FakeGuestToGuest) -> None:
    """The reconcile sees that an instance has ended of which no ``ended`` was heard, and a replayed ``started`` is no news."""
    sponsor = _sponsor(webex)
    made = _sponsored(await sponsor.sponsor(_body(), key="a"))
    started = webex.start(made.meeting_id)
    sponsor.heard("started", started)
    await sponsor.reconcile()
    before = sponsor.in_progress
    webex.end(started)
    await sponsor.reconcile()
    sponsor.heard("started", started)

    assert before == {started["id"]}
    assert sponsor.in_progress == frozenset()


async def test_a_lost_start_is_healed(webex: FakeGuestToGuest) -> None:
    """What Webex lists as in progress counts, whoever made the meeting."""
    sponsor = _sponsor(webex, licence=1)
    webex.start("f" * 32)
    result = await sponsor.sponsor(_body(begins=timedelta(minutes=5)), key="a")

    assert isinstance(result, Refused)


async def test_an_instance_that_webex_does_not_show_yet_stays(webex: FakeGuestToGuest) -> None:
    """Absence is no proof: only a 404 after 15 minutes is."""
    sponsor = _sponsor(webex)
    made = _sponsored(await sponsor.sponsor(_body(), key="a"))
    sponsor.heard("started", {"id": f"{made.meeting_id}_I_1", "hostEmail": "App@Example.com"})
    counts = []
    for minutes in (1, 14, 15):
        webex.time = NOW + timedelta(minutes=minutes)
        await sponsor.reconcile()
        counts.append(len(sponsor.in_progress))

    assert counts == [1, 1, 0]


async def test_a_doubt_that_webex_does_not_answer_stays(webex: FakeGuestToGuest) -> None:
    """An error is no proof, and does not stop the others from being sponsored."""
    sponsor = _sponsor(webex)
    made = _sponsored(await sponsor.sponsor(_body(), key="a"))
    sponsor.heard("started", {"id": f"{made.meeting_id}_I_1", "hostEmail": "app@example.com"})
    webex.failures["show_meeting"] = [WebexUnavailable("meetings.get: Webex answered 503", status=503)]
    webex.time = NOW + timedelta(minutes=30)
    result = await sponsor.sponsor(_body(begins=timedelta(days=1)), key="b")

    assert isinstance(result, Sponsored)
    assert len(sponsor.in_progress) == 1


async def test_meetings_of_other_hosts_do_not_count(webex: FakeGuestToGuest) -> None:
    """Webhooks of the whole organisation tell of everybody's meetings, but only those of the Service App use its licence."""
    sponsor = _sponsor(webex, licence=2)
    await sponsor.sponsor(_body(begins=timedelta(days=2)), key="a")
    for n in range(3):
        sponsor.heard("started", {"id": f"{n:032x}_I_1", "hostEmail": "somebody@example.com"})
    result = await sponsor.sponsor(_body(begins=timedelta(minutes=1)), key="b")

    assert isinstance(result, Sponsored)
    assert webex.made("show_meeting") == []


async def test_an_administrator_who_sees_everybody_is_not_refused_for_them(webex: FakeGuestToGuest) -> None:
    """With such a token Webex lists the instances of all hosts; none of them is known to be ours."""
    for n in range(3):
        webex.instances[webex.start(f"{n:032x}")["id"]]["hostEmail"] = f"host{n}@example.com"

    assert isinstance(await _sponsor(webex, licence=1).sponsor(_body(begins=timedelta(minutes=1)), key="a"), Sponsored)


async def test_waiting_holds_nobody_up(webex: FakeGuestToGuest) -> None:
    """One waits for a place that becomes free; another one, for tomorrow, passes it meanwhile."""
    sponsor = _sponsor(webex, licence=1)
    first = _sponsored(await sponsor.sponsor(_body(), key="a"))
    waiting = asyncio.create_task(sponsor.sponsor(_body(), key="b", wait=600))
    tomorrow = await sponsor.sponsor(_body(begins=timedelta(days=1)), key="c")
    passed = not waiting.done()
    del webex.meetings[first.meeting_id]

    assert isinstance(tomorrow, Sponsored)
    assert passed
    assert isinstance(await waiting, Sponsored)


async def test_waiting_ends(webex: FakeGuestToGuest) -> None:
    """After as long as was allowed, and never beyond the minute of the start, it is refused with the reason."""
    sponsor = _sponsor(webex, licence=1)
    await sponsor.sponsor(_body(begins=timedelta(minutes=2)), key="a")
    soon = await sponsor.sponsor(_body(begins=timedelta(minutes=2)), key="b", wait=40)
    after = webex.time
    late = await sponsor.sponsor(_body(begins=timedelta(minutes=2)), key="b", wait=3600)

    assert isinstance(soon, Refused)
    assert after == NOW + timedelta(seconds=40)
    assert isinstance(late, Refused)
    assert webex.time < NOW + timedelta(minutes=3, seconds=Patience().poll)


# --- once -------------------------------------------------------------------------------------------------------------


async def test_a_lost_answer_never_makes_a_second_meeting(webex: FakeGuestToGuest) -> None:
    """The meeting was made and the answer lost: it is found by its tag, and everybody gets links for it."""
    webex.failures["create_meeting"] = [_lost()]
    result = _sponsored(await _sponsor(webex).sponsor(_body(), key="a"))

    assert len(webex.made("create_meeting")) == len(webex.meetings) == 1
    assert result.meeting_id in webex.meetings


async def test_a_look_that_fails_is_followed_by_another(webex: FakeGuestToGuest) -> None:
    """Webex is away for a moment after the answer was lost."""
    webex.failures["create_meeting"] = [_lost()]
    webex.failures["list_meetings"] = [None, None, WebexUnavailable("meetings.list: Webex answered 503", status=503)]
    result = await _sponsor(webex).sponsor(_body(), key="a")

    assert isinstance(result, Sponsored)


async def test_an_answer_without_an_id_is_no_answer(webex: FakeGuestToGuest) -> None:
    """A 200 that cannot be read may have made the meeting: it is looked for."""
    webex.failures["create_meeting"] = [WebexRejected("meetings.create: cannot be read", status=200, maybe_done=True)]
    result = await _sponsor(webex).sponsor(_body(), key="a")

    assert isinstance(result, Sponsored)
    assert len(webex.meetings) == 1


async def test_what_stays_unknown_is_said(webex: FakeGuestToGuest) -> None:
    """Where Webex shows nothing, nothing is repeated, its place stays taken, and the same key finds the meeting later."""
    webex.failures["create_meeting"] = [_lost()]
    webex.lagging = True
    sponsor = _sponsor(webex, licence=1)
    first = await sponsor.sponsor(_body(), key="a")
    again = await sponsor.sponsor(_body(), key="a")
    other = await sponsor.sponsor(_body(), key="b")
    webex.lagging = False
    found = _sponsored(await sponsor.sponsor(_body(), key="a"))

    assert isinstance(first, OutcomeUnknown)
    assert first.retry_at == NOW + timedelta(minutes=15)
    assert isinstance(again, OutcomeUnknown)
    assert isinstance(other, Refused)
    assert found.existed
    assert len(webex.made("create_meeting")) == len(webex.meetings) == 1


async def test_after_a_quarter_of_an_hour_it_may_be_made(webex: FakeGuestToGuest) -> None:
    """By then Webex shows what it has made; what it does not show was never made."""
    webex.failures["create_meeting"] = [_lost()]
    sponsor = Sponsor(webex, licence=1, clock=Clock(now=webex.now, sleep=webex.sleep), patience=Patience(look=()))
    unknown = await sponsor.sponsor(_body(), key="a")
    webex.meetings.clear()
    webex.time = NOW + timedelta(minutes=15)
    result = await sponsor.sponsor(_body(), key="a")

    assert isinstance(unknown, OutcomeUnknown)
    assert isinstance(result, Sponsored)
    assert len(webex.meetings) == 1


async def test_the_same_key_at_the_same_time_makes_one_meeting(webex: FakeGuestToGuest) -> None:
    """Everybody who asks gets links for it."""
    webex.lagging = True
    sponsor = _sponsor(webex)
    results = [_sponsored(one) for one in await asyncio.gather(*(sponsor.sponsor(_body(), key="a") for _ in range(5)))]

    assert len(webex.meetings) == len({result.meeting_id for result in results}) == 1


@pytest.mark.parametrize("lagging", [False, True], ids=["listed", "not listed yet"])
async def test_a_key_belongs_to_one_meeting(webex: FakeGuestToGuest, lagging: bool) -> None:
    """The same key for another meeting is a mistake; for other people in the same meeting it is not."""
    webex.lagging = lagging
    sponsor = _sponsor(webex)
    await sponsor.sponsor(_body(), key="a")
    other = await sponsor.sponsor(_body(begins=timedelta(hours=2)), key="a")
    more = await sponsor.sponsor(_body(guests=3), key="a")

    assert isinstance(other, Refused)
    assert other.reason == "keyReused"
    assert len(_sponsored(more).guests) == 3
    assert len(webex.meetings) == 1


async def test_a_meeting_that_is_over_gives_no_links(webex: FakeGuestToGuest) -> None:
    """The key finds it, and says so."""
    made = _sponsored(await _sponsor(webex).sponsor(_body(), key="a"))
    webex.meetings[made.meeting_id]["state"] = "expired"
    result = await _sponsor(webex).sponsor(_body(), key="a")

    assert isinstance(result, Refused)
    assert result.reason == "meetingOver"


@pytest.mark.parametrize(
    "error",
    [
        WebexRejected("meetings.create: Webex answered 400", status=400),
        WebexUnauthorized("meetings.create: Webex answered 403", status=403),
        WebexThrottled("meetings.create: Webex answered 429", status=429, retry_after=30),
        WebexUnavailable("meetings.create: not connected"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_webex_refuses_is_raised_and_keeps_no_place(webex: FakeGuestToGuest, error: WebexError) -> None:
    """Nothing was made, so the caller sees Webex's error, and the place is free for the next one."""
    webex.failures["create_meeting"] = [error]
    sponsor = _sponsor(webex, licence=1)
    with pytest.raises(type(error)):
        await sponsor.sponsor(_body(), key="a")

    assert isinstance(await sponsor.sponsor(_body(), key="b"), Sponsored)


async def test_a_meeting_that_somebody_deleted_makes_room_at_once(webex: FakeGuestToGuest) -> None:
    """What was listed before and is not any more takes no place."""
    sponsor = _sponsor(webex, licence=1)
    made = _sponsored(await sponsor.sponsor(_body(), key="a"))
    full = await sponsor.sponsor(_body(), key="b")
    del webex.meetings[made.meeting_id]
    webex.time += timedelta(seconds=1)
    free = await sponsor.sponsor(_body(), key="b")

    assert isinstance(full, Refused)
    assert isinstance(free, Sponsored)


# --- partly -----------------------------------------------------------------------------------------------------------


async def test_a_link_that_cannot_be_made_leaves_the_meeting_and_says_how_to_go_on(webex: FakeGuestToGuest) -> None:
    """What exists is told and nothing is deleted; the same key makes the missing links."""
    rejected = WebexRejected("meetings.join: Webex answered 400", status=400, tracking_id="ROUTER_1")
    webex.failures["join_meeting"] = [None, rejected]
    partly = await _sponsor(webex).sponsor(_body(guests=2), key="a")
    whole = _sponsored(await _sponsor(webex).sponsor(_body(guests=2), key="a"))

    assert isinstance(partly, Unfinished)
    assert partly.host is not None
    assert [guest.email for guest in partly.guests] == ["p1@example.net"]
    (trouble,) = partly.troubles
    assert (trouble.step, trouble.status, trouble.reaction) == ("guests[0].link", 400, "permanent")
    assert trouble.tracking_id == "ROUTER_1"
    assert whole.meeting_id == partly.meeting_id
    assert len(webex.meetings) == 1


async def test_what_passes_is_tried_again(webex: FakeGuestToGuest) -> None:
    """A link does no harm twice, so it is asked for again; a wait that Webex names is kept."""
    throttled = WebexThrottled("meetings.join: Webex answered 429", status=429, retry_after=20)
    webex.failures["join_meeting"] = [throttled, WebexUnavailable("meetings.join: no answer", maybe_done=True)]
    result = await _sponsor(webex).sponsor(_body(), key="a")

    assert isinstance(result, Sponsored)
    assert webex.time >= NOW + timedelta(seconds=20)


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        pytest.param(WebexUnavailable("guests.create: no answer", maybe_done=True), 1, id="perhaps made"),
        pytest.param(WebexUnavailable("guests.create: not connected"), 3, id="not made"),
        pytest.param(WebexThrottled("guests.create: 429", status=429, retry_after=900), 1, id="too long a wait"),
        pytest.param(WebexUnauthorized("guests.create: 403", status=403), 1, id="scope missing"),
    ],
)
async def test_a_token_is_never_made_twice(webex: FakeGuestToGuest, error: WebexError, tries: int) -> None:
    """A token is valid for hours: where one may exist, no second one is asked for; the links are there all the same."""
    webex.failures["create_guest"] = [error] * 6
    result = await _sponsor(webex).sponsor(_body(tokens=True), key="a")

    assert isinstance(result, Unfinished)
    assert {trouble.step for trouble in result.troubles} == {"host.token", "guests[0].token"}
    assert len(webex.made("create_guest")) == 2 * tries
    assert result.host is not None
    assert result.host.start_link


class _Silent(FakeGuestToGuest):
    """Answers 200, without what was asked for."""

    async def join_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """For the host only."""
        links = dict(await super().join_meeting(body))
        return links if body["email"] == "doctor@example.org" else {"startLink": links["startLink"]}

    async def create_guest(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A guest without a token."""
        return {"id": body["subject"]}


async def test_an_answer_without_a_link_or_token_is_trouble() -> None:
    """A guest whose answer has only a start link gets nothing, rather than the host's link."""
    result = await _sponsor(_Silent(NOW)).sponsor(_body(tokens=True), key="a")

    assert isinstance(result, Unfinished)
    assert {trouble.step for trouble in result.troubles} == {"host.token", "guests[0].link"}
    assert result.guests == ()
