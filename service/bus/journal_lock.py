"""Who has the journal's folder, and how much had been appended when it was last heard of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from pathlib import Path

from service.core.errors import JournalInUse

LOCK_NAME = "journal.lock"

_PROCESS = 32  # bytes of the first line; the second one says what was appended


class FolderLock:
    """The lock file, held. The kernel releases it with the process, however that ends.

    Its second line counts the records that were ever appended and are on the disk. It is written after each transaction
    and not synchronised: after a loss of power it may be old, never ahead. So a journal that holds less than it says has
    lost something, be it that its log was cut behind a whole transaction, which nothing in the journal itself would show.
    Raises JournalInUse; a second one in this process is refused as well.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._descriptor, _PROCESS, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise JournalInUse(
                f"it is in use (process {holder}). Stop that process, or give this one a folder of its own"
                " (WEBEX_EVENTS_JOURNAL__PATH): only `dev` runs several roles on one journal"
            ) from exc
        self.appended = _appended(os.pread(self._descriptor, 100, _PROCESS))
        os.pwrite(self._descriptor, f"{os.getpid():<{_PROCESS - 1}}\n".encode(), 0)

    @property
    def deleted(self) -> bool:
        """The folder was emptied under us."""
        return os.fstat(self._descriptor).st_nlink == 0

    def count(self, appended: int) -> None:
        """So many records were ever appended and are durable. Where that cannot be noted, the old number stays true."""
        if appended != self.appended:
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, _line(appended), _PROCESS)
                self.appended = appended

    def forget(self) -> None:
        """What was appended does not count any more, also after a loss of power. Raises OSError."""
        self.appended = 0
        os.pwrite(self._descriptor, _line(0), _PROCESS)
        os.fsync(self._descriptor)

    def release(self) -> None:
        """Somebody else may have it. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _line(appended: int) -> bytes:
    text = b"appended %020d" % appended
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _appended(line: bytes) -> int:
    """0 where nothing can be said: no such line, or not as it was written."""
    words = line.split()
    if len(words) != 3 or not words[1].isdigit():
        return 0
    appended = int(words[1])
    return appended if line == _line(appended) else 0
