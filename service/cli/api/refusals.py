"""What an error of Webex means to whoever typed the command: what happened, what Webex said, how to mend it."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec

from service.cli.endings import FAILED, NOT_NOW, REFUSED, WRONG
from service.core.errors import WebexError, WebexThrottled, WebexUnavailable
from service.core.message import UNREADABLE
from service.telemetry.redaction import masked

_LONGEST = 64 * 1024

_MEND: Mapping[int, str] = {
    302: "That is where a browser would go; with joinDirectly=false Webex answers with the links.",
    400: "Webex does not take these parameters or this body; --dry-run shows what is sent.",
    401: "The access token is not valid, or has ended: see the settings WEBEX_EVENTS_WEBEX__…, then `auth check`.",
    403: "The token lacks a scope, or the right to act for that host (--host-email).",
    404: "There is no such thing for this token. Of another host? --host-email. Just made? Webex may need some minutes.",
    409: "It is in a state that does not allow this; look at it first.",
}


class Overheard(httpx.AsyncBaseTransport):
    """Keeps in ``heard`` the body of the latest answer that was an error. Errors do not carry it, so that no log can have
    it; a person who is waiting for an answer should.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, heard: bytearray) -> None:
        self._inner, self._heard = inner, heard

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As the transport inside."""
        response = await self._inner.handle_async_request(request)
        self._heard.clear()
        if response.status_code >= 400 and isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Copied(response.stream, self._heard)
        return response

    async def aclose(self) -> None:
        """As the transport inside."""
        await self._inner.aclose()


class _Copied(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, into: bytearray) -> None:
        self._inner, self._into = inner, into

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._into += chunk[: _LONGEST - len(self._into)]
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def said(body: bytes) -> str:
    """What Webex said in the body of an error, on one line, without addresses and credentials; "" where nothing can be
    read.
    """
    content = _decoded(body)
    if not isinstance(content, dict):
        return ""
    errors = content["errors"] if isinstance(content.get("errors"), list) else []
    described = [each.get("description") for each in errors if isinstance(each, dict)]
    texts = [text for text in (content.get("message"), *described) if isinstance(text, str) and text.strip()]
    return masked("; ".join(dict.fromkeys(text.strip() for text in texts)))[:500]


def _decoded(body: bytes) -> Any:
    try:
        plain = zlib.decompressobj(wbits=47).decompress(body, _LONGEST) if body[:2] == b"\x1f\x8b" else body
        return msgspec.json.decode(plain)
    except (zlib.error, *UNREADABLE):
        return None


def explained(error: WebexError, *, said: str = "") -> tuple[str, int]:
    """The sentences for stderr, and the exit code."""
    parts = [f"{error}.", f"Webex said: {said}" if said else "", _mending(error)]
    if error.maybe_done:
        parts.append("If it was to change something, it may have done so: look before trying again.")
    return "\n".join(filter(None, parts)), _code(error)


def _code(error: WebexError) -> int:
    if isinstance(error, WebexThrottled | WebexUnavailable):
        return NOT_NOW
    if error.status is None:
        return WRONG  # it was never sent
    return REFUSED if error.status >= 400 else FAILED


def _mending(error: WebexError) -> str:
    if isinstance(error, WebexThrottled):
        return f"Try again in {error.retry_after or 0.0:.0f} seconds."
    if isinstance(error, WebexUnavailable) and error.status is None:
        return "Is WEBEX_EVENTS_WEBEX__BASE_URL right, and the network there?"
    if isinstance(error, WebexUnavailable):
        return "Webex has trouble: try again later."
    return _MEND.get(error.status or 0, "")
