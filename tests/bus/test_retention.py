"""The embedded bus does not grow for ever: old records go, but never what a consumer group has not finished."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.journal_bus import (
    KEPT_SHARE,
    JournalConsumer,
    Retention,
    held_back,
    keep_tidy,
    retain_by_age,
    retain_by_size,
)
from service.bus.journal_file import JournalFile
from service.bus.journal_space import RESUME, STOP
from service.core.errors import JournalFull
from service.core.message import Message
from tests.bus.behaviour import Listener
from tests.volume import MIB, PretendedVolume

DAY = timedelta(days=1)


class Clock:
    """A time that the test says."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Now."""
        return self.now

    def later(self, by: timedelta) -> None:
        """Time passes."""
        self.now += by


async def fill(journal: Journal, count: int, *, stream: str = "work", size: int = 0) -> None:
    """Records in one transaction."""
    entries = [(stream, Message(topic=stream, key="k", value=b"v" * size, partition_by="o")) for _ in range(count)]
    await journal.append(entries)


async def tidied(
    journal: Journal, retention: Retention, clock: Callable[[], datetime], topics: Sequence[str] = ("work",)
) -> None:
    """Some rounds of housekeeping."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await keep_tidy(journal, topics=topics, retention=retention, now=clock, interval=0.05)


# By age


async def test_age_never_passes_a_group(tmp_path: Path) -> None:
    """What is older goes, up to the first record that one of the groups has not committed."""
    clock = Clock()
    async with await Journal.open(tmp_path, now=clock) as journal:
        await fill(journal, 100)
        clock.later(2 * DAY)
        await fill(journal, 100)
        await journal.commit("slow", "work", 30)
        await journal.commit("fast", "work", 200)
        assert await retain_by_age(journal, "work", DAY, now=clock()) == 30
        assert await retain_by_age(journal, "work", DAY, now=clock()) == 0
        await journal.commit("slow", "work", 200)
        assert await retain_by_age(journal, "work", DAY, now=clock()) == 70
        assert await journal.bounds("work") == (100, 200)


async def test_retention_waits_for_a_group_that_has_only_started(tmp_path: Path) -> None:
    """Joining is enough to hold what is there."""
    async with await Journal.open(tmp_path, free=PretendedVolume(100 * MIB)) as journal:
        await fill(journal, 10)
        consumer = JournalConsumer(journal, topic="work", group="new")
        await consumer.start(Listener())
        assert await retain_by_age(journal, "work", timedelta(0), now=datetime.now(UTC) + DAY) == 0
        assert await retain_by_size(journal, ["work"], 0) == {}
        await consumer.stop()


# By size


async def test_size_takes_the_oldest_first_whatever_the_topic(tmp_path: Path) -> None:
    """Until the journal holds no more than it may."""
    clock = Clock()
    async with await Journal.open(tmp_path, now=clock) as journal:
        for stream in ("meetings", "work", "meetings"):
            await fill(journal, 2000, stream=stream, size=1000)
            clock.later(DAY)
        whole = await journal.occupied()
        assert await retain_by_size(journal, ["work", "meetings"], whole) == {}
        assert await retain_by_size(journal, ["work", "meetings"], whole - 1) == {"meetings": 1000}
        removed = await retain_by_size(journal, ["work", "meetings"], whole * 6 // 10)
        assert removed == {"meetings": 1000, "work": 1000}
        assert whole * 4 // 10 < await journal.occupied() <= whole * 6 // 10


async def test_size_never_passes_a_group(tmp_path: Path) -> None:
    """A group that stands still keeps its records however many there are; other topics make room instead."""
    async with await Journal.open(tmp_path) as journal:
        await fill(journal, 2000, stream="work", size=1000)
        await fill(journal, 2000, stream="meetings", size=1000)
        await journal.commit("stands still", "work", 150)
        assert await retain_by_size(journal, ["work", "meetings"], 0) == {"work": 150, "meetings": 2000}
        assert await journal.bounds("work") == (150, 2000)
        await journal.commit("stands still", "work", 2000)
        assert await retain_by_size(journal, ["work", "meetings"], 0) == {"work": 1850}


@pytest.mark.parametrize("size", [1000, 20_000])
@pytest.mark.parametrize("mib", [16, 24, 32, 40])
async def test_on_a_small_volume_old_events_make_room_for_new_ones(tmp_path: Path, mib: int, size: int) -> None:
    """However much the settings allow: retention keeps the journal below the mark at which it takes events again."""
    async with await Journal.open(tmp_path, free=PretendedVolume(mib * MIB)) as journal:
        with contextlib.suppress(JournalFull):
            while True:
                await fill(journal, 100_000 // size, size=size)
        assert not journal.accepting
        assert (await retain_by_size(journal, ["work"], 1024 * MIB)).total() > 0
        async with asyncio.timeout(10):
            while not journal.accepting:  # noqa: ASYNC110 - it looks by itself, once a second
                await asyncio.sleep(0.02)
        assert journal.state.used <= KEPT_SHARE + 0.01
        await fill(journal, 1, size=size)


def test_the_alert_on_room_is_above_what_retention_leaves() -> None:
    """It would fire for ever with BUS=journal, which is at that share all the time; and it comes before events are refused."""
    text = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    (mark,) = re.findall(r"`webex_events_journal_used_ratio > ([0-9.]+)`", text)
    assert KEPT_SHARE < RESUME <= float(mark) < STOP


# A group that holds it back


async def test_a_group_that_holds_back_retention_is_named_once_a_day(tmp_path: Path) -> None:
    """With how much waits, since when, and what to do; not before it has stood still for days, and not when it moves on."""
    clock, retention = Clock(), Retention(max_age=4 * DAY, max_bytes=1024 * MIB)
    async with await Journal.open(tmp_path, now=clock) as journal:
        await fill(journal, 100)
        await journal.commit("gone", "work", 40)
        await journal.commit("done", "work", 100)
        clock.later(3 * DAY)
        with capture_logs() as early:
            await tidied(journal, retention, clock)
        clock.later(2 * DAY)
        with capture_logs() as first:
            tidying = asyncio.create_task(
                keep_tidy(journal, topics=["work"], retention=retention, now=clock, interval=0.05)
            )
            await asyncio.sleep(0.3)
        clock.later(timedelta(hours=25))
        with capture_logs() as second:
            await asyncio.sleep(0.3)
        await journal.commit("gone", "work", 100)
        clock.later(2 * DAY)
        with capture_logs() as third:
            await asyncio.sleep(0.3)
        tidying.cancel()
    assert early == []
    warned = [log for log in first if log["log_level"] == "warning"]
    assert [(log["event"], log["group"], log["topic"], log["waiting"]) for log in warned] == [
        ("journal.group_holds_back_retention", "gone", "work", 60)
    ]
    assert warned[0]["since"] == "2026-01-01T00:00:00+00:00"
    assert "KAFKA__GROUP" in warned[0]["advice"]
    assert [log["event"] for log in second] == ["journal.group_holds_back_retention"]
    assert [log["event"] for log in third] == ["journal.tidied"]


async def test_above_the_size_two_days_are_enough(tmp_path: Path) -> None:
    """A journal that is too large cannot wait for the age."""
    clock = Clock()
    async with await Journal.open(tmp_path, now=clock) as journal:
        await fill(journal, 100)
        await journal.commit("gone", "work", 0)
        clock.later(3 * DAY)
        with capture_logs() as logs:
            await tidied(journal, Retention(max_age=30 * DAY, max_bytes=0), clock)
        assert [log["event"] for log in logs] == ["journal.group_holds_back_retention"]


async def test_a_group_that_is_done_holds_back_nothing(tmp_path: Path) -> None:
    """However old what it has finished is, and however long ago."""
    clock = Clock()
    async with await Journal.open(tmp_path, now=clock) as journal:
        await fill(journal, 10)
        await journal.commit("done", "work", 10)
        clock.later(30 * DAY)
        assert await held_back(journal, "work", DAY, now=clock()) == []


async def test_a_forgotten_group_holds_back_nothing(tmp_path: Path) -> None:
    """Its positions are gone on every stream, nobody else's are."""
    async with await Journal.open(tmp_path) as journal:
        for stream, group in (("work", "gone"), ("commands", "gone"), ("work", "here")):
            await fill(journal, 10, stream=stream)
            await journal.commit(group, stream, 3)
        assert await journal.forget("gone") == ["commands", "work"]
        assert await journal.forget("gone") == []
        assert await journal.positions("work") == {"here": 3}
    async with await Journal.open(tmp_path) as journal:
        assert await journal.positions("commands") == {}


