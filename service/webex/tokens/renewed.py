"""Tokens that are issued to us: one issue at a time, before the old one ends and after a 401."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from service.core.errors import WebexError, WebexThrottled, WebexUnauthorized, WebexUnavailable
from service.webex.tokens import grants
from service.webex.tokens.grants import Grant

_COOL_DOWN = 5.0
_COOL_DOWN_REFUSED = 60.0


class Issuer(Protocol):
    """Who gives tokens for one configured credential."""

    def origin(self) -> Grant:
        """Where a grant of the present configuration begins: its ``configured``, and the refresh token if there is one.

        Raises WebexUnauthorized where the configuration cannot be read.
        """
        ...

    async def issue(self, before: Grant, *, anew: bool) -> Grant:
        """The next grant; ``anew``: without relying on the one before. Raises WebexError."""
        ...

    def version(self) -> str:
        """Changes whenever an operator replaced something of the configuration."""
        ...


class RenewedToken:
    """Gets access tokens from an issuer, one issue at a time, before the old one ends.

    ``persist`` holds what the last issue gave (mode 0600, replaced atomically). After a failure nothing is asked for some
    seconds, unless the configuration changed meanwhile. When it changed, the token of the one before is used until the new
    one has given one.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        persist: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._persist = issuer, persist
        self._now, self._monotonic = now, monotonic
        self._grant: Grant | None = None
        self._renewing: asyncio.Task[WebexError | None] | None = None
        self._failure: WebexError | None = None
        self._failed_version = ""
        self._not_before = monotonic()
        self._log = structlog.get_logger()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._issuer!r})"

    async def get(self) -> str:
        """The access token, replaced where it is near its end or of an older configuration.

        Raises a WebexError where there is none that could work.
        """
        grant = self._known()
        if not grant.fresh_at(self._now()) or not self._is_ours(grant):
            failure = await self._renewed()
            grant = self._known()
            if failure is not None and not grant.usable_at(self._now()):
                raise failure.with_traceback(None)
        return grant.access_token

    async def refresh(self, rejected: str) -> bool:
        """Get another token than ``rejected``, unless somebody did already.

        False where Webex refuses to give one.
        """
        if self._known().access_token not in ("", rejected):
            return True
        failure = await self._renewed()
        if failure is not None and not isinstance(failure, WebexUnauthorized):
            raise failure.with_traceback(None)
        return failure is None

    async def renew(self) -> None:
        """Have a token that was issued after this call, whatever failed before. Raises WebexError."""
        if self._renewing is not None:
            await asyncio.shield(self._renewing)  # it may have asked before the consent came back
        self._failure = None
        failure = await self._renewed(anew=True)
        if failure is not None:
            raise failure.with_traceback(None)

    def version(self) -> str:
        """Changes whenever an operator replaced something of the configuration."""
        return self._issuer.version()

    def expires(self) -> datetime | None:
        """When the access token ends; None as long as none was used."""
        return self._grant.expires if self._grant is not None else None

    def _known(self) -> Grant:
        if self._grant is None:
            origin, stored = self._issuer.origin(), grants.load(self._persist)
            self._grant = stored if stored and stored.configured == origin.configured else origin
        return self._grant

    def _is_ours(self, grant: Grant) -> bool:
        try:
            return grant.configured == self._issuer.origin().configured
        except WebexUnauthorized:
            return True  # the files cannot be read now: nothing better is known

    async def _renewed(self, *, anew: bool = False) -> WebexError | None:
        """One issue for everybody who waits; it is not cancelled with them, for its answer may hold the only refresh
        token.
        """
        if self._renewing is None:
            if self._failure is not None and self._cooling():
                return self._failure
            self._renewing = asyncio.create_task(self._renew(anew=anew))
            self._renewing.add_done_callback(self._ended)
        return await asyncio.shield(self._renewing)

    def _cooling(self) -> bool:
        return self._monotonic() < self._not_before and self._issuer.version() == self._failed_version

    def _ended(self, _: asyncio.Task[WebexError | None]) -> None:
        self._renewing = None

    async def _renew(self, *, anew: bool) -> WebexError | None:
        self._failure = None
        version = self._issuer.version()
        try:
            grant = await self._issued(anew=anew)
        except WebexError as error:
            failure = _as_credential(error)
            self._cool_down(failure, version)
            return failure
        self._grant = grant
        self._log.info("token.refreshed", expires=grant.expires)
        await self._store(grant)
        return None

    async def _issued(self, *, anew: bool) -> Grant:
        origin, known = self._issuer.origin(), self._known()
        before = known if known.configured == origin.configured else origin
        stored = await asyncio.to_thread(grants.load, self._persist)
        if stored is not None and _succeeds(stored, before):
            if not anew:
                return stored  # another process of this operator renewed it; what it was given replaces what we have
            before = stored
        return await self._issuer.issue(before, anew=anew)

    def _cool_down(self, error: WebexError, version: str) -> None:
        refused = isinstance(error, WebexUnauthorized)
        seconds = error.retry_after or (_COOL_DOWN_REFUSED if refused else _COOL_DOWN)
        self._failure, self._not_before = error, self._monotonic() + seconds
        self._failed_version = version
        self._log.error("token.refresh_failed", error=type(error).__name__, status=error.status)

    async def _store(self, grant: Grant) -> None:
        try:
            await asyncio.to_thread(grants.save, self._persist, grant)
        except OSError as error:  # what we have in memory still works; the next issue tries to store again
            self._log.error("token.not_stored", error=type(error).__name__)


def _succeeds(stored: Grant, ours: Grant) -> bool:
    """Whether ``stored`` is of the same configuration, and was given later."""
    if stored.configured != ours.configured or stored.access_token in ("", ours.access_token):
        return False
    return ours.expires is None or (stored.expires is not None and stored.expires > ours.expires)


def _as_credential(error: WebexError) -> WebexError:
    """What failed is the credential, and never the meeting that somebody wanted to look at: no 404 of a token endpoint may
    be taken for that of a meeting.
    """
    if isinstance(error, WebexUnauthorized | WebexThrottled | WebexUnavailable):
        return error
    refused = error.status is not None and 400 <= error.status < 500
    kind = WebexUnauthorized if refused else WebexUnavailable
    return kind(str(error), status=error.status, tracking_id=error.tracking_id, maybe_done=error.maybe_done)
