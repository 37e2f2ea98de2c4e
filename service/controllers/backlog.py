"""What waits for a look: one entry for each meeting series, with the hints that the look will answer.

A look takes its entry out. What comes while it runs makes a new entry, which wants a look of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from service.controllers.task import Task
from service.controllers.work_queue import WorkQueue
from service.core.message import Received

#: Partition and series.
Key = tuple[int, str]


@dataclass
class Waiting:
    """One series that has to be looked at. ``first`` is when the oldest hint was accepted, None where a sweep asked.

    ``hints`` are records with the monotonic time when each came.
    """

    task: Task
    hints: list[tuple[float, Received]] = field(default_factory=list)
    first: datetime | None = None
    deleted: bool = False
    attempts: int = 0
    not_before: float = float("-inf")

    @property
    def key(self) -> Key:
        """Partition and series."""
        return self.task.place.partition, self.task.series


class Backlog:
    """The series that wait for a look, and the queue in which they wait."""

    def __init__(self) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self._waiting: dict[Key, Waiting] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self._waiting.values()))

    def mark(self, task: Task, *, first: datetime | None = None, delay: float = 0.0) -> Waiting:
        """``task``'s series has to be looked at in ``delay`` seconds; what was asked of it before is not forgotten."""
        key = (task.place.partition, task.series)
        waiting = self._waiting.setdefault(key, Waiting(task=task))
        waiting.task = _joined(waiting.task, task)
        waiting.first = waiting.first or first
        if delay > 0:
            self.queue.add_later(key, delay)
        else:
            self.queue.add(key)
        return waiting

    def take(self, key: Key) -> Waiting | None:
        """What waits under ``key``, for a look that begins now; None where nothing does, or its time has not come."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return None
        if (early := waiting.not_before - time.monotonic()) > 0:
            self.queue.add_later(key, early)
            return None
        return self._waiting.pop(key)

    def put_back(self, waiting: Waiting, delay: float) -> None:
        """Its look failed: try again in ``delay`` seconds and not before, together with what has come meanwhile."""
        newer = self._waiting.get(waiting.key)
        if newer is not None:
            waiting.task = _joined(waiting.task, newer.task)
            waiting.hints += newer.hints
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

    def discard(self, unwanted: Callable[[Key], bool]) -> None:
        """Forget the series that are ``unwanted``."""
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
