"""Who may still come in: those who wait are bounded in number, in age, and by the pace at which they are served; whoever comes
beyond that is refused at once.

A queue that only grows makes everybody late; Webex tries again, and its second attempt finds a shorter one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from service.core.errors import Overloaded

#: Seconds that whoever comes may have before them, where more come than are served.
AHEAD = 0.75
#: More come than are served: so many times as many. Less may be chance, or a store that is slow, and not too small.
_OVERLOAD = 1.5
#: So few, and nobody is refused for the pace.
_FEW = 16
#: The pace is that of so many seconds: unknown before the first number, and of the past no more than about the second.
_LEAST, _MOST = 0.15, 1.0
#: Nobody served for so many seconds: everything stands still, and has no pace. Well below :data:`AHEAD`, or those who come
#: as it begins to stand still would be taken for too many.
_STILL = 0.25


class _Waiting(Protocol):
    verified: float


T = TypeVar("T", bound=_Waiting)


class Admission(Generic[T]):
    """Those who wait, oldest first: ``most`` of them, and nobody beside one who has waited for ``seconds``.

    Fewer where more come than are served: as many as are served in :data:`AHEAD`.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        # Not a dict: to find the first key of one whose first thousand were deleted takes a thousand steps.
        self._queue: OrderedDict[T, int] = OrderedDict()
        self._pace = _Pace()

    def __len__(self) -> int:
        return len(self._queue)

    def admit(self, now: float) -> None:
        """Raises Overloaded where one more would be too many, or would have to wait for too long, or the oldest has."""
        queue, too_late = self._queue, self._pace.too_late(now)
        if queue and (too_late or len(queue) >= self._most or now - next(iter(queue)).verified > self._seconds):
            raise Overloaded

    def add(self, one: T) -> None:
        """From now on it waits; later than all others."""
        self._queue[one] = self._pace.came = self._pace.came + 1

    def remove(self, one: T) -> bool:
        """It waits no longer. False: it has not waited any more."""
        number = self._queue.pop(one, None)
        if number is None:
            return False
        self._pace.left(number)
        return True

    def since_before(self, moment: float) -> Iterator[T]:
        """Those who have waited since before then; they may be removed meanwhile."""
        while self._queue and (oldest := next(iter(self._queue))).verified < moment:
            yield oldest


class _Pace:
    """How fast those who wait are served, as seen whenever somebody comes.

    Only those count who came after the latest that was served: with one partition stuck they are few, because the others'
    are overtaking it. Where all stand still (Kafka, until the journal takes over), nobody can tell how long it will take.
    """

    def __init__(self) -> None:
        self.came = 0
        self._front = 0  # the latest who was served
        self._asked = self._served = self._seen = 0
        self._begun = self._moved = 0.0

    def left(self, number: int) -> None:
        """The one who came as the so-many-th has been served, or has gone."""
        self._served += 1
        if number > self._front:
            self._front = number

    def too_late(self, now: float) -> bool:
        """Whether somebody who comes now would have to wait for too long, because too many come."""
        behind, served = self.came - self._front, self._served
        self._asked += 1
        still = now - self._moved > _STILL
        if behind < _FEW or (still and served != self._seen):
            self._begin(now)
            return False
        if served != self._seen:
            self._seen, self._moved = served, now
        seconds = self._moved - self._begun
        if still or seconds < _LEAST:
            return False
        if seconds > _MOST:
            self._forget_half(seconds)
            served, seconds = self._served, seconds / 2
        return self._asked > _OVERLOAD * served and behind * seconds > AHEAD * served

    def _begin(self, now: float) -> None:
        self._begun = self._moved = now
        self._asked = self._served = self._seen = 0

    def _forget_half(self, seconds: float) -> None:
        self._begun += seconds / 2
        self._asked //= 2
        self._served = self._seen = self._served // 2
