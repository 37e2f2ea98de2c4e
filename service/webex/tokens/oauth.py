"""Tokens by OAuth's refresh grant (RFC 6749 §6), as an integration or a Service App has them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from service.webex.protocol import Answer, checked_base_url, decipher
from service.webex.tokens.grants import Grant, granted
from service.webex.tokens.renewed import RenewedToken
from service.webex.tokens.sources import digest, version_of
from service.webex.transport import Timeouts, Transport, exchange, unreachable

_ANSWER_BYTES = 65_536
_REFRESH_SECONDS = 20.0
_OPERATION = "tokens.refresh"

#: A secret that may change while we run; raises WebexUnauthorized where it cannot be had.
Secret = Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """An integration at Webex, and the refresh token that its owner was given."""

    client_id: str
    client_secret: Secret = field(repr=False)
    refresh_token: Secret = field(repr=False)
    token_url: str = "https://webexapis.com/v1/access_token"  # noqa: S105 - an address
    allow_http: bool = False


class OAuth:
    """The token endpoint, asked with the id and secret of one client."""

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: Secret,
        token_url: str,
        allow_http: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        transport: Callable[[], httpx.AsyncBaseTransport] = lambda: Transport(connections=1),
    ) -> None:
        """Raises ValueError for a ``token_url`` that is neither https nor http on loopback."""
        self._url = checked_base_url(token_url, allow_http=allow_http)
        self._client_id, self._client_secret = client_id, client_secret
        self._now, self._transport = now, transport

    def __repr__(self) -> str:
        return f"OAuth(client_id={self._client_id!r})"

    async def refreshed(self, before: Grant) -> Grant:
        """The grant that Webex gives for the refresh token of ``before``. Raises WebexError."""
        answer = self._deciphered(await self._ask(before.refresh_token))
        return granted(answer, before=before, now=self._now(), operation=_OPERATION)

    async def _ask(self, refresh_token: str) -> Answer:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._client_id,
            "client_secret": self._client_secret(),
            "refresh_token": refresh_token,
        }
        request = httpx.Request("POST", self._url, data=form, headers={"Accept": "application/json"})
        transport = self._transport()
        try:
            return await exchange(transport, request, seconds=_REFRESH_SECONDS, timeouts=Timeouts(), cap=_ANSWER_BYTES)
        except (httpx.RequestError, OSError) as error:
            raise unreachable(error, operation=_OPERATION) from None
        finally:
            await transport.aclose()

    def _deciphered(self, answer: Answer) -> Any:
        return decipher(answer.status, answer.headers, answer.body, now=self._now(), operation=_OPERATION)


class _Refresh:
    """An issuer that begins with a configured refresh token."""

    def __init__(self, credentials: Credentials, oauth: OAuth) -> None:
        self._credentials, self._oauth = credentials, oauth

    def __repr__(self) -> str:
        return f"client_id={self._credentials.client_id!r}"

    def origin(self) -> Grant:
        token = self._credentials.refresh_token()
        return Grant(refresh_token=token, configured=digest(token))

    async def issue(self, before: Grant, *, anew: bool) -> Grant:  # noqa: ARG002 - there is no other way
        return await self._oauth.refreshed(before)

    def version(self) -> str:
        return version_of(self._credentials.client_secret, self._credentials.refresh_token)


class RefreshingToken(RenewedToken):
    """The access tokens of an integration."""

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
        oauth = OAuth(
            client_id=credentials.client_id,
            client_secret=credentials.client_secret,
            token_url=credentials.token_url,
            allow_http=credentials.allow_http,
            now=now,
            transport=transport,
        )
        super().__init__(_Refresh(credentials, oauth), persist=persist, now=now, monotonic=monotonic)
