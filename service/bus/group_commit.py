"""One thread that owns a store and puts everything that waits into one transaction.

An fsync costs the same for one record and for a thousand. So whatever has arrived while the last transaction was being
synchronised goes into the next one, and nobody hears "done" before the store has said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from service.core.errors import JournalError

#: Operations in one transaction at most: bounds how long the first of them waits for the last.
GROUP_SIZE = 1000

#: Seconds that :meth:`GroupCommit.close` waits for what was accepted.
CLOSE_DEADLINE = 30.0


class StoreFull(JournalError):
    """There is no room: this transaction is undone, the store is as it was before, later ones may succeed."""


class StoreBroken(JournalError):
    """What reached the disk is unknown, or what is there makes no sense: nothing may be asked of the store again."""


class Store(Protocol):
    """What the thread needs of its store. Every method runs in that thread; any of them may raise."""

    def begin(self) -> None:
        """Start a transaction."""

    def attempt(self, run: Callable[[Any], Any]) -> Any:
        """Run one operation inside the transaction; when it raises, its own changes are undone and no others."""

    def commit(self) -> None:
        """Return once the transaction is on the disk."""

    def rollback(self) -> None:
        """Undo the transaction, where there still is one."""

    def settle(self) -> None:
        """Housekeeping that nobody waits for, after each transaction."""

    def translated(self, error: Exception) -> Exception:
        """The store's own errors as JournalError, StoreFull or StoreBroken; any other as it is."""

    def close(self, *, trusted: bool) -> None:
        """Let go of the store; where it is not trusted any more, without writing to it."""


S = TypeVar("S", bound=Store)


@dataclass(frozen=True, slots=True)
class _Operation:
    run: Callable[[Any], Any]
    future: asyncio.Future[Any]
    after: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    operation: _Operation
    result: Any = None
    error: Exception | None = None

    def tell(self) -> None:
        """Resolve the future, unless its owner has gone; ``after`` runs in any case: the operation is over."""
        future = self.operation.future
        if self.operation.after is not None:
            self.operation.after()
        if future.done():
            return
        if self.error is None:
            future.set_result(self.result)
        else:
            future.set_exception(self.error)


class GroupCommit(Generic[S]):
    """The queue and its thread. Belongs to the event loop in which it was built; operations run in the order of ``submit``.

    After an error that is not an operation's own (a failed fsync above all) nothing is run any more: the pages of a
    failed fsync are marked clean, so a second one would say "done" for bytes that never arrived (Rebello et al.,
    "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """

    def __init__(self, open_store: Callable[[], S], *, name: str) -> None:
        self._open_store = open_store
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._opened: asyncio.Future[S] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._failure: str | None = None
        self._closed = False

    @property
    def failure(self) -> str | None:
        """Why nothing is run any more, or None."""
        return self._failure

    async def start(self) -> S:
        """Open the store in the thread. Raises what opening raised."""
        self._thread.start()
        try:
            return await self._opened
        except BaseException:
            self._queue.put(None)
            raise

    def submit(self, run: Callable[[S], Any], *, after: Callable[[], None] | None = None) -> asyncio.Future[Any]:
        """Queue ``run``; the future has its result once the transaction is on the disk.

        ``after`` is called in the loop when the operation is over, even when nobody waits for the future any more.
        Raises JournalError when the store failed or is closed.
        """
        if self._failure is not None:
            raise JournalError(self._failure)
        if self._closed:
            raise JournalError("the journal is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Operation(run, future, after))
        return future

    async def close(self) -> None:
        """Run what was accepted, close the store, join the thread. Raises JournalError when that takes too long."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_DEADLINE)
        if self._thread.is_alive():
            raise JournalError(f"the journal did not finish within {CLOSE_DEADLINE:.0f} s")

    # In the thread

    def _main(self) -> None:
        try:
            store = self._open_store()
        except Exception as exc:  # noqa: BLE001 - whoever waits for start() gets it
            self._in_loop(_fail, self._opened, exc)
            return
        self._in_loop(_succeed, self._opened, store)
        for group in self._groups():
            self._in_loop(_tell, self._run(store, group))
            self._guarded(store, store.settle)
        self._guarded(store, lambda: store.close(trusted=self._failure is None))

    def _groups(self) -> Iterator[list[_Operation]]:
        operation = self._queue.get()
        while operation is not None:
            group = [operation]
            while len(group) < GROUP_SIZE and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    yield group
                    return
                group.append(following)
            yield group
            operation = self._queue.get()

    def _run(self, store: S, group: list[_Operation]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        if self._failure is None:
            problem = self._guarded(store, lambda: self._transaction(store, group, outcomes))
        else:
            problem = self._failure
        if problem is None:
            return outcomes
        if self._failure is None and len(group) > 1:  # no room, but not for each of them: a full store must drain
            return [outcome for operation in group for outcome in self._run(store, [operation])]
        return [_Outcome(operation, error=JournalError(problem)) for operation in group]

    def _transaction(self, store: S, group: list[_Operation], outcomes: list[_Outcome]) -> None:
        store.begin()
        outcomes.extend(self._attempt(store, operation) for operation in group)
        store.commit()

    def _attempt(self, store: S, operation: _Operation) -> _Outcome:
        try:
            return _Outcome(operation, result=store.attempt(operation.run))
        except Exception as exc:  # its caller gets it; the neighbours go on
            error = store.translated(exc)
            if isinstance(error, (StoreFull, StoreBroken)):
                raise error from exc
            return _Outcome(operation, error=error)

    def _guarded(self, store: S, act: Callable[[], None]) -> str | None:
        """Act; say what went wrong. Anything but a lack of room ends the trust in the store."""
        try:
            act()
        except Exception as exc:  # noqa: BLE001 - the thread outlives everything, or its callers would wait for ever
            error = store.translated(exc)
            if isinstance(error, StoreFull) and self._guarded(store, store.rollback) is None:
                return str(error)
            self._failure = self._failure or f"the journal is not trusted any more in this process: {error}"
            return self._failure
        return None

    def _in_loop(self, act: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everybody who waited is gone with it
            self._loop.call_soon_threadsafe(act, *arguments)


def _tell(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        outcome.tell()


def _succeed(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
