from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.core.errors import WebexNotFound, WebexRejected
from service.webex.api import WebexApi
from service.webex.registrants import NARROWEST, WINDOW, to_registrants, windows_back, windows_since
from tests.webex.wire import BASE, answered_by

NOW = datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)
SERIES = "560d7b784f5143e3be2fc3064a5c4999"
LIST = f"/v1/meetings/{SERIES}/registrants"


class Meeting:
    """Webex's list of registrants: seven days and ten people by default, 90 days and 100 at most, newest first."""

    def __init__(self, registered: list[datetime], *, link: str = "none") -> None:
        self.people = [
            {"id": f"p{n}", "status": "pending", "email": f"p{n}@example.com", "registrationTime": moment.isoformat()}
            for n, moment in enumerate(registered)
        ]
        self.queries: list[dict[str, str]] = []
        self._link = link

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        self.queries.append(query)
        end = _moment(query, "registrationTimeTo") or NOW
        start = _moment(query, "registrationTimeFrom") or end - timedelta(days=7)
        size, skip = int(query.get("max", "10")), int(query.get("cursor", "0"))
        if end - start > WINDOW or size > 100:
            return httpx.Response(400)
        inside = [p for p in self.people if start <= datetime.fromisoformat(p["registrationTime"]) < end]
        inside.sort(key=lambda person: person["registrationTime"], reverse=True)
        return httpx.Response(
            200, json={"items": inside[skip : skip + size]}, headers=self._next(len(inside), skip, size)
        )

    def _next(self, total: int, skip: int, size: int) -> dict[str, str]:
        where = {
            "lossy": f"https://webex.example{LIST}?cursor={skip + size}&max=null",
            "circular": f"https://webex.example{LIST}?other={skip}",
            "elsewhere": f"https://evil.example{LIST}?cursor={skip + size}",
        }.get(self._link)
        return {"Link": f'<{where}>; rel="next"'} if where and skip + size < total else {}


def _moment(query: dict[str, str], name: str) -> datetime | None:
    if name not in query:
        return None
    assert query[name].endswith("Z")
    return datetime.fromisoformat(query[name])


async def listed(meeting: Meeting, since: datetime | None, host_email: str = "") -> list[str]:
    async with answered_by(meeting) as client:
        found = await WebexApi(client).list_registrants(SERIES, since=since, now=NOW, host_email=host_email)
    return [registrant.id for registrant in found]


def ago(**spans: float) -> datetime:
    return NOW - timedelta(**spans)


@pytest.mark.parametrize("link", ["none", "lossy", "circular", "elsewhere"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250, 1000])
async def test_everyone_is_found_whatever_links_there_are(link: str, count: int) -> None:
    """With proper, lossy, circular, foreign or no links, each registrant of the window is found once."""
    meeting = Meeting([ago(minutes=n) for n in range(count)], link=link)
    found = await listed(meeting, None)
    assert sorted(found) == sorted(f"p{n}" for n in range(count))
    assert len(meeting.queries) <= {"lossy": 4 + count // 100}.get(link, 4 + count // 10)


async def test_an_incremental_look_is_one_call_for_one_newcomer() -> None:
    """Ten thousand old ones cost nothing."""
    meeting = Meeting([ago(days=30, seconds=n) for n in range(2000)] + [ago(minutes=3)])
    assert await listed(meeting, ago(minutes=20), "host@example.com") == ["p2000"]
    assert meeting.queries == [
        {
            "max": "100",
            "registrationTimeFrom": "2026-03-01T11:40:00Z",
            "registrationTimeTo": "2026-03-01T12:00:01Z",
            "hostEmail": "host@example.com",
        }
    ]


async def test_a_full_look_goes_back_to_an_empty_window() -> None:
    """Newest first, until 90 days hold nobody."""
    meeting = Meeting([ago(days=1), ago(days=100), ago(days=300)])
    assert await listed(meeting, None) == ["p0", "p1"]
    assert len(meeting.queries) == 3


async def test_a_full_look_goes_back_four_windows_at_most() -> None:
    """Even where every window holds somebody."""
    meeting = Meeting([ago(days=80 * n) for n in range(8)])
    assert await listed(meeting, None) == ["p0", "p1", "p2", "p3", "p4"]
    assert len(meeting.queries) == 4


async def test_a_long_absence_is_walked_through_empty_windows_too() -> None:
    """From a given time on, every window is looked at."""
    meeting = Meeting([ago(days=1), ago(days=399)])
    assert sorted(await listed(meeting, ago(days=400))) == ["p0", "p1"]
    assert len(meeting.queries) == 5


async def test_those_of_this_very_second_are_included() -> None:
    """The end of an interval is exclusive, so it lies after the present second."""
    assert await listed(Meeting([NOW, NOW.replace(microsecond=999_999)]), ago(minutes=1)) == ["p1", "p0"]


async def test_more_than_a_page_in_one_second_is_told() -> None:
    """What the API cannot show is warned about, once, and the rest is found."""
    meeting = Meeting([ago(hours=1)] * 150 + [ago(hours=2)])
    with capture_logs() as logs:
        found = await listed(meeting, None)
    assert len(found) == 101
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["registrants.window_full"]


async def test_pages_that_never_end_are_given_up() -> None:
    """New people and new links for ever: bounded, and an error instead of half a list."""
    calls = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        link = f'<https://webex.example{LIST}?cursor={calls}>; rel="next"'
        return httpx.Response(200, json={"items": [{"id": f"p{calls}"}]}, headers={"Link": link})

    async with answered_by(handler) as client:
        with pytest.raises(WebexRejected):
            await WebexApi(client).list_registrants(SERIES, since=None, now=NOW)
    assert calls == 1000


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.timedeltas(timedelta(0), timedelta(days=1000)),
    st.lists(st.floats(-0.5, 1.5)),
)
def test_windows_cover_everything_and_none_is_too_long(since: datetime, span: timedelta, known: list[float]) -> None:
    """Side by side, in whole seconds, from the first moment to the last, each within 90 days, however they are divided."""
    windows = list(windows_since(since, since + span))
    assert windows[0].start <= since
    assert windows[-1].end > since + span
    assert all(one.end == other.start for one, other in itertools.pairwise(windows))
    assert all(timedelta(0) < window.end - window.start <= WINDOW for window in windows)
    part = windows[-1]
    moments = [part.start + (part.end - part.start) * share for share in known]
    while part.end - part.start > NARROWEST:
        early, late = part.parts(moments)
        assert (early.start, early.end, late.end) == (part.start, late.start, part.end)
        assert early.start < early.end < late.end
        assert early.end.microsecond == 0
        part = early


