"""The command line's way to the bus: one set of tests for Kafka, an open journal, and the journal of a running process."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.bus.journal import Journal
from service.bus.topics import TopicPlan
from service.cli.announcement import FILE_NAME, Announcement, announced, read_announcement
from service.cli.bus_client import BATCH_BYTES, BATCH_RECORDS, BusClient, batches, opened_bus_client
from service.cli.buses import Bus, embedded_bus
from service.cli.health import Health
from service.cli.private_listener import private_listener
from service.cli.shutdown import Stop
from service.core.errors import CannotStore, JournalError, KafkaUnavailable, SettingsError
from service.core.message import Message, Received
from service.settings import Settings, load
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress
from service.telemetry.records import ALL
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics
from tests.servers import running


def settings_of(folder: Path, **more: str) -> Settings:
    """Settings with the journal in ``folder`` and any free port."""
    given = {"JOURNAL__PATH": str(folder), "ADMIN__PORT": "0", **more}
    return load({f"WEBEX_EVENTS_{name}": value for name, value in given.items()})


@contextlib.asynccontextmanager
async def listening(settings: Settings, bus: Bus, stop: Stop) -> AsyncIterator[str]:
    """The private listener of a process with this bus; gives its address."""
    health = Health(stop=stop, progress=Progress())
    async with private_listener(settings, Metrics(), health, stop=stop) as private, private.showing(bus):
        yield private.url


@contextlib.asynccontextmanager
async def running_process(settings: Settings) -> AsyncIterator[str]:
    """What a role on the journal has: the journal, and the private listener; gives its address."""
    stop = Stop()
    async with (
        await Journal.open(settings.journal.path) as journal,
        embedded_bus(settings, journal, stop=stop) as bus,
        listening(settings, bus, stop) as address,
    ):
        yield address


@contextlib.asynccontextmanager
async def journal_client(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BusClient]:
    """Nobody else has the journal."""
    async with opened_bus_client(settings_of(folder)) as client:
        yield client


@contextlib.asynccontextmanager
async def listener_client(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BusClient]:
    """A process has it."""
    settings = settings_of(folder)
    async with running_process(settings), opened_bus_client(settings) as client:
        yield client


@contextlib.asynccontextmanager
async def kafka_client(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BusClient]:
    """A broker."""
    cluster: Cluster = request.getfixturevalue("kafka")
    prefix: str = request.getfixturevalue("topic_prefix")
    await create_topics(cluster, prefix, [TopicPlan(name="registrants", partitions=1)])
    kafka = {"KAFKA__BOOTSTRAP_SERVERS": cluster.bootstrap, "KAFKA__TOPIC_PREFIX": prefix}
    async with opened_bus_client(settings_of(folder, BUS="kafka", **kafka)) as client:
        yield client


Opened = Callable[[pytest.FixtureRequest, Path], AbstractAsyncContextManager[BusClient]]

EVERY_BUS = pytest.mark.parametrize(
    "opened",
    [
        pytest.param(journal_client, id="journal"),
        pytest.param(listener_client, id="running process"),
        pytest.param(kafka_client, id="kafka", marks=pytest.mark.kafka),
    ],
)


def message(number: int, *, value: bytes | None = b"\x00\xff not JSON") -> Message:
    """One of many."""
    return Message(topic="registrants", key=f"key-{number}", value=value, partition_by="same")


async def keys(client: BusClient, *, since: datetime | None = None) -> list[str]:
    """The keys of all records."""
    return [
        record.key
        for partition in await client.partitions("registrants")
        async for record in client.read("registrants", partition, since=since)
    ]


@EVERY_BUS
async def test_what_is_published_is_read(request: pytest.FixtureRequest, tmp_path: Path, opened: Opened) -> None:
    """Byte for byte, tombstones too, in order, in as many batches as it takes."""
    many = [message(number) for number in range(BATCH_RECORDS * 2 + 1)]
    async with opened(request, tmp_path) as client:
        assert await keys(client) == []
        await client.publish([*many, message(-1, value=None)])
        (partition,) = await client.partitions("registrants")
        found = [record async for record in client.read("registrants", partition)]

    assert [record.key for record in found] == [*(each.key for each in many), "key--1"]
    assert {record.value for record in found[:-1]} == {b"\x00\xff not JSON"}
    assert found[-1].value is None
    assert [record.offset for record in found] == list(range(len(found)))


@EVERY_BUS
async def test_since_leaves_out_what_is_older(request: pytest.FixtureRequest, tmp_path: Path, opened: Opened) -> None:
    """By the records' own times; a time to come gives nothing, one long ago gives all."""
    async with opened(request, tmp_path) as client:
        for number in range(5):
            await client.publish([message(number)])
            await asyncio.sleep(0.01)
        (partition,) = await client.partitions("registrants")
        records = [record async for record in client.read("registrants", partition)]
        third = datetime.fromtimestamp(records[2].timestamp / 1000, UTC)
        kept = await keys(client, since=third)
        later = await keys(client, since=datetime.now(UTC) + timedelta(days=1))
        earlier = [await keys(client, since=datetime(year, 1, 1, tzinfo=UTC)) for year in (2000, 1969, 1)]

    assert (kept, later) == (["key-2", "key-3", "key-4"], [])
    assert earlier == [[f"key-{number}" for number in range(5)]] * 3


