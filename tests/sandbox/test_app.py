"""The simulated Webex over HTTP, against Cisco's documented rules."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.sandbox.app import create_app
from tests.sandbox.simulated import (
    START,
    Clock,
    batch,
    client_of,
    ledger,
    listed,
    meeting_body,
    opened,
    people,
    schedule,
    statuses,
)
from tests.servers import running

UNKNOWN = "0" * 32
PERSON = {"firstName": "Ada", "lastName": "Abel", "email": "ada@example.org"}


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic dG9rZW4="],
    ids=["missing", "empty", "no token", "blank token", "another scheme"],
)
async def test_without_a_bearer_token_nothing_is_answered(authorization: str | None) -> None:
    """A request without a bearer token gets 401 and Cisco's error body, and has no effect."""
    headers = {} if authorization is None else {"authorization": authorization}
    with opened() as world:
        async with client_of(world, authorized=False) as client:
            response = await client.post("/v1/meetings", json=meeting_body(), headers=headers)
        assert response.status_code == 401
        assert response.json()["trackingId"] == response.headers["trackingid"]
        assert world.meetings() == ()


@pytest.mark.parametrize(("given", "status"), [("right", 200), ("wrong", 401)])
async def test_only_the_token_that_was_named_is_taken(given: str, status: int) -> None:
    """Where the sandbox was given a token, another one gets 401."""
    with opened() as world:
        app = create_app(world, token="right")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sandbox") as client:
            headers = {"authorization": f"Bearer {given}"}
            assert (await client.get("/v1/meetings", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"title": ""}, "title", id="empty title"),
        pytest.param({"title": "x" * 129}, "title", id="title of 129 characters"),
        pytest.param({"start": None}, "start", id="no start"),
        pytest.param({"start": "tomorrow"}, "ISO 8601", id="start is no time"),
        pytest.param({"start": (START - timedelta(hours=1)).isoformat()}, "23 hours 59", id="longer than a day"),
        pytest.param(
            {"end": (START + timedelta(days=1, minutes=9)).isoformat()}, "10 minutes", id="shorter than 10 min"
        ),
        pytest.param(
            {"start": "2026-01-09T09:00:00Z", "end": "2026-01-09T10:00:00Z"}, "in the past", id="start in the past"
        ),
        pytest.param({"recurrence": "FREQ=DAILY;COUNT=3"}, "recurring", id="registration of a recurring meeting"),
        pytest.param({"registration": True}, "object", id="registration is no object"),
    ],
)
async def test_what_a_meeting_must_be(client: httpx.AsyncClient, change: dict[str, Any], said: str) -> None:
    """A meeting that Webex would not take is refused with 400 and a description, and nothing is scheduled."""
    response = await client.post("/v1/meetings", json={**meeting_body(), **change})
    assert response.status_code == 400
    assert said in response.json()["errors"][0]["description"]
    assert (await client.get("/v1/meetings")).json() == {"items": []}


async def test_a_meeting_is_found_by_each_of_its_ids(client: httpx.AsyncClient) -> None:
    """Series, occurrence and instance ids all lead to the meeting, each shown as what it is."""
    series = await schedule(client)
    instance = (await client.post(f"/sandbox/meetings/{series}/start")).json()["id"]
    found = [
        (await client.get(f"/v1/meetings/{id_}")).json() for id_ in (series, f"{series}_20260111T090000Z", instance)
    ]
    assert [meeting["meetingType"] for meeting in found] == ["meetingSeries", "scheduledMeeting", "meeting"]
    assert [meeting["state"] for meeting in found] == ["active", "inProgress", "inProgress"]
    assert found[1]["meetingSeriesId"] == found[2]["meetingSeriesId"] == series
    assert instance.startswith(f"{series}_I_")


@pytest.mark.parametrize("meeting_id", [UNKNOWN, f"{UNKNOWN}_I_1", "nonsense"], ids=["series", "instance", "no id"])
async def test_an_unknown_meeting_is_not_found(client: httpx.AsyncClient, meeting_id: str) -> None:
    """A meeting that does not exist gets 404 with Cisco's error body."""
    response = await client.get(f"/v1/meetings/{meeting_id}")
    assert response.status_code == 404
    assert set(response.json()) == {"message", "errors", "trackingId"}


