from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator

import httpx
import pytest
from structlog.testing import capture_logs

from service.core.errors import (
    Reaction,
    WebexConflict,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexThrottled,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.core.rate import Lane
from service.webex.client import Bounds, Clock, WebexClient, Wiring
from service.webex.protocol import Request
from service.webex.rate import Budget
from service.webex.tokens import StaticToken
from service.webex.transport import NEVER_SENT
from tests.webex import virtual_time
from tests.webex.wire import BASE, TOKEN, FakeClock, answered_by

READ = Request(
    operation="meetings.get", method="GET", path="/meetings/5", query={"hostEmail": "ann@example.com"}, reads=True
)
QUERY = Request(
    operation="registrants.query", method="POST", path="/meetings/5/q", json={"emails": ["b@c.d"]}, reads=True
)
WRITE = Request(
    operation="registrants.approve", method="POST", path="/meetings/5/registrants/approve", json={}, answers=False
)


class Script:
    """Answers with one response after another, the last for ever; ``requests`` is what came."""

    def __init__(self, *answers: httpx.Response | type[httpx.RequestError]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        raise answer("ann@example.com")


def throttled(seconds: str) -> httpx.Response:
    return httpx.Response(429, headers={"Retry-After": seconds})


OK = httpx.Response(200, json={"id": "5"}, headers={"Set-Cookie": "a=b", "trackingid": "T_1"})
DOWN = httpx.Response(503)


async def test_a_request_carries_what_webex_wants_and_nothing_else() -> None:
    """Token, tracking id, media types and trace context go out; cookies do not come back."""
    script = Script(OK)
    async with answered_by(script, traceparent="00-1-2-01") as client:
        reply = await client.call(READ)
        await client.call(QUERY)
    first, second = script.requests
    assert str(first.url) == BASE + "/meetings/5?hostEmail=ann%40example.com"
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert re.fullmatch(r"webex-events_[0-9a-f-]{36}", first.headers["trackingid"])
    assert first.headers["trackingid"] != second.headers["trackingid"]
    assert first.headers["traceparent"] == "00-1-2-01"
    assert first.headers["accept"] == "application/json"
    assert "cookie" not in second.headers
    assert second.headers["content-type"] == "application/json"
    assert second.content == b'{"emails":["b@c.d"]}'
    assert (reply.value, reply.tracking_id) == ({"id": "5"}, "T_1")


@pytest.mark.parametrize("request_", [READ, QUERY], ids=["GET", "query"])
@pytest.mark.parametrize("failure", [DOWN, httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_a_read_is_tried_three_times(
    request_: Request, failure: httpx.Response | type[httpx.RequestError]
) -> None:
    """Two failures of the passing kind are outlived, with jittered pauses; three are not."""
    clock, script = FakeClock(), Script(failure, failure, OK)
    async with answered_by(script, clock=clock.clock()) as client:
        assert (await client.call(request_)).value == {"id": "5"}
    assert clock.slept == [0.25, 0.5]
    lasting = Script(failure)
    async with answered_by(lasting) as client:
        with pytest.raises(WebexUnavailable):
            await client.call(request_)
    assert len(lasting.requests) == 3


@pytest.mark.parametrize(
    "failure", [DOWN, httpx.Response(409), throttled("1"), httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError]
)
async def test_a_write_is_sent_once(failure: httpx.Response | type[httpx.RequestError]) -> None:
    """Whatever happened to a write, whoever asked for it must look first."""
    script = Script(failure)
    async with answered_by(script) as client:
        with pytest.raises(WebexError):
            await client.call(WRITE)
    assert len(script.requests) == 1


#: status, class, what a controller does, how often a read and a write are sent, and whether everybody has to wait then
REACTIONS: list[tuple[int, type[WebexError], Reaction, int, int, bool]] = [
    (301, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (304, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (400, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (401, WebexUnauthorized, Reaction.CREDENTIALS, 2, 2, False),
    (403, WebexUnauthorized, Reaction.CREDENTIALS, 1, 1, False),
    (404, WebexNotFound, Reaction.LOOK_AGAIN, 1, 1, False),
    (405, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (408, WebexUnavailable, Reaction.RETRY, 3, 1, False),
    (409, WebexConflict, Reaction.LOOK_AGAIN, 1, 1, False),
    (410, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (412, WebexConflict, Reaction.LOOK_AGAIN, 1, 1, False),
    (415, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (422, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (423, WebexThrottled, Reaction.RETRY_AFTER, 3, 1, True),
    (428, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (429, WebexThrottled, Reaction.RETRY_AFTER, 3, 1, True),
    (451, WebexRejected, Reaction.PERMANENT, 1, 1, False),
    (500, WebexUnavailable, Reaction.RETRY, 3, 1, False),
    (502, WebexUnavailable, Reaction.RETRY, 3, 1, False),
    (503, WebexUnavailable, Reaction.RETRY, 3, 1, False),
    (504, WebexUnavailable, Reaction.RETRY, 3, 1, False),
]


@pytest.mark.parametrize(
    ("status", "kind", "reaction", "reads", "writes", "gate"), REACTIONS, ids=[str(row[0]) for row in REACTIONS]
)
async def test_each_status_has_its_class_its_reaction_and_its_number_of_tries(
    status: int, kind: type[WebexError], reaction: Reaction, reads: int, writes: int, *, gate: bool
) -> None:
    """Nothing permanent is repeated, no write but after a 401, and only 429 and 423 make everybody wait."""
    for request, sends in ((READ, reads), (WRITE, writes)):
        script = Script(httpx.Response(status, headers={"Location": "http://169.254.169.254/latest/meta-data/"}))
        async with answered_by(script, token=Tokens(another=True)) as client:
            with pytest.raises(WebexError) as caught:
                await client.call(request)
            assert (client.throttled_for > 0) is gate
        assert (type(caught.value), caught.value.reaction, caught.value.status) == (kind, reaction, status)
        assert len(script.requests) == sends
        assert {request.url.host for request in script.requests} == {"webex.example"}
        assert caught.value.maybe_done is (status >= 500)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"[" * 100_000])
async def test_a_write_that_was_accepted_is_done_whatever_the_body_says(body: bytes) -> None:
    """A 2xx of an operation without an answer is success."""
    async with answered_by(Script(httpx.Response(200, content=body))) as client:
        assert (await client.call(WRITE)).status == 200


async def test_no_retry_begins_after_the_deadline() -> None:
    """A call whose time is used up by failures ends."""
    clock, script = FakeClock(), Script(DOWN)

    def slow(request: httpx.Request) -> httpx.Response:
        clock.time += 16.0
        return script(request)

    async with answered_by(slow, clock=clock.clock()) as client:
        with pytest.raises(WebexUnavailable):
            await client.call(READ)
    assert len(script.requests) == 2


def _all_request_errors(kind: type[httpx.RequestError] = httpx.RequestError) -> Iterator[type[httpx.RequestError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all_request_errors(below)


@pytest.mark.parametrize("kind", list(_all_request_errors()))
async def test_every_error_of_httpx_becomes_ours(kind: type[httpx.RequestError]) -> None:
    """No httpx exception leaves, none of its text either; only those before sending are known to have done nothing."""
    async with answered_by(Script(kind), bounds=Bounds(retries=0)) as client:
        with pytest.raises(WebexUnavailable) as caught:
            await client.call(WRITE)
    nothing_sent = {
        httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol
    }  # fmt: skip
    assert caught.value.maybe_done is (kind not in nothing_sent)
    assert "ann@" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert set(NEVER_SENT) == nothing_sent


async def test_a_read_waits_as_long_as_webex_asks() -> None:
    """Retry-After up to a minute is waited for, each time, and does not use up the deadline."""
    clock, script = FakeClock(), Script(throttled("60"), throttled("40"), OK)
    async with answered_by(script, clock=clock.clock()) as client:
        assert (await client.call(READ)).status == 200
    assert clock.slept == [60.0, 40.0]


async def test_a_longer_wait_is_left_to_whoever_asked() -> None:
    """Above a minute the call fails at once, and so does every other until then, unsent."""
    clock, script = FakeClock(), Script(throttled("61"), OK)
    async with answered_by(script, clock=clock.clock()) as client:
        with pytest.raises(WebexThrottled) as first:
            await client.call(READ)
        clock.time += 0.5
        with pytest.raises(WebexThrottled) as second:
            await client.call(READ)
        assert (first.value.retry_after, second.value.retry_after) == (61.0, 60.5)
        assert len(script.requests) == 1
        clock.time += 1.0
        assert (await client.call(READ)).status == 200
    assert clock.slept == [59.5]


async def test_a_write_never_waits_at_the_gate() -> None:
    """The right to write may be gone later, so a write fails while Webex wants quiet; it was not sent."""
    clock, script = FakeClock(), Script(throttled("5"), OK)
    async with answered_by(script, clock=clock.clock()) as client:
        for _ in range(2):
            with pytest.raises(WebexThrottled) as caught:
                await client.call(WRITE)
            assert caught.value.retry_after == 5.0
            assert not caught.value.maybe_done
        assert len(script.requests) == 1
        clock.time += 5.0
        assert (await client.call(WRITE)).status == 200
    assert clock.slept == []


@pytest.mark.parametrize("status", [429, 423])
def test_nobody_sends_before_the_moment_that_webex_named(status: int) -> None:
    """One throttled answer holds back every caller of the client."""
    arrivals: list[float] = []
    answered = asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        arrivals.append(virtual_time.now())
        if len(arrivals) == 1:
            answered.set()
            return httpx.Response(status, headers={"Retry-After": "1"})
        await asyncio.sleep(0.01)
        return OK

    async def main() -> None:
        async with answered_by(handler, clock=virtual_time.clock()) as client:
            one = asyncio.create_task(client.call(READ))
            await answered.wait()
            await asyncio.sleep(0.1)
            await asyncio.gather(one, *(client.call(READ) for _ in range(20)))

    virtual_time.run(main)
    assert len(arrivals) == 22
    assert min(arrivals[1:]) - arrivals[0] >= 1.0


def test_calls_that_found_a_slot_after_the_gate_shut_wait_too() -> None:
    """The gate is looked at again once the slot is there."""
    arrivals: list[float] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        arrivals.append(virtual_time.now())
        await asyncio.sleep(0.02)
        return httpx.Response(429, headers={"Retry-After": "1"}) if len(arrivals) <= 8 else OK

    async def main() -> None:
        async with answered_by(handler, clock=virtual_time.clock()) as client:
            await asyncio.gather(*(client.call(READ) for _ in range(12)))

    virtual_time.run(main)
    assert arrivals[:8] == [0.0] * 8
    assert len(arrivals) == 20
    assert min(arrivals[8:]) >= 1.0


async def test_no_more_calls_are_under_way_than_allowed() -> None:
    """Fifty callers share eight slots."""
    under_way = most = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return OK

    async with answered_by(handler) as client:
        await asyncio.gather(*(client.call(READ) for _ in range(50)))
    assert most == 8


async def test_a_write_without_a_slot_is_given_up_unsent() -> None:
    """A write that cannot begin soon is not begun late."""
    release = asyncio.Event()
    seen: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        await release.wait()
        return OK

    bounds = Bounds(write_deadline=0.2, write_start=0.05)
    async with answered_by(handler, bounds=bounds, clock=Clock()) as client:
        reads = [asyncio.create_task(client.call(READ)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(WebexUnavailable) as caught:
            await client.call(WRITE)
        release.set()
        await asyncio.gather(*reads)
    assert not caught.value.maybe_done
    assert "POST" not in seen


async def test_a_cancelled_caller_does_not_cancel_the_call() -> None:
    """The exchange runs to its end, gives its slot back, and leaving the client waits for it."""
    begun, release, finished = asyncio.Event(), asyncio.Event(), False

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal finished
        begun.set()
        await release.wait()
        finished = True
        return DOWN

    async with answered_by(handler) as client:
        caller = asyncio.create_task(client.call(WRITE))
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert not finished
        asyncio.get_running_loop().call_later(0.02, release.set)
    assert finished


async def test_leaving_waits_only_so_long() -> None:
    """What does not end is cut off: who waits for it learns that it may have been done, who comes later that it was not."""

    async def handler(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return OK

    async with answered_by(handler, bounds=Bounds(closing=0.05)) as client:
        caller = asyncio.create_task(client.call(READ))
        await asyncio.sleep(0.01)
    with pytest.raises(WebexUnavailable) as caught:
        await caller
    assert caught.value.maybe_done
    with pytest.raises(WebexUnavailable) as caught:
        await client.call(READ)
    assert not caught.value.maybe_done


async def test_a_pool_that_has_lost_its_connections_is_replaced() -> None:
    """After a PoolTimeout the next try goes through a new pool, and the old one is closed when its last user has left."""
    closed: list[int] = []
    release, held = asyncio.Event(), asyncio.Event()

    class Pool(httpx.AsyncBaseTransport):
        def __init__(self, number: int) -> None:
            self.number = number

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self.number == 0 and held.is_set():
                raise httpx.PoolTimeout("no slot")
            if self.number == 0:
                held.set()
                await release.wait()
            return OK

        async def aclose(self) -> None:
            closed.append(self.number)

    pools: list[Pool] = []

    def transport(connections: int) -> Pool:
        assert connections > 8
        pools.append(Pool(len(pools)))
        return pools[-1]

    wiring = Wiring(transport=transport)
    async with WebexClient(BASE, StaticToken("t"), clock=FakeClock().clock(), wiring=wiring) as client:
        slow = asyncio.create_task(client.call(READ))
        await held.wait()
        assert (await client.call(READ)).status == 200
        assert (len(pools), closed) == (2, [])
        release.set()
        await slow
        assert closed == [0]
    assert closed == [0, 1]


class Tokens:
    """A token source that counts."""

    def __init__(self, *, another: bool) -> None:
        self.rejected: list[str] = []
        self._another = another

    async def get(self) -> str:
        return f"t{len(self.rejected)}"

    async def refresh(self, rejected: str) -> bool:
        self.rejected.append(rejected)
        return self._another


@pytest.mark.parametrize("request_", [READ, WRITE], ids=["read", "write"])
async def test_a_401_gets_one_refresh_and_one_more_try(request_: Request) -> None:
    """Webex has done nothing then, so even a write is sent again, with the new token; a second 401 is final."""
    tokens, script = Tokens(another=True), Script(httpx.Response(401), OK)
    async with answered_by(script, token=tokens) as client:
        assert (await client.call(request_)).status == 200
    assert [request.headers["authorization"] for request in script.requests] == ["Bearer t0", "Bearer t1"]
    assert tokens.rejected == ["t0"]

    tokens, script = Tokens(another=True), Script(httpx.Response(401))
    async with answered_by(script, token=tokens) as client:
        with pytest.raises(WebexUnauthorized):
            await client.call(request_)
    assert (len(script.requests), tokens.rejected) == (2, ["t0"])


@pytest.mark.parametrize(("status", "asked"), [(401, ["t0"]), (403, [])])
async def test_without_another_token_an_unauthorized_call_ends(status: int, asked: list[str]) -> None:
    """403 is about scopes: no refresh; 401 without a new token is not repeated."""
    tokens, script = Tokens(another=False), Script(httpx.Response(status))
    async with answered_by(script, token=tokens) as client:
        with pytest.raises(WebexUnauthorized):
            await client.call(READ)
    assert (len(script.requests), tokens.rejected) == (1, asked)


async def test_every_call_is_observed_with_its_seconds() -> None:
    """Those of the exchange: what it waited for its turn, or for Webex, is told elsewhere."""
    time, told, answers = FakeClock(), list[tuple[str, int | None, float]](), [throttled("7"), OK]

    async def answer(_: httpx.Request) -> httpx.Response:
        time.time += 0.25
        return answers.pop(0)

    wiring = Wiring(transport=lambda _: httpx.MockTransport(answer), observe=lambda *call: told.append(call))
    async with WebexClient(BASE, StaticToken(TOKEN), clock=time.clock(), wiring=wiring) as client:
        await client.call(READ)

    assert told == [("meetings.get", 429, 0.25), ("meetings.get", 200, 0.25)]
    assert sum(time.slept) >= 7


async def test_logs_and_errors_tell_no_person_and_no_token(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each exchange, and a warning when throttled; addresses and tokens stand in none, nor in httpx's own logs."""
    body = b'{"message": "ann@example.com", "trackingId": "T_7"}'
    script = Script(httpx.Response(404, content=body), throttled("1"), OK)
    caplog.set_level(logging.INFO)
    with capture_logs() as logs:
        async with answered_by(script) as client:
            with pytest.raises(WebexNotFound) as caught:
                await client.call(READ)
            await client.call(READ)
    assert [(line["event"], line["log_level"], line["status"]) for line in logs] == [
        ("webex.called", "debug", 404),
        ("webex.throttled", "warning", 429),
        ("webex.called", "debug", 429),
        ("webex.called", "debug", 200),
    ]
    assert logs[0]["tracking_id"] == "T_7"
    assert logs[0]["operation"] == "meetings.get"
    everything = repr(logs) + repr(caught.value) + caplog.text
    assert "ann" not in everything
    assert TOKEN not in everything


@pytest.mark.parametrize("host_email", ["\ud800@example.com", "x" * 70_000])
async def test_parameters_that_make_no_url_are_refused(host_email: str) -> None:
    """Not text, or longer than any URL: an error of ours, nothing sent."""
    script = Script(OK)
    async with answered_by(script) as client:
        with pytest.raises(WebexRejected):
            await client.call(
                Request(operation="x", method="GET", path="/m", query={"hostEmail": host_email}, reads=True)
            )
    assert script.requests == []


async def test_lanes_and_clients_of_one_credential_share_its_budget() -> None:
    """What one of them hears, all obey; slots are shared too; a lane is closed with its client."""
    clock, script = FakeClock(), Script(throttled("600"), OK)
    shared = Budget(monotonic=lambda: clock.time, sleep=clock.sleep)
    transport = Wiring(transport=lambda _: httpx.MockTransport(script))
    one = WebexClient(BASE, StaticToken(TOKEN), clock=clock.clock(), wiring=transport, budget=shared)
    two = WebexClient(BASE + "/other", StaticToken(TOKEN), clock=clock.clock(), wiring=transport, budget=shared)
    async with one, two:
        sweep = one.lane(Lane.SWEEP)
        with pytest.raises(WebexThrottled):
            await sweep.call(READ)
        for client in (one, two, sweep, two.lane(Lane.SWEEP)):
            with pytest.raises(WebexThrottled, match="not sent"):
                await client.call(READ)
        clock.time += 600.0
        with capture_logs() as logs:
            for client in (one, sweep):
                assert (await client.call(READ)).status == 200
        assert [line["lane"] for line in logs] == ["live", "sweep"]
    with pytest.raises(WebexUnavailable, match="closed"):
        await sweep.call(READ)
    assert len(script.requests) == 3


async def test_while_the_circuit_is_open_calls_fail_at_once() -> None:
    """They are not sent, not repeated, and say when to come again; then one goes out, and its answer closes it."""
    clock, script = FakeClock(), Script(*[DOWN] * 9, OK)
    with capture_logs():
        async with answered_by(script, clock=clock.clock()) as client:
            for _ in range(3):
                with pytest.raises(WebexUnavailable):
                    await client.call(READ)
            assert len(script.requests) == 8
            slept = len(clock.slept)
            for request in (READ, WRITE):
                with pytest.raises(WebexUnavailable) as caught:
                    await client.call(request)
                assert (caught.value.retry_after, caught.value.maybe_done) == (4.5, False)
            assert len(clock.slept) == slept
            clock.time += 5.0
            with pytest.raises(WebexUnavailable):
                await client.call(READ)
            clock.time += 5.0
            assert (await client.call(READ)).status == 200
    assert len(script.requests) == 10


async def test_a_base_url_in_the_clear_is_refused_early() -> None:
    """The constructor says so, before anything could be sent."""
    with pytest.raises(ValueError, match="https"):
        WebexClient("http://webexapis.com/v1", StaticToken("t"))


class _SlowToken:
    """A credential whose renewal takes its time."""

    async def get(self) -> str:
        await asyncio.sleep(5)
        return "late"

    async def refresh(self, rejected: str) -> bool:
        return False


async def test_a_token_that_comes_too_late_ends_the_call_in_time() -> None:
    """The deadline of a call covers its token too; the call was not sent."""
    began = time.monotonic()
    async with WebexClient("http://127.0.0.1:9", _SlowToken(), bounds=Bounds(deadline=0.2)) as client:
        with pytest.raises(WebexUnavailable, match="no token in time") as caught:
            await client.call(READ)

    assert not caught.value.maybe_done
    assert time.monotonic() - began < 4
