"""One thread that owns a store and puts everything that waits into one transaction.

An fsync costs the same for one record and for a thousand. So whatever has arrived while the last transaction was being
synchronised goes into the next one, and nobody hears "done" before the store has said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import structlog

from service.bus.waiting import resolve
from service.core.errors import JournalError, JournalFull, whereabouts

#: Operations in one transaction at most, and their bytes: bounds how long the first of them waits for the last, and how
#: far a store's own log can grow in one go.
GROUP_SIZE = 1000
GROUP_BYTES = 2 * 1024 * 1024

#: Seconds without an operation after which the store may keep house all the same.
IDLE = 1.0

#: Seconds that :meth:`GroupCommit.close` waits for what was accepted: well within the 25 s that a whole process has to end.
CLOSE_DEADLINE = 5.0


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

    def no_room(self, *, freeing: bool) -> bool:
        """There was none for one operation alone, which would make some where it is ``freeing``. True: try it again."""

    def distrust(self) -> None:
        """Undo what is not committed and never write again. Reading goes on, unless this raises."""

    def settle(self) -> None:
        """Housekeeping that nobody waits for, after each transaction and every second without one."""

    def translated(self, error: Exception) -> Exception:
        """The store's own errors as JournalError, StoreFull or StoreBroken; any other as it is."""

    def close(self, *, trusted: bool) -> None:
        """Let go of the store; where it is not trusted any more, without writing to it."""


S = TypeVar("S", bound=Store)


#: What an operation came to: its result, or why it has none.
Done = Callable[[Any, Exception | None], None]


class _Operation(NamedTuple):
    run: Callable[[Any], Any]
    done: Done
    size: int
    reads: bool
    frees: bool


class _Outcome(NamedTuple):
    operation: _Operation
    result: Any = None
    error: Exception | None = None


