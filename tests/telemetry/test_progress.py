"""Which loop hangs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from service.telemetry.progress import Progress


@dataclass
class Bench:
    """A clock that stands still, and what is watched by it."""

    now: float = 1000.0
    possible: bool = True
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(monotonic=lambda: self.now)

    def later(self, seconds: float) -> list[str]:
        """Who hangs so much later."""
        self.now += seconds
        return self.progress.stuck()


@pytest.fixture
def bench() -> Bench:
    """One with two loops: ``work`` by the default limit, ``drain`` within 5 s."""
    bench = Bench()
    bench.progress.watch("work", should=lambda: bench.possible)
    bench.progress.watch("drain", limit=5)
    return bench


def test_a_loop_that_turns_is_not_stuck(bench: Bench) -> None:
    """However long it goes on, and whether or not it has anything to do."""
    for _ in range(100):
        bench.progress.beat("work")
        bench.progress.beat("drain")
        assert bench.later(4) == []


def test_each_loop_has_its_own_limit(bench: Bench) -> None:
    """60 s by default; at the limit itself nothing is wrong yet."""
    assert bench.later(5) == []
    assert bench.later(0.1) == ["drain"]
    assert bench.later(54.9) == ["drain"]
    assert bench.later(0.1) == ["drain", "work"]


def test_one_that_turns_again_is_well(bench: Bench) -> None:
    """Nothing is held against it."""
    assert bench.later(61) == ["drain", "work"]
    bench.progress.beat("work")
    assert bench.later(0) == ["drain"]


def test_one_that_waits_for_something_else_is_not_stuck(bench: Bench) -> None:
    """As long as it cannot turn its time does not run, and it begins anew afterwards."""
    bench.possible = False
    bench.progress.watch("drain", limit=10_000)
    assert bench.later(3600) == []
    bench.progress.look()
    bench.possible = True
    assert bench.later(59) == []
    assert bench.later(2) == ["work"]


def test_what_has_ended_is_not_missed(bench: Bench) -> None:
    """Nor is a beat of something that nobody watches a reason to watch it."""
    bench.progress.ended("drain")
    bench.progress.ended("drain")
    bench.progress.beat("somebody")
    bench.progress.beat("work")
    assert bench.later(59) == []
    assert bench.progress.ages() == {"work": 59}


async def test_it_is_told_once_who_hangs(bench: Bench) -> None:
    """One line for each time, with the name of the loop."""
    bench.later(6)
    with capture_logs() as logs:
        bench.progress.look()
        bench.progress.look()
        bench.progress.beat("drain")
        bench.later(6)
        keeping = asyncio.create_task(bench.progress.keep())
        await asyncio.sleep(0)
        keeping.cancel()
    assert [(line["event"], line["loop"], line["seconds"]) for line in logs] == [("loop.stuck", "drain", 6)] * 2
