"""Answers, as ASGI messages. A refusal is a problem document (RFC 9457) that says nothing about the request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from service.core.errors import RequestRefused

#: Answers that come after the whole body was read: their connection can serve the next request. With any other one
#: there may be unread bytes, which nobody wants to read.
_READ_TO_THE_END = frozenset({401, 500, 503})


def stored() -> Response:
    """204: the event is durable."""
    return Response(status_code=HTTPStatus.NO_CONTENT)


def refused(refusal: RequestRefused) -> Response:
    """The problem that ``refusal`` stands for."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return problem(refusal.http_status, detail=refusal.title, headers=headers)


def problem(status: int, *, detail: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """A problem of type ``about:blank``: its title is the status's own phrase (RFC 9457 §4.2.1)."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail is not None:
        document["detail"] = detail
    closing = {} if status in _READ_TO_THE_END else {"Connection": "close"}
    return Response(
        json.dumps(document),
        status_code=status,
        headers={**(headers or {}), **closing},
        media_type="application/problem+json",
    )
