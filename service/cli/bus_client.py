"""The bus for the command line: read topics, publish a few records, whatever the bus is and whoever runs on it.

On Kafka we are one more client. The journal lets one process in: where one is running, its private listener is asked, else
the journal is opened for as long as the command takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import httpx
import msgspec
import typer

from service.bus.journal import Journal
from service.bus.journal_bus import PARTITION, JournalPublisher, JournalReader
from service.bus.journal_file import FILE_NAME
from service.bus.kafka import KafkaProducer, KafkaReader
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.kafka_follower import KafkaFollower
from service.bus.publisher import KafkaFirstPublisher
from service.bus.topics import Admin
from service.cli.announcement import Announcement, read_announcement, withdrawn
from service.cli.buses import WRITE_DEADLINE, open_journal
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.kafka_connection import kafka_connection
from service.core.errors import (
    CannotStore,
    EventProcessorError,
    JournalError,
    KafkaUnavailable,
    Problem,
    RecordRefused,
    SettingsError,
)
from service.core.message import Message, Received
from service.settings import Settings
from service.telemetry import logging
from service.telemetry.records import ALL

#: Records that are published together, and the bytes of their keys and values.
BATCH_RECORDS = 500
BATCH_BYTES = 4 * 1024 * 1024

#: Seconds within which a broker has to answer for the first time, and a private listener each time.
CONNECT = 8.0
ANSWER = 30.0

#: Seconds between two looks for new partitions, and between two questions for new records of a running process.
NEW_PARTITIONS = 10.0
LOOK = 0.5

#: Records have no earlier times, and Kafka is not asked for any.
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class BusClient(Protocol):
    """What a command asks of the bus."""

    async def partitions(self, topic: str) -> Sequence[int]:
        """The partitions of the topic; none where there is no such topic. Raises KafkaUnavailable, JournalError."""

    def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        """Every record up to the end as it is at the call, oldest first; ``since``: of those written then or later.

        Raises KafkaUnavailable, JournalError.
        """

    def follow(self, topics: Sequence[str], *, since: datetime | None) -> AsyncGenerator[Sequence[Received]]:
        """What comes on these topics, also where there is one only later, in batches, and an empty one now and then; from
        what was written at ``since`` on, else from now on. Ends where nobody but us could write.

        Raises KafkaUnavailable, JournalError.
        """

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once all of ``messages`` are durable. Raises CannotStore: some may be so; RecordRefused for one that Kafka
        can never take.
        """


@contextlib.asynccontextmanager
async def opened_bus_client(settings: Settings, *, create: bool = True) -> AsyncIterator[BusClient]:
    """The bus of the settings. ``create`` False: a journal that does not exist is an error, and not made.

    Raises SettingsError, KafkaUnavailable, JournalError.
    """
    if settings.bus == "kafka":
        async with _kafka(settings) as kafka:
            yield kafka
        return
    folder = settings.journal.path
    if not create and not has_bus(settings):
        raise SettingsError((Problem(f"there is no journal in {folder}; WEBEX_EVENTS_JOURNAL__PATH names its folder"),))
    try:
        journal = await open_journal(settings)
    except JournalError as error:
        async with _listener(read_announcement(folder), error) as listener:
            yield listener
        return
    async with journal:
        withdrawn(folder)
        yield _JournalClient(journal)


def has_bus(settings: Settings) -> bool:
    """Whether there is something to be opened: a journal that was made before, or Kafka, wherever that is."""
    return settings.bus == "kafka" or os.path.lexists(settings.journal.path / FILE_NAME)


def over_bus(settings: Settings, work: Callable[[BusClient], Awaitable[T]], *, create: bool = True) -> T:
    """What ``work`` gives, with the bus of the settings. Ends with exit code 2, 4 or 1 and a sentence on an error."""
    level = "debug" if settings.log.level == "debug" else "error"  # what a person should know is said in sentences
    logging.configure(stream=sys.stderr, colours=sys.stderr.isatty(), level=level)

    async def run() -> T:
        async with opened_bus_client(settings, create=create) as bus:
            return await work(bus)

    try:
        return asyncio.run(run())
    except SettingsError as error:
        end("\n".join(map(str, error.problems)), WRONG)
    except (KafkaUnavailable, CannotStore) as error:
        end(_unavailable(settings, error), NOT_NOW)
    except (JournalError, RecordRefused) as error:
        end(f"{error}.", FAILED)


def _unavailable(settings: Settings, error: EventProcessorError) -> str:
    where = f"Kafka at {settings.kafka.bootstrap_servers}" if settings.bus == "kafka" else "The journal"
    return f"{where} cannot do it now: {error}."


def batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """``messages`` in pieces of a size that every bus takes at once."""
    batch, size = list[Message](), 0
    for message in messages:
        more = len(message.key.encode()) + len(message.value or b"")
        if batch and (len(batch) == BATCH_RECORDS or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += more
    if batch:
        yield batch


# --- Kafka ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _kafka(settings: Settings) -> AsyncIterator[BusClient]:
    connection, prefix = kafka_connection(settings), settings.kafka.topic_prefix
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(CONNECT):
                admin = await stack.enter_async_context(kafka_admin(connection))
        except TimeoutError:
            raise KafkaUnavailable(f"no answer within {CONNECT:g} s") from None
        client = _KafkaClient(admin, connection, prefix)
        stack.push_async_callback(client.close)
        yield client


class _KafkaClient:
    def __init__(self, admin: Admin, connection: Connection, prefix: str) -> None:
        self._admin, self._connection, self._prefix = admin, connection, prefix
        self._reader = KafkaReader(connection=connection, topic_prefix=prefix)
        self._publisher: KafkaFirstPublisher | None = None

    async def partitions(self, topic: str) -> Sequence[int]:
        found = (await self._admin.describe([self._prefix + topic])).get(self._prefix + topic)
        return range(found.partitions) if found else ()

    def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        return self._reader.read(topic, partition, since=since and max(since, _FIRST))

    async def follow(self, topics: Sequence[str], *, since: datetime | None) -> AsyncGenerator[Sequence[Received]]:
        async with KafkaFollower(connection=self._connection, topic_prefix=self._prefix) as follower:
            await follower.follow(await self._counts(topics), since=since)
            looked, away = time.monotonic(), False
            while True:
                yield await follower.poll()
                if time.monotonic() - looked > NEW_PARTITIONS:
                    problem = await self._look_again(follower, topics)
                    if problem and not away:
                        typer.echo(f"Kafka does not answer now ({problem}); what comes later is shown.", err=True)
                    looked, away = time.monotonic(), bool(problem)

    async def _look_again(self, follower: KafkaFollower, topics: Sequence[str]) -> str:
        """For new partitions; the problem, or "". Who follows goes on through an outage, and this is only beside it."""
        try:
            await follower.follow(await self._counts(topics), since=_FIRST)
        except KafkaUnavailable as error:
            return str(error)
        return ""

    async def _counts(self, topics: Sequence[str]) -> dict[str, int]:
        return {topic: len(await self.partitions(topic)) for topic in topics}

    async def publish(self, messages: Sequence[Message]) -> None:
        publisher = self._publisher or await self._started()
        for batch in batches(messages):
            await publisher.publish(batch)

    async def _started(self) -> KafkaFirstPublisher:
        producer = KafkaProducer(connection=self._connection, topic_prefix=self._prefix)
        self._publisher = KafkaFirstPublisher(producer, None, deadline=WRITE_DEADLINE)
        await self._publisher.start()
        return self._publisher

    async def close(self) -> None:
        if self._publisher is not None:
            await self._publisher.stop()


# --- the journal, opened by us ----------------------------------------------------------------------------------------


class _JournalClient:
    def __init__(self, journal: Journal) -> None:
        self._reader, self._publisher = JournalReader(journal), JournalPublisher(journal, essential=True)

    async def partitions(self, topic: str) -> Sequence[int]:  # noqa: ARG002 - they all have the one
        return (PARTITION,)

    def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        return self._reader.read(topic, partition, since=since)

    async def follow(self, topics: Sequence[str], *, since: datetime | None) -> AsyncGenerator[Sequence[Received]]:
        """Only what is there: as long as we have the journal nobody else does."""
        for topic in topics if since is not None else ():
            yield [record async for record in self.read(topic, PARTITION, since=since)]

    async def publish(self, messages: Sequence[Message]) -> None:
        for batch in batches(messages):
            await self._publisher.publish(batch)


# --- the journal of a running process ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _listener(announcement: Announcement | None, refused: JournalError) -> AsyncIterator[BusClient]:
    """The private listener; ``refused`` is raised where nobody answers there."""
    if announcement is None:
        raise refused
    headers = {"authorization": f"Bearer {announcement.token}"}
    async with httpx.AsyncClient(base_url=announcement.url, headers=headers, timeout=ANSWER, trust_env=False) as client:
        try:
            (await client.post("/records", content=b"[]")).raise_for_status()
        except httpx.HTTPError:
            raise refused from None
        yield _ListenerClient(client)


class _ListenerClient:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def partitions(self, topic: str) -> Sequence[int]:  # noqa: ARG002 - they all have the one
        return (PARTITION,)

    async def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        query = {} if since is None else {"since": str(int(since.timestamp() * 1000))}
        try:
            async with self._client.stream("GET", f"/records/{topic}/{partition}", params=query) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line.encode() == ALL:
                        return
                    yield _decoder.decode(line)
        except (httpx.HTTPError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalError(f"the running process did not give its records ({type(error).__name__})") from None
        raise JournalError("the running process could not read all of its records")

    async def follow(self, topics: Sequence[str], *, since: datetime | None) -> AsyncGenerator[Sequence[Received]]:
        """Asked again and again. By time, because that is what can be asked; what was seen already is left out."""
        begin = since or datetime.now(UTC)
        moments, positions = dict.fromkeys(topics, begin), dict.fromkeys(topics, 0)
        while True:
            found = list[Received]()
            for topic in topics:
                async for record in self.read(topic, PARTITION, since=moments[topic]):
                    if record.offset >= positions[topic]:
                        moments[topic] = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                        positions[topic] = record.offset + 1
                        found.append(record)
            yield found
            if not found:
                await asyncio.sleep(LOOK)

    async def publish(self, messages: Sequence[Message]) -> None:
        for batch in batches(messages):
            try:
                answer = await self._client.post("/records", content=msgspec.json.encode(batch))
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise CannotStore(f"the running process did not take them ({type(error).__name__})") from None


_decoder = msgspec.json.Decoder(Received)
