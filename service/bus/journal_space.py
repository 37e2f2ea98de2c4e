"""How much room the journal has: when it stops taking events, when it takes them again, and what is kept back for removing.

A full disk cannot drain itself: SQLite writes in order to delete (its log comes first), so ``DELETE`` fails as well. Hence
two things. Events are refused while there still is room, at 80 % of what the journal could have on its volume, and taken
again at 70 %. And because others may fill the volume too, a file without a meaning, the ballast, occupies twice what
SQLite's log needs: it is given up for removing only, and made again once there is room.

The share is of what the journal has and could still get, not of the volume: on a big disk that other things have nearly
filled, an empty journal is an empty journal.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from service.core.errors import JournalFull

#: Shares of the room at which events are refused, and taken again.
STOP = 0.80
RESUME = 0.70

#: What SQLite's log (the WAL) takes: it is copied into the file, and begun anew, when it is this large.
LOG_BYTES = 4 * 1024 * 1024

BALLAST_NAME = "journal.ballast"
BALLAST_BYTES = 2 * LOG_BYTES

#: The room is measured when this much was appended since, or so many seconds ago.
MEASURE_BYTES = 256 * 1024
MEASURE_SECONDS = 0.25

#: Seconds before a volume that refused although there seemed to be room (a quota that its figures do not show) is tried
#: again.
RETRY = 10.0

_MIB = 1024 * 1024
_CHUNK = 256 * 1024


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal has on its volume now, in bytes."""

    #: Pages that hold something, and pages that do not any more: these are used again before the file grows.
    occupied: int
    unused: int
    #: Size of the WAL's file. It stays as it is when the WAL begins anew.
    log: int
    #: Of the pages, those that stand in the WAL only so far: the file will grow by them.
    outstanding: int
    #: Size of both files.
    files: int


class Room(msgspec.Struct, frozen=True):
    """What the journal uses, and what it could still get; in bytes."""

    used: int
    available: int

    @property
    def share(self) -> float:
        """0 (empty) to 1 (full)."""
        return self.used / (self.used + self.available) if self.available > 0 else 1.0


def room_on_volume(holding: Holding, free: int) -> Room:
    """With ``free`` bytes left on the volume. The WAL counts as large as it may become: without room for it, there is none."""
    log = max(holding.log, LOG_BYTES)
    growth = free - holding.outstanding - (log - holding.log)
    return Room(holding.occupied + log, growth + holding.unused if growth >= 0 else 0)


def room_below_limit(holding: Holding, limit: int) -> Room:
    """With ``limit`` bytes for the file of the database."""
    return Room(holding.occupied, max(0, limit - holding.occupied))


def free_for_ballast(holding: Holding) -> int:
    """Bytes that have to be free on the volume for the journal to be below the mark beside its ballast: 14 MiB when new."""
    nothing = room_on_volume(holding, 0)
    log = nothing.used - holding.occupied - holding.log
    needed = max(0, math.ceil(nothing.used * (1 / RESUME - 1)) - holding.unused)
    return BALLAST_BYTES + holding.outstanding + log + needed


def free_bytes(folder: Path) -> int:
    """What this process may still write to the volume of ``folder``. Raises OSError."""
    volume = os.statvfs(folder)
    return volume.f_bavail * volume.f_frsize


