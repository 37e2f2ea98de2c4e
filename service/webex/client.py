"""The HTTP shell around :mod:`service.webex.protocol`: who may send, when, for how long, and how often.

* Everybody who uses the credential shares one :class:`service.webex.rate.Budget`: calls under way at once (always fewer
  than the pool has connections, so that nothing ever queues inside httpcore), speed, circuit, repetitions, two lanes.
* After a 429 or 423 nobody sends before the moment that Webex named. Reads wait for it, up to a minute; writes never
  wait, they fail with WebexThrottled: the right to write (see ``owner`` in the ledger) may be gone by then.
* Reads are tried up to three times, while the budget has repetitions left. Writes are sent once, but for a 401, after
  which Webex has done nothing: whoever asked for a write has to look before asking again.
* While the circuit is open calls fail at once, unsent, with a WebexUnavailable that has a ``retry_after``.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec
import structlog

from service.core import retry
from service.core.errors import WebexError, WebexRejected, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.core.rate import Lane
from service.webex.exchanges import Exchanges, Sizes
from service.webex.protocol import Answer, Request, checked_base_url, decipher, tracking_id_of
from service.webex.rate import Budget, Turn
from service.webex.tokens import TokenSource
from service.webex.transport import Timeouts, Transport, unreachable

_Asked = TypeVar("_Asked")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Bounds:
    """Seconds, counts and bytes that nothing exceeds.

    A read, its retries and its waiting for a slot end within ``deadline``, a write within ``write_deadline``; what
    Webex itself told us to wait comes on top for reads, up to ``throttle`` each time. A write that has found no slot
    after ``write_start`` is not sent. ``write_deadline`` is how long a write may still be under way after its caller
    had to give up the right to write.
    """

    deadline: float = 30.0
    write_deadline: float = 10.0
    write_start: float = 5.0
    throttle: float = 60.0
    retries: int = 2
    answer_bytes: int = 1 << 20
    closing: float = 11.0


@dataclass(frozen=True)
class Clock:
    """Time and chance, so that tests can bring their own. ``monotonic`` is in seconds, ``chance`` in [0, 1)."""

    now: Callable[[], datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Wiring:
    """How the client reaches the world. ``transport`` makes one pool of that many connections; ``traceparent`` is that of
    the present call; ``observe`` is told the operation, the status (None: no answer) and the seconds of every call;
    ``circuit`` that the circuit opened (true) or closed (false).
    """

    transport: Callable[[int], httpx.AsyncBaseTransport] = lambda connections: Transport(connections=connections)
    timeouts: Timeouts = field(default_factory=Timeouts)
    traceparent: Callable[[], str | None] = lambda: None
    observe: Callable[[str, int | None, float], None] = lambda _operation, _status, _seconds: None
    circuit: Callable[[bool], None] = lambda _open: None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A success: the decoded JSON (None without a body), the ``Link`` header, if any, and Cisco's id of the call."""

    status: int
    value: Any
    link: str | None
    tracking_id: str | None

    def __repr__(self) -> str:
        return f"Reply(status={self.status}, tracking_id={self.tracking_id!r})"  # the value may be a token


