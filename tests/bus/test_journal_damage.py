"""Damaged journals: nothing that was altered is ever read, whatever is missing is announced, and the service goes on.

And the other way round: what a loss of power leaves behind, and every file of somebody else's, is no damage.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from service.bus import journal_check, journal_salvage
from service.bus.journal import Journal
from service.bus.journal_bus import JournalConsumer
from service.bus.journal_file import FILE_NAME, FORMAT, WAL_NAME
from service.bus.journal_lock import LOCK_NAME
from service.bus.journal_pages import read_anyway, read_log_of
from service.bus.journal_wal import HEADER
from service.core.errors import JournalError
from tests.bus.behaviour import Listener, numbers, take
from tests.bus.damage import (
    FILES,
    SIDE,
    Files,
    Kept,
    Records,
    altered,
    appending,
    by_key,
    committing,
    contents,
    files_of,
    message,
    missing,
    opened,
    positions,
    put,
    transact,
    written,
)

ROOT = Path(__file__).parents[2]
PAGE = 4096
STATES = ("log", "closed", "both", "anew")


@pytest.fixture(scope="module")
def quick() -> Iterator[Path]:
    """A folder in memory, where there is one: some thousand journals are made in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108
        yield Path(folder)


@pytest.fixture(scope="module")
def states(quick: Path) -> dict[str, Kept]:
    """The journals that are damaged here."""
    return written(quick / "written", seed=6)


@pytest.fixture
def folder(quick: Path) -> Iterator[Path]:
    """Where a journal is put."""
    yield quick / "journal"
    shutil.rmtree(quick / "journal", ignore_errors=True)


def verify(folder: Path, kept: Kept) -> str | None:
    """Open what was damaged: all that this module promises. What the journal says of it."""
    before = {name: content for name, content in files_of(folder).items() if name in FILES}
    with opened(folder) as file:
        records, damage = contents(file), file.damage
        assert altered(kept, records) == []
        verify_announced(kept, records, damage)
        assert ledger_is_right(kept, records)
        offsets = transact(
            file, appending(("meetings", message(99, topic="meetings")), ("new", message(99, topic="new")))
        )
        assert "meetings" not in records or offsets[0][0] > max(kept.records["meetings"])
        after = contents(file)
    if damage is not None:
        assert {path.name: path.read_bytes() for path in folder.glob(f"{SIDE}/*")} == before
    with opened(folder) as file:
        assert (contents(file), file.damage) == (after, None)
    return damage


def verify_announced(kept: Kept, records: Records, damage: str | None) -> None:
    """Nothing is missing in silence, and nobody is frightened for nothing."""
    lost = missing(kept, records)
    if damage is None:
        assert lost == []
    else:
        *_, said, _ = damage.split("; ")  # what was found; what is missing; where the files are
        assert bool(lost) == any(words in said for words in (" records of ", " records that ", "all of ")), (
            damage,
            lost,
        )


def ledger_is_right(kept: Kept, records: Records) -> bool:
    """All of it, or nothing: an old value of a key would be worse than none."""
    rows = records.get("ledger", {})
    return not rows or by_key(rows) == by_key(kept.records["ledger"])


# Bytes


@pytest.mark.parametrize("state", STATES)
def test_one_flipped_bit_anywhere(folder: Path, states: dict[str, Kept], state: str) -> None:
    """250 places of the file and its log, for each of four states: 1 000 journals, each opened, read, used and opened again."""
    kept, chance, damages = states[state], random.Random(state), 0  # noqa: S311 - places to damage, not secrets
    sizes = {name: len(kept.files.get(name, b"")) for name in FILES}
    for _ in range(250):
        name = chance.choices(FILES, weights=[sizes[name] for name in FILES])[0]
        content = bytearray(kept.files[name])
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        put(folder, {**kept.files, name: bytes(content)})
        damages += verify(folder, kept) is not None
        shutil.rmtree(folder)
    assert damages > 50


