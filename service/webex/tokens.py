"""Where the access token comes from. No token or client secret is ever in a ``repr``, an error or a log.

Facts: "Integrations" and "Service Apps" guides: ``POST /v1/access_token`` with a form; access tokens live 14 days,
refresh tokens 90, and what counts is ``expires_in``; a refresh may replace the refresh token too, so that the old one
must be thought dead.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import structlog

from service.core.errors import WebexError, WebexRejected, WebexUnauthorized
from service.webex.protocol import Answer, checked_base_url, decipher
from service.webex.transport import Timeouts, Transport, exchange, unreachable

#: Seconds between two looks at a token file.
FILE_CHECK = 10.0

#: How long before its end an access token is replaced; a tenth of its life where that is shorter.
EARLY = timedelta(minutes=10)

_FILE_BYTES = 16_384
_ANSWER_BYTES = 65_536
_REFRESH_SECONDS = 20.0
_COOL_DOWN = 5.0
_COOL_DOWN_REFUSED = 60.0
_OPERATION = "tokens.refresh"


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


def checked_token(value: str) -> str:
    """``value`` without the white space around it.

    Raises ValueError (which does not show it) unless it can stand in a header.
    """
    token = value.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("the access token is empty, or has characters that no token has")
    return token


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


class FileToken:
    """A token in a file that somebody else replaces. It is read again when it changed; a change is seen within
    ``FILE_CHECK`` seconds.

    While the file is missing, empty or unreadable the last good token stays in use.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic = path, monotonic
        self._value = ""
        self._stamp: tuple[int, int, int] | None = None
        self._next_check = monotonic()
        self._log = structlog.get_logger()

    def __repr__(self) -> str:
        return f"FileToken({self._path.name!r})"

    async def get(self) -> str:
        """The token. Raises WebexUnauthorized where the file has never held one."""
        if not self._value or self._monotonic() >= self._next_check:
            self._look()
        if not self._value:
            raise WebexUnauthorized("The token file cannot be read, or holds no token")
        return self._value

    async def refresh(self, rejected: str) -> bool:
        """Look at the file at once."""
        self._stamp = None
        self._look()
        return bool(self._value) and self._value != rejected

    def _look(self) -> None:
        self._next_check = self._monotonic() + FILE_CHECK
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._value, self._stamp = _read_token(self._path), stamp
        except (OSError, ValueError) as error:
            self._log.warning("token.file_unreadable", error=type(error).__name__)


def _read_token(path: Path) -> str:
    with path.open("rb") as file:
        return checked_token(file.read(_FILE_BYTES).decode("ascii"))


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh gave. ``configured`` tells from which configured refresh token it descends (a hash): a new one
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
        return self.expires is not None and now < self.expires - early

    def usable_at(self, now: datetime) -> bool:
        """Whether the access token has not ended yet."""
        return bool(self.access_token) and self.expires is not None and now < self.expires


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """An integration or Service App at Webex, and the refresh token that its owner was given."""

    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    token_url: str = "https://webexapis.com/v1/access_token"  # noqa: S105 - an address
    allow_http: bool = False


