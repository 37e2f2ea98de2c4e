"""Registrants of a meeting: list, query, register, get, delete, approve, reject, cancel, in bulk (Webex OpenAPI, tag
"Meetings").

Errors, ``host_email`` and ``send_email`` as in :mod:`service.webex.meetings`. Everything here wants the id of a series.

What makes the list awkward: it shows ten of the last seven days unless told otherwise, 90 days and 100 registrants at
most, and its next page is not documented. So the interval and the page size are always given. A ``Link`` is followed
where there is one; a full page without one may hide more, so its interval is halved until the pages are no longer
full. ``current`` stays at its default, false (the whole series).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from service.core.errors import WebexRejected, WebexThrottled, WebexUnavailable
from service.core.registrants import BATCH, Registrant
from service.webex import objects
from service.webex.calls import ask
from service.webex.client import WebexClient
from service.webex.operations import by_id, operation, request_for
from service.webex.protocol import PAGE, Request, cursor, unreadable

#: The longest interval that one call may ask for.
WINDOW = timedelta(days=90)

#: How many windows a full walk looks at, unless it meets an empty one before.
WINDOWS = 4

#: An interval that is not divided any more: two hundred in one second are beyond what the API can show.
NARROWEST = timedelta(seconds=1)

#: Calls that one list may cost. Divided, ten thousand registrants cost some four hundred.
CALLS = 1000

#: Seconds between two tries for one page; a page for which Webex wants a longer pause ends the list.
_PATIENCE = (0.5, 1.0, 2.0, 4.0, 8.0)
_LONGEST_PAUSE = 60.0

Answer = TypeVar("Answer")

_LIST, _QUERY = "listMeetingRegistrants", "queryMeetingRegistrants"


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
    listing = _Listing(client, meeting_id, host_email)
    for window in windows_back(now) if since is None else windows_since(since, now):
        if not await listing.read(window) and since is None:
            break
    else:
        if since is None:  # there may be people who registered still earlier
            structlog.get_logger().warning("registrants.horizon_reached", days=(WINDOW * WINDOWS).days)
    return list(listing.found.values())


class _Listing:
    """One walk over a meeting's registrants: what was found so far, and what it cost."""

    def __init__(self, client: WebexClient, meeting_id: str, host_email: str) -> None:
        self.found: dict[str, Registrant] = {}
        self._client, self._path, self._host_email = client, {"meetingId": meeting_id}, host_email
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
        first, known = self._request(window), [each.name for each in by_id(_LIST).placed("query")]
        request, shown = first, dict[str, Registrant]()
        while True:
            page, link = await self._page(request)
            fresh = not page.keys() <= shown.keys()
            shown.update(page)
            following = cursor(link, first=first, base_url=self._client.base_url, known=known)
            if not following:
                return request is not first or len(page) < PAGE, shown
            if not fresh:
                return not page or len(shown) < PAGE, shown
            request = msgspec.structs.replace(first, query={**first.query, **following})

    async def _page(self, request: Request) -> tuple[dict[str, Registrant], str | None]:
        self._calls += 1
        if self._calls > CALLS:
            raise WebexRejected(f"{by_id(_LIST).name}: the pages do not end")
        if self._calls == 1:  # nothing is lost yet by giving up
            reply = await self._client.call(request)
        else:
            reply = await _patiently(lambda: self._client.call(request))
        return {registrant.id: registrant for registrant in to_registrants(reply.value, by_id(_LIST).name)}, reply.link

    def _request(self, window: Window) -> Request:
        query = {"max": PAGE, "registrationTimeFrom": window.start, "registrationTimeTo": window.end}
        return request_for(by_id(_LIST), path=self._path, query=query, host_email=self._host_email)


async def _patiently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """One read of many that belong together. Where Webex does not answer it is asked again, after pauses of seconds: to begin
    anew with all of them would cost Webex far more. Raises what the last try raised.
    """
    for pause in _PATIENCE:
        try:
            return await ask()
        except (WebexUnavailable, WebexThrottled) as error:
            wait = max(error.retry_after or 0.0, pause)
            if wait > _LONGEST_PAUSE:
                raise
            await asyncio.sleep(wait)
    return await ask()


async def list_page(
    client: WebexClient, meeting_id: str, query: objects.ListRegistrantsQuery
) -> list[objects.Registrant]:
    """One page of the list, exactly as asked for; :func:`list_registrants` is for all there are."""
    page: list[objects.Registrant] = await ask(client, by_id(_LIST), path={"meetingId": meeting_id}, query=query)
    return page


