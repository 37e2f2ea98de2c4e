"""The arithmetic of the benchmarks, and what they send. Nothing is measured here."""

from __future__ import annotations

import math

import pytest

from service.core.signature import SignatureMode, verify
from tests.benchmarks.deliveries import SECRET, SIZE, deliveries
from tests.benchmarks.figures import Row, Sample, percentile, regressions, summary
from tests.benchmarks.load import Refused, answered
from tests.benchmarks.profile import shares
from tests.benchmarks.report import put_between


def sample(cpu: float, rate: float = 100.0, *, p99: float = 1.0) -> Sample:
    """One look at a row."""
    return Sample(cpu_us=cpu, rate=rate, p50=0.5, p99=p99, p999=2.0, own_us=8.0)


def row(cpu: float, rate: float) -> Row:
    """One row of a run, by its ratios."""
    figures = {"p50": 0.0, "p99": 0.0, "p999": 0.0, "own_us": 0.0}
    return Row(looks=1, cpu_us=0.0, rate=0.0, cpu_ratio=cpu, rate_ratio=rate, **figures)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.01, 100), (99.9, 100), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    """The nearest rank: nothing between two of them is made up, and the highest ones are not left out."""
    assert percentile(range(1, 101), percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    """NaN, which no comparison takes for good."""
    assert math.isnan(percentile([], 50))


def test_a_ratio_is_one_within_a_look() -> None:
    """A machine that was twice as slow for a while changes no ratio; the ratio of the medians would be another number."""
    looks = [
        {"hello": sample(10, 100), "ours": sample(20, 50)},
        {"hello": sample(20, 50), "ours": sample(40, 25)},
        {"hello": sample(10, 100), "ours": sample(90, 10)},
    ]

    ours = summary(looks)["ours"]

    assert (ours.looks, ours.cpu_ratio, ours.rate_ratio) == (3, 2.0, 0.5)
    assert (ours.cpu_us, ours.rate) == (40, 25)


def test_a_look_without_the_yardstick_counts_for_nothing() -> None:
    """There is nothing to compare it with."""
    looks = [{"hello": sample(10), "ours": sample(20)}, {"ours": sample(1)}]

    assert summary(looks)["ours"].cpu_us == 20


def test_slower_is_what_is_beyond_the_tolerance() -> None:
    """More CPU or a lower rate by more than a tenth; as much is not, and what is better never."""
    base = {"hello": row(1, 1), "a": row(2.0, 0.5), "b": row(2.0, 0.5), "c": row(2.0, 0.5), "gone": row(1, 1)}
    now = {"hello": row(9, 0.1), "a": row(2.21, 0.5), "b": row(2.19, 0.44), "c": row(1.0, 0.9), "new": row(99, 0.01)}

    assert regressions(base, now, tolerance=0.1) == [
        "a: 2.21 times the CPU of hello, was 2.00",
        "b: 0.44 times the rate of hello, was 0.50",
    ]


@pytest.mark.parametrize("kind", ["started", "joined"])
def test_deliveries_are_signed_and_of_one_size(kind: str) -> None:
    """Else what is measured is how fast requests are refused."""
    requests = deliveries(kind, 3)

    assert len(set(requests)) == 3
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        pairs = [(name.lower(), value) for name, value in (line.split(b": ", 1) for line in head.split(b"\r\n")[1:])]
        assert len(body) == SIZE
        assert verify(body, pairs, secrets=[SECRET], mode=SignatureMode.AUTO) == 0


def test_an_answer_is_read_to_its_end() -> None:
    """Piece by piece; what is no 2xx ends the run."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!"

    assert [answered(whole[:end]) for end in (10, 30, len(whole) - 1, len(whole))] == [False, False, False, True]
    assert answered(b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n")
    with pytest.raises(Refused, match="503"):
        answered(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


def test_a_profile_is_counted_by_area() -> None:
    """What the standard library does counts for its caller; a stack without any of ours for the loop.
    A thread that waits for work is no work.
    """
    folded = [
        "run (uvloop/__init__.py:92);verify (service/core/signature.py:106);digest (hmac.py:198) 6",
        "run (uvloop/__init__.py:92);take (service/receiver/endpoint.py:1);accept (service/core/notification.py:83) 3",
        "run (uvloop/__init__.py:92) 1",
        "run (threading.py:982);_worker (concurrent/futures/thread.py:81) 90",
    ]

    assert list(shares(folded))[:4] == [
        " 60.0%  signature",
        " 30.0%  from the notification to the event",
        " 10.0%  event loop, sockets",
        "",
    ]


def test_tables_are_put_between_their_markers() -> None:
    """What stood there before goes, what stands around it stays; a document without markers is left alone."""
    document = "# Title\n<!-- bench: begin -->\nold\nrows\n<!-- bench: end -->\nmore\n"

    assert put_between("bench", ["new"], document) == document.replace("old\nrows", "new")
    with pytest.raises(ValueError, match="missing"):
        put_between("bench", ["new"], "# Title\n")
