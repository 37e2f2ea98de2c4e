"""What the work queue hands to the controllers."""

from __future__ import annotations

from dataclasses import dataclass

from service.controllers.ledger import Place


@dataclass(frozen=True)
class Task:
    """Look at ``series``. ``full`` asks for all registrants even where an incremental look would do; ``swept``: nobody
    waits for it, the schedule asked.
    """

    place: Place
    series: str
    org_id: str = ""
    host_email: str = ""
    full: bool = False
    swept: bool = False
    traceparent: str | None = None
