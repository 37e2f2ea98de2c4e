"""A sandbox in which every kind of thing exists, so that a judge who knows Cisco's document alone finds something to judge."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta

from starlette.types import ASGIApp

from service.sandbox.app import create_app
from service.sandbox.tokens import Caller
from service.sandbox.world import World
from tests.servers import running

#: The sandbox's clock stands still, so that every run is the same.
NOW = datetime(2030, 1, 10, 9, tzinfo=UTC)

#: Meetings with registration: a judge deletes some of them.
MANY = 40

#: Ids by the name of the path parameter, for whoever has to fill one in.
Ids = Mapping[str, list[str]]

_QUESTION = {
    "question": "Team",
    "type": "dropdownList",
    "options": [{"value": "A"}, {"value": "B"}],
    "rules": [{"condition": "equals", "value": "B", "result": "reject"}],
}


@contextlib.asynccontextmanager
async def populated(around: Callable[[ASGIApp], ASGIApp] | None = None) -> AsyncIterator[tuple[str, Ids]]:
    """Its address without ``/v1``, and the ids in it; ``around`` wraps the app."""
    with contextlib.closing(World.open(None, now=lambda: NOW, seed="contract")) as world:
        ids = _populate(world)
        app = create_app(world)
        async with running(around(app) if around else app) as base_url:
            yield base_url, ids


def _populate(world: World) -> Ids:
    soon = world.now() + timedelta(hours=1)
    times = {"start": soon.isoformat(), "end": (soon + timedelta(hours=1)).isoformat()}
    form = {"autoAcceptRequest": False, "customizedQuestions": [_QUESTION]}
    open_ = [world.create_meeting({"title": "With registration", **times, "registration": form}) for _ in range(MANY)]
    spare, open_ = open_[: MANY // 2], open_[MANY // 2 :]
    people = [person for meeting in open_ for person in world.registry.register_people(meeting, 3)]
    recurring = world.create_meeting({"title": "Recurring", **times, "recurrence": "FREQ=DAILY;COUNT=5"})
    held = world.end_meeting(world.start_meeting(world.create_meeting({"title": "Held", **times})))
    going = [world.start_meeting(world.create_meeting({"title": "In progress", **times})) for _ in range(MANY)]
    body = {"name": "All", "targetUrl": "http://127.0.0.1:9/", "resource": "meetings", "event": "updated"}
    hooks = [world.webhooks.create(Caller(), body) for _ in range(MANY)]
    world.commit()
    others = [recurring.id, recurring.occurrence, held.instance, going[-1].id, going[-1].instance]
    return {
        "meetingId": [*(meeting.id for meeting in open_), *others],
        "registrantId": [person.id for person in people],
        "registrants": [f"{person.meeting} {person.id}" for person in people],
        "open": [meeting.id for meeting in open_],
        "spare": [meeting.id for meeting in spare],
        "inProgress": [meeting.id for meeting in going],
        "webhookId": [hook.id for hook in hooks],
        "applicationId": [world.identity.public_id("APPLICATION")],
    }
