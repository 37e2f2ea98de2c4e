"""What the client asks for a token, and the two sources that only hold one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from service.core.errors import WebexUnauthorized
from service.webex.tokens.files import SecretFile, checked_token


class TokenSource(Protocol):
    """What the client asks for a token."""

    async def get(self) -> str:
        """The token to use now. Raises a WebexError where there is none."""
        ...

    async def refresh(self, rejected: str) -> bool:
        """Webex answered 401 to ``rejected``: whether :meth:`get` has another one now.

        Raises a WebexError where that cannot be known yet.
        """
        ...


class Credential(TokenSource, Protocol):
    """A source whose organisation may lose its consent, and get it back."""

    async def renew(self) -> None:
        """Have a token that was issued after this call, where the source can ask for one. Raises WebexError."""
        ...

    def version(self) -> str:
        """Changes whenever an operator replaced what the tokens come from. A hash; raises nothing."""
        ...

    def expires(self) -> datetime | None:
        """When the token in use ends; None where nobody knows."""
        ...


def digest(*parts: str) -> str:
    """One hash for several texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class StaticToken:
    """One token, for as long as the process lives."""

    def __init__(self, value: str) -> None:
        self._value = checked_token(value)

    def __repr__(self) -> str:
        return "StaticToken(***)"

    async def get(self) -> str:
        """The token."""
        return self._value

    async def refresh(self, rejected: str) -> bool:  # noqa: ARG002 - TokenSource's
        """Never: there is no other."""
        return False

    async def renew(self) -> None:
        """There is no other."""

    def version(self) -> str:
        """Always the same."""
        return ""

    def expires(self) -> datetime | None:
        """Nobody told us."""
        return None


class FileToken:
    """A token in a file that somebody else replaces: see :class:`SecretFile`."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = SecretFile(path, monotonic=monotonic)

    def __repr__(self) -> str:
        return f"FileToken({self._file!r})"

    async def get(self) -> str:
        """The token. Raises WebexUnauthorized where the file has never held one."""
        return self._file()

    async def refresh(self, rejected: str) -> bool:
        """Look at the file at once."""
        self._file.look_anew()
        return self._file() != rejected

    async def renew(self) -> None:
        """Look at the file at once."""
        self._file.look_anew()

    def version(self) -> str:
        """Changes with the token."""
        return version_of(self._file)

    def expires(self) -> datetime | None:
        """Nobody told us."""
        return None


def version_of(*secrets: Callable[[], str]) -> str:
    """Changes when one of ``secrets`` does; "" while one of them cannot be had."""
    try:
        return digest(*(secret() for secret in secrets))
    except WebexUnauthorized:
        return ""
