"""The bus of a role where something is missing: it says so, and goes on with what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.publisher import KafkaFirstPublisher
from service.cli.buses import WRITE_DEADLINE, Bus, _started, opened_bus
from service.cli.shutdown import FLUSH, Step, Stop
from service.core.errors import CannotStore, JournalError, JournalInUse, RecordRefused
from service.core.message import Message
from service.settings import load
from service.telemetry.metrics import Metrics
from tests.cli.program import refusal, run
from tests.fakes import FakeSender
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Cluster
from tests.kafka.records import limit_batches, read_topic
from tests.line import PARTITIONS, SECRET
from tests.ports import free_port
from tests.test_shutdown import with_topics

KIB = 1024


@contextlib.asynccontextmanager
async def bus_of(settings: dict[str, str], stop: Stop | None = None) -> AsyncIterator[Bus]:
    """That of a receiver with these settings."""
    given = load({f"WEBEX_EVENTS_{name}": value for name, value in settings.items()})
    async with opened_bus(given, stop=stop or Stop(), spool=True) as bus:
        yield bus


def without_kafka(folder: Path, **more: str) -> dict[str, str]:
    """A receiver's settings, and nobody where Kafka should be."""
    return {
        "BUS": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "JOURNAL__PATH": str(folder),
        **more,
    }


def message(size: int = 10) -> Message:
    """One for some meeting."""
    return Message(topic="meetings", key="k", value=b"x" * size, partition_by="k")


async def fill(bus: Bus) -> None:
    """Publish 25 MiB, more than the journal takes. Raises CannotStore."""
    for _ in range(400):
        await bus.receiving.publish([message(64 * KIB)])


def metric(bus: Bus, name: str) -> float:
    """What a scrape shows."""
    metrics = Metrics()
    bus.measured_by(metrics)
    lines = metrics.render()[0].decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"webex_events_{name} ")).split()[1])


async def test_without_kafka_the_journal_makes_it_ready(tmp_path: Path) -> None:
    """Ready is about storing; the metrics say who does it."""
    async with bus_of(without_kafka(tmp_path)) as bus:
        assert (bus.unready(), bus.stuck(), bus.healthy()) == (None, None, False)
        await bus.receiving.publish([message(), message()])
        assert (metric(bus, "journal_rows"), metric(bus, "producer_healthy"), metric(bus, "accepting")) == (2, 0, 1)
        assert 0 < metric(bus, "oldest_unacknowledged_seconds") < 60


async def test_a_journal_that_another_process_has_is_a_mistake(tmp_path: Path) -> None:
    """Two processes on one journal: the second one says who has it, and ends."""
    environ = without_kafka(tmp_path, WEBHOOK__SECRET=SECRET, RECEIVER__PORT="0", ADMIN__PORT="0")
    async with await Journal.open(tmp_path):
        with pytest.raises(JournalInUse):
            async with bus_of(without_kafka(tmp_path)):
                pass
        (said,) = refusal(run("serve", "receiver", folder=tmp_path, settings=environ), 1)
    assert "it is in use" in said


@pytest.mark.parametrize("kind", ["no folder", "no journal"])
async def test_a_journal_that_cannot_be_opened_holds_nobody_up(
    kind: str, kafka: Cluster, topic_prefix: str, tmp_path: Path
) -> None:
    """With Kafka alone events are stored; that there is no journal is said, loudly."""
    path = tmp_path / "place"
    if kind == "no folder":
        path.write_text("somebody's")
    else:
        path.mkdir()
        (path / "journal.db").mkdir()
    settings = {**await with_topics(kafka, topic_prefix), "JOURNAL__PATH": str(path)}
    with capture_logs() as logs:
        async with bus_of(settings) as bus:
            assert bus.unready() is None
            await bus.receiving.publish([message()])
            assert metric(bus, "journal_trusted") == 0
    (said,) = [line for line in logs if line["event"] == "journal.unavailable"]
    assert said["log_level"] == "error"
    assert "WEBEX_EVENTS_JOURNAL__PATH" in said["advice"]


async def test_neither_kafka_nor_a_journal(tmp_path: Path) -> None:
    """Not ready, and the sentence names both; started all the same."""
    (tmp_path / "place").write_text("somebody's")
    async with bus_of(without_kafka(tmp_path / "place")) as bus:
        assert (bus.unready() or "").startswith("Kafka does not acknowledge")
        assert "there is no journal (" in (bus.unready() or "")
        assert bus.stuck() is None
    async with bus_of(without_kafka(tmp_path / "other", JOURNAL__ENABLED="false")) as bus:
        assert "WEBEX_EVENTS_JOURNAL__ENABLED" in (bus.unready() or "")
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kafka_is", ["away", "no part of it"])
async def test_a_full_journal_is_not_ready(kafka_is: str, tmp_path: Path) -> None:
    """Webhooks are refused in time, the sentence says how full it is, and what is essential still goes in."""
    embedded = kafka_is != "away"
    settings = {"JOURNAL__PATH": str(tmp_path), "BUS": "journal"} if embedded else without_kafka(tmp_path)
    async with bus_of({**settings, "JOURNAL__MAX_MIB": "16"}) as bus:
        with pytest.raises(CannotStore):
            await fill(bus)
        assert "he journal is full (8" in (bus.unready() or "")
        assert bus.stuck() is None
        assert metric(bus, "journal_full") == 1
        assert 0.8 <= metric(bus, "journal_used_ratio") < 0.95
        if embedded:
            await bus.publisher.publish([message()])


