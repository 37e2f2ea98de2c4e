"""Who leads is found out on a real cluster, and found out anew when that one is gone."""

from __future__ import annotations

import contextlib
import time

import pytest

from service.bus.topics import TopicPlan
from tests.faults.quorum import active_controller, copies, repartition
from tests.faults.stage import eventually
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Broker
from tests.kafka.records import create_topics


def elected(broker: Broker, *, besides: int) -> int:
    """Whom this one takes for the controller, once it is somebody else."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if (found := active_controller(broker.address, broker.port)) != besides:
                return found
        time.sleep(0.1)
    raise AssertionError("nobody else was elected")


@pytest.mark.quick
async def test_the_controller_and_the_copies(kafka_clusters: ClusterFactory, topic_prefix: str) -> None:
    """All brokers name the same controller; after its death one of the others; copies and partitions are as they were made."""
    cluster = kafka_clusters(3)
    await create_topics(cluster, topic_prefix, [TopicPlan(name="meetings", partitions=2)])
    topic = f"{topic_prefix}meetings"
    (first,) = {active_controller(broker.address, broker.port) for broker in cluster.brokers}
    before = await copies(cluster.bootstrap, [topic])
    await repartition(cluster.bootstrap, [topic], 3)
    wanted = {(topic, partition) for partition in range(3)}

    async def grown() -> bool:
        return (await copies(cluster.bootstrap, [topic])).keys() == wanted

    await eventually(grown, within=20)  # a broker hears of it a moment after the controller has said so
    assert before.keys() == {(topic, 0), (topic, 1)}
    assert all(each.replicas == each.in_sync == {1, 2, 3} and each.leader in {1, 2, 3} for each in before.values())
    cluster.brokers[first - 1].kill()
    survivor = next(broker for broker in cluster.brokers if broker.running)
    assert elected(survivor, besides=first) in {1, 2, 3} - {first}
