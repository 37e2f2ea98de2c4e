"""What is counted in plain numbers, and turned into Prometheus' metrics only when somebody scrapes.

The client library's own counter takes a lock and looks its label up: 2 µs for each webhook, an addition 0.1. The price is
that only one thread may count: the event loop's, which also answers the scrapes.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

#: What may be asked at a scrape: a number for each value of a label.
Ask = Callable[[], Mapping[str, float]]

OTHER = "other"
_CLEAN = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
_LONGEST = 64
_MOST_VALUES = 64


def clean(value: str, *, known: int, longest: int = _LONGEST, most: int = _MOST_VALUES) -> bool:
    """Whether a value that was not seen before may become one of a label that has ``known`` values already."""
    return known < most and len(value) <= longest and _CLEAN.fullmatch(value) is not None


class Tally:
    """A counter with one label. A value that is no plain word of so many characters, or comes after so many others, is
    counted as ``other``.
    """

    def __init__(
        self, name: str, meaning: str, label: str, *, longest: int = _LONGEST, most: int = _MOST_VALUES
    ) -> None:
        self._name, self._meaning, self._label = name, meaning, label
        self._longest, self._most = longest, most
        self._counts: dict[str | int, int] = {}
        self._created: dict[str | int, float] = {}

    def add(self, value: str | int, count: int = 1) -> None:
        """So many more of ``value``."""
        try:
            self._counts[value] += count
        except KeyError:
            self._add_new(value, count)

    def _add_new(self, value: str | int, count: int) -> None:
        known = len(self._counts.keys() - {OTHER})
        counted = value if clean(str(value), known=known, longest=self._longest, most=self._most) else OTHER
        self._counts[counted] = self._counts.get(counted, 0) + count
        self._created.setdefault(counted, time.time())

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        family = CounterMetricFamily(self._name, self._meaning, labels=[self._label])
        for value, count in self._counts.items():
            family.add_metric([str(value)], count, created=self._created[value])
        yield family


class Durations:
    """A histogram of seconds without labels; ``bounds`` ascend."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float]) -> None:
        self._name, self._meaning, self._bounds = name, meaning, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._created = time.time()

    def observe(self, seconds: float) -> None:
        """One more. A bound counts what is equal to it."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        bounds = (*map(str, self._bounds), "+Inf")
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family = HistogramMetricFamily(self._name, self._meaning, buckets=buckets, sum_value=self._sum)
        family.add_sample(f"{self._name}_created", {}, self._created)
        yield family


@dataclass(frozen=True)
class Asked:
    """A metric with one label, whose values are asked for at every scrape."""

    family: Callable[..., Any]
    name: str
    meaning: str
    label: str
    ask: Ask

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        family = self.family(self.name, self.meaning, labels=[self.label])
        for value, number in self.ask().items():
            family.add_metric([value], number)
        yield family
