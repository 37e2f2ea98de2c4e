"""Room: the journal refuses events in time, goes on with everything else, empties itself, and takes events again."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from service.bus import journal_space
from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher
from service.bus.journal_space import (
    BALLAST_BYTES,
    BALLAST_NAME,
    LOG_BYTES,
    Holding,
    Space,
    free_for_ballast,
    room_on_volume,
)
from service.core.errors import CannotStore, JournalError, JournalFull
from service.core.message import Message
from tests.volume import MIB, PretendedVolume, fill_up, mounted


def message(number: int = 0, *, size: int = 0) -> Message:
    """A record whose value says its number."""
    return Message(topic="work", key="k", value=b"%d" % number + b" " * size, partition_by="org")


async def fill(journal: Journal, size: int) -> int:
    """Append records of ``size`` bytes, ten at a time, until one is refused; how many were stored."""
    stored = 0
    while True:
        appends = (journal.append([("work", message(n, size=size))]) for n in range(10))
        results = await asyncio.gather(*appends, return_exceptions=True)
        refused = [each for each in results if isinstance(each, BaseException)]
        stored += len(results) - len(refused)
        if refused:
            assert {type(each) for each in refused} == {JournalFull}
            return stored


async def until_accepting(journal: Journal, *, accepting: bool = True, within: float = 10) -> None:
    """Wait until the journal has noticed."""
    async with asyncio.timeout(within):
        while journal.accepting is not accepting:  # noqa: ASYNC110 - it looks by itself, once a second
            await asyncio.sleep(0.02)


def events(logs: Sequence[Any]) -> list[str]:
    """Names of what was logged."""
    return [log["event"] for log in logs]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A real one of 40 MiB."""
    with mounted(tmp_path / "volume", 40) as folder:
        yield folder


# Figures


def holding(occupied: int, *, unused: int = 0, log: int = LOG_BYTES, outstanding: int = 0) -> Holding:
    """What a journal has."""
    return Holding(occupied=occupied, unused=unused, log=log, outstanding=outstanding, files=occupied + unused + log)


@pytest.mark.parametrize(
    ("held", "free", "available"),
    [
        pytest.param(holding(MIB), 10 * MIB, 10 * MIB, id="what the volume has"),
        pytest.param(holding(MIB, unused=5 * MIB), 10 * MIB, 15 * MIB, id="free pages are room"),
        pytest.param(holding(MIB, unused=5 * MIB), 0, 5 * MIB, id="also without any on the volume"),
        pytest.param(holding(MIB, log=0), 10 * MIB, 10 * MIB - LOG_BYTES, id="the log will take its share"),
        pytest.param(holding(MIB, log=0, unused=5 * MIB), LOG_BYTES - 1, 0, id="no room for the log is no room"),
        pytest.param(holding(3 * MIB, outstanding=2 * MIB), 10 * MIB, 8 * MIB, id="what is in the log only will grow"),
        pytest.param(holding(3 * MIB, outstanding=2 * MIB, unused=MIB), MIB, 0, id="and has to"),
        pytest.param(holding(MIB, log=6 * MIB), 10 * MIB, 10 * MIB, id="a long log is used already"),
    ],
)
def test_what_the_journal_could_still_get(held: Holding, free: int, available: int) -> None:
    """Of the volume, and of its own file; the log comes first."""
    room = room_on_volume(held, free)
    assert room.available == available
    assert room.used == held.occupied + max(held.log, LOG_BYTES)


def test_refused_at_80_percent_taken_again_at_70(tmp_path: Path) -> None:
    """Between the two marks everything stays as it is; each change is one warning with its figures."""
    space = Space(tmp_path, free=lambda _: 0)
    seen = []
    with capture_logs() as logs:
        for percent in (10, 79, 80, 75, 71, 70, 79, 81, 95):
            whole = 1000 * MIB
            used = whole * percent // 100
            space._free = lambda _, left=whole - used: left  # type: ignore[misc] # a volume whose contents we say
            space.measure(holding(used - LOG_BYTES))
            seen.append((percent, space.full))
    assert seen == [
        *((10, False), (79, False), (80, True), (75, True), (71, True)),
        *((70, False), (79, False), (81, True), (95, True)),
    ]
    assert events(logs) == ["journal.full", "journal.takes_events_again", "journal.full"]
    assert logs[0]["used_percent"] == 80
    assert logs[0]["used_mib"] == 800.0
    assert logs[0]["available_mib"] == 200.0
    assert "Kafka" in logs[0]["advice"]


