"""Why a request's signature was refused: a code for programs, a sentence for people, and what mends it.

What usually goes wrong stands between Webex and here: a proxy or a framework that writes the body anew, a header that got
lost or was copied into another, a secret with a blank too much. So the body is changed back in the few ways in which such
programs change it, and whoever's signature fits then has told what happened. All of it is bounded: the list of changes is
fixed, and so is the work that may go into it (:data:`EFFORT`). Nothing here says a secret, a digest or a part of a body.
"""

from __future__ import annotations

import binascii
import enum
import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from service.core.errors import BadSignature
from service.core.message import UNREADABLE
from service.core.notification import accept
from service.core.organizations import SINGLE
from service.core.signature import LOOKED_AT, SPARK, WEBEX, Secret, SignatureMode, claimed

Headers = Sequence[tuple[bytes, bytes]]

#: Bytes that are hashed at most for one diagnosis; about 10 ms.
EFFORT = 8 << 20
#: Of a notification only its owner is asked for here, and not its time.
_WHENEVER = datetime(1970, 1, 1, tzinfo=UTC)
#: What one digest costs beside its bytes, as bytes.
_DIGEST = 512


class Code(enum.StrEnum):
    """What is wrong."""

    VERIFIED = "verified"
    WRONG_OWNER = "wrongOwner"
    SIGNATURE_MISSING = "signatureMissing"
    TWO_SIGNATURES = "twoSignatures"
    UNKNOWN_ALGORITHM = "unknownAlgorithm"
    WRONG_HEADER = "wrongHeader"
    BODY_EMPTY = "bodyEmpty"
    BODY_ALTERED = "bodyAltered"
    WRONG_SECRET = "wrongSecret"  # noqa: S105 - a code
    UNDETERMINED = "undetermined"


MENDING: Mapping[str, str] = {
    Code.VERIFIED: "",
    Code.WRONG_OWNER: "Give that secret to one organisation's webhooks only, or name its file without an id before the dot.",
    Code.SIGNATURE_MISSING: "Register the webhook with a secret, and let proxies pass the signature headers on.",
    Code.TWO_SIGNATURES: "Find the proxy or relay that adds a header, and let Webex's own be the only one.",
    Code.UNKNOWN_ALGORITHM: f"{SPARK} is 40 hex digits (HMAC-SHA1); {WEBEX} is SHA-256=<hex>, SHA-512=<hex>.",
    Code.WRONG_HEADER: f"Pass the headers on as Webex sends them, or see WEBHOOK__SIGNATURES: auto, spark (only {SPARK}), "
    f"webex (only {WEBEX}).",
    Code.BODY_EMPTY: "Look for what reads the body before it gets here: a firewall, a function, a framework.",
    Code.BODY_ALTERED: "Let proxies and relays pass the body on byte by byte; the signature covers the bytes, not the JSON.",
    Code.WRONG_SECRET: "Give the webhook and this service the same secret; `webhooks update` sets the one at Webex. "
    "Where it is the same, compare body and signature with what Webex sent, byte by byte.",
    Code.UNDETERMINED: "Ask `webex-events signature verify` with the body and its headers: that one tries everything.",
}


#: What nobody can tell apart: one letter more or less gives another digest altogether.
_NOTHING_FITS = (
    "No live secret made this signature over this body: either another secret did, or the body or the signature was altered "
    "on its way, and not in one of the usual ways."
)


class Diagnosis(msgspec.Struct, frozen=True):
    """What was found. ``secret`` is the name of the live secret that made the signature, "" where none is known to."""

    code: Code
    sentence: str
    secret: str = ""

    @property
    def mending(self) -> str:
        """What to do about it; "" where there is nothing to do."""
        return MENDING[self.code]