@pytest.mark.parametrize("state", ["log", "both", "anew"])
def test_one_flipped_bit_in_the_log_after_a_loss_of_power(folder: Path, states: dict[str, Kept], state: str) -> None:
    """The lock file says nothing: at most the last transaction is taken for one that was torn, never one before it."""
    kept, chance, silent = states[state], random.Random(state), 0  # noqa: S311 - places to damage, not secrets
    last = max(stored.timestamp for rows in kept.records.values() for stored in rows.values())
    for _ in range(60):
        log = bytearray(kept.files[WAL_NAME])
        log[chance.randrange(len(log))] ^= 1 << chance.randrange(8)
        put(folder, without({**kept.files, WAL_NAME: bytes(log)}, LOCK_NAME))
        with opened(folder) as file:
            lost = missing(kept, contents(file))
            assert altered(kept, contents(file)) == []
            if file.damage is None:
                silent += 1
                assert all(kept.records[name][offset].timestamp == last for name, offset in lost)
        shutil.rmtree(folder)
    assert silent < 60


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("state", STATES)
def test_a_file_that_was_cut(folder: Path, states: dict[str, Kept], state: str, name: str) -> None:
    """Off, within and between pages, and down to nothing."""
    kept = states[state]
    size = len(kept.files.get(name, b""))
    lengths = {0, 1, 31, 32, 100, 600, 3000, *range(32, size, PAGE + 24), *range(0, size, PAGE), size - 1, size - 700}
    for length in sorted(length for length in lengths if 0 <= length < size):
        put(folder, {**kept.files, name: kept.files[name][:length]})
        verify(folder, kept)
        shutil.rmtree(folder)


@pytest.mark.parametrize("state", STATES)
def test_a_page_that_was_lost(folder: Path, states: dict[str, Kept], state: str) -> None:
    """A sector that cannot be read any more gives zeros, or somebody else's bytes: the header, the root of a table, a leaf."""
    kept = states[state]
    content = kept.files[FILE_NAME]
    for start in range(0, len(content), PAGE):
        for instead in (bytes(PAGE), b"\r" + os.urandom(PAGE - 1)):
            put(folder, {**kept.files, FILE_NAME: content[:start] + instead + content[start + PAGE :]})
            verify(folder, kept)
            shutil.rmtree(folder)


def without(files: Files, *names: str) -> dict[str, bytes]:
    """Those files are not there."""
    return {name: content for name, content in files.items() if name not in names}


@pytest.mark.parametrize("names", [(WAL_NAME,), (FILE_NAME,), FILES], ids="-".join)
@pytest.mark.parametrize("state", STATES)
def test_a_file_that_is_not_there(folder: Path, states: dict[str, Kept], state: str, names: Sequence[str]) -> None:
    """The log, the database, or both: what the lock file says was appended is missed."""
    kept = states[state]
    damage = verify(put(folder, without(kept.files, *names)), kept)
    assert (damage is None) == ((state, names) == ("closed", (WAL_NAME,)))


def test_what_the_log_alone_holds_is_kept(folder: Path, states: dict[str, Kept]) -> None:
    """Without the database there still is everything that was written since the log began."""
    for names in ((FILE_NAME,), (FILE_NAME, LOCK_NAME)):
        put(folder, without(states["log"].files, *names))
        with opened(folder) as file:
            assert contents(file) == states["log"].records
            assert positions(file) == states["log"].positions
        shutil.rmtree(folder)


@pytest.mark.parametrize("page", range(1, 7))
def test_no_single_page_of_a_closed_journal_costs_more_than_its_rows(
    folder: Path, states: dict[str, Kept], page: int
) -> None:
    """Page 1 is the header, 2 to 6 are the roots of the tables: the other pages are read without them."""
    kept = states["closed"]
    content = kept.files[FILE_NAME]
    put(folder, {**kept.files, FILE_NAME: content[: (page - 1) * PAGE] + bytes(PAGE) + content[page * PAGE :]})
    with opened(folder) as file:
        records = contents(file)
    assert {name for name, _ in missing(kept, records)} <= {"ledger"}
    assert [*records["meetings"]] == [*kept.records["meetings"]]