def test_batches_count_keys_too() -> None:
    """A key may be as long as a value."""
    long = Message(topic="t", key="k" * (BATCH_BYTES // 2), value=b"v", partition_by="p")
    assert [len(batch) for batch in batches([long, long, long])] == [1, 1, 1]


@pytest.mark.kafka
async def test_a_topic_that_is_not_there_has_no_partitions(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """It is not made either."""
    given = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA__TOPIC_PREFIX": topic_prefix}
    async with opened_bus_client(settings_of(tmp_path, **given)) as client:
        assert list(await client.partitions("registrants")) == []
        assert list(await client.partitions("registrants")) == []


async def test_no_broker(tmp_path: Path) -> None:
    """An error of ours, soon."""
    with pytest.raises(KafkaUnavailable):
        async with opened_bus_client(settings_of(tmp_path, BUS="kafka", KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")):
            pass


async def test_a_journal_in_use_by_somebody_who_does_not_answer(tmp_path: Path) -> None:
    """The journal's own sentence says who has it, with and without an announcement that leads nowhere."""
    async with await Journal.open(tmp_path):
        with pytest.raises(JournalError, match="in use"):
            async with opened_bus_client(settings_of(tmp_path)):
                pass
        with (
            announced(tmp_path, Announcement("http://127.0.0.1:1", "token")),
            pytest.raises(JournalError, match="in use"),
        ):
            async with opened_bus_client(settings_of(tmp_path)):
                pass


async def test_a_journal_that_does_not_exist_is_made_only_where_that_is_wanted(tmp_path: Path) -> None:
    """Somebody who only looks in the wrong folder leaves nothing there."""
    folder = tmp_path / "none"
    with pytest.raises(SettingsError, match="no journal"):
        async with opened_bus_client(settings_of(folder), create=False):
            pass
    assert not folder.exists()


async def test_what_a_killed_process_announced_goes_with_the_next_command(tmp_path: Path) -> None:
    """Whoever has the journal says the truth about it."""
    (tmp_path / FILE_NAME).write_text('{"url": "http://127.0.0.1:1", "token": "old"}')
    async with opened_bus_client(settings_of(tmp_path)) as client:
        assert await keys(client) == []
        assert read_announcement(tmp_path) is None


async def test_the_announcement_is_for_its_user_only_and_ends_with_the_process(tmp_path: Path) -> None:
    """0600, whatever was there before; the token is in no repr."""
    settings = settings_of(tmp_path)
    (tmp_path / f"{FILE_NAME}.new").touch(mode=0o666)
    async with running_process(settings):
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
        announcement = read_announcement(tmp_path)
        assert announcement is not None
        assert announcement.token not in repr(announcement)
    assert read_announcement(tmp_path) is None


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}], ids=str)
async def test_without_the_token_there_is_nothing(tmp_path: Path, header: dict[str, str]) -> None:
    """Neither to read nor to write; and nothing was written."""
    settings = settings_of(tmp_path)
    async with running_process(settings) as address:
        async with httpx.AsyncClient(base_url=address, headers=header, trust_env=False) as stranger:
            read = await stranger.get("/records/registrants/0")
            written = await stranger.post("/records", json=[])
        async with opened_bus_client(settings) as client:
            assert await keys(client) == []
    assert (read.status_code, written.status_code) == (401, 401)


async def test_a_publication_that_fails_says_so(tmp_path: Path) -> None:
    """The process is gone: nothing was made durable, and the caller knows."""
    settings = settings_of(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        async with running_process(settings):
            client = await stack.enter_async_context(opened_bus_client(settings))
        with pytest.raises(CannotStore):
            await client.publish([message(1)])
        with pytest.raises(JournalError):
            await keys(client)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut off"])
async def test_an_answer_that_is_cut_off_is_an_error(tmp_path: Path, whole: bool) -> None:
    """Records that end without the last line are not all: nobody may take them for that."""
    record = Received(topic="registrants", partition=0, offset=0, key="k", value=b"v", timestamp=5)

    async def answer(request: Request) -> Response:
        lines = msgspec.json.encode(record) + b"\n" + (ALL + b"\n" if whole else b"")
        return Response(lines if request.method == "GET" else b"", status_code=200)

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with await Journal.open(tmp_path), running(app) as address:
        with announced(tmp_path, Announcement(address, "token")):
            async with opened_bus_client(settings_of(tmp_path)) as client:
                with contextlib.nullcontext() if whole else pytest.raises(JournalError, match="all of its records"):
                    assert await keys(client) == ["k"]
