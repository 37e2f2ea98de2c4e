"""Meetings: which id and which host an operation takes, occurrences, lists, ends and links into them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.sandbox.world import World
from tests.sandbox.simulated import START, Clock, ledger, meeting_body, schedule

WEEKLY = {"recurrence": "FREQ=WEEKLY;COUNT=3", "registration": None}


async def control(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    """A control call that is taken."""
    response = await client.post(f"/sandbox{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def found(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """One list."""
    response = await client.get("/v1/meetings", params=query)
    assert response.status_code == 200, response.text
    return list(response.json()["items"])


# -- ids and hosts -----------------------------------------------------------------------------------------------------

SERIES, OCCURRENCE, INSTANCE, FREE = "series", "occurrence", "instance", "no id"


@pytest.mark.parametrize(
    ("method", "path", "taken"),
    [
        pytest.param("GET", "", {SERIES, OCCURRENCE, INSTANCE}, id="getMeetingById"),
        pytest.param("PATCH", "", {SERIES, OCCURRENCE}, id="patchMeeting"),
        pytest.param("PUT", "", {SERIES, OCCURRENCE}, id="updateMeeting"),
        pytest.param("DELETE", "", {SERIES, OCCURRENCE}, id="deleteMeeting"),
        pytest.param("GET", "/registration", {SERIES}, id="getMeetingRegistration"),
        pytest.param("PUT", "/registration", {SERIES}, id="updateMeetingRegistration"),
        pytest.param("DELETE", "/registration", {SERIES}, id="deleteMeetingRegistration"),
        pytest.param("GET", "/registrants", {SERIES}, id="listMeetingRegistrants"),
    ],
)
@pytest.mark.parametrize("kind", [SERIES, OCCURRENCE, INSTANCE])
async def test_which_id_an_operation_takes(
    client: httpx.AsyncClient, method: str, path: str, taken: set[str], kind: str
) -> None:
    """The kinds of ids that Cisco names are taken; the others are refused with Cisco's sentence."""
    series = await schedule(client)
    instance = (await control(client, f"/meetings/{series}/start"))["id"]
    await control(client, f"/meetings/{series}/end")
    id_ = {SERIES: series, OCCURRENCE: f"{series}_20260111T090000Z", INSTANCE: instance}[kind]
    body: dict[str, Any] = {"json": {}} if method in ("PATCH", "PUT") else {}
    response = await client.request(method, f"/v1/meetings/{id_}{path}", **body)
    if kind in taken:
        assert response.status_code in (200, 204)
    else:
        assert response.status_code == 400
        assert response.json()["message"] == f"Meeting ID '{id_}' is not allowed for this API."


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        pytest.param("GET", "", {"params": {}}, id="getMeetingById: query"),
        pytest.param("PATCH", "", {"json": {}}, id="patchMeeting: body"),
        pytest.param("PUT", "", {"json": {}}, id="updateMeeting: body"),
        pytest.param("DELETE", "", {"params": {}}, id="deleteMeeting: query"),
        pytest.param("GET", "/registration", {"params": {}}, id="getMeetingRegistration: query"),
        pytest.param("PUT", "/registration", {"json": {}}, id="updateMeetingRegistration: body"),
        pytest.param("DELETE", "/registration", {"headers": {}}, id="deleteMeetingRegistration: header"),
        pytest.param("GET", "/registrants", {"params": {}}, id="listMeetingRegistrants: query"),
    ],
)
async def test_somebody_elses_meeting_needs_its_host(
    client: httpx.AsyncClient, method: str, path: str, given: dict[str, Any]
) -> None:
    """A meeting of another host is not found without ``hostEmail``, and found with it in the place where it belongs."""
    series = await schedule(client, hostEmail="other@example.com")
    address = f"/v1/meetings/{series}{path}"
    assert (await client.request(method, address, **given)).status_code == 404
    [place] = given
    named: dict[str, Any] = {place: {**given[place], "hostEmail": "Other@example.com"}}
    assert (await client.request(method, address, **named)).status_code in (200, 204)


