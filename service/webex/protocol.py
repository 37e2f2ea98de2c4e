"""The Webex REST API without any I/O: what a request looks like, and what an answer means.

Facts: Webex's OpenAPI (operations), "Webex REST API Basics" (errors, pagination by RFC 5988 ``Link``), RFC 9110
(status codes). Nothing that Webex writes in an error body gets into an error or a log: it may hold names and
addresses. The status, the tracking id and the name of the operation are enough for Cisco's support.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit

import msgspec

from service.core.errors import (
    WebexConflict,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexThrottled,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.core.message import UNREADABLE
from service.core.retry import retry_after

#: Longer than any id that Webex is known to give (the longest are base64 of a ``ciscospark://`` URI).
ID_CHARACTERS = 512

#: Items of the largest page of a list.
PAGE = 100

_TRACKING_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_RELATION = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]+))', re.IGNORECASE)
_LINK_CHARACTERS = 8192
_CLASSES: Mapping[int, type[WebexError]] = {
    401: WebexUnauthorized,
    403: WebexUnauthorized,
    404: WebexNotFound,
    408: WebexUnavailable,
    409: WebexConflict,
    412: WebexConflict,
    423: WebexThrottled,
    429: WebexThrottled,
}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call. ``operation`` is its name in logs and errors; ``path`` begins with "/" and is already encoded
    (:func:`path`).

    ``media_type`` is that of the body, if there is one. ``reads``: it changes nothing at Webex, so it may be sent again.
    ``answers`` is false where the body of a 2xx says nothing.
    """

    operation: str
    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    json: Any = None
    media_type: str = "application/json"
    reads: bool = False
    answers: bool = True

    def __repr__(self) -> str:
        """Without query, headers and body: they may hold addresses and secrets."""
        return f"Request({self.operation}: {self.method} {self.path})"

    def url(self, base_url: str) -> str:
        """The absolute URL; every reserved character of the query is encoded."""
        query = urlencode(self.query, quote_via=quote, safe="")
        return base_url.rstrip("/") + self.path + ("?" + query if query else "")

    def body(self) -> bytes | None:
        """The JSON body, or None where there is none."""
        return None if self.json is None else msgspec.json.encode(self.json)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came. Names of ``headers`` are lower case; ``body`` None: longer than the cap, or its encoding
    is broken.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | None

    def __repr__(self) -> str:
        return f"Answer(status={self.status})"  # header and body may hold a token


def path(*segments: str) -> str:
    """``/meetings/<id>``: each segment encoded with nothing left safe, so that an id can never steer the URL.

    Raises WebexRejected for what cannot be one segment: empty, ``.`` or ``..``, over-long, or not encodable.
    """
    return "".join("/" + _segment(segment) for segment in segments)


def _segment(value: str) -> str:
    if not value or value in (".", "..") or len(value) > ID_CHARACTERS:
        raise WebexRejected("An id that Webex cannot have given: the call was not made")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise WebexRejected("An id that is not text: the call was not made") from None


def checked_base_url(value: str, *, allow_http: bool = False) -> str:
    """``value`` without a trailing slash.

    Raises ValueError unless it is https, or http on loopback, or http is allowed.
    """
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("the base URL of Webex must begin with https:// and name a host")
    if parts.scheme == "http" and not (allow_http or _is_loopback(parts.hostname)):
        raise ValueError(
            "the base URL of Webex must be https: plain http is for loopback, unless it is allowed explicitly"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the base URL of Webex has no user, query or fragment")
    if parts.port == 0 or any(character.isspace() for character in value):
        raise ValueError("the base URL of Webex is not a URL")
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def decipher(
    status: int, headers: Mapping[str, str], body: bytes | None, *, now: datetime, operation: str = "call"
) -> Any:
    """What the answer says: its decoded JSON, None where a 2xx has no body.

    Raises the WebexError of the status, whatever the body is. A 2xx that cannot be read, and a 5xx, may have had
    their effect.
    """
    if 200 <= status < 300:
        return _decoded(status, headers, body, operation)
    kind = _CLASSES.get(status, WebexUnavailable if status >= 500 else WebexRejected)
    tracking_id = tracking_id_of(headers, body)
    wait = retry_after(headers.get("retry-after"), now=now) if kind is WebexThrottled else None
    raise kind(
        _sentence(operation, status, tracking_id),
        status=status,
        tracking_id=tracking_id,
        retry_after=wait,
        maybe_done=status >= 500,
    )


def _decoded(status: int, headers: Mapping[str, str], body: bytes | None, operation: str) -> Any:
    if body is not None and not body.strip():
        return None
    try:
        return msgspec.json.decode(b"" if body is None else body)
    except UNREADABLE:
        raise unreadable(operation, status=status, tracking_id=tracking_id_of(headers, None)) from None


def unreadable(operation: str, *, status: int = 200, tracking_id: str | None = None) -> WebexRejected:
    """The error for a success whose body is not what the operation promises."""
    message = _sentence(operation, status, tracking_id) + ", and the answer cannot be read"
    return WebexRejected(message, status=status, tracking_id=tracking_id, maybe_done=True)


def _sentence(operation: str, status: int, tracking_id: str | None) -> str:
    suffix = f" (tracking id {tracking_id})" if tracking_id else ""
    return f"{operation}: Webex answered {status}{suffix}"


def tracking_id_of(headers: Mapping[str, str], body: bytes | None) -> str | None:
    """Cisco's id of the call: the header ``trackingid``, else ``trackingId`` of the body; None unless it looks like
    one.
    """
    candidate: object = headers.get("trackingid")
    if candidate is None and body:
        try:
            decoded = msgspec.json.decode(body)
        except UNREADABLE:
            return None
        candidate = decoded.get("trackingId") if isinstance(decoded, dict) else None
    return candidate if isinstance(candidate, str) and _TRACKING_ID.fullmatch(candidate) else None


def cursor(link: str | None, *, first: Request, base_url: str, known: Sequence[str]) -> Mapping[str, str]:
    """The query parameters that ask for the next page, taken from a ``Link`` header; empty where there is no next
    page.

    Webex's next URL may lose our filters or carry ``max=null``, and it is untrusted. So only parameters are taken
    that are neither ours nor among ``known`` (those of the operation); the rest of the next request is ``first``
    again. A link to another host or path is ignored.
    """
    ours = first.url(base_url)
    for target in _next_targets(link or ""):
        try:
            found = urljoin(ours, target)
            fields = parse_qsl(urlsplit(found).query, max_num_fields=50) if _place(found) == _place(ours) else []
        except ValueError:
            continue
        mine = {*first.query, *known}
        fresh = {name: value for name, value in fields if name not in mine and value != "null"}
        if fresh:
            return fresh
    return {}


def leads_on(link: str | None) -> bool:
    """Whether a ``Link`` header names a next page, wherever that may be."""
    return any(_next_targets(link or ""))


def _next_targets(link: str) -> Iterator[str]:
    for target, parameters in _LINK.findall(link[:_LINK_CHARACTERS]):
        relation = _RELATION.search(parameters)
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            yield target


def _place(url: str) -> tuple[str, str | None, int | None, str]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port, unquote(parts.path)
