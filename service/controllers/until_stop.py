"""The tasks of a consumer: none of them may end before it is told to, not even in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from service.core.errors import NameTaken

_Job = Coroutine[Any, Any, None]


async def run_until(stop: asyncio.Event, taking_in: _Job, *others: _Job, close: Callable[[], Awaitable[None]]) -> None:
    """Run all, until ``stop``; then end ``taking_in``, ``close`` while the others go on, and end them too.

    Where one of them ends before, the rest is cancelled. Raises an ExceptionGroup with what it raised, or with a
    RuntimeError where it was only cancelled or returned: nobody would miss it otherwise. NameTaken is raised as it is.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in (taking_in, *others)]
            asked = group.create_task(stop.wait())
            await asyncio.wait({asked, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            _raise_for_the_silent(tasks)
            tasks[0].cancel()
            await close()
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        taken = errors.subgroup(NameTaken)
        if taken is not None and isinstance(taken.exceptions[0], NameTaken):
            raise taken.exceptions[0] from None  # it says all there is to say
        raise


def _raise_for_the_silent(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and (task.cancelled() or task.exception() is None):
            coroutine = task.get_coro()
            raise RuntimeError(f"{getattr(coroutine, '__qualname__', 'a task')} has ended, and must not")
