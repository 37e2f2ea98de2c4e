"""The pace of the simulated Webex: meetings are scheduled, people register, hosts change things, for ever.

Every step follows from what the world has counted so far and from the seed: so a restart goes on where the last run ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from service.sandbox.records import MeetingRecord, Stage
from service.sandbox.world import World

_TITLES = ("Partner briefing", "Product webinar", "Partner workshop", "Architecture hour", "Customer forum")


@dataclass(frozen=True)
class Pace:
    """How fast, and how much in all. Seconds between two registrations are drawn from ``fastest`` to ``slowest``.

    Another meeting follows after every ``people_per_meeting`` registrations, an update after every ``update_every``.
    With ``meetings`` meetings of ``people`` each the world is full: then something happens every ``quiet`` seconds only.
    """

    seed: str = "sandbox"
    fastest: float = 1.0
    slowest: float = 3.0
    people_per_meeting: int = 25
    update_every: int = 40
    meetings: int = 20
    people: int = 500
    quiet: float = 300.0


async def run_simulation(
    world: World, pace: Pace, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Live for ever; ends only by being cancelled."""
    while True:
        await sleep(step(world, pace))


async def run_clock(
    world: World, *, interval: float = 0.25, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Start and end meetings when their time comes, for ever; looks every ``interval`` seconds of real time."""
    while True:
        if world.advance():
            world.commit()
        await sleep(interval)


def step(world: World, pace: Pace) -> float:
    """Do one thing, durably. Returns the seconds until the next."""
    world.advance()
    counted = world.counters
    chance = random.Random(f"{pace.seed}/{counted.meetings}/{counted.registered}/{counted.updates}")  # noqa: S311 - a pace
    open_meetings = [meeting for meeting in world.meetings() if _takes_people(world, meeting, pace)]
    if _wants_meeting(world, pace, taking=bool(open_meetings)):
        schedule(world, pace, chance)
        delay = min(pace.fastest, 0.5)
    elif open_meetings:
        _register(world, pace, chance.choice(open_meetings))
        delay = chance.uniform(pace.fastest, pace.slowest)
    else:
        _renew(world, pace, chance)
        delay = pace.quiet
    world.commit()
    return delay


def _wants_meeting(world: World, pace: Pace, *, taking: bool) -> bool:
    """Counted over the world's whole life: a meeting that somebody deletes is not replaced while others take people."""
    counted = world.counters
    due = counted.registered >= pace.people_per_meeting * counted.meetings
    return len(world.meetings()) < pace.meetings and (due or not taking)


def _takes_people(world: World, meeting: MeetingRecord, pace: Pace) -> bool:
    taking = meeting.registration is not None and meeting.stage is Stage.SCHEDULED
    return taking and len(world.registry.of(meeting)) < _capacity(meeting, pace)


def _capacity(meeting: MeetingRecord, pace: Pace) -> int:
    given = (meeting.registration or {}).get("maxRegisterNum")
    return min(given, pace.people) if isinstance(given, int) else pace.people


def schedule(world: World, pace: Pace, chance: random.Random) -> MeetingRecord:
    """A meeting with registration, some days ahead."""
    number = world.counters.meetings
    hour = world.now().replace(minute=0, second=0, microsecond=0)
    start = hour + timedelta(hours=chance.randint(48, 160))
    return world.create_meeting(
        {
            "title": f"{_TITLES[number % len(_TITLES)]} {number + 1}",
            "start": start.isoformat(),
            "end": (start + timedelta(hours=1)).isoformat(),
            "registration": {"autoAcceptRequest": False, "maxRegisterNum": pace.people},
        }
    )


def _register(world: World, pace: Pace, meeting: MeetingRecord) -> None:
    world.registry.register_people(meeting, 1)
    if world.counters.registered % pace.update_every == 0:
        _update(world, meeting)


def _update(world: World, meeting: MeetingRecord) -> None:
    world.update_meeting(meeting.id, {"agenda": f"Agenda, revision {world.counters.updates + 1}"})


def _renew(world: World, pace: Pace, chance: random.Random) -> None:
    """The world is full: the oldest meeting that is over makes room for a new one; else somebody changes an agenda."""
    over = [meeting for meeting in world.meetings() if meeting.stage is Stage.ENDED]
    if over:
        world.forget_meeting(over[0])
        schedule(world, pace, chance)
        return
    scheduled = [meeting for meeting in world.meetings() if meeting.stage is Stage.SCHEDULED]
    if scheduled:
        _update(world, chance.choice(scheduled))