# Rows


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        pytest.param("UPDATE records SET value = CAST('3' AS BLOB) WHERE place & 0xffff = 2", [0, 1, 3, 4], id="value"),
        pytest.param("UPDATE records SET key = 'K' WHERE place & 0xffff = 2", [0, 1, 3, 4], id="key"),
        pytest.param("UPDATE records SET topic = 'wörk' WHERE place & 0xffff = 2", [0, 1, 3, 4], id="topic"),
        pytest.param("UPDATE records SET partition_by = 'o' WHERE place & 0xffff = 2", [0, 1, 3, 4], id="partition_by"),
        pytest.param(
            "UPDATE records SET timestamp = timestamp + 1 WHERE place & 0xffff = 2", [0, 1, 3, 4], id="timestamp"
        ),
        pytest.param("UPDATE records SET value = NULL WHERE place & 0xffff = 2", [0, 1, 3, 4], id="tombstone"),
        pytest.param(
            "UPDATE records SET checksum = checksum - 1 WHERE place & 0xffff = 2", [0, 1, 3, 4], id="checksum"
        ),
        pytest.param("UPDATE records SET place = place + 100 WHERE place & 0xffff = 2", [0, 1, 3, 4], id="moved away"),
        pytest.param("DELETE FROM records WHERE place & 0xffff = 2", [0, 1, 3, 4], id="missing in the middle"),
        pytest.param("DELETE FROM records WHERE place & 0xffff = 4", [0, 1, 2, 3], id="missing at the end"),
        pytest.param("DELETE FROM records WHERE place & 0xffff = 0", [1, 2, 3, 4], id="missing at the start"),
        pytest.param("DELETE FROM records", [], id="all missing"),
        pytest.param("UPDATE streams SET next = next - 1", [0, 1, 2, 3, 4], id="the stream's end"),
        pytest.param("UPDATE streams SET first = first + 1", [0, 1, 2, 3, 4], id="the stream's start"),
        pytest.param("UPDATE streams SET compacted = 1", [0, 1, 2, 3, 4], id="the stream's kind"),
        pytest.param("UPDATE streams SET name = 'word'", [0, 1, 2, 3, 4], id="the stream's name"),
        pytest.param("DELETE FROM streams", [0, 1, 2, 3, 4], id="the stream"),
        pytest.param(
            "INSERT INTO records SELECT place + (9 << 40), timestamp, topic, key, partition_by, value, checksum FROM records",
            [0, 1, 2, 3, 4],
            id="rows of no stream",
        ),
    ],
)
def test_a_row_that_was_altered(folder: Path, statement: str, left: list[int]) -> None:
    """Whatever changed in it, or took it away: it is not delivered, the others are, and no offset is given out twice."""
    with opened(folder) as file:
        transact(file, appending(*[("work", message(number, topic="work")) for number in range(5)]))
    alter(folder, statement)
    with opened(folder) as file:
        assert file.damage is not None
        records = contents(file)["work"]
        assert list(records) == left
        assert all(records[offset].message == message(offset, topic="work") for offset in left)
        assert transact(file, appending(("work", message(5, topic="work")))) == [[5]]


def test_a_position_that_was_altered(folder: Path) -> None:
    """A group never starts behind unfinished work because of a flipped bit: it begins with what is there."""
    with opened(folder) as file:
        transact(file, appending(*[("work", message(number, topic="work")) for number in range(5)]))
        transact(file, committing("g", "work", 2), committing("h", "work", 3))
    alter(folder, "UPDATE positions SET position = 4 WHERE consumers = 'g'")
    with opened(folder) as file:
        assert file.damage is not None
        assert "perhaps some consumers' positions" in file.damage
        assert file.positions("work") == {"h": 3}
        assert len(contents(file)["work"]) == 5


# What is no damage


def torn(chance: random.Random, before: Files, after: Files) -> dict[str, bytes]:
    """What a loss of power can leave of a transaction whose fsync has not returned: any of its sectors, and any length."""
    old, new = before.get(WAL_NAME, b""), after[WAL_NAME]
    content = bytearray(new[: chance.choice((len(old), len(new), chance.randrange(len(old), len(new) + 1)))])
    share = chance.choice((0.1, 0.5, 0.9, 1.0))
    for start in range(0, len(content), 512):
        if chance.random() >= share:
            stood = old[start : start + 512]
            content[start : start + 512] = stood.ljust(len(content[start : start + 512]), b"\0")
    if content[: len(new)] != old[: len(content)] or len(content) != len(old):
        content[:HEADER] = new[: len(content)][:HEADER]  # it is synchronised before the first frame is written
    lock = {LOCK_NAME: before[LOCK_NAME]} if chance.random() < 0.5 else {}
    return {**without(before, LOCK_NAME), **lock, WAL_NAME: bytes(content)}


def lose_power(folder: Path, chance: random.Random, number: int) -> dict[str, bytes]:
    """While a transaction is written, small or large; the journal is whole at that moment. The files afterwards."""
    with opened(folder) as file:
        assert file.damage is None
        count = len(contents(file).get("work", {}))
        for _ in range(chance.randrange(3)):
            transact(file, appending(("work", message(count, topic="work"))))
            count += 1
        if chance.random() < 0.3:
            file._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        before = files_of(folder)
        rows = [
            ("work", message(number, topic="work", size=chance.choice((10, 3000))))
            for _ in range(chance.randrange(1, 9))
        ]
        transact(file, appending(*rows))
        after = files_of(folder)
        known = len(contents(file)["work"])
    files = torn(chance, before, after)
    shutil.rmtree(folder)
    put(folder, files)
    with opened(folder) as file:
        assert file.damage is None
        assert len(contents(file).get("work", {})) in (count, known)
        return files_of(folder)  # to be opened once more, before anything is written behind what is torn