def diagnose(
    body: bytes, headers: Headers, *, secrets: Sequence[Secret], mode: SignatureMode, effort: int = EFFORT
) -> Diagnosis:
    """What becomes of this request, and why. Total; ``effort`` bounds the work, see :data:`EFFORT`."""
    trial = _Trial(secrets, effort)
    try:
        return _judged(body, headers, mode, trial)
    except _TooMuch:
        return Diagnosis(Code.UNDETERMINED, "There is too much to try: a long body, or many secrets.")


def _judged(body: bytes, headers: Headers, mode: SignatureMode, trial: _Trial) -> Diagnosis:
    try:
        claim = claimed(headers, mode)
    except BadSignature:
        return _without_claim(body, headers, mode, trial)
    if signer := trial.signer(body, claim):
        return _owned(body, signer)
    return (
        _elsewhere(body, headers, trial, tried=claim)
        or _empty(body)
        or _altered(body, claim, trial)
        or _nearly(body, claim, trial)
        or Diagnosis(Code.WRONG_SECRET, _NOTHING_FITS)
    )


# --- whose signature is it --------------------------------------------------------------------------------------------

_Claim = tuple[str, bytes]


class _TooMuch(Exception):
    """The effort is used up."""


class _Trial:
    """Tries the secrets, as long as the effort lasts."""

    def __init__(self, secrets: Sequence[Secret], effort: int) -> None:
        self.secrets = secrets
        self._effort = effort

    def signer(self, body: bytes, claim: _Claim) -> Secret | None:
        """The secret that made this digest of this body. Raises _TooMuch."""
        return next((each for each in self.secrets if self.fits(each.value, body, claim)), None)

    def fits(self, value: bytes, body: bytes, claim: _Claim) -> bool:
        """Whether this secret did. Raises _TooMuch."""
        self._effort -= len(body) + _DIGEST
        if self._effort < 0:
            raise _TooMuch
        algorithm, digest = claim
        return hmac.compare_digest(hmac.digest(value, body, algorithm), digest)


def _owned(body: bytes, signer: Secret) -> Diagnosis:
    """Signed: by the right one?"""
    accepted = accept(body, received=_WHENEVER, receiver="", traceparent="", organizations=SINGLE)
    name = signer.name_for(accepted.org_id, accepted.registration, quarantined=accepted.quarantined)
    if name is not None:
        return Diagnosis(Code.VERIFIED, f"Verified with the secret {name}.", name)
    sentence = f"The secret {signer.name} made this signature, but belongs to another organisation or registration."
    return Diagnosis(Code.WRONG_OWNER, sentence, signer.name)


# --- headers ----------------------------------------------------------------------------------------------------------


def _without_claim(body: bytes, headers: Headers, mode: SignatureMode, trial: _Trial) -> Diagnosis:
    """No header decides."""
    if twice := next((name for name in LOOKED_AT[mode] if len(_values(headers, name)) > 1), None):
        return Diagnosis(Code.TWO_SIGNATURES, f"The header {twice} is there twice; which one counts would be a guess.")
    if _algorithm_twice(headers):
        return Diagnosis(Code.TWO_SIGNATURES, f"{WEBEX} has one algorithm twice; which one counts would be a guess.")
    if found := _elsewhere(body, headers, trial):
        return found
    if any(value.strip() for name in LOOKED_AT[mode] for value in _values(headers, name)):
        sentence = "There is a signature header, but nothing in it is a digest of a known algorithm."
        return Diagnosis(Code.UNKNOWN_ALGORITHM, sentence)
    return Diagnosis(Code.SIGNATURE_MISSING, f"There is no {' and no '.join(LOOKED_AT[mode])} header with a value.")


def _values(headers: Headers, wanted: str) -> list[bytes]:
    lower = wanted.lower().encode()
    return [value for name, value in headers if name.lower() == lower]


def _algorithm_twice(headers: Headers) -> bool:
    parts = [part.partition(b"=") for value in _values(headers, WEBEX) for part in value.split(b",")]
    algorithms = Counter(re.sub(rb"[^a-z0-9]", b"", name.lower()) for name, equals, _ in parts if equals)
    return any(count > 1 for count in algorithms.values())


