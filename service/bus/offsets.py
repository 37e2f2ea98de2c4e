"""Which offset may be committed: the one behind the highest *contiguous* finished record."""

from __future__ import annotations

from collections import OrderedDict

#: So many records may be handed out beyond the first that is not finished: what is finished there is remembered.
FURTHEST = 200_000


class OffsetTracker:
    """One partition during one assignment. Offsets come in increasing order and may have holes (compaction)."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, bool] = OrderedDict()  # offset → finished
        self._finished = 0  # of those in _open
        self._last = -1
        self._position: int | None = None
        self._committed: int | None = None

    @property
    def unfinished(self) -> int:
        """Records delivered and not finished. One that takes long does not count for those behind it, up to a limit."""
        return len(self._open) - (self._finished if len(self._open) < FURTHEST else 0)

    @property
    def position(self) -> int | None:
        """The first offset that is not finished; None before anything was delivered."""
        if self._open:
            return next(iter(self._open))
        return None if self._last < 0 else self._last + 1

    def delivered(self, offset: int) -> None:
        """``offset`` was handed out. A repeat changes nothing: the position never goes back."""
        if offset > self._last:
            self._open[offset] = False
            self._last = offset

    def finished(self, offset: int) -> None:
        """``offset`` needs nothing more. Idempotent; an offset that was never delivered, or is passed, changes nothing."""
        if self._open.get(offset, True):
            return
        self._open[offset] = True
        self._finished += 1
        while self._open and self._open[oldest := next(iter(self._open))]:
            del self._open[oldest]
            self._finished -= 1
            self._position = oldest + 1

    def committable(self) -> int | None:
        """The position to commit, or None where it is committed already or nothing is finished."""
        return None if self._position == self._committed else self._position

    def committed(self, position: int) -> None:
        """``position`` is committed."""
        self._committed = position