@pytest.mark.parametrize("kafka_is", ["away", "no part of it"])
async def test_a_journal_that_fails_while_running(kafka_is: str, tmp_path: Path) -> None:
    """It is given up in this process: not ready without Kafka; where it is the bus, only a restart helps."""
    embedded, folder = kafka_is != "away", tmp_path / "journal"
    settings = {"JOURNAL__PATH": str(folder), "BUS": "journal"} if embedded else without_kafka(folder)
    with contextlib.suppress(JournalError):
        async with bus_of(settings) as bus:
            await bus.receiving.publish([message()])
            shutil.rmtree(folder)
            with pytest.raises(CannotStore):
                await bus.receiving.publish([message()])
            assert "not trusted any more" in (bus.unready() or "")
            assert "restart" in (bus.unready() or "")
            assert (bus.stuck() is not None) is embedded
            assert metric(bus, "journal_trusted") == 0


async def test_the_end_waits_for_acknowledgements(
    kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path
) -> None:
    """What is on its way when the process ends is acknowledged first: the next run need not send it again.

    On a machine that is busy with other things the second or third time will do.
    """
    cluster = kafka_clusters(1)
    settings = {**await with_topics(cluster, topic_prefix), "JOURNAL__PATH": str(tmp_path)}
    left = [1]
    for _ in range(3):
        with capture_logs() as logs:
            async with bus_of(settings) as bus:
                await bus.receiving.publish([message()])
                cluster.brokers[0].pause()
                await bus.receiving.publish([message()])
                assert metric(bus, "journal_rows") == 1
                cluster.brokers[0].resume()
        async with await Journal.open(tmp_path) as journal:
            left = [each.rows for name, each in (await journal.streams()).items() if each.rows and "spool" in name]
        if not left:
            break
    assert left == []
    assert [line["step"] for line in logs if line["event"] == "shutdown.step"] == ["flush", "journal"]


async def test_what_kafka_refuses_becomes_a_letter(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """Of an event of the receiver; who publishes it is not told, since it is kept. It is counted."""
    settings = {**await with_topics(kafka, topic_prefix), "JOURNAL__PATH": str(tmp_path)}
    await limit_batches(kafka, f"{topic_prefix}meetings", 2000)
    async with bus_of(settings) as bus:
        metrics = Metrics()
        bus.measured_by(metrics)
        await bus.receiving.publish([message(5000)])
    (letter,) = await read_topic(kafka, topic_prefix, "dead-letters", partitions=PARTITIONS)
    assert json.loads(letter.value or b"")["data"]["reason"] == "refusedByKafka"
    assert 'webex_events_dead_letters_total{reason="refusedByKafka"} 1.0' in metrics.render()[0].decode()


async def test_the_processor_is_told_what_kafka_refuses(kafka: Cluster, topic_prefix: str) -> None:
    """It writes it shorter, or otherwise; a ledger entry that lay in a letter would be one that nobody reads."""
    settings = await with_topics(kafka, topic_prefix)
    await limit_batches(kafka, f"{topic_prefix}meetings", 2000)
    given = load({f"WEBEX_EVENTS_{name}": value for name, value in settings.items()})
    async with opened_bus(given, stop=Stop(), spool=False) as bus:
        with pytest.raises(RecordRefused):
            await bus.publisher.publish([message(5000)])


@pytest.mark.parametrize("name", ["kafka-producer", "kafka-topic-facts"])
async def test_a_task_of_the_producer_that_dies_ends_the_process(name: str, tmp_path: Path) -> None:
    """In silence events would wait for it for ever: the process ends at once, with an error, and is started again."""
    stop = Stop()

    async def dying() -> None:
        async with bus_of(without_kafka(tmp_path), stop), asyncio.timeout(5):
            next(task for task in asyncio.all_tasks() if task.get_name() == name).cancel()
            await stop.wait()

    with pytest.raises(RuntimeError, match=f"{name} has ended"):
        await dying()


async def test_a_task_beside_the_journal_that_dies_ends_the_process(tmp_path: Path) -> None:
    """Without retention the journal would fill up in silence."""
    stop = Stop()

    async def dying() -> None:
        async with asyncio.timeout(10), bus_of({"BUS": "journal", "JOURNAL__PATH": str(tmp_path)}, stop):
            next(task for task in asyncio.all_tasks() if "keep_tidy" in str(task.get_coro())).cancel()
            await stop.wait()

    with pytest.raises(RuntimeError, match="keep_tidy has ended"):
        await dying()


async def test_a_call_that_waits_does_not_cut_the_flush_short() -> None:
    """What is written without a journal may wait for Kafka longer than the flush has: the producer gets its last answers."""
    stop = Stop()
    publisher = KafkaFirstPublisher(FakeSender(), None, deadline=WRITE_DEADLINE)
    with capture_logs() as logs:
        async with Step("flush", _started(publisher, stop), limit=FLUSH, stop=stop):
            call = asyncio.create_task(publisher.publish([message()]))
            await asyncio.sleep(0.01)
    assert [line["event"] for line in logs] == ["shutdown.step"]
    with pytest.raises(CannotStore):
        await call
