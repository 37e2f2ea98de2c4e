"""The journal on a real disk: durable, in order, and never delivering what was not written."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import apsw
import pytest
from structlog.testing import capture_logs

from service.bus import journal_file as journal_module
from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer, JournalReader
from service.bus.journal_file import Stored
from service.bus.journal_opening import check_sqlite
from service.core.errors import CannotStore, JournalError
from service.core.message import Message
from tests.bus.behaviour import Listener, numbers, take

ROOT = Path(__file__).parents[2]


def message(number: int = 0, *, topic: str = "work", key: str = "k", size: int = 0) -> Message:
    """A record whose value says its number."""
    return Message(topic=topic, key=key, value=b"%d" % number + b" " * size, partition_by="org")


async def fill(journal: Journal, count: int, *, stream: str = "work") -> None:
    """Records 0, 1, 2 … in one transaction."""
    await journal.append([(stream, message(number, topic=stream)) for number in range(count)])


async def read_all(journal: Journal, stream: str = "work") -> list[Stored]:
    """Everything, page by page."""
    records: list[Stored] = []
    async for page in journal.scan(stream):
        records += page
    return records


# Durable


@contextlib.contextmanager
def appender(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Another process that appends for ever; killed (SIGKILL) at the end at the latest."""
    command = [sys.executable, "-m", "tests.bus.append_forever", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout
        finally:
            process.kill()


def run_until_killed(folder: Path, seconds: float) -> list[tuple[int, int, bytes]]:
    """Start the appender, SIGKILL it ``seconds`` after its first answer; what it had said was durable."""
    with appender(folder) as (process, output):
        first = output.readline()
        time.sleep(seconds)
        process.kill()
        lines = [first, *output.readlines()]
    fields = [line.split() for line in lines if line.endswith(b"\n")]
    return [(int(event), int(hint), value) for event, hint, value in fields]


async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    """Killed at random moments: every acknowledged event and hint is there, at its offset, without a gap."""
    chance = random.Random(20_261)  # noqa: S311 - moments of death, not secrets
    acknowledged: list[tuple[int, int, bytes]] = []
    for _ in range(8):
        acknowledged += run_until_killed(tmp_path / "journal", chance.uniform(0.0, 0.25))
        async with await Journal.open(tmp_path / "journal") as journal:
            events, hints = await read_all(journal, "meetings"), await read_all(journal, "work")
        assert [stored.offset for stored in events] == list(range(len(events)))
        assert [stored.message.value for stored in events] == [stored.message.value for stored in hints]
        for event, hint, value in acknowledged:
            assert events[event].message.value == hints[hint].message.value == value
    assert len(acknowledged) > 100


async def test_offsets_go_on_after_a_restart(tmp_path: Path) -> None:
    """A reopened journal continues where it was, positions included."""
    async with await Journal.open(tmp_path) as journal:
        await fill(journal, 3)
        await journal.commit("g", "work", 2)
    async with await Journal.open(tmp_path) as journal:
        assert await journal.append([("work", message(3))]) == [3]
        assert await journal.bounds("work") == (0, 4)
        assert await journal.committed("g", "work") == 2
        assert await journal.committed("other", "work") is None


async def test_every_commit_is_synchronised(tmp_path: Path) -> None:
    """WAL and synchronous=FULL are in force: kill -9 cannot show it, only a loss of power would."""
    async with await Journal.open(tmp_path) as journal:
        pragma = journal._file._connection.pragma
        names = ("journal_mode", "synchronous", "locking_mode")
        settings = await journal._writer.submit(lambda _: [pragma(name) for name in names])
    assert settings == ["wal", 2, "exclusive"]


async def test_close_finishes_what_was_accepted(tmp_path: Path) -> None:
    """Appends that wait when close begins are stored, and their callers hear of it."""
    journal = await Journal.open(tmp_path)
    appends = [asyncio.create_task(journal.append([("work", message(n))])) for n in range(300)]
    await asyncio.sleep(0)
    await journal.close()
    assert await asyncio.gather(*appends) == [[n] for n in range(300)]
    with pytest.raises(JournalError, match="closed"):
        await journal.append([("work", message())])


async def test_a_cancelled_append_leaves_the_journal_whole(tmp_path: Path) -> None:
    """Whoever stops waiting takes nobody with him; his record may be there all the same."""
    async with await Journal.open(tmp_path) as journal:
        task = asyncio.create_task(journal.append([("work", message(0))]))
        await asyncio.sleep(0)
        task.cancel()
        assert await journal.append([("work", message(1))]) in ([0], [1])
        assert journal.state.waiting == 0


# Together


async def test_concurrent_appends_share_transactions(tmp_path: Path) -> None:
    """500 appends at once take a few commits, and keep the order of the calls."""
    async with await Journal.open(tmp_path) as journal:
        before = journal.state.commits
        offsets = await asyncio.gather(*(journal.append([("work", message(n))]) for n in range(500)))
        assert journal.state.commits - before <= 50
        assert offsets == [[n] for n in range(500)]
        assert [stored.message.value for stored in await read_all(journal)] == [b"%d" % n for n in range(500)]


async def test_a_failing_operation_does_not_take_its_neighbours_down(tmp_path: Path) -> None:
    """A record that cannot be stored is refused with all of its own call, and nothing else."""
    unstorable = message(key="\ud800")
    async with await Journal.open(tmp_path) as journal:
        results = await asyncio.gather(
            journal.append([("work", message(0))]),
            journal.append([("work", message(1)), ("new", message(1)), ("work", unstorable)]),
            journal.append([("work", message(2))]),
            return_exceptions=True,
        )
        assert [results[0], results[2]] == [[0], [1]]
        assert isinstance(results[1], JournalError)
        assert [stored.message.value for stored in await read_all(journal)] == [b"0", b"2"]
        assert await journal.bounds("new") == (0, 0)
        assert journal.state.rows == 2
        assert journal.state.failure is None


async def test_too_much_waiting_is_refused_at_once(tmp_path: Path) -> None:
    """Beyond 10 000 waiting appends, or 64 MiB, the answer is no; what was accepted is stored."""
    async with await Journal.open(tmp_path) as journal:
        accepted = [asyncio.create_task(journal.append([("work", message(n))])) for n in range(10_500)]
        results = await asyncio.gather(*accepted, return_exceptions=True)
        refused = [result for result in results if isinstance(result, CannotStore)]
        assert len(refused) == 500
        assert await journal.rows("work") == 10_000
        with pytest.raises(CannotStore):
            await journal.append([("work", message(size=65 * 1024 * 1024))])
        assert journal.state.waiting == 0


async def test_a_read_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Few large records are a page of their own; the next read goes on behind it."""
    async with await Journal.open(tmp_path) as journal:
        for number in range(4):
            await journal.append([("work", message(number, size=3 * 1024 * 1024))])
        assert [record.offset for record in await journal.read("work", 0, 100)] == [0, 1, 2]
        assert [record.offset for record in await read_all(journal)] == [0, 1, 2, 3]


# Trust


def test_after_an_io_error_nothing_is_stored_any_more(tmp_path: Path) -> None:
    """The failed commit, all later ones and a second open in that process are refused; the next process has what was acked."""
    command = [sys.executable, "-m", "tests.bus.append_beyond_limit", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1].split() == [b"stored", b"refused", b"refused", b"failed", b"refused"]

    async def rows() -> int:
        async with await Journal.open(tmp_path) as journal:
            return len(await read_all(journal, "meetings"))

    assert asyncio.run(rows()) == 1


# Opening


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The refusal names the folder, the process that has it and the way out; a dead process holds nothing."""
    with appender(tmp_path) as (process, output):
        output.readline()
        with pytest.raises(JournalError) as caught:
            await Journal.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert f"process {process.pid}" in str(caught.value)
    assert "JOURNAL__PATH" in str(caught.value)
    await (await Journal.open(tmp_path)).close()


async def test_a_second_open_in_this_process_is_refused(tmp_path: Path) -> None:
    """Two connections are two chances to corrupt."""
    async with await Journal.open(tmp_path):
        with pytest.raises(JournalError, match="in use"):
            await Journal.open(tmp_path)
    await (await Journal.open(tmp_path)).close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """… and so is a folder that cannot be made."""
    (tmp_path / journal_module.FILE_NAME).write_text("hello, this is a text and not a database" * 100)
    with pytest.raises(JournalError, match="cannot be opened"):
        await Journal.open(tmp_path)
    with pytest.raises(JournalError, match="cannot be opened"):
        await Journal.open(tmp_path / journal_module.FILE_NAME / "below a file")


async def test_folder_and_files_are_private(tmp_path: Path) -> None:
    """Only the owner may look: names and e-mail addresses are in there."""
    folder = tmp_path / "a" / "journal"
    async with await Journal.open(folder) as journal:
        await fill(journal, 1)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("journal.ballast", "journal.db", "journal.db-wal", "journal.lock"), 0o600)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        pytest.param("3.40.1", False, id="debian 12"),
        pytest.param("3.51.2", False, id="last with the bug"),
        pytest.param("3.51.3", True, id="first without"),
        pytest.param("3.100.0", True, id="compared as numbers"),
    ],
)
def test_a_sqlite_with_the_wal_reset_bug_is_refused(version: str, fits: bool) -> None:
    """The oldest SQLite that is good enough is 3.51.3."""
    if fits:
        check_sqlite(version)
    else:
        with pytest.raises(JournalError, match="WAL-reset"):
            check_sqlite(version)


