"""Secrets in files that somebody else replaces while we run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from service.core.errors import WebexUnauthorized

#: Seconds between two looks at a file.
FILE_CHECK = 5.0

_FILE_BYTES = 16_384


def checked_token(value: str) -> str:
    """``value`` without the white space around it.

    Raises ValueError (which does not show it) unless it can stand in a header.
    """
    token = value.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("the access token is empty, or has characters that no token has")
    return token


class SecretFile:
    """A token, client secret or refresh token in a file: call it for the present one.

    The file is read again when it changed; a change is seen within ``FILE_CHECK`` seconds. While it is missing, empty or
    unreadable the last good content stays in use, and the log says so once.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic = path, monotonic
        self._value = ""
        self._stamp: tuple[int, int, int] | None = None
        self._complaint = ""
        self._next_check = monotonic()
        self._log = structlog.get_logger()

    def __repr__(self) -> str:
        return f"SecretFile({self._path.name!r})"

    def __call__(self) -> str:
        """The secret. Raises WebexUnauthorized where the file has never held one."""
        if not self._value or self._monotonic() >= self._next_check:
            self.look()
        if not self._value:
            raise WebexUnauthorized(f"{self._path.name}: the file cannot be read, or holds no token or secret")
        return self._value

    def look(self) -> None:
        """Look at the file now."""
        self._next_check = self._monotonic() + FILE_CHECK
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._value, self._stamp = _read(self._path), stamp
            self._complaint = ""
        except (OSError, ValueError) as error:
            self._complain(type(error).__name__)

    def look_anew(self) -> None:
        """Read the file now, also where it seems unchanged."""
        self._stamp = None
        self.look()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._log.warning("token.file_unreadable", file=self._path.name, error=complaint)
        self._complaint = complaint


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return checked_token(file.read(_FILE_BYTES).decode("ascii"))
