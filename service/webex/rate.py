"""One budget for each credential: everybody in the process who uses the credential waits here for the right to send.

What is allowed is decided in :mod:`service.core.rate` and :class:`service.core.retry.RetryBudget`; here callers wait. One
of them at a time stands at the turnstile: it has a slot and waits until its call fits into the speed; then it checks
once more that Webex is not to be left alone. So a live call never stands behind more than one sweep.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from service.core.errors import WebexError, WebexThrottled, WebexUnavailable
from service.core.rate import Circuit, Lane, Lanes, Limits, Pace
from service.core.retry import RetryBudget

#: No sleep is shorter: a remainder of a rounding must not keep the loop busy.
_SHORTEST_SLEEP = 0.001


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Who asks to send, and how long it waits: at most ``patience`` seconds for the moment that Webex named, and for the
    rest until ``latest`` (monotonic; pushed back by what it waited for Webex).
    """

    operation: str
    lane: Lane
    patience: float
    latest: float


@dataclass(frozen=True, kw_only=True)
class State:
    """A budget as it is now, for metrics.

    ``rate`` is the allowed speed in calls per second, ``throttled_for`` the seconds until Webex may be called again,
    ``repeats`` how many calls may be sent again.
    """

    rate: float
    throttled_for: float
    circuit_open: bool
    under_way: dict[Lane, int]
    waiting: dict[Lane, int]
    repeats: float