async def test_a_patch_changes_what_it_names(client: httpx.AsyncClient) -> None:
    """PATCH changes the fields given, erases those that may be null, and never touches the registration form."""
    series = await schedule(client, agenda="First")
    patched = await client.patch(f"/v1/meetings/{series}", json={"title": "Other", "agenda": None, "registration": {}})
    assert patched.status_code == 200
    meeting = (await client.get(f"/v1/meetings/{series}")).json()
    assert (meeting["title"], "agenda" in meeting, meeting["registration"]["requireEmail"]) == ("Other", False, True)


@pytest.mark.parametrize(
    ("suffix", "body"),
    [
        pytest.param("", {"title": None}, id="title cannot be null"),
        pytest.param("", {"title": "x" * 129}, id="title too long"),
        pytest.param("_I_1", {"title": "Other"}, id="instance ids can never be updated"),
    ],
)
async def test_what_a_patch_must_be(client: httpx.AsyncClient, suffix: str, body: dict[str, Any]) -> None:
    """A patch that Webex would not take is refused with 400."""
    series = await schedule(client)
    assert (await client.patch(f"/v1/meetings/{series}{suffix}", json=body)).status_code == 400


async def test_a_meeting_in_progress_cannot_be_updated(client: httpx.AsyncClient) -> None:
    """While an instance is in progress the series refuses every update."""
    series = await schedule(client)
    await client.post(f"/sandbox/meetings/{series}/start")
    response = await client.patch(f"/v1/meetings/{series}", json={"title": "Other"})
    assert (response.status_code, response.json()["message"]) == (400, "Meeting is in progress.")


async def test_the_form_is_gone_once_the_meeting_is_over(client: httpx.AsyncClient, clock: Clock) -> None:
    """An expired meeting no longer shows that it had registration."""
    series = await schedule(client)
    clock.advance(days=2)
    meeting = (await client.get(f"/v1/meetings/{series}")).json()
    assert (meeting["state"], "registration" in meeting) == ("expired", False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("GET", "", id="list"),
        pytest.param("POST", "", id="register"),
        pytest.param("POST", "/query", id="query"),
        pytest.param("POST", "/bulkInsert", id="bulkInsert"),
        pytest.param("POST", "/approve", id="approve"),
        pytest.param("POST", "/reject", id="reject"),
        pytest.param("POST", "/cancel", id="cancel"),
        pytest.param("POST", "/bulkDelete", id="bulkDelete"),
        pytest.param("GET", "/some-registrant", id="get"),
        pytest.param("DELETE", "/some-registrant", id="delete"),
    ],
)
@pytest.mark.parametrize("suffix", ["_20260111T090000Z", "_I_194316955237236650"], ids=["occurrence", "instance"])
async def test_registrants_belong_to_the_series(client: httpx.AsyncClient, method: str, path: str, suffix: str) -> None:
    """Every registrant operation refuses occurrence and instance ids with 400 and Cisco's error body."""
    series = await schedule(client)
    bodies = {
        "/query": {"emails": ["a@example.org"]},
        "": PERSON,
        "/bulkInsert": {"items": [PERSON]},
    }
    body = None if method != "POST" else bodies.get(path, {"registrants": [{"id": "1"}]})
    response = await client.request(method, f"/v1/meetings/{series}{suffix}/registrants{path}", json=body)
    assert response.status_code == 400
    assert "is not allowed for this API" in response.json()["message"]
    assert response.json()["errors"][0]["description"]
    assert response.json()["trackingId"] == response.headers["trackingid"]