def _elsewhere(body: bytes, headers: Headers, trial: _Trial, *, tried: _Claim | None = None) -> Diagnosis | None:
    """A right digest that stands where it does not count: in another header or form, or beside a stronger wrong one."""
    for name, claim in _digests(headers):
        if claim != tried and (signer := trial.signer(body, claim)):
            sentence = (
                f"The header {name} has a right digest (HMAC-{claim[0].upper()}, made with the secret {signer.name}), but "
                f"it does not count there: wrong header, wrong form, or a stronger one that is wrong decides."
            )
            return Diagnosis(Code.WRONG_HEADER, sentence, signer.name)
    return None


#: Length of a digest in bytes → algorithm.
_ALGORITHMS = {20: "sha1", 32: "sha256", 64: "sha512"}
_HEX = re.compile(rb"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{128}|[0-9A-Fa-f]{64}|[0-9A-Fa-f]{40})(?![0-9A-Za-z])")
_BASE64 = re.compile(
    rb"(?<![0-9A-Za-z+/])(?:[0-9A-Za-z+/]{27}=|[0-9A-Za-z+/]{43}=|[0-9A-Za-z+/]{86}==)(?![0-9A-Za-z=])"
)
#: The headers of other senders' signatures, which relays like to write.
_SIGNATURE_HEADERS = {
    b"x-spark-signature": SPARK,
    b"x-webex-signature": WEBEX,
    b"x-hub-signature": "X-Hub-Signature",
    b"x-hub-signature-256": "X-Hub-Signature-256",
    b"x-signature": "X-Signature",
}
_MOST_DIGESTS = 8


def _digests(headers: Headers) -> Iterator[tuple[str, _Claim]]:
    """What looks like a digest, in hex or base64, in any header of signatures; a few at most."""
    found = [
        (_SIGNATURE_HEADERS[name.lower()], digest)
        for name, value in headers
        if name.lower() in _SIGNATURE_HEADERS
        for digest in (
            *(bytes.fromhex(each.decode("ascii")) for each in _HEX.findall(value)),
            *(binascii.a2b_base64(each) for each in _BASE64.findall(value)),
        )
    ]
    for name, digest in found[:_MOST_DIGESTS]:
        yield name, (_ALGORITHMS[len(digest)], digest)


# --- the body ---------------------------------------------------------------------------------------------------------


def _empty(body: bytes) -> Diagnosis | None:
    return None if body else Diagnosis(Code.BODY_EMPTY, "There is a signature, but the body has arrived empty.")


def _altered(body: bytes, claim: _Claim, trial: _Trial) -> Diagnosis | None:
    """The signature fits after one of the usual changes was taken back."""
    seen = {body}
    for what, origins in _CHANGES:
        for origin in origins(body):
            if origin in seen:
                continue
            seen.add(origin)
            if signer := trial.signer(origin, claim):
                sentence = f"The body was altered on its way: {what}. The secret {signer.name} fits what Webex sent."
                return Diagnosis(Code.BODY_ALTERED, sentence, signer.name)
    return None


_BOM = b"\xef\xbb\xbf"


def _without_end(body: bytes) -> Iterator[bytes]:
    yield body.removesuffix(b"\n").removesuffix(b"\r")
    yield body.strip()


def _with_end(body: bytes) -> Iterator[bytes]:
    yield body + b"\n"
    yield body + b"\r\n"


def _other_line_ends(body: bytes) -> Iterator[bytes]:
    unix = body.replace(b"\r\n", b"\n")
    yield unix
    yield unix.replace(b"\n", b"\r\n")


def _other_mark(body: bytes) -> Iterator[bytes]:
    yield body.removeprefix(_BOM) if body.startswith(_BOM) else _BOM + body


