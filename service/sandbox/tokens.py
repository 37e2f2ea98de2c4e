"""Access tokens: who calls, what they may, and until when.

Webex, "Integrations" (``POST /v1/access_token``) and "Service Apps". A token that nobody issued here is taken as that of a
host who is an administrator too, unless the sandbox was given the only one to take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from service.sandbox.documents import Documents
from service.sandbox.records import HOST_EMAIL, Identity, Limits, TokenRecord, Unauthorized
from service.sandbox.refusals import Refusal


@dataclass(frozen=True)
class Caller:
    """Who calls. ``scopes`` None: all of them; ``app``: the Service App that it is, "" for a person."""

    org: str = ""
    email: str = HOST_EMAIL
    app: str = ""
    scopes: frozenset[str] | None = None

    def may(self, *scopes: str) -> bool:
        """Whether one of ``scopes`` was granted."""
        return self.scopes is None or not self.scopes.isdisjoint(scopes)

    @property
    def administers(self) -> bool:
        """Whether it may act for other hosts."""
        return self.scopes is None or any(":admin_" in scope for scope in self.scopes)


class Tokens:
    """What was issued. Changes become durable with the world's next commit."""

    def __init__(
        self,
        documents: Documents,
        identity: Identity,
        *,
        now: Callable[[], datetime],
        limits: Callable[[], Limits],
    ) -> None:
        self._documents = documents
        self._identity = identity
        self._now = now
        self._limits = limits
        self._tokens = documents.read("token", TokenRecord)
        self._withdrawn = documents.read("unauthorized", Unauthorized)

    def caller(self, token: str, *, only: str | None) -> Caller:
        """Who has this access token; ``only``: the one that is taken though it was not issued here. Raises Refusal (401)."""
        known = self._tokens.get(token)
        if known is None:
            if only is not None and token != only:
                raise unauthorized()
            return Caller()
        if known.kind != "access" or known.expires <= self._now():
            raise unauthorized()
        scopes = None if known.scopes is None else frozenset(known.scopes)
        return Caller(org=known.org, email=known.email, app=known.app, scopes=scopes)

    def issue(self, like: TokenRecord) -> dict[str, Any]:
        """A pair for whoever ``like`` says, with Webex's names."""
        limits = self._limits()
        return {
            "access_token": self.add(like, kind="access", seconds=limits.access_token_seconds),
            "expires_in": limits.access_token_seconds,
            "refresh_token": self.add(like, kind="refresh", seconds=limits.refresh_token_seconds),
            "refresh_token_expires_in": limits.refresh_token_seconds,
            "token_type": "Bearer",
        }

    def add(self, like: TokenRecord, *, kind: str, seconds: float, text: str = "") -> str:
        """One token: ``text``, or a new one."""
        n = self._documents.count(tokens=1).tokens
        token = text or self._identity.digest(f"token/{kind}", n) + self._identity.digest("token/more", n)
        expires = self._now() + timedelta(seconds=seconds)
        self._keep(token, msgspec.structs.replace(like, kind=kind, expires=expires))
        return token

    def refresh(self, form: Mapping[str, str]) -> dict[str, Any]:
        """``POST /v1/access_token``. Raises Refusal: 400 for the form or the refresh token, 401 for the client."""
        if form.get("grant_type") != "refresh_token" or not form.get("client_id") or not form.get("client_secret"):
            raise Refusal(400, "grant_type must be refresh_token; client_id and client_secret are required.")
        text = form.get("refresh_token", "")
        known = self._tokens.get(text)
        if known is None or known.kind != "refresh" or known.expires <= self._now():
            raise Refusal(400, "The refresh token provided is expired, revoked, malformed, or invalid.")
        if known.client and known.client != f"{form['client_id']}:{form['client_secret']}":
            raise Refusal(401, "The client is not authorized.")
        return self._renewed(text, known)

    def _renewed(self, text: str, known: TokenRecord) -> dict[str, Any]:
        """A new access token; the refresh token is as if new, or a new one where the limits say so."""
        limits = self._limits()
        if limits.rotate_refresh_tokens:
            self._keep(text, None)
            return self.issue(known)
        self.add(known, kind="refresh", seconds=limits.refresh_token_seconds, text=text)
        return {
            "access_token": self.add(known, kind="access", seconds=limits.access_token_seconds),
            "expires_in": limits.access_token_seconds,
            "refresh_token": text,
            "refresh_token_expires_in": limits.refresh_token_seconds,
            "token_type": "Bearer",
        }

    def issue_for_app(self, app: str, *, org: str, client: str) -> dict[str, Any]:
        """The pair of a Service App for an organisation. Raises Refusal (403) where that has withdrawn its consent."""
        if org in self._withdrawn:
            raise Refusal(403, "The Service App is not authorized by this organization.")
        own = "" if org == self._identity.organization else org
        like = TokenRecord(
            kind="access", expires=self._now(), org=own, app=app, email=machine_account(app), client=client
        )
        return self.issue(like)

    def withdraw(self, org: str) -> None:
        """An organisation withdraws its consent: no new tokens, and those of Service Apps end now."""
        own = "" if org == self._identity.organization else org
        self._withdrawn[org] = Unauthorized(since=self._now())
        self._documents.put("unauthorized", org, self._withdrawn[org])
        self.revoke([text for text, token in self._tokens.items() if token.app and token.org == own])

    def consent(self, org: str) -> None:
        """An organisation gives its consent, again or for the first time."""
        self._withdrawn.pop(org, None)
        self._documents.put("unauthorized", org, None)

    def revoke(self, tokens: Sequence[str]) -> None:
        """These are not taken any more: they stay known, as expired."""
        for token in tokens:
            like = self._tokens.get(token) or TokenRecord(kind="access", expires=self._now())
            self._keep(token, msgspec.structs.replace(like, expires=self._now()))

    def _keep(self, token: str, record: TokenRecord | None) -> None:
        if record is None:
            self._tokens.pop(token, None)
        else:
            self._tokens[token] = record
        self._documents.put("token", token, record)


def machine_account(app: str) -> str:
    """The address of a Service App's machine account: the host of what it schedules."""
    return f"service-app-{app[-6:].lower() or 'x'}@example.com" if app else HOST_EMAIL


def unauthorized() -> Refusal:
    """401."""
    return Refusal(401, "The request requires a valid access token set in the Authorization request header.")


def forbidden(description: str) -> Refusal:
    """403."""
    return Refusal(403, "The server understood the request, but refused to fulfill it.", description)