async def test_a_page_holds_ten_unless_asked(client: httpx.AsyncClient) -> None:
    """Lists and queries give 10 by default and 100 at most."""
    series = await schedule(client)
    await people(client, series, 120)
    emails = [registrant["email"] for registrant in await listed(client, series)]
    path = f"/v1/meetings/{series}/registrants"
    assert len((await client.get(path)).json()["items"]) == 10
    assert len((await client.post(f"{path}/query", json={"emails": emails})).json()["items"]) == 10
    assert len((await client.post(f"{path}/query?max=100", json={"emails": emails})).json()["items"]) == 100
    for refused in ("0", "101", "-1", "ten", "null", ""):
        assert (await client.get(path, params={"max": refused})).status_code == 400


async def test_the_default_window_is_seven_days(client: httpx.AsyncClient, clock: Clock) -> None:
    """Without a window, whoever registered more than 7 days ago is not listed; with one, they are."""
    series = await schedule(client, start="2026-02-20T09:00:00Z", end="2026-02-20T10:00:00Z")
    [early] = await people(client, series, 1)
    clock.advance(days=7, seconds=2)
    [late] = await people(client, series, 1)
    assert set(await statuses(client, series)) == {late}
    wide = await listed(client, series, registrationTimeFrom="2026-01-01T00:00:00Z", registrationTimeTo="2026-03-01")
    assert [registrant["id"] for registrant in wide] == [early, late]
    only_from = await listed(client, series, registrationTimeFrom="2026-01-10T00:00:00Z")
    assert [registrant["id"] for registrant in only_from] == [early]


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        pytest.param("2026-01-10T09:00:00Z", "2026-01-10T09:00:01Z", 1, id="from is inclusive"),
        pytest.param("2026-01-10T08:59:59Z", "2026-01-10T09:00:00Z", 0, id="to is exclusive"),
        pytest.param("2026-01-10T10:00:00+01:00", "2026-01-10T10:00:01+01:00", 1, id="with an offset"),
        pytest.param("2026-01-10T09:00:00", "2026-01-10T09:00:01", 1, id="without one it is UTC"),
        pytest.param("2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z", 1, id="90 days"),
        pytest.param("2026-01-01T00:00:00Z", "2026-04-01T00:00:01Z", None, id="longer than 90 days"),
        pytest.param("2026-01-11T00:00:00Z", "2026-01-10T00:00:00Z", None, id="from after to"),
        pytest.param("yesterday", "2026-01-10T00:00:00Z", None, id="no time at all"),
        pytest.param("", "0001-01-02T00:00:00Z", None, id="out of range"),
    ],
)
async def test_the_window_of_a_list(client: httpx.AsyncClient, since: str, until: str, found: int | None) -> None:
    """From is inclusive, to exclusive, 90 days are the limit, and what is no window gets 400."""
    series = await schedule(client)
    await people(client, series, 1)
    query = {"registrationTimeFrom": since, "registrationTimeTo": until}
    response = await client.get(f"/v1/meetings/{series}/registrants", params=query)
    if found is None:
        assert response.status_code == 400
    else:
        assert len(response.json()["items"]) == found


async def test_following_the_link_gives_everybody_once(client: httpx.AsyncClient, clock: Clock) -> None:
    """The pages are complete and without duplicates, even when people register and time goes by between two of them."""
    series = await schedule(client)
    ids = await people(client, series, 57)
    seen: list[str] = []
    url: str | None = f"/v1/meetings/{series}/registrants?max=20"
    while url:
        response = await client.get(url)
        seen += [registrant["id"] for registrant in response.json()["items"]]
        clock.advance(seconds=5)
        await people(client, series, 1)
        url = response.links.get("next", {}).get("url")
    assert seen == ids


async def test_without_links_narrow_windows_give_everybody_once() -> None:
    """With the header off there is no hint of more, and windows of fewer than ``max`` registrants are complete."""
    with opened() as world:
        async with client_of(world, link_header=False) as client:
            series = await schedule(client)
            ids = await people(client, series, 57, spreadSeconds=570)
            first = await client.get(f"/v1/meetings/{series}/registrants", params={"max": 20})
            assert (len(first.json()["items"]), "link" in first.headers) == (20, False)
            seen: list[str] = []
            for minute in range(11):
                since = START - timedelta(minutes=10 - minute)
                window = {"registrationTimeFrom": since, "registrationTimeTo": since + timedelta(minutes=1)}
                texts = {name: moment.isoformat() for name, moment in window.items()}
                seen += [registrant["id"] for registrant in await listed(client, series, max=20, **texts)]
            assert sorted(seen) == sorted(ids)


