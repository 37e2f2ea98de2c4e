"""Which offset may be committed: the one behind the highest *contiguous* finished record."""

from __future__ import annotations

from collections import OrderedDict


class OffsetTracker:
    """One partition during one assignment. Offsets come in increasing order and may have holes (compaction)."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, bool] = OrderedDict()  # offset → finished
        self._position: int | None = None
        self._committed: int | None = None

    @property
    def unfinished(self) -> int:
        """Records delivered and not yet passed by the commit position."""
        return len(self._open)

    def delivered(self, offset: int) -> None:
        """``offset`` was handed out."""
        self._open[offset] = False

    def finished(self, offset: int) -> None:
        """``offset`` needs nothing more. Idempotent; an offset that was never delivered, or is passed, changes nothing."""
        if offset not in self._open:
            return
        self._open[offset] = True
        while self._open and next(iter(self._open.values())):
            self._position = self._open.popitem(last=False)[0] + 1

    def committable(self) -> int | None:
        """The position to commit, or None where it is committed already or nothing is finished."""
        return None if self._position == self._committed else self._position

    def committed(self, position: int) -> None:
        """``position`` is committed."""
        self._committed = position
