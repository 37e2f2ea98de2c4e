"""Does the time that ``Verifier.signer`` takes tell anything? Welch's t-test, as dudect does it (Reparaz, Balasch, Verbauwhede,
"Dude, is my code constant time?", DATE 2017).

Two classes of requests are timed in random order, each built anew by the same code so that nothing but their class
differs. Interruptions make single times long, so the test is repeated without the longest ones, at several cut-offs.
|t| < 4.5 everywhere: no difference was found. A million samples take some minutes of CPU::

    nice -n 19 python -m tests.security.timing
    python -m tests.security.timing --self-test    # a leaky comparison must be found
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import hmac
import math
import random
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from service.core.errors import BadSignature
from service.core.signature import Verifier

#: Beyond it chance is no explanation: it happens once in 150 000 tests.
THRESHOLD = 4.5

#: The shares of all samples that are looked at, the shortest first. 1 is all of them.
SHARES = (1.0, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5)

_BATCH = 2_000
_BODY = 400

Headers = Sequence[tuple[bytes, bytes]]


#: For these secrets: the index of the one that signed. Raises BadSignature.
Signer = Callable[[bytes, Headers], int]
Subject = Callable[[Sequence[bytes]], Signer]


def signer(secrets: Sequence[bytes]) -> Signer:
    """What the receiver uses, made once for its live secrets."""
    return Verifier(secrets).signer


@dataclass(frozen=True)
class Request:
    """What is timed once, and its class (0 or 1)."""

    kind: int
    body: bytes
    headers: Headers


@dataclass(frozen=True)
class Comparison:
    """Two classes of requests that nobody should be able to tell apart."""

    name: str
    secrets: Sequence[bytes]
    make: Callable[[random.Random, int], Request]


@dataclass(frozen=True)
class Finding:
    """One t-test: over which share of the samples, t, and the difference of the means in ns with its standard error."""

    share: float
    t: float
    difference: float
    error: float


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The difference of the means (the second's less the first's) and its standard error; their quotient is Welch's t."""
    means = [math.fsum(each) / len(each) for each in (first, second)]
    variances = [
        math.fsum((value - mean) ** 2 for value in each) / (len(each) - 1)
        for each, mean in zip((first, second), means, strict=True)
    ]
    error = math.sqrt(variances[0] / len(first) + variances[1] / len(second))
    return means[1] - means[0], error


def findings(times: tuple[Sequence[int], Sequence[int]], shares: Iterable[float] = SHARES) -> list[Finding]:
    """One test for each share: what is longer than that share of *all* samples is left out of both classes."""
    pooled = sorted((*times[0], *times[1]))
    found = []
    for share in shares:
        longest = pooled[max(0, math.ceil(share * len(pooled)) - 1)]
        difference, error = welch(*([value for value in each if value <= longest] for each in times))
        t = difference / error if error else math.copysign(math.inf, difference) if difference else 0.0
        found.append(Finding(share, t, difference, error))
    return found