async def test_the_list_has_an_email_filter_and_no_status_filter(client: httpx.AsyncClient) -> None:
    """``email`` narrows a list whatever its case; ``status`` is ignored."""
    series = await schedule(client)
    await people(client, series, 3)
    first = (await listed(client, series))[0]
    assert await listed(client, series, email=first["email"].upper()) == [first]
    assert len(await listed(client, series, status="approved")) == 3


async def test_a_query_filters_and_orders(client: httpx.AsyncClient) -> None:
    """A query gives those with the addresses asked for, by status, in the order asked for."""
    series = await schedule(client)
    ids = await people(client, series, 4)
    emails = [registrant["email"] for registrant in await listed(client, series)]
    await batch(client, series, "approve", ids[:2])
    path = f"/v1/meetings/{series}/registrants/query"
    body = {"emails": emails[1:], "status": "pending", "orderBy": "email", "orderType": "DESC"}
    found = (await client.post(path, json=body)).json()["items"]
    assert [registrant["email"] for registrant in found] == sorted(emails[2:], reverse=True)
    nonsense: list[dict[str, Any]] = [
        {},
        {"emails": []},
        {"emails": emails, "status": "cancelled"},
        {"emails": emails, "orderBy": "id"},
    ]
    for refused in nonsense:
        assert (await client.post(path, json=refused)).status_code == 400


@pytest.mark.parametrize(
    ("verbs", "status", "counted"),
    [
        pytest.param(["approve"], "approved", {"approved": 1}, id="approve"),
        pytest.param(["reject"], "rejected", {"rejected": 1}, id="reject"),
        pytest.param(
            ["approve", "cancel"], "pending", {"approved": 1, "cancelled": 1}, id="cancel goes back to pending"
        ),
        pytest.param(["approve", "approve"], "approved", {"approved": 1, "repeated": 1}, id="approve twice"),
        pytest.param(
            ["approve", "cancel", "approve"], "approved", {"approved": 2, "cancelled": 1}, id="approve, cancel, approve"
        ),
        pytest.param(["reject", "approve"], "approved", {"rejected": 1, "other": 1}, id="approve who was rejected"),
    ],
)
async def test_what_the_batches_do(
    client: httpx.AsyncClient, verbs: list[str], status: str, counted: dict[str, int]
) -> None:
    """Each answers 204 without a word; the next list shows the status, and the ledger counts each transition and mail."""
    series = await schedule(client)
    ids = await people(client, series, 3)
    for verb in verbs:
        response = await batch(client, series, verb, ids[:2])
        assert (response.status_code, response.content) == (204, b"")
    assert await statuses(client, series) == {ids[0]: status, ids[1]: status, ids[2]: "pending"}
    effects = (await ledger(client))["effects"]
    zeros = dict.fromkeys(("approved", "rejected", "cancelled", "repeated", "other"), 0)
    expected = {"meetingId": series, "status": status, **zeros, **counted, "mails": len(verbs)}
    expected["outbox"] = {verb: verbs.count(verb) for verb in verbs}
    assert effects[ids[0]] == effects[ids[1]] == expected
    assert effects[ids[2]]["mails"] == 0


async def test_no_mail_where_it_is_not_wanted(client: httpx.AsyncClient) -> None:
    """``sendEmail`` false changes the status and sends nothing; anything but a boolean is refused."""
    series = await schedule(client)
    ids = await people(client, series, 1)
    assert (await batch(client, series, "approve", ids, sendEmail=False)).status_code == 204
    assert (await batch(client, series, "cancel", ids, sendEmail="no")).status_code == 400
    effect = (await ledger(client))["effects"][ids[0]]
    assert (effect["approved"], effect["mails"], effect["outbox"]) == (1, 0, {})


