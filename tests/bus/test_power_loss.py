"""Power loss at any moment: what was acknowledged is there. Ten thousand legal states, and a control that must fail."""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

from service.bus import journal_file, journal_opening, journal_wal
from service.bus.journal_file import JournalFile
from service.bus.journal_lock import LOCK_NAME
from service.bus.journal_opening import open_file
from service.core.errors import JournalError
from tests.bus.damage import NOW, Operation, appending, committing, contents, message, opened, transact
from tests.bus.power_loss import Left, Recorder, states

pytestmark = pytest.mark.timeout(300)  # where there is no folder in RAM, the disk is waited for

STREAMS = ("spool/meetings/0", "spool/registrants/3", "ledger")


@dataclass
class Promised:
    """What stood in each stream when a transaction had returned, after so many of SQLite's calls."""

    step: int
    records: dict[str, dict[int, bytes]]
    position: int


@dataclass
class Story:
    """A journal's life: what SQLite did, what was promised when, and what the lock file said."""

    recorder: Recorder
    promised: list[Promised] = field(default_factory=lambda: [Promised(0, {}, 0)])
    ever: dict[tuple[str, int], bytes] = field(default_factory=dict)
    locks: list[tuple[int, bytes]] = field(default_factory=list)

    def before(self, step: int) -> tuple[Promised, Promised]:
        """What was promised last, and what might be there already because it was under way."""
        last = max(n for n, each in enumerate(self.promised) if each.step <= step)
        return self.promised[last], self.promised[min(last + 1, len(self.promised) - 1)]


