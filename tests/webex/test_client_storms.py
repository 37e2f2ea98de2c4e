"""The client while Webex is busy, down, or does not know our token: minutes of it, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from service.core.errors import WebexError, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.core.rate import Lane, Limits
from service.core.retry import RetryBudget
from service.webex.client import Clock, WebexClient, Wiring
from service.webex.protocol import Request
from service.webex.rate import Budget
from service.webex.tokens import Credentials, RefreshingToken, StaticToken, TokenSource
from tests.core.test_retry import chi_squared
from tests.webex import virtual_time
from tests.webex.virtual_time import BEGAN, now
from tests.webex.wire import BASE, TOKEN

READ = Request(operation="meetings.get", method="GET", path="/meetings/5", reads=True)
WRITE = Request(operation="registrants.approve", method="POST", path="/m/5/approve", json={}, answers=False)

#: The speed does not matter here, and no failure opens the circuit.
FREE = Limits(start=1e6, ceiling=1e6, burst=10_000, failures=10**9)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged."""
    with capture_logs() as lines:
        yield lines


def spoken(logs: list[MutableMapping[str, Any]]) -> list[str]:
    """The events that an operator sees."""
    return [line["event"] for line in logs if line["log_level"] != "debug"]


class Webex:
    """Answers as ``answer`` says, each call after 20 ms; ``arrivals`` is when they came."""

    def __init__(self, answer: Callable[[], httpx.Response]) -> None:
        self._answer = answer
        self.arrivals: list[float] = []

    async def __call__(self, _: httpx.Request) -> httpx.Response:
        self.arrivals.append(now())
        await asyncio.sleep(0.02)
        return self._answer()

    def between(self, first: float, last: float) -> int:
        """Calls that came after ``first`` and before ``last``."""
        return sum(first < arrival < last for arrival in self.arrivals)


def client(
    answer: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]],
    *,
    budget: Budget | None = None,
    clock: Clock | None = None,
    token: TokenSource | None = None,
    wiring: Wiring | None = None,
) -> WebexClient:
    chosen = wiring or Wiring(transport=lambda _: httpx.MockTransport(answer))
    return WebexClient(
        BASE,
        token or StaticToken(TOKEN),
        budget=budget,
        clock=clock or virtual_time.clock(),
        wiring=chosen,
    )


async def at_speed(
    call: Callable[[], Awaitable[object]], *, calls_per_second: float, seconds: float
) -> list[object | BaseException]:
    """Begin a call at that speed whatever became of the others; all outcomes."""
    tasks = []
    for _ in range(round(calls_per_second * seconds)):
        tasks.append(asyncio.ensure_future(call()))
        await asyncio.sleep(1.0 / calls_per_second)
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- Retry-After --------------------------------------------------------------------------------------------------------

HEADERS = {
    "1": (lambda: "1", 1.0),
    "4": (lambda: "4", 4.0),
    "60": (lambda: "60", 60.0),
    "194, as seen": (lambda: "194", 194.0),
    "a date": (lambda: format_datetime(BEGAN + timedelta(seconds=40), usegmt=True), 40.0),
    "junk, as seen": (lambda: "rand(30),add(30)", 15.0),
    "negative": (lambda: "-5", 15.0),
    "none": (lambda: None, 15.0),
    "a day": (lambda: "86400", 900.0),
}


