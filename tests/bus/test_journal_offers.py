"""What the embedded bus tells those who offer and do not wait. What becomes of the records: test_bus_behaviour.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.journal_bus import FULL_RETRY_AFTER, JournalPublisher
from service.bus.waiting import Done
from service.core.errors import CannotStore, JournalError
from service.core.message import Message
from tests.bus.test_publisher import Told, held, numbers, until

LARGE = 256 * 1024


@asynccontextmanager
async def opened(folder: Path, *, max_bytes: int | None = None) -> AsyncIterator[tuple[JournalPublisher, Journal]]:
    """A journal and its publisher while the block runs, however that ends."""
    with contextlib.suppress(JournalError):
        async with await Journal.open(folder, max_bytes=max_bytes) as journal:
            yield JournalPublisher(journal), journal


def record(n: int) -> Message:
    """A record whose value says its number."""
    return Message(topic="meetings", key="k", value=b"%d" % n, partition_by="k")


async def stored(journal: Journal) -> list[int]:
    """Their numbers."""
    return numbers([row.message.value for row in await journal.read("meetings", 0, 100)])


async def test_told_once_it_is_on_the_disk(tmp_path: Path) -> None:
    """Once each, in order, and never before ``offer`` has returned; also where there is nothing to store."""
    async with opened(tmp_path) as (publisher, journal):
        told, empty = Told(), Told()
        with held(journal):
            for n in range(3):
                publisher.offer([record(2 * n), record(2 * n + 1)], told)
            publisher.offer([], empty)
            assert empty.errors == []
            await asyncio.sleep(0.02)
            assert (told.errors, empty.errors) == ([], [None])
        await until(lambda: len(told.errors) == 3)
        await asyncio.sleep(0.02)
        assert told.errors == [None] * 3
        assert await stored(journal) == list(range(6))
        assert journal.state.waiting == 0


async def test_withdrawn_it_is_not_told(tmp_path: Path) -> None:
    """The journal has it, and keeps it; so it is with a caller who was cancelled."""
    async with opened(tmp_path) as (publisher, journal):
        told = Told()
        with held(journal):
            publisher.withdraw(publisher.offer([record(0)], told))
            call = asyncio.create_task(publisher.publish([record(1)]))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait({call})
        await publisher.publish([record(2)])
        assert told.errors == []
        assert await stored(journal) == [0, 1, 2]


async def test_without_room_it_is_told_when_to_come_again(tmp_path: Path) -> None:
    """What is too much for the file shows when it is written."""
    async with opened(tmp_path, max_bytes=4 * LARGE) as (publisher, journal):
        told, large = Told(), Message(topic="meetings", key="k", value=b"x" * LARGE, partition_by="k")
        for _ in range(10):
            with contextlib.suppress(CannotStore):
                publisher.offer([large], told)
        await journal.bounds("meetings")
        refusals = [error for error in told.errors if error is not None]
        assert 0 < len(refusals) < len(told.errors)
        assert {(type(error), error.retry_after) for error in refusals if isinstance(error, CannotStore)} == {
            (CannotStore, FULL_RETRY_AFTER)
        }


async def test_what_the_journal_cannot_store_is_told(tmp_path: Path) -> None:
    """It fails while the record waits: 503 for that one, and for the next ones at once."""

    def die(_: object) -> None:
        raise SystemExit

    async with opened(tmp_path) as (publisher, journal):
        told = Told()
        with held(journal):
            dead = journal._writer.submit(die)
            publisher.offer([record(0)], told)
        with pytest.raises(JournalError):
            await dead
        await until(lambda: bool(told.errors))
        assert [type(error) for error in told.errors] == [CannotStore]
        with pytest.raises(CannotStore):
            publisher.offer([record(1)], told)
        assert len(told.errors) == 1


async def test_who_fails_on_being_told_holds_up_nobody(tmp_path: Path) -> None:
    """The others of the transaction hear all the same; what failed is logged without what it says."""

    def fail(_: Exception | None) -> None:
        raise ValueError("secret")

    with capture_logs() as logs:
        async with opened(tmp_path) as (publisher, journal):
            told = Told()
            offering: list[Done] = [fail, told, fail, told]
            with held(journal):
                for n, done in enumerate(offering):
                    publisher.offer([record(n)], done)
            await until(lambda: len(told.errors) == 2)
            await publisher.publish([record(4)])
            assert await stored(journal) == list(range(5))
    assert [line["event"] for line in logs] == ["journal.tell_crashed"] * 2
    assert "secret" not in str(logs)