def test_a_nearly_full_general_disk_is_no_full_journal(tmp_path: Path) -> None:
    """60 MiB left of a big disk: an empty journal takes events, and has its ballast."""
    space = Space(tmp_path, free=PretendedVolume(60 * MIB))
    with capture_logs() as logs:
        space.measure(holding(100_000, log=0))
    assert (space.full, logs) == (False, [])
    assert space.used < 0.1
    assert (tmp_path / BALLAST_NAME).exists()


def test_the_ballast_is_really_there(tmp_path: Path) -> None:
    """Its blocks are taken, nobody else may read it, and it is twice what the log needs."""
    Space(tmp_path).measure(holding(0))
    status = (tmp_path / BALLAST_NAME).stat()
    assert status.st_blocks * 512 >= status.st_size == BALLAST_BYTES >= 2 * LOG_BYTES
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_volume_too_small_for_the_ballast_is_said_once(tmp_path: Path) -> None:
    """It works without, and says so; when there is room after all, the ballast is made."""
    volume = PretendedVolume(12 * MIB)
    clock = [0.0]
    space = Space(tmp_path, free=volume, clock=lambda: clock[0])
    with capture_logs() as logs:
        for _ in range(5):
            space.measure(holding(0, log=0))
            clock[0] += 60
        assert not space.full
        assert not (tmp_path / BALLAST_NAME).exists()
        volume.size = 40 * MIB
        space.measure(holding(0, log=0))
    assert (tmp_path / BALLAST_NAME).stat().st_size == BALLAST_BYTES
    assert events(logs) == ["journal.no_ballast"]
    assert logs[0]["free_mib"] == 12
    assert "14 MiB" in logs[0]["advice"]


