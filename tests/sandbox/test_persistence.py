"""What the simulated Webex still knows after the end of its process."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.sandbox.store import Store
from tests.sandbox.simulated import batch, client_of, ledger, meeting_body, opened, people, schedule, statuses

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def killed_afterwards(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A sandbox process with people registering fast; it gets SIGKILL at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.sandbox.killed", str(path), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout
    try:
        # The pipe carries the log lines too.
        while not (line := (await process.stdout.readline()).decode()).startswith("http"):
            assert line, "the sandbox ended before it served"
        headers = {"authorization": "Bearer token"}
        draining = asyncio.create_task(process.stdout.read())
        async with httpx.AsyncClient(base_url=line.strip(), headers=headers, trust_env=False) as client:
            yield client
    finally:
        process.kill()
        await process.wait()
    await draining


async def registered(client: httpx.AsyncClient, count: int) -> dict[str, Any]:
    """The ledger once that many people have registered."""
    async with asyncio.timeout(10):
        while len((shown := await ledger(client))["effects"]) < count:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    return shown


async def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """After SIGKILL the same meetings, people, statuses and counts are there, and people go on registering."""
    path = tmp_path / "sandbox.db"
    async with killed_afterwards(path) as client:
        await registered(client, 30)
        meetings = (await client.get("/v1/meetings?max=100")).json()["items"]
        ids = list(await statuses(client, meetings[0]["id"]))[:5]
        assert (await batch(client, meetings[0]["id"], "approve", ids)).status_code == 204
        before = await ledger(client)
    async with killed_afterwards(path) as client:
        after = await registered(client, len(before["effects"]) + 10)
        assert {meeting["id"] for meeting in meetings} <= {
            meeting["id"] for meeting in (await client.get("/v1/meetings?max=100")).json()["items"]
        }
        assert {id_: after["effects"][id_] for id_ in before["effects"]} == before["effects"]
        assert [after["effects"][id_]["approved"] for id_ in ids] == [1] * 5
        assert after["calls"][: len(before["calls"])] == before["calls"]
        assert after["tallies"]["batchApproveMeetingRegistrants 204"] == 1
        emails = [await emails_of(client, meeting["id"]) for meeting in meetings]
        assert all(len(set(addresses)) == len(addresses) for addresses in emails)


async def emails_of(client: httpx.AsyncClient, series: str) -> list[str]:
    """The addresses on one page."""
    response = await client.get(f"/v1/meetings/{series}/registrants?max=100")
    return [registrant["email"] for registrant in response.json()["items"]]


async def test_a_file_opened_again_is_the_same_world(tmp_path: Path) -> None:
    """Every answer after reopening is the one given before, deletions and identity included."""
    paths = ["/v1/meetings?max=100", "/sandbox/ledger"]
    with opened(tmp_path / "sandbox.db", seed="first") as world:
        async with client_of(world) as client:
            series, gone = await schedule(client), await schedule(client)
            ids = await people(client, series, 5)
            await batch(client, series, "reject", ids[:2])
            await batch(client, series, "bulkDelete", ids[4:])
            await client.delete(f"/v1/meetings/{gone}")
            paths.append(f"/v1/meetings/{series}/registrants")
            before = [(await client.get(path)).json() for path in reversed(paths)]
    with opened(tmp_path / "sandbox.db", seed="ignored: the file has its own") as world:
        async with client_of(world) as client:
            after = [(await client.get(path)).json() for path in paths]
        assert world.identity.seed == "first"
    assert after[2] == before[0]
    assert after[0] == before[2]
    assert [after[1]["effects"], after[1]["webhooks"]] == [before[1]["effects"], before[1]["webhooks"]]
    assert after[1]["calls"][: len(before[1]["calls"])] == before[1]["calls"]


async def test_everything_else_is_the_same_too(tmp_path: Path) -> None:
    """Webhooks, guests, tokens, links, limits, occurrences, instances and the clock survive."""
    reads = (
        "/v1/webhooks",
        "/v1/guests/count",
        "/sandbox/limits",
        "/sandbox/clock",
        "/v1/meetings?meetingType=meeting",
    )
    hook = {"name": "Hook", "targetUrl": "http://127.0.0.1:9/", "resource": "meetings", "event": "all", "secret": "x"}
    with opened(tmp_path / "sandbox.db") as world:
        async with client_of(world) as client:
            await client.post("/v1/webhooks", json=hook)
            await client.post("/v1/guests/token", json={"subject": "a", "displayName": "Ada"})
            await client.post("/sandbox/limits", json={"licence": 2, "meetingsPerDay": 3})
            await client.post("/sandbox/clock", json={"advanceSeconds": 3600, "speed": 0})
            pair = (await client.post("/sandbox/tokens", json={"scopes": ["guest-issuer:read"]})).json()
            series = await schedule(client, recurrence="FREQ=DAILY;COUNT=3", registration=None)
            second = f"/v1/meetings/{series}_20260112T090000Z"
            await client.patch(second, json={"title": "Other"})
            links = (await client.post("/v1/meetings/join", json={"meetingId": series, "joinDirectly": False})).json()
            await client.get(links["startLink"])
            before = [(await client.get(path)).text for path in (*reads, second, links["joinLink"])]
    with opened(tmp_path / "sandbox.db") as world:
        async with client_of(world) as client:
            assert [(await client.get(path)).text for path in (*reads, second, links["joinLink"])] == before
            headers = {"authorization": f"Bearer {pair['access_token']}"}
            assert (await client.get("/v1/guests/count", headers=headers)).status_code == 200
            assert (await client.get("/v1/meetings", headers=headers)).status_code == 403
            statuses = [(await client.post("/v1/meetings", json=meeting_body())).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(
            "/v1/webhooks", {"name": "Hook", "targetUrl": "http://x/", "resource": "rooms", "event": "all"}, id="hook"
        ),
        pytest.param("/v1/guests/token", {"subject": "a", "displayName": "Ada"}, id="a guest"),
        pytest.param("/v1/meetings", meeting_body(), id="an operation"),
        pytest.param("/v1/meetings", {}, id="a refused operation"),
        pytest.param("/sandbox/people", {"count": 2}, id="people"),
    ],
)
async def test_what_was_answered_is_in_the_file(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """Each change is durable when its answer arrives, and so is the call's line in the ledger."""
    with opened(tmp_path / "sandbox.db") as world:
        async with client_of(world) as client:
            series = await schedule(client)
            await client.post(path, json={**body, "meetingId": series})
            answered = [len(world.meetings()), world.registry.statuses(), world.ledger.shown(statuses={})]
    with opened(tmp_path / "sandbox.db") as world:
        assert [len(world.meetings()), world.registry.statuses(), world.ledger.shown(statuses={})] == answered


async def test_what_was_not_committed_never_happened(tmp_path: Path) -> None:
    """A change without its commit is not in the file: an answer is given only after the commit."""
    with opened(tmp_path / "sandbox.db") as world:
        world.create_meeting(meeting_body())
    with opened(tmp_path / "sandbox.db") as world:
        assert world.meetings() == ()


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    """A second sandbox on the same file is refused, for each would answer from its own memory."""
    first = Store(tmp_path / "sandbox.db")
    try:
        first.save([("kind", "key", b"1")])
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            Store(tmp_path / "sandbox.db", patience=0.05)
    finally:
        first.close()


def test_changes_are_written_together(tmp_path: Path) -> None:
    """One change that cannot be written keeps all of them out."""
    store = Store(tmp_path / "sandbox.db")
    try:
        store.save([("a", "1", b"old")])
        with pytest.raises(sqlite3.Error):
            store.save([("a", "1", b"new"), ("a", "2", object())])  # type: ignore[list-item]  # what SQLite cannot store
        assert list(store.load("a")) == [("1", b"old")]
    finally:
        store.close()
