"""Leases in the ledger, on a real journal; time passes only where a test, or a process that sleeps, lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.ledger import Ledger, Place
from service.controllers.ownership import COUNTED_IN, DOUBT, FRESH, LEASE, RENEWAL, Ownership
from service.core.errors import NotOwner
from service.core.ledger import Entry, Fact, Owner
from service.core.message import Message
from tests.fakes import EmptyReader, PickyPublisher, RecordingPublisher

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASE_SECONDS = LEASE.total_seconds()


class Time:
    """One clock for all processes of a test."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """On the wall."""
        return START + timedelta(seconds=self.seconds)


class Process:
    """One process of the group. While it sleeps its loop goes round; ``asleep`` is what else happens meanwhile."""

    def __init__(self, journal: Journal, time: Time, instance: str) -> None:
        self.publisher = PickyPublisher(JournalPublisher(journal), lambda _: False)
        self.ledger = Ledger(reader=JournalReader(journal), publisher=self.publisher)
        self.time = time
        self.slept: list[float] = []
        self.asleep: list[Entry] = []
        self.deaf_since: float | None = None  # when the group answered last
        self.ownership = Ownership(
            self.ledger,
            instance=instance,
            unconfirmed=lambda: 0.0 if self.deaf_since is None else time.seconds - self.deaf_since,
            now=time.now,
            monotonic=lambda: time.seconds,
            sleep=self.sleep,
        )

    async def assigned(self, organization: str = "default") -> Place:
        """Restore the partition, and begin to own it."""
        await self.ledger.restore(0)
        place = self.ledger.place(organization, 0)
        self.ownership.take(place)
        return place

    async def sleep(self, seconds: float) -> None:
        """Time passes, a second at a time, and others have their turns."""
        self.slept.append(seconds)
        await asyncio.sleep(0)
        for step in [1.0] * int(seconds) + [seconds % 1]:
            self.time.seconds += step
            self.ownership._doubt()

    async def keeps(self, seconds: float) -> None:
        """Renew what there is to renew for so long."""
        until = self.time.seconds + seconds
        keeping = asyncio.create_task(self.ownership.keep())
        while self.time.seconds < until:  # noqa: ASYNC110 - the task moves the time
            await asyncio.sleep(0.001)
        keeping.cancel()
        await asyncio.wait({keeping})

    async def writes(self, place: Place) -> None:
        """Prepare a write, and look anew as often as it takes."""
        for _ in range(5):
            try:
                await self.ownership.writable(place)
            except NotOwner:
                continue
            self.ownership.check(place)
            return
        pytest.fail("it never may write")


@pytest.fixture
def time() -> Time:
    """It begins."""
    return Time()


async def owners(journal: Journal) -> list[Owner]:
    """Every owner record, in order."""
    records = [record async for record in JournalReader(journal).read("ledger", 0) if record.key == "owner/0"]
    return [msgspec.json.decode(record.value or b"", type=Owner) for record in records]


async def test_the_first_owner_writes_at_once(journal: Journal, time: Time) -> None:
    """There is nobody to wait for; its lease is in the ledger before the first write."""
    one = Process(journal, time, "one")
    place = await one.assigned()
    await one.ownership.writable(place)

    assert one.slept == []
    assert await owners(journal) == [Owner(instance="one", at=START)]


async def test_a_lease_gets_old(journal: Journal, time: Time) -> None:
    """Eight seconds after its last renewal no write starts."""
    one = Process(journal, time, "one")
    place = await one.assigned()
    await one.ownership.writable(place)

    time.seconds += FRESH - 0.1
    one.ownership.check(place)
    one.ownership._doubt()
    time.seconds += 0.1
    with pytest.raises(NotOwner):
        one.ownership.check(place)


async def test_a_new_owner_outlasts_the_one_that_was_killed(journal: Journal, time: Time) -> None:
    """It writes when the old record is 18 s old, and takes in what was written until then."""
    killed, successor = Process(journal, time, "killed"), Process(journal, time, "successor")
    old = await killed.assigned()
    await killed.ownership.writable(old)
    place = await successor.assigned()
    time.seconds += 10
    late = Entry(kind="human", subject="s1", registrant="p1", value=Fact(at=START))
    await killed.ledger.record(old, [late])  # what it had still to say
    successor.ownership._doubt_until = float("-inf")
    successor.ownership._pulse = time.seconds
    await successor.writes(place)

    assert successor.slept == [LEASE_SECONDS - 10]
    assert successor.ledger.series(place, "s1").registrants["p1"].human


async def test_a_first_write_long_after_the_lease_takes_in_what_was_written_within_it(
    journal: Journal, time: Time
) -> None:
    """However late the new owner has something to write: what the old one wrote after the restore is read before."""
    killed, successor = Process(journal, time, "killed"), Process(journal, time, "successor")
    old = await killed.assigned()
    await killed.ownership.writable(old)
    place = await successor.assigned()
    await killed.ledger.record(old, [Entry(kind="human", subject="s1", registrant="p1", value=Fact(at=START))])
    await successor.sleep(300)
    with pytest.raises(NotOwner):
        await successor.ownership.writable(place)
    await successor.ownership.writable(place)

    assert successor.ledger.series(place, "s1").registrants["p1"].human


async def test_an_owner_that_is_alive_is_waited_for_again(journal: Journal, time: Time) -> None:
    """It renewed while we waited: its new lease counts."""
    alive, successor = Process(journal, time, "alive"), Process(journal, time, "successor")
    old = await alive.assigned()
    await alive.ownership.writable(old)
    place = await successor.assigned()
    waiting = asyncio.create_task(successor.ownership.writable(place))
    await asyncio.sleep(0)
    renewed = Owner(instance="alive", at=START + timedelta(seconds=12))
    await alive.ledger.record(old, [Entry(kind="owner", subject="0", value=renewed)])
    with pytest.raises(NotOwner):
        await waiting
    await successor.writes(place)

    assert time.seconds >= 12 + LEASE_SECONDS


async def test_nobody_waits_for_a_lease_that_was_given_up(journal: Journal, time: Time) -> None:
    """Nor does the same instance wait for itself, when it is started again."""
    one, other, again = (Process(journal, time, name) for name in ("one", "other", "other"))
    await one.ownership.writable(await one.assigned())
    await one.ownership.release(0)
    await other.ownership.writable(await other.assigned())
    await again.ownership.writable(await again.assigned())

    assert (other.slept, again.slept) == ([], [])


async def test_who_waits_gives_up_nothing(journal: Journal, time: Time) -> None:
    """A partition that goes on before the wait is over: the third one has to wait for the first one too."""
    frozen, second, third = (Process(journal, time, name) for name in ("frozen", "second", "third"))
    await frozen.ownership.writable(await frozen.assigned())
    await second.assigned()
    await second.ownership.release(0)
    place = await third.assigned()
    await third.writes(place)

    assert third.slept == [LEASE_SECONDS]


async def test_organisations_of_one_partition_share_its_lease(journal: Journal, time: Time) -> None:
    """Work for one never takes the lease from the other: between preparing and writing anybody may have had a turn."""
    one = Process(journal, time, "one")
    first = await one.assigned("first")
    second = one.ledger.place("second", 0)
    await one.ownership.writable(first)
    await one.ownership.writable(second)
    one.ownership.check(first)

    assert len(await owners(journal)) == 1


async def test_an_earlier_assignment_has_no_lease(journal: Journal, time: Time) -> None:
    """What was prepared before the partition went and came back must not be written."""
    one = Process(journal, time, "one")
    before = await one.assigned()
    await one.ownership.writable(before)
    one.ownership.drop(0)
    one.ledger.forget(0)
    after = await one.assigned()
    await one.ownership.writable(after)

    one.ownership.check(after)
    with pytest.raises(NotOwner):
        one.ownership.check(before)


async def test_a_process_that_stood_still_writes_nothing_for_a_while(journal: Journal, time: Time) -> None:
    """It cannot know what happened meanwhile: it waits, reads the ledger again, and only then goes on."""
    one = Process(journal, time, "one")
    place = await one.assigned()
    await one.ownership.writable(place)
    time.seconds += 30
    with pytest.raises(NotOwner):
        one.ownership.check(place)
    with pytest.raises(NotOwner):
        await one.ownership.writable(place)
    await one.ownership.writable(place)

    assert one.slept == [DOUBT]


async def test_many_that_wait_read_the_ledger_once(journal: Journal, time: Time) -> None:
    """A large ledger takes its time, and every series that has something to write waits for the same."""
    killed, successor = Process(journal, time, "killed"), Process(journal, time, "successor")
    await killed.ownership.writable(await killed.assigned())
    place = await successor.assigned()
    reads = 0
    read_again = successor.ledger.read_again

    async def counted(place: Place) -> None:
        nonlocal reads
        reads += 1
        await read_again(place)

    successor.ledger.read_again = counted  # type: ignore[method-assign]
    results = await asyncio.gather(*(successor.ownership.writable(place) for _ in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [NotOwner] * 4
    await successor.ownership.writable(place)

    assert reads == 1


async def test_a_lease_is_kept(journal: Journal, time: Time) -> None:
    """Renewed every five seconds, from the assignment on; not by one that still waits for another's."""
    one, waiting = Process(journal, time, "one"), Process(journal, time, "waiting")
    place = await one.assigned()
    await one.keeps(3 * RENEWAL)
    one.ownership.check(place)
    kept = await owners(journal)
    assert [record.instance for record in kept] == ["one"] * len(kept)
    assert max(b.at - a.at for a, b in pairwise(kept)) < timedelta(seconds=FRESH)

    await waiting.assigned()
    await waiting.keeps(60)
    assert await owners(journal) == kept


