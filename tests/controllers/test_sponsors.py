"""One sponsor for each organisation and assignment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.controllers import guests
from service.controllers.guests import OutcomeUnknown, Sponsored
from service.controllers.ledger import Place
from service.controllers.sponsors import Sponsors
from service.core.errors import NotOwner, WebexUnavailable, WritesStopped
from service.core.guests import Refused
from tests.fakes import FakeGuestToGuest, FakeTenant, FakeWebex

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FIRST, SECOND = Place("first", 0, 1), Place("second", 1, 1)


class _Tenant(FakeTenant):
    """An organisation with a Service App."""

    def __init__(self, webex: FakeGuestToGuest) -> None:
        super().__init__(FakeWebex(series="5" * 32))
        self._sponsoring = webex

    @property
    def sponsoring(self) -> Any:
        return self._sponsoring


@pytest.fixture
def webex() -> dict[str, FakeGuestToGuest]:
    """Two organisations."""
    return {"first": FakeGuestToGuest(NOW), "second": FakeGuestToGuest(NOW)}


@pytest.fixture
def sponsors(webex: dict[str, FakeGuestToGuest]) -> Sponsors:
    """Each with a licence for one meeting."""
    one = webex["first"]
    return Sponsors(
        tenants={key: _Tenant(each) for key, each in webex.items()},
        licence=1,
        clock=guests.Clock(now=one.now, sleep=one.sleep),
        patience=guests.Patience(look=(0.0,)),
    )


def _allowed() -> None:
    pass


def _not_ours() -> None:
    raise NotOwner("somebody else's now")


def _paused() -> None:
    raise WritesStopped("paused")


def _body() -> dict[str, Any]:
    start = NOW + timedelta(minutes=30)
    return {
        "meeting": {
            "title": "Consultation",
            "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{start + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}",
        },
        "host": {"email": "doctor@example.org", "displayName": "Dr. Ada"},
        "guests": [{"email": "patient@example.net", "displayName": "Bea"}],
    }


async def test_each_organisation_has_a_licence_of_its_own(sponsors: Sponsors) -> None:
    """A full one does not hold up the other."""
    first = await sponsors.sponsor(FIRST, _body(), key="1", check=_allowed)
    full = await sponsors.sponsor(FIRST, _body(), key="2", check=_allowed)
    second = await sponsors.sponsor(SECOND, _body(), key="3", check=_allowed)

    assert isinstance(first, Sponsored)
    assert isinstance(full, Refused)
    assert full.reason == "licenceFull"
    assert isinstance(second, Sponsored)


@pytest.mark.parametrize("check", [_not_ours, _paused])
async def test_nothing_is_made_without_the_right_to(
    sponsors: Sponsors, webex: dict[str, FakeGuestToGuest], check: Any
) -> None:
    """It is asked for at the moment of the call; the place is free again."""
    with pytest.raises(WebexUnavailable, match="not sent"):
        await sponsors.sponsor(FIRST, _body(), key="1", check=check)

    assert webex["first"].made("create_meeting") == []


async def test_what_was_made_is_found_and_only_that(sponsors: Sponsors, webex: dict[str, FakeGuestToGuest]) -> None:
    """By the key and the meeting; looking makes nothing."""
    before = await sponsors.found(FIRST, _body(), key="1", check=_allowed)
    webex["first"].failures["create_meeting"] = [WebexUnavailable("cut", maybe_done=True)]
    webex["first"].lagging = True
    lost = await sponsors.sponsor(FIRST, _body(), key="1", check=_allowed)
    webex["first"].lagging = False

    assert not before
    assert isinstance(lost, OutcomeUnknown)
    assert await sponsors.found(FIRST, _body(), key="1", check=_allowed)
    assert not await sponsors.found(FIRST, _body(), key="2", check=_allowed)
    assert not await sponsors.found(FIRST, {"meeting": {}}, key="1", check=_allowed)
    assert len(webex["first"].made("create_meeting")) == 1


async def test_webhooks_and_the_reconcile_keep_the_licence_right(
    sponsors: Sponsors, webex: dict[str, FakeGuestToGuest]
) -> None:
    """A meeting that runs counts until it is heard, or seen, to have ended. Other organisations are not asked."""
    await sponsors.sponsor(FIRST, _body(), key="1", check=_allowed)
    started = webex["first"].start(f"{1:032x}")
    sponsors.heard(FIRST, "webex.meeting.started.v1", started["id"], "app@example.com")
    sponsors.heard(FIRST, "webex.meeting.updated.v1", "x", "")
    sponsors.heard(SECOND, "webex.meeting.started.v1", "y_I_1", "")
    running = sponsors._sponsors[FIRST].in_progress
    webex["first"].end(started)
    await sponsors.reconcile()

    assert running == {started["id"]}
    assert sponsors._sponsors[FIRST].in_progress == frozenset()
    assert webex["second"].calls == []


async def test_a_reconcile_that_fails_keeps_the_others_going(
    sponsors: Sponsors, webex: dict[str, FakeGuestToGuest]
) -> None:
    """Webex is away for one organisation only."""
    for place in (FIRST, SECOND):
        await sponsors.sponsor(place, _body(), key="1", check=_allowed)
    webex["first"].failures["list_meetings"] = [WebexUnavailable("away", status=503)]
    calls = len(webex["second"].calls)
    await sponsors.reconcile()

    assert len(webex["second"].calls) == calls + 1


async def test_a_partition_that_went_takes_its_sponsor_along(sponsors: Sponsors) -> None:
    """The next owner looks for itself."""
    for place in (FIRST, SECOND):
        await sponsors.sponsor(place, _body(), key="1", check=_allowed)
    sponsors.forget(0)

    assert set(sponsors._sponsors) == {SECOND}
