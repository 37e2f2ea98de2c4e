"""A lane and its flights, without any journal, Kafka or clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.bus.kafka_partitioner import partition_for
from service.bus.lane import FIRST_PAGE, Call, Delivery, Entry, Lane, fitting, row
from service.bus.routing import Routing, place_of, stream_of
from service.core.message import Message


def entry(n: int, *, size: int = 10, waited_for: bool = True) -> Entry:
    """One whose value and timestamp say its number."""
    call = Call(lambda _: None, 1, float(n)) if waited_for else None
    made = row(Message(topic="registrants", key="k", value=b"%d" % n, partition_by="k"), n)
    made.call, made.size = call, size
    return made


def numbers(entries: Iterable[Entry]) -> list[int]:
    """What they say."""
    return [each.timestamp for each in entries]


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "largest", "fit"),
    [
        ([], 100, 0),
        ([10], 100, 1),
        ([50, 50], 100, 2),
        ([50, 51], 100, 1),
        ([101], 100, 1),  # it goes alone, and is refused alone
        ([10, 101, 10], 100, 1),
    ],
)
def test_as_many_as_fit_and_at_least_one(sizes: list[int], largest: int, fit: int) -> None:
    """A record that is too large for its topic never takes another one with it."""
    assert fitting([entry(n, size=size) for n, size in enumerate(sizes)], largest) == fit


def delivered(delivery: Delivery, bad: set[int], largest: int = 10**9) -> tuple[list[int], list[int], int]:
    """What Kafka takes, what it refuses alone, and how many batches it was given."""
    written, refused, batches = list[int](), list[int](), 0
    while not delivery.finished:
        batch, batches = delivery.batch(largest), batches + 1
        if bad & set(numbers(batch)):
            culprit = delivery.refused()
            if culprit is None:
                continue
            refused.append(culprit.timestamp)
        else:
            written += numbers(batch)
        delivery.passed()
    return written, refused, batches


@given(count=st.integers(1, 600), bad=st.sets(st.integers(0, 599), max_size=4), largest=st.integers(1, 7000))
def test_a_refused_batch_is_taken_apart(count: int, bad: set[int], largest: int) -> None:
    """Those at fault are found, alone; all others are written once, in order; and it takes few batches."""
    bad &= set(range(count))
    written, refused, batches = delivered(Delivery("registrants", 0, [entry(n) for n in range(count)]), bad, largest)
    assert written == [n for n in range(count) if n not in bad]
    assert refused == sorted(bad)
    full = math.ceil(count / max(1, largest // 10))
    assert batches <= full + len(bad) * (2 * math.ceil(math.log2(count + 1)) + 2)


def test_what_was_refused_may_be_taken_later() -> None:
    """The topic's limit was raised meanwhile: smaller batches are taken, and then larger ones again."""
    delivery = Delivery("registrants", 0, [entry(n) for n in range(100)])
    delivery.batch(10**9)
    assert delivery.refused() is None
    sizes = []
    while not delivery.finished:
        sizes.append(len(delivery.batch(10**9)))
        delivery.passed()
    assert sizes == [50, 25, 12, 6, 3, 2, 1, 1]


# --- one lane ---------------------------------------------------------------------------------------------------------


def lane_with(count: int, *, appended: int = 0, first: int = 0) -> Lane:
    """So many entries, of which the first ones are rows."""
    lane = Lane("registrants", 0, "spool/registrants/0")
    for n in range(count):
        lane.add(entry(n))
    if appended:
        lane.append(appended, 10**9)
        lane.appended(range(first, first + appended))
    return lane


def take_off(lane: Lane, count: int) -> None:
    """From memory."""
    lane.depart([Delivery("registrants", 0, lane.front(10**9)[:count])])


def test_rows_are_removed_by_landing_only() -> None:
    """Where the journal put them."""
    lane = lane_with(5, appended=5, first=70)
    assert (lane.rows, lane.first, lane.next, lane.head_timestamp) == (5, 70, 75, 0)
    lane.depart([Delivery("registrants", 0, [entry(0), entry(1)])], rows_before=72)
    assert lane.rows == 5
    assert lane.landed()
    assert (lane.rows, lane.first) == (3, 72)


