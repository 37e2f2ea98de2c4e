"""The commit position against a model that is too simple to be wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.bus.offsets import OffsetTracker

steps = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(0, 3)),  # how many offsets the log skips (compaction)
        st.tuples(st.just("repeat"), st.integers(0, 40)),  # an offset is handed out again
        st.tuples(st.just("finish"), st.integers(0, 40)),
        st.tuples(st.just("commit"), st.just(0)),
    ),
    max_size=80,
)


class Model:
    """All offsets handed out, all of those finished, and the last position committed."""

    def __init__(self) -> None:
        self.delivered: list[int] = []
        self.finished: set[int] = set()
        self.committed: int | None = None

    def passed(self) -> list[int]:
        """The longest prefix of what was delivered in which everything is finished."""
        length = next((i for i, o in enumerate(self.delivered) if o not in self.finished), len(self.delivered))
        return self.delivered[:length]

    def committable(self) -> int | None:
        position = self.passed()[-1] + 1 if self.passed() else None
        return None if position == self.committed else position

    def unfinished(self) -> int:
        return sum(offset not in self.finished for offset in self.delivered)


def apply(step: tuple[str, int], tracker: OffsetTracker, model: Model) -> None:
    """The same step for both."""
    name, number = step
    if name == "deliver":
        number += model.delivered[-1] + 1 if model.delivered else 0
        tracker.delivered(number)
        model.delivered.append(number)
    elif name == "repeat" and number in model.delivered:
        tracker.delivered(number)
    elif name == "finish":
        tracker.finished(number)
        model.finished |= {number} & set(model.delivered)
    elif name == "commit" and (position := tracker.committable()) is not None:
        tracker.committed(position)
        model.committed = position


@given(steps)
def test_the_tracker_agrees_with_the_model(script: list[tuple[str, int]]) -> None:
    """After every step: the position is behind the longest finished prefix, and no lower than ever before."""
    tracker, model = OffsetTracker(), Model()
    highest = 0
    for step in script:
        apply(step, tracker, model)
        assert tracker.committable() == model.committable()
        assert tracker.unfinished == model.unfinished()
        assert (tracker.committable() or highest) >= highest
        highest = tracker.committable() or highest


def test_a_record_handed_out_again_does_not_take_the_position_back() -> None:
    """A repeat of a passed offset is not opened again: a commit would move the group backwards."""
    tracker = OffsetTracker()
    for offset in (0, 1, 2):
        tracker.delivered(offset)
        tracker.finished(offset)
    tracker.delivered(0)
    tracker.finished(0)
    assert tracker.committable() == 3
    assert tracker.unfinished == 0