def test_a_full_walk_has_four_adjacent_windows() -> None:
    """Newest first, the first one ending after this second."""
    windows = list(windows_back(NOW))
    assert windows[0].end == datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)
    assert [window.end - window.start for window in windows] == [WINDOW] * 4
    assert all(one.start == other.end for one, other in itertools.pairwise(windows))


@pytest.mark.parametrize(
    ("item", "status", "email", "registered"),
    [
        pytest.param(
            {"id": "1", "status": "pending", "email": "a@b.c", "registrationTime": "2021-09-07T09:29:13+08:00"},
            "pending",
            "a@b.c",
            datetime(2021, 9, 7, 1, 29, 13, tzinfo=UTC),
            id="an offset",
        ),
        pytest.param(
            {"id": "1", "registrationTime": "2021-09-07T09:29:13.5Z", "status": "new", "x": 1},
            "new",
            "",
            datetime(2021, 9, 7, 9, 29, 13, 500_000, tzinfo=UTC),
            id="Z, an unknown status, an unknown field",
        ),
        pytest.param({"id": "1", "registrationTime": "2021-09-07T09:29:13"}, "", "", None, id="no offset"),
        pytest.param({"id": "1", "registrationTime": "0001-01-01T00:00:00+14:00"}, "", "", None, id="out of range"),
        pytest.param({"id": "1", "registrationTime": 7, "status": None, "email": []}, "", "", None, id="other types"),
        pytest.param({"id": "1"}, "", "", None, id="bare"),
    ],
)
def test_a_registrant_is_read_tolerantly(
    item: dict[str, object], status: str, email: str, registered: datetime | None
) -> None:
    """Only the id is required; everything that Webex said is kept."""
    (registrant,) = to_registrants({"items": [item]}, "x")
    assert (registrant.status, registrant.email, registrant.registered) == (status, email, registered)
    assert registrant.fields == item


@pytest.mark.parametrize(
    "value", [None, [], {}, "x", {"items": None}, {"items": {}}, {"items": [7]}, {"items": [{"id": ""}]}]
)
async def test_an_answer_without_a_list_is_not_an_empty_list(value: object) -> None:
    """Nobody may vanish because an answer was not understood."""
    async with answered_by(lambda _: httpx.Response(200, content=msgspec.json.encode(value))) as client:
        with pytest.raises(WebexRejected):
            await WebexApi(client).list_registrants(SERIES, since=None, now=NOW)
        with pytest.raises(WebexRejected):
            await WebexApi(client).query_registrants(SERIES, ["a@example.com"])


