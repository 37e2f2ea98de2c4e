"""What waits to be worked on: one entry for each meeting series, with the hints that a look will answer and the commands that
come before it. A command about no series has an entry of its own.

Working takes the entry out. What comes meanwhile makes a new entry, which wants work of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from service.controllers.ledger import Place
from service.controllers.task import Task
from service.controllers.work_queue import WorkQueue
from service.core.message import Received
from service.core.work import Command

#: Partition and series, or partition and the command that is about none.
Key = tuple[int, str]


@dataclass
class Waiting:
    """One key that has to be worked on. ``look``: the series wants a look, after the ``commands``, which are in order.

    ``first`` is when the oldest hint was accepted, None where a sweep asked. ``hints`` are records with the monotonic time
    when each came.
    """

    key: Key
    task: Task
    look: bool = False
    hints: list[tuple[float, Received]] = field(default_factory=list)
    commands: list[tuple[Received, Command]] = field(default_factory=list)
    first: datetime | None = None
    deleted: bool = False
    attempts: int = 0
    not_before: float = float("-inf")


class Backlog:
    """The keys that wait, and the queue in which they wait."""

    def __init__(self) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self._waiting: dict[Key, Waiting] = {}
        self._leaving = frozenset[int]()

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self._waiting.values()))

    @property
    def parked(self) -> int:
        """How many keys wait for another try after a failure."""
        return sum(waiting.attempts > 0 for waiting in self._waiting.values())

    def mark(self, task: Task, *, first: datetime | None = None, delay: float = 0.0) -> Waiting:
        """``task``'s series has to be looked at in ``delay`` seconds; what was asked of it before is not forgotten."""
        waiting = self._entry((task.place.partition, task.series), task)
        waiting.task = _joined(waiting.task, task) if waiting.look else task
        waiting.look = True
        waiting.first = waiting.first or first
        self._queue(waiting.key, delay)
        return waiting

    def command(self, place: Place, record: Received, command: Command) -> None:
        """``command`` has to be carried out, after those of the same series that came before."""
        key = (place.partition, command.series or f"command {command.id}")
        task = Task(place=place, series=command.series, org_id=command.org_id, traceparent=command.traceparent)
        self._entry(key, task).commands.append((record, command))
        self.queue.add(key)

    def _entry(self, key: Key, task: Task) -> Waiting:
        waiting = self._waiting.get(key)
        if waiting is None or waiting.task.place.assignment != task.place.assignment:
            # What was left of an earlier assignment comes again with this one.
            waiting = self._waiting[key] = Waiting(key=key, task=task)
        return waiting

    def _queue(self, key: Key, delay: float) -> None:
        if delay > 0:
            self.queue.add_later(key, delay)
        else:
            self.queue.add(key)

    def take(self, key: Key) -> Waiting | None:
        """What waits under ``key``, for work that begins now; None where nothing does, its time has not come, or its
        partition is leaving.
        """
        waiting = self._waiting.get(key)
        if waiting is None or self.is_leaving(key[0]):
            return None
        if (early := waiting.not_before - time.monotonic()) > 0:
            self.queue.add_later(key, early)
            return None
        return self._waiting.pop(key)

    def put_back(self, waiting: Waiting, delay: float) -> None:
        """Its work failed: try again in ``delay`` seconds and not before, together with what has come meanwhile."""
        newer = self._waiting.get(waiting.key)
        if newer is not None and newer.task.place.assignment != waiting.task.place.assignment:
            return
        if newer is not None:
            if newer.look:
                waiting.task = _joined(waiting.task, newer.task) if waiting.look else newer.task
            waiting.look = waiting.look or newer.look
            waiting.hints += newer.hints
            waiting.commands += newer.commands
            waiting.first = waiting.first or newer.first
            waiting.deleted = waiting.deleted or newer.deleted
        waiting.not_before = time.monotonic() + delay
        self._waiting[waiting.key] = waiting
        self.queue.add_later(waiting.key, delay)

    def resume(self, organization: str) -> None:
        """Whatever waits for this organisation may be tried at once."""
        for waiting in self:
            if waiting.task.place.organization == organization:
                waiting.not_before = float("-inf")
                self.queue.add(waiting.key)

    @contextmanager
    def leaving(self, partitions: frozenset[int]) -> Iterator[None]:
        """No work begins for these partitions inside the block, whatever comes; at its end what waits is forgotten."""
        before, self._leaving = self._leaving, self._leaving | partitions
        self.queue.discard(lambda key: key[0] in partitions)
        try:
            yield
        finally:
            self.discard(lambda key: key[0] in partitions)
            self._leaving = before

    def is_leaving(self, partition: int) -> bool:
        """Whether no work may begin for it, because it is about to be somebody else's."""
        return partition in self._leaving

    def discard(self, unwanted: Callable[[Key], bool]) -> None:
        """Forget the keys that are ``unwanted``."""
        self.queue.discard(unwanted)
        self._waiting = {key: waiting for key, waiting in self._waiting.items() if not unwanted(key)}


def _joined(one: Task, other: Task) -> Task:
    """Both, in one look."""
    return replace(
        other,
        full=one.full or other.full,
        swept=one.swept and other.swept,
        org_id=other.org_id or one.org_id,
        host_email=other.host_email or one.host_email,
    )
