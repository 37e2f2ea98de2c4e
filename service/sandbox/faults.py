"""Faults that a test asks for. They live in memory only and end with the process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from service.sandbox.refusals import invalid

#: What can happen to the body of an answer; to a webhook.
BODIES = ("truncated", "html", "empty", "huge")
WEBHOOKS = ("lose", "duplicate", "late", "reorder")

#: Longest latency in seconds.
LONGEST = 600.0

#: How often a fault comes that has a probability and no number.
FOR_EVER = 10**9

#: Most copies of one webhook.
MOST_COPIES = 100


@dataclass(frozen=True)
class Fault:
    """``times`` answers of ``operation`` (an operationId, its short name, or ``*``) go wrong.

    With ``status`` the call is refused: before its effect, or ``after`` it. With ``drop`` it has its effect and the answer is
    cut short; ``body`` spoils the answer's body; ``delay`` is a latency in seconds. ``lag`` ages what reads show and does not
    wear off. ``lose_page`` leaves a page of a list out: the one after it is shown in its place. ``webhook``: what happens to
    the next webhooks whose event is ``operation``: ``seconds`` late, or ``copies`` of it.

    The first ``skip`` calls go well, and of the others each is hit with this ``probability`` only.
    """

    operation: str
    times: int
    status: int = 0
    retry_after: str | None = None
    after: bool = False
    drop: bool = False
    body: str = ""
    delay: float = 0.0
    lag: timedelta = timedelta(0)
    webhook: str = ""
    seconds: float = 0.0
    lose_page: bool = False
    copies: int = 2
    probability: float = 1.0
    skip: int = 0

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Fault:
        """What ``POST /sandbox/faults`` takes, besides ``"skip"?`` and ``"probability"?`` for each of them.

        ``{"operation", "times"?, "status"?, "retryAfter"?, "afterEffect"?, "delaySeconds"?, "body"?}``, of which one of status,
        delaySeconds and body is needed; ``{"operation", "dropResponse": n}``; ``{"operation", "lagSeconds"}``;
        ``{"operation", "losePage": n}``;
        ``{"webhook": "lose" | "duplicate" | "late" | "reorder", "event"?, "times"?, "seconds"?, "copies"?}``.
        """
        try:
            fault = replace(_read(body), probability=float(body.get("probability", 1.0)), skip=int(body.get("skip", 0)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            named = "dropResponse, status, delaySeconds, body, lagSeconds, losePage or webhook"
            raise invalid(f"A fault has {named}.") from error
        fault._check()
        return fault

    def _check(self) -> None:
        if self.status and not 400 <= self.status <= 599:
            raise invalid("status must be an error.")
        if not (0 <= self.delay <= LONGEST and 0 <= self.seconds <= LONGEST):
            raise invalid(f"delaySeconds and seconds are 0 to {LONGEST:.0f}.")
        if self.body not in ("", *BODIES):
            raise invalid(f"body is one of {', '.join(BODIES)}.")
        if self.webhook not in ("", *WEBHOOKS):
            raise invalid(f"webhook is one of {', '.join(WEBHOOKS)}.")
        if not 0 < self.probability <= 1 or not 0 <= self.skip <= FOR_EVER or not 1 <= self.copies <= MOST_COPIES:
            raise invalid(f"probability is above 0 and at most 1, skip not negative, copies 1 to {MOST_COPIES}.")


def _read(body: dict[str, Any]) -> Fault:
    operation = str(body.get("operation", "*"))
    times = int(body.get("times", FOR_EVER if "probability" in body else 1))
    if "webhook" in body:
        event, kind = str(body.get("event", "*")), str(body["webhook"]) or "?"
        seconds, copies = float(body.get("seconds", 1.0)), int(body.get("copies", 2))
        return Fault(event, times, webhook=kind, seconds=seconds, copies=copies)
    if "lagSeconds" in body:
        return Fault(operation, times=1, lag=timedelta(seconds=float(body["lagSeconds"])))
    if "dropResponse" in body:
        return Fault(operation, times=int(body["dropResponse"]), drop=True)
    if "losePage" in body:
        return Fault(operation, times=int(body["losePage"]), lose_page=True)
    if not {"status", "delaySeconds", "body"} & body.keys():
        raise KeyError("status")
    retry_after = body.get("retryAfter")
    status = int(body["status"]) if "status" in body else 0
    return Fault(
        operation,
        times,
        status=status if "status" not in body or status else -1,
        retry_after=None if retry_after is None else str(retry_after),
        after=body.get("afterEffect") is True,
        body=str(body.get("body", "")),
        delay=float(body.get("delaySeconds", 0.0)),
    )


class Faults:
    """The faults that are still due."""

    def __init__(self, chance: Callable[[], float] | None = None) -> None:
        """``chance`` gives a number from 0 to 1; left out, the same ones in every process."""
        self._due: list[Fault] = []
        self._chance = chance or random.Random("faults").random  # noqa: S311 - a die, not a secret

    def add(self, fault: Fault) -> None:
        """One more; the first that fits goes first."""
        self._due.append(fault)

    def clear(self) -> None:
        """None from now on."""
        self._due.clear()

    def take(self, names: Iterable[str]) -> Fault | None:
        """The fault that hits this call, used up once; None where the call goes well."""
        return self._take(names, webhook=False)

    def take_webhook(self, event: str) -> Fault | None:
        """What goes wrong with this webhook, used up once."""
        return self._take((event,), webhook=True)

    def _take(self, names: Iterable[str], *, webhook: bool) -> Fault | None:
        wanted = {*names, "*"}
        for i, fault in enumerate(self._due):
            fits = fault.operation in wanted and bool(fault.webhook) is webhook
            if not fits or fault.lag or fault.times <= 0:
                continue
            if fault.skip > 0:
                self._due[i] = replace(fault, skip=fault.skip - 1)
            elif fault.probability == 1 or self._chance() < fault.probability:
                self._due[i] = replace(fault, times=fault.times - 1)
                return fault
        return None

    def lag(self, names: Iterable[str]) -> timedelta:
        """How far behind the reads of this operation are."""
        wanted = {*names, "*"}
        return max((fault.lag for fault in self._due if fault.operation in wanted), default=timedelta(0))
