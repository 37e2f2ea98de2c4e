"""Webex's webhook signatures: made here for the sandbox and the command line, checked here for the receiver.

``X-Spark-Signature`` is the documented one: HMAC-SHA1 over the raw body, in hex (Webex for Developers, "Webhooks" guide).
``X-Webex-Signature: SHA-256=<hex>, SHA-512=<hex>`` may stand beside it but is not in that guide, so it is read
leniently and compared strictly. Neither covers a time or a delivery id: a request that was captured verifies for as
long as the secret lives, and only effects that are idempotent by state protect from that.
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from service.core.errors import BadSignature
from service.core.organizations import organization_id, registration_id

SPARK = "X-Spark-Signature"
WEBEX = "X-Webex-Signature"

#: Strongest first, with the length of their digests in hex digits.
_HEX_DIGITS = {"sha512": 128, "sha256": 64, "sha1": 40}


class _Hash(Protocol):
    """What is used of hashlib's objects."""

    def copy(self) -> _Hash: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class SignatureMode(enum.StrEnum):
    """Which headers are looked at: both with the strongest deciding, or one of them only."""

    AUTO = "auto"
    SPARK = "spark"
    WEBEX = "webex"


#: The headers that each mode looks at.
LOOKED_AT = {
    SignatureMode.AUTO: (SPARK, WEBEX),
    SignatureMode.SPARK: (SPARK,),
    SignatureMode.WEBEX: (WEBEX,),
}


#: The owner of a secret that fits everybody.
ANYBODY = ""


def owner_of(name: str) -> str:
    """Whom the secret in a file of this name belongs to: ``<orgId>.<slot>`` and ``<registrationId>.<slot>`` in any form
    that Webex gives ids; ANYBODY for every other name.
    """
    first, dot, _ = name.partition(".")
    return (organization_id(first) or registration_id(first) if dot else "") or ANYBODY


class Secret(msgspec.Struct, frozen=True):
    """A live webhook secret. Several files may hold the same value, for one owner each."""

    value: bytes
    #: Owner → name of the file or setting: that name is what operators see, and never the value. Not empty.
    names: Mapping[str, str]

    @property
    def name(self) -> str:
        """One of its names."""
        return next(iter(self.names.values()))

    def name_for(self, org_id: str, registration: str, *, quarantined: bool = False) -> str | None:
        """The name under which it may sign for this organisation and registration (ids in any form); None: it belongs to
        others. A notification that nobody understands (``quarantined``) and that names neither claims nothing, and is kept.
        """
        names = self.names
        if len(names) == 1 and ANYBODY in names:
            return names[ANYBODY]
        for owner in (organization_id(org_id), registration_id(registration)):
            if owner and owner in names:
                return names[owner]
        if quarantined and not org_id and not registration:
            return self.name
        return names.get(ANYBODY)

    def __repr__(self) -> str:
        return f"Secret({', '.join(self.names.values())})"


def sign(body: bytes, secret: bytes) -> dict[str, str]:
    """The two headers that Webex sends with ``body`` when the webhook has this secret."""
    digests = {algorithm: hmac.digest(secret, body, algorithm).hex() for algorithm in _HEX_DIGITS}
    return {SPARK: digests["sha1"], WEBEX: f"SHA-256={digests['sha256']}, SHA-512={digests['sha512']}"}


#: Names in lower case where it is a mapping (no name is there twice then); in any case in pairs.
Headers = dict[bytes, bytes] | Iterable[tuple[bytes, bytes]]


def verify(body: bytes, headers: Headers, *, secrets: Sequence[bytes], mode: SignatureMode = SignatureMode.AUTO) -> int:
    """:meth:`Verifier.signer`, for whoever asks once. Raises BadSignature, ValueError."""
    return Verifier(secrets, mode=mode).signer(body, headers)


