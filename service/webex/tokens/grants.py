"""What Webex granted: an access token, its end, and the refresh token for the next; and the file that keeps it.

A refresh token that Webex replaced exists nowhere else, and a process that asked for tokens at each start would use up
Webex's 750 live tokens.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from service.core.errors import WebexUnavailable
from service.webex.tokens.files import checked_token

#: How long before its end an access token is replaced; a tenth of its life where that is shorter.
EARLY = timedelta(minutes=10)

_FILE_BYTES = 65_536


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the last issue gave. ``configured`` tells from which configured credential it descends (a hash): a new one
    there begins anew.
    """

    refresh_token: str
    configured: str
    access_token: str = ""
    expires: datetime | None = None
    lifetime: float = 0.0

    def __repr__(self) -> str:
        return "Grant(***)"

    def fresh_at(self, now: datetime) -> bool:
        """Whether the access token need not be replaced yet."""
        early = min(EARLY, timedelta(seconds=self.lifetime / 10))
        return bool(self.access_token) and self.expires is not None and now < self.expires - early

    def usable_at(self, now: datetime) -> bool:
        """Whether the access token has not ended yet."""
        return bool(self.access_token) and self.expires is not None and now < self.expires


class TokenAnswer(msgspec.Struct, frozen=True):
    """What both endpoints that issue tokens answer."""

    access_token: str
    expires_in: float = 3600.0
    refresh_token: str = ""

    def __repr__(self) -> str:
        return "TokenAnswer(***)"


def granted(answer: object, *, before: Grant, now: datetime, operation: str) -> Grant:
    """The grant that follows ``before``; a refresh token that was not replaced goes on.

    Raises WebexUnavailable for an answer that holds no token: somebody stands between us and Webex.
    """
    try:
        parsed = msgspec.convert(answer, TokenAnswer)
        token = checked_token(parsed.access_token)
    except (msgspec.ValidationError, ValueError):
        raise WebexUnavailable(f"{operation}: the answer holds no token", maybe_done=True) from None
    lifetime = max(60.0, min(parsed.expires_in, 10.0**9))
    return Grant(
        refresh_token=parsed.refresh_token or before.refresh_token,
        configured=before.configured,
        access_token=token,
        expires=now + timedelta(seconds=lifetime),
        lifetime=lifetime,
    )


def load(path: Path) -> Grant | None:
    """The grant that the file keeps, None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_FILE_BYTES), type=Grant)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def save(path: Path, grant: Grant) -> None:
    """Replace ``path`` as a whole; whoever reads it sees the old or the new content. Its mode is 0600.

    Raises OSError.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".token-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(grant))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