async def test_a_batch_says_nothing_about_ids_it_does_not_know(client: httpx.AsyncClient) -> None:
    """Wrong ids in a batch are passed over, and the answer is the same 204."""
    series = await schedule(client)
    ids = await people(client, series, 1)
    assert (await batch(client, series, "approve", ["unknown", *ids])).status_code == 204
    assert await statuses(client, series) == {ids[0]: "approved"}


@pytest.mark.parametrize("verb", ["approve", "reject", "cancel", "bulkDelete"])
@pytest.mark.parametrize(
    "entries",
    [None, [], {}, [{}], ["id"], [{"id": 1}], [{"id": str(n)} for n in range(101)]],
    ids=["missing", "empty", "object", "without id", "plain id", "number", "101 entries"],
)
async def test_what_a_batch_must_be(client: httpx.AsyncClient, verb: str, entries: object) -> None:
    """A batch has 1 to 100 entries with an id each; anything else gets 400."""
    series = await schedule(client)
    response = await client.post(f"/v1/meetings/{series}/registrants/{verb}", json={"registrants": entries})
    assert response.status_code == 400


async def test_one_registrant_at_a_time(client: httpx.AsyncClient) -> None:
    """Registering one gives the registrant with an id, which can be read and deleted."""
    series = await schedule(client)
    path = f"/v1/meetings/{series}/registrants"
    created = await client.post(path, json={**PERSON, "jobTitle": "Engineer", "unknown": "dropped"})
    registrant = created.json()
    assert created.status_code == 200
    assert registrant == {
        "id": registrant["id"],
        "status": "pending",
        **PERSON,
        "jobTitle": "Engineer",
        "registrationTime": "2026-01-10T09:00:00Z",
    }
    assert (await client.get(f"{path}/{registrant['id']}")).json() == registrant
    assert (await client.delete(f"{path}/{registrant['id']}")).status_code == 204
    assert (await client.get(f"{path}/{registrant['id']}")).status_code == 404
    assert (await client.delete(f"{path}/{registrant['id']}")).status_code == 404
    assert (await client.post(path, json=PERSON)).status_code == 200


@pytest.mark.parametrize(
    ("form", "status"),
    [
        pytest.param({**PERSON, "email": ""}, 400, id="no address"),
        pytest.param({"email": "ada@example.org"}, 400, id="no name"),
        pytest.param({**PERSON, "email": "ada"}, 400, id="no address at all"),
        pytest.param({**PERSON, "city": 1}, 400, id="a number for a text"),
        pytest.param({**PERSON, "email": "KNOWN@example.org"}, 409, id="registered already"),
    ],
)
async def test_what_a_registrant_must_be(client: httpx.AsyncClient, form: dict[str, Any], status: int) -> None:
    """A form that Webex would not take is refused, alone and in a bulkInsert, of which nobody is registered then."""
    series = await schedule(client)
    path = f"/v1/meetings/{series}/registrants"
    await client.post(path, json={**PERSON, "email": "known@example.org"})
    assert (await client.post(path, json=form)).status_code == status
    bulk = await client.post(f"{path}/bulkInsert", json={"items": [PERSON, form]})
    assert bulk.status_code == status
    assert len(await listed(client, series)) == 1


async def test_bulk_insert_and_bulk_delete(client: httpx.AsyncClient) -> None:
    """bulkInsert registers all and shows them; bulkDelete removes them; the ledger keeps what was done to them."""
    series = await schedule(client)
    items = [{**PERSON, "email": f"ada.{n}@example.org", "sendEmail": n == 1} for n in range(3)]
    inserted = await client.post(f"/v1/meetings/{series}/registrants/bulkInsert", json={"items": items})
    ids = [registrant["id"] for registrant in inserted.json()["items"]]
    assert list(await statuses(client, series)) == ids
    assert (await batch(client, series, "bulkDelete", ids[:2])).status_code == 204
    assert list(await statuses(client, series)) == ids[2:]
    effects = (await ledger(client))["effects"]
    assert [(effects[id_]["status"], effects[id_]["mails"]) for id_ in ids] == [
        ("deleted", 1),
        ("deleted", 2),
        ("pending", 0),
    ]


