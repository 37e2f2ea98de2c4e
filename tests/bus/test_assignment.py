"""What was delivered between two rebalances, and how much of it at most."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from service.bus.assignment import MAX_BYTES, Assignment
from service.core.message import Received


class Nobody:
    """A listener that is told nothing here."""

    async def assigned(self, partitions: frozenset[int]) -> None: ...
    async def revoked(self, partitions: frozenset[int]) -> None: ...


def record(offset: int, *, partition: int = 0, size: int = 1) -> Received:
    return Received(topic="work", partition=partition, offset=offset, key="k", value=b"x" * size, timestamp=0)


def assignment(*delivered: Received, limit: int = 10) -> Assignment:
    made = Assignment(frozenset({0, 1}), Nobody(), limit)
    for each in delivered:
        made.deliver(each)
    return made


def numbered(numbers: Iterable[int]) -> list[Received]:
    return [record(n) for n in numbers]


def test_a_record_of_another_assignment_finishes_nothing() -> None:
    """Equal is not the same: it was handed out once more, and is being worked on."""
    mine, before = record(0), record(0)
    made = assignment(mine)
    made.finish(before)
    assert (made.unfinished, made.committable()) == (1, {})
    made.finish(mine)
    assert (made.unfinished, made.committable()) == (0, {0: 1})
    made.committed({0: 1})
    assert made.committable() == {}


def test_records_fill_a_partition_and_only_that() -> None:
    """Half of the limit has to be finished before a paused one goes on."""
    delivered = numbered(range(10))
    made = assignment(*delivered)
    assert (made.is_full(0), made.is_full(1)) == (True, False)
    for each in delivered[:4]:
        made.finish(each)
    assert not made.has_room_again(0)
    made.finish(delivered[4])
    assert made.has_room_again(0)


def test_bytes_fill_a_partition_too() -> None:
    """A few large records may take as much memory as ten thousand small ones."""
    large = [record(n, size=MAX_BYTES // 4) for n in range(4)]
    made = assignment(*large, limit=10_000)
    assert made.is_full(0)
    made.finish(large[0])
    assert (made.is_full(0), made.has_room_again(0)) == (False, False)
    made.finish(large[1])
    assert made.has_room_again(0)


@pytest.mark.parametrize("paused", [set(), {0}])
def test_no_fetch_brings_more_than_there_is_room_for(paused: set[int]) -> None:
    """Also where a partition that is paused may be resumed meanwhile, at half of the limit."""
    made = assignment(*numbered(range(7)))
    made.paused = paused
    assert made.room() == (5 if paused else 3)


def test_offsets_that_begin_again_begin_with_nothing() -> None:
    """What was handed out of the log before is neither waited for nor counted; the other partition is as it was."""
    old, other = numbered(range(100, 105)), record(7, partition=1)
    made = assignment(*old, other)
    made.begin_anew(0)
    assert made.unfinished == 1
    new = made.deliver(record(0))
    for each in old:
        made.finish(each)
    assert made.committable() == {}
    made.finish(new)
    assert made.committable() == {0: 1}
