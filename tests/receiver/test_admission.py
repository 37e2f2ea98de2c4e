"""Overload is refused, not queued."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

import httpx
import pytest

from service.core.errors import Overloaded
from service.core.message import Message
from service.receiver.admission import Admission
from service.receiver.endpoint import Limits
from tests.receiver.conftest import URL, Bench
from tests.receiver.test_app import BODY, signed
from tests.receiver.ways import Client, listening, written


@dataclass(eq=False)
class Waiting:
    """One who waits since then (s)."""

    verified: float


def test_so_many_may_wait_and_no_more() -> None:
    """Whoever comes when it is full is refused, until somebody has left."""
    admission = Admission[Waiting](most=2, seconds=10)
    first, second = Waiting(0), Waiting(1)
    for one in (first, second):
        admission.admit(one.verified)
        admission.add(one)
    with pytest.raises(Overloaded):
        admission.admit(1)

    assert admission.remove(first)
    assert not admission.remove(first)
    admission.admit(1)


def test_nobody_comes_in_while_one_has_waited_for_too_long() -> None:
    """It is the oldest that counts; those behind it may be answered before it."""
    admission = Admission[Waiting](most=100, seconds=3)
    old, young = Waiting(0), Waiting(2)
    for one in (old, young):
        admission.add(one)
    admission.admit(3)
    with pytest.raises(Overloaded):
        admission.admit(3.1)

    admission.remove(old)
    admission.admit(4.9)
    with pytest.raises(Overloaded):
        admission.admit(5.1)


def test_those_who_wait_since_before_a_moment() -> None:
    """They are given one after the other, and may be sent away meanwhile."""
    admission = Admission[Waiting](most=100, seconds=3)
    for moment in (1.0, 2.0, 3.0):
        admission.add(Waiting(moment))
    gone = [one.verified for one in admission.since_before(3.0) if admission.remove(one)]

    assert (gone, len(admission)) == ([1.0, 2.0], 1)


@dataclass(frozen=True)
class Overload:
    """What became of those who came at five times the capacity, and of one who came five seconds later."""

    waited: list[float]
    refused: int
    after: float


def overload(admission: Admission[Waiting], *, seconds: int) -> Overload:
    """500 a second, of whom one is done every 10 ms, by a clock of its own."""
    waited, refused, free_at, queue = list[float](), 0, 0.0, deque[tuple[float, Waiting]]()
    for now in [*(number / 500 for number in range(500 * seconds)), seconds + 5.0]:
        while queue and queue[0][0] <= now:
            admission.remove(queue.popleft()[1])
        try:
            admission.admit(now)
        except Overloaded:
            refused += 1
            continue
        free_at = max(free_at, now) + 0.01
        one = Waiting(now)
        queue.append((free_at, one))
        admission.add(one)
        waited.append(free_at - now)
    return Overload(waited[:-1], refused, waited[-1])


@pytest.mark.parametrize(
    ("most", "seconds"),
    [(80, 60.0), (10_000, 0.15), (80, 0.15)],
    ids=["bounded in number", "bounded in age", "bounded in both"],
)
def test_a_minute_at_five_times_what_can_be_stored(most: int, seconds: float) -> None:
    """Each bound alone keeps p99 below a second, and uses most of what there is; afterwards all is as before.

    At n times the capacity whoever comes last, when the oldest has waited for so long, waits for n times as long.
    """
    found = overload(Admission[Waiting](most=most, seconds=seconds), seconds=60)

    assert quantiles(found.waited, n=100)[98] <= 1.0
    assert len(found.waited) > 0.9 * 60 * 100
    assert found.refused > 20_000
    assert found.after == pytest.approx(0.01)


class OneByOne:
    """A publisher that makes one event durable in 10 ms, and then the next."""

    def __init__(self) -> None:
        self.durable = 0
        self._free_at = 0.0

    def offer(self, messages: Sequence[Message], done: Callable[[Exception | None], None]) -> asyncio.TimerHandle:
        """Behind all others."""
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + 0.01
        return loop.call_at(self._free_at, self._store, done)

    def _store(self, done: Callable[[Exception | None], None]) -> None:
        self.durable += 1
        done(None)

    def withdraw(self, offer: object) -> None:
        """It leaves a gap."""
        assert isinstance(offer, asyncio.TimerHandle)
        offer.cancel()


@dataclass(frozen=True)
class Sent:
    """One request, and what came of it; seconds count from the moment at which it was to be sent."""

    status: int
    retry_after: str | None
    seconds: float


async def load(url: str, *, rate: int, seconds: float) -> list[Sent]:
    """So many requests a second, each at its time, whatever became of those before."""
    request, idle, loop = (
        written(httpx.Request("POST", URL, **signed(BODY))),
        list[Client](),
        asyncio.get_running_loop(),
    )
    begun = loop.time()

    async def send(at: float) -> Sent:
        await asyncio.sleep(at - loop.time())
        client = idle.pop() if idle else Client(url)
        answer = await client.ask(request)
        idle.append(client)
        return Sent(answer.status, answer.header("retry-after"), loop.time() - at)

    sent = await asyncio.gather(*(send(begun + number / rate) for number in range(int(rate * seconds))))
    for client in idle:
        client.close()
    return sent


class Stalls:
    """Seconds for which nothing ran here, because other processes had the machine: no figure of ours."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            self.seconds += max(0.0, loop.time() - before - 0.03)


async def test_overload_over_real_sockets() -> None:
    """At five times what can be stored, what is accepted is stored within a second (p99), and the rest is told at once to
    come again; a moment after the load nobody is refused.
    """
    publisher, stalls = OneByOne(), Stalls()
    # The age alone would let in whatever comes in one moment, before anybody has waited.
    endpoint = Bench(limits=Limits(publishing=50, waiting_seconds=0.3)).endpoint(publisher)
    async with listening(endpoint, "direct") as url, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(stalls.watch())
        sent = await load(url, rate=500, seconds=2)
        durable = publisher.durable
        await asyncio.sleep(1)
        after = await load(url, rate=20, seconds=1)
        watching.cancel()

    accepted = [each for each in sent if each.status == 204]
    refused = [each for each in sent if each.status != 204]
    assert {(each.status, each.retry_after) for each in refused} == {(503, "5")}
    assert len(accepted) == durable > 50
    assert quantiles([each.seconds for each in accepted], n=100)[98] <= 1.0 + stalls.seconds
    assert {each.status for each in after} == {204}
