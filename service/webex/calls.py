"""One call of one operation: build it, send it, look whether the answer has the shape that the operation promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.webex.client import Reply, WebexClient
from service.webex.operations import Operation, request_for
from service.webex.protocol import unreadable


async def ask(
    client: WebexClient,
    op: Operation,
    *,
    path: Mapping[str, str] = {},
    query: Mapping[str, Any] = {},
    headers: Mapping[str, str] = {},
    body: Any = None,
    host_email: str = "",
) -> Any:
    """What Webex answers: an object, the ``items`` of a list, a text, or None.

    Raises subclasses of WebexError (WebexRejected too for an answer of another shape, or an id that cannot be one), and
    ValueError for a call that could never be right.
    """
    request = request_for(op, path=path, query=query, headers=headers, body=body, host_email=host_email)
    return shaped(op, await client.call(request))


def shaped(op: Operation, reply: Reply) -> Any:
    """The answer's value as ``op.answers`` says. Raises WebexRejected for any other shape."""
    value = reply.value
    match op.answers:
        case "nothing":
            return None
        case "object" if isinstance(value, dict):
            return value
        case "items" if isinstance(value, dict) and _are_objects(value.get("items")):
            return value["items"]
        case "text":
            return value
    raise unreadable(op.name, status=reply.status, tracking_id=reply.tracking_id)


def _are_objects(items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)
