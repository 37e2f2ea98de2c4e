"""The ledger's records and the memory they make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import ledger
from service.core.ledger import (
    CommandRecord,
    Dirty,
    Entry,
    Fact,
    Intent,
    KnownMeeting,
    Memory,
    Owner,
    PartitionMemory,
    PolicyRecord,
    Pool,
    RuleRecord,
    RulesRecord,
    Seen,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INTENT = Intent(verb="approve", rule="r", reason="because", notify=False, policy="v", at=NOW)
RULES = RulesRecord(
    rules={"r": RuleRecord(version="v", fields=("agenda",), intent={"agenda": "0a"})}, writes={"agenda": (NOW,)}
)
ENTRIES = [
    Entry(kind="intent", subject="s1", registrant="p1", value=INTENT),
    Entry(kind="approved", subject="s1", registrant="p1", value=Fact(at=NOW)),
    Entry(kind="rejected", subject="s1", registrant="p2", value=Fact(at=NOW)),
    Entry(kind="human", subject="s1", registrant="p1", value=Fact(at=NOW)),
    Entry(kind="released", subject="s1", registrant="p3", value=Fact(at=NOW)),
    Entry(kind="seen", subject="s1", registrant="p1", value=Seen(status="approved", held="v", facts=3, print="0" * 16)),
    Entry(kind="meeting", subject="s1", value=KnownMeeting(organization="default", newest=NOW, full=NOW, policy="v")),
    Entry(kind="rules", subject="s1", value=RULES),
    Entry(kind="dirty", subject="s2", value=Dirty(organization="default", since=NOW)),
    ledger.command_entry("c1", CommandRecord(digest="d", at=NOW, finished=NOW)),
    Entry(kind="policy", subject="default", value=PolicyRecord(accepted="v", trial="w", since=NOW, changed=3)),
    Entry(kind="paused", subject="default", value=Fact(at=NOW)),
    Entry(kind="owner", subject="3", value=Owner(instance="a", at=NOW, released=True)),
    Entry(kind="founded", subject="3", value=Fact(at=NOW)),
    Entry(kind="observing", subject="3", value=Fact(at=NOW)),
]


def memory_of(*entries: Entry) -> PartitionMemory:
    """The memory after these records."""
    memory = PartitionMemory()
    for entry in entries:
        memory.apply(entry)
    return memory


def fact(kind: str, registrant: str = "p1") -> Entry:
    """One of the facts about a person."""
    return Entry(kind=kind, subject="s1", registrant=registrant, value=Fact(at=NOW))


def gone(entry: Entry) -> Entry:
    """Its tombstone."""
    return msgspec.structs.replace(entry, value=None)


def contents(memory: PartitionMemory) -> dict[str, Any]:
    """Everything remembered."""
    return {name: getattr(memory, name) for name in memory.__struct_fields__ if name != "pool"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind)
def test_round_trip(entry: Entry) -> None:
    """An entry reads back from its record as it was written, and stands with its organisation."""
    message = ledger.to_message(entry, organization="default")

    assert (message.topic, message.partition_by, message.partition) == ("ledger", "default", None)
    assert ledger.from_record(message.key, message.value) == entry


def test_every_kind_is_tried() -> None:
    """A kind that is new comes into the tests here."""
    assert {entry.kind for entry in ENTRIES} == set(ledger._KINDS)


def test_a_record_about_the_partition_stands_in_it() -> None:
    """Wherever the hash of anything would send it."""
    assert ledger.to_message(ENTRIES[-1], organization="", partition=3).partition == 3


def test_memory_of_a_partition() -> None:
    """Applying the records in order restores what was remembered; the last one of a key counts."""
    memory = memory_of(*ENTRIES, gone(ENTRIES[8]))

    assert memory.owner == Owner(instance="a", at=NOW, released=True)
    assert (memory.founded, memory.observing) == (Fact(at=NOW), Fact(at=NOW))
    assert memory.of("s2").dirty is None
    assert memory.of("s1").rules == RULES
    assert memory.of("s1").registrants == {
        "p1": Memory(
            intent=INTENT,
            seen=Seen(status="approved", held="v", facts=3, print="0" * 16),
            approved=True,
            human=True,
        ),
        "p2": Memory(rejected=True),
        "p3": Memory(released=True),
    }
    assert memory.command("c1") == CommandRecord(digest="d", at=NOW, finished=NOW)
    assert memory.command("c2") is None
    assert memory.policies == {"default": PolicyRecord(accepted="v", trial="w", since=NOW, changed=3)}
    assert memory.paused == {"default": Fact(at=NOW)}


def test_entries_are_counted() -> None:
    """Each record once, however often it was written; tombstones take it away again, and in the end nothing is left."""
    memory = memory_of(*ENTRIES, *ENTRIES)
    assert memory.entries == len(ENTRIES)

    for entry in ENTRIES:
        memory.apply(gone(entry))
        memory.apply(gone(entry))

    assert contents(memory) == contents(PartitionMemory())


def test_a_release_takes_back_what_was_said_until_then() -> None:
    """The policy may decide again; what was published is not forgotten, and what a person does later counts again."""
    held = Entry(
        kind="seen", subject="s1", registrant="p1", value=Seen(status="pending", held="v", facts=3, waiting=True)
    )
    before = (ENTRIES[0], fact("approved"), fact("rejected"), fact("human"), held)

    memory = memory_of(*before, fact("released"))
    assert memory.of("s1").registrants["p1"] == Memory(seen=Seen(status="pending", facts=3), released=True)

    memory.apply(fact("human"))
    assert memory.of("s1").registrants["p1"].human


def test_tombstones_take_away_everything_of_a_series() -> None:
    """Also what only the topic still has, because a release took it back from memory; the meeting goes last."""
    written = [*ENTRIES, ENTRIES[0], fact("human", "p3"), fact("released", "p1")]
    memory = memory_of(*written)
    taken_away = list(ledger.tombstones("s1", memory.of("s1")))

    left = {entry.key for entry in written if entry.subject == "s1"} - {entry.key for entry in taken_away}
    assert left == set()
    assert all(entry.value is None for entry in taken_away)
    assert taken_away[-1].key == "meeting/s1"
    assert "s1" not in memory_of(*written, *taken_away).series


def test_commands_are_forgotten_by_the_clock() -> None:
    """A finished one after seven days, one that never ended after thirty; until then its id is known."""
    old = timedelta(days=8)
    memory = memory_of(
        ledger.command_entry("finished long ago", CommandRecord(digest="d", at=NOW - 2 * old, finished=NOW - old)),
        ledger.command_entry("finished lately", CommandRecord(digest="d", at=NOW - old, finished=NOW)),
        ledger.command_entry("begun", CommandRecord(digest="d", at=NOW - old)),
        ledger.command_entry("begun long ago", CommandRecord(digest="d", at=NOW - 4 * old)),
    )

    forgotten = list(memory.forgettable(NOW))

    assert [entry.key for entry in forgotten] == [
        ledger.command_entry(id_, None).key for id_ in ("finished long ago", "begun long ago")
    ]


@given(st.text())
def test_any_id_of_a_command_has_a_key(id_: str) -> None:
    """Strangers choose the ids: whatever they write, the key is one that reads back."""
    entry = ledger.command_entry(id_, CommandRecord(digest="d", at=NOW))
    message = ledger.to_message(entry, organization="default")

    assert ledger.from_record(message.key, message.value) == entry
    assert memory_of(entry).command(id_) is not None


@pytest.mark.parametrize(
    "key", ["hologram/s1", "hologram/s1/p1", "seen/s1", "meeting/s1/p1", "owner/3/4", "seen//p1", "meeting/", "", "/"]
)
def test_what_this_version_does_not_know_is_passed_over(key: str) -> None:
    """A kind, or a shape of a key, of a newer version says nothing to it, and does not keep it from restoring the rest."""
    assert ledger.from_record(key, b"{}") is None


def test_an_unreadable_record_is_an_error() -> None:
    """A known kind that cannot be read is told apart from an unknown kind."""
    with pytest.raises(msgspec.ValidationError):
        ledger.from_record("intent/s1/p1", b'{"at": 5}')


@pytest.mark.parametrize("kind", ["approved", "rejected", "human"])
def test_a_fact_that_cannot_be_read_is_a_fact_all_the_same(kind: str) -> None:
    """What protects a person's word is the key, whatever became of its value."""
    entry = ledger.from_record(f"{kind}/s1/p1", b"\xff")

    assert entry is not None
    assert entry.value is not None