class WebexClient:
    """Calls one Webex API with one credential. An asynchronous context manager; leaving it waits for what is under
    way, bounded.
    """

    def __init__(
        self,
        base_url: str,
        token: TokenSource,
        *,
        max_concurrency: int = 8,
        allow_http: bool = False,
        bounds: Bounds = Bounds(),
        clock: Clock = Clock(),
        wiring: Wiring = Wiring(),
        budget: Budget | None = None,
    ) -> None:
        """``budget`` is given where several clients use one credential; it has slots and a clock of its own then.

        Raises ValueError for a base URL that is neither https, nor http on loopback, nor allowed by ``allow_http``.
        """
        self.base_url = checked_base_url(base_url, allow_http=allow_http)
        self.budget = budget or Budget(
            slots=max_concurrency, monotonic=clock.monotonic, sleep=clock.sleep, circuit=wiring.circuit
        )
        self._token, self._bounds, self._clock, self._wiring = token, bounds, clock, wiring
        self._lane = Lane.LIVE
        self._exchanges = Exchanges[Reply | WebexError](
            wiring.transport, _sizes(self.budget.slots + 2, bounds, wiring.timeouts)
        )
        self._log = structlog.get_logger()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """No new calls; those under way get ``bounds.closing`` seconds to end; then the connections are closed."""
        await self._exchanges.aclose()

    def lane(self, lane: Lane) -> WebexClient:
        """This client with its calls in ``lane``. It shares everything with this one, and is closed with it."""
        view = copy.copy(self)
        view._lane = lane
        return view

    @property
    def throttled_for(self) -> float:
        """Seconds until Webex may be called again; 0 where it may be called now."""
        return self.budget.throttled_for

    async def call(self, request: Request) -> Reply:
        """Make the call. Raises only subclasses of WebexError."""
        deadline = self._deadline(request)
        for attempt in itertools.count():
            try:
                return await self._authorized(request, deadline)
            except WebexThrottled as error:
                if self._too_long(error) or not self._may_repeat(request, attempt):
                    raise
                deadline = self._deadline(request)  # the gate holds it back; what Webex asks for is not our time
            except WebexUnavailable as error:
                pause = retry.backoff(attempt, base=0.5, cap=5.0, chance=self._clock.chance())
                late = self._clock.monotonic() + pause >= deadline
                if late or error.retry_after is not None or not self._may_repeat(request, attempt):
                    raise
                await self._clock.sleep(pause)
        raise AssertionError("counting never ends")

    def _deadline(self, request: Request) -> float:
        seconds = self._bounds.deadline if request.reads else self._bounds.write_deadline
        return self._clock.monotonic() + seconds

    def _may_repeat(self, request: Request, attempt: int) -> bool:
        if not request.reads or attempt >= self._bounds.retries or self._exchanges.closed:
            return False
        return self.budget.may_repeat()

    def _too_long(self, error: WebexThrottled) -> bool:
        return (error.retry_after or 0.0) > self._bounds.throttle

    async def _authorized(self, request: Request, deadline: float) -> Reply:
        token = await self._in_time(request, deadline, self._token.get())
        try:
            return await self._attempt(request, token, deadline)
        except WebexUnauthorized as error:
            if error.status != 401 or not await self._in_time(request, deadline, self._token.refresh(token)):
                raise
        return await self._attempt(request, await self._in_time(request, deadline, self._token.get()), deadline)

    async def _in_time(self, request: Request, deadline: float, asked: Awaitable[_Asked]) -> _Asked:
        """What the credential says, within the call's deadline: a renewal that takes longer goes on for the next call."""
        try:
            async with asyncio.timeout(max(deadline - self._clock.monotonic(), 0.0)):
                return await asked
        except TimeoutError:
            raise WebexUnavailable(f"{request.operation}: not sent, there was no token in time") from None

    async def _attempt(self, request: Request, token: str, deadline: float) -> Reply:
        """One exchange, begun when it may begin, in a task that outlives a cancelled caller."""
        prepared = self._prepared(request, token)
        deadline += await self.budget.enter(self._turn(request, deadline))
        if self._exchanges.closed:
            self.budget.leave(self._lane)
            raise WebexUnavailable(f"{request.operation}: not sent, the client is closed")
        outcome = await self._exchanges.run(
            self._send(request, prepared, deadline), ended=lambda: self.budget.leave(self._lane)
        )
        if outcome is None:  # by aclose, which had waited long enough
            raise WebexUnavailable(f"{request.operation}: cut off, the client was closed", maybe_done=True)
        if isinstance(outcome, WebexError):
            raise outcome
        return outcome

    def _turn(self, request: Request, deadline: float) -> Turn:
        bounds = self._bounds
        return Turn(
            operation=request.operation,
            lane=self._lane,
            patience=bounds.throttle if request.reads else 0.0,
            latest=deadline if request.reads else deadline - bounds.write_deadline + bounds.write_start,
        )

    def _prepared(self, request: Request, token: str) -> httpx.Request:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": "webex-event-processor",
            "TrackingID": f"webex-events_{uuid.uuid4()}",
            "Authorization": f"Bearer {token}",
            **request.headers,
        }
        traceparent = self._wiring.traceparent()
        if traceparent:
            headers["traceparent"] = traceparent
        try:
            body, url = request.body(), request.url(self.base_url)
            if body is not None:
                headers["Content-Type"] = request.media_type
            return httpx.Request(request.method, url, headers=headers, content=body)
        except (httpx.InvalidURL, UnicodeError):
            raise WebexRejected(f"{request.operation}: not sent, its parameters do not make a URL") from None

    async def _send(self, request: Request, prepared: httpx.Request, deadline: float) -> Reply | WebexError:
        """The exchange and what it means. A WebexError is returned: who asked may be gone, and nobody would fetch a
        raised one.
        """
        started = self._clock.monotonic()
        if started >= deadline:
            return WebexUnavailable(f"{request.operation}: not sent, its deadline had passed")
        outcome: Reply | WebexError
        try:
            outcome = self._deciphered(request, await self._exchanges.send(prepared, seconds=deadline - started))
        except (httpx.RequestError, OSError) as error:
            outcome = unreachable(error, operation=request.operation)
        except WebexError as error:
            outcome = error
        # Before the slot is free: nobody passes a gate that this answer shuts.
        self.budget.ended(outcome if isinstance(outcome, WebexError) else None, sent=started)
        self._note(request, outcome, prepared.headers["TrackingID"], self._clock.monotonic() - started)
        return outcome

    def _deciphered(self, request: Request, answer: Answer) -> Reply:
        silent = not request.answers and answer.status < 300
        value = decipher(
            answer.status,
            answer.headers,
            b"" if silent else answer.body,
            now=self._clock.now(),
            operation=request.operation,
        )
        return Reply(
            value=value,
            link=answer.headers.get("link"),
            status=answer.status,
            tracking_id=tracking_id_of(answer.headers, None),
        )

    def _note(self, request: Request, outcome: Reply | WebexError, ours: str, seconds: float) -> None:
        self._wiring.observe(request.operation, outcome.status, seconds)
        self._log.debug(
            "webex.called",
            operation=request.operation,
            lane=self._lane.value,
            status=outcome.status,
            error=type(outcome).__name__ if isinstance(outcome, WebexError) else None,
            tracking_id=outcome.tracking_id,
            our_tracking_id=ours,
            ms=round(seconds * 1000),
        )


def _sizes(connections: int, bounds: Bounds, timeouts: Timeouts) -> Sizes:
    return Sizes(connections=connections, answer_bytes=bounds.answer_bytes, closing=bounds.closing, timeouts=timeouts)
