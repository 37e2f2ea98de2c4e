"""Journal, publisher and offsets under everything that may happen, in any order and as often as it likes.

A real journal, a Kafka that answers when it is told to, and a clock that stands still until it is moved. A process that is
killed leaves its files as they are at that moment, and of what was on its way to Kafka some arrives and some does not.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from service.bus.journal import Journal
from service.bus.journal_file import Stored
from service.bus.offsets import OffsetTracker
from service.bus.publisher import REFUSED, SPOOL, KafkaFirstPublisher
from service.core.errors import CannotStore, JournalError, JournalFull
from service.core.message import Message
from tests.fakes import FakeSender

T = TypeVar("T")

EXAMPLES, STEPS = 500, 50
DEADLINE = 2.0
GROUP = "group"
SITUATIONS = (
    "rows",
    "rows and memory",
    "late",
    "taken apart",
    "given up",
    "letters",
    "neither",
)  # often enough in any run
COUNTS = {"work": 2, "meetings": 1, "dead-letters": 1}

#: In memory where there is such a file system: what an fsync means to a disk is not what is tested here.
FOLDER = next((folder for folder in ("/dev/shm",) if Path(folder).is_dir()), None)  # noqa: S108 - mkdtemp makes its own


class StillLoop(asyncio.SelectorEventLoop):
    """Its time does not pass by itself."""

    now = 0.0

    def time(self) -> float:
        return self.now


class TroubledJournal:
    """The publisher's port to a real journal, with the troubles that it is told to have."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.pending = 0
        self.full = False
        self.failure: str | None = None
        self.breaks: str | None = None  # "now", or at the next append: "before" it is written, or "after"
        self.unreadable = False
        self.written_to_when_broken = False
        self.stranded: set[int] = set()
        self.gone = False  # killed: nobody hears of anything

    @property
    def state(self) -> TroubledJournal:
        """It has a ``failure`` itself."""
        return self

    @property
    def accepting(self) -> bool:
        """Or not."""
        return self.failure is None and not self.full

    async def _counted(self, work: Awaitable[T]) -> T:
        self.pending += 1
        try:
            result = await work
        finally:
            self.pending -= 1
        if self.gone:
            await asyncio.Event().wait()
        return result

    async def append(self, entries: Sequence[tuple[str, Message]], *, essential: bool = False) -> list[int]:
        """Or not; or written, and nobody knows."""
        self.written_to_when_broken |= self.failure is not None
        if self.breaks == "before" or self.failure:
            self.failure = self.failure or "the disk failed"
            raise JournalError(self.failure)
        if self.full and not essential:
            raise JournalFull("no room")
        offsets = await self._counted(self.journal.append(entries, essential=essential))
        if self.breaks == "after":
            self.failure = "the disk failed"
            raise JournalError(self.failure)
        return offsets

    async def read(self, stream: str, start: int, limit: int) -> list[Stored]:
        """Or not."""
        found = await self._counted(self.journal.read(stream, start, limit))
        if self.failure and self.unreadable and stream.startswith(SPOOL):
            rest = await self._counted(self.journal.read(stream, start, 10_000))
            self.stranded |= {number(row.message) for row in rest}
            raise JournalError("a record is not what was written")
        return found

    async def trim(self, stream: str, before: int) -> int:
        """Or not."""
        self.written_to_when_broken |= self.failure is not None
        if self.failure:
            raise JournalError(self.failure)
        return await self._counted(self.journal.trim(stream, before))

    async def compact(self, stream: str) -> int:
        """As it is."""
        return await self._counted(self.journal.compact(stream))

    async def streams(self) -> Any:
        """As they are."""
        return await self._counted(self.journal.streams())


def number(message: Message) -> int:
    """Which record it is, or is the letter of."""
    return int((message.value or b"").rpartition(b" ")[2])


def letter(message: Message, why: str) -> Message:
    """As the program makes them, but shorter."""
    return Message(topic="dead-letters", key="k", value=b"letter of %d" % number(message), partition_by="k")


