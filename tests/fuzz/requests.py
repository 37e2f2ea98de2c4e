"""Requests as a fuzzer holds them: text that a person can read and change, and how one becomes another.

::

    signed stored                ← how it is signed, and what the publisher does with it
    traceparent: 00-…            ← headers of its own; {sha1} in one is the right digest of the body
                                 ← an empty line
    {"resource": "meetings", …   ← the body, to the last byte
"""

from __future__ import annotations

import enum
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from service.core.signature import sign

SAMPLES = Path(__file__).parents[1] / "samples"

SECRET = b"fuzzing-secret-0123456789"
#: It belongs to ``OWNER`` alone.
BOUND, OWNER = b"fuzzing-bound-0123456789", "00000001-0000-4000-8000-000000000000"

#: The receiver's cap on bodies.
CAP = 64 * 1024


class Signed(enum.StrEnum):
    """By whom, and in which headers."""

    SIGNED = "signed"
    SHA1 = "sha1"
    SHA2 = "sha2"
    BOUND = "bound"
    FORGED = "forged"
    UNSIGNED = "unsigned"


class Then(enum.StrEnum):
    """What the publisher does when it is offered the event."""

    STORED = "stored"
    REFUSED = "refused"
    RAISED = "raised"
    BROKEN = "broken"
    SILENT = "silent"
    TOO_LATE = "tooLate"


@dataclass(frozen=True)
class Request:
    """One request, and what the publisher will do with it."""

    signed: Signed
    then: Then
    own: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Any bytes are one: a fuzzer changes these as it likes."""
        head, _, body = data.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        how, _, then = first.decode("latin-1").partition(" ")
        return cls(
            Signed(how) if how in set(Signed) else Signed.UNSIGNED,
            Then(then) if then in set(Then) else Then.STORED,
            tuple((name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)),
            body,
        )

    def __bytes__(self) -> bytes:
        lines = (b"%s: %s" % (name, value) for name, value in self.own)
        return b"\n".join([f"{self.signed} {self.then}".encode(), *lines]) + b"\n\n" + self.body

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As ASGI has them: its own, and the signatures over the body."""
        own = [(name, _filled(value, self.body)) for name, value in self.own]
        if self.signed is Signed.UNSIGNED:
            return own
        secret = {Signed.BOUND: BOUND, Signed.FORGED: b"nobody's"}.get(self.signed, SECRET)
        spark, webex = ((name.lower().encode(), value.encode()) for name, value in sign(self.body, secret).items())
        return [*own, *{Signed.SHA1: [spark], Signed.SHA2: [webex]}.get(self.signed, [spark, webex])]


def _filled(value: bytes, body: bytes) -> bytes:
    """With the right digests in the places for them."""
    for name in ("sha1", "sha256", "sha512"):
        if (place := b"{%s}" % name.encode()) in value:
            value = value.replace(place, hmac.digest(SECRET, body, name).hex().encode())
    return value


def corpus() -> list[bytes]:
    """One request for each sample, signed; some of them otherwise."""
    bodies = [path.read_bytes() for path in sorted(SAMPLES.glob("*.json")) if path.stem not in _NO_SAMPLES]
    trace = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    kinds = [Request(signed, then, (trace,), bodies[0]) for signed in Signed for then in Then]
    headers = [Request(Signed.UNSIGNED, Then.STORED, own, bodies[0]) for own in _SIGNATURES]
    signed = [Request(Signed.SIGNED, Then.STORED, (), body) for body in bodies]
    return [bytes(each) for each in (*signed, *kinds, *headers)]


_SPARK, _WEBEX = b"x-spark-signature", b"x-webex-signature"

