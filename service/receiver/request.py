"""What is asked of a request before its signature is looked at: framing, media type, size, time.

Headers are taken before the body is read: what arrives after it is no header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import Receive

from service.core.errors import BodyTooLarge, BodyTooSlow, MalformedRequest, UnsupportedMediaType

#: ASGI's raw pairs, with names in lower case.
Pairs = Sequence[tuple[bytes, bytes]]
#: A mapping where no name is there twice, else the pairs.
Headers = dict[bytes, bytes] | Pairs

#: The extension of an ASGI scope in which the guard hands on what it has made of the headers.
FIELDS = "webex-events.headers"


def as_headers(pairs: Pairs) -> Headers:
    """A mapping, where no name is there twice (as in everything that Webex sends)."""
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else pairs


def as_pairs(headers: Headers) -> Pairs:
    """In the order in which they came."""
    return list(headers.items()) if isinstance(headers, dict) else headers


class Disconnected(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


def check(headers: Headers, size: int, *, most: int) -> bytes | None:
    """Look at what comes with a body of ``size`` bytes; the caller's ``traceparent`` where there is exactly one.

    Raises BodyTooLarge, UnsupportedMediaType.
    """
    if size > most:
        raise BodyTooLarge
    if not isinstance(headers, dict):
        return _check_each(headers)
    if b"content-encoding" in headers or not _known_json(headers.get(b"content-type", _JSON)):
        raise UnsupportedMediaType
    return headers.get(b"traceparent")


def _check_each(headers: Pairs) -> bytes | None:
    types, encodings = _values(headers, b"content-type"), _values(headers, b"content-encoding")
    if encodings or not all(map(_is_json, types)):
        raise UnsupportedMediaType
    traces = _values(headers, b"traceparent")
    return traces[0] if len(traces) == 1 else None


_JSON = b"application/json"
_LONGEST_REMEMBERED = 128


def _known_json(value: bytes) -> bool:
    """A client sends the same again and again; what is too long for that is not remembered."""
    return _remembered(value) if len(value) <= _LONGEST_REMEMBERED else _is_json(value)


def _is_json(value: bytes) -> bool:
    """No type at all is accepted as well: whether the bytes are Webex's is for the signature to say."""
    return value.split(b";", 1)[0].strip().lower() == _JSON


@lru_cache(maxsize=64)
def _remembered(value: bytes) -> bool:
    return _is_json(value)


async def read_body(receive: Receive, headers: Pairs, *, most: int, seconds: float) -> bytes:
    """The whole body: at most ``most`` bytes, within ``seconds`` from now, and of the declared length.

    Raises BodyTooLarge, BodyTooSlow, MalformedRequest, Disconnected.
    """
    declared = _content_length(headers)
    if declared is not None and declared > most:
        raise BodyTooLarge
    try:
        async with asyncio.timeout(seconds):
            body = await _collect(receive, most=most)
    except TimeoutError:
        raise BodyTooSlow from None
    if declared is not None and declared != len(body):
        raise MalformedRequest
    return body


async def _collect(receive: Receive, *, most: int) -> bytes:
    """Never holds more than ``most`` bytes and the one chunk that went too far."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise BodyTooLarge
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _content_length(headers: Pairs) -> int | None:
    values = _values(headers, b"content-length")
    if not values:
        return None
    digits = values[0].lstrip(b"0") or b"0"
    # RFC 9110 §8.6: digits only (bytes.isdigit knows only ASCII ones); several different lengths are an attack.
    if len(set(values)) > 1 or not digits.isdigit():
        raise MalformedRequest
    if len(digits) > 18:  # int() would refuse some thousands of digits, and no body is that long
        raise BodyTooLarge
    return int(digits)


def _values(headers: Pairs, wanted: bytes) -> list[bytes]:
    return [value.strip() for name, value in headers if name == wanted]
