"""Tasks that must not end, not even in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.controllers.until_stop import run_until
from service.core.errors import NameTaken


class Jobs:
    """Two tasks that go on for ever, and what became of them."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.told: list[str] = []

    async def forever(self, name: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks[name] = task
        try:
            await asyncio.Event().wait()
        finally:
            self.told.append(f"{name} ended")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.told.append("closed")

    def run(self, stop: asyncio.Event, *more: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        return run_until(stop, self.forever("taking in"), self.forever("worker"), *more, close=self.close)


async def test_at_the_stop_taking_in_ends_first_and_the_others_see_the_close() -> None:
    """What was taken in is drained by tasks that still run."""
    jobs, stop = Jobs(), asyncio.Event()
    running = asyncio.create_task(jobs.run(stop))
    await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(5):
        await running
    assert jobs.told == ["taking in ended", "closed", "worker ended"]


@pytest.mark.parametrize("name", ["taking in", "worker"])
async def test_a_task_that_is_cancelled_ends_all(name: str) -> None:
    """asyncio's own group of tasks would not even notice."""
    jobs = Jobs()
    running = asyncio.create_task(jobs.run(asyncio.Event()))
    await asyncio.sleep(0.01)
    jobs.tasks[name].cancel()
    async with asyncio.timeout(5):
        with pytest.raises(ExceptionGroup, match="unhandled") as caught:
            await running
    assert "forever has ended" in str(caught.value.exceptions[0])
    assert "closed" not in jobs.told


async def _return() -> None:
    await asyncio.sleep(0)


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError


@pytest.mark.parametrize(("job", "error"), [(_return, RuntimeError), (_fail, ZeroDivisionError)])
async def test_a_task_that_ends_by_itself_ends_all(
    job: Callable[[], Coroutine[Any, Any, None]], error: type[Exception]
) -> None:
    """Whether it failed or was simply done."""
    jobs = Jobs()
    async with asyncio.timeout(5):
        with pytest.raises(ExceptionGroup) as caught:
            await jobs.run(asyncio.Event(), job())
    assert [type(each) for each in caught.value.exceptions] == [error]
    assert sorted(jobs.told) == ["taking in ended", "worker ended"]


async def test_a_name_that_is_taken_is_told_as_it_is() -> None:
    """The operator sees its sentence, not a group of errors."""

    async def taken() -> None:
        await asyncio.sleep(0)
        raise NameTaken("another process is processor-0")

    with pytest.raises(NameTaken, match="another process is processor-0"):
        await Jobs().run(asyncio.Event(), taken())