#: As Webex writes them, as somebody else might, and as nobody should.
_SIGNATURES: list[tuple[tuple[bytes, bytes], ...]] = [
    ((_SPARK, b"{sha1}"),),
    ((_WEBEX, b"SHA-256={sha256}, SHA-512={sha512}"),),
    ((_WEBEX, b"SHA-512={sha512}, SHA-256={sha256}"),),
    ((_WEBEX, b'sha256="{sha256}"'), (_SPARK, b"{sha1}")),
    ((_WEBEX, b"{sha512}"),),
    ((_WEBEX, b"{sha256} , {sha512}"),),
    ((_WEBEX, b"SHA-256=" + b"0" * 64 + b", SHA-512={sha512}"),),
    ((_WEBEX, b"SHA-256={sha256}, SHA-512=" + b"0" * 128),),
    ((_WEBEX, b"SHA-256={sha256}, SHA-256={sha256}"),),
    ((_WEBEX, b"SHA-1={sha1}"), (_SPARK, b"{sha1}")),
    ((_WEBEX, b"v1;" + b"x" * 69 + b", SHA-512={sha512}"), (_SPARK, b"0" * 40)),
]

_PIECES = [
    *(
        b"{sha1}",
        b"{sha256}",
        b"{sha512}",
        b"SHA-256=",
        b"SHA-512=",
        b"sha_512=",
        b"SHA-384=",
        b"=",
        b", ",
        b",",
        b'"',
        b" ",
    ),
    *(b"0" * 40, b"0" * 64, b"0" * 128, b"\t", b"\xff", b"\x0b"),
]


def _signature(request: Request, chance: Random) -> Request:
    """One of the above, perhaps with something changed in it, and nothing else that signs."""
    own = [pair for pair in request.own if pair[0] not in (_SPARK, _WEBEX)]
    for name, value in chance.choice(_SIGNATURES):
        for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
            at, end = sorted((chance.randint(0, len(value)), chance.randint(0, len(value))))
            value = value[:at] + chance.choice([*_PIECES, b""]) + value[chance.choice((at, at, end)) :]
        own.append((chance.choice((name, name, name, name.title(), name.replace(b"-", b"_"))), value))
    return replace(request, signed=Signed.UNSIGNED, own=tuple(own))


_NO_SAMPLES = {"signatures", "cloudevents.schema"}


def mutated(data: bytes, chance: Random) -> bytes:
    """After some changes that a stranger to JSON and HTTP would not find."""
    request = Request.parse(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        request = chance.choice(_EDITS)(request, chance)
    return bytes(request)


# --- the body as JSON -------------------------------------------------------------------------------------------------

_KEYS = [
    *(
        "id",
        "resource",
        "event",
        "data",
        "orgId",
        "webhook",
        "raw",
        "meetingId",
        "meetingSeriesId",
        "hostEmail",
        "name",
    ),
    *("authorizerOrgId", "start", "end", "joinedTime", "leftTime", "password", "secret", "withheld", "", "a\n\x1b[2Jb"),
]

_TEXTS = [
    *(
        "",
        " ",
        "\x00",
        "a\r\nb",
        "\x1b[31m",
        "\u2028",
        "\u202e",
        "\ud800",
        "\U0001f600",
        "é",
        "x" * 512,
        "x" * 513,
        "@",
    ),
    *("1970-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-20T15:00:02.1234567Z"),
    *(
        "870f51ff287b41be8648412901e0402f",
        "870f51ff287b41be8648412901e0402f_I_1",
        "870f51ff287b41be8648412901e0402f_\n",
    ),
    *("../people/me", "a?x=", "a#", "%2e%2e", "meetings", "registrants", "started", "deleted", "serviceApp", OWNER),
    "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8wMDAwMDAwMS0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDA",
]

_NUMBERS = [0, -1, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 0.1, -0.0, 1e308, float("inf"), float("nan")]


def _value(chance: Random) -> Any:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice([None, True, False, [], {}, [None], {"id": None}])
    if kind == 1:
        return chance.choice(_NUMBERS)
    if kind == 2:
        value: Any = 0
        for _ in range(chance.choice((1, 5, 62, 63, 64, 65, 300))):
            value = [value] if chance.getrandbits(1) else {"data": value}
        return value
    return chance.choice(_TEXTS) * chance.choice((1, 1, 1, 2, 40))


def _containers(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict | list):
            yield one
            pending.extend(one.values() if isinstance(one, dict) else one)


def _tree(request: Request, chance: Random) -> Request:
    """Change what the JSON says, and perhaps how it is written."""
    try:
        value = json.loads(request.body) if len(request.body) < CAP // 4 else None
    except (ValueError, RecursionError):
        value = None
    places = list(_containers(value))
    if not places:
        return _raw(request, chance)
    _change(chance.choice(places), chance)
    return replace(request, body=_written(value, chance) or request.body)


def _change(place: Any, chance: Random) -> None:
    if isinstance(place, list):
        place.insert(chance.randint(0, len(place)), _value(chance))
        return
    name = chance.choice([*place, *_KEYS])
    if chance.randrange(4) == 0:
        place.pop(name, None)
    else:
        place[name] = _value(chance)


def _written(value: Any, chance: Random) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=chance.randrange(3) > 0, indent=chance.choice((None, None, None, 1)))
    except (RecursionError, ValueError):  # nested too deep, or an integer that Python declines to write
        return b""
    return text.encode("utf-8", "surrogatepass")


