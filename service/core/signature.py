"""Webex's webhook signatures: made here for the sandbox and the command line, checked here for the receiver.

``X-Spark-Signature`` is the documented one: HMAC-SHA1 over the raw body, in hex (Webex for Developers, "Webhooks" guide).
``X-Webex-Signature: SHA-256=<hex>, SHA-512=<hex>`` may stand beside it but is not in that guide, so it is read
leniently and compared strictly. Neither covers a time or a delivery id: a request that was captured verifies for as
long as the secret lives, and only effects that are idempotent by state protect from that.
"""

from __future__ import annotations

import enum
import hmac
import re
from collections.abc import Iterable, Sequence

from service.core.errors import BadSignature

SPARK = "X-Spark-Signature"
WEBEX = "X-Webex-Signature"

#: Strongest first, with the length of their digests in hex digits.
_HEX_DIGITS = {"sha512": 128, "sha256": 64, "sha1": 40}

_hex = re.compile(rb"[0-9A-Fa-f]+")


class SignatureMode(enum.StrEnum):
    """Which headers are looked at: both with the strongest deciding, or one of them only."""

    AUTO = "auto"
    SPARK = "spark"
    WEBEX = "webex"


_HEADERS = {
    SignatureMode.AUTO: (SPARK, WEBEX),
    SignatureMode.SPARK: (SPARK,),
    SignatureMode.WEBEX: (WEBEX,),
}


def sign(body: bytes, secret: bytes) -> dict[str, str]:
    """The two headers that Webex sends with ``body`` when the webhook has this secret."""
    digests = {algorithm: hmac.digest(secret, body, algorithm).hex() for algorithm in _HEX_DIGITS}
    return {SPARK: digests["sha1"], WEBEX: f"SHA-256={digests['sha256']}, SHA-512={digests['sha512']}"}


def verify(
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    secrets: Sequence[bytes],
    mode: SignatureMode = SignatureMode.AUTO,
) -> int:
    """Which of the live secrets signed exactly these bytes, as its index.

    The strongest signature that is known and well-formed decides alone: a weaker one never rescues it. Raises
    BadSignature where none decides or no secret matches, ValueError where a secret is missing or empty.
    """
    if not secrets or not all(secrets):
        raise ValueError("at least one secret is needed, and an empty one would let everybody in")
    algorithm, claimed = _deciding(_present(headers, mode))
    # Every secret is tried, so that the time taken does not tell which one is in use.
    matches = [hmac.compare_digest(hmac.digest(secret, body, algorithm), claimed) for secret in secrets]
    if not any(matches):
        raise BadSignature("no live secret made this signature")
    return matches.index(True)


def _present(headers: Iterable[tuple[bytes, bytes]], mode: SignatureMode) -> dict[str, bytes]:
    """The signature headers that the mode looks at. Two of a kind are refused: which one counts would be a guess."""
    wanted = {name.lower().encode(): name for name in _HEADERS[mode]}
    found: dict[str, bytes] = {}
    for raw_name, value in headers:
        name = wanted.get(raw_name.lower())
        if name in found:
            raise BadSignature("a signature header is there twice")
        if name is not None:
            found[name] = value
    return found


def _deciding(present: dict[str, bytes]) -> tuple[str, bytes]:
    """The strongest algorithm that is known and well-formed, with the digest claimed for it."""
    claims = _webex_claims(present.get(WEBEX, b""))
    if (spark := _digest(present.get(SPARK, b"").strip(), "sha1")) is not None:
        claims["sha1"] = spark
    for algorithm in _HEX_DIGITS:
        if algorithm in claims:
            return algorithm, claims[algorithm]
    raise BadSignature("there is no signature that can be read")


def _webex_claims(header: bytes) -> dict[str, bytes]:
    """Algorithm → digest, for each part of X-Webex-Signature that has a known algorithm and is well-formed."""
    claims: dict[str, bytes] = {}
    for part in header.split(b","):
        algorithm, digest = _claim(part)
        if digest is None:
            continue
        if algorithm in claims:
            raise BadSignature("one algorithm is there twice")
        claims[algorithm] = digest
    return claims


def _claim(part: bytes) -> tuple[str, bytes | None]:
    """One part: ``SHA-256=<hex>``, ``sha256="<hex>"`` or a bare digest, which its length identifies."""
    name, _, value = _bare(part).rpartition(b"=")
    text = _bare(value)
    if name:
        algorithm = _bare(name).lower().replace(b"-", b"").replace(b"_", b"").decode("latin-1")
    else:
        algorithm = {128: "sha512", 64: "sha256"}.get(len(text), "")
    # SHA-1 has its own header: nothing is known of one in here.
    return algorithm, _digest(text, algorithm) if algorithm != "sha1" else None


def _bare(text: bytes) -> bytes:
    return text.strip(b" \t\"'")


def _digest(text: bytes, algorithm: str) -> bytes | None:
    """The digest that this hex text spells, or None where it is not one of that algorithm."""
    if len(text) != _HEX_DIGITS.get(algorithm) or not _hex.fullmatch(text):
        return None
    return bytes.fromhex(text.decode("ascii"))
