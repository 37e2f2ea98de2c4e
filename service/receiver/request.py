"""What is asked of a request before its signature is looked at: framing, media type, size, time.

Headers come as ASGI's raw pairs (lower-case names), taken before the body is read: what arrives after it is no header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Receive

from service.core.errors import BodyTooLarge, BodyTooSlow, MalformedRequest, UnsupportedMediaType

Headers = Sequence[tuple[bytes, bytes]]


class Disconnected(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


def check(headers: Headers, *, most: int) -> int | None:
    """The declared length of the body, None where none is declared. Raises what the headers alone are refused for."""
    length = _content_length(headers)
    if length is not None and length > most:
        raise BodyTooLarge
    _check_media_type(headers)
    return length


async def read_body(receive: Receive, *, declared: int | None, most: int, seconds: float) -> bytes:
    """The whole body: at most ``most`` bytes, within ``seconds`` from now, and of the declared length.

    Never holds more than ``most`` bytes and the one chunk that went too far.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await _collect(receive, most)
    except TimeoutError:
        raise BodyTooSlow from None
    if declared is not None and declared != len(body):
        raise MalformedRequest
    return body


async def _collect(receive: Receive, most: int) -> bytes:
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


def _content_length(headers: Headers) -> int | None:
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


def _check_media_type(headers: Headers) -> None:
    """No type at all is accepted: whether the bytes are Webex's is for the signature to say."""
    types = _values(headers, b"content-type")
    if any(value.split(b";", 1)[0].strip().lower() != b"application/json" for value in types):
        raise UnsupportedMediaType
    codings = (
        coding.strip().lower() for value in _values(headers, b"content-encoding") for coding in value.split(b",")
    )
    if any(coding not in (b"", b"identity") for coding in codings):
        raise UnsupportedMediaType


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value.strip() for name, value in headers if name == wanted]
