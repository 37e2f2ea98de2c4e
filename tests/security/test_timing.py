"""The arithmetic of the timing test. Its million samples are taken by hand: ``python -m tests.security.timing``."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from service.core.errors import BadSignature
from service.core.signature import sign
from tests.security.timing import (
    THRESHOLD,
    Comparison,
    Headers,
    Signer,
    Subject,
    comparisons,
    findings,
    leaky,
    signer,
    timed,
    welch,
)

# The first example of Wikipedia's article on Welch's t-test.
FIRST = (
    [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4],
    [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4],
)


def test_welch_on_known_data() -> None:
    """t, difference and standard error, as published (t = -2.46 for the first less the second) and by hand."""
    difference, error = welch(*FIRST)
    assert difference / error == pytest.approx(2.455, abs=0.001)
    assert welch([1, 2, 3], [2, 4, 6]) == pytest.approx((2.0, (5 / 3) ** 0.5))


def test_what_is_long_is_left_out_of_both() -> None:
    """The share is one of all samples; a few interruptions hide a difference, which shows without them."""
    quick, slow = [100 + number % 7 for number in range(1000)], [102 + number % 7 for number in range(1000)]
    quick[::20] = [10**6] * 50
    everything, most = findings((quick, slow), shares=(1.0, 0.95))
    assert abs(everything.t) < 8
    assert most.t > 15
    assert most.difference == pytest.approx(2, abs=0.2)


def test_equal_times_are_no_difference() -> None:
    """Without any spread there is no quotient; a difference without any spread is an infinite one."""
    assert [each.t for each in findings(([5] * 10, [5] * 10), shares=(1.0,))] == [0.0]
    assert [each.t for each in findings(([5] * 10, [6] * 10), shares=(1.0,))] == [float("inf")]


@pytest.mark.parametrize("comparison", comparisons(owners=3), ids=lambda each: each.name)
def test_the_classes_differ_in_nothing_else(comparison: Comparison) -> None:
    """Requests of both are forged, of one length, and come in an order that the seed decides."""
    chance = random.Random(1)  # noqa: S311
    made = [comparison.make(chance, kind) for kind in (0, 1) for _ in range(50)]
    assert len({(len(each.body), tuple((name, len(value)) for name, value in each.headers)) for each in made}) == 1
    assert len({each.body for each in made}) == 100
    for each in made:
        with pytest.raises(BadSignature):
            signer(comparison.secrets)(each.body, each.headers)
    counts = [len(each) for each in timed(comparison, subject=signer, samples=400, seed=1)]
    assert sum(counts) == 400
    assert min(counts) > 150


def counted(subject: Subject) -> tuple[Sequence[int], Sequence[int]]:
    """Times on a clock that counts the bytes that were compared, and some chance."""
    chance, compared = random.Random(2), itertools.count()  # noqa: S311
    ticks = [0]

    def counting(secrets: Sequence[bytes]) -> Signer:
        def timed_signer(body: bytes, headers: Headers) -> int:
            ticks[0] += chance.randrange(40) + next(compared) % 3
            try:
                return subject(secrets)(body, headers)
            finally:
                ticks[0] += _position(body, headers, secrets[0]) if subject is leaky else 20

        return timed_signer

    return timed(comparisons()[0], subject=counting, samples=4000, seed=1, clock=lambda: ticks[0])


def _position(body: bytes, headers: Headers, secret: bytes) -> int:
    """How far a comparison gets that stops at the first difference."""
    ours, theirs = bytes.fromhex(sign(body, secret)["X-Spark-Signature"]), bytes.fromhex(headers[0][1].decode())
    return next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])


def test_a_leak_is_found_and_none_is_not() -> None:
    """With a clock that nothing disturbs: one that stops early is far beyond the threshold, ours far below."""
    assert max(abs(each.t) for each in findings(counted(leaky))) > 5 * THRESHOLD
    assert max(abs(each.t) for each in findings(counted(signer))) < THRESHOLD
