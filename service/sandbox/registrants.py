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
DEFAULT_MAX = 10
LARGEST_MAX = 100

_REQUIRED = ("firstName", "lastName", "email")
_ADDRESS = ("address1", "address2", "city", "state", "countryRegion")
_TEXTS = (*_REQUIRED, "jobTitle", "companyName", *_ADDRESS, "workPhone", "fax", "sourceId")
_FORM = {*_TEXTS, "zipCode", "customizedQuestions"}
_ORDERS = {"firstName", "lastName", "status", "email"}


def form(given: object) -> dict[str, Any]:
    """The fields of a registration form that Webex keeps. Raises Refusal where a required one is missing."""
    if not isinstance(given, dict):
        raise invalid("A registrant must be an object.")
    for name in _REQUIRED:
        if not given.get(name):
            raise invalid(f"{name} is required.")
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            raise invalid(f"{name} must be a string.")
    if "@" not in given["email"]:
        raise invalid("email is not an e-mail address.")
    return {name: value for name, value in given.items() if name in _FORM}


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


def page_size(query: Mapping[str, str]) -> int:
    """``max``: 10 by default, 1 to 100."""
    text = query.get("max", str(DEFAULT_MAX))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= LARGEST_MAX:
        raise invalid(f"max must be between 1 and {LARGEST_MAX}.")
    return int(text)


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
        """Raises Refusal: ``emails`` is required, the others are enumerations."""
        emails = body.get("emails")
        if not isinstance(emails, list) or not emails or not all(isinstance(email, str) for email in emails):
            raise invalid("emails is required.")
        status, order_by, order_type = (body.get(name) for name in ("status", "orderBy", "orderType"))
        if status not in (None, *Status) or order_by not in (None, *_ORDERS) or order_type not in (None, "ASC", "DESC"):
            raise invalid("status, orderBy or orderType has a value that is not known.")
        return cls(
            emails=frozenset(email.casefold() for email in emails),
            status=Status(status) if status else None,
            order_by=order_by or "registrationTime",
            descending=order_type == "DESC",
        )

    def answer(self, registrants: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those who match, in the order asked for; of the objects as they are shown."""
        found = [
            registrant
            for registrant in registrants
            if registrant["email"].casefold() in self.emails and self.status in (None, registrant["status"])
        ]
        return sorted(found, key=lambda registrant: str(registrant[self.order_by]), reverse=self.descending)