class GroupCommit(Generic[S]):
    """The queue and its thread. Belongs to the event loop in which it was built; operations run in the order of ``submit``.

    After an error that is not an operation's own (a failed fsync above all) nothing is written any more: the pages of a
    failed fsync are marked clean, so a second one would say "done" for bytes that never arrived (Rebello et al.,
    "Can Applications Recover from fsync Failures?", USENIX ATC 2020). Operations that only read go on, where they can.
    """

    def __init__(self, open_store: Callable[[], S], *, name: str) -> None:
        self._open_store = open_store
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._opened: asyncio.Future[S] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._failure: str | None = None
        self._readable = True
        self._closed = False

    @property
    def failure(self) -> str | None:
        """Why nothing is written any more, or None."""
        return self._failure

    async def start(self) -> S:
        """Open the store in the thread. Raises what opening raised."""
        self._thread.start()
        try:
            return await self._opened
        except BaseException:
            self._queue.put(None)
            raise

    def submit(
        self,
        run: Callable[[S], Any],
        *,
        size: int = 0,
        reads: bool = False,
        frees: bool = False,
    ) -> asyncio.Future[Any]:
        """:meth:`enqueue` for those who wait: the future has the result, or fails with what ``done`` is told."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.enqueue(run, partial(resolve, future), size=size, reads=reads, frees=frees)
        return future

    def enqueue(
        self, run: Callable[[S], Any], done: Done, *, size: int = 0, reads: bool = False, frees: bool = False
    ) -> None:
        """Queue ``run``; ``done`` is called in the loop with its result once the transaction is on the disk.

        ``size``: bytes that it writes, about. ``reads``: it writes nothing. ``frees``: it makes room, or lets others make it.
        Raises JournalError when the store failed (unless it ``reads``) or is closed; ``done`` is told that or JournalFull.
        """
        if self._failure is not None and not reads:
            raise JournalError(self._failure)
        if self._closed:
            raise JournalError("the journal is closed")
        self._queue.put(_Operation(run, done, size, reads, frees))

    async def close(self) -> None:
        """Run what was accepted, close the store, join the thread. Raises JournalError when that takes too long.

        Then, or cancelled, it holds up nobody: a stuck disk must not keep the process from ending.
        """
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.wait({self._ended}, timeout=CLOSE_DEADLINE)
        if not self._ended.done():
            raise JournalError(f"the journal did not finish within {CLOSE_DEADLINE:.0f} s")
        self._thread.join()  # it has said so with its last line

    # In the thread

    def _main(self) -> None:
        try:
            self._serve()
        finally:
            self._in_loop(resolve, self._ended, None, None)

    def _serve(self) -> None:
        try:
            store = self._open_store()
        except Exception as exc:  # noqa: BLE001 - whoever waits for start() gets it
            self._in_loop(resolve, self._opened, None, exc)
            return
        self._in_loop(resolve, self._opened, store, None)
        for group in self._groups():
            if group:
                self._in_loop(_tell, self._surviving(store, group))
            self._settle(store)
        self._guarded(store, lambda: store.close(trusted=self._failure is None))

    def _groups(self) -> Iterator[list[_Operation]]:
        """What waits; an empty group now and then when nothing does."""
        while True:
            try:
                operation = self._queue.get(timeout=IDLE)
            except Empty:
                yield []
                continue
            group, size = list[_Operation](), 0
            while operation is not None:
                group.append(operation)
                size += operation.size
                if len(group) == GROUP_SIZE or size >= GROUP_BYTES or self._queue.empty():
                    break
                operation = self._queue.get()
            if group:
                yield group
            if operation is None:
                return

    def _settle(self, store: S) -> None:
        if self._failure is None:
            self._guarded(store, store.settle)

    def _surviving(self, store: S, group: list[_Operation]) -> list[_Outcome]:
        """As :meth:`_run`; a thread that ended in silence would leave everybody waiting."""
        try:
            return self._run(store, group)
        except BaseException as bug:  # noqa: BLE001 - whatever it is
            self._give_up(store, StoreBroken(type(bug).__name__))
            return [_Outcome(operation, error=JournalError(self._failure)) for operation in group]

    def _run(self, store: S, group: list[_Operation]) -> list[_Outcome]:
        if self._failure is not None:
            return [self._after_failure(store, operation) for operation in group]
        outcomes: list[_Outcome] = []
        problem = self._guarded(store, lambda: self._transaction(store, group, outcomes))
        if problem is None:
            return outcomes
        if self._failure is not None:  # who only reads is not concerned
            return [self._after_failure(store, operation) for operation in group]
        if len(group) > 1:  # no room, but not for each of them: a full store must drain
            return [outcome for operation in group for outcome in self._alone(store, operation)]
        return self._without_room(store, group[0], problem)

    def _alone(self, store: S, operation: _Operation) -> list[_Outcome]:
        self._settle(store)
        return self._run(store, [operation])

    def _without_room(self, store: S, operation: _Operation, problem: str) -> list[_Outcome]:
        again = False

        def ask() -> None:
            nonlocal again
            again = store.no_room(freeing=operation.frees)

        if self._guarded(store, ask) is None and again:
            return self._alone(store, operation)
        return [_Outcome(operation, error=JournalFull(problem))]

    def _after_failure(self, store: S, operation: _Operation) -> _Outcome:
        if operation.reads and self._readable:
            try:
                return _Outcome(operation, result=store.attempt(operation.run))
            except Exception as exc:  # noqa: BLE001 - its caller gets it
                return _Outcome(operation, error=store.translated(exc))
        return _Outcome(operation, error=JournalError(self._failure))

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
            self._give_up(store, error)
            return self._failure
        return None

    def _give_up(self, store: S, error: Exception) -> None:
        """Once, for the life of this process."""
        if self._failure is not None:
            return
        self._failure = f"the journal is not trusted any more in this process: {error}"
        structlog.get_logger().error(
            "journal.failed",
            reason=str(error),
            advice="nothing is written to the journal any more until this process is started again: look at the disk, then"
            " restart. Meanwhile events are stored by Kafka alone, or refused (503)",
        )
        try:
            store.distrust()
        except Exception as exc:  # noqa: BLE001 - whatever it is: then it cannot be read either
            self._readable = False
            structlog.get_logger().error("journal.not_readable", reason=str(store.translated(exc)))

    def _in_loop(self, act: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everybody who waited is gone with it
            self._loop.call_soon_threadsafe(act, *arguments)


def _tell(outcomes: list[_Outcome]) -> None:
    for operation, result, error in outcomes:
        try:
            operation.done(result, error)
        except Exception as bug:  # noqa: BLE001 - of whoever waits for it: the others are told all the same
            where = whereabouts(bug)
            structlog.get_logger().error("journal.tell_crashed", error=type(bug).__name__, where=where)