@pytest.mark.parametrize("held", [holding(0, log=0), holding(MIB), holding(9 * MIB, unused=3 * MIB, outstanding=MIB)])
def test_the_ballast_is_made_from_the_figure_on_that_is_said(tmp_path: Path, held: Holding) -> None:
    """One byte less is not enough; and the documentation says the same for a new journal."""
    enough = free_for_ballast(held)
    for free in (enough - 1, enough):
        Space(tmp_path, free=lambda _, free=free: free).measure(held)  # type: ignore[misc] # a volume whose contents we say
        assert (tmp_path / BALLAST_NAME).exists() == (free == enough)
    text = (Path(__file__).parents[2] / "docs" / "reference" / "journal.md").read_text(encoding="utf-8")
    assert f"below {math.ceil(free_for_ballast(holding(0, log=0)) / MIB)} MiB" in " ".join(text.split())


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_ballast_where_the_volume_cannot_allocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is written instead, so that its blocks are taken."""

    def unsupported(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with capture_logs() as logs:
        Space(tmp_path).measure(holding(0))
    assert (tmp_path / BALLAST_NAME).stat().st_blocks * 512 >= BALLAST_BYTES
    assert logs == []


def test_a_ballast_that_was_given_up_comes_first(tmp_path: Path) -> None:
    """Also after a restart: before events are taken again, it is there again."""
    volume = PretendedVolume(40 * MIB)
    space = Space(tmp_path, free=volume)
    space.measure(holding(0))
    assert space.make_room()
    assert (tmp_path / BALLAST_NAME).stat().st_size == 0
    volume.others = 26 * MIB
    again = Space(tmp_path, free=volume)
    again.measure(holding(20 * MIB))  # 24 of 38 MiB, but beside the ballast it would be 24 of 30
    assert (tmp_path / BALLAST_NAME).stat().st_size == 0
    assert again.full
    again.measure(holding(9 * MIB))  # 13 of 19
    assert (tmp_path / BALLAST_NAME).stat().st_size == BALLAST_BYTES
    assert not again.full


def test_a_volume_that_cannot_be_asked_changes_nothing(tmp_path: Path) -> None:
    """The figures stay as they were."""

    def unknown(_: Path) -> int:
        raise FileNotFoundError

    space = Space(tmp_path / "gone", free=unknown)
    space.measure(holding(MIB))
    assert not space.full


# The journal


async def test_above_the_watermark_only_events_are_refused(tmp_path: Path) -> None:
    """Reading, positions, trimming and what is essential go on; below 70 % events are taken again."""
    volume = PretendedVolume(40 * MIB)
    with capture_logs() as logs:
        async with await Journal.open(tmp_path, free=volume) as journal:
            assert journal.state.used < 0.2
            stored = await fill(journal, 20_000)
            assert (journal.accepting, journal.state.full, journal.state.failure) == (False, True, None)
            assert 0.8 <= journal.state.used < 0.85
            with pytest.raises(JournalFull, match="takes events again at 70%"):
                await journal.append([("work", message())])
            with pytest.raises(CannotStore) as caught:
                await JournalPublisher(journal).publish([message()])
            assert caught.value.retry_after == 30
            await JournalPublisher(journal, essential=True).publish([message()])
            assert await journal.append([("ledger", message())], essential=True) == [0]
            assert len(await journal.read("work", 0, 10)) == 10
            await journal.commit("g", "work", 5)
            assert await journal.trim("work", stored // 20) == stored // 20
            await asyncio.sleep(0.3)
            assert await journal.append([("ledger", message())], essential=True) == [1]
            assert not journal.accepting
            await journal.trim("work", stored // 4)
            await until_accepting(journal)
            assert journal.state.used <= 0.7
            await journal.append([("work", message())])
    assert events(logs) == ["journal.full", "journal.takes_events_again"]


async def test_a_refused_append_is_not_stored(tmp_path: Path) -> None:
    """What was stored is exactly what was said to be stored."""
    async with await Journal.open(tmp_path, free=PretendedVolume(40 * MIB)) as journal:
        stored = await fill(journal, 50_000)
        assert await journal.bounds("work") == (0, stored)
        assert journal.state.rows == stored


async def test_the_journal_looks_by_itself(tmp_path: Path) -> None:
    """Others fill the volume and empty it while nothing is appended: readiness must follow, or nobody would ever send again."""
    volume = PretendedVolume(200 * MIB)
    async with await Journal.open(tmp_path, free=volume) as journal:
        assert journal.accepting
        volume.others = 190 * MIB
        await until_accepting(journal, accepting=False)
        volume.others = 0
        await until_accepting(journal)


async def test_one_that_does_not_fit_takes_nobody_down(tmp_path: Path) -> None:
    """It is refused alone, before anything is written; the journal is not full because of it."""
    async with await Journal.open(tmp_path, free=PretendedVolume(40 * MIB)) as journal:
        before, large, after = await asyncio.gather(
            journal.append([("work", message())]),
            journal.append([("work", message(n, size=6 * MIB)) for n in range(3)]),
            journal.append([("work", message())]),
            return_exceptions=True,
        )
        assert (before, after) == ([0], [1])
        assert isinstance(large, JournalFull)
        assert journal.accepting


async def test_the_log_stays_short(tmp_path: Path) -> None:
    """However much waits at once, a transaction is bounded: what one writes must fit into what the ballast gives."""
    async with await Journal.open(tmp_path) as journal:
        await asyncio.gather(*(journal.append([("work", message(n, size=60_000))]) for n in range(600)))
        assert (tmp_path / "journal.db-wal").stat().st_size < BALLAST_BYTES
        assert journal.state.rows == 600


async def test_an_operators_limit(tmp_path: Path) -> None:
    """Without room below the limit appends are refused, what shares their transaction is not, and trimming makes room."""
    async with await Journal.open(tmp_path, max_bytes=400_000) as journal:
        stored = await fill(journal, 20_000)
        assert 10 < stored <= 16
        essential, large, read = await asyncio.gather(
            journal.append([("work", message())], essential=True),
            journal.append([("work", message(size=200_000))], essential=True),
            journal.read("work", 0, 100),
            return_exceptions=True,
        )
        assert essential == [stored]
        assert isinstance(large, JournalFull)
        assert isinstance(read, list)
        assert [record.offset for record in read] == list(range(stored + 1))
        assert await journal.trim("work", stored) == stored
        await until_accepting(journal)
        assert await journal.append([("work", message(size=20_000))]) == [stored + 1]


async def test_where_there_is_hardly_room_removing_goes_in_small_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 rows in a transaction instead of 1000, for trimming and for compaction; all of them go all the same.

    However long it takes: there never is room for the ballast, with which the small steps would end.
    """
    monkeypatch.setattr(journal_space, "RETRY", math.inf)
    async with await Journal.open(tmp_path, free=lambda _: BALLAST_BYTES) as journal:
        for stream in ("work", "ledger"):
            await journal.append([(stream, message(n)) for n in range(3000)])
        commits = journal.state.commits
        assert await journal.trim("work", 1000) == 1000
        assert journal.state.commits - commits <= 2
        await journal._writer.submit(lambda file: file.no_room(freeing=True))
        commits = journal.state.commits
        assert await journal.trim("work", 2000) == 1000
        assert journal.state.commits - commits >= 10
        commits = journal.state.commits
        assert await journal.compact("ledger") == 2999
        assert journal.state.commits - commits >= 30


# A real volume