async def test_a_host_without_admin_scope_acts_for_nobody_else(client: httpx.AsyncClient) -> None:
    """``hostEmail`` of somebody else with a token without an admin scope gets 403; one's own address does not."""
    scopes = ["meeting:schedules_read", "meeting:schedules_write"]
    issued = await control(client, "/tokens", scopes=scopes, email="ada@example.com")
    headers = {"authorization": f"Bearer {issued['access_token']}"}
    for address, status in (("bea@example.com", 403), ("Ada@example.com", 200)):
        response = await client.get("/v1/meetings", params={"hostEmail": address}, headers=headers)
        assert response.status_code == status


# -- updates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_an_update_keeps_what_it_leaves_out(client: httpx.AsyncClient, method: str) -> None:
    """PUT and PATCH change what is given and nothing else; ``registration`` in them is dropped."""
    series = await schedule(client, agenda="First", integrationTags=["tag"])
    body = {"title": "Other", "registration": {"autoAcceptRequest": True}}
    assert (await client.request(method, f"/v1/meetings/{series}", json=body)).status_code == 200
    meeting = (await client.get(f"/v1/meetings/{series}")).json()
    assert (meeting["title"], meeting["agenda"], meeting["integrationTags"]) == ("Other", "First", ["tag"])
    assert meeting["registration"]["autoAcceptRequest"] is False


@pytest.mark.parametrize(("method", "status"), [("PUT", 400), ("PATCH", 200)])
async def test_null_erases_in_a_patch_alone(client: httpx.AsyncClient, method: str, status: int) -> None:
    """``agenda``: null is taken by PATCH and refused by PUT."""
    series = await schedule(client, agenda="First")
    response = await client.request(method, f"/v1/meetings/{series}", json={"agenda": None})
    assert response.status_code == status


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_nothing_is_updated_while_in_progress(client: httpx.AsyncClient, method: str) -> None:
    """Neither series nor occurrence, in Cisco's words."""
    series = await schedule(client)
    await control(client, f"/meetings/{series}/start")
    for id_ in (series, f"{series}_20260111T090000Z"):
        response = await client.request(method, f"/v1/meetings/{id_}", json={"title": "Other"})
        assert (response.status_code, response.json()["message"]) == (400, "Meeting is in progress.")


async def test_mail_goes_out_unless_it_is_not_wanted(client: httpx.AsyncClient) -> None:
    """``sendEmail`` is true where it is left out, for create, update and delete; the ledger counts."""
    series = await schedule(client)
    await client.patch(f"/v1/meetings/{series}", json={"title": "A"})
    await client.patch(f"/v1/meetings/{series}", json={"title": "B", "sendEmail": False})
    await client.delete(f"/v1/meetings/{series}", params={"sendEmail": "false"})
    effects = (await ledger(client))["meetings"][series]
    counted = {name: effects[name] for name in ("created", "updated", "deleted")}
    assert (counted, effects["outbox"]) == ({"created": 1, "updated": 2, "deleted": 1}, {"created": 1, "updated": 1})


# -- recurring ---------------------------------------------------------------------------------------------------------


async def test_a_recurring_series_has_occurrences(client: httpx.AsyncClient) -> None:
    """Each has an id, a place in the list, and can be changed and deleted by itself."""
    series = await schedule(client, **WEEKLY)
    ids = [f"{series}_2026{day}T090000Z" for day in ("0111", "0118", "0125")]
    everything = {
        "meetingSeriesId": series,
        "meetingType": "scheduledMeeting",
        "to": "2026-03-01",
        "from": "2026-01-01",
    }
    assert [meeting["id"] for meeting in await found(client, **everything)] == ids
    patched = await client.patch(f"/v1/meetings/{ids[1]}", json={"title": "Other"})
    assert (patched.json()["id"], patched.json()["title"]) == (ids[1], "Other")
    assert [m["id"] for m in await found(client, **everything, isModified="true")] == [ids[1]]
    assert (await client.delete(f"/v1/meetings/{ids[0]}")).status_code == 204
    assert (await client.get(f"/v1/meetings/{ids[0]}")).status_code == 404
    assert [meeting["title"] for meeting in await found(client, **everything)] == ["Other", "Partner briefing"]
    current = (await client.get(f"/v1/meetings/{series}", params={"current": "true"})).json()
    assert (current["id"], current["meetingType"]) == (ids[1], "scheduledMeeting")


