"""The arithmetic of the benchmarks: percentiles, ratios within a look, medians over looks, and what counts as slower."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

#: The row that all others are compared with.
YARDSTICK = "hello"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a row measured, in a closed loop: ``cpu_us`` of the server for an event, events in a second, and the
    milliseconds of the answers; ``own_us`` is the generator's CPU.
    """

    cpu_us: float
    rate: float
    p50: float
    p99: float
    p999: float
    own_us: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row over all looks: medians. Ratios are those of each look to its own yardstick, and then the median of them."""

    looks: int
    cpu_us: float
    cpu_ratio: float
    rate: float
    rate_ratio: float
    p50: float
    p99: float
    p999: float
    own_us: float


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest rank: at least ``percent`` of the values are not above it. NaN where there is none."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def summary(looks: Sequence[Mapping[str, Sample]]) -> dict[str, Row]:
    """One row for each name. A look without the yardstick counts for nothing."""
    whole = [each for each in looks if YARDSTICK in each]
    names = dict.fromkeys(name for each in whole for name in each)
    return {name: _row(name, [each for each in whole if name in each]) for name in names}


def _row(name: str, looks: Sequence[Mapping[str, Sample]]) -> Row:
    def middle(values: Iterable[float]) -> float:
        return statistics.median(values)

    samples = [each[name] for each in looks]
    return Row(
        looks=len(looks),
        cpu_us=middle(each.cpu_us for each in samples),
        cpu_ratio=middle(each[name].cpu_us / each[YARDSTICK].cpu_us for each in looks),
        rate=middle(each.rate for each in samples),
        rate_ratio=middle(each[name].rate / each[YARDSTICK].rate for each in looks),
        p50=middle(each.p50 for each in samples),
        p99=middle(each.p99 for each in samples),
        p999=middle(each.p999 for each in samples),
        own_us=middle(each.own_us for each in samples),
    )


def regressions(base: Mapping[str, Row], now: Mapping[str, Row], *, tolerance: float) -> list[str]:
    """A sentence for each ratio that is worse than the baseline's by more than ``tolerance`` (0.1: a tenth).

    Rows that only one of the two has are not compared; absolute figures neither: machines differ.
    """
    found = []
    for name in (each for each in base if each in now and each != YARDSTICK):
        before, after = base[name], now[name]
        if after.cpu_ratio > before.cpu_ratio * (1 + tolerance):
            found.append(f"{name}: {after.cpu_ratio:.2f} times the CPU of {YARDSTICK}, was {before.cpu_ratio:.2f}")
        if after.rate_ratio < before.rate_ratio * (1 - tolerance):
            found.append(f"{name}: {after.rate_ratio:.2f} times the rate of {YARDSTICK}, was {before.rate_ratio:.2f}")
    return found