# Waiting


async def test_waiting_ends_with_the_append(tmp_path: Path) -> None:
    """True as soon as the offset exists, false after the timeout, at once where it is there already."""
    async with await Journal.open(tmp_path) as journal:
        waiting = asyncio.create_task(journal.wait_for_append("work", 1, 20.0))
        await fill(journal, 1)
        assert not await journal.wait_for_append("work", 1, 0.05)
        assert not waiting.done()
        await journal.append([("other", message()), ("work", message())])
        assert await asyncio.wait_for(waiting, 5)
        assert await journal.wait_for_append("work", 0, 0.0)


# Trimming and compaction


async def test_trim_removes_from_the_front_only(tmp_path: Path) -> None:
    """Offsets stay what they were, also after everything is gone and after a restart."""
    async with await Journal.open(tmp_path) as journal:
        await fill(journal, 2500)
        assert await journal.trim("work", 2100) == 2100
        assert await journal.trim("work", 50) == 0
        assert await journal.bounds("work") == (2100, 2500)
        assert [stored.offset for stored in await journal.read("work", 0, 2)] == [2100, 2101]
        assert await journal.trim("work", 99_999) == 400
    async with await Journal.open(tmp_path) as journal:
        assert await journal.bounds("work") == (2500, 2500)
        assert journal.state.rows == 0
        assert await journal.append([("work", message())]) == [2500]