async def test_registration_has_its_limits(client: httpx.AsyncClient) -> None:
    """A meeting without a form takes and lists nobody, a full one nobody more, and one that accepts does so at once."""
    without = await schedule(client, registration=None)
    assert (await client.get(f"/v1/meetings/{without}/registrants")).status_code == 400
    assert (await client.post(f"/v1/meetings/{without}/registrants", json=PERSON)).status_code == 400
    full = await schedule(client, registration={"maxRegisterNum": 1, "autoAcceptRequest": True})
    first = await client.post(f"/v1/meetings/{full}/registrants", json=PERSON)
    assert first.json()["status"] == "approved"
    second = {**PERSON, "email": "bea@example.org"}
    assert (await client.post(f"/v1/meetings/{full}/registrants", json=second)).status_code == 400


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        pytest.param(b"{", "application/json", 400, id="broken"),
        pytest.param(b"[]", "application/json", 400, id="no object"),
        pytest.param(b"[" * 100_000, "application/json", 400, id="nested deeply"),
        pytest.param(b"{}", "text/plain", 415, id="another media type"),
        pytest.param(b" " * (1024 * 1024 + 1), "application/json", 413, id="larger than 1 MiB"),
    ],
)
async def test_unreadable_bodies(client: httpx.AsyncClient, content: bytes, content_type: str, status: int) -> None:
    """A body that is not a JSON object of bounded size is refused, and the call is in the ledger."""
    response = await client.post("/v1/meetings", content=content, headers={"content-type": content_type})
    assert response.status_code == status
    assert (await ledger(client))["tallies"] == {f"createMeeting {status}": 1}


async def test_what_is_not_there_says_so_in_ciscos_words(client: httpx.AsyncClient) -> None:
    """Unknown paths and methods get 404 and 405 with the error body."""
    missing, method = await client.get("/v1/people/me"), await client.put(f"/v1/meetings/{UNKNOWN}/registrants")
    assert (missing.status_code, method.status_code) == (404, 405)
    assert set(missing.json()) == set(method.json()) == {"message", "errors", "trackingId"}


async def test_the_ledger_lists_every_call(client: httpx.AsyncClient) -> None:
    """Each call has its number, operation, meeting, status, time, the size of its batch and whether mail was wanted."""
    series = await schedule(client)
    ids = await people(client, series, 2)
    await batch(client, series, "approve", ids, sendEmail=False)
    await client.get(f"/v1/meetings/{UNKNOWN}/registrants")
    shared = {"registrants": 0, "sendEmail": None, "dropped": False, "at": "2026-01-10T09:00:00Z"}
    approve = {"registrants": 2, "sendEmail": False, "operationId": "batchApproveMeetingRegistrants", "status": 204}
    assert (await ledger(client))["calls"] == [
        {**shared, "n": 1, "method": "POST", "operationId": "createMeeting", "meetingId": "", "status": 200},
        {**shared, "n": 2, "method": "POST", "meetingId": series, **approve},
        {
            **shared,
            "n": 3,
            "method": "GET",
            "operationId": "listMeetingRegistrants",
            "meetingId": UNKNOWN,
            "status": 404,
        },
    ]


async def test_meetings_are_listed_for_the_next_seven_days(client: httpx.AsyncClient) -> None:
    """By default the list has the series of the next 7 days; a range of one's own widens it, ``Link`` pages it."""
    soon = [await schedule(client, title=f"Meeting {n}") for n in range(3)]
    far = await schedule(client, start="2026-03-01T09:00:00Z", end="2026-03-01T10:00:00Z")
    first = await client.get("/v1/meetings", params={"max": 2})
    second = await client.get(first.links["next"]["url"])
    ids = [meeting["id"] for response in (first, second) for meeting in response.json()["items"]]
    assert (ids, "next" in second.links) == (soon, False)
    wide = await client.get("/v1/meetings", params={"from": "2026-02-20", "to": "2026-03-10"})
    assert [(meeting["id"], meeting["hasRegistration"]) for meeting in wide.json()["items"]] == [(far, True)]
    assert (await client.get("/v1/meetings", params={"meetingType": "meeting"})).json() == {"items": []}
    for refused in (
        {"from": "2026-03-10", "to": "2026-02-20"},
        {"from": "soon"},
        {"meetingType": "webinar"},
        {"max": 0},
    ):
        assert (await client.get("/v1/meetings", params=refused)).status_code == 400


