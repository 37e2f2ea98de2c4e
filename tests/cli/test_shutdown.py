"""The end of a process: who asks for it, how long each step may take, and what ends it where it would not end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from service.cli.shutdown import (
    CALLS,
    FLUSH,
    GRACE,
    JOURNAL,
    LIMIT,
    PROBES,
    PROCESSING,
    REQUESTS,
    Limit,
    Step,
    Stop,
    Watchdog,
    stopped_by_signals,
    unless_stopped,
)

QUICK = Limit(1.0, by=1.0)


# --- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    """And it is known since when."""
    asked: list[str] = []
    with stopped_by_signals(lambda: asked.append("asked")) as stop:
        assert stop.seconds == 0
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()
        assert 0 < stop.seconds < 5
        stop.set()
    assert asked == ["asked"]


async def test_the_second_ctrl_c_is_not_ours() -> None:
    """Whoever presses it twice means it: the second time SIGINT does what it does by itself."""
    with stopped_by_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            await stop.wait()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_second_sigterm_changes_nothing() -> None:
    """What is under way still has its time."""
    with stopped_by_signals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                await stop.wait()
            await asyncio.sleep(0.01)
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)


# --- start-up ---------------------------------------------------------------------------------------------------------


async def test_start_up_ends_when_the_end_is_asked_for() -> None:
    """Whatever it waits for; and what comes after it is not cancelled."""
    stop = Stop()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    async with asyncio.timeout(5):
        async with unless_stopped(stop):
            await asyncio.sleep(3600)
        await asyncio.sleep(0.01)
        assert stop.is_set()


async def test_start_up_that_succeeds_is_left_alone() -> None:
    """Also when the end is asked for in the very last moment, or right afterwards."""
    stop = Stop()
    async with unless_stopped(stop):
        stop.set()
    await asyncio.sleep(0.01)
    async with unless_stopped(Stop()):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)


async def test_a_start_that_swallows_it_does_not_pass_it_on() -> None:
    """Nobody else is cancelled instead, and limits of time still work."""
    stop = Stop()
    async with unless_stopped(stop):
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(3600)


async def test_somebody_elses_cancelling_passes_through() -> None:
    """It is not taken for the end that was asked for."""
    stop, begun = Stop(), asyncio.Event()

    async def start() -> None:
        async with unless_stopped(stop):
            begun.set()
            await asyncio.sleep(3600)

    starting = asyncio.create_task(start())
    await begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_an_error_of_the_start_comes_out() -> None:
    """As it is."""
    with pytest.raises(ZeroDivisionError):
        async with unless_stopped(Stop()):
            raise ZeroDivisionError


async def test_a_start_that_fails_is_not_taken_for_one_that_was_ended() -> None:
    """What is undone then may ask for the end itself; the error comes out all the same."""
    stop = Stop()

    @contextlib.asynccontextmanager
    async def asking() -> AsyncIterator[None]:
        try:
            yield
        finally:
            stop.set()
            await asyncio.sleep(0.05)

    async def start() -> None:
        async with unless_stopped(stop), asking():
            await asyncio.sleep(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await start()
    await asyncio.sleep(0.01)


# --- steps ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def ending_by(exit_: Callable[[], Awaitable[object]]) -> AsyncIterator[str]:
    """Something whose end takes as long as ``exit_``."""
    yield "value"
    await exit_()


async def nothing() -> None:
    """An end without any effort."""


async def test_a_step_says_how_long_it_took() -> None:
    """One line for each, and the time of all of them runs from the first one on."""
    stop = Stop()
    with capture_logs() as logs:
        async with Step("flush", ending_by(nothing), limit=QUICK, stop=stop) as value:
            assert value == "value"
            assert stop.seconds == 0
    assert [(line["event"], line["step"]) for line in logs] == [("shutdown.step", "flush")]
    assert 0 <= logs[0]["seconds"] < 1
    assert stop.seconds > 0


async def test_a_step_that_takes_too_long_is_cut_off() -> None:
    """It is cancelled, and the next one has its turn."""
    cancelled: list[bool] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with asyncio.timeout(5):
        with capture_logs() as logs:
            async with Step("work", ending_by(hang), limit=QUICK, stop=Stop()):
                pass
    assert cancelled == [True]
    assert [(line["event"], line["step"], line["still_running"]) for line in logs] == [
        ("shutdown.cut_short", "work", False)
    ]


async def test_a_step_that_ignores_being_cancelled_is_left_behind() -> None:
    """Nobody waits for it; what becomes of it is told."""
    go = asyncio.Event()

    async def ignore() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await go.wait()
        raise ZeroDivisionError

    with capture_logs() as logs:
        async with asyncio.timeout(5), Step("work", ending_by(ignore), limit=QUICK, stop=Stop()):
            pass
        assert logs[-1]["still_running"] is True
        go.set()
        for _ in range(5):
            await asyncio.sleep(0)
    assert (logs[-1]["event"], logs[-1]["error"]) == ("shutdown.step_failed", "ZeroDivisionError")


async def test_the_error_of_an_end_and_that_of_the_block_come_out() -> None:
    """What died beside the block ends the process with its own error."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with Step("work", ending_by(fail), limit=QUICK, stop=Stop()):
            pass
    with pytest.raises(KeyError):
        async with Step("work", ending_by(nothing), limit=QUICK, stop=Stop()):
            raise KeyError


