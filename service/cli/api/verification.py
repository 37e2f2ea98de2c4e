"""``--verify``: after Webex said yes, look whether it is so. For the batch calls a 204 says nothing about anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from service.cli.output import items_of
from service.core.errors import WebexNotFound
from service.webex.client import WebexClient
from service.webex.operations import Operation, operation, request_for
from service.webex.protocol import Request

#: What somebody's status is after the call. Cisco does not say what "cancel" leads to; seen: back to pending.
_STATUSES: Mapping[str, tuple[str, ...]] = {
    "registrants.approve": ("approved",),
    "registrants.reject": ("rejected",),
    "registrants.cancel": ("pending", "cancelled", "canceled"),
}
_DELETED = (
    "meetings.delete",
    "registration.delete",
    "registrants.delete",
    "registrants.bulk-delete",
    "webhooks.delete",
)
_WRITTEN = (
    *("meetings.create", "meetings.update", "meetings.patch", "registration.update"),
    *("registrants.register", "registrants.bulk-insert", "webhooks.create", "webhooks.update"),
)
#: Fields of a body that say how to do it, not what it shall be like; and what Webex never shows again as it was.
_NOT_SHOWN = frozenset({"hostEmail", "sendEmail", "secret", "password", "panelistPassword", "invitees", "adhoc"})


def can_verify(op: Operation) -> bool:
    """Whether the effect of this operation can be read back."""
    return op.name in (*_STATUSES, *_DELETED, *_WRITTEN)


async def verified(
    client: WebexClient, op: Operation, *, request: Request, path: Mapping[str, str], host_email: str, answer: Any
) -> Sequence[Mapping[str, Any]]:
    """One row for each thing that the call was about: ``id``, ``verified``, and what was seen. Raises WebexError."""
    rows = []
    for target, wanted in _targets(op, request, path, answer):
        seen = await _seen(client, op, target, host_email) if all(target.values()) else None
        rows.append({"id": list(target.values())[-1], **_judged(op, wanted, seen)})
    return rows


def _targets(
    op: Operation, request: Request, path: Mapping[str, str], answer: Any
) -> Sequence[tuple[Mapping[str, str], Any]]:
    """The path of each thing to read, and what it should be like."""
    if op.body == "RegistrantBatch":
        return [({**path, "registrantId": _id(each)}, None) for each in request.json["registrants"]]
    if op.name == "registrants.bulk-insert":
        made = {_address(each): _id(each) for each in items_of(answer)}
        sent_people = request.json.get("items", ())
        return [({**path, "registrantId": made.get(_address(sent), "")}, sent) for sent in sent_people]
    missing = [name for name in _path_names(op) if name not in path]
    return [({**path, **dict.fromkeys(missing, _id(answer))}, request.json)]


def _address(thing: Any) -> str:
    """Whose it is: Webex answers in what order it likes, and without whom it left out."""
    return str(thing.get("email", "")).casefold() if isinstance(thing, dict) else ""


def _id(thing: Any) -> str:
    """Its id; "" where it has none, which no request will take."""
    return str(thing.get("id", "")) if isinstance(thing, dict) else ""


def _path_names(op: Operation) -> list[str]:
    return [each.name for each in operation(op.resource, "get").placed("path")]


async def _seen(client: WebexClient, op: Operation, path: Mapping[str, str], host_email: str) -> Any:
    """The thing as Webex shows it now; None where there is none."""
    get = operation(op.resource, "get")
    try:
        reply = await client.call(request_for(get, path=path, host_email=host_email if get.host_email else ""))
    except WebexNotFound:
        return None
    return reply.value


def _judged(op: Operation, wanted: Any, seen: Any) -> dict[str, Any]:
    if op.name in _DELETED:
        return {"verified": seen is None}
    if not isinstance(seen, dict):
        return {"verified": False, "differs": ["not shown (yet)"]}
    status = {"status": seen["status"]} if "status" in seen else {}
    if op.name in _STATUSES:
        return {**status, "verified": seen.get("status") in _STATUSES[op.name]}
    differs = [name for name, value in (wanted or {}).items() if name in seen and not _same(value, seen[name])]
    differs = [name for name in differs if name not in _NOT_SHOWN]
    return {**status, "verified": not differs, **({"differs": differs} if differs else {})}


def _same(sent: Any, seen: Any) -> bool:
    """Whether Webex shows what was sent; it may add fields, and write a time in another zone."""
    if isinstance(sent, dict) and isinstance(seen, dict):
        return all(name not in seen or _same(value, seen[name]) for name, value in sent.items())
    if isinstance(sent, str) and isinstance(seen, str):
        return sent == seen or _same_moment(sent, seen) or sent.casefold() == seen.casefold()
    return bool(sent == seen)


def _same_moment(sent: str, seen: str) -> bool:
    try:
        one, other = datetime.fromisoformat(sent), datetime.fromisoformat(seen)
    except ValueError:
        return False
    zoned = one.tzinfo is not None and other.tzinfo is not None
    return one == other if zoned else True  # without a zone nobody can tell