class RefreshingToken:
    """Gets access tokens with a refresh token, one refresh at a time, before the old one ends.

    ``persist`` holds what the last refresh gave (mode 0600, replaced atomically): a refresh token that Webex replaced
    exists nowhere else, and a process that refreshed at each start would use up Webex's 750 live tokens. After a
    failure nothing is asked for some seconds.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        persist: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        transport: Callable[[], httpx.AsyncBaseTransport] = lambda: Transport(connections=1),
    ) -> None:
        """Raises ValueError for a ``token_url`` that is neither https nor http on loopback."""
        self._url = checked_base_url(credentials.token_url, allow_http=credentials.allow_http)
        self._credentials, self._persist = credentials, persist
        self._now, self._monotonic, self._transport = now, monotonic, transport
        self._grant: Grant | None = None
        self._refreshing: asyncio.Task[WebexError | None] | None = None
        self._failure: WebexError | None = None
        self._not_before = monotonic()
        self._log = structlog.get_logger()

    def __repr__(self) -> str:
        return f"RefreshingToken(client_id={self._credentials.client_id!r})"

    async def get(self) -> str:
        """The access token, refreshed where it is near its end.

        Raises a WebexError where there is none that could work.
        """
        grant = self._known()
        if not grant.fresh_at(self._now()):
            failure = await self._refreshed()
            grant = self._known()
            if failure is not None and not grant.usable_at(self._now()):
                raise failure.with_traceback(None)
        return grant.access_token

    async def refresh(self, rejected: str) -> bool:
        """Get another token than ``rejected``, unless somebody did already.

        False where Webex refuses the refresh token.
        """
        if self._known().access_token not in ("", rejected):
            return True
        failure = await self._refreshed()
        if failure is not None and not isinstance(failure, WebexUnauthorized):
            raise failure.with_traceback(None)
        return failure is None

    def _known(self) -> Grant:
        if self._grant is None:
            mine = hashlib.sha256(self._credentials.refresh_token.encode()).hexdigest()
            stored = _load(self._persist)
            own = stored is not None and stored.configured == mine
            self._grant = (
                stored if stored and own else Grant(refresh_token=self._credentials.refresh_token, configured=mine)
            )
        return self._grant

    async def _refreshed(self) -> WebexError | None:
        """One refresh for everybody who waits; it is not cancelled with them, for its answer may hold the only
        refresh token.
        """
        if self._refreshing is None:
            if self._failure is not None and self._monotonic() < self._not_before:
                return self._failure
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._ended)
        return await asyncio.shield(self._refreshing)

    def _ended(self, _: asyncio.Task[WebexError | None]) -> None:
        self._refreshing = None

    async def _refresh(self) -> WebexError | None:
        self._failure = None
        try:
            grant = self._granted(await self._ask())
        except WebexError as error:
            self._cool_down(error)
            return error
        self._grant = grant
        self._log.info("token.refreshed", expires=grant.expires)
        await self._store(grant)
        return None

    def _cool_down(self, error: WebexError) -> None:
        refused = isinstance(error, WebexUnauthorized)
        seconds = error.retry_after or (_COOL_DOWN_REFUSED if refused else _COOL_DOWN)
        self._failure, self._not_before = error, self._monotonic() + seconds
        self._log.error("token.refresh_failed", error=type(error).__name__, status=error.status)

    async def _ask(self) -> Any:
        """The decoded answer of the token endpoint.

        Raises WebexUnauthorized where it refuses the refresh token (400, 401, 403).
        """
        transport = self._transport()
        try:
            answer = await exchange(
                transport, self._form(), seconds=_REFRESH_SECONDS, timeouts=Timeouts(), cap=_ANSWER_BYTES
            )
        except (httpx.RequestError, OSError) as error:
            raise unreachable(error, operation=_OPERATION) from None
        finally:
            await transport.aclose()
        return self._deciphered(answer)

    def _form(self) -> httpx.Request:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._credentials.client_id,
            "client_secret": self._credentials.client_secret,
            "refresh_token": self._known().refresh_token,
        }
        return httpx.Request("POST", self._url, data=form, headers={"Accept": "application/json"})

    def _deciphered(self, answer: Answer) -> Any:
        try:
            return decipher(answer.status, answer.headers, answer.body, now=self._now(), operation=_OPERATION)
        except WebexRejected as error:
            if error.status != 400:  # OAuth's invalid_grant and invalid_client (RFC 6749 §5.2)
                raise
            raise WebexUnauthorized(str(error), status=400, tracking_id=error.tracking_id) from None

    def _granted(self, answer: Any) -> Grant:
        try:
            parsed = msgspec.convert(answer, _TokenAnswer)
            token = checked_token(parsed.access_token)
        except (msgspec.ValidationError, ValueError):
            raise WebexRejected(f"{_OPERATION}: the answer holds no token") from None
        lifetime = max(60.0, min(parsed.expires_in, 10.0**9))
        return msgspec.structs.replace(
            self._known(),
            access_token=token,
            refresh_token=parsed.refresh_token or self._known().refresh_token,
            expires=self._now() + timedelta(seconds=lifetime),
            lifetime=lifetime,
        )

    async def _store(self, grant: Grant) -> None:
        try:
            await asyncio.to_thread(_save, self._persist, msgspec.json.encode(grant))
        except OSError as error:  # what we have in memory still works; the next refresh tries to store again
            self._log.error("token.not_stored", error=type(error).__name__)


class _TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float = 3600.0
    refresh_token: str = ""

    def __repr__(self) -> str:
        return "_TokenAnswer(***)"


def _load(path: Path) -> Grant | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_FILE_BYTES), type=Grant)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _save(path: Path, content: bytes) -> None:
    """Replace ``path`` as a whole; whoever reads it sees the old or the new content.

    The file is made with mode 0600.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".token-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
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