# --- the body as bytes ------------------------------------------------------------------------------------------------

_TOKENS = [
    *(
        b"NaN",
        b"1e400",
        b"-0",
        b"9" * 5000,
        b"\xef\xbb\xbf",
        b"\x00",
        b'"\\ud800"',
        b"\xff\xfe",
        b'"id":"x",',
        b"{}",
        b"//",
    ),
    *(b"[" * 70, b'{"a":' * 2000, b"[" * 60_000, b"\n", b"\r\n", b"\xc0\xaf", b'"resource":"meetings",', b"x" * CAP),
]


def _raw(request: Request, chance: Random) -> Request:
    """Change bytes."""
    body = request.body
    at, end = sorted((chance.randint(0, len(body)), chance.randint(0, len(body))))
    changed = [
        lambda: body[:at] + body[end:],
        lambda: body[:at],
        lambda: body[:at] + chance.choice(_TOKENS) + body[at:],
        lambda: body[:at] + chance.randbytes(chance.randint(1, 8)) + body[at:],
        lambda: body[:end] + body[at:],
        lambda: body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :] if at < len(body) else body,
        lambda: (body + b" " * CAP)[: chance.choice((CAP - 1, CAP, CAP + 1))],
    ]
    return replace(request, body=chance.choice(changed)()[: CAP + 16])


# --- headers ----------------------------------------------------------------------------------------------------------

_HEADERS = [
    *(
        (b"content-type", value)
        for value in (b"application/json", b"Application/JSON; x=y", b"", b"text/plain", b"\xff;")
    ),
    *((b"content-encoding", value) for value in (b"identity", b"", b"gzip", b"identity, br", b",,")),
    *((b"content-length", value) for value in (b"0", b"5", b"-1", b"9" * 5000, b"\xb2", b"1_0", b" 7 ", b"+3")),
    *(
        (b"traceparent", value)
        for value in (b"", b"x" * 60_000, b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"\xff" * 55)
    ),
    *((b"x-spark-signature", value) for value in (b"", b"0" * 40, b"\xe4" * 40, b"g" * 40, b"0" * 39 + b"\n")),
    *(
        (b"x-webex-signature", value)
        for value in (b"SHA-512=" + b"0" * 128, b"sha256=," * 500, b"=" * 999, b'"\xff"="')
    ),
    *((b"x_spark_signature", b"0" * 40), (b"", b""), (b"x-canary", b'a\r\n{"event": "x"}\x1b[2J')),
]


def _head(request: Request, chance: Random) -> Request:
    """Another header, one less or a damaged one, another signature, or another publisher."""
    own = list(request.own)
    kind = chance.randrange(5)
    if kind == 0:
        return replace(request, signed=chance.choice(list(Signed)))
    if kind == 1:
        return replace(request, then=chance.choice(list(Then)))
    if own and kind == 2:
        own.pop(chance.randrange(len(own)))
    elif own and kind == 3:
        at = chance.randrange(len(own))
        name, value = own[at]
        own[at] = (name, value[: chance.randint(0, len(value))] + chance.randbytes(2).replace(b"\n", b"") + value[-3:])
    else:
        own.append(chance.choice(_HEADERS))
    return replace(request, own=tuple(own))


_EDITS: Sequence[Callable[[Request, Random], Request]] = (
    *(_tree, _tree, _tree, _tree, _tree, _tree, _tree, _tree),
    *(_raw, _raw, _raw, _raw, _head, _head, _signature),
)
