"""Faults that a test asks for. They live in memory only and end with the process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from service.sandbox.refusals import invalid


@dataclass(frozen=True)
class Fault:
    """``times`` answers of ``operation`` (an operationId, its short name, or ``*``) go wrong.

    With ``status`` the call is refused and has no effect; with ``drop`` it has its effect and the answer is cut short.
    ``lag`` ages what reads show and does not wear off.
    """

    operation: str
    times: int
    status: int = 0
    retry_after: str | None = None
    drop: bool = False
    lag: timedelta = timedelta(0)

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Fault:
        """``{"operation", "dropResponse": n}``, ``{…, "status", "times", "retryAfter"}`` or ``{…, "lagSeconds"}``."""
        operation, retry_after = str(body.get("operation", "*")), body.get("retryAfter")
        try:
            if "lagSeconds" in body:
                return cls(operation, times=1, lag=timedelta(seconds=float(body["lagSeconds"])))
            if "dropResponse" in body:
                return cls(operation, times=int(body["dropResponse"]), drop=True)
            status, times = int(body["status"]), int(body.get("times", 1))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise invalid("A fault has dropResponse, status or lagSeconds, each a number.") from error
        if not 400 <= status <= 599:
            raise invalid("status must be an error.")
        return cls(operation, times, status=status, retry_after=None if retry_after is None else str(retry_after))


class Faults:
    """The faults that are still due."""

    def __init__(self) -> None:
        self._due: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """One more; the first that fits goes first."""
        self._due.append(fault)

    def clear(self) -> None:
        """None from now on."""
        self._due.clear()

    def take(self, names: Iterable[str]) -> Fault | None:
        """The fault that hits this call, used up once; None where the call goes well."""
        wanted = {*names, "*"}
        for i, fault in enumerate(self._due):
            if fault.operation in wanted and not fault.lag and fault.times > 0:
                self._due[i] = replace(fault, times=fault.times - 1)
                return fault
        return None

    def lag(self, names: Iterable[str]) -> timedelta:
        """How far behind the reads of this operation are."""
        wanted = {*names, "*"}
        return max((fault.lag for fault in self._due if fault.operation in wanted), default=timedelta(0))
