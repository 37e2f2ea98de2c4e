"""The requests that were refused, kept for a while so that ``webex-events rejects`` can say why they were.

It must never slow or fail a request. So everything but a bounded queue happens beside the loop, in batches: those alike
become one record, of all others a few a second are kept, and what is beyond that is only counted. Where the folder cannot
be written, the last records wait in memory.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from service.core.diagnosis import EFFORT, Headers, diagnose
from service.core.errors import whereabouts
from service.core.rejects import Fingerprint, Refused, Reject, remembered, repeated, written
from service.core.signature import Secret, SignatureMode
from service.receiver.rejects_file import RejectsFile

#: Seconds from one batch to the next.
INTERVAL = 1.0
#: Seconds that the end of the process waits for the last batch.
_PATIENCE = 1.0
#: Requests that wait for the next batch, and bytes of their bodies.
_WAITING, _WAITING_BYTES = 256, 2 << 20
#: New records that are kept at once; after them one a second.
_BURST = 20
#: Those alike become one record for so long.
_ALIKE = timedelta(hours=1)
#: A count that grows is written when it has doubled, or so long after it was last written.
_RECOUNT = timedelta(minutes=1)
#: The longest time from one look for what is too old to the next.
_EXPIRING = timedelta(hours=1)


@dataclass(frozen=True)
class Keeping:
    """How many records are kept (0: none), for how long, and whether with their bodies."""

    most: int = 1000
    retention: timedelta = timedelta(days=7)
    bodies: bool = False


class Rejects:
    """Takes what was refused; :meth:`run` has to run beside it."""

    def __init__(
        self,
        *,
        folder: Path,
        secrets: Callable[[], Sequence[Secret]],
        mode: SignatureMode,
        now: Callable[[], datetime],
        keeping: Keeping = Keeping(),
    ) -> None:
        """``folder`` need not be there; it is not made."""
        self._now, self._keeping = now, keeping
        self._waiting: list[Refused] = []
        self._waiting_bytes = self._left_out = 0
        self._records = _Records(secrets, mode, keeping)
        self._shelf = _Shelf(RejectsFile(folder, most=keeping.most), keeping)
        self._one_at_a_time = threading.Lock()
        self._log = structlog.get_logger()

    def keep(self, *, reason: str, headers: Headers, body: bytes, source: str) -> None:
        """Remember it, or count it as left out. Cheap; never raises."""
        full = len(self._waiting) >= _WAITING or self._waiting_bytes + len(body) > _WAITING_BYTES
        if full or not self._keeping.most:
            self._left_out += 1
            return
        self._waiting_bytes += len(body)
        self._waiting.append(Refused(time=self._now(), reason=reason, headers=headers, body=body, source=source))

    async def run(self, *, interval: float = INTERVAL) -> None:
        """Write what came, every ``interval`` seconds, until cancelled; then the rest. Raises nothing else."""
        try:
            while True:
                await asyncio.sleep(interval)
                await asyncio.to_thread(self._write, *self._taken())
        finally:
            last = asyncio.ensure_future(asyncio.to_thread(self._write, *self._taken(), last=True))
            await asyncio.wait({last}, timeout=_PATIENCE)

    def _taken(self) -> tuple[list[Refused], int]:
        taken = self._waiting, self._left_out
        self._waiting, self._waiting_bytes, self._left_out = [], 0, 0
        return taken

    def _write(self, batch: Sequence[Refused], left_out: int, *, last: bool = False) -> None:
        """One batch, in a thread."""
        try:
            with self._one_at_a_time:
                now = self._now()
                self._records.add(batch, left_out, effort=EFFORT)
                self._shelf.store(self._records.due(now, last=last), now)
        except Exception as bug:  # noqa: BLE001 - the border: whatever is wrong in here must not end the receiver
            self._log.error("rejects.failed", error=type(bug).__name__, at=whereabouts(bug))


@dataclass
class _Growing:
    """A record that more of its like may join, and what of it was written when."""

    reject: Reject
    count: int = 0
    at: datetime | None = None

    def is_due(self, now: datetime, *, last: bool) -> bool:
        """Whether it should be written (anew)."""
        if self.at is None or self.reject.count == self.count:
            return self.at is None
        return last or self.reject.count >= 2 * self.count or now - self.at >= _RECOUNT


class _Records:
    """The records of the last hour: which request joins one of them, and which becomes a new one."""

    def __init__(self, secrets: Callable[[], Sequence[Secret]], mode: SignatureMode, keeping: Keeping) -> None:
        self._secrets, self._mode, self._keeping = secrets, mode, keeping
        self._growing: dict[Fingerprint, _Growing] = {}
        self._left_out = 0
        self._allowance = float(_BURST)
        self._allowed_at: datetime | None = None

    def add(self, batch: Sequence[Refused], left_out: int, *, effort: int) -> None:
        """Take them in; ``effort`` is what may go into diagnosing all of them."""
        self._left_out += left_out
        keys = [refused.fingerprint() for refused in batch]
        new = len(set(keys) - self._growing.keys())
        for key, refused in zip(keys, batch, strict=True):
            alike = self._growing.get(key)
            if alike is not None and refused.time - alike.reject.time < _ALIKE:
                alike.reject = repeated(alike.reject, at=refused.time)
            elif self._is_allowed(refused.time):
                self._growing[key] = _Growing(self._record(refused, effort // max(1, min(new, _BURST))))
            else:
                self._left_out += 1

    def due(self, now: datetime, *, last: bool) -> Iterator[bytes]:
        """Lines to write. What is an hour old, or one too many, is written for the last time and forgotten."""
        excess = len(self._growing) - self._keeping.most
        for n, (key, each) in enumerate(list(self._growing.items())):
            ending = n < excess or now - each.reject.time >= _ALIKE
            if each.is_due(now, last=last or ending):
                each.count, each.at = each.reject.count, now
                yield written(each.reject)
            if ending:
                del self._growing[key]

    def _record(self, refused: Refused, effort: int) -> Reject:
        secrets, bodies = self._secrets(), self._keeping.bodies
        diagnosis = diagnose(refused.body, refused.headers, secrets=secrets, mode=self._mode, effort=effort)
        left_out, self._left_out = self._left_out, 0
        return remembered(refused, diagnosis, id_=os.urandom(6).hex(), left_out=left_out, bodies=bodies)

    def _is_allowed(self, at: datetime) -> bool:
        passed = 0.0 if self._allowed_at is None else max(0.0, (at - self._allowed_at).total_seconds())
        self._allowance, self._allowed_at = min(_BURST, self._allowance + passed), at
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


class _Shelf:
    """Puts lines into the files, or keeps the last of them while that cannot be done."""

    def __init__(self, file: RejectsFile, keeping: Keeping) -> None:
        self._file, self._retention = file, keeping.retention
        self._lines: deque[bytes] = deque(maxlen=keeping.most)
        self._expired_at: datetime | None = None
        self._complained = False
        self._log = structlog.get_logger()

    def store(self, lines: Iterator[bytes], now: datetime) -> None:
        """Write them, and take out what is too old. A folder that cannot be written is complained about once."""
        self._lines.extend(lines)
        try:
            if self._is_time_to_expire(now):
                self._file.expire(now - self._retention)
                self._expired_at = now
            if self._lines:
                self._file.append(tuple(self._lines))
        except OSError as error:
            if not self._complained:
                self._log.warning("rejects.in_memory", error=type(error).__name__, errno=error.errno)
            self._complained = True
            return
        self._lines.clear()
        self._complained = False

    def _is_time_to_expire(self, now: datetime) -> bool:
        return self._expired_at is None or now - self._expired_at >= min(_EXPIRING, self._retention / 10)