async def query_registrants(
    client: WebexClient, meeting_id: str, emails: Sequence[str], *, host_email: str = ""
) -> list[Registrant]:
    """The registrants with these addresses, whatever their status; one call for each started hundred of addresses."""
    found: dict[str, Registrant] = {}
    wanted = list(dict.fromkeys(emails))
    for start in range(0, len(wanted), PAGE):
        body: objects.QueryRegistrants = {"emails": wanted[start : start + PAGE]}
        page = await _patiently(partial(query_page, client, meeting_id, body, size=PAGE, host_email=host_email))
        found.update((registrant.id, registrant) for registrant in to_registrants({"items": page}, by_id(_QUERY).name))
    return list(found.values())


async def query_page(
    client: WebexClient,
    meeting_id: str,
    body: objects.QueryRegistrants,
    *,
    size: int | None = None,
    current: bool | None = None,
    host_email: str = "",
) -> list[objects.Registrant]:
    """One page of at most ``size`` registrants with the addresses in ``body``, exactly as asked for."""
    page: list[objects.Registrant] = await ask(
        client,
        by_id(_QUERY),
        path={"meetingId": meeting_id},
        query={"max": size, "current": current},
        body=body,
        host_email=host_email,
    )
    return page


async def create_registrant(
    client: WebexClient,
    meeting_id: str,
    form: objects.RegistrantFormObject,
    *,
    send_email: bool,
    current: bool | None = None,
    host_email: str = "",
) -> objects.RegistrantCreateResponse:
    """Register one person. Not to be repeated blindly: look for the address first."""
    answer: objects.RegistrantCreateResponse = await ask(
        client,
        by_id("createRegistrant"),
        path={"meetingId": meeting_id},
        query={"current": current},
        body={**form, "sendEmail": send_email},
        host_email=host_email,
    )
    return answer


async def create_registrants(
    client: WebexClient,
    meeting_id: str,
    forms: Sequence[objects.RegistrantFormObject],
    *,
    send_email: bool,
    current: bool | None = None,
    host_email: str = "",
) -> list[objects.RegistrantCreateResponse]:
    """Register up to a hundred people in one call. Raises ValueError for none, or more."""
    _check_batch(forms)
    answer: list[objects.RegistrantCreateResponse] = await ask(
        client,
        by_id("createRegistrants"),
        path={"meetingId": meeting_id},
        query={"current": current},
        body={"items": [{**form, "sendEmail": send_email} for form in forms]},
        host_email=host_email,
    )
    return answer


async def get_registrant(
    client: WebexClient, meeting_id: str, registrant_id: str, *, current: bool | None = None, host_email: str = ""
) -> objects.Registrant:
    """One registrant."""
    answer: objects.Registrant = await ask(
        client,
        by_id("getRegistrant"),
        path={"meetingId": meeting_id, "registrantId": registrant_id},
        query={"current": current},
        host_email=host_email,
    )
    return answer


async def delete_registrant(
    client: WebexClient, meeting_id: str, registrant_id: str, *, current: bool | None = None, host_email: str = ""
) -> None:
    """Delete one registrant, for good; Webex offers no word about the e-mail here."""
    await ask(
        client,
        by_id("deleteRegistrant"),
        path={"meetingId": meeting_id, "registrantId": registrant_id},
        query={"current": current},
        host_email=host_email,
    )


async def batch(
    client: WebexClient,
    meeting_id: str,
    verb: str,
    ids: Sequence[str],
    *,
    send_email: bool,
    current: bool | None = None,
    host_email: str = "",
) -> None:
    """``approve``, ``reject``, ``cancel`` or ``bulk-delete`` up to a hundred in exactly one call.

    ``cancel`` puts people back to where nobody has decided. Webex answers 204 without saying what became of each: only
    a list tells. Raises ValueError for another verb, no ids, or more than a hundred.
    """
    if verb not in ("approve", "reject", "cancel", "bulk-delete"):
        raise ValueError("the verb is approve, reject, cancel or bulk-delete")
    _check_batch(ids)
    await ask(
        client,
        operation("registrants", verb),
        path={"meetingId": meeting_id},
        query={"current": current},
        body={"sendEmail": send_email, "registrants": [{"id": id_} for id_ in ids]},
        host_email=host_email,
    )


async def change_status(
    client: WebexClient, meeting_id: str, verb: str, ids: Sequence[str], *, send_email: bool, host_email: str = ""
) -> None:
    """:func:`batch` for a policy, which only approves and rejects. Raises ValueError for another verb."""
    if verb not in ("approve", "reject"):
        raise ValueError("the verb is approve or reject")
    await batch(client, meeting_id, verb, ids, send_email=send_email, host_email=host_email)


def _check_batch(members: Sequence[object]) -> None:
    if not 0 < len(members) <= BATCH:
        raise ValueError(f"one call takes 1 to {BATCH} ids or people, not {len(members)}")


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