@pytest.mark.parametrize("seed", range(40))
def test_what_a_loss_of_power_leaves_is_no_damage(folder: Path, seed: int) -> None:
    """Five losses of power, one after the other: a transaction is there or not, and what was durable before it is."""
    chance = random.Random(seed)  # noqa: S311 - moments of death, not secrets
    for number in range(5):
        left = lose_power(folder, chance, number)
        if chance.random() < 0.5:
            shutil.rmtree(folder)
            put(folder, left)


def test_the_last_transaction_alone_may_vanish_unseen(folder: Path, states: dict[str, Kept]) -> None:
    """Without the lock file's word, a damaged last transaction looks like one that a loss of power has torn."""
    kept = states["both"]
    log = kept.files[WAL_NAME]
    files = without({**kept.files, WAL_NAME: log[:-1] + bytes([log[-1] ^ 1])}, LOCK_NAME)
    with opened(put(folder, files)) as file:
        assert missing(kept, contents(file)) == [("meetings", 21), ("work", 21), ("ledger", 7)]
        assert file.damage is None
    shutil.rmtree(folder)
    with opened(put(folder, {**files, LOCK_NAME: kept.files[LOCK_NAME]})) as file:
        assert file.damage is not None


def test_a_journal_of_before_the_holes_is_no_damage(folder: Path, states: dict[str, Kept]) -> None:
    """The table is added."""
    put(folder, states["closed"].files)
    with sqlite3.connect(folder / FILE_NAME) as connection:
        connection.execute("DROP TABLE holes")
    connection.close()
    for _ in range(2):
        with opened(folder) as file:
            assert (contents(file), file.damage) == (states["closed"].records, None)


FOREIGN: Mapping[str, bytes] = {
    "a text": b"hello, this is a text and not a database" * 200,
    "zeros": bytes(8192),
    "one letter": b"x",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_somebody_elses_is_left_alone(folder: Path, content: bytes) -> None:
    """Refused with a sentence, not one byte changed, nothing moved."""
    put(folder, {FILE_NAME: content})
    refused_and_untouched(folder, "not a journal of this program")


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        pytest.param(f"PRAGMA user_version = {FORMAT + 1}", f"its format is {FORMAT + 1}", id="a later format"),
        pytest.param("PRAGMA application_id = 1", "not a journal of this program", id="another program's file"),
        pytest.param("PRAGMA application_id = 0", "not a journal of this program", id="nobody's file"),
    ],
)
def test_another_format_is_left_alone(folder: Path, states: dict[str, Kept], statement: str, says: str) -> None:
    """Also where its log has to be read to know."""
    put(folder, states["closed"].files)
    connection = apsw.Connection(str(folder / FILE_NAME))
    connection.execute(statement)
    before = files_of(folder)
    connection.close()
    shutil.rmtree(folder)
    put(folder, before)
    refused_and_untouched(folder, says)


@pytest.mark.parametrize(
    "at", [0, 7, 16, 18, 19, 20, 24, 28, 36, 40, 44, 52, 56, 60, 61, 62, 68, 71, 92, 96], ids="byte {}".format
)
def test_a_header_that_is_nearly_ours_is_damage(folder: Path, states: dict[str, Kept], at: int) -> None:
    """One byte of it, the number of the program and of the format among them: everything is kept."""
    kept = states["closed"]
    content = bytearray(kept.files[FILE_NAME])
    content[at] ^= 0x40
    with opened(put(folder, {**kept.files, FILE_NAME: bytes(content)})) as file:
        assert contents(file) == kept.records
        assert positions(file) == kept.positions


