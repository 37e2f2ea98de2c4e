"""Working things off in their order, key by key: one that cannot go on holds up its own key and no other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: So many are given to ``work`` at a time.
TOGETHER = 100


class InOrder(Generic[K, T]):
    """``work`` gets the oldest items of one key and returns how many of them, from the first on, are done.

    It is called again with the rest, so it waits by itself before it returns 0. Bounded by whoever adds.
    """

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[int]]) -> None:
        self._work = work
        self._waiting: dict[K, deque[T]] = {}
        self._working: set[K] = set()
        self._changed = asyncio.Event()

    def add(self, key: K, item: T) -> None:
        """``item`` has to be done, after those of the same key that came before."""
        self._waiting.setdefault(key, deque()).append(item)
        self._changed.set()

    def discard(self, unwanted: Callable[[T], bool]) -> None:
        """Forget the items that are ``unwanted``; what is being worked on is still worked on."""
        for items in self._waiting.values():
            kept = [item for item in items if not unwanted(item)]
            items.clear()
            items.extend(kept)

    async def idle(self) -> None:
        """Return when nothing waits and nothing is worked on."""
        while self._working or any(self._waiting.values()):
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Work, until cancelled. Raises what ``work`` raised."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for key in [key for key, items in self._waiting.items() if items and key not in self._working]:
                    self._working.add(key)
                    tasks.create_task(self._work_off(key))
                self._changed.clear()
                await self._changed.wait()

    async def _work_off(self, key: K) -> None:
        items = self._waiting[key]
        try:
            while items:
                given = list(islice(items, TOGETHER))
                for item in given[: await self._work(given)]:
                    if items and items[0] is item:  # else it was discarded meanwhile
                        items.popleft()
        finally:
            self._working.discard(key)
            self._changed.set()
            if not items and self._waiting.get(key) is items:
                del self._waiting[key]
