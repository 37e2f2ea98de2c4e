"""The pace at which the simulated Webex lives."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from service.sandbox.people import invent
from service.sandbox.simulation import Pace, run_clock, run_simulation, step
from service.sandbox.world import World
from tests.sandbox.simulated import Clock, meeting_body, opened

SMALL = Pace(people_per_meeting=5, update_every=4, meetings=3, people=8)


def figures(world: World) -> list[tuple[str, int]]:
    """Each meeting with the number of its registrants."""
    return [(meeting.id, len(world.registry.of(meeting))) for meeting in world.meetings()]


def lived(steps: int, *, pace: Pace = SMALL) -> list[tuple[str, int]]:
    """A fresh world after some steps."""
    with opened() as world:
        for _ in range(steps):
            step(world, pace)
        return figures(world)


def test_the_first_thing_is_a_meeting_and_then_people_come() -> None:
    """The first step schedules a meeting with registration; the next ones register people at the pace asked for."""
    with opened() as world:
        assert step(world, SMALL) <= 0.5
        [meeting] = world.meetings()
        assert meeting.registration is not None
        delays = [step(world, SMALL) for _ in range(4)]
        assert all(SMALL.fastest <= delay <= SMALL.slowest for delay in delays)
        assert len(world.registry.of(meeting)) == 4


def test_it_is_the_same_every_time() -> None:
    """The same seeds give the same meetings and people after the same number of steps."""
    assert lived(20) == lived(20)


def test_a_full_world_is_bounded_and_slow() -> None:
    """It never has more meetings or people than asked for; when it is full, one update at a time is all that happens."""
    with opened() as world:
        delays = [step(world, SMALL) for _ in range(60)]
        assert [count for _, count in figures(world)] == [8, 8, 8]
        assert set(delays[-20:]) == {SMALL.quiet}
        assert world.counters.updates > 20


def test_a_deleted_meeting_is_replaced_once_nobody_can_register() -> None:
    """While another meeting takes people a deleted one is not missed; without any, the next step schedules one."""
    with opened() as world:
        while len(world.meetings()) < 2:
            step(world, SMALL)
        first, second = world.meetings()
        world.delete_meeting(first.id)
        step(world, SMALL)
        assert world.meetings() == (second,)
        world.delete_meeting(second.id)
        step(world, SMALL)
        assert len(world.meetings()) == 1


def test_old_meetings_make_room() -> None:
    """When meetings are over the oldest is forgotten and another is scheduled, so that life goes on within the bounds."""
    clock = Clock()
    with opened(clock=clock) as world:
        for _ in range(60):
            step(world, SMALL)
        oldest = world.meetings()[0].id
        clock.advance(days=30)
        step(world, SMALL)
        assert len(world.meetings()) == 3
        assert oldest not in [meeting.id for meeting in world.meetings()]
        assert SMALL.fastest <= step(world, SMALL) <= SMALL.slowest


@pytest.mark.parametrize("ended_after", [1, 7, 23])
def test_a_restart_goes_on_where_the_last_run_ended(tmp_path_factory: pytest.TempPathFactory, ended_after: int) -> None:
    """A world that is closed and opened again between two steps lives the same life as one that is not."""
    path = tmp_path_factory.mktemp("world") / "sandbox.db"
    with opened(path) as world:
        for _ in range(ended_after):
            step(world, SMALL)
    with opened(path) as world:
        for _ in range(30 - ended_after):
            step(world, SMALL)
        assert figures(world) == lived(30)


async def test_it_lives_until_it_is_cancelled() -> None:
    """The simulation sleeps for what each step says and never ends by itself."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 6:
            raise asyncio.CancelledError

    with opened() as world:
        with pytest.raises(asyncio.CancelledError):
            await run_simulation(world, SMALL, sleep=sleep)
        assert len(slept) == 6
        assert world.counters.registered == 5


async def test_the_clock_is_looked_at() -> None:
    """Without a simulation too, meetings start and end when their time comes."""
    clock, looks = Clock(), 0

    async def sleep(seconds: float) -> None:
        nonlocal looks
        assert seconds == 0.25
        looks += 1
        clock.advance(hours=12)
        if looks == 4:
            raise asyncio.CancelledError

    with opened(clock=clock) as world:
        meeting = world.create_meeting(meeting_body())
        with pytest.raises(asyncio.CancelledError):
            await run_clock(world, sleep=sleep)
        assert world.find_meeting(meeting.id).stage == "ended"


def test_nothing_personal_is_logged() -> None:
    """Over a long life the log has ids and counts, and no address, name or title."""
    clock = Clock()
    with opened(clock=clock) as world, capture_logs() as logs:
        for _ in range(40):
            step(world, SMALL)
            clock.advance(hours=1)
        forms = [r.form for meeting in world.meetings() for r in world.registry.of(meeting)]
        private = {form[name] for form in forms for name in ("firstName", "lastName", "email")}
        titles = {meeting.settings["title"] for meeting in world.meetings()}
    assert {"sandbox.meeting_created", "sandbox.registered", "sandbox.meeting_updated"} <= {
        log["event"] for log in logs
    }
    assert forms
    values = {str(value) for log in logs for value in log.values()}
    assert values.isdisjoint(private | titles)
    assert not any("@" in value for value in values)


def test_people_are_told_apart_and_mixed() -> None:
    """No two people share an address; partners, free mail and competitors all come; the same number is the same person."""
    crowd = [invent(n, seed="tests") for n in range(1, 501)]
    assert len({person["email"] for person in crowd}) == 500
    domains = Counter(person["email"].partition("@")[2] for person in crowd)
    assert {"example.org", "example.net", "example.com", "competitor.example"} <= set(domains)
    assert all(person["email"].isascii() and person["email"] == person["email"].lower() for person in crowd)
    assert invent(7, seed="tests") == crowd[6] != invent(7, seed="others")
    assert invent(7, seed="tests", domain="example.test")["email"].endswith("@example.test")


def test_a_meeting_starts_and_ends_by_the_clock() -> None:
    """A meeting that was slept through starts and ends at once, and takes nobody any more."""
    clock = Clock()
    with opened(clock=clock) as world:
        step(world, SMALL)
        [meeting] = world.meetings()
        clock.moment = meeting.start - timedelta(seconds=1)
        world.advance()
        assert world.find_meeting(meeting.id).stage == "scheduled"
        clock.moment = meeting.end
        world.advance()
        assert world.find_meeting(meeting.id).stage == "ended"
