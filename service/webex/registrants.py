"""Registrants of a meeting: list, query, approve, reject (Webex OpenAPI, ``listMeetingRegistrants``,
``queryMeetingRegistrants``, ``batchApproveMeetingRegistrants``, ``batchRejectMeetingRegistrants``).

What makes the list awkward: it shows ten of the last seven days unless told otherwise, 90 days and 100 registrants at
most, and its next page is not documented. So the interval and the page size are always given. A ``Link`` is followed
where there is one; a full page without one may hide more, so its interval is halved until the pages are no longer
full. ``current`` stays at its default, false (the whole series).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog

from service.core.errors import WebexRejected
from service.core.registrants import BATCH, Registrant
from service.webex.client import WebexClient
from service.webex.protocol import PAGE, Request, cursor, path, unreadable

#: The longest interval that one call may ask for.
WINDOW = timedelta(days=90)

#: How many windows a full walk looks at, unless it meets an empty one before.
WINDOWS = 4

#: An interval that is not divided any more: two hundred in one second are beyond what the API can show.
NARROWEST = timedelta(seconds=1)

#: Calls that one list may cost. Divided, ten thousand registrants cost some four hundred.
CALLS = 1000

_LIST, _QUERY = "registrants.list", "registrants.query"
_KNOWN = ("max", "hostEmail", "current", "email", "registrationTimeFrom", "registrationTimeTo")


class Window(msgspec.Struct, frozen=True):
    """Registration times from ``start`` (inclusive) to ``end`` (exclusive), in whole seconds."""

    start: datetime
    end: datetime

    def parts(self, registered: Iterable[datetime]) -> tuple[Window, Window]:
        """The earlier and the later part, cut where half of the ``registered`` that are known lie on either side.

        People register in waves: halving the time alone would find an empty half again and again.
        """
        inside = sorted(moment for moment in registered if self.start <= moment < self.end)
        half = self.start + timedelta(seconds=(self.end - self.start) // timedelta(seconds=2))
        middle = _whole(inside[len(inside) // 2]) if inside else half
        cut = min(max(middle, self.start + NARROWEST), self.end - NARROWEST)
        return Window(self.start, cut), Window(cut, self.end)


def windows_since(since: datetime, now: datetime) -> Iterator[Window]:
    """From ``since`` to the end of the present second, oldest first, none longer than :data:`WINDOW`."""
    start, end = _whole(since), _whole(now) + timedelta(seconds=1)
    while start < end:
        yield Window(start, min(start + WINDOW, end))
        start += WINDOW


def windows_back(now: datetime) -> Iterator[Window]:
    """The :data:`WINDOWS` windows of a full walk, newest first."""
    end = _whole(now) + timedelta(seconds=1)
    for _ in range(WINDOWS):
        yield Window(end - WINDOW, end)
        end -= WINDOW


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


async def list_registrants(
    client: WebexClient, meeting_id: str, *, since: datetime | None, now: datetime, host_email: str = ""
) -> list[Registrant]:
    """All who registered from ``since`` on; None: back to the first empty 90-day window, four at most. Each id once.

    Raises WebexRejected where Webex's pages do not end.
    """
    listing = _Listing(client, path("meetings", meeting_id, "registrants"), host_email)
    for window in windows_back(now) if since is None else windows_since(since, now):
        if not await listing.read(window) and since is None:
            break
    return list(listing.found.values())


class _Listing:
    """One walk over a meeting's registrants: what was found so far, and what it cost."""

    def __init__(self, client: WebexClient, path: str, host_email: str) -> None:
        self.found: dict[str, Registrant] = {}
        self._client, self._path, self._host_email = client, path, host_email
        self._calls = 0

    async def read(self, window: Window) -> bool:
        """Everything in ``window``; whether there was anything."""
        found_any, waiting = False, [window]
        while waiting:
            part = waiting.pop()
            complete, shown = await self._pages(part)
            self.found.update(shown)
            found_any = found_any or bool(shown)
            if not complete and part.end - part.start > NARROWEST:
                waiting.extend(part.parts(one.registered for one in shown.values() if one.registered))
            elif not complete:
                structlog.get_logger().warning("registrants.window_full", seconds=1, shown=len(shown))
        return found_any

    async def _pages(self, window: Window) -> tuple[bool, dict[str, Registrant]]:
        """The pages of one interval: whether they are all of it, and who is on them.

        Once a ``Link`` led on, a page without one is the end. A page that shows nobody new ends it too: then the links
        lead in circles.
        """
        first = self._request(window)
        request, shown = first, dict[str, Registrant]()
        while True:
            page, link = await self._page(request)
            fresh = not page.keys() <= shown.keys()
            shown.update(page)
            following = cursor(link, first=first, base_url=self._client.base_url, known=_KNOWN)
            if not following:
                return request is not first or len(page) < PAGE, shown
            if not fresh:
                return not page or len(shown) < PAGE, shown
            request = msgspec.structs.replace(first, query={**first.query, **following})

    async def _page(self, request: Request) -> tuple[dict[str, Registrant], str | None]:
        self._calls += 1
        if self._calls > CALLS:
            raise WebexRejected(f"{_LIST}: the pages do not end")
        reply = await self._client.call(request)
        return {registrant.id: registrant for registrant in to_registrants(reply.value, _LIST)}, reply.link

    def _request(self, window: Window) -> Request:
        query = {
            "max": str(PAGE),
            "registrationTimeFrom": _zulu(window.start),
            "registrationTimeTo": _zulu(window.end),
            **_host(self._host_email),
        }
        return Request(operation=_LIST, method="GET", path=self._path, query=query, reads=True)