async def test_a_moved_series_forgets_its_exceptions(client: httpx.AsyncClient) -> None:
    """Changing start or end of the series cancels what was changed for one occurrence."""
    series = await schedule(client, **WEEKLY)
    second = f"{series}_20260118T090000Z"
    await client.patch(f"/v1/meetings/{second}", json={"title": "Other"})
    await client.patch(f"/v1/meetings/{series}", json={"end": "2026-01-11T11:00:00Z"})
    assert (await client.get(f"/v1/meetings/{second}")).json()["isModified"] is False


@pytest.mark.parametrize(
    ("start", "status"),
    [("2026-01-17T09:00:00Z", 200), ("2026-01-26T09:00:00Z", 400), ("2026-01-11T09:30:00Z", 400)],
    ids=["between its neighbours", "after the next", "into the one before"],
)
async def test_an_occurrence_stays_between_its_neighbours(client: httpx.AsyncClient, start: str, status: int) -> None:
    """It cannot be moved across another one."""
    series = await schedule(client, **WEEKLY)
    end = start.replace("T09", "T10")
    body = {"start": start, "end": end}
    assert (await client.patch(f"/v1/meetings/{series}_20260118T090000Z", json=body)).status_code == status


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        pytest.param("FREQ=DAILY;COUNT=3", ["0111", "0112", "0113"], id="daily"),
        pytest.param("FREQ=DAILY;INTERVAL=2;UNTIL=20260115T090000Z", ["0111", "0113", "0115"], id="until"),
        pytest.param("FREQ=WEEKLY;BYDAY=MO,SU;COUNT=3", ["0111", "0112", "0118"], id="days of the week"),
        pytest.param("FREQ=MONTHLY;COUNT=2", ["0111", "0211"], id="monthly"),
        pytest.param("FREQ=YEARLY;COUNT=9", ["0111"], id="yearly, in this list once"),
    ],
)
async def test_rules_of_recurrence(client: httpx.AsyncClient, rule: str, days: list[str]) -> None:
    """The rules of Cisco's examples give the days that one expects."""
    series = await schedule(client, recurrence=rule, registration=None)
    query = {"meetingSeriesId": series, "meetingType": "scheduledMeeting", "from": "2026-01-01", "to": "2026-06-01"}
    assert [m["id"].rpartition("_")[2] for m in await found(client, **query)] == [f"2026{d}T090000Z" for d in days]


@pytest.mark.parametrize("rule", ["daily", "FREQ=HOURLY", "FREQ=DAILY;INTERVAL=0", "FREQ=WEEKLY;BYDAY=XX"])
async def test_what_a_rule_must_be(client: httpx.AsyncClient, rule: str) -> None:
    """Other rules are refused."""
    response = await client.post("/v1/meetings", json=meeting_body(registration=None, recurrence=rule))
    assert response.status_code == 400


