"""Who may call: access tokens that expire, refresh tokens, Service Apps, guests and scopes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.sandbox.world import World
from tests.sandbox.simulated import Clock, client_of, meeting_body, schedule

CLIENT = {"clientId": "client", "clientSecret": "secret"}
FORM = {"grant_type": "refresh_token", "client_id": "client", "client_secret": "secret"}
ORG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi90ZW5hbnQ"


async def issued(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """A pair, as the developer portal gives it."""
    response = await client.post("/sandbox/tokens", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def status(client: httpx.AsyncClient, token: str) -> int:
    """Of a call with this token."""
    response = await client.get("/v1/meetings", headers={"authorization": f"Bearer {token}"})
    return response.status_code


async def refreshed(client: httpx.AsyncClient, token: str, **change: str) -> httpx.Response:
    """``POST /v1/access_token``."""
    return await client.post("/v1/access_token", data={**FORM, "refresh_token": token, **change})


async def test_an_access_token_expires(client: httpx.AsyncClient, clock: Clock) -> None:
    """It is taken until then, and gets 401 afterwards; one that was ended gets it at once."""
    await client.post("/sandbox/limits", json={"accessTokenSeconds": 60})
    pair = await issued(client)
    assert (await status(client, pair["access_token"]), pair["expires_in"]) == (200, 60)
    assert await status(client, pair["refresh_token"]) == 401
    clock.advance(seconds=60)
    assert await status(client, pair["access_token"]) == 401
    await client.request("DELETE", "/sandbox/tokens", json={"token": "mine"})
    assert await status(client, "mine") == 401


async def test_a_refresh_token_gives_access_again(client: httpx.AsyncClient, clock: Clock) -> None:
    """Used, it lives anew and stays the same; unused for too long, it is refused."""
    await client.post("/sandbox/limits", json={"refreshTokenSeconds": 100})
    pair = await issued(client, **CLIENT)
    for _ in range(3):
        clock.advance(seconds=99)
        renewed = (await refreshed(client, pair["refresh_token"])).json()
        assert await status(client, renewed["access_token"]) == 200
        assert (renewed["refresh_token"], renewed["token_type"]) == (pair["refresh_token"], "Bearer")
    clock.advance(seconds=100)
    assert (await refreshed(client, pair["refresh_token"])).status_code == 400


async def test_refresh_tokens_can_rotate(client: httpx.AsyncClient) -> None:
    """Where the limits say so, a refresh gives a new refresh token and ends the old one."""
    await client.post("/sandbox/limits", json={"rotateRefreshTokens": True})
    pair = await issued(client)
    renewed = (await refreshed(client, pair["refresh_token"])).json()
    assert renewed["refresh_token"] != pair["refresh_token"]
    assert (await refreshed(client, pair["refresh_token"])).status_code == 400
    assert (await refreshed(client, renewed["refresh_token"])).status_code == 200


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"refresh_token": "unknown"}, 400, id="unknown token"),
        pytest.param({"grant_type": "authorization_code"}, 400, id="another grant"),
        pytest.param({"client_id": ""}, 400, id="no client"),
        pytest.param({"client_secret": "wrong"}, 401, id="wrong secret"),
    ],
)
async def test_what_a_refresh_must_be(client: httpx.AsyncClient, change: dict[str, str], expected: int) -> None:
    """Refused with Cisco's error body; no access token is needed for asking."""
    pair = await issued(client, **CLIENT)
    response = await refreshed(client, pair["refresh_token"], **change)
    assert (response.status_code, "message" in response.json()) == (expected, True)


async def test_a_refresh_is_a_form(client: httpx.AsyncClient) -> None:
    """A JSON body gets 415."""
    assert (await client.post("/v1/access_token", json=FORM)).status_code == 415


async def test_a_token_issued_here_is_taken_beside_the_fixed_one(world: World) -> None:
    """Where the sandbox takes one token alone, it takes its own too."""
    async with client_of(world, token="right") as client:
        pair = await issued(client)
        assert [await status(client, token) for token in ("right", pair["access_token"], "wrong")] == [200, 200, 401]