#: Indentation is written out for each level, so nested brackets could make a small body huge.
_MOST_BRACKETS, _DEEPEST = 1000, 16


def _layouts(body: bytes) -> Iterator[bytes]:
    """The same JSON with other white space: what programs write who have read it; nothing for what is no JSON."""
    if not _shallow(body):
        return
    for indent in (-1, 2, 4, 0):  # -1: no white space at all, as Webex writes it; 0: one line with blanks
        try:
            layout = msgspec.json.format(body, indent=indent)
        except UNREADABLE:
            return
        yield layout
        yield layout + b"\n"


def _shallow(body: bytes) -> bool:
    brackets = re.findall(rb"[\[\]{}]", body)
    depth = deepest = 0
    for bracket in brackets[:_MOST_BRACKETS]:
        depth += 1 if bracket in (b"[", b"{") else -1
        deepest = max(deepest, depth)
    return len(brackets) <= _MOST_BRACKETS and deepest <= _DEEPEST


#: Every character that is not ASCII is handled by itself: 10 ms for so many bytes.
_LONGEST_SPELT = 16 << 10
_ESCAPES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def _spellings(body: bytes) -> Iterator[bytes]:
    """The same texts with other escapes, each also in the other layouts; nothing for what is far too long for Webex's."""
    if len(body) > _LONGEST_SPELT:
        return
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return
    plain = _ESCAPES.sub(_unescaped, text)
    lower = _NOT_ASCII.sub(_escaped, plain)
    upper = re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), lower)
    for spelling in dict.fromkeys(each.encode("utf-8") for each in (plain, lower, upper)):
        yield spelling
        yield from _layouts(spelling)


def _unescaped(found: re.Match[str]) -> str:
    """The character itself, where JSON does not demand the escape."""
    escape = found[0]
    if escape == r"\/":
        return "/"
    if escape[1] != "u":
        return escape
    units = b"".join(bytes.fromhex(unit) for unit in escape.split(r"\u")[1:])
    try:
        character = units.decode("utf-16-be")
    except UnicodeDecodeError:  # half a surrogate pair
        return escape
    return escape if character < " " or character in '"\\' else character


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(rf"\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _encodings(body: bytes) -> Iterator[bytes]:
    """UTF-8 that was taken for Latin-1 and written anew, or the other way round."""
    yield body.decode("latin-1").encode("utf-8")
    try:
        yield body.decode("utf-8").encode("latin-1")
    except UnicodeError:
        return


_CHANGES: tuple[tuple[str, Callable[[bytes], Iterable[bytes]]], ...] = (
    ("a newline or blanks were put around it", _without_end),
    ("the newline at its end was taken away", _with_end),
    ("its line ends were changed between LF and CRLF", _other_line_ends),
    ("a byte order mark was put before it, or taken away", _other_mark),
    ("its JSON was written anew, with other white space", _layouts),
    ("its JSON was written anew, with other escapes", _spellings),
    ("its characters were taken for another encoding", _encodings),
)


# --- the secret -------------------------------------------------------------------------------------------------------


def _nearly(body: bytes, claim: _Claim, trial: _Trial) -> Diagnosis | None:
    """A live secret that is right but for how it was written down."""
    for secret in trial.secrets:
        for how, value in _writings(secret.value):
            if value and value != secret.value and trial.fits(value, body, claim):
                return Diagnosis(Code.WRONG_SECRET, f"The secret {secret.name} would fit {how}.")
    return None


def _writings(value: bytes) -> Iterator[tuple[str, bytes]]:
    yield "without the blanks or quotes around it", value.strip(b" \t\r\n\"'")
    yield "with a newline at its end, which the webhook has in its secret", value + b"\n"
    for how, decode in (("decoded from base64", binascii.a2b_base64), ("decoded from hex", binascii.unhexlify)):
        try:
            yield how, decode(value)
        except ValueError:  # binascii.Error is one
            continue