# -- lists -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "titles"),
    [
        pytest.param({}, 200, ["A", "B"], id="all"),
        pytest.param({"integrationTag": "tag"}, 200, ["B"], id="tag"),
        pytest.param({"scheduledType": "webinar"}, 200, [], id="type"),
        pytest.param({"siteUrl": "other.webex.com"}, 200, [], id="site"),
        pytest.param({"state": "expired"}, 200, [], id="state"),
        pytest.param({"meetingNumber": "2550000001"}, 200, ["A"], id="number"),
        pytest.param({"meetingNumber": "2550000001", "current": "false"}, 200, ["A"], id="number, the series"),
        pytest.param({"roomId": "room"}, 200, [], id="room"),
        pytest.param({"hostEmail": "nobody@example.com"}, 200, [], id="host"),
        pytest.param({"meetingNumber": "1", "roomId": "room"}, 400, [], id="two that exclude each other"),
        pytest.param({"hasChat": "true"}, 400, [], id="only of ended instances"),
        pytest.param({"hasChat": "true", "meetingType": "meeting", "state": "ended"}, 200, [], id="chats"),
        pytest.param({"meetingSeriesId": "0" * 32}, 404, [], id="series that is not there"),
        pytest.param({"meetingSeriesId": "x"}, 400, [], id="series that is none"),
        pytest.param({"current": "yes"}, 400, [], id="boolean that is none"),
        pytest.param({"max": "101"}, 400, [], id="max"),
        pytest.param({"state": "sleeping"}, 400, [], id="state that is none"),
    ],
)
async def test_what_a_list_takes(
    client: httpx.AsyncClient, query: dict[str, str], status: int, titles: list[str]
) -> None:
    """The filters of "List Meetings", and what is refused."""
    await schedule(client, title="A")
    await schedule(client, title="B", integrationTags=["tag"])
    response = await client.get("/v1/meetings", params=query)
    assert response.status_code == status
    if status == 200:
        assert [meeting["title"] for meeting in response.json()["items"]] == titles


async def test_moments_are_shown_in_the_zone_asked_for(client: httpx.AsyncClient) -> None:
    """The header ``timezone`` decides, UTC otherwise; a zone that is none is refused."""
    series = await schedule(client)
    shown = (await client.get(f"/v1/meetings/{series}", headers={"timezone": "Europe/Vienna"})).json()
    assert (shown["timezone"], shown["start"]) == ("Europe/Vienna", "2026-01-11T10:00:00+01:00")
    assert (await client.get(f"/v1/meetings/{series}", headers={"timezone": "Mars"})).status_code == 400


async def test_instances_are_listed(client: httpx.AsyncClient, clock: Clock) -> None:
    """What is and was held in the last seven days, with the state of each."""
    series = await schedule(client)
    first = (await control(client, f"/meetings/{series}/start"))["id"]
    clock.advance(minutes=5)
    await control(client, f"/meetings/{series}/end")
    second = (await control(client, f"/meetings/{series}/start"))["id"]
    listed = await found(client, meetingType="meeting")
    assert [(m["id"], m["state"], m["meetingSeriesId"]) for m in listed] == [
        (first, "ended", series),
        (second, "inProgress", series),
    ]
    assert [m["id"] for m in await found(client, meetingType="meeting", state="ended")] == [first]


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SERIES, OCCURRENCE, INSTANCE])
async def test_a_meeting_in_progress_ends(client: httpx.AsyncClient, kind: str) -> None:
    """By any of its ids, once; with or without a reason."""
    series = await schedule(client)
    instance = (await control(client, f"/meetings/{series}/start"))["id"]
    id_ = {SERIES: series, OCCURRENCE: f"{series}_20260111T090000Z", INSTANCE: instance}[kind]
    path = f"/v1/meetings/{id_}/end"
    assert (await client.post(path, json={"reason": "Done"})).status_code == 204
    assert (await client.post(path)).status_code == 400
    assert (await client.get(f"/v1/meetings/{instance}")).json()["state"] == "ended"


# -- links -------------------------------------------------------------------------------------------------------------


async def test_links_lead_into_the_meeting(client: httpx.AsyncClient, clock: Clock) -> None:
    """The guest waits for the host; the host's link starts the meeting; a link expires; the ledger counts one call."""
    series = await schedule(client)
    body = {"meetingId": series, "joinDirectly": False, "email": "ada@example.org", "displayName": "Ada"}
    links = (await client.post("/v1/meetings/join", json={**body, "expirationMinutes": 60})).json()
    assert links["expiration"] == "2026-01-10T10:00:00Z"
    assert "not come yet" in (await client.get(links["joinLink"])).text
    assert "in progress" in (await client.get(links["startLink"])).text
    assert "in progress" in (await client.get(links["joinLink"])).text
    assert [meeting["state"] for meeting in await found(client, meetingType="meeting")] == ["inProgress"]
    clock.advance(minutes=60)
    assert (await client.get(links["joinLink"])).status_code == 404
    assert (await client.get("/start/unknown")).status_code == 404
    assert (await ledger(client))["meetings"][series]["links"] == 1