def test_a_step_never_gets_more_than_is_left() -> None:
    """What came before it may have used the time; a moment it always has."""
    stop = Stop()
    assert stop.time_for(Limit(5.0, by=22.0)) == 5.0
    stop.set()
    assert stop.time_for(Limit(5.0, by=3.0)) == pytest.approx(3.0, abs=0.5)
    assert stop.time_for(Limit(5.0, by=0.0)) == GRACE


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((REQUESTS, PROBES, FLUSH, JOURNAL), id="receiver"),
        pytest.param((PROCESSING, PROCESSING, CALLS, PROBES, FLUSH), id="processor"),
        pytest.param((REQUESTS, PROCESSING, PROCESSING, CALLS, PROBES, REQUESTS, JOURNAL), id="dev"),
    ],
)
def test_all_steps_together_end_before_the_watchdog_wakes(steps: tuple[Limit, ...]) -> None:
    """Even where each of them takes all the time that it may, and then some to let go."""
    now = 0.0
    for limit in steps:
        now += max(GRACE, min(limit.seconds, limit.by - now))
    assert now <= LIMIT - 1


# --- the watchdog -----------------------------------------------------------------------------------------------------


async def test_the_watchdog_says_what_still_runs_and_ends_the_process() -> None:
    """The names of tasks and the places of threads, and no data."""
    bitten = threading.Event()
    hanging = asyncio.create_task(asyncio.sleep(3600), name="one that hangs")
    with capture_logs() as logs:
        watchdog = Watchdog(limit=0.05, bite=bitten.set)
        watchdog.arm()
        assert await asyncio.to_thread(bitten.wait, 5)
    hanging.cancel()
    assert [line["event"] for line in logs] == ["shutdown.overdue"]
    assert "one that hangs (sleep)" in logs[0]["tasks"]
    assert any(place.startswith("MainThread: ") for place in logs[0]["threads"])


async def test_the_watchdog_sees_a_loop_that_is_blocked() -> None:
    """It is a thread of its own: whatever the loop does, it wakes."""
    bitten = threading.Event()
    watchdog = Watchdog(limit=0.05, bite=bitten.set)
    with capture_logs() as logs:
        watchdog.arm()
        for _ in range(100):
            time.sleep(0.05)  # noqa: ASYNC251 - a blocked loop is what this is about
            if bitten.is_set():
                break
    assert bitten.is_set()
    assert any("test_shutdown.py" in place for place in logs[0]["threads"])


async def test_the_watchdog_leaves_a_process_alone_that_ends_in_time() -> None:
    """However often it was armed, it counts once from the first time, and not at all after the end."""
    bitten = threading.Event()
    watchdog = Watchdog(limit=0.05, bite=bitten.set)
    watchdog.arm()
    watchdog.arm()
    watchdog.disarm()
    assert not await asyncio.to_thread(bitten.wait, 0.2)
    assert [thread for thread in threading.enumerate() if thread.name == "shutdown watchdog"] == []