async def test_a_volume_that_refuses_against_its_figures(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC: what does not fit is refused alone, nothing is broken, and it is tried again later."""
    monkeypatch.setattr(journal_space, "RETRY", 0.5)
    with capture_logs() as logs:
        async with await Journal.open(volume / "journal", free=lambda _: 1 << 40) as journal:
            small, read, large = await asyncio.gather(
                journal.append([("work", message())]),
                journal.read("work", 0, 10),
                journal.append([("work", message(n, size=MIB)) for n in range(40)]),
                return_exceptions=True,
            )
            assert (small, isinstance(read, list)) == ([0], True)
            assert isinstance(large, JournalFull)
            assert journal.state.failure is None
            assert not journal.accepting
            await until_accepting(journal)
            assert await journal.append([("work", message())]) == [1]
    assert events(logs) == ["journal.full", "journal.takes_events_again"]
    assert logs[0]["reason"] == "the volume refused to take more"


@contextlib.contextmanager
def writes_refused(number: int) -> Iterator[None]:
    """SQLite's own ``write`` and ``pwrite`` fail with that ``errno``."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    instead = {
        "write": ctypes.CFUNCTYPE(size, ctypes.c_int, pointer, ctypes.c_size_t, use_errno=True)(refuse),
        **dict.fromkeys(
            ("pwrite", "pwrite64"),
            ctypes.CFUNCTYPE(size, ctypes.c_int, pointer, ctypes.c_size_t, ctypes.c_int64, use_errno=True)(refuse),
        ),
    }
    vfs = apsw.VFS("refusing", base="unix")
    before = {name: vfs.xGetSystemCall(name) for name in instead}
    try:
        for name, function in instead.items():
            if before[name] is not None:
                vfs.xSetSystemCall(name, ctypes.cast(function, pointer).value or 0)
        yield
    finally:
        for name, address in before.items():
            if address is not None:
                vfs.xSetSystemCall(name, address)
        vfs.unregister()


@pytest.mark.parametrize(("number", "full"), [(errno.EDQUOT, True), (errno.EIO, False)])
async def test_a_quota_is_a_full_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, full: bool
) -> None:
    """What it refuses is not stored, and tried again later; any other error of a write ends the trust."""
    monkeypatch.setattr(journal_space, "RETRY", 0.5)
    async with await Journal.open(tmp_path) as journal:
        await journal.append([("work", message())])
        with writes_refused(number), pytest.raises(JournalError) as caught:
            await journal.append([("work", message(size=20_000))])
        assert isinstance(caught.value, JournalFull) == full
        assert (journal.state.failure is None) == full
        if full:
            assert not journal.accepting
            await until_accepting(journal)
            assert await journal.append([("work", message())]) == [1]
            assert len(await journal.read("work", 0, 10)) == 2


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("size", [300, 20_000])
async def test_a_full_volume_empties_itself(
    volume: Path, monkeypatch: pytest.MonkeyPatch, size: int, reopened: bool
) -> None:
    """Filled to the mark by events, and to the last byte by somebody else: it drains to nothing, and takes events again."""
    monkeypatch.setattr(journal_space, "RETRY", 0.5)
    folder = volume / "journal"
    with capture_logs() as logs:
        journal = await Journal.open(folder)
        stored = await fill(journal, size)
        if reopened:  # then there is no log yet, and no room to begin one
            await journal.close()
        filler = fill_up(volume)
        journal = await Journal.open(folder) if reopened else journal
        await overfill(journal)
        assert await drained(journal) >= stored
        assert (folder / BALLAST_NAME).stat().st_size == 0 or (size, reopened) == (20_000, False)
        assert not journal.accepting
        filler.unlink()
        await until_accepting(journal)
        assert (folder / BALLAST_NAME).stat().st_size == BALLAST_BYTES
        await journal.append([("work", message())])
        await journal.close()
    assert events(logs).count("journal.full") == 1 + reopened
    assert events(logs).count("journal.takes_events_again") == 1


async def drained(journal: Journal) -> int:
    """Read and remove page by page, as the publisher does; how many rows there were."""
    position = 0
    while page := await journal.read("work", position, 500):
        assert page[0].offset == position
        position = page[-1].offset + 1
        await journal.trim("work", position)
    assert await journal.bounds("work") == (position, position)
    assert journal.state.failure is None
    return position


async def overfill(journal: Journal) -> None:
    """Append what is essential until the disk itself says no, in whatever way the journal is protected from that."""
    for _ in range(500):
        try:
            await journal.append([("essential", message(size=40_000))], essential=True)
        except JournalFull:
            return
        except JournalError as error:
            raise AssertionError(f"a full disk is no failure: {error}") from error
    raise AssertionError("there was always room")