class Verifier:
    """Checks signatures against the live secrets.

    To work a secret into a digest takes as long as to work in a body (RFC 2104 §4), so that is done once for each.
    """

    def __init__(self, secrets: Sequence[bytes], *, mode: SignatureMode = SignatureMode.AUTO) -> None:
        """Raises ValueError where a secret is missing or empty."""
        if not secrets or not all(secrets):
            raise ValueError("at least one secret is needed, and an empty one would let everybody in")
        self._secrets, self._mode = tuple(secrets), mode
        self._keyed: dict[str, list[tuple[_Hash, _Hash]]] = {}

    def signer(self, body: bytes, headers: Headers) -> int:
        """Which of the live secrets signed exactly these bytes, as its index.

        The strongest signature that is known and well-formed decides alone: a weaker one never rescues it. Raises
        BadSignature where none decides or no secret matches.
        """
        algorithm, claim = claimed(headers, self._mode)
        index = found = -1
        # Every secret is tried, so that the time taken does not tell which one is in use.
        for inner, outer in self._keyed.get(algorithm) or self._key(algorithm):
            index += 1
            message, whole = inner.copy(), outer.copy()
            message.update(body)
            whole.update(message.digest())
            if hmac.compare_digest(whole.digest(), claim) and found < 0:
                found = index
        if found < 0:
            raise BadSignature("no live secret made this signature")
        return found

    def _key(self, algorithm: str) -> list[tuple[_Hash, _Hash]]:
        keyed = self._keyed[algorithm] = [_keyed(secret, algorithm) for secret in self._secrets]
        return keyed


def _keyed(secret: bytes, algorithm: str) -> tuple[_Hash, _Hash]:
    """The two hashes of HMAC, as they are when the key is in them (RFC 2104 §2)."""
    new = partial(hashlib.new, algorithm)
    block = new().block_size
    key = (new(secret).digest() if len(secret) > block else secret).ljust(block, b"\0")
    return new(bytes(each ^ 0x36 for each in key)), new(bytes(each ^ 0x5C for each in key))


def claimed(headers: Headers, mode: SignatureMode) -> tuple[str, bytes]:
    """The algorithm and the digest that decide. Raises BadSignature where none does."""
    if not isinstance(headers, dict):
        headers = _each_once(headers, _WANTED[mode])
    spark = headers.get(_SPARK, b"") if mode is not _WEBEX_ONLY else b""
    webex = headers.get(_WEBEX, b"") if mode is not _SPARK_ONLY else b""
    if webex:
        return _strongest(spark, webex)
    digest = _digest(spark.strip(), "sha1")
    if digest is None:
        raise BadSignature(_NONE)
    return "sha1", digest


_NONE = "there is no signature that can be read"
_SPARK, _WEBEX = SPARK.lower().encode(), WEBEX.lower().encode()
#: To look up a member of an enumeration takes as long as all else that is done to know the digest.
_SPARK_ONLY, _WEBEX_ONLY = SignatureMode.SPARK, SignatureMode.WEBEX


def _each_once(headers: Iterable[tuple[bytes, bytes]], wanted: frozenset[bytes]) -> dict[bytes, bytes]:
    """Two of a kind are refused: which one counts would be a guess."""
    found: dict[bytes, bytes] = {}
    for raw_name, value in headers:
        if len(raw_name) not in _LENGTHS or (name := raw_name.lower()) not in wanted:
            continue
        if name in found:
            raise BadSignature("a signature header is there twice")
        found[name] = value
    return found


_WANTED = {mode: frozenset(name.lower().encode() for name in names) for mode, names in LOOKED_AT.items()}
_LENGTHS = {len(SPARK), len(WEBEX)}

#: Both digests of Webex take 216 bytes. A longer header is of an unknown shape, and not worth the time to take it apart.
_LONGEST_CLAIMS = 1024


def _strongest(spark: bytes, webex: bytes) -> tuple[str, bytes]:
    """The strongest algorithm that is known and well-formed, with the digest claimed for it. Raises BadSignature."""
    if (usual := _usual_sha512(webex)) is not None:
        return "sha512", usual
    claims = _webex_claims(webex)
    if (digest := _digest(spark.strip(), "sha1")) is not None:
        claims["sha1"] = digest
    for algorithm in _HEX_DIGITS:
        if algorithm in claims:
            return algorithm, claims[algorithm]
    raise BadSignature(_NONE)


def _usual_sha512(header: bytes) -> bytes | None:
    """The digest at the end of ``SHA-256=<hex>, SHA-512=<hex>``, which is what Webex sends.

    It decides whatever stands before it: there is no room for another SHA-512 there, nor for two SHA-256.
    """
    return _digest(header[82:], "sha512") if header[72:82] == b", SHA-512=" else None


def _webex_claims(header: bytes) -> dict[str, bytes]:
    """Algorithm → digest, for each part of X-Webex-Signature that has a known algorithm and is well-formed."""
    claims: dict[str, bytes] = {}
    if len(header) > _LONGEST_CLAIMS:
        return claims
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
    if len(text) != _HEX_DIGITS.get(algorithm):
        return None
    try:
        return binascii.unhexlify(text)
    except binascii.Error:
        return None
