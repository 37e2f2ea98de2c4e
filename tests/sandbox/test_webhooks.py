"""Webhooks that were registered: the API, what each hears of, deliveries with secrets of their own, and being switched off."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import httpx
import pytest

from service.sandbox.deliveries import Deliveries
from service.sandbox.tokens import Caller
from service.sandbox.world import Host, World
from tests.sandbox.simulated import Clock, client_of, meeting_body, opened, schedule
from tests.sandbox.test_deliveries import SECRET, Receiver, until

HOOK = {"name": "Hook", "targetUrl": "http://127.0.0.1:9/hook", "resource": "meetings", "event": "created"}
UPDATE = {"name": "Other", "targetUrl": "https://example.com/other"}


async def hooked(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    """One that is taken."""
    body = {name: value for name, value in {**HOOK, **change}.items() if value is not None}
    response = await client.post("/v1/webhooks", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


# -- the API -----------------------------------------------------------------------------------------------------------


async def test_a_webhook_lives(client: httpx.AsyncClient) -> None:
    """Created, listed, read with its secret, changed in what may be changed, deleted."""
    hook = await hooked(client, secret="s3cret", filter="state=active")
    assert hook == {
        **HOOK,
        "id": hook["id"],
        "secret": "s3cret",
        "filter": "state=active",
        "status": "active",
        "created": "2026-01-10T09:00:00.000Z",
        "ownedBy": "creator",
    }
    path = f"/v1/webhooks/{hook['id']}"
    assert (await client.get(path)).json() == hook
    changed = await client.put(path, json={**UPDATE, "secret": "new", "resource": "rooms", "event": "left"})
    assert changed.json() == {**hook, **UPDATE, "secret": "new"}
    assert (await client.get("/v1/webhooks")).json() == {"items": [changed.json()]}
    assert (await client.delete(path)).status_code == 204
    for method, body in (("GET", None), ("PUT", UPDATE), ("DELETE", None)):
        assert (await client.request(method, path, json=body)).status_code == 404


async def test_the_organizations_webhooks_are_a_list_of_their_own(client: httpx.AsyncClient) -> None:
    """A plain list does not have them, ``ownedBy=org`` has nothing else; ``max`` and ``Link`` page both."""
    own = [(await hooked(client, name=name))["id"] for name in "abc"]
    org = (await hooked(client, ownedBy="org"))["id"]
    first = await client.get("/v1/webhooks", params={"max": 2})
    second = await client.get(first.links["next"]["url"])
    assert [hook["id"] for page in (first, second) for hook in page.json()["items"]] == own
    listed = (await client.get("/v1/webhooks", params={"ownedBy": "org"})).json()["items"]
    assert [hook["id"] for hook in listed] == [org]
    assert (await client.get("/v1/webhooks", params={"ownedBy": "me"})).status_code == 400


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"event": "all"}, 200, id="all events"),
        pytest.param({"filter": "hostEmail=a@b.example", "ownedBy": "org"}, 200, id="host of the organization"),
        pytest.param({"resource": "meetingParticipants", "event": "joined"}, 200, id="participants"),
        pytest.param({"resource": "serviceApp", "event": "authorized"}, 200, id="service app"),
        pytest.param({"name": None}, 400, id="no name"),
        pytest.param({"name": ""}, 400, id="empty name"),
        pytest.param({"targetUrl": "ftp://example.com"}, 400, id="scheme"),
        pytest.param({"targetUrl": "http://"}, 400, id="no host"),
        pytest.param({"targetUrl": "http://[x"}, 400, id="no address"),
        pytest.param({"resource": "registrants"}, 400, id="resource that is none"),
        pytest.param({"event": "exploded"}, 400, id="event that is none"),
        pytest.param({"event": "joined"}, 400, id="event of another resource"),
        pytest.param({"filter": "roomId=x"}, 400, id="filter of another resource"),
        pytest.param({"filter": "hostEmail=a@b.example"}, 400, id="host without the organization"),
        pytest.param({"ownedBy": "me"}, 400, id="owner that is none"),
        pytest.param(
            {"resource": "serviceApp", "event": "authorized", "ownedBy": "org"}, 400, id="not for organizations"
        ),
    ],
)
async def test_what_a_webhook_must_be(client: httpx.AsyncClient, change: dict[str, Any], status: int) -> None:
    """The rules of the Webhooks guide."""
    body = {name: value for name, value in {**HOOK, **change}.items() if value is not None}
    assert (await client.post("/v1/webhooks", json=body)).status_code == status


async def test_an_organization_has_one_webhook_of_a_kind(client: httpx.AsyncClient) -> None:
    """The same resource, event and filter twice gets 409; one's own may repeat."""
    for owner, status in (("org", 409), (None, 200)):
        await hooked(client, ownedBy=owner)
        again = {**HOOK, **({"ownedBy": owner} if owner else {})}
        assert (await client.post("/v1/webhooks", json=again)).status_code == status