def timed(
    comparison: Comparison,
    *,
    subject: Subject,
    samples: int,
    seed: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[array[int], array[int]]:
    """How long each of ``samples`` calls took, by class; on ``clock``, in its units."""
    chance = random.Random(seed)  # noqa: S311 - the order of samples, no secret
    times, signer_of = (array("q"), array("q")), subject(comparison.secrets)
    for begun in range(0, samples, _BATCH):
        batch = [comparison.make(chance, chance.getrandbits(1)) for _ in range(min(_BATCH, samples - begun))]
        gc.collect(0)
        gc.disable()
        for request in batch:
            times[request.kind].append(_once(signer_of, request, clock))
        gc.enable()
    return times


def _once(signer_of: Signer, request: Request, clock: Callable[[], int]) -> int:
    body, headers = request.body, request.headers
    begun = clock()
    try:
        signer_of(body, headers)
    except BadSignature:
        return clock() - begun
    raise AssertionError("every request of this test is forged")


# --- what is compared -------------------------------------------------------------------------------------------------


def _wrong_at(secret: bytes, algorithm: str, header: bytes, prefix: bytes) -> Callable[[random.Random, int], Request]:
    """Class 0 has its first byte wrong, class 1 its last one; all others are right."""

    def make(chance: random.Random, kind: int) -> Request:
        body = chance.randbytes(_BODY)
        digest = bytearray(hmac.digest(secret, body, algorithm))
        digest[-kind] ^= chance.randrange(1, 256)  # -0 is the first, -1 the last
        return Request(kind, body, [(header, prefix + digest.hex().encode())])

    return make


def _named(owners: Sequence[bytes]) -> Callable[[random.Random, int], Request]:
    """Class 0 names an owner that has a secret, class 1 one of the same length that has none; both are forged."""

    def make(chance: random.Random, kind: int) -> Request:
        known, unknown = chance.choice(owners), chance.randbytes(16).hex().encode()
        body = b'{"orgId":"%s","data":"%s"}' % ((known, unknown)[kind], chance.randbytes(_BODY // 8).hex().encode())
        return Request(kind, body, [(b"x-spark-signature", chance.randbytes(20).hex().encode())])

    return make


def comparisons(owners: int = 100) -> list[Comparison]:
    """The first byte of the digest wrong or its last; a known owner or an unknown one, of so many."""
    secret = b"a secret of some length, as operators choose them"
    names = [hashlib.sha256(b"owner %d" % number).hexdigest()[:32].encode() for number in range(owners)]
    secrets = [hashlib.sha256(b"secret of " + name).digest() for name in names]
    return [
        Comparison(
            "SHA-1: first byte wrong, last byte wrong", [secret], _wrong_at(secret, "sha1", b"x-spark-signature", b"")
        ),
        Comparison(
            "SHA-512: first byte wrong, last byte wrong",
            [secret],
            _wrong_at(secret, "sha512", b"x-webex-signature", b"SHA-512="),
        ),
        Comparison(f"known owner, unknown owner ({owners} secrets)", secrets, _named(names)),
    ]


def leaky(secrets: Sequence[bytes]) -> Signer:
    """What it must not be: it stops at the first byte that differs."""

    def leaking(body: bytes, headers: Headers) -> int:
        claimed = bytes.fromhex(headers[0][1].decode())
        for index, secret in enumerate(secrets):
            if _same(hmac.digest(secret, body, "sha1"), claimed):
                return index
        raise BadSignature

    return leaking


def _same(ours: bytes, theirs: bytes) -> bool:
    return all(mine == other for mine, other in zip(ours, theirs, strict=True))


# --- the program ------------------------------------------------------------------------------------------------------


def report(comparison: Comparison, subject: Subject, *, samples: int, seed: int) -> float:
    """Print one line for each cut-off; the largest |t|."""
    sys.stdout.write(f"{comparison.name}, {samples} samples\n")
    found = findings(timed(comparison, subject=subject, samples=samples, seed=seed))
    for each in found:
        sys.stdout.write(
            f"  shortest {each.share:6.1%}  t = {each.t:+8.2f}  difference {each.difference:+8.1f} ns"
            f"  (seen from {THRESHOLD * each.error:.1f} ns on)\n"
        )
    sys.stdout.flush()
    return max(abs(each.t) for each in found)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: as it should be; 1: a leak was found, or the planted one was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.timing", description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--self-test", action="store_true", help="time a comparison that leaks")
    given = parser.parse_args(arguments)
    if given.self_test:
        worst = report(comparisons()[0], leaky, samples=min(given.samples, 20_000), seed=given.seed)
        sys.stdout.write("the leak was found\n" if worst > 10 * THRESHOLD else "THE LEAK WAS NOT FOUND\n")
        return int(worst <= 10 * THRESHOLD)
    worst = max(report(each, signer, samples=given.samples, seed=given.seed) for each in comparisons())
    cpu = time.process_time()
    sys.stdout.write(f"largest |t| = {worst:.2f} ({'no leak found' if worst < THRESHOLD else 'A LEAK'}), {cpu:.0f} s\n")
    return int(worst >= THRESHOLD)


if __name__ == "__main__":
    sys.exit(main())