class Life:
    """One process: from its start until it is stopped or killed."""

    def __init__(self, machine: PublisherMachine, folder: Path) -> None:
        self.folder = folder
        self.sender = FakeSender()
        self.sender.log, self.sender.counts = machine.log, machine.counts
        self.sender.refuse = machine.refuses
        self.journal = machine.run(Journal.open(folder, free=lambda _: 8 << 20))  # enough, but not for a ballast
        self.port = TroubledJournal(self.journal)
        self.calls: dict[asyncio.Task[None], list[int]] = {}
        self.disk: threading.Event | None = None
        self.offsets: dict[tuple[str, int], OffsetTracker] = {}
        self.positions: dict[tuple[str, int], int] = {}

        async def build() -> KafkaFirstPublisher:
            publisher = KafkaFirstPublisher(self.sender, self.port, deadline=DEADLINE, letter=letter)
            await publisher.start()
            return publisher

        self.publisher = machine.run(build())


class PublisherMachine(RuleBasedStateMachine):
    """What is published, with everything that may come in between; the invariants stand at the end."""

    #: How often which situation was there, over all lives.
    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.folder = Path(tempfile.mkdtemp(dir=FOLDER))
        self.generation = 0
        self.log: dict[tuple[str, int], list[Any]] = {}
        self.counts: dict[str, int] = {}
        self.bad: set[int] = set()
        self.letters_refused = False
        self.published = 0
        self.returned: set[int] = set()
        self.in_journal: set[int] = set()
        self.stranded: set[int] = set()
        self.finished: set[tuple[str, int, int]] = set()

    # --- the machinery ------------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """To its end."""
        return self.loop.run_until_complete(work)

    def settle(self) -> None:
        """Everything that can go on without the clock goes on."""
        self.run(self._settle())
        for call in [call for call in self.life.calls if call.done()]:
            ids = self.life.calls.pop(call)
            if not call.cancelled() and call.exception() is None:
                self.returned.update(ids)
            elif not call.cancelled():
                assert isinstance(call.exception(), CannotStore), call.exception()

    async def _settle(self) -> None:
        for _ in range(200):
            for _ in range(12):
                await asyncio.sleep(0)
            if not self.life.port.pending or self.life.disk is not None:
                return
            await self.life.journal.bounds("nothing")  # behind everything that was asked before
        raise AssertionError("it never comes to rest")

    def refuses(self, message: Message) -> bool:
        """Kafka's will."""
        return self.letters_refused if message.topic == "dead-letters" else number(message) in self.bad

    # --- the rules, without preconditions: the journal's thread makes that no repetition is exactly the same --------------

    @initialize(known=st.booleans(), old=st.integers(0, 3))
    def begin(self, known: bool, old: int) -> None:
        """Perhaps Kafka has told of its topics, perhaps an earlier version left something."""
        self.counts.update(COUNTS if known else {})
        if old:
            self.run(self._leave(old))
        self.life = Life(self, self.folder / "0")
        self.settle()

    async def _leave(self, count: int) -> None:
        async with await Journal.open(self.folder / "0") as journal:
            await journal.append([(SPOOL, self.next_record("work", "a")) for _ in range(count)])
        self.returned.update(range(count))

    def next_record(self, topic: str, key: str, *, bad: bool = False) -> Message:
        """With its number as its value."""
        message = Message(topic=topic, key=key, value=b"%d" % self.published, partition_by=key)
        if bad:
            self.bad.add(self.published)
        self.published += 1
        return message

    @rule(
        places=st.lists(
            st.tuples(st.sampled_from(["work", "meetings"]), st.sampled_from("abc")), min_size=1, max_size=4
        ),
        bad=st.integers(0, 9),
    )
    def publish(self, places: Sequence[tuple[str, str]], bad: int) -> None:
        """Some records, one of them perhaps such as Kafka refuses."""
        first = self.published
        messages = [self.next_record(topic, key, bad=n == bad) for n, (topic, key) in enumerate(places)]
        call = self.loop.create_task(self.life.publisher.publish(messages))
        self.life.calls[call] = list(range(first, self.published))
        self.settle()

    @rule(count=st.integers(1, 40), bad=st.integers(0, 80), late=st.booleans(), together=st.integers(1, 41))
    def publish_many(self, count: int, bad: int, late: bool, together: int) -> None:
        """In one turn of the loop, each by itself, flushed after so many; perhaps so long ago by now that they are late."""
        flushes: list[asyncio.Task[None]] = []
        for n in range(count):
            message = self.next_record("work", "abc"[n % 3], bad=n == bad)
            self.life.calls[self.loop.create_task(self.life.publisher.publish([message]))] = [self.published - 1]
            if (n + 1) % together == 0:
                flushes.append(self.loop.create_task(self._do(self.life.publisher.flush)))
        self.settle()
        assert all(flush.result() is None for flush in flushes)
        if late:
            self.wait(DEADLINE)

    @rule(count=st.integers(1, 3))
    def acknowledge(self, count: int) -> None:
        """Kafka answers some batches."""
        self.run(self._do(lambda: self.life.sender.acknowledge(count)))
        self.settle()

    @rule(which=st.integers(0, 3))
    def lose_an_answer(self, which: int) -> None:
        """Written, but the producer does not hear of it, and will send it once more."""
        waiting = [each for each in self.life.sender.waiting if not each.answer.done()]
        if waiting:
            self.life.sender.write(waiting[which % len(waiting)])

    @rule(answering=st.booleans(), healthy=st.booleans())
    def be(self, answering: bool, healthy: bool) -> None:
        """Kafka, from now on."""
        self.life.sender.answering, self.life.sender.healthy = answering, healthy
        if answering:
            self.acknowledge(99)

    @rule(topics=st.sets(st.sampled_from(["work", "meetings", "dead-letters"])))
    def occupy(self, topics: set[str]) -> None:
        """The brokers of these have not answered what they have: what is given now had better wait."""
        self.life.sender.occupied_topics = topics

    @rule()
    def tell_of_topics(self) -> None:
        """Kafka says how many partitions there are; the second time it is more."""
        self.counts.update(COUNTS if "work" not in self.counts else {"work": 4})
        self.settle()

    @rule(seconds=st.sampled_from([0.3, 1.0, 1.0, 2.0, 2.0, 5.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.loop.now += seconds
        self.settle()

    @rule(refused=st.booleans())
    def refuse_letters(self, refused: bool) -> None:
        """The topic of dead letters takes nothing."""
        self.letters_refused = refused

    @rule(full=st.booleans())
    def fill(self, full: bool) -> None:
        """The journal has no room, or has some again."""
        self.life.port.full = full
        self.settle()

    @rule(breaks=st.sampled_from(["now", "before", "after"]), unreadable=st.booleans())
    def break_journal(self, breaks: str, unreadable: bool) -> None:
        """Now, or at the next append, of which the rows may be there all the same."""
        self.life.port.breaks, self.life.port.unreadable = breaks, unreadable
        if breaks == "now":
            self.life.port.failure = "the disk failed"
            self.acknowledge(3)

    @rule(late=st.booleans(), count=st.integers(0, 2))
    def hang(self, late: bool, count: int) -> None:
        """The disk answers nothing until it is released; perhaps just when what waits is late, and Kafka answers then."""
        if self.life.disk is not None:
            return
        go = self.life.disk = threading.Event()
        self.run(self._do(lambda: self.life.journal._writer.submit(lambda _: go.wait(30))))
        if late:
            self.wait(DEADLINE)
            self.acknowledge(count)

    @rule()
    def release(self) -> None:
        """The disk answers again."""
        if self.life.disk is not None:
            self.life.disk.set()
            self.life.disk = None
        self.settle()

    @rule(which=st.integers(0, 10))
    def cancel(self, which: int) -> None:
        """A caller goes away."""
        for call in list(self.life.calls)[which : which + 1]:
            call.cancel()
        self.settle()

    @rule(arrives=st.lists(st.booleans(), min_size=1, max_size=3))
    def kill(self, arrives: list[bool]) -> None:
        """What is in memory is gone; what was on its way to Kafka arrives or not."""
        old, self.generation = self.life, self.generation + 1
        folder = self.folder / str(self.generation)
        shutil.copytree(old.folder, folder, ignore=shutil.ignore_patterns("journal.ballast"))
        for n, given in enumerate(old.sender.waiting):
            if arrives[n % len(arrives)] and not given.answer.done():
                old.sender.write(given)
        self.stranded |= old.port.stranded
        self.end(old)
        self.life = Life(self, folder)
        self.settle()

    @rule()
    def restart(self) -> None:
        """In good order, as far as the journal allows it."""
        self.release()
        old = self.life
        stopping = self.loop.create_task(old.publisher.stop())
        for _ in range(40):
            self.settle()
            if stopping.done():
                break
            self.loop.now += 0.5
        stopping.result()
        assert not old.calls
        self.stranded |= old.port.stranded
        self.end(old)
        self.life = Life(self, old.folder)
        self.settle()

    def end(self, life: Life) -> None:
        """It is no more."""
        life.port.gone = True
        if life.disk is not None:
            life.disk.set()
        self.run(self._end(life))

    async def _end(self, life: Life) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        life.publisher._grounded = True
        for timer in (*life.publisher._deadlines.values(), *life.publisher._later.values(), life.publisher._holding):
            if timer is not None:
                timer.cancel()
        if others:
            await asyncio.wait(others)
        await life.journal.close()

    async def _do(self, act: Callable[[], object]) -> None:
        act()

    # --- a consumer, with its offsets in the journal ------------------------------------------------------------------

    @rule(which=st.integers(0, 5), count=st.integers(1, 5))
    def consume(self, which: int, count: int) -> None:
        """Some records are handed out, from where the group left off."""
        if not self.log or self.life.disk is not None:
            return
        place = sorted(self.log)[which % len(self.log)]
        tracker = self.life.offsets.setdefault(place, OffsetTracker())
        if place not in self.life.positions:
            self.life.positions[place] = self.run(self.life.journal.committed(GROUP, f"{place}")) or 0
        for offset in range(self.life.positions[place], min(len(self.log[place]), self.life.positions[place] + count)):
            tracker.delivered(offset)
            self.life.positions[place] = offset + 1

    @rule(which=st.integers(0, 5), ahead=st.integers(0, 4))
    def finish(self, which: int, ahead: int) -> None:
        """One of them is finished, not in order."""
        for place, tracker in list(self.life.offsets.items())[which : which + 1]:
            last = self.life.positions.get(place, 0)
            tracker.finished(max(0, last - 1 - ahead))
            self.finished |= {(*place, offset) for offset in range(last) if not tracker._open.get(offset, True)}
            self.finished |= {(*place, max(0, last - 1 - ahead))}

    @rule()
    def commit(self) -> None:
        """What is contiguously finished."""
        for place, tracker in self.life.offsets.items() if self.life.disk is None else ():
            if (position := tracker.committable()) is not None:
                self.run(self.life.journal.commit(GROUP, f"{place}", position))
                tracker.committed(position)

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """What was said to be stored is acknowledged or in the journal, and so is every row that was there before."""
        self.settle()
        assert not self.life.port.written_to_when_broken
        hanging = self.life.disk is not None
        rows = set(range(self.published)) if hanging else self.run(self._rows())
        written = {
            number(record.message) for log in self.log.values() for record in log
        }  # not before the rows are known
        self.reached.update(self._where_we_are(rows, written))
        if hanging:
            return
        assert self.returned <= written | rows, f"lost: {sorted(self.returned - written - rows)}"
        assert self.in_journal <= written | rows, f"removed: {sorted(self.in_journal - written - rows)}"
        self.in_journal = rows

    def _where_we_are(self, rows: set[int], written: set[int]) -> Iterator[str]:
        lanes = list(self.life.publisher._lanes)
        airborne = [lane.flight for lane in lanes if lane.flight is not None]
        yield from ["rows"] * bool(rows)
        yield from ["rows and memory"] * any(lane.rows and lane.waiting for lane in lanes)
        yield from ["late"] * any(flight.rows and flight.deliveries[0].entries[0].lane for flight in airborne)
        yield from ["landed while the journal writes"] * any(lane._landed for lane in lanes)
        yield from ["stranded"] * any(lane.stranded for lane in lanes)
        yield from ["taken apart"] * any(each._suspect > each.done for flight in airborne for each in flight.deliveries)
        yield from ["given up"] * any(given.answer.cancelled() for given in self.life.sender.given)
        yield from ["letters"] * (("dead-letters", 0) in self.log)
        yield from ["neither"] * bool(set(range(self.published)) - rows - written - self.returned)

    async def _rows(self) -> set[int]:
        streams = await self.life.journal.streams()
        kept = [name for name, extent in streams.items() if extent.rows and name.startswith((SPOOL, REFUSED))]
        pages = [await self.life.journal.read(name, 0, 100_000) for name in kept]
        return {number(row.message) for page in pages for row in page}

    @invariant()
    def order_is_kept(self) -> None:
        """Of each key in each partition, those that were said to be stored come in order, at their first occurrence."""
        for (topic, partition), log in self.log.items():
            if topic == "dead-letters":
                continue
            firsts: dict[str, dict[int, None]] = {}
            for record in log:
                if (n := number(record.message)) in self.returned - self.stranded:
                    firsts.setdefault(record.message.key, {}).setdefault(n)
            for key, numbers in firsts.items():
                assert list(numbers) == sorted(numbers), f"{topic} {partition} {key}: {list(numbers)}"

    @invariant()
    def refused_records_never_arrive(self) -> None:
        """Kafka took nothing that it refused, and its neighbours are not buried with it."""
        written = {
            number(record.message) for (topic, _), log in self.log.items() for record in log if topic != "dead-letters"
        }
        buried = {number(record.message) for record in self.log.get(("dead-letters", 0), ())}
        assert not written & self.bad
        assert buried <= self.bad

    @invariant()
    def what_is_committed_is_finished(self) -> None:
        """No offset goes past a record that is not."""
        if self.life.disk is not None:
            return
        for place in self.life.offsets:
            committed = self.run(self.life.journal.committed(GROUP, f"{place}")) or 0
            missing = [offset for offset in range(committed) if (*place, offset) not in self.finished]
            assert not missing, f"{place}: {missing} before {committed}"

    # --- the end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """When all troubles are over, everything that was stored arrives, and the journal is empty."""
        if not hasattr(self, "life"):
            return
        try:
            self._mend()
            self.nothing_is_lost()
            self.order_is_kept()
            assert not self.life.calls
            assert self.life.publisher.spooled == 0
            assert self.life.publisher.oldest == 0.0
            written = Counter(number(record.message) for log in self.log.values() for record in log)
            refused = {number(row.message) for row in self.run(self.life.journal.read(REFUSED, 0, 10_000))}
            assert self.returned <= written.keys() | refused
            assert self.in_journal <= refused
        finally:
            self.end(self.life)
            self.loop.close()
            shutil.rmtree(self.folder)

    def _mend(self) -> None:
        self.release()
        if self.life.port.failure or self.life.port.breaks:
            self.kill([True])
        self.life.port.full = self.letters_refused = False
        self.counts.update({"work": 4, **{topic: n for topic, n in COUNTS.items() if topic != "work"}})
        self.be(answering=True, healthy=True)
        for _ in range(60):
            self.loop.now += 1
            self.settle()
            if not self.life.calls and not self.life.publisher.spooled:
                break
        self.settle()


@pytest.fixture
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("_quiet")
def test_journal_publisher_and_offsets() -> None:
    """500 lives of 50 steps each: nothing is lost, nothing comes out of order, nothing is removed or committed too early.

    And they come to where that is at stake.
    """
    PublisherMachine.reached.clear()
    run_state_machine_as_test(
        PublisherMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    rare = {what: PublisherMachine.reached[what] for what in SITUATIONS if PublisherMachine.reached[what] < 5}
    assert not rare, PublisherMachine.reached
