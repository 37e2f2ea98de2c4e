"""Registrants as Webex takes, lists and pages them. Pure: Meetings API, "List Meeting Registrants" and its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from service.sandbox.records import RegistrantRecord, Status
from service.sandbox.refusals import invalid

DEFAULT_WINDOW = timedelta(days=7)
LONGEST_WINDOW = timedelta(days=90)

_REQUIRED = ("firstName", "lastName", "email")


def form(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a registration that Webex keeps. Raises Refusal where a required one is missing or is no address."""
    for name in _REQUIRED:
        if not given.get(name):
            raise invalid(f"{name} is required.")
    if "@" not in given["email"]:
        raise invalid("email is not an e-mail address.")
    return {name: value for name, value in given.items() if name != "sendEmail"}


def shown(registrant: RegistrantRecord, *, changed_before: datetime) -> dict[str, Any]:
    """``Registrant``; a status changed after ``changed_before`` is not visible yet."""
    status = registrant.status if registrant.changed <= changed_before else registrant.previous
    return {
        "id": registrant.id,
        "status": str(status),
        **registrant.form,
        "registrationTime": f"{registrant.registered:%Y-%m-%dT%H:%M:%SZ}",
    }


def window(query: Mapping[str, str], *, now: datetime) -> tuple[datetime, datetime]:
    """From (inclusive) and to (exclusive) of a list: 7 days by default, 90 at most.

    With neither given it is the 7 days up to and including this second.
    """
    since, until = (_moment(query, name) for name in ("registrationTimeFrom", "registrationTimeTo"))
    try:
        if until is None:
            until = since + DEFAULT_WINDOW if since else now.replace(microsecond=0) + timedelta(seconds=1)
        since = since or until - DEFAULT_WINDOW
    except OverflowError as error:
        raise invalid("registrationTimeFrom or registrationTimeTo is out of range.") from error
    if since > until:
        raise invalid("registrationTimeFrom must not be after registrationTimeTo.")
    if until - since > LONGEST_WINDOW:
        raise invalid("The interval between registrationTimeFrom and registrationTimeTo must be within 90 days.")
    return since, until


def _moment(query: Mapping[str, str], name: str) -> datetime | None:
    if not query.get(name):
        return None
    try:
        moment = datetime.fromisoformat(query[name])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise invalid(f"{name} is not a date and time in ISO 8601.") from error


@dataclass(frozen=True)
class Page:
    """Some registrants, and the cursor of the next page ("" where there is none)."""

    items: Sequence[RegistrantRecord]
    following: str


def page(registrants: Iterable[RegistrantRecord], *, size: int, cursor: str) -> Page:
    """The page after ``cursor``, oldest registration first. A cursor names a place, so nothing is shown twice or skipped."""
    after = _place(cursor)
    ordered = sorted((r for r in registrants if _key(r) > after), key=_key)
    items = ordered[:size]
    following = "{}-{}".format(*_key(items[-1])) if len(ordered) > size else ""
    return Page(items, following)


def _key(registrant: RegistrantRecord) -> tuple[int, int]:
    return int(registrant.registered.timestamp()), registrant.n


def _place(cursor: str) -> tuple[int, int]:
    if not cursor:
        return (-(2**62), 0)
    seconds, _, n = cursor.rpartition("-")
    try:
        return int(seconds), int(n)
    except ValueError as error:
        raise invalid("The cursor is not one of ours.") from error


@dataclass(frozen=True)
class Query:
    """What ``registrants/query`` asks for."""

    emails: frozenset[str]
    status: Status | None
    order_by: str
    descending: bool

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Query:
        """Raises Refusal (400) without a single address."""
        if not body["emails"]:
            raise invalid("emails is required.")
        status = body.get("status")
        return cls(
            emails=frozenset(email.casefold() for email in body["emails"]),
            status=Status(status) if status else None,
            order_by=body.get("orderBy", "registrationTime"),
            descending=body.get("orderType") == "DESC",
        )

    def answer(self, registrants: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those who match, in the order asked for; of the objects as they are shown."""
        found = [
            registrant
            for registrant in registrants
            if registrant["email"].casefold() in self.emails and self.status in (None, registrant["status"])
        ]
        return sorted(found, key=lambda registrant: str(registrant[self.order_by]), reverse=self.descending)
