"""What the probes say: whether an event would be stored now, and what to do where it would not."""

from __future__ import annotations

from collections.abc import Callable

from service.cli.shutdown import Stop
from service.telemetry.metrics import JournalState
from service.telemetry.progress import Progress

#: None where all is well, else a sentence that says what is not, and what to do.
Check = Callable[[], str | None]

_KAFKA = "Kafka does not acknowledge (see the lines producer.* in the log)"


class Health:
    """What the probes of one process say, from before it has a bus until its end."""

    def __init__(self, *, stop: Stop, progress: Progress) -> None:
        self._stop, self._progress = stop, progress
        self._bus_unready: Check = _all_is_well
        self._bus_stuck: Check = _all_is_well
        self._starting = "not everything runs yet"
        #: Set when everything runs that has to.
        self.started = False

    def starting(self, doing: str) -> None:
        """What the start is busy with, as a clause: it may take minutes, and nobody should end it for that."""
        self._starting = doing

    def ask_bus(self, *, unready: Check, stuck: Check) -> None:
        """There is a bus now; these are its own complaints."""
        self._bus_unready, self._bus_stuck = unready, stuck
        self.starting("not everything runs yet")

    def unready(self) -> str | None:
        """Why nothing should be sent here now: from SIGTERM on, and whenever an event could not be stored."""
        if self._stop.is_set():
            return "This process is about to end"
        if not self.started:
            return f"This process is starting: {self._starting}"
        return self._bus_unready()

    def stuck(self) -> str | None:
        """Why this process should be started again. Not because of Kafka or Webex: a restart would not help them."""
        hanging = self._progress.stuck()
        if hanging:
            return f"Nothing has been heard for too long of: {', '.join(hanging)}; restart the process"
        return self._bus_stuck()

    async def keep(self) -> None:
        """Watch, until cancelled, who makes progress."""
        await self._progress.keep()


def _all_is_well() -> str | None:
    return None


def why_not_stored(journal: JournalState | None, *, missing: str) -> str:
    """Why neither Kafka nor the journal takes an event. ``missing`` says why there is no journal."""
    if journal is None:
        return f"{_KAFKA}, and {missing}"
    if journal.failure is None and not journal.full:
        return f"{_KAFKA}, and the journal does not take more now; try again"
    return f"{_KAFKA}, and {_refusing(journal)}; bring Kafka back, or mend the journal's volume"


def why_not_kept(journal: JournalState) -> str | None:
    """Why the journal takes no event where it is the bus; None where it does."""
    if journal.failure is None and not journal.full:
        return None
    refusing = _refusing(journal)
    return f"{refusing[:1].upper()}{refusing[1:]}; make its volume larger, or keep events for less time"


def _refusing(journal: JournalState) -> str:
    if journal.failure is not None:
        return f"{journal.failure}; look at the disk, then restart"
    return f"the journal is full ({journal.used:.0%} of its room)"