async def test_a_status_fault_refuses_a_number_of_times(client: httpx.AsyncClient) -> None:
    """A 429 is answered as often as asked, with its Retry-After as given, and has no effect."""
    series = await schedule(client)
    ids = await people(client, series, 1)
    fault = {"operation": "approve", "status": 429, "times": 2, "retryAfter": "rand(30),add(30)"}
    await client.post("/sandbox/faults", json=fault)
    answers = [await batch(client, series, "approve", ids) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 204]
    assert answers[0].headers["retry-after"] == "rand(30),add(30)"
    assert (await ledger(client))["effects"][ids[0]]["approved"] == 1


async def test_a_lag_hides_what_is_new(client: httpx.AsyncClient, clock: Clock) -> None:
    """With a lag a new meeting is not found, and a new status or registrant is not listed, until it is that old."""
    for operation in ("getMeeting", "list", "query"):
        await client.post("/sandbox/faults", json={"operation": operation, "lagSeconds": 60})
    series = await schedule(client)
    ids = await people(client, series, 1)
    assert (await client.get(f"/v1/meetings/{series}")).status_code == 404
    assert await statuses(client, series) == {}
    clock.advance(seconds=61)
    assert (await client.get(f"/v1/meetings/{series}")).status_code == 200
    await batch(client, series, "approve", ids)
    assert await statuses(client, series) == {ids[0]: "pending"}
    clock.advance(seconds=61)
    assert await statuses(client, series) == {ids[0]: "approved"}


async def test_a_dropped_answer_has_had_its_effect() -> None:
    """The caller sees a broken connection, the next list the effect, and the ledger both; the fault wears off."""
    with opened() as world:
        async with client_of(world) as control:
            async with running(create_app(world)) as base_url:
                headers = {"authorization": "Bearer token"}
                async with httpx.AsyncClient(base_url=base_url, headers=headers, trust_env=False) as client:
                    series = await schedule(client)
                    ids = await people(client, series, 1)
                    await client.post("/sandbox/faults", json={"operation": "approve", "dropResponse": 1})
                    with pytest.raises(httpx.RemoteProtocolError):
                        await batch(client, series, "approve", ids)
                    assert (await batch(client, series, "reject", ids)).status_code == 204
            calls = (await ledger(control))["calls"]
            assert [(call["operationId"], call["status"], call["dropped"]) for call in calls[-2:]] == [
                ("batchApproveMeetingRegistrants", 204, True),
                ("batchRejectMeetingRegistrants", 204, False),
            ]
            effect = (await ledger(control))["effects"][ids[0]]
            assert (effect["approved"], effect["other"]) == (1, 1)


@pytest.mark.parametrize(
    "fault",
    [{}, {"status": 200}, {"status": "many"}, {"dropResponse": None}, {"lagSeconds": "x"}],
    ids=["empty", "no error", "status is no number", "drop is no number", "lag is no number"],
)
async def test_what_a_fault_must_be(client: httpx.AsyncClient, fault: dict[str, Any]) -> None:
    """A fault that says nothing useful is refused."""
    assert (await client.post("/sandbox/faults", json={"operation": "approve", **fault})).status_code == 400


async def test_many_callers_at_once_are_all_counted(client: httpx.AsyncClient) -> None:
    """Calls side by side keep the ledger exact."""
    series = await schedule(client)
    ids = await people(client, series, 200)
    halves = [ids[:100], ids[100:]]
    await asyncio.gather(*(batch(client, series, "approve", half) for half in halves for _ in range(3)))
    shown = await ledger(client)
    assert {(effect["approved"], effect["repeated"]) for effect in shown["effects"].values()} == {(1, 2)}
    assert [call["n"] for call in shown["calls"]] == list(range(1, 8))