@pytest.mark.parametrize(
    ("hook", "heard"),
    [
        pytest.param({"event": "updated"}, ["updated"], id="one event"),
        pytest.param({"event": "all"}, ["created", "updated", "deleted"], id="all are three"),
        pytest.param({"event": "started"}, ["started"], id="started"),
        pytest.param({"event": "all", "filter": "state=active"}, ["created", "updated", "deleted"], id="filter"),
        pytest.param({"event": "all", "filter": "state=Active"}, [], id="filters know case"),
        pytest.param({"event": "all", "filter": "state=active&siteUrl=other.webex.com"}, [], id="two filters"),
        pytest.param(
            {"event": "all", "ownedBy": "org", "filter": "hostEmail=host@example.com"},
            ["created", "updated", "deleted"],
            id="host",
        ),
        pytest.param({"resource": "meetingParticipants", "event": "joined"}, [], id="another resource"),
    ],
)
def test_what_a_webhook_hears(hook: dict[str, str], heard: list[str]) -> None:
    """Of its resource and event, as far as its filter fits."""
    clock = Clock()
    with opened(clock=clock) as world:
        id_ = world.webhooks.create(Caller(), {**HOOK, **hook}).id
        meeting = world.create_meeting(meeting_body())
        world.update_meeting(meeting.id, {"title": "Other"})
        clock.advance(days=1)
        world.advance()
        clock.advance(hours=1)
        world.advance()
        world.delete_meeting(meeting.id)
        waiting = []
        while heads := [head for head in world.outgoing.heads() if head.hook == id_]:
            waiting += [head.event for head in heads]
            world.outgoing.skip(heads[0])
    assert waiting == heard


@pytest.mark.parametrize(("owner", "heard"), [("creator", 0), ("org", 1)])
def test_only_the_organizations_webhook_hears_of_other_hosts(owner: str, heard: int) -> None:
    """One's own hears of one's own meetings."""
    with opened() as world:
        hook = world.webhooks.create(Caller(), {**HOOK, "ownedBy": owner}).id
        world.create_meeting(meeting_body(), Host(Caller(), "other@example.com"))
        mine = [head for head in world.outgoing.heads() if head.hook == hook]
        assert len([head for head in mine if head.data["hostEmail"] == "other@example.com"]) == heard


# -- deliveries --------------------------------------------------------------------------------------------------------


async def test_each_webhook_has_its_own_secret_and_envelope(world: World, client: httpx.AsyncClient) -> None:
    """Signed with its secret, with both headers, or not at all where it has none; the envelope names the registration."""
    receiver = Receiver()
    async with receiver.told(world), receiver.address() as url:
        with_secret = await hooked(client, targetUrl=url, secret="s3cret", filter="state=active")
        without = await hooked(client, targetUrl=url, event="all", ownedBy="org")
        await schedule(client)
        await until(lambda: world.outgoing.figures()["waiting"] == 0)
    arrived = {json.loads(body)["id"]: (body, headers) for body, headers in receiver.arrived}
    body, headers = arrived[with_secret["id"]]
    digest = hmac.new(b"s3cret", body, hashlib.sha512).hexdigest()
    assert f"SHA-512={digest}" in headers["x-webex-signature"]
    envelope = json.loads(body)
    shown = {name: value for name, value in with_secret.items() if name not in ("secret", "event", "resource")}
    assert {name: envelope[name] for name in shown} == shown
    plain, bare = arrived[without["id"]]
    assert not {name for name in bare if name.endswith("signature")}
    assert (json.loads(plain)["ownedBy"], "filter" in json.loads(plain)) == ("org", False)
    assert len(receiver.arrived) == 3


