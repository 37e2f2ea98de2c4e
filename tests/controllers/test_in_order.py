"""Key by key, in order, and nobody waits for another key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from service.controllers.in_order import TOGETHER, InOrder

Item = tuple[str, int]


class Bench:
    """Does what it is given, as many at a time as it may; a key in ``stuck`` gets nowhere."""

    def __init__(self) -> None:
        self.done: list[Item] = []
        self.stuck: set[str] = set()
        self.most: int | None = None
        self.given: list[int] = []
        self.busy: set[str] = set()
        self.queues: InOrder[str, Item] = InOrder(self.work)

    async def work(self, items: Sequence[Item]) -> int:
        (key,) = {key for key, _ in items}
        assert key not in self.busy
        self.busy.add(key)
        await asyncio.sleep(0.005 if key in self.stuck else 0)
        self.busy.discard(key)
        if key in self.stuck:
            return 0
        done = list(items)[: self.most]
        self.given.append(len(items))
        self.done += done
        return len(done)

    def add(self, key: str, *numbers: int) -> None:
        for number in numbers:
            self.queues.add(key, (key, number))

    def of(self, key: str) -> list[int]:
        return [number for name, number in self.done if name == key]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Bench]:
        working = asyncio.create_task(self.queues.run())
        try:
            async with asyncio.timeout(5):
                yield self
        finally:
            working.cancel()
            await asyncio.wait({working})


async def test_each_key_in_its_order_and_none_waits_for_another() -> None:
    """A key that cannot go on keeps what comes behind it, and goes on with it when it can."""
    async with Bench().open() as bench:
        bench.stuck.add("a")
        bench.add("a", 1, 2)
        bench.add("b", *range(1000))
        while len(bench.of("b")) < 1000:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        bench.add("a", 3)
        assert bench.of("a") == []
        bench.stuck.clear()
        await bench.queues.idle()
    assert bench.of("a") == [1, 2, 3]
    assert bench.of("b") == list(range(1000))
    assert max(bench.given) <= TOGETHER


async def test_what_was_not_done_is_given_again_first() -> None:
    """Also where only the first of a batch were done."""
    async with Bench().open() as bench:
        bench.most = 3
        bench.add("a", *range(10))
        await bench.queues.idle()
    assert bench.of("a") == list(range(10))


async def test_what_is_discarded_is_not_done() -> None:
    """Except for what was being done at that moment; what came later is done."""
    async with Bench().open() as bench:
        bench.stuck.add("a")
        bench.add("a", 1, 2, 3)
        await asyncio.sleep(0.01)
        bench.queues.discard(lambda item: item[1] < 3)
        bench.stuck.clear()
        await bench.queues.idle()
    assert bench.of("a")[-1] == 3
    assert len(bench.of("a")) in (1, 3)


async def test_an_error_is_raised() -> None:
    """It is a bug of ours: nobody else would see it."""

    async def fail(_: Sequence[int]) -> int:
        raise ZeroDivisionError

    queues: InOrder[str, int] = InOrder(fail)
    queues.add("a", 1)
    with pytest.raises(ExceptionGroup):
        await queues.run()


async def test_nothing_is_kept_of_a_key_that_is_done() -> None:
    """There may be many of them over time."""
    async with Bench().open() as bench:
        for n in range(50):
            bench.add(f"k{n}", n)
        await bench.queues.idle()
        await asyncio.sleep(0)
        assert bench.queues._waiting == {}