@pytest.mark.parametrize(("airborne", "appended"), [(3, 5), (3, 3), (3, 2), (5, 5)])
def test_what_is_in_the_air_may_become_rows(airborne: int, appended: int) -> None:
    """A late flight: landing removes its own rows, and takes from memory what did not become rows."""
    lane = lane_with(5)
    take_off(lane, airborne)
    lane.append(appended, 10**9)
    assert numbers(lane.appended(range(10, 10 + appended))) == list(range(appended))
    assert lane.landed()
    assert lane.first == 10 + min(airborne, appended)
    assert lane.next == 10 + appended
    assert numbers(lane.front(10**9)) == list(range(max(airborne, appended), 5))


@pytest.mark.parametrize(("airborne", "appending"), [(3, 5), (3, 3), (3, 2), (5, 5)])
def test_landing_before_the_journal_has_answered(airborne: int, appending: int) -> None:
    """The rows of what has landed stand before ``first``: they are to be removed, and are never sent."""
    lane = lane_with(5)
    take_off(lane, airborne)
    lane.append(appending, 10**9)
    assert not lane.landed()
    assert numbers(lane.appended(range(10, 10 + appending))) == list(range(airborne, appending))
    assert (lane.first, lane.next) == (10 + min(airborne, appending), 10 + appending)
    assert numbers(lane.front(10**9)) == list(range(max(airborne, appending), 5))


def test_a_journal_that_refuses_changes_nothing() -> None:
    """They stay in memory, in their order, and are asked for again."""
    lane = lane_with(5)
    lane.append(3, 10**9)
    lane.not_appended()
    assert numbers(lane.front(10**9)) == list(range(5))
    assert numbers(lane.append(100, 10**9)) == list(range(5))


def test_what_was_withdrawn_is_not_sent() -> None:
    """But for what is in the air, or on its way into the journal."""
    lane = lane_with(6)
    entries = lane.front(10**9)
    take_off(lane, 2)
    for each in (entries[1], entries[3]):
        each.call = None
    lane.withdraw()
    assert numbers(lane.append(100, 10**9)) == [0, 1, 2, 4, 5]
    entries[2].call = entries[4].call = None
    lane.withdraw()
    assert lane.oldest() is entries[0].call
    lane.not_appended()
    lane.landed()
    assert numbers(lane.front(10**9)) == [5]
    entries[5].call = None
    lane.withdraw()
    assert lane.empty
    assert lane.oldest() is None


def test_nobody_waits_for_a_flight() -> None:
    """Only where it is neither in the journal nor on its way there may it be let go of."""
    lane = lane_with(2)
    entries = lane.front(10**9)
    take_off(lane, 2)
    entries[0].call = None
    assert not lane.abandoned
    entries[1].call = None
    assert lane.abandoned
    lane.append(2, 10**9)
    assert not lane.abandoned
    lane.appended([0, 1])
    assert not lane.abandoned


@pytest.mark.parametrize(("rows", "journalling"), [(FIRST_PAGE, False), (FIRST_PAGE + 1, True)])
def test_back_to_memory_with_few_rows_left(rows: int, journalling: bool) -> None:
    """Once a flight has landed: Kafka acknowledges."""
    lane = lane_with(rows + 1, appended=rows + 1)
    lane.journalling = True
    lane.depart([Delivery("registrants", 0, [entry(0)])], rows_before=1)
    lane.landed()
    assert (lane.rows, lane.journalling) == (rows, journalling)


def test_rows_that_cannot_be_read_are_stranded() -> None:
    """What comes does not wait for them; they are counted, and never removed."""
    lane = lane_with(5, appended=5)
    lane.strand()
    assert (lane.rows, lane.stranded, lane.empty) == (0, 5, True)


