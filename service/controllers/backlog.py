"""What waits for a look: one entry for each meeting series, with the hints that the look will answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from service.controllers.registrants import Task
from service.controllers.work_queue import WorkQueue
from service.core.message import Received

#: Partition and series.
Key = tuple[int, str]


@dataclass
class Waiting:
    """One series that has to be looked at. ``first`` is when the oldest hint was accepted, None where a sweep asked."""

    task: Task
    hints: dict[int, Received] = field(default_factory=dict)  # by offset
    came: dict[int, float] = field(default_factory=dict)  # offset → monotonic time
    first: datetime | None = None
    deleted: bool = False
    attempts: int = 0
    not_before: float = float("-inf")

    @property
    def key(self) -> Key:
        """Partition and series."""
        return self.task.place.partition, self.task.series

    def forget(self, hints: dict[int, Received]) -> None:
        """``hints`` are answered, or remembered elsewhere."""
        for offset in hints:
            self.hints.pop(offset, None)
            self.came.pop(offset, None)


class Backlog:
    """The series that wait for a look, and the queue in which they wait."""

    def __init__(self) -> None:
        self.queue: WorkQueue[Key] = WorkQueue()
        self._waiting: dict[Key, Waiting] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self._waiting.values()))

    def get(self, key: Key) -> Waiting | None:
        """What waits under ``key``."""
        return self._waiting.get(key)

    def mark(self, task: Task, *, first: datetime | None = None, delay: float = 0.0) -> Waiting:
        """``task``'s series has to be looked at in ``delay`` seconds; what was asked of it before is not forgotten."""
        key = (task.place.partition, task.series)
        waiting = self._waiting.setdefault(key, Waiting(task=task))
        waiting.task = replace(
            task,
            full=task.full or waiting.task.full,
            org_id=task.org_id or waiting.task.org_id,
            host_email=task.host_email or waiting.task.host_email,
        )
        waiting.first = waiting.first or first
        if delay > 0:
            self.queue.add_later(key, delay)
        else:
            self.queue.add(key)
        return waiting

    def add_hint(self, waiting: Waiting, hint: Received) -> None:
        """``hint`` is answered by a look that begins from now on."""
        waiting.hints[hint.offset] = hint
        waiting.came[hint.offset] = time.monotonic()

    def postpone(self, waiting: Waiting, delay: float) -> None:
        """Try again in ``delay`` seconds, and not before, whatever hints come."""
        waiting.not_before = time.monotonic() + delay
        self.queue.add_later(waiting.key, delay)

    def settle(self, waiting: Waiting, answered: dict[int, Received]) -> None:
        """A look answered these hints; the entry goes when it has no others."""
        waiting.forget(answered)
        waiting.attempts, waiting.first, waiting.deleted = 0, None, False
        if not waiting.hints and not waiting.task.full:
            self._waiting.pop(waiting.key, None)

    def discard(self, unwanted: Callable[[Key], bool]) -> None:
        """Forget the series that are ``unwanted``."""
        self.queue.discard(unwanted)
        self._waiting = {key: waiting for key, waiting in self._waiting.items() if not unwanted(key)}
