"""Bodies of requests, read whole and up to a limit."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request

from service.sandbox.refusals import Refusal, invalid

#: Longest request body in bytes.
LONGEST_BODY = 1024 * 1024

#: What a PATCH may call its body: Cisco's OpenAPI has the first, and it is a plain partial object all the same.
_PATCH_TYPES = {"application/json-patch+json", "application/merge-patch+json"}


async def read(request: Request) -> bytes:
    """The body. Raises Refusal (413) where it is too large."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LONGEST_BODY:
            raise Refusal(413, "The request is too large.")
    return bytes(raw)


def media_type(request: Request) -> str:
    """What the request calls its body."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_object(request: Request, raw: bytes) -> dict[str, Any]:
    """The body as an object; {} where there is none. Raises Refusal: 415, or 400 where it is no JSON object."""
    if not raw:
        return {}
    taken = {"application/json"} | (_PATCH_TYPES if request.method == "PATCH" else set())
    if media_type(request) not in taken:
        raise Refusal(415, "The request body must be JSON.")
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid("The request body is not a JSON object.") from error


def form(request: Request, raw: bytes) -> dict[str, list[str]]:
    """The fields of a form. Raises Refusal: 415, or 400 where it is none."""
    if raw and media_type(request) != "application/x-www-form-urlencoded":
        raise Refusal(415, "The request body must be a form.")
    try:
        return parse_qs(raw.decode(), max_num_fields=1000)
    except ValueError as error:
        raise invalid("The request body is not a form.") from error