class Budget:
    """What one credential may do. ``slots``: calls under way at once.

    ``circuit`` is told when the circuit opens (true) and closes (false).
    """

    def __init__(
        self,
        *,
        slots: int = 8,
        limits: Limits | None = None,
        repeats: RetryBudget | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        circuit: Callable[[bool], None] = lambda _open: None,
    ) -> None:
        """Raises ValueError where there is no slot."""
        if slots < 1:
            raise ValueError("at least one call must be allowed at once")
        self.slots = slots
        self._monotonic, self._sleep, self._observe = monotonic, sleep, circuit
        limits = limits or Limits()
        self._pace, self._circuit, self._lanes = Pace.begin(limits), Circuit(limits=limits), Lanes(slots=slots)
        self._repeats = repeats or RetryBudget()
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._turnstile_taken = False
        self._log = structlog.get_logger()

    @property
    def throttled_for(self) -> float:
        """Seconds until Webex may be called again; 0 where it may be called now."""
        return self._pace.shut_for(self._monotonic())

    def state(self) -> State:
        """How it stands now."""
        return State(
            rate=self._pace.rate,
            throttled_for=self.throttled_for,
            circuit_open=self._circuit.is_open,
            under_way={Lane.LIVE: self._lanes.live, Lane.SWEEP: self._lanes.sweep},
            waiting={lane: len(tickets) for lane, tickets in self._waiting.items()},
            repeats=self._repeats.left_at(self._monotonic()),
        )

    def may_repeat(self) -> bool:
        """Take one repetition out of the budget, if there is one."""
        now = self._monotonic()
        allowed = self._repeats.allows(now)
        if allowed:
            self._repeats = self._repeats.repeated(now)
        return allowed

    async def enter(self, turn: Turn) -> float:
        """Wait for the right to send now, which :meth:`leave` gives back; the seconds spent waiting for Webex's moment.

        Raises WebexThrottled or WebexUnavailable where ``turn`` cannot wait that long; nothing was sent then. The latter
        has a ``retry_after`` where the circuit is open.
        """
        waited = 0.0
        while True:
            self._check_circuit(turn)
            waited += await self._opened(turn, waited)
            await self._slot(turn, turn.latest + waited)
            try:
                if await self._passed(turn, turn.latest + waited):
                    return waited
            except BaseException:
                self.leave(turn.lane)
                raise
            finally:
                self._turnstile_taken = False
                self._advance()
            self.leave(turn.lane)

    def leave(self, lane: Lane) -> None:
        """A call that had entered has ended."""
        self._lanes = self._lanes.ended(lane)
        self._advance()

    def ended(self, error: WebexError | None, *, sent: float) -> None:
        """What became of a call that was sent at ``sent``: answered (None), or an error of Webex or of the network."""
        now = self._monotonic()
        if isinstance(error, WebexThrottled):
            self._throttled(error, now, sent)
        elif isinstance(error, WebexUnavailable):
            self._switch(self._circuit.failed(now, sent=sent))
            return
        else:
            self._pace = self._pace.answered(now)
        self._switch(self._circuit.succeeded(now, sent=sent))

    def _throttled(self, error: WebexThrottled, now: float, sent: float) -> None:
        before, wait = self._pace, error.retry_after or 0.0
        self._pace = before.throttled(now, sent=sent, wait=wait)
        if self._pace.lowered != before.lowered:
            self._log.warning(
                "webex.throttled",
                status=error.status,
                retry_after=wait,
                tracking_id=error.tracking_id,
                calls_per_second=round(self._pace.rate, 2),
            )

    def _switch(self, circuit: Circuit) -> None:
        changed = circuit.is_open != self._circuit.is_open
        self._circuit = circuit
        if changed:
            self._log.warning("webex.circuit_opened" if circuit.is_open else "webex.circuit_closed")
            self._observe(circuit.is_open)

    def _check_circuit(self, turn: Turn) -> None:
        seconds = self._circuit.refused_for(self._monotonic())
        if seconds:
            raise WebexUnavailable(f"{turn.operation}: not sent, Webex has not answered lately", retry_after=seconds)

    async def _opened(self, turn: Turn, waited: float) -> float:
        seconds = self.throttled_for
        if seconds > turn.patience - waited:
            raise WebexThrottled(f"{turn.operation}: not sent, Webex asked to wait", retry_after=seconds)
        if seconds:
            await self._sleep(max(seconds, _SHORTEST_SLEEP))
        return seconds

    async def _slot(self, turn: Turn, latest: float) -> None:
        """Wait in the lane for a slot and the turnstile."""
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn.lane].append(ticket)
        self._advance()
        try:
            async with asyncio.timeout(max(0.0, latest - self._monotonic())):
                await ticket
        except BaseException as error:
            self._withdraw(turn.lane, ticket)
            if isinstance(error, TimeoutError):
                raise self._too_many(turn) from None
            raise

    def _withdraw(self, lane: Lane, ticket: asyncio.Future[None]) -> None:
        if ticket in self._waiting[lane]:
            self._waiting[lane].remove(ticket)
        if ticket.done() and not ticket.cancelled():  # its turn had come in the same moment
            self._turnstile_taken = False
            self.leave(lane)

    async def _passed(self, turn: Turn, latest: float) -> bool:
        """Wait at the turnstile until the call fits in; false where Webex has asked for quiet meanwhile."""
        now = self._monotonic()
        while not self._pace.shut_for(now) and (delay := self._pace.delay(now)):
            if now + delay > latest:
                raise self._too_many(turn)
            await self._sleep(max(delay, _SHORTEST_SLEEP))
            now = self._monotonic()
        if self._pace.shut_for(now):
            return False
        self._check_circuit(turn)
        self._pace, self._circuit = self._pace.sent(now), self._circuit.sent(now)
        self._repeats = self._repeats.sent(now)
        return True

    def _too_many(self, turn: Turn) -> WebexUnavailable:
        return WebexUnavailable(f"{turn.operation}: not sent, too many calls are under way")

    def _advance(self) -> None:
        """Let the next one go to the turnstile, if it is free."""
        for tickets in self._waiting.values():
            while tickets and tickets[0].done():  # cancelled, and not yet withdrawn
                tickets.popleft()
        waiting = [lane for lane, tickets in self._waiting.items() if tickets]
        lane = None if self._turnstile_taken else self._lanes.choice(waiting)
        if lane is not None:
            self._turnstile_taken = True
            self._lanes = self._lanes.began(lane, waiting)
            self._waiting[lane].popleft().set_result(None)
