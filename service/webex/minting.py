"""Tokens of a Service App for the organisations that authorised it.

Facts: "Service Apps" guide and ``createServiceAppAccessToken`` of Webex's OpenAPI: whoever asks needs the token of an
integration with the scope ``spark:applications_token``; the answer is a token pair like any other, so it is refreshed with
the app's own id and secret. An administrator who withdraws the consent ends both tokens; consent given again needs a
new pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from service.core.errors import WebexError, WebexUnauthorized
from service.core.organizations import organization_id, wire_id
from service.webex.applications import create_service_app_token
from service.webex.client import WebexClient
from service.webex.objects import ServiceAppToken
from service.webex.tokens import Credential, Grant, OAuth, RenewedToken
from service.webex.tokens.grants import granted
from service.webex.tokens.sources import digest, version_of

_OPERATION = "applications.token"


@dataclass(frozen=True, kw_only=True)
class ServiceApp:
    """A Service App as the developer portal shows it. ``client_secret`` may change while we run."""

    application_id: str
    client_id: str
    client_secret: Callable[[], str] = field(repr=False)


class Mint:
    """Asks for tokens of one app, with the token of the integration that may."""

    def __init__(
        self, app: ServiceApp, *, caller: Credential, client: Callable[[], AbstractAsyncContextManager[WebexClient]]
    ) -> None:
        """``client`` opens one that calls with the token of ``caller``; it is needed about once a fortnight."""
        self.app, self._caller, self._client = app, caller, client

    def __repr__(self) -> str:
        return f"Mint(application_id={self.app.application_id!r})"

    async def token(self, organization: str) -> ServiceAppToken:
        """A new token pair for one organisation. Raises WebexError."""
        async with self._client() as client:
            return await create_service_app_token(
                client,
                self.app.application_id,
                {
                    "clientId": self.app.client_id,
                    "clientSecret": self.app.client_secret(),
                    "targetOrgId": wire_id(organization),
                },
            )

    def version(self) -> str:
        """Changes when the app's secret or the caller's credential is replaced."""
        return digest(version_of(self.app.client_secret), self._caller.version())


class _Issuer:
    """Refreshes what was minted, and mints where there is nothing to refresh, or that is refused."""

    def __init__(self, mint: Mint, oauth: OAuth, organization: str, now: Callable[[], datetime]) -> None:
        self._mint, self._oauth, self._organization, self._now = mint, oauth, organization, now

    def __repr__(self) -> str:
        return f"{self._mint!r}, organization={organization_id(self._organization)!r}"

    def origin(self) -> Grant:
        app = self._mint.app
        mine = digest(app.application_id, app.client_id, organization_id(self._organization))
        return Grant(refresh_token="", configured=mine)

    async def issue(self, before: Grant, *, anew: bool) -> Grant:
        if before.refresh_token and not anew:
            try:
                return await self._oauth.refreshed(before)
            except WebexError as error:
                if not _is_refused(error):
                    raise
        answer = await self._mint.token(self._organization)
        return granted(answer, before=before, now=self._now(), operation=_OPERATION)

    def version(self) -> str:
        return self._mint.version()


def _is_refused(error: WebexError) -> bool:
    """OAuth's invalid_grant and invalid_client (RFC 6749 §5.2) come as 400 and 401."""
    return isinstance(error, WebexUnauthorized) or error.status == 400


class MintedToken(RenewedToken):
    """The access tokens of a Service App for one organisation."""

    def __init__(
        self,
        mint: Mint,
        oauth: OAuth,
        *,
        organization: str,
        persist: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``oauth`` has the app's id and secret. Raises ValueError where ``organization`` is no organisation's id."""
        wire_id(organization)
        super().__init__(_Issuer(mint, oauth, organization, now), persist=persist, now=now, monotonic=monotonic)
