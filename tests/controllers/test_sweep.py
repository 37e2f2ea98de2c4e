"""The sweep: every known meeting is looked at in time, the lively ones more often, and never too many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.backlog import Backlog, Key
from service.controllers.ledger import Ledger, Place
from service.controllers.ownership import Ownership
from service.controllers.sweep import Intervals, Sweep
from service.controllers.task import Task
from service.core.errors import NotOwner
from service.core.ledger import Entry, KnownMeeting, Owner, Seen, Value
from tests.fakes import EmptyReader, RecordingPublisher

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INTERVALS = Intervals(look=timedelta(seconds=300), full_look=timedelta(hours=1))


def named(number: int) -> str:
    return f"{number:032x}"


class Room:
    """A sweep with a ledger, and a worker that works off what it marks: ``speed`` looks a second, by a clock of its own."""

    def __init__(
        self, *, intervals: Intervals = INTERVALS, rate: float = 50.0, speed: float = 25.0, start: datetime = START
    ) -> None:
        self.now, self.rate, self.speed = start, rate, speed
        self.ledger = Ledger(reader=EmptyReader(), publisher=RecordingPublisher())
        self.backlog = Backlog()
        self.sweep = self.begin(intervals)
        self.looks: defaultdict[str, list[tuple[float, bool]]] = defaultdict(list)
        self.most = 0

    def begin(self, intervals: Intervals = INTERVALS) -> Sweep:
        """A new sweep: what this process knew is forgotten."""
        self.sweep = Sweep(
            ledger=self.ledger,
            backlog=self.backlog,
            intervals=intervals,
            budget=lambda _: self.rate,
            now=lambda: self.now,
        )
        return self.sweep

    def remember(self, kind: str, subject: str, value: Value | None, *, registrant: str = "") -> None:
        entry = Entry(kind=kind, subject=subject, registrant=registrant, value=value)
        self.ledger.remember(self.place(), [entry])

    def place(self, organization: str = "default") -> Place:
        return self.ledger.place(organization, 0)

    def know(self, number: int, **fields: Any) -> str:
        """One more known meeting."""
        meeting = KnownMeeting(**{"organization": "default", "full": self.now, **fields})
        self.remember("meeting", named(number), meeting)
        return named(number)

    def marked(self) -> set[str]:
        """What waits for a look."""
        return {waiting.task.series for waiting in self.backlog}

    def elapsed(self) -> float:
        return (self.now - START).total_seconds()

    def work(self, seconds: float, *, tick: float = 1.0) -> None:
        """Time passes: the sweep marks, the worker looks, a full look is remembered as such."""
        for _ in range(round(seconds / tick)):
            self.now += timedelta(seconds=tick)
            self.sweep.mark_due()
            self.most = max(self.most, len(self.marked()))
            for waiting in list(self.backlog)[: round(self.speed * tick)]:
                self.look(waiting.key)

    def look(self, key: Key) -> None:
        taken = self.backlog.take(key)
        self.backlog.queue.discard(lambda other: other == key)
        if taken is None:
            return
        self.sweep.looked(key)
        self.looks[key[1]].append((self.elapsed(), taken.task.full))
        known = self.ledger.series(taken.task.place, key[1]).meeting
        if taken.task.full and known is not None:
            fields = {name: getattr(known, name) for name in known.__struct_fields__}
            self.remember("meeting", key[1], KnownMeeting(**{**fields, "full": self.now}))

    def gaps(self, series: str, *, full: bool = False) -> list[float]:
        """Seconds between its looks, from the beginning to the end."""
        times = [0.0, *(at for at, was_full in self.looks[series] if was_full or not full), self.elapsed()]
        return [after - before for before, after in pairwise(times)]


@pytest.fixture
async def room() -> Room:
    made = Room()
    await made.ledger.restore(0)
    return made


async def test_every_meeting_is_looked_at_in_time(room: Room) -> None:
    """Three hundred meetings for two hours: none goes without a look for longer than the interval, nor without a full one."""
    meetings = [room.know(number) for number in range(300)]
    room.work(2 * 3600)

    assert max(max(room.gaps(series)) for series in meetings) <= 300
    assert max(max(room.gaps(series, full=True)) for series in meetings) <= 3600
    assert room.most <= 25


async def test_a_restart_looks_at_all_within_half_an_interval_and_at_few_at_once(room: Room) -> None:
    """Two thousand meetings of which nobody knows when they were looked at last: spread out, and no full look before its
    time.
    """
    meetings = [room.know(number) for number in range(2000)]
    room.work(150)

    assert min(len(room.looks[series]) for series in meetings) == 1
    assert room.most <= 25
    assert sum(full for series in meetings for _, full in room.looks[series]) < 150


async def test_hot_meetings_are_looked_at_every_few_seconds_beside_many_cold_ones(room: Room) -> None:
    """One that begins is looked at every five seconds, one of today every minute, and the others in time."""
    hot = room.know(1, start=START + timedelta(minutes=5), end=START + timedelta(hours=1))
    warm = room.know(2, start=START + timedelta(hours=5), end=START + timedelta(hours=6))
    cold = [room.know(number) for number in range(3, 1000)]
    room.work(600)

    assert max(room.gaps(hot)) <= 7
    assert max(room.gaps(warm)) <= 62
    assert max(max(room.gaps(series)) for series in cold) <= 300


async def test_many_hot_meetings_do_not_starve_the_cold_ones_and_the_other_way_round(room: Room) -> None:
    """Where the rate does not suffice, each side has half: what was promised is kept, and hot ones stay ahead."""
    room.rate, room.speed = 20.0, 10.0  # ten looks a second; the hot ones alone want sixty
    hot = [room.know(number, active=START + timedelta(days=1), start=START) for number in range(300)]
    for number in range(300):
        room.know(number, start=START - timedelta(hours=1), end=START + timedelta(hours=5))
    cold = [room.know(number) for number in range(1000, 1900)]
    room.work(600)

    assert max(max(room.gaps(series)) for series in cold) <= 300
    assert sum(len(room.looks[series]) for series in hot) >= 0.45 * 600 * 10

    room.rate = room.speed = 2.0  # not even the cold ones fit now
    before = sum(len(room.looks[series]) for series in hot)
    room.work(300)
    assert sum(len(room.looks[series]) for series in hot) - before >= 0.4 * 300


async def test_nothing_is_asked_for_while_webex_may_not_be_called(room: Room) -> None:
    """A budget of nothing, as while Webex asked us to wait, leaves the queue empty; afterwards all are caught up with."""
    meetings = [room.know(number) for number in range(50)]
    room.rate = 0.0
    room.work(900)
    assert room.most == 0

    room.rate = 50.0
    room.work(10)
    assert all(room.looks[series] for series in meetings)


async def test_one_organisation_does_not_take_the_turns_of_another() -> None:
    """Each has a budget of its own."""
    room = Room()
    await room.ledger.restore(0)
    for number in range(500):
        room.know(number, organization="large")
    room.know(1000, organization="small")
    room.now += timedelta(hours=2)
    room.sweep.mark_due()
    room.now += timedelta(hours=2)
    room.sweep.mark_due()

    assert named(1000) in room.marked()
    assert 1 < len(room.marked()) <= 26


async def test_looks_that_are_held_up_do_not_hold_up_the_others(room: Room) -> None:
    """A meeting that waits for a minute does so for another reason than the crowd: its turn is given to the next one."""
    for number in range(40):
        room.know(number)
    room.sweep.catch_up(0)
    room.speed = 0
    room.work(50)
    assert len(room.marked()) == 25

    room.work(70)
    assert len(room.marked()) == 40


async def test_what_was_thrown_out_of_the_queue_takes_nobody_s_turn(room: Room) -> None:
    """A partition that goes and comes back begins with all its turns."""
    for number in range(100):
        room.know(number)
    for _ in range(2):
        room.sweep.catch_up(0)
        room.now += timedelta(seconds=1)
        room.sweep.mark_due()
        assert len(room.marked()) == 25
        room.backlog.discard(lambda _: True)


async def test_very_many_meetings_are_planned_a_thousand_at_a_time(room: Room) -> None:
    """The loop is needed by others; none is forgotten over it, and no gap either."""
    meetings = [room.know(number) for number in range(2500)]
    room.sweep.catch_up(0)
    room.rate = room.speed = 10_000.0
    room.work(1)
    assert len(room.looks) == 1000

    room.work(5)
    assert set(room.looks) == set(meetings)


async def test_what_waits_already_is_only_hurried_up_where_a_look_is_owed(room: Room) -> None:
    """A hot meeting that waits for another try is left alone; when its interval ends it is brought forward, once."""
    room.begin(Intervals(look=timedelta(seconds=300), full_look=timedelta(days=30)))
    series = room.know(1, active=START)
    room.sweep.looked((0, series))
    room.backlog.mark(Task(place=room.place(), series=series), delay=3600)
    room.now += timedelta(seconds=200)
    room.sweep.mark_due()
    assert len(room.backlog.queue) == 0

    room.now += timedelta(seconds=100)
    room.sweep.mark_due()
    assert len(room.backlog.queue) == 1
    room.backlog.queue.discard(lambda _: True)
    room.sweep.mark_due()
    assert len(room.backlog.queue) == 0

    waiting = room.backlog.take((0, series))
    assert waiting is not None
    room.sweep.looked((0, series))
    room.backlog.mark(waiting.task, delay=3600)
    room.now += timedelta(seconds=300)
    room.sweep.mark_due()
    assert len(room.backlog.queue) == 1


async def test_a_task_is_full_where_it_has_to_be(room: Room) -> None:
    """So are the looks at a meeting where somebody waits for a place, even where that was seen by the look just made."""
    new, usual, crowded = room.know(1, full=None), room.know(2), room.know(3)
    room.now += timedelta(seconds=1)
    for series in (usual, crowded):
        room.sweep.looked((0, series))
    room.sweep.mark_due()
    room.remember("seen", crowded, Seen(status="pending", waiting=True), registrant="a")
    room.now += timedelta(seconds=300)
    room.sweep.mark_due()

    assert {waiting.task.series: waiting.task.full for waiting in room.backlog}[crowded]
    assert {waiting.task.series: waiting.task.full for waiting in room.backlog}[new]
    assert all(waiting.task.swept for waiting in room.backlog)


async def test_a_hint_makes_a_meeting_warm(room: Room) -> None:
    """What happened to it may go on; a look that the sweep itself asked for says nothing."""
    told, quiet = room.know(1), room.know(2)
    room.sweep.looked((0, told), hinted=True)
    room.sweep.looked((0, quiet))
    room.work(63)

    assert len(room.looks[told]) == 1
    assert not room.looks[quiet]


async def test_a_long_look_is_followed_by_a_rest(room: Room) -> None:
    """A hot meeting with thousands of registrants takes a fifth of the time; while it is looked at, nothing more is asked."""
    series = room.know(1, active=START + timedelta(hours=1), start=START, end=START + timedelta(hours=1))
    with room.sweep.looking((0, series)):
        room.work(10)
        assert room.marked() == set()
    room.work(39)
    assert not room.looks[series]

    room.work(10)
    assert len(room.looks[series]) == 2  # after a short one the next comes soon


async def test_a_look_that_fails_is_over_too(room: Room) -> None:
    """So is one whose partition went to somebody else meanwhile."""
    series = room.know(1, active=START, start=START, end=START + timedelta(hours=1))
    with contextlib.suppress(NotOwner), room.sweep.looking((0, series)):
        raise NotOwner
    with room.sweep.looking((0, series)):
        room.sweep.forget(0)
    room.work(6)

    assert room.looks[series]


async def test_a_look_at_a_new_meeting_counts_before_it_is_known(room: Room) -> None:
    """A first look takes time; the tick in between does not make it forgotten."""
    room.sweep.looked((0, named(1)))
    room.now += timedelta(seconds=20)
    room.sweep.mark_due()
    series = room.know(1)
    room.work(150)

    assert not room.looks[series]


async def test_the_missing_are_looked_at_once_a_day(room: Room) -> None:
    """Webex does not find it any more: that is looked up rarely, until it is forgotten."""
    series = room.know(1, missing=START)
    room.work(3 * 86_400, tick=60)

    assert [round(at / 86_400, 1) for at, _ in room.looks[series]] == [1.0, 2.0, 3.0]


async def test_where_nobody_can_register_there_is_no_sweep(room: Room) -> None:
    """Only discovery lists it."""
    series = room.know(1, registration=False)
    room.work(4000, tick=10)

    assert not room.looks[series]


def owned(room: Room, *, ago: float, released: bool = False) -> None:
    at = room.now - timedelta(seconds=ago)
    room.remember("owner", "0", Owner(instance="before", at=at, released=released))


@pytest.mark.parametrize(
    ("ago", "interval", "gap"),
    [
        pytest.param(3600, 300, True, id="an outage"),
        pytest.param(61, 300, True, id="more than a minute"),
        pytest.param(45, 300, False, id="a standby took over"),
        pytest.param(20, 30, True, id="two thirds of a short interval"),
    ],
)
@pytest.mark.parametrize("released", [False, True])
async def test_after_an_outage_the_gap_is_swept_first(
    room: Room, ago: float, interval: float, gap: bool, released: bool
) -> None:
    """The last owner's record tells how long nobody looked; whether it went in order does not matter."""
    room.begin(Intervals(look=timedelta(seconds=interval), full_look=timedelta(hours=1)))
    room.know(1)
    owned(room, ago=ago, released=released)
    with capture_logs() as logs:
        assert room.sweep.gap(0) is gap

    assert [log["event"] for log in logs] == (["sweep.gap"] if gap else [])


