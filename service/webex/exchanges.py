"""What is under way on the connections of one client, and how it ends.

An exchange runs in a task of its own. Who asked may be cancelled; the exchange is not: it ends by itself, within its
deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
import structlog

from service.webex.protocol import Answer
from service.webex.transport import Timeouts, exchange

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """``connections`` in the pool, bytes of an answer that are read, seconds that closing waits, and for one step."""

    connections: int
    answer_bytes: int
    closing: float
    timeouts: Timeouts


class Exchanges(Generic[T]):
    """The pool, and the tasks that use it; each gives a ``T``."""

    def __init__(self, transport: Callable[[int], httpx.AsyncBaseTransport], sizes: Sizes) -> None:
        self._transport, self._sizes = transport, sizes
        self._pool = _Pool(transport(sizes.connections))
        self._tasks: set[asyncio.Task[T]] = set()
        self._log = structlog.get_logger()
        self.closed = False

    async def run(self, work: Coroutine[Any, Any, T], *, ended: Callable[[], None]) -> T | None:
        """Do ``work`` in a task that outlives a cancelled caller; ``ended`` is called at its end. None: it was cut off."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: ended())
        await asyncio.wait({task})  # cancelling who waits here leaves the task alone
        return None if task.cancelled() else task.result()

    async def send(self, request: httpx.Request, *, seconds: float) -> Answer:
        """One exchange. Raises what httpx raises."""
        pool, sizes = self._pool, self._sizes
        async with pool.used() as transport:
            try:
                return await exchange(
                    transport, request, seconds=seconds, timeouts=sizes.timeouts, cap=sizes.answer_bytes
                )
            except httpx.PoolTimeout:
                self._replace(pool)
                raise

    async def aclose(self) -> None:
        """What is under way gets some seconds to end; then the connections are closed."""
        self.closed = True
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=self._sizes.closing)
            for task in late:  # the pool goes away too, so that a slot lost here harms nobody
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._pool.transport.aclose()

    def _replace(self, pool: _Pool) -> None:
        """There are always more connections than slots, so a PoolTimeout means that httpcore has lost some: begin
        afresh.
        """
        pool.retired = True
        if self._pool is pool:
            self._pool = _Pool(self._transport(self._sizes.connections))
            self._log.warning("webex.pool_replaced")


class _Pool:
    """One transport; when it is retired, its last user closes it."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.retired = False
        self._users = 0

    @asynccontextmanager
    async def used(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        self._users += 1
        try:
            yield self.transport
        finally:
            self._users -= 1
            if self.retired and not self._users:
                await self.transport.aclose()