class LaneMachine(RuleBasedStateMachine):
    """A lane against a list: what is left, where its front stands, and what of it is in the journal."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane("registrants", 0, "spool/registrants/0", first=7, next_=7)
        self.left: list[Entry] = []  # not landed
        self.rows: dict[int, int] = {}  # offset → number, of what is in the journal
        self.next = 7
        self.counter = 0
        self.appending: list[Entry] = []
        self.airborne: list[Entry] = []

    @rule(count=st.integers(1, 5))
    def add(self, count: int) -> None:
        """Some more."""
        for _ in range(count):
            self.left.append(entry(self.counter))
            self.lane.add(self.left[-1])
            self.counter += 1

    @precondition(lambda self: not self.appending)
    @rule(most=st.integers(1, 8))
    def append(self, most: int) -> None:
        """The journal begins to write."""
        self.appending = self.lane.append(most, 10**9)
        assert numbers(self.appending) == [n for n in numbers(self.left) if n not in self.rows.values()][:most]

    @precondition(lambda self: self.appending)
    @rule(jump=st.integers(0, 2))
    def appended(self, jump: int) -> None:
        """It has written; there may be offsets that nobody knows of, left by a try that failed."""
        self.next += jump if not self.lane.rows else 0
        offsets = range(self.next, self.next + len(self.appending))
        self.next = offsets.stop
        self.rows |= dict(zip(offsets, numbers(self.appending), strict=True))
        moved = self.lane.appended(offsets)
        assert numbers(moved) == [n for n in numbers(self.appending) if n in numbers(self.left)]
        self.appending = []

    @precondition(lambda self: self.appending)
    @rule()
    def not_appended(self) -> None:
        """It has not."""
        self.lane.not_appended()
        self.appending = []

    @precondition(lambda self: self.left and not self.airborne)
    @rule(most=st.integers(1, 6))
    def depart(self, most: int) -> None:
        """The front takes off, from the journal where there are rows."""
        rows = [(offset, n) for offset, n in sorted(self.rows.items()) if self.lane.first <= offset < self.lane.next]
        if rows:
            self.airborne = [entry(n, waited_for=False) for _, n in rows[:most]]
            self.lane.depart([Delivery("registrants", 0, self.airborne)], rows_before=rows[:most][-1][0] + 1)
        else:
            self.airborne = self.lane.front(10**9)[:most]
            self.lane.depart([Delivery("registrants", 0, self.airborne)])
        assert numbers(self.airborne) == numbers(self.left[: len(self.airborne)])

    @precondition(lambda self: self.airborne)
    @rule()
    def land(self) -> None:
        """All of it is acknowledged."""
        self.lane.landed()
        self.left = self.left[len(self.airborne) :]
        self.airborne = []

    @invariant()
    def only_what_landed_stands_before_the_first_row(self) -> None:
        """And what is left is there, once and in order: rows, then memory."""
        landed = set(range(self.counter)) - set(numbers(self.left))
        assert {n for offset, n in self.rows.items() if offset < self.lane.first} <= landed
        rows = [n for offset, n in sorted(self.rows.items()) if self.lane.first <= offset < self.lane.next]
        assert rows + [n for n in numbers(self.left) if n not in rows] == numbers(self.left)
        assert self.lane.empty == (not self.left)
        assert self.lane.rows == len(rows)


TestLaneMachine = LaneMachine.TestCase


# --- which lane -------------------------------------------------------------------------------------------------------


def message(key: str, *, topic: str = "registrants", partition: int | None = None) -> Message:
    """A record."""
    return Message(topic=topic, key=key, value=b"", partition_by=key, partition=partition)


@pytest.mark.parametrize(
    ("topic", "partition", "stream"),
    [("registrants", None, "spool/registrants"), ("registrants", 0, "spool/registrants/0"), ("", None, "spool")],
)
def test_a_lane_finds_its_rows_again(topic: str, partition: int | None, stream: str) -> None:
    """By the name of the stream."""
    assert place_of(stream) == (topic, partition)
    assert not topic or stream_of(topic, partition) == stream


@pytest.mark.parametrize("stream", ["registrants", "refused", "partitions", "spooled/registrants"])
def test_other_streams_are_no_lanes(stream: str) -> None:
    """The journal holds more than that."""
    assert place_of(stream) is None


def test_the_same_key_takes_the_same_lane() -> None:
    """By Kafka's own partitioner, or where the message says; of a topic that is not known yet there is one lane."""
    counts = {"registrants": 3}
    lanes = Routing(counts.get)
    assert lanes.lane_for(message("a")) is lanes.lane_for(message("a"))
    assert lanes.lane_for(message("a")).partition == partition_for("a", 3)
    assert lanes.lane_for(message("a", partition=2)).partition == 2
    assert lanes.lane_for(message("a", topic="meetings")).partition is None
    with pytest.raises(UnicodeError):
        lanes.lane_for(message("\ud800", topic="meetings"))


