"""The two buses behind one face, chosen by the settings."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalPublisher, JournalReader, Retention, keep_tidy
from service.bus.kafka import KafkaConsumer, KafkaProducer, KafkaReader
from service.bus.protocols import Consumer, OfferingPublisher, PartitionReader, Publisher
from service.bus.publisher import KafkaFirstPublisher
from service.bus.topics import OTHER_TOPICS
from service.cli.clock import utc_now
from service.cli.health import why_not_kept, why_not_stored
from service.cli.kafka_connection import kafka_connection
from service.cli.serving import beside
from service.cli.shutdown import FLUSH, GRACE, JOURNAL, Step, Stop
from service.core import dead_letters, event
from service.core.errors import JournalError, JournalInUse
from service.core.event import TOPICS
from service.core.message import Message
from service.settings import Settings
from service.telemetry.metrics import Metrics

MIB = 1024 * 1024

#: How long (s) Kafka has to acknowledge: before the journal takes an event; where there is no journal, before the event is
#: refused, while its sender still waits; and what the processor writes, which has nobody waiting for an answer.
SPOOL_DEADLINE = 2.0
RECEIVE_DEADLINE = 4.0
WRITE_DEADLINE = 10.0

_VERIFYING = "the journal is being verified"


@dataclass(frozen=True)
class Bus:
    """What the roles ask of a bus.

    ``publisher`` takes what must be stored as long as there is any room: facts, the ledger, what operators say. ``receiving``
    takes webhooks: it refuses in time, so that the other one has room to go on. ``unready`` says why an event would not be
    stored now, ``stuck`` why only a restart helps; None where all is well.
    """

    publisher: Publisher
    receiving: OfferingPublisher
    reader: PartitionReader
    consumer: Callable[[str, str], Consumer]  # topic, group
    unready: Callable[[], str | None]
    stuck: Callable[[], str | None]
    healthy: Callable[[], bool]
    measured_by: Callable[[Metrics], None]


async def open_journal(settings: Settings) -> Journal:
    """The journal of the settings, within the room that they give it. Raises JournalError."""
    most = settings.journal.max_mib
    return await Journal.open(settings.journal.path, max_bytes=None if most is None else most * MIB)


def _to_nobody(_: str) -> None:
    pass


@contextlib.asynccontextmanager
async def opened_bus(
    settings: Settings, *, stop: Stop, spool: bool, tell: Callable[[str], None] = _to_nobody
) -> AsyncIterator[Bus]:
    """The bus of the settings; ``spool`` asks for a journal behind Kafka where the settings allow one.

    ``tell`` hears, as a clause, what opening it is busy with: to verify or mend a journal may take minutes.
    Raises SettingsError, JournalError.
    """
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        if settings.bus == "journal":
            tell(_VERIFYING)
            journal = await enter(Step("journal", await open_journal(settings), limit=JOURNAL, stop=stop))
            yield await enter(embedded_bus(settings, journal, stop=stop))
            return
        if spool and settings.journal.enabled:
            tell(_VERIFYING)
        kept = await _kept(settings) if spool else _NOTHING_KEPT
        if kept.journal is not None:
            await enter(Step("journal", kept.journal, limit=JOURNAL, stop=stop))
        tell("Kafka has not answered yet")
        yield await enter(_kafka_bus(settings, kept, stop=stop))


@dataclass(frozen=True)
class _Kept:
    """The journal behind Kafka, if there is one: why not, and whether there should be. ``deadline`` is Kafka's, in seconds.

    ``buries``: what Kafka refuses becomes a dead letter. Else whoever wrote it is told, and may write it shorter.
    """

    journal: Journal | None = None
    missing: str = ""
    broken: bool = False
    deadline: float = RECEIVE_DEADLINE
    buries: bool = True


_NOTHING_KEPT = _Kept(missing="this role has no journal", deadline=WRITE_DEADLINE, buries=False)


class Undertaker:
    """Makes the dead letters of what Kafka refuses, and tells ``metrics`` of them."""

    def __init__(self) -> None:
        self.metrics: Metrics | None = None

    def __call__(self, message: Message, why: str) -> Message:
        letter = dead_letters.refused(message, detail=why, now=utc_now(), receiver=socket.gethostname())
        if self.metrics is not None:
            self.metrics.letter_written(dead_letters.REFUSED_BY_KAFKA)
        return event.to_message(letter)


async def _kept(settings: Settings) -> _Kept:
    """The receiver's journal. Raises JournalInUse: that is a mistake, and no fault of the disk.

    Any other reason must not keep us from starting: with Kafka alone most events are stored, without us none.
    """
    if not settings.journal.enabled:
        return _Kept(missing="the settings allow no journal (WEBEX_EVENTS_JOURNAL__ENABLED)")
    try:
        return _Kept(await open_journal(settings), deadline=SPOOL_DEADLINE)
    except JournalInUse:
        raise
    except JournalError as error:
        structlog.get_logger().error(
            "journal.unavailable",
            reason=str(error),
            advice="events are stored by Kafka alone, and refused (503) while it is away: mend what"
            " WEBEX_EVENTS_JOURNAL__PATH names, then restart",
        )
        return _Kept(missing=f"there is no journal ({error})", broken=True)


@contextlib.asynccontextmanager
async def embedded_bus(settings: Settings, journal: Journal, *, stop: Stop) -> AsyncIterator[Bus]:
    """The journal as the bus."""
    topics = (*TOPICS.values(), *OTHER_TOPICS)
    kept = Retention(
        max_age=timedelta(days=settings.kafka.topics.retention_days), max_bytes=settings.journal.retention_mib * MIB
    )

    def measured_by(metrics: Metrics) -> None:
        metrics.watch_journal(lambda: journal.state)

    async with beside(keep_tidy(journal, topics=topics, retention=kept, now=utc_now), stop=stop):
        yield Bus(
            publisher=JournalPublisher(journal, essential=True),
            receiving=JournalPublisher(journal),
            reader=JournalReader(journal),
            consumer=lambda topic, group: JournalConsumer(journal, topic=topic, group=group),
            unready=lambda: why_not_kept(journal.state),
            stuck=lambda: journal.state.failure,  # nothing goes on without it; the next start takes what can be read
            healthy=lambda: why_not_kept(journal.state) is None,
            measured_by=measured_by,
        )


@contextlib.asynccontextmanager
async def _kafka_bus(settings: Settings, kept: _Kept, *, stop: Stop) -> AsyncIterator[Bus]:
    kafka, journal = settings.kafka, kept.journal
    connection = kafka_connection(settings)
    producer = KafkaProducer(connection=connection, topic_prefix=kafka.topic_prefix)
    bury = Undertaker()
    letter = bury if kept.buries else None
    publisher = KafkaFirstPublisher(producer, journal, deadline=kept.deadline, letter=letter)
    consumer = partial(KafkaConsumer, connection=connection, topic_prefix=kafka.topic_prefix)

    def unready() -> str | None:
        if publisher.accepting:
            return None
        return why_not_stored(None if journal is None else journal.state, missing=kept.missing)

    def measured_by(metrics: Metrics) -> None:
        bury.metrics = metrics
        metrics.watch_publisher(publisher, replaced=lambda: producer.replacements)
        if journal is not None:
            metrics.watch_journal(lambda: journal.state)
        elif kept.broken:
            metrics.no_journal()

    async with (
        Step("flush", _started(publisher, stop), limit=FLUSH, stop=stop),
        beside(producer.watch(), stop=stop),
    ):
        yield Bus(
            publisher=publisher,
            receiving=publisher,
            reader=KafkaReader(connection=connection, topic_prefix=kafka.topic_prefix),
            consumer=lambda topic, group: consumer(topic=topic, group=group, instance_id=kafka.instance_id),
            unready=unready,
            stuck=lambda: None,
            healthy=lambda: publisher.healthy,
            measured_by=measured_by,
        )


@contextlib.asynccontextmanager
async def _started(publisher: KafkaFirstPublisher, stop: Stop) -> AsyncIterator[None]:
    try:
        await publisher.start()
        yield
    finally:
        await publisher.stop(within=stop.time_for(FLUSH) - GRACE)
