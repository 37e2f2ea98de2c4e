"""Where the private listener of a running process is, and the token for it: a file beside the journal that only its user
can read. The journal lets one process in; the others ask that one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from service.core.message import UNREADABLE

FILE_NAME = "private-listener.json"


class Announcement(msgspec.Struct, frozen=True):
    """``url`` without a path."""

    url: str
    token: str

    def __repr__(self) -> str:
        return f"Announcement(url={self.url!r})"


def new_token() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(32)


@contextlib.contextmanager
def announced(folder: Path, announcement: Announcement) -> Iterator[None]:
    """The file is there inside the block. Only for the process that has the journal in ``folder``."""
    unfinished = folder / f"{FILE_NAME}.new"
    unfinished.unlink(missing_ok=True)  # its mode may be another one
    unfinished.touch(mode=0o600, exist_ok=False)
    unfinished.write_bytes(msgspec.json.encode(announcement))
    unfinished.replace(folder / FILE_NAME)
    try:
        yield
    finally:
        withdrawn(folder)


def withdrawn(folder: Path) -> None:
    """Remove the file; what a process left behind that was killed leads nowhere."""
    with contextlib.suppress(OSError):
        (folder / FILE_NAME).unlink(missing_ok=True)


def read_announcement(folder: Path) -> Announcement | None:
    """What the process that has the journal said; None where it said nothing."""
    try:
        return msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=Announcement)
    except (OSError, *UNREADABLE):
        return None
