"""Guests of a Service App, and links into meetings.

Webex, "Guest Management" and Meetings API, "Join a Meeting".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from service.sandbox.documents import Documents
from service.sandbox.records import GuestRecord, Identity, LinkRecord, TokenRecord
from service.sandbox.refusals import invalid, not_found
from service.sandbox.tokens import Tokens

#: Guest tokens "usually are over 2000 characters in length".
TOKEN_LENGTH = 2_048

DEFAULT_MINUTES = 15


class Guests:
    """Who was ever given a token, by subject."""

    def __init__(self, documents: Documents, identity: Identity, tokens: Tokens) -> None:
        self._documents = documents
        self._identity = identity
        self._tokens = tokens
        self._guests = documents.read("guest", GuestRecord)

    def create(self, subject: str, name: str, *, org: str, seconds: int) -> dict[str, Any]:
        """``Guest``: the same person for the same subject, with one more token. Raises Refusal (400)."""
        if not subject or not name:
            raise invalid("subject and displayName are required.")
        key = f"{org}/{subject}"
        known = self._guests.get(key) or GuestRecord(
            n=self._documents.count(guests=1).guests, subject=subject, name=name
        )
        self._guests[key] = msgspec.structs.replace(known, name=name)
        self._documents.put("guest", key, self._guests[key])
        return {
            "id": self._identity.public_id("PEOPLE", known.n),
            "subject": subject,
            "displayName": name,
            "email": f"{self._identity.uuid('guest', known.n)}@appid.ciscospark.com",
            "accessToken": self._token(known, org=org, seconds=seconds),
            "expiresIn": seconds,
        }

    def _token(self, guest: GuestRecord, *, org: str, seconds: int) -> str:
        like = TokenRecord(kind="access", expires=self._identity.created, org=org, scopes=())
        short = f"{self._identity.digest('guest', guest.n)}{self._documents.counters.tokens + 1:012d}"
        return self._tokens.add(like, kind="access", seconds=seconds, text=short.ljust(TOKEN_LENGTH, "0"))

    def count(self, *, org: str) -> int:
        """How many there are in an organisation."""
        return sum(key.startswith(f"{org}/") for key in self._guests)


class Links:
    """Links into meetings. One that has expired is forgotten when it is next used."""

    def __init__(self, documents: Documents, identity: Identity, *, now: Callable[[], datetime]) -> None:
        self._documents = documents
        self._identity = identity
        self._now = now
        self._links = documents.read("link", LinkRecord)

    def make(self, meeting: str, *, host: bool, minutes: float) -> tuple[str, datetime]:
        """The end of a link's path, and when it expires."""
        n = self._documents.count(tokens=1).tokens
        token, expires = self._identity.digest("link", n), self._now() + timedelta(minutes=minutes)
        self._links[token] = LinkRecord(meeting=meeting, host=host, expires=expires)
        self._documents.put("link", token, self._links[token])
        return token, expires

    def find(self, token: str) -> LinkRecord:
        """Raises Refusal (404) where it is none, or expired."""
        link = self._links.get(token)
        if link is None or link.expires <= self._now():
            raise not_found("The link is not valid or has expired.")
        return link


def minutes(body: Mapping[str, Any]) -> float:
    """``expirationMinutes``. Raises Refusal (400) unless it is 1 to 60."""
    given = body.get("expirationMinutes", DEFAULT_MINUTES)
    if not 1 <= given <= 60:
        raise invalid("expirationMinutes must be between 1 and 60.")
    return float(given)
