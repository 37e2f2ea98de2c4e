"""The HTTP shell around :mod:`service.webex.protocol`: who may send, when, for how long, and how often.

* At most ``max_concurrency`` exchanges at once, always fewer than the pool has connections, so that nothing ever
  queues inside httpcore.
* An exchange runs in a task of its own. Who asked may be cancelled; the exchange is not: it ends by itself, within
  its deadline.
* After a 429 or 423 nobody sends before the moment that Webex named. Reads wait for it, up to a minute; writes never
  wait, they fail with WebexThrottled: the right to write (see ``owner`` in the ledger) may be gone by then.
* Reads are tried up to three times. Writes are sent once, but for a 401, after which Webex has done nothing: whoever
  asked for a write has to look before asking again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import structlog

from service.core import retry
from service.core.errors import WebexError, WebexRejected, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.webex.protocol import Answer, Request, checked_base_url, decipher, tracking_id_of
from service.webex.tokens import TokenSource
from service.webex.transport import Timeouts, Transport, exchange, unreachable


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
    the present call; ``observe`` is told the operation and status (None: no answer) of every call.
    """

    transport: Callable[[int], httpx.AsyncBaseTransport] = lambda connections: Transport(connections=connections)
    timeouts: Timeouts = field(default_factory=Timeouts)
    traceparent: Callable[[], str | None] = lambda: None
    observe: Callable[[str, int | None], None] = lambda _operation, _status: None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A success: the decoded JSON (None without a body), the ``Link`` header, if any, and Cisco's id of the call."""

    status: int
    value: Any
    link: str | None
    tracking_id: str | None


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
    ) -> None:
        """Raises ValueError for a base URL that is neither https, nor http on loopback, nor allowed by
        ``allow_http``.
        """
        self.base_url = checked_base_url(base_url, allow_http=allow_http)
        self._token, self._bounds, self._clock, self._wiring = token, bounds, clock, wiring
        self._connections = max_concurrency + 2
        self._pool = _Pool(wiring.transport(self._connections))
        self._slots = asyncio.Semaphore(max_concurrency)
        self._tasks: set[asyncio.Task[Reply | WebexError]] = set()
        self._not_before = clock.monotonic()
        self._closed = False
        self._log = structlog.get_logger()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """No new calls; those under way get ``bounds.closing`` seconds to end; then the connections are closed."""
        self._closed = True
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=self._bounds.closing)
            for task in late:  # the pool goes away too, so that a slot lost here harms nobody
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._pool.transport.aclose()

    @property
    def throttled_for(self) -> float:
        """Seconds until Webex may be called again; 0 where it may be called now."""
        return max(0.0, self._not_before - self._clock.monotonic())

    async def call(self, request: Request) -> Reply:
        """Make the call. Raises only subclasses of WebexError."""
        deadline = self._deadline(request)
        for attempt in itertools.count():
            try:
                return await self._authorized(request, deadline)
            except WebexThrottled as error:
                if not self._may_repeat(request, attempt) or self._too_long(error):
                    raise
                deadline = self._deadline(request)  # the gate holds it back; what Webex asks for is not our time
            except WebexUnavailable:
                pause = retry.backoff(attempt, base=0.5, cap=5.0, chance=self._clock.chance())
                if not self._may_repeat(request, attempt) or self._clock.monotonic() + pause >= deadline:
                    raise
                await self._clock.sleep(pause)
        raise AssertionError("counting never ends")

    def _deadline(self, request: Request) -> float:
        seconds = self._bounds.deadline if request.reads else self._bounds.write_deadline
        return self._clock.monotonic() + seconds

    def _may_repeat(self, request: Request, attempt: int) -> bool:
        return request.reads and attempt < self._bounds.retries and not self._closed

    def _too_long(self, error: WebexThrottled) -> bool:
        return (error.retry_after or 0.0) > self._bounds.throttle

    async def _authorized(self, request: Request, deadline: float) -> Reply:
        token = await self._token.get()
        try:
            return await self._attempt(request, token, deadline)
        except WebexUnauthorized as error:
            if error.status != 401 or not await self._token.refresh(token):
                raise
        return await self._attempt(request, await self._token.get(), deadline)

    async def _attempt(self, request: Request, token: str, deadline: float) -> Reply:
        """One exchange, begun when it may begin, in a task that outlives a cancelled caller."""
        prepared = self._prepared(request, token)
        deadline += await self._admitted(request, deadline)
        task = asyncio.create_task(self._send(request, prepared, deadline))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task})  # cancelling who waits here leaves the task alone
        if task.cancelled():  # by aclose, which had waited long enough
            raise WebexUnavailable(f"{request.operation}: cut off, the client was closed", maybe_done=True)
        outcome = task.result()
        if isinstance(outcome, WebexError):
            raise outcome
        return outcome

    def _ended(self, task: asyncio.Task[Reply | WebexError]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    async def _admitted(self, request: Request, deadline: float) -> float:
        """Wait until the gate is open and a slot is ours; the seconds spent at the gate."""
        waited = 0.0
        while True:
            waited += await self._open(request, waited)
            await self._slot(request, deadline + waited)
            if not self._closed and not self.throttled_for:
                return waited
            self._slots.release()
            if self._closed:
                raise WebexUnavailable(f"{request.operation}: not sent, the client is closed")

    async def _open(self, request: Request, waited: float) -> float:
        seconds = self.throttled_for
        patience = self._bounds.throttle - waited if request.reads else 0.0
        if seconds > patience:
            raise WebexThrottled(f"{request.operation}: not sent, Webex asked to wait", retry_after=seconds)
        if seconds:
            await self._clock.sleep(seconds)
        return seconds

    async def _slot(self, request: Request, deadline: float) -> None:
        latest = deadline if request.reads else deadline - self._bounds.write_deadline + self._bounds.write_start
        try:
            async with asyncio.timeout(max(0.0, latest - self._clock.monotonic())):
                await self._slots.acquire()
        except TimeoutError:
            raise WebexUnavailable(f"{request.operation}: not sent, too many calls are under way") from None

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
                headers["Content-Type"] = "application/json"
            return httpx.Request(request.method, url, headers=headers, content=body)
        except (httpx.InvalidURL, UnicodeError):
            raise WebexRejected(f"{request.operation}: not sent, its parameters do not make a URL") from None

    async def _send(self, request: Request, prepared: httpx.Request, deadline: float) -> Reply | WebexError:
        """The exchange and what it means. A WebexError is returned: who asked may be gone, and nobody would fetch a
        raised one.
        """
        started = self._clock.monotonic()
        outcome: Reply | WebexError
        try:
            answer = await self._exchange(request, prepared, deadline)
            outcome = self._deciphered(request, answer)
        except (httpx.RequestError, OSError) as error:
            outcome = unreachable(error, operation=request.operation)
        except WebexError as error:
            outcome = error
        self._note(request, outcome, prepared.headers["TrackingID"], self._clock.monotonic() - started)
        return outcome

    async def _exchange(self, request: Request, prepared: httpx.Request, deadline: float) -> Answer:
        seconds = deadline - self._clock.monotonic()
        if seconds <= 0:
            raise WebexUnavailable(f"{request.operation}: not sent, its deadline had passed")
        pool = self._pool
        async with pool.used() as transport:
            try:
                return await exchange(
                    transport,
                    prepared,
                    seconds=seconds,
                    timeouts=self._wiring.timeouts,
                    cap=self._bounds.answer_bytes,
                )
            except httpx.PoolTimeout:
                self._replace(pool)
                raise

    def _deciphered(self, request: Request, answer: Answer) -> Reply:
        """What the answer says. A 429 or 423 shuts the gate for everybody before anyone else can pass it."""
        silent = not request.answers and answer.status < 300
        try:
            value = decipher(
                answer.status,
                answer.headers,
                b"" if silent else answer.body,
                now=self._clock.now(),
                operation=request.operation,
            )
        except WebexThrottled as error:
            self._not_before = max(self._not_before, self._clock.monotonic() + (error.retry_after or 0.0))
            raise
        return Reply(
            value=value,
            link=answer.headers.get("link"),
            status=answer.status,
            tracking_id=tracking_id_of(answer.headers, None),
        )

    def _replace(self, pool: _Pool) -> None:
        """There are always more connections than slots, so a PoolTimeout means that httpcore has lost some: begin
        afresh.
        """
        pool.retired = True
        if self._pool is pool:
            self._pool = _Pool(self._wiring.transport(self._connections))
            self._log.warning("webex.pool_replaced")

    def _note(self, request: Request, outcome: Reply | WebexError, ours: str, seconds: float) -> None:
        self._wiring.observe(request.operation, outcome.status)
        failed = outcome if isinstance(outcome, WebexError) else None
        fields = {
            "operation": request.operation,
            "status": outcome.status,
            "tracking_id": outcome.tracking_id,
            "our_tracking_id": ours,
            "ms": round(seconds * 1000),
        }
        self._log.debug("webex.called", error=type(failed).__name__ if failed else None, **fields)
        if isinstance(failed, WebexThrottled) and failed.status is not None:
            self._log.warning("webex.throttled", retry_after=failed.retry_after, **fields)


class _Pool:
    """One transport; when it is retired, its last user closes it."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.retired = False
        self._users = 0

    @asynccontextmanager
    async def used(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        self._users += 1
        try:
            yield self.transport
        finally:
            self._users -= 1
            if self.retired and not self._users:
                await self.transport.aclose()
