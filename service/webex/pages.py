"""Lists page by page ("Webex REST API Basics", pagination by RFC 5988 ``Link``).

A next link is not trusted: :func:`service.webex.protocol.cursor` takes only a new parameter from it, so lost filters,
``max=null`` and other hosts do no harm. No item is given twice, and no list goes on for ever. The list of registrants
has no documented links at all: see :func:`service.webex.registrants.list_registrants`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from service.core.errors import WebexRejected
from service.webex.calls import shaped
from service.webex.client import Reply, WebexClient
from service.webex.operations import Operation, request_for
from service.webex.protocol import PAGE, Request, cursor, leads_on, unreadable

#: Pages that one list may have.
PAGES = 1000


async def items(
    client: WebexClient,
    op: Operation,
    *,
    path: Mapping[str, str] = {},
    query: Mapping[str, Any] = {},
    headers: Mapping[str, str] = {},
) -> AsyncIterator[Any]:
    """Every item of a list, each ``id`` once. ``max`` is the size of a page, 100 unless given.

    Raises WebexRejected, after what could be read, where Webex says there is more and no way leads to it.
    """
    first = request_for(op, path=path, query={"max": PAGE, **query}, headers=headers)
    seen, request = set[str](), first
    for _ in range(PAGES):
        reply = await client.call(request)
        page = {_id_of(op, item): item for item in shaped(op, reply)}
        fresh = [item for id_, item in page.items() if id_ not in seen]
        seen.update(page)
        for item in fresh:
            yield item
        following = cursor(
            reply.link, first=first, base_url=client.base_url, known=[each.name for each in op.parameters]
        )
        if not following or not fresh:
            _check_end(op, first, reply, len(page))
            return
        request = msgspec.structs.replace(first, query={**first.query, **following})
    raise WebexRejected(f"{op.name}: the pages do not end")


def _id_of(op: Operation, item: Mapping[str, Any]) -> str:
    id_ = item.get("id")
    if not isinstance(id_, str) or not id_:
        raise unreadable(op.name)
    return id_


def _check_end(op: Operation, first: Request, reply: Reply, shown: int) -> None:
    """A next link on a page that is not full is a habit; on a full one it says that something is missing here."""
    if leads_on(reply.link) and shown >= int(first.query["max"]):
        raise WebexRejected(
            f"{op.name}: there are more pages, but their link cannot be followed",
            status=reply.status,
            tracking_id=reply.tracking_id,
        )