# Housekeeping


async def ledger(journal: Journal, count: int) -> None:
    """So many values of one key."""
    entries = [("ledger", Message(topic="ledger", key="a", value=b"%d" % n, partition_by="o")) for n in range(count)]
    await journal.append(entries)


async def test_keep_tidy_trims_and_compacts(tmp_path: Path) -> None:
    """One round: old rows of the named topics go, the ledger is compacted, the rest is left alone."""
    clock = Clock()
    async with await Journal.open(tmp_path, now=clock) as journal:
        await fill(journal, 40)
        await fill(journal, 50, stream="other")
        await ledger(journal, 1500)
        clock.later(2 * DAY)
        await fill(journal, 10)
        await tidied(journal, Retention(max_age=DAY, max_bytes=1024 * MIB), clock, ["work", "ledger"])
        assert journal.state.rows == 10 + 50 + 1


def _damage(file: JournalFile) -> None:
    file._execute("UPDATE records SET key = 'b' WHERE place & 0xffff = 1400 AND key = 'a'")


def failures(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The topics of which the log says that they could not be tidied."""
    return [log["topic"] for log in logs if log["event"] == "journal.tidy_failed"]


async def test_damage_does_not_end_housekeeping(tmp_path: Path) -> None:
    """A ledger that cannot be read is logged and left as it is; the other topics had their turn, and the loop goes on."""
    clock = Clock()
    async with await Journal.open(tmp_path, now=clock) as journal:
        await ledger(journal, 1500)
        await fill(journal, 50)
        clock.later(2 * DAY)
        await journal._writer.submit(_damage)
        retention = Retention(max_age=DAY, max_bytes=1024 * MIB)
        with capture_logs() as logs:
            compacted = ["ledger", "work2"]
            tidying = asyncio.create_task(
                keep_tidy(journal, topics=["work"], retention=retention, now=clock, compacted=compacted, interval=0.02)
            )
            async with asyncio.timeout(30):
                while failures(logs).count("ledger") < 2:  # noqa: ASYNC110 - there is no event for a line of the log
                    await asyncio.sleep(0.01)
            tidying.cancel()
            await asyncio.wait({tidying})
        assert [await journal.rows(stream) for stream in ("ledger", "work")] == [1500, 0]
    assert logs[0] == {"event": "journal.tidied", "log_level": "info", "topic": "work", "removed": 50}
    assert failures(logs).count("ledger") >= 2
