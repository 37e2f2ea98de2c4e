"""The keyed work queue of the Kubernetes controller pattern (client-go, util/workqueue).

One key is worked on by one task at a time; a key that becomes dirty while queued is not queued twice; a key that becomes
dirty while it is worked on is worked on once more afterwards.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A queue of keys. It is bounded by the number of different keys."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[K, None] = OrderedDict()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Mark ``key`` as dirty now; a later date that it had is forgotten."""
        self._forget_later(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = None
            self._changed.set()

    def add_later(self, key: K, delay: float) -> None:
        """Mark ``key`` as dirty in ``delay`` seconds, unless it is before then."""
        loop = asyncio.get_running_loop()
        date = self._later.get(key)
        if key in self._waiting or (date is not None and date.when() <= loop.time() + delay):
            return
        self._forget_later(key)
        self._later[key] = loop.call_later(delay, self.add, key)

    async def get(self) -> K:
        """The next key; the caller works on it and then calls :meth:`done`."""
        await self._until(lambda: bool(self._waiting))
        key, _ = self._waiting.popitem(last=False)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """The caller of :meth:`get` is through with ``key``."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        self._changed.set()

    def discard(self, unwanted: Callable[[K], bool]) -> None:
        """Forget the keys that are not worked on yet and are ``unwanted``."""
        for key in [key for key in self._waiting if unwanted(key)]:
            del self._waiting[key]
        for key in [key for key in self._later if unwanted(key)]:
            self._forget_later(key)
        self._again = {key for key in self._again if not unwanted(key)}

    async def idle(self, wanted: Callable[[K], bool]) -> None:
        """Return when no ``wanted`` key is being worked on."""
        await self._until(lambda: not any(map(wanted, self._working)))

    def _forget_later(self, key: K) -> None:
        handle = self._later.pop(key, None)
        if handle is not None:
            handle.cancel()

    async def _until(self, true: Callable[[], bool]) -> None:
        # Every waiter wakes at every change and looks for itself: there are as many as workers.
        while not true():
            self._changed.clear()
            await self._changed.wait()