def refused_and_untouched(folder: Path, says: str) -> None:
    """As whatever it is that is not ours."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK_NAME}
    with pytest.raises(JournalError, match=says), opened(folder):
        pass
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK_NAME} == before


# Holes


def holed(folder: Path, *lost: int, of: int = 30) -> None:
    """A journal whose stream ``work`` has lost these records."""
    with opened(folder) as file:
        for number in range(of):
            transact(file, appending(("work", message(number, topic="work", size=10))))
    for number in lost:
        alter(folder, "UPDATE records SET key = 'K' WHERE place & 0xffff = ?", number)
    with opened(folder) as file:
        assert file.damage is not None


def alter(folder: Path, statement: str, *values: int) -> None:
    """What a failing disk, or somebody with a tool, does to a closed journal."""
    connection = apsw.Connection(str(folder / FILE_NAME))
    connection.execute(statement, values)
    assert connection.changes()
    connection.close()


def test_offsets_stay_and_holes_are_read_over(folder: Path) -> None:
    """From before a hole, from inside, from behind; the records in front of the first one that is left are as if trimmed."""
    holed(folder, 0, 1, 7, 8, 9, 20)
    with opened(folder) as file:
        offsets = [stored.offset for stored in file.read("work", 0, 100)]
        assert offsets == [*range(2, 7), *range(10, 20), *range(21, 30)]
        assert [stored.offset for stored in file.read("work", 8, 2)] == [10, 11]
        assert [stored.offset for stored in file.read("work", 9, 1)] == [10]
        extent = file.extent("work")
        assert (extent.first, extent.next, extent.rows) == (2, 30, 24)
        assert transact(file, appending(("work", message(30, topic="work")))) == [[30]]


@pytest.mark.parametrize("also", [3, 6, 10, 19, 29], ids="record {}".format)
def test_a_hole_excuses_nothing_beside_it(folder: Path, also: int) -> None:
    """Exactly what was found missing may be missing: one record more is damage again."""
    holed(folder, 7, 8, 9, 20)
    alter(folder, "DELETE FROM records WHERE place & 0xffff = ?", also)
    with opened(folder) as file:
        assert file.damage is not None
        assert "1 records of work" in file.damage
    with opened(folder) as file:
        assert file.damage is None


def test_trimming_goes_over_holes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step to where it was told, and the holes go with what is around them."""
    holed(folder, 3, 4, 5, 12, 20, 21)
    monkeypatch.setattr("service.bus.journal_file.STEP", 4)
    with opened(folder) as file:
        removed = []
        while step := transact(file, lambda file: file.trim("work", 21, None))[0]:
            removed.append(step)
        assert removed == [4, 4, 4, 4]
        assert file.extent("work").first == 22
        assert [stored.offset for stored in file.read("work", 0, 100)] == [*range(22, 30)]
    with opened(folder) as file:
        assert file.damage is None


async def test_a_consumer_goes_over_holes(folder: Path) -> None:
    """Also at the end, where there is nothing to be had until something is appended."""
    holed(folder, 4, 5, 28, 29)
    async with await Journal.open(folder) as journal:
        assert not await journal.wait_for_append("work", 28, 0.01)
        assert await journal.wait_for_append("work", 27, 0.01)
        consumer = JournalConsumer(journal, topic="work", group="g")
        await consumer.start(Listener())
        records = await take(consumer, 26)
        assert [record.offset for record in records] == [0, 1, 2, 3, *range(6, 28)]
        polling = asyncio.create_task(take(consumer, 1))
        assert await journal.append([("work", message(30, topic="work"))]) == [30]
        assert numbers(await polling) == [30]
        for record in records:
            consumer.finish(record)
        await consumer.stop()
        assert await journal.committed("g", "work") == 28


# Tables


@pytest.mark.parametrize("compacted", [False, True])
def test_a_damaged_ledger_is_set_aside_as_a_whole(folder: Path, *, compacted: bool) -> None:
    """Half of it would say what was never true. Its offsets go on, so that it does not look like a new one."""
    with opened(folder) as file:
        for number in range(8):
            transact(file, appending(("ledger", message(number, topic="ledger", key=f"k{number % 3}"))))
        if compacted:
            transact(file, lambda file: file.remove(stream="ledger", offsets=[0, 1, 2, 3, 4]))
        transact(file, appending(("work", message(0, topic="work"))), committing("g", "work", 1))
    alter(folder, "DELETE FROM records WHERE place & 0xffff = 6 AND topic = 'ledger'")
    with opened(folder) as file:
        assert file.damage is not None
        assert "all of ledger" in file.damage
        extent = file.extent("ledger")
        assert (extent.first, extent.next, extent.rows) == (8, 8, 0)
        assert positions(file) == {"ledger": {}, "work": {"g": 1}}
        assert len(contents(file)["work"]) == 1