def test_equal_values_are_kept_once() -> None:
    """A batch of a hundred has one intent in memory, and the status of a million people is one text."""
    seen = Seen(status="approved", held="v", print="0" * 16)
    values = {"intent": INTENT, "seen": seen}
    read = [
        ledger.from_record(f"{kind}/s1/p{n}", msgspec.json.encode(value))
        for kind, value in values.items()
        for n in (1, 2)
    ]
    registrants = memory_of(*filter(None, read)).of("s1").registrants

    one, other = registrants["p1"], registrants["p2"]
    assert one.intent is other.intent
    assert one.seen is not None
    assert other.seen is not None
    assert (one.seen.status is other.seen.status, one.seen.held is other.seen.held) == (True, True)
    assert one.seen == seen


def test_the_pool_forgets() -> None:
    """It never keeps more than its size, whatever comes by."""
    pool = Pool()
    for n in range(3 * Pool.LARGEST):
        assert pool.one(str(n)) == str(n)

    assert len(pool._values) <= Pool.LARGEST


KINDS = ["intent", "approved", "rejected", "human", "released", "seen"]
_VALUES: dict[str, Any] = {"intent": INTENT, "seen": Seen(status="pending", held="v", facts=1)}
_RECORDS = st.builds(
    lambda kind, registrant, there: Entry(
        kind=kind, subject="s", registrant=registrant, value=_VALUES.get(kind, Fact(at=NOW)) if there else None
    ),
    st.sampled_from(KINDS),
    st.sampled_from(["p1", "p2"]),
    st.booleans(),
)


@given(st.lists(_RECORDS, max_size=30))
def test_compaction_changes_nothing(written: list[Entry]) -> None:
    """A broker that keeps only the last record of each key restores the same as one that keeps all.

    A release is only ever taken away together with, and after, everything else of the person.
    """
    written = [entry for entry in written if entry.kind != "released" or entry.value is not None]
    last = {entry.key: n for n, entry in enumerate(written)}
    compacted = [entry for n, entry in enumerate(written) if last[entry.key] == n]
    assert _words(memory_of(*compacted)) == _words(memory_of(*written))


def _words(memory: PartitionMemory) -> dict[str, Any]:
    found = memory.series["s"].registrants if "s" in memory.series else {}
    return {id_: one for id_, one in found.items() if one.entries}
