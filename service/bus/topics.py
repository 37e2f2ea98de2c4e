"""The topics of the product: how they should be (``plan``), and making them so (``apply``).

``apply`` creates what is missing and sets the configuration that the plan names. It never changes a count of partitions
(every key would move) or a replication factor, and never takes away an override that it does not know: it reports them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from service.core.event import TOPICS

#: Beside the topics of events. ``work`` and ``ledger`` stand with their organisation on the same partition number.
OTHER_TOPICS = ("work", "commands", "restricted")
LEDGER = "ledger"

PARTITIONS = 6
RETENTION = timedelta(days=7)

#: The active segment is never compacted: a new one every ten minutes, so that a restore does not read hours of it.
_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": str(10 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.1",
    "delete.retention.ms": str(24 * 3600 * 1000),
}

WELL_REPLICATED = 3


@dataclass(frozen=True)
class TopicPlan:
    """How one topic should be; ``name`` is without prefix.

    ``replication`` None: 3 where the cluster has 3 brokers, else as many as it has. ``min_insync`` None: 2 of 3, else 1.
    """

    name: str
    partitions: int = PARTITIONS
    replication: int | None = None
    min_insync: int | None = None
    retention: timedelta = RETENTION
    compacted: bool = False

    def configuration(self, replication: int) -> dict[str, str]:
        """Kafka's names and values: https://kafka.apache.org/documentation/#topicconfigs."""
        kept = (
            _COMPACTED
            if self.compacted
            else {"cleanup.policy": "delete", "retention.ms": _milliseconds(self.retention)}
        )
        usual = 2 if replication >= WELL_REPLICATED else 1
        return {**kept, "min.insync.replicas": str(usual if self.min_insync is None else self.min_insync)}


@dataclass(frozen=True)
class Existing:
    """A topic as it is; ``overrides`` are the settings made for the topic itself."""

    partitions: int
    replication: int
    overrides: Mapping[str, str]


@dataclass(frozen=True)
class TopicResult:
    """What became of one topic (named with prefix).

    ``state`` is ``created``, ``changed``, ``unchanged`` or ``failed``; in a plan ``missing`` or ``different`` instead of
    the first two. ``changes`` are settings that were, or would be, set. ``drift`` is what ``apply`` will not change.
    """

    topic: str
    state: str
    changes: Mapping[str, str] = field(default_factory=dict)
    drift: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class TopicReport:
    """``warnings`` are about the whole cluster."""

    results: tuple[TopicResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def drifted(self) -> bool:
        """Something is not as planned and was not, or could not be, put right."""
        return any(each.drift or each.state in {"missing", "different", "failed"} for each in self.results)


class Admin(Protocol):
    """What is asked of the cluster. All raise KafkaUnavailable."""

    async def brokers(self) -> int:
        """How many there are."""

    async def describe(self, topics: Sequence[str]) -> dict[str, Existing]:
        """Those that exist."""

    async def create(self, topic: str, *, partitions: int, replication: int, configuration: Mapping[str, str]) -> str:
        """Create one; the problem, or ""."""

    async def configure(self, topic: str, overrides: Mapping[str, str]) -> str:
        """Replace *all* overrides; the problem, or ""."""


def standard(
    *,
    partitions: int = PARTITIONS,
    replication: int | None = None,
    min_insync: int | None = None,
    retention: timedelta = RETENTION,
) -> tuple[TopicPlan, ...]:
    """Every topic of the product, all with the same count of partitions: ``work`` and ``ledger`` need that."""

    def topic(name: str, *, compacted: bool = False) -> TopicPlan:
        return TopicPlan(name, partitions, replication, min_insync, retention, compacted)

    return (*map(topic, sorted(set(TOPICS.values()))), *map(topic, OTHER_TOPICS), topic(LEDGER, compacted=True))


async def plan(admin: Admin, prefix: str, topics: Sequence[TopicPlan]) -> TopicReport:
    """What ``apply`` would do. Changes nothing."""
    brokers = await admin.brokers()
    existing = await admin.describe([prefix + topic.name for topic in topics])
    results = [_compare(prefix + topic.name, topic, existing.get(prefix + topic.name), brokers) for topic in topics]
    return TopicReport(tuple(results), _warnings(topics, brokers))


async def apply(admin: Admin, prefix: str, topics: Sequence[TopicPlan]) -> TopicReport:
    """Create and configure. One topic's problem does not keep the others from being done."""
    brokers = await admin.brokers()
    existing = await admin.describe([prefix + topic.name for topic in topics])
    results = []
    for topic in topics:
        found = existing.get(prefix + topic.name)
        compared = _compare(prefix + topic.name, topic, found, brokers)
        results.append(await _make_so(admin, topic, found, compared, brokers))
    return TopicReport(tuple(results), _warnings(topics, brokers))


def _compare(name: str, topic: TopicPlan, found: Existing | None, brokers: int) -> TopicResult:
    if found is None:
        return TopicResult(name, "missing", topic.configuration(_replication(topic, brokers)))
    wanted = topic.configuration(found.replication)
    changes = {key: value for key, value in wanted.items() if found.overrides.get(key) != value}
    return TopicResult(name, "different" if changes else "unchanged", changes, tuple(_drift(topic, found, brokers)))


def _drift(topic: TopicPlan, found: Existing, brokers: int) -> list[str]:
    replication = _replication(topic, brokers)
    drift = []
    if found.partitions != topic.partitions:
        drift.append(f"{found.partitions} partitions instead of {topic.partitions}")
    if found.replication < replication:
        drift.append(f"replication factor {found.replication} instead of {replication}")
    return drift


async def _make_so(
    admin: Admin, topic: TopicPlan, found: Existing | None, compared: TopicResult, brokers: int
) -> TopicResult:
    if compared.state == "unchanged":
        return compared
    if found is None:
        problem = await admin.create(
            compared.topic,
            partitions=topic.partitions,
            replication=_replication(topic, brokers),
            configuration=compared.changes,
        )
    else:
        problem = await admin.configure(compared.topic, {**found.overrides, **compared.changes})
    state = "failed" if problem else "created" if found is None else "changed"
    return TopicResult(compared.topic, state, compared.changes, compared.drift, problem)


def _replication(topic: TopicPlan, brokers: int) -> int:
    return topic.replication or min(WELL_REPLICATED, brokers)


def _warnings(topics: Sequence[TopicPlan], brokers: int) -> tuple[str, ...]:
    if brokers >= WELL_REPLICATED or all(topic.replication for topic in topics):
        return ()
    return (f"the cluster has {brokers} of {WELL_REPLICATED} brokers: the loss of one may lose what was acknowledged",)


def _milliseconds(period: timedelta) -> str:
    return str(int(period.total_seconds() * 1000))
