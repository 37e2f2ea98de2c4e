"""The ledger at work, on a real journal: what is durable, what is remembered, and what is known to be lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.controllers.ledger import CHUNK, Ledger, Place
from service.core import event, ledger
from service.core.errors import CannotStore, NotOwner
from service.core.event import CloudEvent
from service.core.ledger import CommandRecord, Dirty, Entry, Fact, Intent, KnownMeeting, Seen
from service.core.message import Message
from tests.fakes import PickyPublisher

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MEETING = Entry(kind="meeting", subject="s1", value=KnownMeeting(organization="default"))
HUMAN = Entry(kind="human", subject="s1", registrant="p1", value=Fact(at=NOW))


def ledger_on(journal: Journal, publisher: PickyPublisher | None = None) -> Ledger:
    """A process of its own, nothing restored."""
    return Ledger(reader=JournalReader(journal), publisher=publisher or JournalPublisher(journal))


async def restored(journal: Journal) -> tuple[Ledger, Place]:
    """A process of its own that has read the ledger."""
    one = ledger_on(journal)
    await one.restore(0)
    return one, one.place("default", 0)


def changed() -> CloudEvent:
    """Some fact."""
    return event.new_event(
        id="e1",
        type="webex.meeting.changed.v1",
        source="/webex",
        key="s1",
        origin="sweep",
        received=NOW,
        receiver="test",
        data={},
    )


async def keys_on(journal: Journal, topic: str) -> list[str]:
    """The keys of the records of a topic, in order."""
    return [record.key async for record in JournalReader(journal).read(topic, 0)]


async def test_what_is_recorded_is_restored(journal: Journal) -> None:
    """By the next process, and in the same words; the count is that of the records."""
    one, place = await restored(journal)
    await one.record(place, [MEETING, HUMAN, HUMAN])

    other = ledger_on(journal)
    assert await other.restore(0) == 3
    assert other.series(other.place("default", 0), "s1") == one.series(place, "s1")
    assert (one.entries, other.entries) == (2, 2)


async def test_facts_go_to_the_topic_that_is_named(journal: Journal) -> None:
    """By default that of their family."""
    one, place = await restored(journal)
    await one.record(place, [], [changed()])
    await one.record(place, [MEETING], [changed()], topic="outcomes")

    assert await keys_on(journal, "meetings") == ["s1"]
    assert await keys_on(journal, "outcomes") == ["s1"]


async def test_what_cannot_be_written_is_not_remembered(journal: Journal) -> None:
    """Else memory would say what no successor can know."""
    one = ledger_on(journal, PickyPublisher(JournalPublisher(journal), lambda _: True))
    await one.restore(0)
    place = one.place("default", 0)
    with pytest.raises(CannotStore):
        await one.record(place, [MEETING])

    assert one.entries == 0


async def test_an_earlier_assignment_is_over(journal: Journal) -> None:
    """Whoever began under it neither reads nor writes any more, even where the partition came back."""
    one, place = await restored(journal)
    one.forget(0)
    await one.restore(0)

    with pytest.raises(NotOwner):
        one.series(place, "s1")
    with pytest.raises(NotOwner):
        await one.record(place, [MEETING])
    with pytest.raises(NotOwner):
        await one.retire(place, "s1")
    assert await keys_on(journal, "ledger") == []


# --- begun, or lost ---------------------------------------------------------------------------------------------------


async def test_a_new_ledger_is_begun(journal: Journal) -> None:
    """Once; a restart finds it begun, whatever was consumed until then."""
    one, place = await restored(journal)
    await one.found(0, consumed=False, now=NOW)
    assert one.partition(place).observing is None

    other, place = await restored(journal)
    await other.found(0, consumed=True, now=NOW)
    assert other.partition(place).founded == Fact(at=NOW)
    assert other.partition(place).observing is None
    assert await keys_on(journal, "ledger") == ["founded/0"]


async def test_an_empty_ledger_beside_consumed_work_is_lost(journal: Journal) -> None:
    """That is written down first: a restart in between does not take it for a new one."""
    one, _ = await restored(journal)
    await one.found(0, consumed=True, now=NOW)

    other, place = await restored(journal)
    await other.found(0, consumed=False, now=NOW)
    assert other.partition(place).observing == Fact(at=NOW)
    assert await keys_on(journal, "ledger") == ["observing/0"]


async def test_a_ledger_that_was_made_anew_under_its_owner_is_lost(journal: Journal) -> None:
    """It has records, since the owner went on writing, but not the first one."""
    one, place = await restored(journal)
    await one.record(place, [MEETING])

    other, place = await restored(journal)
    await other.found(0, consumed=True, now=NOW)
    assert other.partition(place).observing == Fact(at=NOW)


async def test_a_ledger_that_is_gone_when_it_is_read_again_is_lost(journal: Journal) -> None:
    """What is in memory until then is still true, but nobody else could know it."""
    one, place = await restored(journal)
    await one.found(0, consumed=False, now=NOW)
    await JournalPublisher(journal).publish(
        [Message(topic="ledger", key="founded/0", value=None, partition_by="default")]
    )
    await one.read_again(place)

    assert one.partition(place).observing is not None


async def test_finding_stands_in_its_partition(journal: Journal) -> None:
    """No organisation needs to be known for that."""
    sent: list[Message] = []

    def passes(message: Message) -> bool:
        sent.append(message)
        return False

    one = ledger_on(journal, PickyPublisher(JournalPublisher(journal), passes))
    await one.restore(0)
    await one.found(0, consumed=False, now=NOW)
    await one.record(one.place("default", 0), [MEETING])

    assert [(message.key, message.partition) for message in sent] == [("founded/0", 0), ("meeting/s1", None)]


# --- forgetting -------------------------------------------------------------------------------------------------------


def everything(people: int) -> list[Entry]:
    """All that there can be about a series."""
    intent = Intent(verb="approve", rule="r", reason="", notify=False, policy="v", at=NOW)
    entries = [MEETING, Entry(kind="dirty", subject="s1", value=Dirty(organization="default", since=NOW))]
    for n in range(people):
        entries += [
            Entry(kind=kind, subject="s1", registrant=f"p{n}", value=Fact(at=NOW))
            for kind in ("approved", "human", "released", "rejected")
        ]
        entries.append(Entry(kind="intent", subject="s1", registrant=f"p{n}", value=intent))
        entries.append(Entry(kind="seen", subject="s1", registrant=f"p{n}", value=Seen(status="approved")))
    return entries


async def test_a_retired_series_leaves_nothing(journal: Journal) -> None:
    """Every key of it is a tombstone in the end, also those that a release took out of memory."""
    one, place = await restored(journal)
    written = everything(300)
    other_series = Entry(kind="meeting", subject="s2", value=KnownMeeting(organization="default"))
    await one.record(place, [*written, other_series])

    assert await one.retire(place, "s1") == len(written)

    other, place = await restored(journal)
    assert list(other.partition(place).series) == ["s2"]
    last = {record.key: record.value async for record in JournalReader(journal).read("ledger", 0)}
    assert [key for key, value in last.items() if value is not None] == ["meeting/s2"]


async def test_a_retirement_that_ended_half_way_is_found_again(journal: Journal) -> None:
    """The meeting goes last: until then the series is known, and the rest follows at the next attempt."""
    publisher = PickyPublisher(JournalPublisher(journal), lambda _: False)
    one = ledger_on(journal, publisher)
    await one.restore(0)
    place = one.place("default", 0)
    await one.record(place, everything(300))
    publisher.refuse = lambda message: message.key == "meeting/s1"
    with pytest.raises(CannotStore):
        await one.retire(place, "s1")

    assert 0 < one.entries <= CHUNK
    other, place = await restored(journal)
    assert other.series(place, "s1").meeting is not None
    await other.retire(place, "s1")
    assert other.entries == 0


async def test_commands_expire(journal: Journal) -> None:
    """Seven days after they ended; until then their ids are known."""
    one, place = await restored(journal)
    done = CommandRecord(digest="d", at=NOW, finished=NOW)
    await one.record(place, [ledger.command_entry("c1", done)])

    assert await one.expire(0, NOW + timedelta(days=6)) == 0
    assert one.command(place, "c1") == done
    assert await one.expire(0, NOW + timedelta(days=7)) == 1
    assert one.command(place, "c1") is None
    assert (await restored(journal))[0].entries == 0


async def test_an_unreadable_record_does_not_keep_the_rest_from_us(journal: Journal) -> None:
    """Nor does one of a newer version."""
    one, place = await restored(journal)
    broken = [("seen/s1/p1", b"\xff"), ("hologram/s1", b"{}"), ("seen/s1", b"{}")]
    await JournalPublisher(journal).publish(
        [Message(topic="ledger", key=k, value=v, partition_by="d") for k, v in broken]
    )
    await one.record(place, [HUMAN])

    other, place = await restored(journal)
    assert other.series(place, "s1").registrants["p1"].human