async def test_a_link_of_a_guest_does_not_start(client: httpx.AsyncClient) -> None:
    """The end of a join link is no start link."""
    series = await schedule(client)
    links = (await client.post("/v1/meetings/join", json={"meetingId": series, "joinDirectly": False})).json()
    guest = links["joinLink"].rpartition("/")[2]
    assert (await client.get(f"/start/{guest}")).status_code == 404


@pytest.mark.parametrize(
    ("minutes", "begins"), [(16, False), (14, True)], ids=["16 minutes before", "14 minutes before"]
)
async def test_guests_may_come_before_the_host(
    client: httpx.AsyncClient, clock: Clock, minutes: int, begins: bool
) -> None:
    """Where the meeting allows it, a join link starts it from ``joinBeforeHostMinutes`` before its time."""
    series = await schedule(client, enabledJoinBeforeHost=True, joinBeforeHostMinutes=15)
    clock.moment = START + timedelta(days=1, minutes=-minutes)
    links = (await client.post("/v1/meetings/join", json={"meetingId": series, "joinDirectly": False})).json()
    assert ("in progress" in (await client.get(links["joinLink"])).text) is begins


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({}, 200, id="by id"),
        pytest.param({"meetingId": None, "meetingNumber": "2550000001"}, 200, id="by number"),
        pytest.param({"meetingId": None, "webLink": "link"}, 200, id="by link"),
        pytest.param({"password": "Pa55word"}, 200, id="password"),
        pytest.param({"joinDirectly": None}, 302, id="joinDirectly is the default"),
        pytest.param({"joinDirectly": True}, 302, id="joinDirectly"),
        pytest.param({"meetingId": None}, 400, id="no meeting"),
        pytest.param({"meetingNumber": "2550000001"}, 400, id="two that exclude each other"),
        pytest.param({"meetingId": "instance"}, 400, id="instance"),
        pytest.param({"meetingId": "0" * 32}, 404, id="unknown"),
        pytest.param({"meetingId": None, "meetingNumber": "1"}, 404, id="unknown number"),
        pytest.param({"password": "wrong"}, 400, id="wrong password"),
        pytest.param({"expirationMinutes": 0}, 400, id="no time"),
        pytest.param({"expirationMinutes": 61}, 400, id="too long"),
        pytest.param({"displayName": "x" * 129, "email": "a@b.example"}, 400, id="long name"),
        pytest.param({"displayName": "Ada"}, 400, id="name without address"),
        pytest.param({"email": "ada"}, 400, id="address that is none"),
    ],
)
async def test_what_join_takes(client: httpx.AsyncClient, change: dict[str, Any], status: int) -> None:
    """The rules of "Join a Meeting"."""
    created = (await client.post("/v1/meetings", json=meeting_body(password="Pa55word"))).json()
    ids = {"instance": f"{created['id']}_I_1", "link": created["webLink"]}
    body = {"meetingId": created["id"], "joinDirectly": False, **change}
    given = {name: ids.get(str(value), value) for name, value in body.items() if value is not None}
    response = await client.post("/v1/meetings/join", json=given)
    assert response.status_code == status
    if status == 302:
        assert "in progress" not in (await client.get(response.headers["location"])).text


async def test_web_links_instead_of_links(client: httpx.AsyncClient) -> None:
    """With both ``…AsWebLink`` options the links are the meeting's page and nothing expires."""
    created = (await client.post("/v1/meetings", json=meeting_body())).json()
    options = {"createJoinLinkAsWebLink": True, "createStartLinkAsWebLink": True, "joinDirectly": False}
    response = await client.post("/v1/meetings/join", json={"meetingId": created["id"], **options})
    assert response.json() == {"startLink": created["webLink"], "joinLink": created["webLink"]}


