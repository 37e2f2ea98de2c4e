"""What the simulated Webex remembers: frozen values, stored as JSON."""

from __future__ import annotations

import base64
import enum
import hashlib
import uuid
from datetime import datetime
from typing import Any

import msgspec

HOST_EMAIL = "host@example.com"
SITE_URL = "example.webex.com"


class Stage(enum.StrEnum):
    """Where a meeting stands. A series with occurrences to come is ``scheduled`` again after each of them."""

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

    def public_id(self, kind: str, n: int = 0, *, region: str = "us") -> str:
        """The base64 form in which Webex shows people, organisations and webhooks (``ciscospark://us/PEOPLE/…``)."""
        type_ = kind.partition("/")[0]
        path = f"{kind}/{self.uuid(kind)}" if n == 0 else f"{type_}/{self.uuid(kind, n)}"
        return base64.b64encode(f"ciscospark://{region}/{path}".encode()).decode().rstrip("=")

    @property
    def organization(self) -> str:
        """The id of the organisation to which everything belongs that was not done for another one."""
        return self.public_id("ORGANIZATION")


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A meeting that is or was held; ``end`` is None while it is in progress."""

    id: str
    occurrence: str
    start: datetime
    end: datetime | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One occurrence of a recurring series that differs from it."""

    settings: dict[str, Any]
    start: datetime
    end: datetime


class MeetingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A series. ``settings`` are the fields that were given, by Webex's names; ``start`` and ``end`` of its first occurrence.

    ``org``: the organisation of whoever scheduled it, "" for the world's own. ``before`` is the meeting as it was until
    ``changed``: what a lagging read still shows. ``modified`` and ``cancelled`` go by the ids of occurrences.
    """

    id: str
    n: int
    settings: dict[str, Any]
    start: datetime
    end: datetime
    created: datetime
    stage: Stage = Stage.SCHEDULED
    org: str = ""
    host: str = HOST_EMAIL
    app: str = ""
    instances: tuple[Instance, ...] = ()
    modified: dict[str, Change] = {}
    cancelled: tuple[str, ...] = ()
    changed: datetime | None = None
    before: MeetingRecord | None = None

    @property
    def occurrence(self) -> str:
        """The id of the first scheduled occurrence."""
        return occurrence_id(self.id, self.start)

    @property
    def instance(self) -> str:
        """The id of the instance that is or was held last, "" where there was none."""
        return self.instances[-1].id if self.instances else ""

    @property
    def registration(self) -> dict[str, Any] | None:
        """The registration form, or None where nobody can register."""
        return self.settings.get("registration")

    @property
    def number(self) -> str:
        """The meeting number."""
        return f"{2_550_000_000 + self.n}"

    @property
    def web_link(self) -> str:
        """The page with information about the meeting."""
        return f"https://{SITE_URL}/{SITE_URL.partition('.')[0]}/j.php?MTID=m{self.id}"

    @property
    def password(self) -> str:
        """The meeting's password."""
        return str(self.settings.get("password", "sandbox-password"))


def occurrence_id(series: str, start: datetime) -> str:
    """``<series>_<yyyymmddThhmmssZ>``."""
    return f"{series}_{start:%Y%m%dT%H%M%SZ}"


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


class MeetingEffects(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one meeting, counted; ``links`` are those of ``/meetings/join``; ``outbox`` as of :class:`Effects`."""

    created: int = 0
    updated: int = 0
    started: int = 0
    ended: int = 0
    deleted: int = 0
    links: int = 0
    outbox: dict[str, int] = {}


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One API call that was answered, and when by the world's clock.

    ``registrants`` is how many ids, e-mails or forms its body held.
    """

    n: int
    method: str
    operation_id: str
    meeting_id: str
    status: int
    registrants: int = 0
    send_email: bool | None = None
    dropped: bool = False
    at: datetime | None = None


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook to be delivered: ``data`` is the thin object; ``attempts`` were made and not answered 2xx.

    ``hook``: the registration for which it is, "" for the address that whoever runs the sandbox has named. ``meeting``: what
    it is about; notifications of one hook about the same thing keep their order, except one that is ``late`` by seconds
    or ``swapped`` with its follower.
    """

    n: int
    event: str
    meeting: str
    data: dict[str, Any]
    attempts: int = 0
    resource: str = "meetings"
    org: str = ""
    hook: str = ""
    late: float = 0.0
    swapped: bool = False


class WebhookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook that somebody registered. ``failures``: when its latest attempts failed; ``disabled``: since when."""

    id: str
    n: int
    name: str
    target_url: str
    resource: str
    event: str
    created: datetime
    filter: str = ""
    secret: str = ""
    owned_by: str = "creator"
    org: str = ""
    owner: str = HOST_EMAIL
    app: str = ""
    active: bool = True
    failures: tuple[datetime, ...] = ()
    disabled: datetime | None = None


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An access or refresh token that was issued here. ``scopes`` None: all; ``app``: the Service App whose it is."""

    kind: str
    expires: datetime
    org: str = ""
    scopes: tuple[str, ...] | None = None
    app: str = ""
    email: str = HOST_EMAIL
    client: str = ""


class GuestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A guest of a Service App."""

    n: int
    subject: str
    name: str


class LinkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A link into a meeting, for its host or for somebody else."""

    meeting: str
    host: bool
    expires: datetime


class ClockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``shown`` was shown at the moment ``real``; since then time passes ``speed`` times as fast."""

    real: datetime
    shown: datetime
    speed: float = 1.0


class Limits(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What the control route ``/sandbox/limits`` sets; seconds.

    ``licence``: meetings of one organisation that may be in progress at once. ``meetings_per_day``: what one organisation
    may schedule in 24 hours. ``lag``: how far behind all reads are. ``rotate_refresh_tokens``: each refresh gives a new
    refresh token and ends the old one.
    """

    licence: int | None = None
    meetings_per_day: int | None = None
    lag_seconds: float = 0.0
    access_token_seconds: int = 1_209_599
    refresh_token_seconds: int = 7_776_000
    guest_token_seconds: int = 64_799
    rotate_refresh_tokens: bool = False


class Unauthorized(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation that has withdrawn its consent to a Service App."""

    since: datetime


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """When an organisation last tried to schedule meetings."""

    moments: tuple[datetime, ...] = ()


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
    instances: int = 0
    webhooks: int = 0
    tokens: int = 0
    guests: int = 0


class Tally(msgspec.Struct, frozen=True):
    """How often."""

    count: int = 0
