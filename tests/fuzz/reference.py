"""The rules of the signature headers once more, as plainly as they can be written: what ``verify`` must agree with."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

#: Strongest first: how many hex digits, and the names under which X-Webex-Signature may have it.
_KINDS = {"sha512": (128, {b"sha512"}), "sha256": (64, {b"sha256"}), "sha1": (40, set[bytes]())}


def signer(body: bytes, headers: Sequence[tuple[bytes, bytes]], secrets: Sequence[bytes]) -> int | None:
    """The index of the first secret that signed; None where the request is refused."""
    spark = [value for name, value in headers if name.lower() == b"x-spark-signature"]
    webex = [value for name, value in headers if name.lower() == b"x-webex-signature"]
    if len(spark) > 1 or len(webex) > 1:
        return None
    claims = [each for value in webex for part in value.split(b",") if (each := _claim(part))]
    claims += [("sha1", value.strip().lower()) for value in spark if _is_hex(value.strip(), 40)]
    kinds = [kind for kind, _ in claims]
    if not kinds or len(set(kinds)) < len(kinds):
        return None
    strongest = next(kind for kind in _KINDS if kind in kinds)
    claimed = dict(claims)[strongest].decode()
    made = [hmac.new(secret, body, getattr(hashlib, strongest)).hexdigest() for secret in secrets]
    return made.index(claimed) if claimed in made else None


def _claim(part: bytes) -> tuple[str, bytes] | None:
    """One part of X-Webex-Signature, where it is a claim that counts."""
    part = part.strip(b" \t\"'")
    name, _, value = part.rpartition(b"=")
    value, name = value.strip(b" \t\"'"), re.sub(b"[-_]", b"", name.strip(b" \t\"'").lower())
    for kind, (digits, names) in _KINDS.items():
        bare = kind != "sha1" and not name
        if (name in names or bare) and _is_hex(value, digits):
            return kind, value.lower()
    return None


def _is_hex(text: bytes, digits: int) -> bool:
    return re.fullmatch(b"[0-9A-Fa-f]{%d}" % digits, text) is not None