async def test_organizations_share_one_sandbox(world: World) -> None:
    """A token of each is issued under its own text; none sees another's meetings, and its webhooks name it."""
    tokens = {organization: f"token-of-{n}" for n, organization in enumerate(("one", "two", "three"))}
    scheduled = {}
    async with client_of(world, token="right") as client:
        for organization, token in tokens.items():
            host = f"host@{organization}.example"
            await client.post("/sandbox/tokens", json={"orgId": organization, "token": token, "email": host})
            headers = {"authorization": f"Bearer {token}"}
            made = (await client.post("/v1/meetings", json=meeting_body(), headers=headers)).json()
            scheduled[organization] = made["id"]
            assert made["hostEmail"] == host
        for organization, token in tokens.items():
            headers = {"authorization": f"Bearer {token}"}
            listed = (await client.get("/v1/meetings", headers=headers)).json()["items"]
            assert [meeting["id"] for meeting in listed] == [scheduled[organization]]
    told = {world.organization(each.org): each.meeting for each in world.outgoing.heads()}
    assert told == scheduled


# -- Service Apps ------------------------------------------------------------------------------------------------------


async def app_token(client: httpx.AsyncClient, **change: str) -> httpx.Response:
    """``POST /v1/applications/{id}/token``."""
    return await client.post("/v1/applications/app/token", json={**CLIENT, "targetOrgId": ORG, **change})


async def test_a_service_app_works_in_its_organization(client: httpx.AsyncClient) -> None:
    """It sees that organisation's meetings alone, hosts what it schedules, and its pair can be refreshed."""
    own = await schedule(client)
    pair = (await app_token(client)).json()
    assert set(pair) == {"access_token", "expires_in", "refresh_token", "refresh_token_expires_in", "token_type"}
    headers = {"authorization": f"Bearer {pair['access_token']}"}
    theirs = (await client.post("/v1/meetings", json=meeting_body(), headers=headers)).json()
    listed = (await client.get("/v1/meetings", headers=headers)).json()["items"]
    assert [meeting["id"] for meeting in listed] == [theirs["id"]]
    assert (await client.get(f"/v1/meetings/{own}", headers=headers)).status_code == 404
    assert (await client.get(f"/v1/meetings/{theirs['id']}")).status_code == 404
    assert theirs["hostEmail"] != "host@example.com"
    assert (await refreshed(client, pair["refresh_token"])).status_code == 200


async def test_an_organization_withdraws_its_consent(client: httpx.AsyncClient) -> None:
    """Its tokens end at once and no new ones are issued, until it authorises again."""
    pair = (await app_token(client)).json()
    await client.post(f"/sandbox/organizations/{ORG}/deauthorize")
    assert await status(client, pair["access_token"]) == 401
    assert (await refreshed(client, pair["refresh_token"])).status_code == 400
    assert (await app_token(client)).status_code == 403
    await client.post(f"/sandbox/organizations/{ORG}/authorize")
    assert (await app_token(client)).status_code == 200
    assert (await client.post(f"/sandbox/organizations/{ORG}/ignore")).status_code == 400


@pytest.mark.parametrize("name", ["clientId", "clientSecret", "targetOrgId"])
async def test_what_a_service_app_must_say(client: httpx.AsyncClient, name: str) -> None:
    """All three are required."""
    assert (await app_token(client, **{name: ""})).status_code == 400


async def test_a_service_app_names_the_host_of_others(client: httpx.AsyncClient) -> None:
    """``/meetings/join`` needs ``hostEmail`` for somebody else's meeting, none for its own."""
    pair = (await app_token(client)).json()
    headers = {"authorization": f"Bearer {pair['access_token']}"}
    for host in (None, "ada@example.com"):
        body = meeting_body(hostEmail=host)
        series = (await client.post("/v1/meetings", json=body, headers=headers)).json()["id"]
        join = {"meetingId": series, "joinDirectly": False}
        named = await client.post("/v1/meetings/join", json={**join, "hostEmail": host or ""}, headers=headers)
        bare = await client.post("/v1/meetings/join", json=join, headers=headers)
        assert (named.status_code, bare.status_code) == ((200, 200) if host is None else (200, 404))


