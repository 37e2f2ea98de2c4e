"""Answers, complete but for what the server itself adds (the date). A refusal is a problem document (RFC 9457) that says
nothing about the request.
"""

from __future__ import annotations

import json
from functools import lru_cache
from http import HTTPStatus

import msgspec

from service.core.errors import RequestRefused

Pairs = tuple[tuple[bytes, bytes], ...]

#: Answers that come after the whole body was read: their connection can serve the next request. With any other one
#: there may be unread bytes, which nobody wants to read.
_READ_TO_THE_END = frozenset({401, 500, 503})

#: The connection ends with this answer.
CLOSING = (b"connection", b"close")
_PROBLEM = (b"content-type", b"application/problem+json")


class Answer(msgspec.Struct, frozen=True):
    """A status, every header but the date (names in lower case), and the body."""

    status: int
    headers: Pairs
    body: bytes


#: The event is durable.
STORED = Answer(204, (), b"")


def refused(refusal: RequestRefused) -> Answer:
    """The problem that ``refusal`` stands for."""
    wait = refusal.retry_after
    headers = () if wait is None else ((b"retry-after", b"%d" % wait),)
    return problem(refusal.http_status, detail=refusal.title, headers=headers)


@lru_cache(maxsize=64)  # there are about a dozen, and under attack they are all that is sent
def problem(status: int, *, detail: str | None = None, headers: Pairs = ()) -> Answer:
    """A problem of type ``about:blank``: its title is the status's own phrase (RFC 9457 §4.2.1)."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail is not None:
        document["detail"] = detail
    body = json.dumps(document).encode("ascii")
    closing = () if status in _READ_TO_THE_END else (CLOSING,)
    return Answer(status, (*headers, *closing, (b"content-length", b"%d" % len(body)), _PROBLEM), body)


#: What everything but the one route gets: ``problem(404)`` and, with the method that there is, ``problem(405)``.
NO_SUCH_ROUTE = Answer(
    404,
    (CLOSING, (b"content-length", b"60"), _PROBLEM),
    b'{"type": "about:blank", "title": "Not Found", "status": 404}',
)
NO_SUCH_METHOD = Answer(
    405,
    ((b"allow", b"POST"), CLOSING, (b"content-length", b"69"), _PROBLEM),
    b'{"type": "about:blank", "title": "Method Not Allowed", "status": 405}',
)