async def test_a_ledger_that_was_lost_with_the_positions_is_not_a_new_one(folder: Path) -> None:
    """The processor asks whether its group has ever finished anything: with nothing left at all, the answer is yes."""
    async with await Journal.open(folder) as journal:
        assert not await JournalConsumer(journal, topic="work", group="g").consumed(0)
        await journal.append([("ledger", message(0, topic="ledger"))])
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for _ in range(2):
        async with await Journal.open(folder) as journal:
            assert await JournalConsumer(journal, topic="work", group="g").consumed(0)


def test_what_was_removed_does_not_come_back(folder: Path) -> None:
    """Records that were trimmed or compacted away still stand in pages that nobody uses: they stay away."""
    with opened(folder) as file:
        for number in range(40):
            entries = [(name, message(number, topic=name, size=900)) for name in ("work", "ledger")]
            transact(file, appending(*entries))
        transact(file, lambda file: file.trim("work", 30, None))
        transact(file, lambda file: file.remove(stream="ledger", offsets=range(39)))
        before = contents(file)
    alter(folder, "UPDATE records SET timestamp = 0 WHERE topic = 'work' AND place & 0xffff = 35")
    with opened(folder) as file:
        assert file.damage is not None
        records = contents(file)
    for either in (before, records):  # it may be found elsewhere
        either["work"].pop(35, None)
    assert records == before


# Structure


def freed(folder: Path) -> bytearray:
    """The database of a journal with pages that nobody uses."""
    with opened(folder) as file:
        for number in range(40):
            transact(file, appending(("work", message(number, topic="work", size=900))))
        transact(file, lambda file: file.trim("work", 30, None))
    return bytearray((folder / FILE_NAME).read_bytes())


def index_of(content: bytearray, name: bytes) -> int:
    """Where the index of the streams' names says ``name``: its page has the root 3."""
    return content.index(name, 2 * PAGE, 3 * PAGE)


@pytest.mark.parametrize("what", ["free list", "index"])
def test_a_structure_that_would_be_written_over(folder: Path, what: str) -> None:
    """No record is wrong yet, but the next write would be: free pages that are not free, a name that is not found."""
    content = freed(folder)
    if what == "free list":
        content[32:36] = (4).to_bytes(4, "big")  # the root of the records
    else:
        content[index_of(content, b"work")] ^= 1
    (folder / FILE_NAME).write_bytes(content)
    with opened(folder) as file:
        assert file.damage is not None
        assert "nothing is missing" in file.damage
        assert list(contents(file)["work"]) == [*range(30, 40)]


def test_tables_that_are_not_ours(folder: Path) -> None:
    """Somebody's index or trigger inside the file is not taken over."""
    with opened(folder) as file:
        transact(file, appending(("work", message(0, topic="work"))))
    connection = apsw.Connection(str(folder / FILE_NAME))
    connection.execute("CREATE TRIGGER quiet AFTER INSERT ON records BEGIN DELETE FROM records; END")
    connection.close()
    with opened(folder) as file:
        assert file.damage is not None
        transact(file, appending(("work", message(1, topic="work"))))
        assert list(contents(file)["work"]) == [0, 1]


# While it runs


async def test_damage_that_is_met_while_running(folder: Path, quick: Path) -> None:
    """The read raises, nothing is written any more, other reads go on; the next process finds and mends it."""
    copy = quick / "copy"
    async with await Journal.open(folder) as journal:
        for stream in ("work", "other"):
            await journal.append([(stream, message(number, topic=stream)) for number in range(5)])
        change = "UPDATE records SET key = 'K' WHERE topic = 'work' AND place & 0xffff = 3"
        await journal._writer.submit(lambda file: file._execute(change))
        for _ in range(2):
            with pytest.raises(JournalError, match="record 3 is not what was written"):
                await journal.read("work", 0, 10)
        assert journal.state.failure is not None
        assert not journal.accepting
        assert len(await journal.read("other", 0, 10)) == 5
        assert len(await journal.read("work", 0, 3)) == 3
        with pytest.raises(JournalError, match="not trusted"):
            await journal.append([("work", message(5, topic="work"))])
        put(copy, files_of(folder))
    async with await Journal.open(copy) as journal:
        assert journal.state.damage is not None
        records = await journal.read("work", 0, 10)  # the log still has the page as it was before
        assert [stored.message for stored in records] == [message(number, topic="work") for number in range(5)]
    shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("change", "read"),
    [
        pytest.param("DELETE FROM records WHERE place & 0xffff = 3", "records 3 to 3 are missing", id="a row is gone"),
        pytest.param("UPDATE records SET topic = CAST(x'ff' AS TEXT)", "codec can't decode", id="no text any more"),
    ],
)
async def test_other_damage_that_is_met_while_running(folder: Path, change: str, read: str) -> None:
    """Whatever makes a read impossible ends the trust."""
    async with await Journal.open(folder) as journal:
        await journal.append([("work", message(number, topic="work")) for number in range(5)])
        await journal._writer.submit(lambda file: file._execute(change))
        with pytest.raises(JournalError, match=read):
            await journal.read("work", 0, 10)
        assert journal.state.failure is not None


