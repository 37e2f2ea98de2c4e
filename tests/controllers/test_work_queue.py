"""The keyed work queue."""

from __future__ import annotations

import asyncio

import pytest

from service.controllers.work_queue import WorkQueue


async def take(queue: WorkQueue[str]) -> str | None:
    """The next key, or None where none is ready."""
    try:
        async with asyncio.timeout(0.05):
            return await queue.get()
    except TimeoutError:
        return None


async def test_a_queued_key_is_not_queued_twice() -> None:
    """Marking a key that waits already changes nothing, and keys come in the order they were first marked."""
    queue: WorkQueue[str] = WorkQueue()
    for key in "abab":
        queue.add(key)

    assert [await take(queue) for _ in range(3)] == ["a", "b", None]


async def test_a_key_is_worked_on_by_one_task_at_a_time_and_once_more_if_it_became_dirty() -> None:
    """A key marked while it is worked on comes once more, but only when that work is done."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await take(queue) == "a"
    queue.add("a")
    queue.add("a")

    assert await take(queue) is None
    queue.done("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert await take(queue) is None


async def test_a_key_can_wait_for_its_time() -> None:
    """A key marked for later comes then, and at once when it is marked for now meanwhile."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add_later("a", 0.1)
    queue.add_later("b", 60)
    assert await take(queue) is None
    queue.add("b")

    assert await take(queue) == "b"
    await asyncio.sleep(0.1)
    assert await take(queue) == "a"


async def test_the_earlier_of_two_dates_counts() -> None:
    """Asking again for a later date changes nothing; asking for an earlier one does."""
    queue: WorkQueue[str] = WorkQueue()
    for delay in (60, 0.02, 60):
        queue.add_later("a", delay)
    await asyncio.sleep(0.05)

    assert await take(queue) == "a"


async def test_discarded_keys_do_not_come() -> None:
    """Unwanted keys are forgotten wherever they wait: now, later, or for the end of the work on them."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add("working")
    assert await take(queue) == "working"
    for key in ("working", "waiting", "kept"):
        queue.add(key)
    queue.add_later("later", 0.01)
    queue.discard(lambda key: key != "kept")
    queue.done("working")

    assert [await take(queue) for _ in range(2)] == ["kept", None]


async def test_idle_returns_when_the_wanted_keys_are_done() -> None:
    """Draining waits for the keys that are worked on, and for no others."""
    queue: WorkQueue[str] = WorkQueue()
    for key in "ab":
        queue.add(key)
        await take(queue)
    queue.done("a")
    await asyncio.wait_for(queue.idle(lambda key: key == "a"), 1)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.idle(lambda key: key == "b"), 0.05)