async def test_a_renewal_that_is_not_acked_is_none(journal: Journal, time: Time) -> None:
    """Without the ledger nothing may be written to Webex."""
    one = Process(journal, time, "one")
    place = await one.assigned()
    one.publisher.refuse = lambda _: True
    with pytest.raises(NotOwner):
        await one.ownership.writable(place)
    one.publisher.refuse = lambda _: False
    await one.ownership.writable(place)


# --- a member that the group does not hear any more ---------------------------------------------------------------------


async def test_no_lease_without_the_group(journal: Journal, time: Time) -> None:
    """Whoever the group does not count in renews nothing, prepares nothing, and says so once."""
    one = Process(journal, time, "one")
    place = await one.assigned()
    one.deaf_since = -COUNTED_IN
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(NotOwner):
                await one.ownership.writable(place)
        await one.keeps(20)
    assert await owners(journal) == []
    assert [line["reason"] for line in logs if line["event"] == "ownership.not_renewed"] == [
        "the group does not answer"
    ]
    one.deaf_since = time.seconds - 3
    await one.ownership.writable(place)


async def test_a_member_that_is_cut_off_has_stopped_when_its_partitions_go_to_another_one(
    journal: Journal, time: Time
) -> None:
    """The ledger can still be written, the group does not answer: the last write begins before the session (18 s) is over,
    and the next owner does not wait for ever.
    """
    session = 18.0
    cut_off, successor = Process(journal, time, "cut off"), Process(journal, time, "successor")
    place = await cut_off.assigned()
    cut_off.deaf_since, last_write = 0.0, float("-inf")
    keeping = asyncio.create_task(cut_off.ownership.keep())
    while time.seconds < session:
        try:
            cut_off.ownership.check(place)
            last_write = time.seconds
        except NotOwner:
            pass
        await asyncio.sleep(0.001)  # a second passes
    assert RENEWAL <= last_write < session
    assert session > COUNTED_IN + FRESH
    keeping.cancel()
    await asyncio.wait({keeping})

    await successor.writes(await successor.assigned())
    written = await owners(journal)
    assert len(successor.slept) == 1
    assert [owner.instance for owner in written[-2:]] == ["cut off", "successor"]
    assert written[-2].at < START + timedelta(seconds=COUNTED_IN)


class Stuck(RecordingPublisher):
    """Never gets an answer about one partition's lease."""

    async def publish(self, messages: Sequence[Message]) -> None:
        if any(message.key == "owner/0" for message in messages):
            await asyncio.Event().wait()
        await super().publish(messages)


async def test_a_lease_that_cannot_be_written_keeps_no_other_from_being_renewed(time: Time) -> None:
    """Each partition of the ledger has a leader of its own."""
    publisher = Stuck()
    ledger = Ledger(reader=EmptyReader(), publisher=publisher)
    ownership = Ownership(
        ledger, instance="one", unconfirmed=lambda: 0.0, now=time.now, monotonic=lambda: 0.0, sleep=asyncio.sleep
    )
    for partition in (0, 1):
        await ledger.restore(partition)
        ownership.take(ledger.place("", partition))
    keeping = asyncio.create_task(ownership.keep())
    async with asyncio.timeout(5):
        while not publisher.batches:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait({keeping})
    ownership.check(ledger.place("", 1))
    with pytest.raises(NotOwner):
        ownership.check(ledger.place("", 0))
