"""Who may still come in: those who wait are bounded in number and in age, and whoever comes beyond that is refused at once.

A queue that only grows makes everybody late; Webex tries again, and its second attempt finds a shorter one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from service.core.errors import Overloaded


class _Waiting(Protocol):
    verified: float


T = TypeVar("T", bound=_Waiting)


class Admission(Generic[T]):
    """Those who wait, oldest first: ``most`` of them, and nobody beside one who has waited for ``seconds``."""

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        # Not a dict: to find the first key of one whose first thousand were deleted takes a thousand steps.
        self._queue: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queue)

    def admit(self, now: float) -> None:
        """Raises Overloaded where one more would be too many, or the oldest has waited for too long."""
        queue = self._queue
        if queue and (len(queue) >= self._most or now - next(iter(queue)).verified > self._seconds):
            raise Overloaded

    def add(self, one: T) -> None:
        """From now on it waits; later than all others."""
        self._queue[one] = None

    def remove(self, one: T) -> bool:
        """It waits no longer. False: it has not waited any more."""
        return self._queue.pop(one, self) is None

    def since_before(self, moment: float) -> Iterator[T]:
        """Those who have waited since before then; they may be removed meanwhile."""
        while self._queue and (oldest := next(iter(self._queue))).verified < moment:
            yield oldest