def _zulu(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _host(email: str) -> Mapping[str, str]:
    return {"hostEmail": email} if email else {}


async def query_registrants(
    client: WebexClient, meeting_id: str, emails: Sequence[str], *, host_email: str = ""
) -> list[Registrant]:
    """The registrants with these addresses, whatever their status; one call for each started hundred of addresses."""
    where = path("meetings", meeting_id, "registrants", "query")
    found: dict[str, Registrant] = {}
    wanted = list(dict.fromkeys(emails))
    for start in range(0, len(wanted), PAGE):
        request = Request(
            operation=_QUERY,
            method="POST",
            path=where,
            query={"max": str(PAGE), **_host(host_email)},
            json={"emails": wanted[start : start + PAGE]},
            reads=True,
        )
        page = to_registrants((await client.call(request)).value, _QUERY)
        found.update((registrant.id, registrant) for registrant in page)
    return list(found.values())


async def change_status(
    client: WebexClient, meeting_id: str, verb: str, ids: Sequence[str], *, send_email: bool, host_email: str = ""
) -> None:
    """``approve`` or ``reject`` up to a hundred in exactly one call; ``sendEmail`` is always said, for Webex's
    default is true.

    Webex answers 204 without saying what became of each. Raises ValueError for another verb, no ids, or more than a
    hundred.
    """
    if verb not in ("approve", "reject"):
        raise ValueError("the verb is approve or reject")
    if not 0 < len(ids) <= BATCH:
        raise ValueError(f"one call takes 1 to {BATCH} ids, not {len(ids)}")
    request = Request(
        operation=f"registrants.{verb}",
        method="POST",
        path=path("meetings", meeting_id, "registrants", verb),
        query=_host(host_email),
        json={"sendEmail": send_email, "registrants": [{"id": id_} for id_ in ids]},
        answers=False,
    )
    await client.call(request)


def to_registrants(value: Any, operation: str) -> list[Registrant]:
    """The registrants of ``{"items": [...]}``. Raises WebexRejected where there are no ``items``, or one without an
    id.

    Leaving such a one out would pass for an absence, and make a full page look like one that is not.
    """
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) and _text(item, "id") for item in items):
        raise unreadable(operation)
    return [_registrant(item) for item in items]


def _registrant(item: dict[str, Any]) -> Registrant:
    return Registrant(
        id=_text(item, "id"),
        status=_text(item, "status"),
        email=_text(item, "email"),
        registered=_moment(item.get("registrationTime")),
        fields=item,
    )


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""


def _moment(value: object) -> datetime | None:
    """An RFC 3339 time with any offset, in UTC; None for anything else, and for one without an offset (whose zone
    nobody knows).
    """
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
