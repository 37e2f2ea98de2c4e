"""Signed webhooks, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from service.sandbox.deliveries import Deliveries
from service.sandbox.world import World
from tests.sandbox.simulated import Clock, meeting_body, opened
from tests.servers import running

SECRET = b"a secret of forty characters, or of less"
Arrived = tuple[bytes, dict[str, str]]


class Receiver:
    """Keeps what arrives and answers as it is told."""

    def __init__(self, *statuses: int) -> None:
        self.arrived: list[Arrived] = []
        self._statuses = list(statuses)

    async def endpoint(self, request: Request) -> Response:
        self.arrived.append((await request.body(), dict(request.headers)))
        return Response(status_code=self._statuses.pop(0) if self._statuses else 204)

    @property
    def events(self) -> list[tuple[str, str]]:
        """Event and id of everything that arrived."""
        bodies = [json.loads(body) for body, _ in self.arrived]
        return [(body["event"], body["data"]["id"]) for body in bodies]

    @contextlib.asynccontextmanager
    async def address(self) -> AsyncIterator[str]:
        """Where it listens."""
        app = Starlette(routes=[Route("/hook", self.endpoint, methods=["POST"])])
        async with running(app) as base_url:
            yield f"{base_url}/hook"

    @contextlib.asynccontextmanager
    async def told(self, world: World, **options: Any) -> AsyncIterator[None]:
        """Deliveries run from ``world`` to this receiver meanwhile."""
        async with self.address() as url:
            task = asyncio.create_task(Deliveries(url, SECRET, **options).run(world))
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def until(true: Callable[[], bool]) -> None:
    """Wait for it, 5 s at most."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for is another task's doing
            await asyncio.sleep(0.005)


async def test_everything_that_happens_to_a_meeting_is_told_in_order() -> None:
    """Created, updated, started, ended and deleted arrive in that order, with ids of the right grammar."""
    receiver = Receiver()
    clock = Clock()
    with opened(clock=clock) as world:
        meeting = world.create_meeting(meeting_body())
        world.update_meeting(meeting.id, {"title": "Other"})
        clock.advance(days=1)
        world.advance()
        instance = world.find_meeting(meeting.id).instance
        clock.advance(hours=1)
        world.advance()
        world.delete_meeting(meeting.id)
        world.commit()
        async with receiver.told(world):
            await until(lambda: world.outgoing.figures()["waiting"] == 0)
        assert receiver.events == [
            ("created", meeting.id),
            ("updated", meeting.id),
            ("started", instance),
            ("ended", instance),
            ("deleted", meeting.id),
        ]
        assert world.outgoing.figures() == {"delivered": 5, "failed": 0, "attempts": 5, "waiting": 0}


async def test_a_delivery_is_signed_twice_over_its_bytes() -> None:
    """Both signature headers are the HMACs of exactly the bytes that arrived."""
    receiver = Receiver()
    with opened() as world:
        async with receiver.told(world):
            world.create_meeting(meeting_body())
            world.commit()
            await until(lambda: bool(receiver.arrived))
    body, headers = receiver.arrived[0]
    sha1, sha256, sha512 = (
        hmac.new(SECRET, body, algorithm).hexdigest() for algorithm in (hashlib.sha1, hashlib.sha256, hashlib.sha512)
    )
    assert headers["x-spark-signature"] == sha1
    assert headers["x-webex-signature"] == f"SHA-256={sha256}, SHA-512={sha512}"
    assert headers["content-type"] == "application/json;charset=UTF-8"
    assert headers["user-agent"] == "SparkWebhook/1.0"
    assert headers["trackingid"]


async def test_the_envelope_is_webexs() -> None:
    """The envelope has the fields of Cisco's sample, thin data without title or password, and Webex's kinds of ids."""
    receiver = Receiver()
    with opened() as world:
        async with receiver.told(world):
            meeting = world.create_meeting(meeting_body())
            world.commit()
            await until(lambda: bool(receiver.arrived))
    envelope = json.loads(receiver.arrived[0][0])
    assert set(envelope) == set(
        "id name targetUrl resource event orgId createdBy appId ownedBy status created data".split()  # noqa: SIM905
    )
    assert (envelope["resource"], envelope["status"], envelope["ownedBy"]) == ("meetings", "active", "creator")
    for name, kind in {
        "orgId": "us/ORGANIZATION/",
        "createdBy": "us/PEOPLE/",
        "id": "urn:TEAM:us-west-2_r/WEBHOOK/",
    }.items():
        assert base64.b64decode(envelope[name] + "==").decode().startswith(f"ciscospark://{kind}")
    assert envelope["data"] == {
        "id": meeting.id,
        "meetingType": "meetingSeries",
        "timezone": "UTC",
        "start": "2026-01-11T09:00:00Z",
        "end": "2026-01-11T10:00:00Z",
        "hostUserId": envelope["createdBy"],
        "state": "active",
        "hostEmail": "host@example.com",
        "siteUrl": "example.webex.com",
        "orgId": world.identity.uuid("ORGANIZATION"),
    }


