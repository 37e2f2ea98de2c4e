"""Following topics on a real broker, and ``events tail`` there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.bus import kafka_admin
from service.bus.kafka_follower import KafkaFollower
from service.bus.topics import TopicPlan
from service.cli import bus_client
from service.core import event
from service.core.message import Received
from tests.cli.program import invoke, refusal
from tests.cli.test_events_tail import Done, meanwhile
from tests.facts import fact
from tests.kafka.foreign import ODD, foreign, write_batch
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, numbered, producing, send_all
from tests.kafka.secured import SecuredKafka

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def follower(cluster: Cluster, prefix: str) -> KafkaFollower:
    """One on this broker."""
    return KafkaFollower(connection=cluster.connection, topic_prefix=prefix)


async def polled(following: KafkaFollower, enough: Callable[[Sequence[Received]], bool]) -> list[Received]:
    """Poll until that is enough."""
    found = list[Received]()
    async with asyncio.timeout(20):
        while not enough(found):
            found += await following.poll()
    return found


def values(records: Sequence[Received]) -> list[int]:
    """The numbers in them, in order."""
    return sorted(int(record.value or b"-1") for record in records)


async def test_from_now_on_and_from_the_beginning(kafka: Cluster, topic_prefix: str) -> None:
    """Of every partition: one sees what comes, the other what was there too; in between, what was written since."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=3)])
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [numbered(f"k{n}", n) for n in range(10)])
        await asyncio.sleep(0.05)
        middle = datetime.now(UTC)
        await send_all(producer, [numbered(f"k{n}", n) for n in range(10, 20)])
        found = []
        for since in (None, LONG_AGO, middle):
            async with follower(kafka, topic_prefix) as following:
                await following.follow({"work": 3}, since=since)
                if since is None:
                    await send_all(producer, [numbered(f"k{n}", n) for n in range(20, 30)])
                found.append(values(await polled(following, lambda seen: 29 in values(seen))))

    assert found == [list(range(20, 30)), list(range(30)), list(range(10, 30))]


async def test_what_becomes_known_later_is_read_from_its_start(kafka: Cluster, topic_prefix: str) -> None:
    """Another topic, or more partitions; what was followed already goes on where it was."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer, follower(kafka, topic_prefix) as following:
        await following.follow({"work": 1}, since=None)
        await send_all(producer, [numbered(f"k{n}", n) for n in range(20)])
        first = await polled(following, lambda seen: len(seen) > 0)
        await following.follow({"work": 2}, since=LONG_AGO)
        rest = await polled(following, lambda seen: len(seen) + len(first) >= 20)

    assert values([*first, *rest]) == list(range(20))
    assert {record.partition for record in first} == {0}
    assert {record.topic for record in rest} == {"work"}


async def test_a_header_that_nobody_can_decode_stops_nothing(kafka: Cluster, topic_prefix: str) -> None:
    """aiokafka raises for the whole batch, again and again."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with foreign(kafka) as client, follower(kafka, topic_prefix) as following:
        await following.follow({"work": 2}, since=None)
        await write_batch(client, f"{topic_prefix}work", [(b"k", b"1", []), (b"k", b"2", [(ODD, b"x")])])
        await write_batch(client, f"{topic_prefix}work", [(b"k", b"3", [])])
        await write_batch(client, f"{topic_prefix}work", [(b"k", b"4", [])], partition=1)
        found = await polled(following, lambda seen: len(seen) >= 4)

    assert values(found) == [1, 2, 3, 4]


async def test_events_on_kafka(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """The command: it says which topics are there, shows what comes, and leaves no group behind."""
    plans = [TopicPlan(name=name, partitions=3) for name in ("meetings", "registrants")]
    await create_topics(kafka, topic_prefix, plans)
    given = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA__TOPIC_PREFIX": topic_prefix}
    async with producing(kafka, topic_prefix) as producer:

        async def publish(number: int) -> None:
            await send_all(producer, [event.to_message(fact("approved", f"{number}", series=f"{number % 16:x}" * 32))])

        done = await meanwhile(
            publish, lambda: invoke("events", "tail", "--count", "5", folder=tmp_path, settings=given)
        )

    assert done.returncode == 0
    assert len({json.loads(line)["data"]["id"] for line in done.stdout.splitlines()}) == 5
    missing = "participants, recordings, transcripts, service-apps, quarantine, outcomes, dead-letters"
    assert refusal(done, 0) == [f"Reading meetings, registrants; not there yet: {missing}."]


async def test_a_topic_that_is_not_there(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """1 and how to make it, also where none is named and there is none at all; it is not made by asking."""
    given = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA__TOPIC_PREFIX": topic_prefix}

    def tail(*options: str) -> list[str]:
        return refusal(invoke("events", "tail", *options, folder=tmp_path, settings=given), 1)

    said = "There is no topic meetings on Kafka; `webex-events topics apply` makes those of ours."
    assert await asyncio.to_thread(tail, "--topic", "meetings") == [said]
    assert await asyncio.to_thread(tail, "--topic", "meetings") == [said]
    (nothing,) = await asyncio.to_thread(tail)
    assert nothing.startswith("There is no topic meetings, registrants, ")


def test_no_broker(tmp_path: Path) -> None:
    """4, soon."""
    given = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = invoke("events", "tail", folder=tmp_path, settings=given)

    assert "Kafka at 127.0.0.1:1 cannot do it now" in refusal(done, 4)[-1]


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_an_outage_is_told_once_and_outlived(
    secured_kafka: SecuredKafka, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Whoever watches sees what comes when Kafka is back. It is asked for new partitions all the while, and cannot answer."""
    (broker,) = secured_kafka.cluster.brokers
    await secured_kafka.cluster.ready()
    await create_topics(secured_kafka.cluster, topic_prefix, [TopicPlan(name="meetings", partitions=1)])
    monkeypatch.setattr(bus_client, "NEW_PARTITIONS", 0.2)
    monkeypatch.setattr(kafka_admin, "PATIENCE", 1.0)
    bootstrap = secured_kafka.cluster.bootstrap
    given = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": bootstrap, "KAFKA__TOPIC_PREFIX": topic_prefix}

    def tail() -> Done:
        return invoke("events", "tail", "--count", "1", "--timeout", "40", folder=tmp_path, settings=given)

    following = asyncio.create_task(asyncio.to_thread(tail))
    await asyncio.sleep(2)
    broker.kill() if fault == "kill" else broker.pause()
    await asyncio.sleep(4)
    assert not following.done()
    broker.start() if fault == "kill" else broker.resume()
    await secured_kafka.cluster.ready()
    async with producing(secured_kafka.cluster, topic_prefix) as producer:
        await send_all(producer, [event.to_message(fact("updated", "it", family="meeting"))])
        done = await following

    _, *told = (
        line for line in refusal(done, 0) if "producer.held_up" not in line
    )  # that is the test's own, in this process
    assert json.loads(done.stdout)["data"]["id"] == "it"
    assert len(told) == 1
    assert told[0].startswith("Kafka does not answer now (")
