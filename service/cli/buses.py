"""The two buses behind one face, chosen by the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher, JournalReader, Retention, keep_tidy
from service.bus.kafka import KafkaConsumer, KafkaProducer, KafkaReader
from service.bus.protocols import Consumer, PartitionReader, Publisher
from service.bus.publisher import KafkaFirstPublisher
from service.bus.topics import OTHER_TOPICS
from service.cli.clock import utc_now
from service.cli.kafka_connection import kafka_connection
from service.cli.serving import Stop, beside
from service.core.event import TOPICS
from service.settings import Settings

#: How many records of a topic the embedded journal keeps, beside its age.
MAX_ROWS = 1_000_000

#: How long (s) the processor waits for Kafka to acknowledge what it writes; it has no journal to fall back on.
WRITE_DEADLINE = 10.0


@dataclass(frozen=True)
class Bus:
    """What the roles ask of a bus. ``can_store`` is readiness: whether an event would be made durable now."""

    publisher: Publisher
    reader: PartitionReader
    consumer: Callable[[str, str], Consumer]  # topic, group
    can_store: Callable[[], bool]
    healthy: Callable[[], bool]
    waiting: Callable[[], int]  # events in the journal that Kafka has not acknowledged


@contextlib.asynccontextmanager
async def opened_bus(settings: Settings, *, stop: Stop, spool: bool) -> AsyncIterator[Bus]:
    """The bus of the settings; ``spool`` asks for a journal behind Kafka where the settings allow one.

    Raises SettingsError, JournalError.
    """
    if settings.bus == "journal":
        async with (
            await Journal.open(settings.journal.path) as journal,
            embedded_bus(settings, journal, stop=stop) as bus,
        ):
            yield bus
        return
    async with contextlib.AsyncExitStack() as stack:
        journal_wanted = spool and settings.journal.enabled
        kept = await stack.enter_async_context(await Journal.open(settings.journal.path)) if journal_wanted else None
        yield await stack.enter_async_context(_kafka_bus(settings, kept))


@contextlib.asynccontextmanager
async def embedded_bus(settings: Settings, journal: Journal, *, stop: Stop) -> AsyncIterator[Bus]:
    """The journal as the bus."""
    kept = Retention(max_age=timedelta(days=settings.kafka.topics.retention_days), max_rows=MAX_ROWS)
    retention: Mapping[str, Retention] = dict.fromkeys((*TOPICS.values(), *OTHER_TOPICS), kept)

    def trusted() -> bool:
        return journal.state.failure is None

    async with beside(keep_tidy(journal, retention=retention, now=utc_now), stop=stop):
        yield Bus(
            publisher=JournalPublisher(journal),
            reader=JournalReader(journal),
            consumer=lambda topic, group: JournalConsumer(journal, topic=topic, group=group),
            can_store=trusted,
            healthy=trusted,
            waiting=lambda: 0,
        )


@contextlib.asynccontextmanager
async def _kafka_bus(settings: Settings, journal: Journal | None) -> AsyncIterator[Bus]:
    kafka = settings.kafka
    connection = kafka_connection(settings)
    producer = KafkaProducer(connection=connection, topic_prefix=kafka.topic_prefix)
    deadline = 2.0 if journal is not None else WRITE_DEADLINE
    publisher = KafkaFirstPublisher(producer, journal, deadline=deadline)
    consumer = partial(KafkaConsumer, connection=connection, topic_prefix=kafka.topic_prefix)
    await publisher.start()
    try:
        yield Bus(
            publisher=publisher,
            reader=KafkaReader(connection=connection, topic_prefix=kafka.topic_prefix),
            consumer=lambda topic, group: consumer(topic=topic, group=group, instance_id=kafka.instance_id),
            can_store=lambda: publisher.healthy or (journal is not None and journal.state.failure is None),
            healthy=lambda: publisher.healthy,
            waiting=lambda: publisher.spooled,
        )
    finally:
        await publisher.stop()