class _Life:
    """Appends, removals and commits of positions, by chance; and a checkpoint every now and then."""

    def __init__(self, story: Story, folder: Path, chance: random.Random) -> None:
        self._story, self._folder, self._chance = story, folder, chance
        self._held: dict[str, dict[int, bytes]] = {}
        self._position = 0

    def live(self, file: JournalFile, transactions: int) -> None:
        self._told()
        for number in range(transactions):
            chance = self._chance.random()
            if chance < 0.65 or not self._held:
                self._append(file, number)
            elif chance < 0.85:
                self._remove(file)
            else:
                self._position += 1
                transact(file, committing("group", "work", self._position))
            self._told()

    def _append(self, file: JournalFile, number: int) -> None:
        wanted = [
            (stream, message(number, topic="work", key=f"k{n}", size=self._chance.randrange(1500)))
            for n, stream in enumerate(self._chance.choices(STREAMS, k=self._chance.randrange(1, 5)))
        ]
        (offsets,) = transact(file, appending(*wanted))
        for (stream, written), offset in zip(wanted, offsets, strict=True):
            self._held.setdefault(stream, {})[offset] = written.value or b""
            self._story.ever[stream, offset] = written.value or b""

    def _remove(self, file: JournalFile) -> None:
        stream = self._chance.choice([name for name in self._held if name != "ledger"] or ["ledger"])
        offsets = sorted(self._held[stream])
        if stream == "ledger":
            gone = self._chance.sample(offsets, len(offsets) // 3)
            removing: Operation = lambda file: file.remove(stream=stream, offsets=gone)  # noqa: E731 - one of two
        else:
            before = offsets[len(offsets) // 2] if offsets else 0
            gone = [offset for offset in offsets if offset < before]
            removing = lambda file: file.trim(stream, before, None)  # noqa: E731 - one of two
        transact(file, removing)
        for offset in gone:
            del self._held[stream][offset]

    def _told(self) -> None:
        step = len(self._story.recorder.steps)
        held = {stream: dict(rows) for stream, rows in self._held.items()}
        self._story.promised.append(Promised(step, held, self._position))
        self._story.locks.append((step, (self._folder / LOCK_NAME).read_bytes()))


@contextmanager
def lived(folder: Path, *, seed: int, transactions: int) -> Iterator[Story]:
    """A journal's life, recorded from its making to its end."""
    name = f"recorder-{uuid.uuid4().hex}"
    recorder = Recorder(name)
    story = Story(recorder)
    try:
        file = open_file(folder, None, now=lambda: NOW, vfs=name)
        _Life(story, folder, random.Random(seed)).live(file, transactions)  # noqa: S311 - chance that can be repeated
        file.close(trusted=True)
        yield story
    finally:
        recorder.unregister()


@dataclass
class Verdict:
    """What was found in all states; ``wrong`` has a line for each state in which a promise was broken."""

    states: int = 0
    ways: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def explored(story: Story, folder: Path, *, seed: int, count: int) -> Verdict:
    """Open the journal in each state, read everything, and compare it with what was promised."""
    verdict = Verdict()
    for left in states(story.recorder.steps, story.locks, random.Random(seed), count=count):  # noqa: S311 - as above
        folder.mkdir()
        for name, content in left.files.items():
            (folder / name).write_bytes(content)
        problem = _problem(story, left, folder)
        verdict.states += 1
        verdict.ways[left.way] = verdict.ways.get(left.way, 0) + 1
        if problem:
            verdict.wrong.append(f"after call {left.step} ({left.way}): {problem}")
        shutil.rmtree(folder)
    return verdict


def _problem(story: Story, left: Left, folder: Path) -> str:
    promised, under_way = story.before(left.step)
    try:
        with opened(folder) as file:
            found, positions, damage = contents(file), file.positions("work"), file.damage
    except (JournalError, apsw.Error) as error:
        return f"not readable: {error}"
    for stream, rows in promised.records.items():
        kept = under_way.records.get(stream, {})
        lost = [offset for offset in rows if offset in kept and offset not in found.get(stream, {})]
        if lost:
            return f"{stream}: {len(lost)} acknowledged records lost"
    for stream, there in found.items():
        for offset, stored in there.items():
            if stored.message.value != story.ever.get((stream, offset)):
                return f"{stream}: record {offset} was never written like that"
    if positions.get("group", 0) not in (promised.position, under_way.position):
        return "a committed position went back"
    return f"reported as damage: {damage}" if damage else ""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in RAM where there is one: some ten thousand journals are made in it."""
    with tempfile.TemporaryDirectory(dir=shm if (shm := Path("/dev/shm")).is_dir() else None) as folder:  # noqa: S108
        yield Path(folder)


@pytest.fixture
def many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some transactions instead of some thousand."""
    monkeypatch.setattr(journal_file, "CHECKPOINT_PAGES", 25)


@pytest.fixture(autouse=True)
def each_frame_is_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frames stand in thousands of states; to add one up by Python takes half of the time of opening them."""
    monkeypatch.setattr(journal_wal, "_sums", functools.cache(journal_wal._sums))


@pytest.mark.usefixtures("many_checkpoints")
@pytest.mark.parametrize("seed", range(5))
def test_what_was_acknowledged_survives_power_loss(memory: Path, seed: int) -> None:
    """Every transaction that returned is there whole, in each of 2 000 states; none of them is taken for damage."""
    with lived(memory / "journal", seed=seed, transactions=150) as story:
        verdict = explored(story, memory / "left", seed=seed, count=2010)
    assert verdict.wrong == []
    assert verdict.states >= 2000
    assert set(verdict.ways) == {"none", "all", "some", "torn"}


@pytest.mark.usefixtures("many_checkpoints")
def test_the_control_fails(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With synchronous=NORMAL acknowledged records are lost: so this test would see it."""
    durable = journal_opening._make_durable

    def careless(connection: apsw.Connection, folder: Path) -> Any:
        durable(connection, folder)
        connection.pragma("synchronous", "normal")

    with monkeypatch.context() as patch:
        patch.setattr(journal_opening, "_make_durable", careless)
        with lived(memory / "journal", seed=0, transactions=150) as story:
            patch.undo()
            verdict = explored(story, memory / "left", seed=0, count=400)
    assert sum("acknowledged records lost" in line for line in verdict.wrong) > 10