# -- guests ------------------------------------------------------------------------------------------------------------


async def test_guests_are_counted_by_subject(client: httpx.AsyncClient) -> None:
    """The same subject is the same guest with another token, under another name; the count is plain text."""
    made = [
        (await client.post("/v1/guests/token", json={"subject": subject, "displayName": name})).json()
        for subject, name in (("a", "Ada"), ("b", "Bea"), ("a", "Ada Abel"))
    ]
    assert made[0]["id"] == made[2]["id"] != made[1]["id"]
    assert made[0]["accessToken"] != made[2]["accessToken"]
    assert (made[2]["displayName"], made[0]["expiresIn"], len(made[0]["accessToken"])) == ("Ada Abel", 64_799, 2_048)
    assert made[0]["email"].endswith("@appid.ciscospark.com")
    count = await client.get("/v1/guests/count")
    assert (count.text, count.headers["content-type"]) == ("2", "text/plain")


async def test_a_guest_may_schedule_nothing(client: httpx.AsyncClient, clock: Clock) -> None:
    """A guest's token is known and has no scope; then it expires."""
    guest = (await client.post("/v1/guests/token", json={"subject": "a", "displayName": "Ada"})).json()
    assert await status(client, guest["accessToken"]) == 403
    clock.advance(seconds=64_799)
    assert await status(client, guest["accessToken"]) == 401


@pytest.mark.parametrize("body", [{"subject": "a"}, {"subject": "", "displayName": "Ada"}, {"subject": 1}])
async def test_what_a_guest_must_be(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Subject and name are required texts."""
    assert (await client.post("/v1/guests/token", json=body)).status_code == 400


# -- scopes ------------------------------------------------------------------------------------------------------------

HOOK = {"name": "Hook", "targetUrl": "http://127.0.0.1:9/", "resource": "meetings", "event": "created"}


@pytest.mark.parametrize(
    ("scope", "method", "path", "body", "expected"),
    [
        pytest.param("meeting:schedules_read", "GET", "/meetings", None, 200, id="read"),
        pytest.param("meeting:schedules_read", "POST", "/meetings", {}, 403, id="read only"),
        pytest.param("meeting:schedules_write", "GET", "/meetings", None, 403, id="write only"),
        pytest.param("meeting:admin_schedule_write", "POST", "/meetings", {}, 400, id="admin"),
        pytest.param("guest-issuer:read", "GET", "/guests/count", None, 200, id="count guests"),
        pytest.param("guest-issuer:read", "POST", "/guests/token", {}, 403, id="create guests"),
        pytest.param("spark:applications_token", "POST", "/applications/a/token", {}, 400, id="Service App"),
        pytest.param("spark:people_read", "POST", "/applications/a/token", {}, 403, id="no Service App"),
        pytest.param("meeting:schedules_read", "POST", "/webhooks", HOOK, 200, id="webhook"),
        pytest.param(
            "meeting:schedules_read", "POST", "/webhooks", {**HOOK, "ownedBy": "org"}, 403, id="webhook for all"
        ),
        pytest.param(
            "meeting:admin_schedule_read", "POST", "/webhooks", {**HOOK, "ownedBy": "org"}, 200, id="admin hook"
        ),
        pytest.param("spark:people_read", "POST", "/webhooks", HOOK, 403, id="webhook without reading"),
    ],
)
async def test_operations_need_their_scopes(
    client: httpx.AsyncClient, scope: str, method: str, path: str, body: dict[str, Any] | None, expected: int
) -> None:
    """A token that was issued with scopes does what they allow; 403 otherwise."""
    pair = await issued(client, scopes=[scope])
    headers = {"authorization": f"Bearer {pair['access_token']}"}
    response = await client.request(method, f"/v1{path}", json=body, headers=headers)
    assert response.status_code == expected