async def test_an_address_that_is_registered_is_not_told_twice(world: World, client: httpx.AsyncClient) -> None:
    """The sandbox's own address hears through its registration of what that hears of, and of the rest as before."""
    receiver = Receiver()
    async with receiver.address() as url:
        await hooked(client, targetUrl=url, secret="s3cret")
        task = asyncio.create_task(Deliveries(url, SECRET).run(world))
        series = await schedule(client)
        await client.patch(f"/v1/meetings/{series}", json={"title": "Other"})
        await until(lambda: world.outgoing.figures()["waiting"] == 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert sorted(event for event, _ in receiver.events) == ["created", "updated"]


async def test_registered_webhooks_are_delivered_without_an_address_of_ones_own(
    world: World, client: httpx.AsyncClient
) -> None:
    """What would have gone there waits."""
    receiver = Receiver()
    async with receiver.address() as url:
        await hooked(client, targetUrl=url)
        task = asyncio.create_task(Deliveries(None, b"").run(world))
        await schedule(client)
        await until(lambda: len(receiver.arrived) == 1)
        await until(lambda: world.outgoing.figures()["delivered"] == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert world.outgoing.figures()["waiting"] == 1


# -- switched off ------------------------------------------------------------------------------------------------------


def fail(world: World, hook: str, times: int) -> int:
    """That many attempts fail; how many until the webhook was switched off, 0 where it was not."""
    return next((n for n in range(1, times + 1) if world.webhooks.failed(hook)), 0)


def test_a_hundred_failures_in_five_minutes_switch_it_off(world: World, clock: Clock) -> None:
    """99 do not, nor do a hundred over a longer time; what is off hears of nothing and does not come back by itself."""
    hook = world.webhooks.create(Caller(), HOOK).id
    assert fail(world, hook, 99) == 0
    clock.advance(minutes=5, seconds=1)
    assert fail(world, hook, 99) == 0
    assert fail(world, hook, 1) == 1
    world.create_meeting(meeting_body())
    assert [head for head in world.outgoing.heads() if head.hook] == []
    clock.advance(days=1)
    assert world.webhooks.find(Caller(), hook).active is False


@pytest.mark.parametrize(("minutes", "needed"), [(5, 1), (6, 100)], ids=["within five minutes", "later"])
async def test_the_trap_of_switching_it_on_again(
    world: World, client: httpx.AsyncClient, clock: Clock, minutes: int, needed: int
) -> None:
    """Switched on within five minutes of the end, one failure is enough; later it takes a hundred again."""
    hook = (await hooked(client))["id"]
    fail(world, hook, 100)
    path = f"/v1/webhooks/{hook}"
    assert (await client.get(path)).json()["status"] == "inactive"
    assert (await client.put(path, json=UPDATE)).json()["status"] == "inactive"
    assert (await client.put(path, json={**UPDATE, "status": "inactive"})).status_code == 400
    clock.advance(minutes=minutes)
    assert (await client.put(path, json={**UPDATE, "status": "active"})).json()["status"] == "active"
    assert fail(world, hook, 100) == needed


async def test_what_waits_for_a_webhook_that_is_off_is_lost(world: World, client: httpx.AsyncClient) -> None:
    """Failing deliveries switch it off; nothing is tried afterwards, and switching on does not bring anything back."""
    receiver = Receiver(*[500] * 1_000)
    async with receiver.address() as url:
        hook = (await hooked(client, targetUrl=url, event="all"))["id"]
        fail(world, hook, 97)
        for _ in range(5):
            await schedule(client)
        task = asyncio.create_task(Deliveries(None, b"", delays=(0.01,)).run(world))
        await until(lambda: not [head for head in world.outgoing.heads(default=False) if head.hook == hook])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert world.webhooks.find(Caller(), hook).active is False
    assert 3 <= len(receiver.arrived) <= 5


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "arrived"),
    [
        pytest.param({"webhook": "lose", "event": "updated"}, ["created", "deleted"], id="lost"),
        pytest.param(
            {"webhook": "duplicate", "event": "updated"}, ["created", "updated", "updated", "deleted"], id="twice"
        ),
        pytest.param(
            {"webhook": "duplicate", "copies": 5, "probability": 1},
            [each for event in ("created", "updated", "deleted") for each in [event] * 5],
            id="five times each",
        ),
        pytest.param({"webhook": "reorder", "event": "created"}, ["updated", "created", "deleted"], id="out of order"),
        pytest.param(
            {"webhook": "late", "event": "created", "seconds": 0.2}, ["updated", "deleted", "created"], id="late"
        ),
    ],
)
async def test_webhooks_go_astray(
    world: World, client: httpx.AsyncClient, fault: dict[str, Any], arrived: list[str]
) -> None:
    """Lost, twice, out of order or late, as asked for, once."""
    receiver = Receiver()
    await client.post("/sandbox/faults", json=fault)
    async with receiver.told(world):
        series = await schedule(client)
        await client.patch(f"/v1/meetings/{series}", json={"title": "Other"})
        await client.delete(f"/v1/meetings/{series}")
        await until(lambda: len(receiver.arrived) == len(arrived))
    assert [event for event, _ in receiver.events] == arrived