async def test_the_gap_is_seen_by_the_next_process(journal: Journal) -> None:
    """On a real journal: what the process before wrote last tells the next one."""
    publisher = JournalPublisher(journal)
    before = Ledger(reader=JournalReader(journal), publisher=publisher)
    await before.restore(0)
    await Ownership(before, instance="before", unconfirmed=lambda: 0.0, now=lambda: START).writable(
        before.place("default", 0)
    )
    meeting = KnownMeeting(organization="default", full=START)
    await before.record(before.place("default", 0), [Entry(kind="meeting", subject=named(1), value=meeting)])

    later = Ledger(reader=JournalReader(journal), publisher=publisher)
    await later.restore(0)
    backlog = Backlog()
    sweep = Sweep(ledger=later, backlog=backlog, intervals=INTERVALS, now=lambda: START + timedelta(hours=1))
    assert sweep.gap(0)
    sweep.mark_due()
    assert [waiting.task.series for waiting in backlog] == [named(1)]


async def test_the_gap_is_swept_by_start_and_not_all_at_once(room: Room) -> None:
    """Those that are on or begin soon come first; those without registration are looked at too: rules may want them."""
    for number in range(100):
        room.know(number, start=START + timedelta(days=number, hours=1), end=START + timedelta(days=number, hours=2))
    plain = room.know(500, registration=False, start=START + timedelta(minutes=1), end=START + timedelta(hours=1))
    owned(room, ago=3600)
    room.sweep.gap(0)
    room.speed = 5
    room.work(60)

    order = sorted(room.looks, key=lambda series: room.looks[series][0][0])
    assert order[0] == plain
    assert [named(number) for number in range(100)] == sorted(order[1:], key=lambda series: room.looks[series][0][0])
    assert room.most <= 25