class Space:
    """The watermarks and the ballast of the journal in ``folder``. Belongs to the journal's thread.

    ``full`` (events are refused), ``used`` (0 to 1), ``capacity``, ``overhead`` (of what is used, the log) and ``files``
    (bytes) may be read from elsewhere.
    ``limit`` (bytes) is the operator's for the file; ``free`` says what is left on the volume, ``clock`` counts seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: int | None = None,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._free = free
        self._clock = clock
        self._log = structlog.get_logger()
        self._ballast = _Ballast(folder / BALLAST_NAME)
        self._ballast_wanted = self._ballast.known
        self._room = Room(0, 0)
        self._appended = 0
        self._measured_at = self._refused_at = self._failed_at = -math.inf
        self.full = False
        self.tight = False
        self.used = 0.0
        self.capacity = 0
        self.overhead = 0
        self.files = 0

    def due(self, size: int = 0) -> bool:
        """Whether it is time to measure again; before ``size`` bytes are refused it is."""
        return (
            self._appended >= MEASURE_BYTES
            or not self._fits(size)
            or self._clock() - self._measured_at >= MEASURE_SECONDS
        )

    def _fits(self, size: int) -> bool:
        """They are written twice, to the WAL and from there to the file."""
        return 2 * (self._appended + size) <= self._room.available

    def measure(self, holding: Holding) -> None:
        """Decide anew, with what the journal has now. What cannot be asked of the volume stays as it was."""
        self._measured_at, self._appended, self.files = self._clock(), 0, holding.files
        try:
            free = self._free(self._folder)
        except OSError:
            return  # its folder is gone: the next commit says so
        if not self._ballast.held:
            free = self._without_ballast(holding, free)
        self._room = self._tightest(holding, free)
        self.used, self.capacity = self._room.share, self._room.used + self._room.available
        self.overhead = self._room.used - holding.occupied
        self._decide()

    def _tightest(self, holding: Holding, free: int) -> Room:
        on_volume = room_on_volume(holding, free)
        if self._limit is None:
            return on_volume
        return max(on_volume, room_below_limit(holding, self._limit), key=lambda room: room.share)

    def _without_ballast(self, holding: Holding, free: int) -> int:
        """Make it where there is room for it. What is left then; where it is missing, what would be left beside it."""
        beside = self._tightest(holding, free - BALLAST_BYTES)
        if beside.share <= RESUME and self._clock() - self._failed_at >= RETRY:
            self._make_ballast(holding)
        elif not self._ballast_wanted and self._failed_at == -math.inf:
            self._without("the volume is too small or too full for it", holding, free)
        return free - BALLAST_BYTES if self._ballast_wanted else free

    def _make_ballast(self, holding: Holding) -> None:
        try:
            self._ballast.make()
        except OSError as exc:
            self._without(exc.strerror or type(exc).__name__, holding, None)
            return
        self._ballast_wanted = True
        self.tight = False

    def _without(self, reason: str, holding: Holding, free: int | None) -> None:
        if self._failed_at == -math.inf:
            self._log.warning(
                "journal.no_ballast",
                reason=reason,
                free_mib=None if free is None else free // _MIB,
                advice=f"should its volume ever be full, the journal can perhaps not be emptied without help."
                f" It is made as soon as {math.ceil(free_for_ballast(holding) / _MIB)} MiB are free there",
            )
        self._failed_at = self._clock()

    def _decide(self) -> None:
        if not self.full and self.used >= STOP:
            self._stop(f"{STOP:.0%} of what it could have are used")
        elif self.full and self.used <= RESUME and self._clock() - self._refused_at >= RETRY:
            self.full = self.tight = False
            self._log.warning("journal.takes_events_again", **self._figures())

    def _stop(self, reason: str) -> None:
        if not self.full:
            self.full = True
            self._log.warning(
                "journal.full",
                reason=reason,
                **self._figures(),
                takes_events_again_at_percent=round(RESUME * 100),
                advice="events are refused (503) wherever Kafka does not take them. The journal empties itself as soon as"
                " Kafka, or with the journal as the bus its consumers, are back; a larger volume helps at once",
            )

    def _figures(self) -> dict[str, object]:
        room = self._room
        return {
            "used_percent": round(self.used * 100),
            "used_mib": round(room.used / _MIB, 1),
            "available_mib": round(room.available / _MIB, 1),
        }

    def admit(self, size: int, *, essential: bool) -> None:
        """Before ``size`` bytes are appended. Raises JournalFull: above the watermark, or where they do not fit at all.

        What is ``essential`` may go on to the real end.
        """
        if self.full and not essential:
            raise JournalFull(self.refusal)
        if not self._fits(size):
            raise JournalFull(f"{size} bytes do not fit into the journal: {self._room.available} are left")
        self._appended += size

    @property
    def refusal(self) -> str:
        """Why nothing is appended at the moment."""
        room = self._room
        return (
            f"the journal is full: it uses {room.used // _MIB} MiB of {(room.used + room.available) // _MIB} MiB,"
            f" and takes events again at {RESUME:.0%}"
        )

    def refused(self) -> None:
        """The volume had no room for an append, whatever the figures said."""
        self._refused_at = self._clock()
        self._stop("the volume refused to take more")

    def make_room(self) -> bool:
        """There was no room for removing either: give up the ballast, and remove in small steps. False: nothing is left."""
        self.refused()
        changed, self.tight = not self.tight, True
        if not self._ballast.held:
            return changed
        try:
            self._ballast.release()
        except OSError as exc:
            self._log.error("journal.ballast_kept", reason=exc.strerror)
            return changed
        self._log.warning("journal.ballast_released", freed_mib=BALLAST_BYTES // _MIB)
        return True


class _Ballast:
    """The file. An empty one says: it was here, and is to be made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known = path.exists()
        self.held = self.known and path.stat().st_blocks * 512 >= BALLAST_BYTES

    def make(self) -> None:
        """Raises OSError; then nothing is occupied."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _allocate(descriptor, BALLAST_BYTES)
        except OSError:
            os.ftruncate(descriptor, 0)
            raise
        finally:
            os.close(descriptor)
        self.held = True

    def release(self) -> None:
        """Raises OSError."""
        os.truncate(self._path, 0)
        self.held = False


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what file systems that cannot do it say
                raise
    if os.fstat(descriptor).st_blocks * 512 < size:  # not every system has the call, and zeros may be compressed away
        for start in range(0, size, _CHUNK):
            os.pwrite(descriptor, os.urandom(_CHUNK), start)
