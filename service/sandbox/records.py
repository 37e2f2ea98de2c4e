"""What the simulated Webex remembers: frozen values, stored as JSON."""

from __future__ import annotations

import base64
import enum
import hashlib
import uuid
from datetime import datetime
from typing import Any

import msgspec


class Stage(enum.StrEnum):
    """Where the one occurrence of a meeting stands."""

    SCHEDULED = "scheduled"
    IN_PROGRESS = "inProgress"
    ENDED = "ended"


class Status(enum.StrEnum):
    """A registrant's status; Webex has these three only."""

    APPROVED = "approved"
    PENDING = "pending"
    REJECTED = "rejected"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this Webex is. Every id comes from ``seed``, so that two sandboxes never share one by accident."""

    seed: str
    created: datetime

    def digest(self, kind: str, n: int = 0) -> str:
        """32 hex digits: equal for the same seed, kind and number."""
        return hashlib.sha256(f"{self.seed}/{kind}/{n}".encode()).hexdigest()[:32]

    def uuid(self, kind: str, n: int = 0) -> str:
        """A UUID: equal for the same seed, kind and number."""
        return str(uuid.UUID(hex=self.digest(kind, n)))

    def public_id(self, kind: str, *, region: str = "us") -> str:
        """The base64 form in which Webex shows people, organisations and webhooks (``ciscospark://us/PEOPLE/…``)."""
        return base64.b64encode(f"ciscospark://{region}/{kind}/{self.uuid(kind)}".encode()).decode().rstrip("=")


class MeetingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A series with one occurrence. ``settings`` are the fields that were given, by Webex's names."""

    id: str
    n: int
    settings: dict[str, Any]
    start: datetime
    end: datetime
    created: datetime
    stage: Stage = Stage.SCHEDULED
    instance: str = ""

    @property
    def occurrence(self) -> str:
        """The id of the scheduled occurrence."""
        return f"{self.id}_{self.start:%Y%m%dT%H%M%SZ}"

    @property
    def registration(self) -> dict[str, Any] | None:
        """The registration form, or None where nobody can register."""
        return self.settings.get("registration")


class RegistrantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One who registered. ``previous`` is the status before ``changed``: what a lagging list still shows."""

    id: str
    n: int
    meeting: str
    form: dict[str, Any]
    status: Status
    registered: datetime
    previous: Status
    changed: datetime

    @property
    def email(self) -> str:
        """The address as it is compared."""
        return str(self.form["email"]).casefold()


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one registrant, counted.

    ``approved`` and ``rejected`` count transitions out of pending, ``cancelled`` those back to it, ``repeated`` the calls
    that changed nothing; ``outbox`` counts mails by what caused them.
    """

    meeting: str
    approved: int = 0
    rejected: int = 0
    cancelled: int = 0
    repeated: int = 0
    other: int = 0
    outbox: dict[str, int] = {}


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One API call that was answered. ``registrants`` is how many ids, e-mails or forms its body held."""

    n: int
    method: str
    operation_id: str
    meeting_id: str
    status: int
    registrants: int = 0
    send_email: bool | None = None
    dropped: bool = False


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook to be delivered: ``data`` is the thin object; ``attempts`` were made and not answered 2xx."""

    n: int
    event: str
    meeting: str
    data: dict[str, Any]
    attempts: int = 0


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ever counted; none of them goes back."""

    meetings: int = 0
    registered: int = 0
    updates: int = 0
    calls: int = 0
    notifications: int = 0
    attempts: int = 0
    delivered: int = 0
    failed: int = 0


class Tally(msgspec.Struct, frozen=True):
    """How often."""

    count: int = 0
