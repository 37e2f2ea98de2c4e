"""What the headers of a request say about where it goes, where it ends and who made it; ambiguity is refused.

RFC 9112 §3.2 (Host), §6 (the length of the body), §11.2 (why two parsers must not differ). The parser, llhttp in its strict
mode, refuses the rest by itself: bare CR or LF, folded lines, two lengths, a length beside chunks, malformed chunks.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Sequence
from urllib.parse import unquote

import httptools


class Refusal(enum.Enum):
    """Why a connection is cut off: a name for metrics and logs, the status, and what its client is told."""

    TOO_MANY = ("tooMany", 503, "Too many connections")
    TOO_MANY_FROM_SOURCE = ("tooManyFromSource", 503, "Too many connections from this address")
    HEADERS_TOO_SLOW = ("headersTooSlow", 408, "The headers took too long to arrive")
    REQUEST_TOO_SLOW = ("requestTooSlow", 408, "The body took too long to arrive")
    REQUEST_LINE_TOO_LONG = ("requestLineTooLong", 414, "The request line is too long")
    HEADERS_TOO_LARGE = ("headersTooLarge", 431, "The headers are too many or too long")
    BODY_TOO_LARGE = ("bodyTooLarge", 413, "The body is too large")
    MALFORMED = ("malformed", 400, "The request is malformed")
    TRAILERS = ("trailers", 400, "Headers after the body are not accepted")
    HOST = ("host", 400, "Exactly one valid Host is needed")
    FRAMING = ("framing", 400, "The length of the body is ambiguous")
    SIGNATURES = ("signatures", 400, "Each signature header may be there once, spelled with hyphens")
    ENCODED = ("encoded", 415, "Only unencoded application/json is accepted")
    UPGRADE = ("upgrade", 400, "No other protocol is spoken here")
    VERSION = ("version", 505, "Only HTTP/1.1 and HTTP/1.0 are spoken here")

    def __init__(self, reason: str, status: int, detail: str) -> None:
        self.reason, self.status, self.detail = reason, status, detail


#: Headers that two parsers would take different ones of: where it goes, where it ends, who made it.
_ONCE = {
    b"host": Refusal.HOST,
    b"content-length": Refusal.FRAMING,
    b"transfer-encoding": Refusal.FRAMING,
    b"x-spark-signature": Refusal.SIGNATURES,
    b"x-webex-signature": Refusal.SIGNATURES,
}
#: A proxy, or an application behind a gateway, may take these for the signature headers.
_DISGUISED = frozenset(
    {
        *(b"x_spark_signature", b"x_spark-signature", b"x-spark_signature"),
        *(b"x_webex_signature", b"x_webex-signature", b"x-webex_signature"),
    }
)
#: Methods of RTSP and ICE, which llhttp understands too, and the one for proxies. (Where such a protocol has a method of HTTP,
#: as in ``GET / RTSP/1.0``, httptools does not tell that it was not HTTP of the same version, and it is taken for that.)
FOREIGN = frozenset(
    {
        *(b"ANNOUNCE", b"DESCRIBE", b"FLUSH", b"GET_PARAMETER", b"PAUSE", b"PLAY", b"RECORD", b"REDIRECT", b"SETUP"),
        *(b"SET_PARAMETER", b"SOURCE", b"TEARDOWN", b"CONNECT"),
    }
)
#: A request with one of these is looked at closely.
UNUSUAL = frozenset({b"transfer-encoding", b"content-encoding", b"upgrade", b"expect", *_DISGUISED})
#: RFC 3986: a name, an IPv4 or bracketed IPv6 address, perhaps a port; empty where the target has no authority.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")


class Cut(Exception):
    """Stops the parser from inside a callback; without a refusal there is nothing to say."""

    def __init__(self, refusal: Refusal | None = None) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def look_closely(fields: Sequence[tuple[bytes, bytes]], *, version: str, upgrading: bool) -> bool:
    """Whether the client waits for ``100 Continue``. Raises Cut.

    Worth its time only where a name is there twice, or one of UNUSUAL.
    """
    for name, count in Counter(name for name, _ in fields).items():
        if count > 1 and name in _ONCE:
            raise Cut(_ONCE[name])
    # It might be ignored (RFC 9110 §7.8), but httptools takes the body, and all behind it, for another protocol's.
    if upgrading:
        raise Cut(Refusal.UPGRADE)
    expecting = False
    for name, value in fields:
        if name in _DISGUISED:
            raise Cut(Refusal.SIGNATURES)
        # HTTP/1.0 has no codings: whoever passed it on may have seen another end (RFC 9112 §6.1).
        if name == b"transfer-encoding" and (_token(value) != b"chunked" or version == "1.0"):
            raise Cut(Refusal.FRAMING)
        if name == b"content-encoding":
            raise Cut(Refusal.ENCODED)
        if name == b"expect" and _token(value) == b"100-continue" and version != "1.0":
            expecting = True
    return expecting


def told_by(error: Exception) -> Refusal:
    """What the parser's own error means: it has a text, and no code."""
    if "overflow" in str(error):
        return Refusal.BODY_TOO_LARGE
    return Refusal.VERSION if str(error) == "Invalid HTTP version" else Refusal.MALFORMED


def _token(value: bytes) -> bytes:
    return value.strip().lower()


def valid_host(host: bytes | None) -> bytes:
    """Itself. Raises Cut."""
    if host is None or _HOST.fullmatch(host) is None:
        raise Cut(Refusal.HOST)
    return host


def as_written(target: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a target that has a path."""
    url = httptools.parse_url(target)
    return url.path, url.query or b""


def path_of(target: bytes) -> str:
    """The path of a request's target, decoded. Raises Cut."""
    try:
        path: str = httptools.parse_url(target).path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, AttributeError, UnicodeDecodeError):  # no URL, no path, no ASCII
        raise Cut(Refusal.MALFORMED) from None
    return unquote(path)