async def test_a_table_that_lost_a_row_while_running(folder: Path) -> None:
    """Its reader counts, since its offsets have gaps anyway."""
    async with await Journal.open(folder) as journal:
        await journal.append([("ledger", message(number, topic="ledger", key=f"k{number}")) for number in (0, 0, 1, 2)])
        await journal.compact("ledger")
        await journal._writer.submit(lambda file: file._execute("DELETE FROM records WHERE key = 'k1'"))
        with pytest.raises(JournalError, match="3 records were kept, 2 are there"):
            async for _ in journal.scan("ledger"):
                pass
        assert journal.state.failure is not None


# Mending


def test_the_damage_is_logged_once_with_figures(folder: Path, states: dict[str, Kept]) -> None:
    """One line, with counts for each stream and no value of anybody's; files and folder are the owner's only."""
    put(folder, states["closed"].files)
    alter(folder, "UPDATE records SET value = x'00' WHERE topic = 'meetings' AND place & 0xffff IN (3, 4, 9)")
    with capture_logs() as logs, opened(folder):
        pass
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("journal.damaged", "error")
    assert line["reason"] == "stream meetings: record 3 is not what was written"
    assert line["kept"] == {"meetings": 11, "work": 11, "ledger": 5}
    assert (line["missing"], line["missing_at_the_end"], line["set_aside"]) == ({"meetings": 3}, 0, [])
    assert (line["positions_complete"], line["files"]) == (True, SIDE)
    assert stat.S_IMODE((folder / SIDE).stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600


def test_a_side_folder_that_exists_is_not_touched(folder: Path, states: dict[str, Kept]) -> None:
    """Another damage in the same second has a folder of its own."""
    put(folder, states["closed"].files)
    for name in (SIDE, f"{SIDE}-2"):
        (folder / name).mkdir()
        (folder / name / FILE_NAME).write_bytes(b"of before")
    alter(folder, "DELETE FROM records WHERE topic = 'meetings' AND place & 0xffff = 3")
    with opened(folder) as file:
        assert file.damage is not None
        assert file.damage.endswith(f"are in {SIDE}-3")
    assert (folder / f"{SIDE}-3" / FILE_NAME).stat().st_size > PAGE
    for name in (SIDE, f"{SIDE}-2"):
        assert [path.read_bytes() for path in (folder / name).iterdir()] == [b"of before"]


class Interrupted(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(1, 9))
def test_mending_that_is_interrupted_is_finished_by_the_next_open(
    folder: Path, states: dict[str, Kept], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before or after any step on the way: then there is the old journal or the new one, with everything that can be kept."""
    kept = states["both"]
    put(folder, flipped(kept, at=9 * PAGE + 1000))
    before = without(files_of(folder), LOCK_NAME)
    steps, sync = 0, journal_salvage.sync_folder

    def sync_or_end(path: Path) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise Interrupted
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(journal_salvage, "sync_folder", sync_or_end)
        with pytest.raises(Interrupted) if step < 8 else capture_logs(), opened(folder):
            pass
    with opened(folder) as file:
        records = contents(file)
        assert altered(kept, records) == []
        assert len(missing(kept, records)) < 6
        assert (file.damage is None) == (step >= 5)  # then there is nothing left to be done
    assert {path.name: path.read_bytes() for path in (folder / SIDE).iterdir()} == before
    assert sorted(path.name for path in folder.iterdir()) == [SIDE, FILE_NAME, LOCK_NAME]


def test_the_new_journal_has_its_name_before_it_loses_the_old_one(
    folder: Path, states: dict[str, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power in between it may be there twice, never not at all."""
    put(folder, flipped(states["both"], at=9 * PAGE + 1000))
    synced, sync = list[tuple[str, bool]](), journal_salvage.sync_folder

    def noting(path: Path) -> None:
        synced.append((path.name, (folder / FILE_NAME).exists() and not (folder / SIDE / "salvaged.db").exists()))
        sync(path)

    monkeypatch.setattr(journal_salvage, "sync_folder", noting)
    with opened(folder):
        pass
    assert [name for name, moved in synced if moved and name in {folder.name, SIDE}][:2] == [folder.name, SIDE]


def test_what_was_moved_aside_is_named_until_it_is_deleted(folder: Path, states: dict[str, Kept]) -> None:
    """At every start: how many folders, and how much room they take."""
    put(folder, states["closed"].files)
    for number in range(2):
        (folder / f"{SIDE}-{number}").mkdir()
        (folder / f"{SIDE}-{number}" / FILE_NAME).write_bytes(b"v" * 8192)
    with capture_logs() as logs, opened(folder):
        pass
    assert [(log["event"], log["log_level"]) for log in logs] == [("journal.damaged_kept", "warning")]
    assert (logs[0]["folders"], logs[0]["bytes"]) == (2, 16384)


def flipped(kept: Kept, *, at: int) -> dict[str, bytes]:
    """One byte of the database is another one, and its log is cut in the middle."""
    content, log = bytearray(kept.files[FILE_NAME]), bytearray(kept.files[WAL_NAME])
    content[at] ^= 0xFF
    log[len(log) // 2] ^= 0xFF
    return {**kept.files, FILE_NAME: bytes(content), WAL_NAME: bytes(log)}


def test_without_room_for_mending_nothing_is_moved(folder: Path, states: dict[str, Kept]) -> None:
    """The sentence says how much room is needed, and where one would go on without; every file is as it was."""
    put(folder, flipped(states["both"], at=9 * PAGE + 1000))
    before = without(files_of(folder), LOCK_NAME)
    command = [sys.executable, "-m", "tests.bus.open_without_room", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert b"free 1 MiB on its volume" in done.stdout
    assert b"move journal.db and journal.db-wal together" in done.stdout
    assert without(files_of(folder), LOCK_NAME) == before
    assert sorted(path.name for path in folder.iterdir()) == [*sorted(before), LOCK_NAME]
    verify(folder, states["both"])


def test_a_lock_file_with_anything_in_it(folder: Path, states: dict[str, Kept]) -> None:
    """Its word counts only as it was written."""
    for content in (b"", b"1234", b"\0" * 100, states["log"].files[LOCK_NAME].replace(b"0", b"9"), os.urandom(200)):
        put(folder, {**states["log"].files, LOCK_NAME: content})
        with opened(folder) as file:
            assert (contents(file), file.damage) == (states["log"].records, None)
        shutil.rmtree(folder)


def test_a_long_opening_says_how_far_it_is(
    folder: Path, states: dict[str, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few seconds; a short one says nothing."""
    put(folder, states["closed"].files)
    with capture_logs() as logs, opened(folder):
        pass
    assert logs == []
    monkeypatch.setattr(journal_check, "PATIENCE", 0.0)
    with capture_logs() as logs, opened(folder):
        pass
    assert logs[-1] == {"event": "journal.verifying", "log_level": "info", "seconds": 0, "rows": 30, "of": 30}


def test_what_the_disk_does_not_give_is_read_as_zeros() -> None:
    """Block by block, so that a bad one costs itself only."""
    with Path("/proc/self/mem").open("rb") as unreadable:
        assert read_anyway(unreadable.fileno(), 10_000, 0) == bytes(10_000)


async def test_another_vfs(folder: Path) -> None:
    """SQLite writes through the one that is named."""
    seen = []

    class Watching(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("watching", base="")

        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
            seen.append(Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name)
            return super().xOpen(name, flags)

    vfs = Watching()
    async with await Journal.open(folder, vfs="watching") as journal:
        await journal.append([("work", message(0, topic="work"))])
    vfs.unregister()
    assert set(seen) >= {FILE_NAME, WAL_NAME}


# The log, read without SQLite


@pytest.mark.parametrize("state", ["log", "both", "anew"])
def test_the_log_is_read_as_sqlite_reads_it(folder: Path, states: dict[str, Kept], state: str) -> None:
    """The same number of frames; behind them, in a log that has begun anew, only older ones."""
    put(folder, states[state].files)
    with (folder / FILE_NAME).open("rb") as database, (folder / WAL_NAME).open("rb") as wal:
        log = read_log_of(database.fileno(), wal.fileno())
    connection = apsw.Connection(str(folder / FILE_NAME))
    assert connection.pragma("journal_mode") == "wal"
    assert (log.end, log.cut) == (connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[0], False)
    connection.close()
    assert (log.end < len(log.frames)) == (state == "anew")
    assert not any(frame.current for frame in log.frames[log.end :])