async def test_what_was_swapped_survives_a_restart(tmp_path: Any) -> None:
    """One that waits for its follower still does after the next start."""
    receiver = Receiver()
    with opened(tmp_path / "sandbox.db") as world:
        async with client_of(world) as client:
            await client.post("/sandbox/faults", json={"webhook": "reorder"})
            series = await schedule(client)
    with opened(tmp_path / "sandbox.db") as world:
        async with receiver.told(world):
            world.update_meeting(series, {"title": "Other"})
            world.commit()
            await until(lambda: len(receiver.arrived) == 2)
    assert [event for event, _ in receiver.events] == ["updated", "created"]


async def test_consent_to_a_service_app_is_told(world: World, client: httpx.AsyncClient) -> None:
    """Authorising and withdrawing each raise their event, with the organisation in the data."""
    receiver = Receiver()
    async with receiver.told(world):
        for event in ("authorize", "deauthorize"):
            await client.post(f"/sandbox/organizations/theirs/{event}", json={"app": "app"})
        await until(lambda: len(receiver.arrived) == 2)
    bodies = [json.loads(body) for body, _ in receiver.arrived]
    assert [(body["resource"], body["event"]) for body in bodies] == [
        ("serviceApp", "authorized"),
        ("serviceApp", "deauthorized"),
    ]
    assert bodies[0]["data"] == {
        "id": "app",
        "authorizerOrgId": "theirs",
        "authorizationDate": "2026-01-10T09:00:00.000Z",
    }


async def test_anything_can_be_told(world: World, client: httpx.AsyncClient) -> None:
    """A notification of one's own goes to whoever hears of it; one without data is refused."""
    receiver = Receiver()
    data = {"id": "p", "meetingId": "m", "state": "joined"}
    async with receiver.told(world):
        sent = {"resource": "meetingParticipants", "event": "joined", "data": data}
        assert (await client.post("/sandbox/notifications", json=sent)).status_code == 200
        await until(lambda: len(receiver.arrived) == 1)
    assert json.loads(receiver.arrived[0][0])["data"] == data
    assert (await client.post("/sandbox/notifications", json={"resource": "x"})).status_code == 400