async def test_a_first_owner_finds_no_gap(room: Room) -> None:
    """Nothing was ever missed where nobody was there before."""
    assert room.sweep.gap(0) is False


async def test_a_partition_that_goes_takes_its_plans_along(room: Room) -> None:
    """Another owner may have looked since; what was known of its looks and of its gap is worth nothing."""
    series = room.know(1)
    room.sweep.looked((0, series))
    room.sweep.catch_up(0)
    room.sweep.forget(0)
    room.sweep.mark_due()
    assert room.marked() == set()

    room.work(150)
    assert len(room.looks[series]) == 1


async def test_a_clock_that_is_put_back_holds_nothing_up(room: Room) -> None:
    """An hour that comes twice does not become an hour without looks."""
    series = room.know(1)
    room.sweep.looked((0, series))
    room.sweep.mark_due()
    room.now -= timedelta(hours=1)
    room.sweep.mark_due()
    room.now += timedelta(seconds=301)
    room.sweep.mark_due()

    assert room.marked() == {series}


async def test_it_runs_by_itself() -> None:
    """The loop marks what is due as time goes by."""
    room = Room(intervals=Intervals(look=timedelta(seconds=1), full_look=timedelta(hours=1)))
    await room.ledger.restore(0)
    series = room.know(1)
    room.sweep = Sweep(
        ledger=room.ledger,
        backlog=room.backlog,
        intervals=Intervals(look=timedelta(seconds=0.2), full_look=timedelta(hours=1)),
        now=lambda: datetime.now(UTC),
    )
    task = asyncio.create_task(room.sweep.run())
    await until(lambda: room.marked() == {series})
    task.cancel()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not true():  # noqa: ASYNC110 - what is waited for is anything a test can see
            await asyncio.sleep(0.02)
