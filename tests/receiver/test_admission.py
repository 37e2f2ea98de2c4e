"""Overload is refused, not queued."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import quantiles

import httpx
import pytest

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
        assert admission.admit(one.verified) == 1
        admission.add(one)
    assert admission.admit(1) == 0

    assert admission.remove(first)
    assert not admission.remove(first)
    assert admission.admit(1) == 1


def test_those_who_come_in_together_count_for_one_another() -> None:
    """Though none of them waits yet: as many of them as may wait, and of none there is nothing to say."""
    admission = Admission[Waiting](most=3, seconds=10)
    assert [admission.admit(0, count) for count in (0, 1, 3, 4, 100)] == [0, 1, 3, 3, 3]

    admission.add(Waiting(0))
    assert [admission.admit(1, count) for count in (0, 1, 2, 3)] == [0, 1, 2, 2]
    assert [admission.admit(10.1, count) for count in (1, 3)] == [0, 0]


@pytest.mark.parametrize("seed", range(60))
def test_who_comes_with_others_comes_in_as_if_alone(seed: int) -> None:
    """One after the other, as many come in as together, whatever was before: at any pace, after any pause."""
    chance = random.Random(seed)  # noqa: S311 - the same for every run
    together, alone = Admission[Waiting](most=60, seconds=4), Admission[Waiting](most=60, seconds=4)
    waiting: list[tuple[Waiting, Waiting]] = []
    now, refused, pause = 0.0, 0, chance.choice([0.001, 0.02, 0.1])
    for _ in range(400):
        now += chance.choice([0, pause, pause, 0.3, 0.7, 3]) if chance.random() < 0.1 else pause * chance.random()
        for _ in range(min(len(waiting), chance.randint(0, 14))):
            pair = waiting.pop(0 if chance.random() < 0.9 else chance.randrange(len(waiting)))
            served = chance.random() < 0.95
            for admission, one in zip((together, alone), pair, strict=True):
                assert admission.served(one, now) if served else admission.remove(one)
        count, came_in = chance.randint(1, 24), 0
        admitted = together.admit(now, count)
        for _ in range(count):
            if alone.admit(now):
                came_in += 1
                waiting.append((Waiting(now), Waiting(now)))
                together.add(waiting[-1][0])
                alone.add(waiting[-1][1])
        assert admitted == came_in
        refused += count - admitted
    assert refused


def test_nobody_comes_in_while_one_has_waited_for_too_long() -> None:
    """It is the oldest that counts; those behind it may be answered before it."""
    admission = Admission[Waiting](most=100, seconds=3)
    old, young = Waiting(0), Waiting(2)
    for one in (old, young):
        admission.add(one)
    assert admission.admit(3) == 1
    assert admission.admit(3.1) == 0

    admission.remove(old)
    assert admission.admit(4.9) == 1
    assert admission.admit(5.1) == 0


def test_those_who_wait_since_before_a_moment() -> None:
    """They are given one after the other, and may be sent away meanwhile."""
    admission = Admission[Waiting](most=100, seconds=3)
    for moment in (1.0, 2.0, 3.0):
        admission.add(Waiting(moment))
    gone = [one.verified for one in admission.since_before(3.0) if admission.remove(one)]

    assert (gone, len(admission)) == ([1.0, 2.0], 1)


#: When one who comes now, as the so-many-th, will be stored (s).
Store = Callable[[float, int], float]


def one_by_one(seconds: float) -> Store:
    """Each takes so long, and then comes the next."""
    free_at = 0.0

    def stored(now: float, _: int) -> float:
        nonlocal free_at
        free_at = max(free_at, now) + seconds
        return free_at

    return stored


def as_shipped() -> Admission[Waiting]:
    limits = Limits()
    return Admission(most=limits.publishing, seconds=limits.waiting_seconds)


def evenly(rate: float, seconds: float) -> list[float]:
    """So many a second."""
    return [number / rate for number in range(int(rate * seconds))]


def at_random(rate: float, seconds: float) -> list[float]:
    """As many, each without regard to the others."""
    chance, moments = random.Random(rate), [0.0]  # noqa: S311 - the same for every run
    while moments[-1] < seconds:
        moments.append(moments[-1] + chance.expovariate(rate))
    return moments


@dataclass(frozen=True)
class Outcome:
    """How long those who came in had to wait (s), and when others were refused."""

    waited: list[float]
    refused: list[float]


def simulated(admission: Admission[Waiting], store: Store, moments: Iterable[float]) -> Outcome:
    """What becomes of those who come at these moments, by a clock of its own."""
    found, waiting = Outcome([], []), list[tuple[float, int, Waiting]]()
    for number, now in enumerate(moments):
        while waiting and waiting[0][0] <= now:
            admission.served(waiting[0][2], waiting[0][0])
            heapq.heappop(waiting)
        if not admission.admit(now):
            found.refused.append(now)
            continue
        one, stored = Waiting(now), store(now, number)
        admission.add(one)
        heapq.heappush(waiting, (stored, number, one))
        found.waited.append(stored - now)
    return found


def p99(waited: Sequence[float]) -> float:
    return quantiles(waited, n=100)[98]


@pytest.mark.parametrize(
    ("most", "seconds"),
    [(80, 60.0), (10_000, 0.15), (80, 0.15)],
    ids=["bounded in number", "bounded in age", "bounded in both"],
)
def test_a_minute_at_five_times_what_can_be_stored(most: int, seconds: float) -> None:
    """Each bound alone keeps p99 below a second, and uses most of what there is; afterwards all is as before.

    At n times the capacity whoever comes last, when the oldest has waited for so long, waits for n times as long.
    """
    found = simulated(Admission(most=most, seconds=seconds), one_by_one(0.01), [*evenly(500, 60), 65.0])

    assert p99(found.waited[:-1]) <= 1.0
    assert len(found.waited) > 0.9 * 60 * 100
    assert len(found.refused) > 20_000
    assert found.waited[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("come", [evenly, at_random])
@pytest.mark.parametrize("seconds", [6, 20])
@pytest.mark.parametrize(("each", "times"), [(0.01, 2), (0.01, 5), (0.02, 5), (0.002, 5)])
def test_overload_with_the_limits_as_shipped(
    come: Callable[[float, float], list[float]], seconds: int, each: float, times: int
) -> None:
    """What comes in the first half second comes in, and no store is judged by less; from then on p99 stays below a second,
    what can be stored is stored, and afterwards all is as before.
    """
    load = come(times / each, seconds)
    found = simulated(as_shipped(), one_by_one(each), [*load, seconds + 5.0])

    assert max(found.waited) <= 3.0
    assert p99(found.waited[int(0.6 * times / each) : -1]) <= 1.0
    assert len(found.waited) > 0.95 * seconds / each
    assert len(found.refused) > 0.2 * len(load)
    assert found.waited[-1] == pytest.approx(each)


def test_a_store_that_breaks_down() -> None:
    """For a minute it stored a thousand a second, then it does a tenth of that: the minute is soon forgotten."""
    slow = one_by_one(0.01)

    def store(now: float, number: int) -> float:
        return now + 0.02 if now < 60 else slow(now + 0.02, number)

    found = simulated(as_shipped(), store, evenly(1000, 80))

    assert max(found.waited) < 10
    assert p99(found.waited[60_000 + 1000 :]) <= 1.0
    assert found.refused[0] > 60


def standing_still(now: float, number: int) -> float:
    """Kafka for two seconds; then the journal has all of them, some thousand at a time."""
    return 7.0 + number % 6 / 100 if 5 < now < 7 else now + 0.005


def one_of_six_stuck(now: float, number: int) -> float:
    """A partition has no leader for four seconds."""
    return 9.0 if number % 6 == 0 and 5 < now < 9 else now + 0.005


def half_are_stuck(now: float, number: int) -> float:
    """A broker is gone, and the partitions that it led."""
    return 9.0 if number % 2 == 0 and 5 < now < 9 else now + 0.005


def becoming_slow(now: float, _: int) -> float:
    """Followers that lag: a second for each, however many there are."""
    return now + (1.0 if now > 5 else 0.005)


def in_batches(now: float, _: int) -> float:
    """A slow disk: what comes while it writes goes with the next one."""
    return (now // 0.2 + 2) * 0.2


def by_group_commit(seconds: float) -> Store:
    """A journal: whatever waits is written together, and what comes meanwhile with the next one."""
    ends = [0.0, 0.0]

    def stored(now: float, _: int) -> float:
        if now >= ends[1]:  # nothing is being written: at once
            ends[:] = [now, now + seconds]
        elif now >= ends[0]:
            ends[:] = [ends[1], ends[1] + seconds]
        return ends[1]

    return stored


def far_away(now: float, _: int) -> float:
    """Of a burst at the tenth second the first goes at once, and all others with the next batch."""
    return now + 0.06 if now <= 10 else 10.12


@pytest.mark.parametrize("come", [evenly, at_random])
@pytest.mark.parametrize("rate", [10, 100, 1000, 4500])
@pytest.mark.parametrize("store", [standing_still, one_of_six_stuck, half_are_stuck, in_batches])
def test_what_stands_still_is_no_overload(come: Callable[[float, float], list[float]], rate: int, store: Store) -> None:
    """Whoever comes meanwhile waits with the others, or overtakes them: nobody is refused."""
    found = simulated(as_shipped(), store, come(rate, 12))

    assert found.refused == []


@pytest.mark.parametrize("come", [evenly, at_random])
@pytest.mark.parametrize("rate", [20, 200, 300, 1000, 4500])
@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.18, 0.2, 0.22, 0.24, 0.26, 0.5])
def test_a_slow_disk_is_no_overload(come: Callable[[float, float], list[float]], rate: int, seconds: float) -> None:
    """It stores as many as come, however long each commit takes."""
    assert simulated(as_shipped(), by_group_commit(seconds), come(rate, 8)).refused == []


@pytest.mark.parametrize("share", [0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("rate", [100, 1000, 4500])
def test_a_hot_partition_that_is_stuck_is_no_overload(share: float, rate: int) -> None:
    """Nearly all waits for one partition without a leader, and the little else there is overtakes it."""
    chance = random.Random(rate)  # noqa: S311 - the same for every run

    def store(now: float, _: int) -> float:
        return 7.0 if chance.random() < share and 5 < now < 7 else now + 0.005

    assert simulated(as_shipped(), store, evenly(rate, 9)).refused == []


def test_bursts_at_five_times_what_can_be_stored() -> None:
    """The first burst nobody can know for one; what the store has not stored when the next one comes tells."""
    moments = [burst * 0.5 + each for burst in range(80) for each in evenly(2500, 0.1)]
    found = simulated(as_shipped(), one_by_one(0.01), moments)

    assert max(found.waited) < 4.5
    assert p99(found.waited[500:]) <= 1.25


@pytest.mark.parametrize("rate", [10, 100, 1000])
def test_what_is_slow_is_no_overload(rate: int) -> None:
    """It stores as many as come, and refusing some would make it no faster."""
    assert simulated(as_shipped(), becoming_slow, evenly(rate, 12)).refused == []


def test_a_burst_is_no_overload() -> None:
    """A thousand within a tenth of a second, where there were few; nobody knows yet how fast they will be stored."""
    moments = [*evenly(20, 10), *(10 + each for each in evenly(10_000, 0.1))]

    assert simulated(as_shipped(), far_away, moments).refused == []


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

    def flush(self) -> None:
        """Nothing waits for more."""


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


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The collector goes through all that pytest knows, and everybody waits meanwhile: no figure of ours either."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_overload_over_real_sockets() -> None:
    """At five times what can be stored, that shows within a second, and what is accepted then is stored within a second (p99);
    the rest is told at once to come again. A moment after the load nobody is refused.
    """
    publisher, stalls = OneByOne(), Stalls()
    endpoint = Bench(limits=Limits()).endpoint(publisher)
    async with listening(endpoint, "direct") as url, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(stalls.watch())
        sent = await load(url, rate=500, seconds=4)
        durable = publisher.durable
        await asyncio.sleep(1)
        after = await load(url, rate=20, seconds=1)
        watching.cancel()

    accepted = [each for each in sent if each.status == 204]
    refused = [each for each in sent if each.status != 204]
    assert {(each.status, each.retry_after) for each in refused} == {(503, "5")}
    assert len(accepted) == durable > 50
    first = next(number for number, each in enumerate(sent) if each.status == 503)
    assert first <= 500
    # Those who were sent side by side with the first come in any order. What came while nothing ran here, at five times the
    # capacity, takes five times as long.
    later = [each.seconds for each in sent[first + 25 :] if each.status == 204]
    assert p99(later) <= 1.0 + 6 * stalls.seconds
    assert max(each.seconds for each in accepted) <= 3.0 + 6 * stalls.seconds
    assert {each.status for each in after} == {204}