async def ledger(journal: Journal, *entries: tuple[str, bytes | None]) -> None:
    """Records of the ledger."""
    await journal.append([("ledger", Message(topic="ledger", key=k, value=v, partition_by="o")) for k, v in entries])


async def contents(journal: Journal) -> list[tuple[int, str, bytes | None]]:
    """The ledger as a reader sees it."""
    return [(record.offset, record.key, record.value) async for record in JournalReader(journal).read("ledger", 0)]


async def test_compaction_keeps_the_last_of_each_key(tmp_path: Path) -> None:
    """Older values and all tombstones go; offsets stay, and new records come behind."""
    async with await Journal.open(tmp_path) as journal:
        await ledger(journal, ("a", b"1"), ("b", b"1"), ("a", b"2"), ("c", b"1"), ("b", None), ("d", None), ("d", b"1"))
        assert await journal.compact("ledger") == 4
        assert await contents(journal) == [(2, "a", b"2"), (3, "c", b"1"), (6, "d", b"1")]
        await ledger(journal, ("a", b"3"))
    async with await Journal.open(tmp_path) as journal:
        assert await journal.compact("ledger") == 1
        assert [offset for offset, *_ in await contents(journal)] == [3, 6, 7]
        assert await journal.rows("ledger") == journal.state.rows == 3
        with pytest.raises(JournalError, match="never trimmed"):
            await journal.trim("ledger", 5)


async def test_compaction_stands_still_while_somebody_reads(tmp_path: Path) -> None:
    """A reader that has seen the old value sees the new one too, or its tombstone."""
    async with await Journal.open(tmp_path) as journal:
        await ledger(journal, ("a", b"1"), ("a", None))
        seen = []
        async for record in JournalReader(journal).read("ledger", 0):
            assert await journal.compact("ledger") == 0
            seen.append(record.value)
        assert seen == [b"1", None]
        assert await journal.compact("ledger") == 2


# The consumer's own ways on the journal


async def test_a_position_outside_of_the_stream_is_a_warning(tmp_path: Path) -> None:
    """Delivery goes on at the nearest record there is, and the log says what was asked for."""
    async with await Journal.open(tmp_path) as journal:
        await fill(journal, 10)
        await journal.commit("g", "work", 3)
        await journal.trim("work", 6)
        with capture_logs() as logs:
            assert await first_of(journal, 4) == [6, 7, 8, 9]
        await journal.commit("g", "work", 99)
        with capture_logs() as more_logs:
            consumer = JournalConsumer(journal, topic="work", group="g")
            await consumer.start(Listener())
        await journal.append([("work", message(10))])
        assert numbers(await take(consumer, 1)) == [10]
        await consumer.stop()
    events = [(log["event"], log["committed"], log["first"], log["next"]) for log in [*logs, *more_logs]]
    assert events == [("consumer.position_out_of_range", 3, 6, 10), ("consumer.position_out_of_range", 99, 6, 10)]


