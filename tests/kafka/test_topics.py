"""Topics: planned, made so, and left alone where they must be."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from service.bus.kafka_admin import KafkaAdmin, kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.topics import TopicPlan, TopicReport, apply, plan, standard
from service.core.errors import KafkaUnavailable
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster

SMALL = (TopicPlan(name="work", partitions=2), TopicPlan(name="ledger", partitions=2, compacted=True))


def states(report: TopicReport) -> dict[str, str]:
    """Topic without prefix → state."""
    return {each.topic.rpartition(".")[2]: each.state for each in report.results}


def test_the_standard_topics_are_those_that_outsiders_rely_on() -> None:
    """The names, work and ledger with the same count, and only the ledger compacted."""
    topics = {topic.name: topic for topic in standard(partitions=3)}
    assert set(topics) == {
        *("meetings", "registrants", "participants", "recordings", "transcripts", "service-apps", "quarantine"),
        *("work", "commands", "outcomes", "restricted", "dead-letters", "ledger"),
    }
    assert {topic.partitions for topic in topics.values()} == {3}
    assert [name for name, topic in topics.items() if topic.compacted] == ["ledger"]


def test_the_settings_of_the_operator_win() -> None:
    """A replication factor and a minimum of in-sync replicas that the operator names are used as they are."""
    topics = standard(replication=5, min_insync=4)

    assert {topic.replication for topic in topics} == {5}
    assert {topic.configuration(5)["min.insync.replicas"] for topic in topics} == {"4"}


@pytest.mark.parametrize(
    ("replication", "enough"), [pytest.param(1, "1"), pytest.param(2, "1"), pytest.param(3, "2"), pytest.param(5, "2")]
)
def test_min_insync_replicas_follows_the_replication(replication: int, enough: str) -> None:
    """Two of three; where there are fewer than three, one must be enough."""
    assert TopicPlan(name="x").configuration(replication)["min.insync.replicas"] == enough


async def test_the_second_apply_changes_nothing(kafka: Cluster, topic_prefix: str) -> None:
    """Plan says missing, apply creates, and after that both find everything as it should be."""
    async with kafka_admin(kafka.connection) as admin:
        assert states(await plan(admin, topic_prefix, SMALL)) == {"work": "missing", "ledger": "missing"}
        assert states(await apply(admin, topic_prefix, SMALL)) == {"work": "created", "ledger": "created"}
        again = await apply(admin, topic_prefix, SMALL)
        assert states(again) == {"work": "unchanged", "ledger": "unchanged"}
        assert not again.drifted
        found = await admin.describe([f"{topic_prefix}ledger"])
    assert found[f"{topic_prefix}ledger"].overrides["cleanup.policy"] == "compact"


async def test_a_change_keeps_overrides_that_are_not_ours(kafka: Cluster, topic_prefix: str) -> None:
    """The retention is set anew; what the operator set besides stays as it is."""
    name = f"{topic_prefix}work"
    async with kafka_admin(kafka.connection) as admin:
        await apply(admin, topic_prefix, SMALL)
        overrides = dict((await admin.describe([name]))[name].overrides)
        assert await admin.configure(name, overrides | {"max.message.bytes": "2000000"}) == ""
        longer = (replace(SMALL[0], retention=timedelta(days=30)), SMALL[1])
        report = await apply(admin, topic_prefix, longer)
        after = (await admin.describe([name]))[name].overrides
    assert states(report) == {"work": "changed", "ledger": "unchanged"}
    assert dict(report.results[0].changes) == {"retention.ms": "2592000000"}
    assert after == overrides | {"max.message.bytes": "2000000", "retention.ms": "2592000000"}


async def test_partitions_are_reported_and_never_changed(kafka: Cluster, topic_prefix: str) -> None:
    """Another count than planned is drift, and stays."""
    async with kafka_admin(kafka.connection) as admin:
        await apply(admin, topic_prefix, SMALL)
        report = await apply(admin, topic_prefix, [replace(each, partitions=5) for each in SMALL])
        found = await admin.describe([f"{topic_prefix}work"])
    assert report.drifted
    assert report.results[0].drift == ("2 partitions instead of 5",)
    assert found[f"{topic_prefix}work"].partitions == 2


async def test_a_topic_that_cannot_be_made_does_not_keep_the_others(kafka: Cluster, topic_prefix: str) -> None:
    """The broker's own reason is in the result."""
    topics = (
        TopicPlan(name="work", partitions=1, replication=9),
        TopicPlan(name="ledger", partitions=1, compacted=True),
    )
    async with kafka_admin(kafka.connection) as admin:
        report = await apply(admin, topic_prefix, topics)
    assert states(report) == {"work": "failed", "ledger": "created"}
    assert "InvalidReplicationFactor" in report.results[0].problem


async def test_three_brokers_give_three_copies(kafka_clusters: ClusterFactory, topic_prefix: str) -> None:
    """Replication follows the cluster where nothing else is asked for."""
    async with kafka_admin(kafka_clusters(3).connection) as admin:
        report = await apply(admin, topic_prefix, SMALL)
        found = (await admin.describe([f"{topic_prefix}work"]))[f"{topic_prefix}work"]
    assert report.warnings == ()
    assert found.replication == 3
    assert found.overrides["min.insync.replicas"] == "2"


async def test_fewer_than_three_brokers_give_a_warning(kafka: Cluster, topic_prefix: str) -> None:
    """One broker is enough to begin with, and it is said what that means."""
    async with kafka_admin(kafka.connection) as admin:
        report = await plan(admin, topic_prefix, SMALL)
        assert bool(report.warnings) == (await admin.brokers() < 3)


async def test_without_kafka_the_error_says_so() -> None:
    """Nobody listens there."""
    with pytest.raises(KafkaUnavailable, match="Connection"):
        async with kafka_admin(Connection(bootstrap_servers="127.0.0.1:9")) as admin:
            assert isinstance(admin, KafkaAdmin)