async def test_a_query_asks_for_a_hundred_addresses_at_a_time() -> None:
    """Each address once, in calls of a hundred with the page size given; nothing asked, nothing sent."""
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        emails = msgspec.json.decode(request.content)["emails"]
        return httpx.Response(200, json={"items": [{"id": email, "email": email} for email in emails]})

    wanted = [f"p{n}@example.com" for n in range(250)]
    async with answered_by(handler) as client:
        found = await WebexApi(client).query_registrants(SERIES, wanted + wanted[:5], host_email="h@example.com")
        assert await WebexApi(client).query_registrants(SERIES, []) == []
    assert [registrant.email for registrant in found] == wanted
    assert [len(msgspec.json.decode(request.content)["emails"]) for request in requests] == [100, 100, 50]
    assert {str(request.url) for request in requests} == {
        f"{BASE}/meetings/{SERIES}/registrants/query?max=100&hostEmail=h%40example.com"
    }


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize("send_email", [True, False])
async def test_a_change_is_one_call_that_says_whether_to_mail(verb: str, *, send_email: bool) -> None:
    """The bytes on the wire, ``sendEmail`` always among them."""
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(204)

    async with answered_by(handler) as client:
        await WebexApi(client).change_status(
            SERIES, verb, ["a", "b"], send_email=send_email, host_email="h@example.com"
        )
    (request,) = requests
    assert (request.method, str(request.url)) == (
        "POST",
        f"{BASE}/meetings/{SERIES}/registrants/{verb}?hostEmail=h%40example.com",
    )
    assert msgspec.json.decode(request.content) == {"sendEmail": send_email, "registrants": [{"id": "a"}, {"id": "b"}]}


@pytest.mark.parametrize(
    ("verb", "count"), [("approve", 101), ("approve", 0), ("cancel", 1), ("bulkDelete", 1), ("../approve", 1)]
)
async def test_a_change_that_can_never_be_right_is_not_sent(verb: str, count: int) -> None:
    """Other verbs, nobody, or more than a hundred: the caller's mistake."""
    async with answered_by(lambda _: httpx.Response(500)) as client:
        with pytest.raises(ValueError, match=r"verb|ids"):
            await WebexApi(client).change_status(SERIES, verb, ["x"] * count, send_email=False)


async def test_a_meeting_is_read_whole() -> None:
    """All fields by Webex's names; the host's address goes to the query where it is known."""
    fields = {"id": SERIES, "title": "Demo", "hostEmail": "h@example.com", "registration": {"autoAcceptRequest": False}}
    urls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return httpx.Response(200, json=fields)

    async with answered_by(handler) as client:
        meeting = await WebexApi(client).get_meeting(SERIES)
        await WebexApi(client).get_meeting(SERIES, host_email="h@example.com")
    assert (meeting.id, meeting.title, meeting.fields) == (SERIES, "Demo", fields)
    assert meeting.has_registration
    assert urls == [f"{BASE}/meetings/{SERIES}", f"{BASE}/meetings/{SERIES}?hostEmail=h%40example.com"]


@pytest.mark.parametrize("value", [None, [], {}, {"id": 7}, "x"])
async def test_an_answer_without_an_id_is_no_meeting(value: object) -> None:
    """It is refused, not guessed at."""
    async with answered_by(lambda _: httpx.Response(200, content=msgspec.json.encode(value))) as client:
        with pytest.raises(WebexRejected):
            await WebexApi(client).get_meeting(SERIES)


async def test_a_meeting_that_is_not_there_is_looked_for_again() -> None:
    """404 has its own class, on every operation."""
    async with answered_by(lambda _: httpx.Response(404)) as client:
        api = WebexApi(client)
        for call in (api.get_meeting(SERIES), api.list_registrants(SERIES, since=None, now=NOW)):
            with pytest.raises(WebexNotFound):
                await call


@pytest.mark.parametrize("value", ["../people/me", "a?x=", "a#", "%2e%2e", "a\r\nHost: evil", "x" * 10_240, "..", ""])
async def test_an_id_steers_no_operation(value: str) -> None:
    """Each operation keeps to its own path, or refuses the id."""
    paths: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path.partition(b"?")[0])
        return httpx.Response(404)

    async with answered_by(handler) as client:
        api = WebexApi(client)
        for call in (
            api.get_meeting(value),
            api.list_registrants(value, since=None, now=NOW),
            api.query_registrants(value, ["a@example.com"]),
            api.change_status(value, "approve", ["1"], send_email=False),
        ):
            with pytest.raises((WebexNotFound, WebexRejected)):
                await call
    ends = [b"", b"/registrants", b"/registrants/query", b"/registrants/approve"]
    for path, end in zip(paths, ends, strict=False):
        assert path.startswith(b"/v1/meetings/")
        assert b"/" not in path.removeprefix(b"/v1/meetings/").removesuffix(end)
    assert len(paths) in (0, 4)