async def first_of(journal: Journal, count: int) -> Sequence[int]:
    """What group ``g`` gets first."""
    consumer = JournalConsumer(journal, topic="work", group="g")
    await consumer.start(Listener())
    records = await take(consumer, count)
    await consumer.stop()
    return numbers(records)


async def test_a_group_has_one_member(tmp_path: Path) -> None:
    """There is one partition: a second member is refused while the first one lives."""
    async with await Journal.open(tmp_path) as journal:
        first, second = (JournalConsumer(journal, topic="work", group="g") for _ in range(2))
        await first.start(Listener())
        with pytest.raises(JournalError, match="already has a member"):
            await second.start(Listener())
        await first.stop()
        await second.start(Listener())
        await second.stop()


async def test_a_drain_without_end_is_cut_short(tmp_path: Path) -> None:
    """The listener has its time and no more; what was finished is committed."""

    class Stuck(Listener):
        async def revoked(self, partitions: frozenset[int]) -> None:
            await asyncio.sleep(60)

    async with await Journal.open(tmp_path) as journal:
        await fill(journal, 3)
        consumer = JournalConsumer(journal, topic="work", group="g", drain=0.05)
        await consumer.start(Stuck())
        consumer.finish((await take(consumer, 3))[0])
        with capture_logs() as logs:
            await asyncio.wait_for(consumer.stop(), 5)
        assert [log["event"] for log in logs] == ["consumer.drain_cut_short"]
        assert await journal.committed("g", "work") == 1


async def test_nothing_is_delivered_once_the_revoke_has_begun(tmp_path: Path) -> None:
    """A poll that waited while the partition was revoked comes back empty."""
    async with await Journal.open(tmp_path) as journal:
        consumer = JournalConsumer(journal, topic="work", group="g")
        await consumer.start(Listener())
        polling = asyncio.create_task(consumer.poll())
        await asyncio.sleep(0.02)
        await asyncio.gather(consumer.stop(), fill(journal, 5))
        assert list(await polling) == []
        assert list(await consumer.poll()) == []


async def test_the_journal_has_partition_zero_only(tmp_path: Path) -> None:
    """Asking for another one is a mistake of the caller's."""
    async with await Journal.open(tmp_path) as journal:
        with pytest.raises(ValueError, match="one partition"):
            async for _ in JournalReader(journal).read("ledger", 1):
                pass


async def test_a_journal_whose_folder_was_deleted_stores_nothing_more(tmp_path: Path) -> None:
    """What is written to a deleted file would be gone with the process, so it is refused from then on."""
    folder = tmp_path / "journal"
    journal = await Journal.open(folder)
    await journal.append([("meetings", message(1))])
    shutil.rmtree(folder)

    for _ in range(2):
        with pytest.raises(JournalError):
            await journal.append([("meetings", message(2))])
    assert journal.state.failure is not None
    await journal.close()


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("names", [("journal.db", "journal.db-wal"), ("journal.db",), ("journal.db-wal",)])
async def test_a_journal_whose_files_were_deleted_stores_nothing_more(
    tmp_path: Path, names: Sequence[str], reopened: bool
) -> None:
    """Also where the lock file was left, and where somebody has put another file in their place."""
    if reopened:
        async with await Journal.open(tmp_path) as journal:
            await journal.append([("meetings", message(0))])
    journal = await Journal.open(tmp_path)
    await journal.append([("meetings", message(1))])
    for name in names:
        (tmp_path / name).unlink()
        if reopened:
            (tmp_path / name).touch()
    with pytest.raises(JournalError, match="deleted or replaced"):
        await journal.append([("meetings", message(2))])
    assert journal.state.failure is not None
    await journal.close()


async def test_a_journal_that_cannot_be_measured_does_not_open_and_is_not_locked(tmp_path: Path) -> None:
    """Whatever goes wrong behind the opening itself, too: the reason is a JournalError, the next open has the folder."""

    def broken(_: Path) -> int:
        raise apsw.IOError("on purpose")

    with pytest.raises(JournalError, match="cannot be opened: on purpose"):
        await Journal.open(tmp_path, free=broken)
    async with await Journal.open(tmp_path) as journal:
        await journal.append([("meetings", message(1))])
