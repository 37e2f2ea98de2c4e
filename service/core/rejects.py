"""What is remembered of a request that was refused: enough to find out why, and nothing that would let anybody in.

Never a signature's value, and of the headers only what names the sender's program. What strangers wrote is cut short and
has only harmless characters left, so that it is text wherever it is shown.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from service.core.diagnosis import Diagnosis, Headers
from service.core.message import UNREADABLE
from service.core.signature import SPARK, WEBEX

#: Characters that are kept of a header, and of a source address.
_LONGEST = 120
_STRANGE = re.compile(r"[^A-Za-z0-9 ./;:()\[\]_,+*=-]")
_MOST_PARTS = 4
_ALGORITHM = re.compile(rb"(?i)\s*[\"']?(sha[-_]?(?:1|224|256|384|512)|md5|v[0-9])\s*=")
_HEX = re.compile(rb"[0-9A-Fa-f]+")


class Reject(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A refused request, or several alike (same source, reason, body and signatures) within an hour.

    ``time`` and ``last`` are when the first and the last of them came; ``left_out`` is how many others had come since the
    one before this, of which nothing was kept. ``signatures``: header → the shape of its value. ``body`` is base64, and only
    there where bodies are kept.
    """

    id: str
    time: datetime
    last: datetime
    count: int = 1
    reason: str
    diagnosis: str
    sentence: str
    source: str
    signatures: dict[str, str]
    content_type: str
    user_agent: str
    body_bytes: int
    body_sha256: str
    left_out: int = 0
    body: str | msgspec.UnsetType = msgspec.UNSET


#: Equal for those that count as one.
Fingerprint = tuple[str, str, str, int]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it was refused."""

    time: datetime
    reason: str
    headers: Headers
    body: bytes
    source: str

    def fingerprint(self) -> Fingerprint:
        """Whence it came, why it was refused, and hashes of its body and its signatures."""
        signatures = tuple((name, value) for name, value in self.headers if name.lower().endswith(b"-signature"))
        return self.source, self.reason, hashlib.sha256(self.body).hexdigest(), hash(signatures)


def remembered(refused: Refused, diagnosis: Diagnosis, *, id_: str, left_out: int, bodies: bool) -> Reject:
    """What is kept of it."""
    return Reject(
        id=id_,
        time=refused.time,
        last=refused.time,
        reason=refused.reason,
        diagnosis=diagnosis.code,
        sentence=diagnosis.sentence,
        source=_harmless(refused.source),
        signatures=_signatures(refused.headers),
        content_type=_header(refused.headers, b"content-type"),
        user_agent=_header(refused.headers, b"user-agent"),
        body_bytes=len(refused.body),
        body_sha256=hashlib.sha256(refused.body).hexdigest(),
        left_out=left_out,
        body=base64.b64encode(refused.body).decode("ascii") if bodies else msgspec.UNSET,
    )


def repeated(reject: Reject, *, at: datetime) -> Reject:
    """One more of them came."""
    return msgspec.structs.replace(reject, last=at, count=reject.count + 1)


def written(reject: Reject) -> bytes:
    """One line of JSON, with its newline."""
    return msgspec.json.encode(reject) + b"\n"


def merged(lines: Iterable[bytes], *, oldest: datetime) -> list[Reject]:
    """What these lines hold that is not older, in the order of time; of several lines with one id, the one that counts
    most. A line that cannot be read is left out: the process may have ended while it was written.
    """
    found: dict[str, Reject] = {}
    for line in lines:
        try:
            reject = msgspec.json.decode(line, type=Reject)
            if reject.time.tzinfo is None or reject.last.tzinfo is None:
                continue
        except UNREADABLE:
            continue
        if reject.last >= oldest and reject.count >= getattr(found.get(reject.id), "count", 0):
            found[reject.id] = reject
    return sorted(found.values(), key=lambda each: each.time)


# --- headers ----------------------------------------------------------------------------------------------------------


def _signatures(headers: Headers) -> dict[str, str]:
    found = {name: [_shape(value) for value in _values(headers, name.lower().encode())] for name in (SPARK, WEBEX)}
    return {name: " | ".join(shapes[:_MOST_PARTS]) for name, shapes in found.items() if shapes}


def _shape(value: bytes) -> str:
    """``SHA-256=64 hex digits, 12 other bytes``: what it looks like, and nothing of what it is."""
    parts = value.split(b",")
    more = f", and {len(parts) - _MOST_PARTS} more" if len(parts) > _MOST_PARTS else ""
    return ", ".join(map(_part, parts[:_MOST_PARTS])) + more


def _part(part: bytes) -> str:
    algorithm = _ALGORITHM.match(part)
    name = f"{algorithm[1].decode('ascii')}=" if algorithm else ""
    digest = (part[algorithm.end() :] if algorithm else part).strip(b" \t\"'")
    return (
        f"{name}{len(digest)} {'hex digits' if _HEX.fullmatch(digest) else 'other bytes'}" if digest else f"{name}empty"
    )


def _header(headers: Headers, wanted: bytes) -> str:
    values = _values(headers, wanted)
    return _harmless(values[0].decode("latin-1")) if values else ""


def _values(headers: Headers, wanted: bytes) -> Sequence[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _harmless(text: str) -> str:
    return _STRANGE.sub("?", text[:_LONGEST])
