"""Who may still come in: those who wait are bounded in number, in age, and by the pace at which they are served; whoever comes
beyond that is refused at once.

A queue that only grows makes everybody late; Webex tries again, and its second attempt finds a shorter one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from math import inf
from typing import Generic, Protocol, TypeVar

#: Seconds that whoever comes may have before them, where more come than are served.
AHEAD = 0.75
#: More come than are served: so many times as many. Less may be chance, or a store that is slow, and not too small.
_OVERLOAD = 1.5
#: So few who wait, and nobody is refused for the pace.
_FEW = 16
#: The pace is that of so many seconds: unknown before the first number, because the first batches of a store that was idle, or
#: stood still, are small; and of the past no more than about the second.
_LEAST, _MOST = 0.5, 1.0
#: Nobody served for so many seconds: everything stands still, and has no pace. Well below :data:`AHEAD`, or those who come
#: as it begins to stand still would be taken for too many.
_STILL = 0.4


class _Waiting(Protocol):
    verified: float


T = TypeVar("T", bound=_Waiting)


class Admission(Generic[T]):
    """Those who wait, oldest first: ``most`` of them, and nobody beside one who has waited for ``seconds``.

    Fewer where more come than are served: as many as are served in :data:`AHEAD`. How fast they are served is measured from
    one service to another. Only those count who came after the latest that was served: with one partition stuck they are
    few, because the others' are overtaking it. Where all stand still (Kafka, until the journal takes over), nobody can tell
    how long it will take.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        # Not a dict: to find the first key of one whose first thousand were deleted takes a thousand steps.
        self._queue: OrderedDict[T, int] = OrderedDict()
        self._came = 0
        self._front = 0  # the latest who was served
        self._begun: float | None = None  # the service from which the pace is measured
        self._latest = -inf  # the latest service
        self._asked = self._served = 0

    def __len__(self) -> int:
        return len(self._queue)

    def admit(self, now: float, count: int = 1) -> int:
        """How many of ``count`` who come together may come in, the first of them: as many as are not too many, and need not
        wait for too long; nobody while the oldest has.
        """
        queue = self._queue
        behind, waiting = self._came - self._front, len(queue)
        if behind < _FEW or behind < 0.8 * waiting:  # the others are stuck: they say nothing of who comes now
            self._begun = None
        seconds, asked = self._pace(now), self._asked + 1
        self._asked += count
        if queue and now - next(iter(queue)).verified > self._seconds:
            return 0
        more = range(count - 1, -1, -1)  # the last first: where it may come in, all may
        return next((n + 1 for n in more if not self._too_many(behind + n, waiting + n, asked + n, seconds)), 0)

    def add(self, one: T) -> None:
        """From now on it waits; later than all others."""
        self._came += 1
        self._queue[one] = self._came

    def served(self, one: T, now: float) -> bool:
        """It has what it waited for. False: it has not waited any more."""
        number = self._queue.pop(one, None)
        if number is None:
            return False
        if number > self._front:
            self._front = number
        if self._begun is None:
            self._begun, self._asked, self._served = now, 0, 0
        else:
            self._served += 1
            if now - self._latest > _STILL:
                self._begun += now - self._latest  # that standstill is over, and says nothing of the pace
        self._latest = now
        return True

    def remove(self, one: T) -> bool:
        """It waits no longer, and in vain. False: it has not waited any more."""
        return self._queue.pop(one, None) is not None

    def since_before(self, moment: float) -> Iterator[T]:
        """Those who have waited since before then; they may be removed meanwhile."""
        while self._queue and (oldest := next(iter(self._queue))).verified < moment:
            yield oldest

    def _pace(self, now: float) -> float:
        """In how many seconds ``_served`` were served and ``_asked`` came; 0.0: nothing is known."""
        if self._begun is None or now - self._latest > _STILL:
            return 0.0
        while (seconds := self._latest - self._begun) > _MOST:
            self._begun = self._latest - seconds / 2
            self._asked //= 2
            self._served //= 2
        return seconds

    def _too_many(self, behind: int, waiting: int, asked: int, seconds: float) -> bool:
        """So many who wait are enough, or whoever comes now, behind so many, would wait for too long, because too many come."""
        too_late = seconds > _LEAST and asked > _OVERLOAD * self._served and behind * seconds > AHEAD * self._served
        return waiting > 0 and (too_late or waiting >= self._most)