def test_partitions_are_counted_once_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones are seen in the next; however many keys come, few are remembered."""
    counts, asked = {"registrants": 3}, list[str]()

    def count(topic: str) -> int | None:
        asked.append(topic)
        return counts.get(topic)

    lanes = Routing(count)
    lanes.lane_for(message("b"))
    before = lanes.lane_for(message("a"))
    counts["registrants"] = 7
    asked.clear()
    assert lanes.lane_for(message("a")) is before
    assert asked == []
    lanes.ask_again()
    assert lanes.lane_for(message("a")).partition == partition_for("a", 7)
    assert asked == ["registrants"]
    monkeypatch.setattr("service.bus.routing.REMEMBERED_KEYS", 10)
    for n in range(100):
        assert lanes.lane_for(message(str(n))).partition == partition_for(str(n), 7)
    assert sum(map(len, lanes._by_key.values())) <= 10


def test_who_goes_first() -> None:
    """An earlier version's rows before all; what came before a topic's partitions were known before what came after."""
    counts: dict[str, int] = {}
    lanes = Routing(counts.get)
    old = Lane("", None, "spool", first=0, next_=1)
    lanes.adopt(old)
    uncounted, other = lanes.lane_for(message("a")), lanes.lane_for(message("a", topic="meetings"))
    uncounted.add(entry(0))
    assert [lanes.before(each) for each in (old, uncounted, other)] == [None, old, old]
    old.skip_rows(1)
    assert set(lanes.emptied(old)) == {uncounted, other}
    assert [lanes.before(each) for each in (uncounted, other)] == [None, None]
    assert not lanes.leads_somewhere(uncounted)
    counts |= {"registrants": 2, "meetings": 1}
    counted = lanes.lane_for(message("a"))
    assert lanes.before(counted) is uncounted
    assert lanes.before(lanes.lane_for(message("a", topic="meetings"))) is None
    take_off(uncounted, 1)
    uncounted.landed()
    assert lanes.emptied(uncounted) == [counted]
    assert lanes.before(counted) is None
    assert uncounted not in list(lanes)


def test_a_lane_of_no_partition_leads_to_several() -> None:
    """As far as they are known; the records of each in their order."""
    counts = {"registrants": 2}
    lanes = Routing(counts.get)
    places: Sequence[tuple[str, str]] = [
        ("registrants", "a"),
        ("registrants", "b"),
        ("registrants", "a"),
        ("meetings", "a"),
        ("registrants", "a"),
    ]
    entries = [row(message(key, topic=topic), n) for n, (topic, key) in enumerate(places)]
    found = lanes.deliveries(Lane("", None, "spool"), entries)
    assert sorted(n for each in found for n in numbers(each.entries)) == [0, 1, 2]
    assert all(numbers(each.entries) == sorted(numbers(each.entries)) for each in found)
    fewer = Routing({"registrants": 1}.get).deliveries(Lane("registrants", 1, "spool/registrants/1"), entries[:3])
    assert [(each.partition, numbers(each.entries)) for each in fewer] == [(0, [0, 1, 2])]