async def test_the_licence_counts_meetings_in_progress(client: httpx.AsyncClient) -> None:
    """With a licence of 2 a third meeting does not start at the same time, and does once one has ended."""
    await control(client, "/limits", licence=2)
    first, second, third = [await schedule(client) for _ in range(3)]
    for series in (first, second):
        await control(client, f"/meetings/{series}/start")
    links = (await client.post("/v1/meetings/join", json={"meetingId": third, "joinDirectly": False})).json()
    refused = await client.get(links["startLink"])
    assert (refused.status_code, "licence" in refused.text) == (403, True)
    await client.post(f"/v1/meetings/{first}/end")
    assert (await client.get(links["startLink"])).status_code == 200


async def test_meetings_of_a_day_are_limited(client: httpx.AsyncClient, clock: Clock) -> None:
    """Refused attempts count too; ``Retry-After`` says when the first one is a day old."""
    await control(client, "/limits", meetingsPerDay=2)
    await client.post("/v1/meetings", json={})
    await schedule(client)
    refused = await client.post("/v1/meetings", json=meeting_body())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "86400")
    clock.advance(days=1)
    assert (await client.post("/v1/meetings", json=meeting_body(now=clock.moment))).status_code == 200


# -- the clock ---------------------------------------------------------------------------------------------------------


async def test_the_clock_moves_on(client: httpx.AsyncClient, clock: Clock) -> None:
    """Moved on, what is due starts and ends; sped up, time passes faster; what is no time is refused."""
    series = await schedule(client)
    shown = await control(client, "/clock", advanceSeconds=86_400)
    assert shown["now"].startswith("2026-01-11T09:00:00")
    assert [meeting["state"] for meeting in await found(client, meetingType="meeting")] == ["inProgress"]
    await control(client, "/clock", speed=3600)
    clock.advance(seconds=1)
    await control(client, "/clock", speed=1)
    assert (await client.get(f"/v1/meetings/{series}")).json()["state"] == "expired"
    for body in ({"advanceSeconds": -1}, {"speed": "fast"}, {"speed": 1e9}):
        assert (await client.post("/sandbox/clock", json=body)).status_code == 400
    assert (await client.get("/sandbox/clock")).json()["now"].startswith("2026-01-11T10:00:00")


async def test_occurrences_start_and_end_one_after_the_other(client: httpx.AsyncClient) -> None:
    """A recurring series is held once for each occurrence, and is over after the last."""
    series = await schedule(client, **WEEKLY)
    for held in (1, 2, 3):
        await control(client, "/clock", advanceSeconds=86_400 if held == 1 else 7 * 86_400 - 7_200)
        await control(client, "/clock", advanceSeconds=7_200)
        listed = await found(
            client, meetingSeriesId=series, meetingType="meeting", **{"from": "2026-01-01", "to": "2026-03-01"}
        )
        assert [meeting["state"] for meeting in listed] == ["ended"] * held
    assert (await client.get(f"/v1/meetings/{series}")).json()["state"] == "expired"


async def test_a_service_apps_meeting_waits_for_somebody(client: httpx.AsyncClient, world: World) -> None:
    """The clock does not start what a Service App has scheduled: it has no host who comes in time."""
    issued = await control(client, "/tokens", app="app", email="app@example.com")
    headers = {"authorization": f"Bearer {issued['access_token']}"}
    series = (await client.post("/v1/meetings", json=meeting_body(), headers=headers)).json()["id"]
    await control(client, "/clock", advanceSeconds=86_400)
    assert world.find_meeting(series).stage == "scheduled"


async def test_reads_lag_behind(client: httpx.AsyncClient, clock: Clock) -> None:
    """With a lag for everything, a change is visible only when it is that old."""
    series = await schedule(client)
    clock.advance(minutes=20)
    await control(client, "/limits", lagSeconds=600)
    await client.patch(f"/v1/meetings/{series}", json={"title": "Other"})
    assert (await client.get(f"/v1/meetings/{series}")).json()["title"] == "Partner briefing"
    new = await schedule(client)
    assert (await client.get(f"/v1/meetings/{new}")).status_code == 404
    assert [meeting["id"] for meeting in await found(client)] == [series]
    clock.advance(minutes=10)
    assert (await client.get(f"/v1/meetings/{series}")).json()["title"] == "Other"
