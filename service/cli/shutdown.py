"""The end of a process: step after step, each within its time and with a line in the log, and a watchdog behind them all.

After SIGTERM what is under way has 15 s, the flush 5 s, the whole 25 s, in every role. A step that takes too long is cut off,
so that the next one has its time: what it did not finish is found again at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import structlog

from service.core.errors import whereabouts

#: Seconds from the signal to the end of the process; the watchdog ends it then, whatever still runs.
LIMIT = 25.0

#: What is cut off has so long (s) to let go. No step gets less, however late it comes.
GRACE = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Limit:
    """How long a step may take: ``seconds`` of its own, and not beyond ``by`` seconds after the end was asked for."""

    seconds: float
    by: float


#: Requests and work under way; the private listener, which answers probes until then; what Kafka has not acknowledged yet;
#: the journal's last transaction.
REQUESTS = Limit(15.0, by=15.0)
PROCESSING = Limit(15.0, by=15.0)
CALLS = Limit(11.0, by=15.5)
PROBES = Limit(2.0, by=17.0)
FLUSH = Limit(5.0, by=22.0)
JOURNAL = Limit(3.0, by=23.0)


class Stop(asyncio.Event):
    """Set when the process shall end; it knows since when. ``asked`` is called when the end begins."""

    def __init__(self, asked: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._asked = asked
        self._since: float | None = None

    def set(self) -> None:
        """The process shall end."""
        self.begin()
        super().set()

    def begin(self) -> None:
        """The end has begun, whether or not anybody asked for it: its time runs."""
        if self._since is None:
            self._since = time.monotonic()
            self._asked()

    @property
    def seconds(self) -> float:
        """Since the end has begun; 0 before."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def time_for(self, limit: Limit) -> float:
        """Seconds that a step with this limit may take now."""
        return max(GRACE, min(limit.seconds, limit.by - self.seconds))


@contextlib.contextmanager
def stopped_by_signals(asked: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """What SIGINT and SIGTERM set. A second SIGINT ends the process as usual: somebody pressed Ctrl-C twice and means it.

    A second SIGTERM changes nothing: whoever supervises us may repeat it, and what is under way still has its time.
    """
    loop, stop = asyncio.get_running_loop(), Stop(asked)

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def unless_stopped(stop: Stop) -> AsyncIterator[None]:
    """For start-up: when ``stop`` is set, what the block waits for is cancelled, and the block is left without an error."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    before, cut_off = task.cancelling(), False

    def leave(asked: asyncio.Task[Any]) -> None:
        nonlocal cut_off
        if not asked.cancelled():
            cut_off = True
            task.cancel()

    waiting = asyncio.ensure_future(stop.wait())
    waiting.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError as cancelled:
        if not cut_off or task.uncancel() > before:
            raise
        if isinstance(failed := cancelled.__context__, Exception):
            raise failed from None  # the start had failed, and was being undone
        structlog.get_logger().info("shutdown.during_start")
    else:
        if cut_off:  # the block has swallowed it
            task.uncancel()
    finally:
        waiting.remove_done_callback(leave)
        waiting.cancel()


class Step(Generic[T]):
    """``context``, whose exit is a step of the shutdown: bounded by ``limit``, and logged.

    The exit runs in a task of its own, so that one that ignores being cancelled is left behind instead of waited for.
    What it raises is raised, unless it was cut off.
    """

    def __init__(self, name: str, context: AbstractAsyncContextManager[T], *, limit: Limit, stop: Stop) -> None:
        self._name, self._context, self._limit, self._stop = name, context, limit, stop
        self._log = structlog.get_logger()

    async def __aenter__(self) -> T:
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._stop.begin()
        begun = time.monotonic()
        step = asyncio.create_task(_exit(self._context, kind, error, trace), name=f"shutdown of {self._name}")
        await asyncio.wait({step}, timeout=self._stop.time_for(self._limit) - GRACE)
        late = not step.done()
        if late:
            step.cancel()
            await asyncio.wait({step}, timeout=GRACE)
        seconds = round(time.monotonic() - begun, 2)
        if not late:
            self._log.info("shutdown.step", step=self._name, seconds=seconds)
            return step.result()
        self._log.warning("shutdown.cut_short", step=self._name, seconds=seconds, still_running=not step.done())
        step.add_done_callback(_forget)
        return None


async def _exit(context: AbstractAsyncContextManager[Any], *error: Any) -> bool | None:
    return await context.__aexit__(*error)


def _forget(step: asyncio.Task[Any]) -> None:
    """What became of a step that was cut off is of no use any more; its error must not come up as one that nobody saw."""
    if not step.cancelled() and (error := step.exception()) is not None:
        structlog.get_logger().warning("shutdown.step_failed", error=type(error).__name__, at=whereabouts(error))


class Watchdog:
    """A thread that ends the process with exit code 1 when its shutdown takes longer than ``limit`` seconds.

    It says what still ran, by the names of tasks and the places in the code, which hold no data.
    """

    def __init__(self, *, limit: float = LIMIT, bite: Callable[[], None] | None = None) -> None:
        self._limit, self._bite = limit, bite or _end_at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._armed = threading.Lock()
        self._over = threading.Event()

    def arm(self) -> None:
        """From now on it counts; only the first time counts."""
        if not self._armed.acquire(blocking=False):
            return
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, name="shutdown watchdog", daemon=True).start()

    def disarm(self) -> None:
        """The process ends by itself."""
        self._over.set()

    def _watch(self) -> None:
        if self._over.wait(self._limit):
            return
        try:
            tasks = _tasks(self._loop) if self._loop is not None else []
            structlog.get_logger().error("shutdown.overdue", seconds=self._limit, tasks=tasks, threads=_threads())
        finally:
            self._bite()


def _end_at_once() -> NoReturn:
    os._exit(1)


def _tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """``name (coroutine)`` of each task that is not done."""
    try:
        return sorted(f"{task.get_name()} ({name_of(task.get_coro())})" for task in asyncio.all_tasks(loop))
    except RuntimeError:  # tasks come and go faster than they can be listed from another thread
        return ["too many to list"]


def name_of(coroutine: Coroutine[Any, Any, Any] | Any) -> str:
    """The name of its function."""
    return str(getattr(coroutine, "__qualname__", type(coroutine).__name__))


def _threads() -> list[str]:
    """Where each thread is, innermost call only: a loop that is blocked shows by what."""
    frames, ours = sys._current_frames(), threading.get_ident()
    return sorted(
        f"{thread.name}: {_place(frames[thread.ident])}"
        for thread in threading.enumerate()
        if thread.ident in frames and thread.ident != ours
    )


def _place(frame: Any) -> str:
    summary = traceback.extract_stack(frame, limit=1)[0]
    return f"{'/'.join(summary.filename.split('/')[-3:])}:{summary.lineno} {summary.name}"