async def test_what_is_not_answered_2xx_is_tried_again_byte_for_byte() -> None:
    """Later tries carry the same body; what follows of the same meeting waits for its turn."""
    receiver = Receiver(503, 302)
    with opened() as world:
        meeting = world.create_meeting(meeting_body())
        world.update_meeting(meeting.id, {"title": "Other"})
        world.commit()
        async with receiver.told(world, delays=(0.01, 0.02)):
            await until(lambda: world.outgoing.figures()["waiting"] == 0)
        assert [event for event, _ in receiver.events] == ["created"] * 3 + ["updated"]
        assert len({body for body, _ in receiver.arrived[:3]}) == 1
        assert world.outgoing.figures() == {"delivered": 2, "failed": 0, "attempts": 4, "waiting": 0}


async def test_tries_are_bounded_and_their_delays_are_kept() -> None:
    """After the last try a webhook is lost and the next one has its turn; no try comes before its delay is over."""
    receiver = Receiver(500, 500, 500)
    loop = asyncio.get_running_loop()
    with opened() as world:
        meeting = world.create_meeting(meeting_body())
        world.update_meeting(meeting.id, {"title": "Other"})
        world.commit()
        begun = loop.time()
        async with receiver.told(world, delays=(0.05, 0.1)):
            await until(lambda: world.outgoing.figures()["waiting"] == 0)
        assert loop.time() - begun >= 0.15
        assert [event for event, _ in receiver.events] == ["created"] * 3 + ["updated"]
        assert world.outgoing.figures() == {"delivered": 1, "failed": 1, "attempts": 4, "waiting": 0}


async def test_another_meeting_does_not_wait_for_one_that_fails() -> None:
    """While one meeting's webhook waits for its next try, those of others are delivered."""
    receiver = Receiver(503)
    with opened() as world:
        async with receiver.told(world, delays=(30.0,)):
            world.create_meeting(meeting_body())
            world.commit()
            await until(lambda: len(receiver.arrived) == 1)
            other = world.create_meeting(meeting_body())
            world.commit()
            await until(lambda: ("created", other.id) in receiver.events)
            await until(lambda: world.outgoing.figures()["waiting"] == 1)  # the answer may still be on its way


async def test_an_unreachable_receiver_loses_nothing_across_a_restart(tmp_path: Path) -> None:
    """What could not be delivered before the end of the process is delivered after its next start."""
    with opened(tmp_path / "sandbox.db") as world:
        meeting = world.create_meeting(meeting_body())
        world.commit()
        task = asyncio.create_task(Deliveries("http://127.0.0.1:1/hook", SECRET, delays=(30.0,)).run(world))
        await until(lambda: world.outgoing.figures()["attempts"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    receiver = Receiver()
    with opened(tmp_path / "sandbox.db") as world:
        async with receiver.told(world):
            await until(lambda: receiver.events == [("created", meeting.id)])
            await until(lambda: world.outgoing.figures()["delivered"] == 1)


async def test_a_queue_nobody_empties_is_bounded() -> None:
    """Where nothing delivers, the oldest webhooks beyond a thousand are given up and counted as failed."""
    with opened() as world:
        meeting = world.create_meeting(meeting_body())
        for n in range(1_001):
            world.update_meeting(meeting.id, {"agenda": str(n)})
        world.commit()
        assert world.outgoing.figures() == {"delivered": 0, "failed": 2, "attempts": 0, "waiting": 1_000}


async def test_deliveries_are_logged_with_ids_only() -> None:
    """Each try leaves one line with the meeting's id and the answer, and nothing about people."""
    receiver = Receiver(503)
    with capture_logs() as logs, opened() as world:
        async with receiver.told(world, delays=(0.01,)):
            meeting = world.create_meeting(meeting_body())
            world.commit()
            await until(lambda: world.outgoing.figures()["delivered"] == 1)
    about = {"event_name": "created", "meeting_id": meeting.id, "log_level": "info"}
    assert logs[1:] == [
        {"event": "sandbox.webhook_postponed", **about, "status": 503, "attempt": 1},
        {"event": "sandbox.webhook_delivered", **about, "status": 204, "attempt": 2},
    ]
