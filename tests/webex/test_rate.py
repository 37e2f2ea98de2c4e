"""Waiting for the right to send, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.core.errors import WebexError, WebexNotFound, WebexThrottled, WebexUnavailable
from service.core.rate import Lane, Limits
from service.core.retry import RetryBudget
from service.webex.rate import Budget, State, Turn
from tests.webex import virtual_time
from tests.webex.virtual_time import now

LIVE, SWEEP = Lane.LIVE, Lane.SWEEP

#: As fast as anybody likes.
FREE = Limits(start=1e6, ceiling=1e6, burst=10_000)
QUIET = WebexThrottled("429", status=429, retry_after=30.0)
DOWN = WebexUnavailable("503", status=503, maybe_done=True)


def budget(limits: Limits = FREE, *, slots: int = 8, circuit: Callable[[bool], None] = lambda _: None) -> Budget:
    return Budget(slots=slots, limits=limits, monotonic=now, circuit=circuit)


def turn(lane: Lane = LIVE, *, patience: float = 60.0, latest: float = 1e6) -> Turn:
    return Turn(operation="x", lane=lane, patience=patience, latest=latest)


async def use(rate: Budget, lane: Lane = LIVE, *, seconds: float = 0.2, outcome: WebexError | None = None) -> float:
    """One call that takes ``seconds``; when it began."""
    await rate.enter(turn(lane))
    began = now()
    await asyncio.sleep(seconds)
    rate.ended(outcome, sent=began)
    rate.leave(lane)
    return began


def idle(state: State) -> bool:
    return not any((*state.under_way.values(), *state.waiting.values()))


def test_a_budget_without_a_slot_is_refused() -> None:
    """Nobody could ever send."""
    with pytest.raises(ValueError, match="at least one"):
        Budget(slots=0)


def test_calls_are_paced() -> None:
    """Ten at once, the rest evenly at the allowed speed, in the order in which they came."""

    async def main() -> list[float]:
        rate = budget(Limits(start=20.0, ceiling=20.0), slots=100)
        return await asyncio.gather(*(use(rate) for _ in range(50)))

    times = virtual_time.run(main)
    assert times == sorted(times)
    assert times[:10] == [0.0] * 10
    assert times[-1] == pytest.approx(2.0, abs=0.01)


def test_a_flood_of_sweeps_does_not_hold_up_a_live_call() -> None:
    """With a thousand slow sweeps waiting, live calls begin at once; sweeps keep half of the slots busy."""

    async def main() -> tuple[list[float], int]:
        rate = budget()
        sweeps = [asyncio.create_task(use(rate, SWEEP, seconds=5.0)) for _ in range(1000)]
        waits = []
        for _ in range(100):
            await asyncio.sleep(0.9)
            asked = now()
            waits.append(await use(rate) - asked)
        done = sum(task.done() for task in sweeps)
        for task in sweeps:
            task.cancel()
        await asyncio.gather(*sweeps, return_exceptions=True)
        return waits, done

    waits, done = virtual_time.run(main)
    assert max(waits) == 0.0
    assert done >= 4 * 21


def test_at_a_low_speed_a_live_call_waits_for_one_sweep_at_most() -> None:
    """Where two calls a second are allowed, it begins within a second, however many sweeps wait."""

    async def main() -> list[float]:
        rate = budget(Limits(start=2.0, ceiling=2.0, burst=1))
        sweeps = [asyncio.create_task(use(rate, SWEEP)) for _ in range(200)]
        waits = []
        for _ in range(20):
            await asyncio.sleep(1.7)
            asked = now()
            waits.append(await use(rate) - asked)
        for task in sweeps:
            task.cancel()
        await asyncio.gather(*sweeps, return_exceptions=True)
        return waits

    assert max(virtual_time.run(main)) <= 1.0 + 1e-6


def test_a_flood_of_live_calls_leaves_sweeps_a_fifth() -> None:
    """Nobody waits for ever."""

    async def main() -> int:
        rate = budget()
        live = [asyncio.create_task(use(rate)) for _ in range(1000)]
        sweeps = [asyncio.create_task(use(rate, SWEEP)) for _ in range(1000)]
        await asyncio.gather(*live)
        begun = sum(task.done() for task in sweeps)
        for task in sweeps:
            task.cancel()
        await asyncio.gather(*sweeps, return_exceptions=True)
        return begun

    assert 230 <= virtual_time.run(main) <= 260


def test_who_waits_for_a_slot_waits_until_its_latest_moment() -> None:
    """Then it is told, unsent, and the slot goes to the next."""

    async def main() -> None:
        rate = budget(slots=1)
        slow = asyncio.create_task(use(rate, seconds=10.0))
        await asyncio.sleep(0)
        with pytest.raises(WebexUnavailable, match="too many") as caught:
            await rate.enter(turn(latest=3.0))
        assert (now(), caught.value.maybe_done) == (3.0, False)
        await slow
        assert await use(rate) == 10.0
        assert idle(rate.state())

    virtual_time.run(main)


def test_a_call_that_cannot_fit_in_before_its_latest_moment_is_told_at_once() -> None:
    """It does not wait in vain, and does not hold the turnstile."""

    async def main() -> None:
        rate = budget(Limits(start=0.5, ceiling=0.5, burst=1))
        await use(rate, seconds=0.0)
        with pytest.raises(WebexUnavailable, match="too many"):
            await rate.enter(turn(latest=1.0))
        assert now() == 0.0
        assert await use(rate) == pytest.approx(2.0)

    virtual_time.run(main)


def test_all_wait_for_the_moment_that_webex_named() -> None:
    """Those who come later, those who wait in a lane, and who stands at the turnstile; who has no patience is told."""

    async def main() -> None:
        rate = budget(Limits(start=4.0, ceiling=4.0, burst=1))
        early = [asyncio.create_task(use(rate, lane)) for lane in (LIVE, SWEEP) * 5]
        await asyncio.sleep(0.6)
        rate.ended(QUIET, sent=0.55)
        began = now()
        late = [asyncio.create_task(use(rate, lane)) for lane in (LIVE, SWEEP)]
        with pytest.raises(WebexThrottled) as caught:
            await rate.enter(turn(patience=0.0))
        assert caught.value.retry_after == 30.0
        times = sorted(await asyncio.gather(*early, *late))
        assert times[:3] == pytest.approx([0.0, 0.25, 0.5])
        assert times[3] == pytest.approx(began + 30.0)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times[3:])]
        assert min(gaps) >= 0.25
        assert idle(rate.state())

    virtual_time.run(main)


def test_an_open_circuit_refuses_at_once_and_lets_one_call_through() -> None:
    """Everybody learns how long; of many who come when the pause is over, one goes."""

    async def main() -> None:
        changes: list[tuple[float, bool]] = []
        rate = budget(circuit=lambda is_open: changes.append((now(), is_open)))
        for _ in range(8):
            await use(rate, seconds=0.0, outcome=DOWN)
        with pytest.raises(WebexUnavailable, match="has not answered lately") as caught:
            await rate.enter(turn())
        assert (caught.value.retry_after, caught.value.maybe_done) == (5.0, False)
        await asyncio.sleep(5.0)
        outcomes = await asyncio.gather(*(use(rate) for _ in range(20)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(WebexUnavailable) == 19
        assert changes == [(0.0, True), (5.2, False)]
        assert await use(rate) == 5.2
        assert idle(rate.state())

    virtual_time.run(main)


def test_changes_are_logged_and_nothing_else() -> None:
    """One line when the circuit opens, one when it closes, one for a flight of 429s."""

    async def main() -> None:
        rate = budget()
        for _ in range(20):
            rate.ended(DOWN, sent=now())
        for _ in range(5):
            rate.ended(None, sent=now())
        for _ in range(5):
            rate.ended(QUIET, sent=now())

    with capture_logs() as logs:
        virtual_time.run(main)
    assert [line["event"] for line in logs] == ["webex.circuit_opened", "webex.circuit_closed", "webex.throttled"]
    assert logs[-1]["retry_after"] == 30.0
    assert logs[-1]["calls_per_second"] == 2.5


def test_an_answer_that_refuses_is_an_answer() -> None:
    """A 404 says that Webex lives, and 429 too."""

    async def main() -> None:
        rate = budget()
        for outcome in (WebexNotFound("404", status=404), QUIET):
            for _ in range(7):
                rate.ended(DOWN, sent=now())
            rate.ended(outcome, sent=now())
        assert not rate.state().circuit_open

    virtual_time.run(main)


def test_the_state_tells_what_a_gauge_wants() -> None:
    """Speed, wait, circuit, calls under way and waiting by lane, repetitions."""

    async def main() -> None:
        rate = Budget(
            slots=2, limits=Limits(start=40.0), repeats=RetryBudget(left=3.0, share=0.125, trickle=0.0), monotonic=now
        )
        tasks = [asyncio.create_task(use(rate, lane)) for lane in (LIVE, SWEEP, LIVE, SWEEP, SWEEP)]
        await asyncio.sleep(0.01)
        assert rate.may_repeat()
        assert rate.state() == State(
            rate=40.0,
            throttled_for=0.0,
            circuit_open=False,
            under_way={LIVE: 1, SWEEP: 1},
            waiting={LIVE: 1, SWEEP: 2},
            repeats=2.25,
        )
        await asyncio.gather(*tasks)
        rate.ended(QUIET, sent=now())
        assert rate.throttled_for == 30.0
        assert [rate.may_repeat() for _ in range(3)] == [True, True, False]  # 3 - 1 + 5 / 8

    virtual_time.run(main)


@pytest.mark.parametrize("seed", range(10))
def test_cancelling_anywhere_loses_no_slot(seed: int) -> None:
    """Callers are cancelled in every place where they wait; at the end everything is free and works."""
    chance = random.Random(seed)  # noqa: S311 - the same each time

    async def main() -> None:
        rate = budget(Limits(start=30.0, ceiling=30.0, burst=2), slots=3)
        tasks: list[asyncio.Task[float]] = []
        for _ in range(300):
            outcome = QUIET if chance.random() < 0.01 else None
            work = _abiding(rate, chance.choice([LIVE, SWEEP]), outcome)
            tasks.append(asyncio.create_task(work))
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.01, 0.05]))
            for task in chance.sample(tasks, min(len(tasks), 2)):
                task.cancel()
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(100.0)
        assert idle(rate.state())
        began = await asyncio.gather(*(use(rate, lane) for lane in (LIVE, SWEEP) * 10))
        assert max(began) - min(began) < 10.0

    virtual_time.run(main)


def _abiding(rate: Budget, lane: Lane, outcome: WebexError | None) -> Coroutine[Any, Any, float]:
    """As the client does it: what has entered ends by itself, whoever is cancelled."""

    async def ended(began: float) -> None:
        await asyncio.sleep(0.05)
        rate.ended(outcome, sent=began)
        rate.leave(lane)

    async def call() -> float:
        await rate.enter(turn(lane))
        began = now()
        await asyncio.shield(asyncio.create_task(ended(began)))
        return began

    return call()
