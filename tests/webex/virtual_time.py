"""An event loop whose time passes only when there is nothing else to do: minutes of waiting take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from service.webex.client import Clock

T = TypeVar("T")

#: What the wall clock shows at virtual time 0.
BEGAN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class _Jump(selectors.SelectSelector):
    """Instead of waiting for the next timer, lets its time come."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout:
            self.time += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.time


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` in virtual time. It must not wait for sockets, threads or processes."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main())


def now() -> float:
    """The virtual time in seconds; 0 at first."""
    return asyncio.get_running_loop().time()


def clock(chance: Callable[[], float] = lambda: 0.5) -> Clock:
    """The clock of a client in virtual time."""
    return Clock(now=lambda: BEGAN + timedelta(seconds=now()), monotonic=now, sleep=asyncio.sleep, chance=chance)