@pytest.mark.parametrize("status", [429, 423])
@pytest.mark.parametrize(("header", "seconds"), HEADERS.values(), ids=HEADERS.keys())
def test_nobody_calls_before_webex_may_be_called_again(
    status: int, header: Callable[[], str | None], seconds: float
) -> None:
    """Twenty that never rest, over two clients of one credential, both lanes, reads and writes: not one call in the
    window. Afterwards work goes on; who would wait more than a minute is told how long.
    """
    rest = max(0.7, seconds / 50)
    told: list[float] = []
    errors: list[WebexThrottled] = []

    def answer() -> httpx.Response:
        if now() < 2.0 or told:
            return httpx.Response(200, json={})
        value = header()
        told.append(0.0 if value and "GMT" in value else now())  # what the seconds count from
        return httpx.Response(status, headers={} if value is None else {"Retry-After": value})

    async def hammer(one: WebexClient, request: Request) -> None:
        while now() < 2.0 + seconds + rest + 5.0:
            try:
                await one.call(request)
            except WebexThrottled as error:
                errors.append(error)
                await asyncio.sleep(rest)

    async def main() -> None:
        shared = Budget(monotonic=now)
        async with client(webex, budget=shared) as one, client(webex, budget=shared) as two:
            views = [one, one.lane(Lane.SWEEP), two, two.lane(Lane.SWEEP)]
            await asyncio.gather(*(hammer(views[n % 4], (READ, WRITE)[n // 10]) for n in range(20)))

    webex = Webex(answer)
    virtual_time.run(main)
    ends = told[0] + seconds - 1e-6
    assert webex.between(max(told[0], 2.1), ends) == 0
    assert webex.between(ends, ends + rest + 5.0) > 20
    assert all(0.0 < (error.retry_after or 0.0) <= seconds for error in errors)
    assert errors  # writes never wait


# --- retries ------------------------------------------------------------------------------------------------------------

FIVE_MINUTES = 300.0


@pytest.mark.parametrize(("calls_per_second", "seconds"), [(50.0, FIVE_MINUTES / 5), (2.0, FIVE_MINUTES)])
def test_a_storm_of_503_is_not_multiplied(calls_per_second: float, seconds: float) -> None:
    """Minutes without a circuit breaker: at most 1.2 calls for each that was asked for, and every asker is told."""

    async def main() -> list[object | BaseException]:
        budget = Budget(limits=FREE, monotonic=now)
        async with client(webex, budget=budget) as one:
            return await at_speed(lambda: one.call(READ), calls_per_second=calls_per_second, seconds=seconds)

    webex = Webex(lambda: httpx.Response(503))
    outcomes = virtual_time.run(main)
    asked = round(calls_per_second * seconds)
    assert len(outcomes) == asked
    assert all(isinstance(outcome, WebexUnavailable) for outcome in outcomes)
    floor = 20 + 0.2 * seconds
    assert asked < len(webex.arrivals) <= (asked + floor) / 0.9


def test_with_the_circuit_hardly_anything_is_sent_in_a_storm(logs: list[MutableMapping[str, Any]]) -> None:
    """Five minutes of 503 at 10 calls per second: one call each five seconds, nothing lost."""

    async def main() -> list[object | BaseException]:
        async with client(webex) as one:
            return await at_speed(lambda: one.call(READ), calls_per_second=10.0, seconds=FIVE_MINUTES)

    webex = Webex(lambda: httpx.Response(503))
    outcomes = virtual_time.run(main)
    assert all(isinstance(outcome, WebexUnavailable) for outcome in outcomes)
    assert len(webex.arrivals) <= 20 + FIVE_MINUTES / 5
    assert spoken(logs) == ["webex.circuit_opened"]


@pytest.mark.parametrize("seed", range(3))
def test_callers_that_fail_together_come_back_apart(seed: int) -> None:
    """500 calls that fail at the same moment are repeated evenly over half a second: chi-squared, p > 0.01."""
    chance = random.Random(seed)  # noqa: S311 - the same each time

    async def main() -> None:
        budget = Budget(slots=1000, limits=FREE, repeats=RetryBudget(most=500.0, left=500.0, share=0.0), monotonic=now)
        async with client(webex, budget=budget, clock=virtual_time.clock(chance.random)) as one:
            await asyncio.gather(*(one.call(READ) for _ in range(500)), return_exceptions=True)

    webex = Webex(lambda: httpx.Response(503))
    virtual_time.run(main)
    assert webex.arrivals[:500] == [0.0] * 500
    bins = [0] * 5
    for arrival in webex.arrivals[500:1000]:
        bins[int((arrival - 0.02) / 0.1)] += 1
    assert chi_squared(bins) < 13.28  # 4 degrees of freedom
    assert max(bins) < 3 * 100


# --- the circuit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls_per_second", [50.0, 3.0])
def test_the_circuit_opens_soon_stays_quiet_and_closes_soon(
    calls_per_second: float, logs: list[MutableMapping[str, Any]]
) -> None:
    """Open within 5 s of an outage, at most half a call per second while open, closed within 10 s after its end."""
    begins, heals = 10.0, 70.0
    changes: list[tuple[float, bool]] = []

    def answer() -> httpx.Response:
        return httpx.Response(503 if begins <= now() < heals else 200, json={})

    async def main() -> list[object | BaseException]:
        wiring = Wiring(
            transport=lambda _: httpx.MockTransport(webex),
            circuit=lambda is_open: changes.append((now(), is_open)),
        )
        async with client(webex, wiring=wiring) as one:
            return await at_speed(lambda: one.call(READ), calls_per_second=calls_per_second, seconds=100.0)

    webex = Webex(answer)
    outcomes = virtual_time.run(main)
    (opened, is_open), (closed, still_open) = changes
    assert (is_open, still_open) == (True, False)
    assert opened <= begins + 5.0
    assert closed <= heals + 10.0
    assert webex.between(opened + 0.02, closed - 0.02) <= 0.5 * (closed - opened)
    assert all(isinstance(outcome, WebexUnavailable) for outcome in outcomes if isinstance(outcome, BaseException))
    assert not any(isinstance(outcome, WebexError) for outcome in outcomes[-round(calls_per_second * 15) :])
    assert spoken(logs) == ["webex.circuit_opened", "webex.circuit_closed"]


def test_silence_opens_the_circuit_too() -> None:
    """Where calls end by their timeouts, eight of them are enough; a probe that hangs does not stop the next."""
    heals = 60.0
    arrivals = []

    async def answer(request: httpx.Request) -> httpx.Response:
        arrivals.append(now())
        if now() < heals:
            await asyncio.sleep(10.0)
            raise httpx.ReadTimeout("silence")
        return httpx.Response(200, json={})

    async def main() -> list[object | BaseException]:
        async with client(answer) as one:
            return await at_speed(lambda: one.call(READ), calls_per_second=5.0, seconds=80.0)

    outcomes = virtual_time.run(main)
    assert sum(11.0 < arrival < heals for arrival in arrivals) <= 0.5 * (heals - 11.0)
    assert not any(isinstance(outcome, WebexError) for outcome in outcomes[-50:])


# --- tokens -------------------------------------------------------------------------------------------------------------


class Issuer:
    """A token endpoint: answers with ``failures`` first, then with a new token; slow."""

    def __init__(self, persist: Path, *failures: int, slow: float = 0.3) -> None:
        self.asked = 0
        self.at_once = self.most_at_once = 0
        self.time = 1000.0
        self._failures, self._slow = list(failures), slow
        self.source = RefreshingToken(
            Credentials(
                client_id="C1",
                client_secret=lambda: "s",
                refresh_token=lambda: "r",
                token_url="https://webex.example/t",
            ),
            persist=persist,
            now=lambda: BEGAN + timedelta(seconds=self.time),
            monotonic=lambda: self.time,
            transport=lambda: httpx.MockTransport(self),
        )

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self._slow)
        self.at_once -= 1
        if self.asked > 1 and self._failures:
            return httpx.Response(self._failures.pop(0))
        return httpx.Response(200, json={"access_token": f"access-{self.asked}", "expires_in": 1_209_600})


class Api:
    """Knows one token; 401 for any other."""

    def __init__(self, known: str) -> None:
        self.known = known
        self.calls = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        await asyncio.sleep(0.001)
        right = request.headers["authorization"] == f"Bearer {self.known}"
        return httpx.Response(200 if right else 401, json={})


def unpaced(api: Api, token: TokenSource) -> WebexClient:
    """In real time: storing a token takes a thread."""
    return client(api, token=token, budget=Budget(limits=FREE), clock=Clock())


async def test_a_hundred_401s_at_once_cost_one_refresh(tmp_path: Path) -> None:
    """However slow it is; each call is sent twice, and all succeed."""
    issuer = Issuer(tmp_path / "token.json")
    assert await issuer.source.get() == "access-1"
    api = Api("access-2")
    async with unpaced(api, issuer.source) as one:
        replies = await asyncio.gather(*(one.call((READ, WRITE)[n % 2]) for n in range(100)))
    assert [reply.status for reply in replies] == [200] * 100
    assert (issuer.asked, issuer.most_at_once) == (2, 1)
    assert api.calls == 200


async def test_a_refresh_that_fails_twice_is_tried_again_later(tmp_path: Path) -> None:
    """One try for everybody, five seconds of rest, one try: no stampede; in the end all is well again."""
    issuer = Issuer(tmp_path / "token.json", 500, 500, slow=0.02)
    await issuer.source.get()
    api = Api("access-4")
    async with unpaced(api, issuer.source) as one:
        for tries in (2, 3):
            for _ in range(2):
                outcomes = await asyncio.gather(*(one.call(WRITE) for _ in range(50)), return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {WebexUnavailable}
                assert issuer.asked == tries
            issuer.time += 5.0
        replies = await asyncio.gather(*(one.call(READ) for _ in range(50)))
    assert [reply.status for reply in replies] == [200] * 50
    assert (issuer.asked, issuer.most_at_once) == (4, 1)


async def test_a_revoked_token_makes_no_hot_loop(tmp_path: Path, logs: list[MutableMapping[str, Any]]) -> None:
    """Everybody is told, by the class that parks the organisation; the endpoint is asked once a minute at most."""
    issuer = Issuer(tmp_path / "token.json", *[400] * 99, slow=0.001)
    await issuer.source.get()
    api = Api("none")
    async with unpaced(api, issuer.source) as one:
        for _ in range(120):
            outcomes = await asyncio.gather(*(one.call(READ) for _ in range(5)), return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {WebexUnauthorized}
            issuer.time += 1.0
    assert issuer.asked <= 1 + 2
    assert api.calls == 120 * 5
    assert TOKEN not in repr(logs)
