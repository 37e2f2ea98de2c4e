"""The ledger's records and the memory they make."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from service.core import ledger
from service.core.ledger import Dirty, Entry, Fact, Intent, KnownMeeting, Memory, Owner, PartitionMemory, Seen

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INTENT = Intent(verb="approve", rule="r", reason="because", notify=False, policy="v", at=NOW)
ENTRIES = [
    Entry(kind="intent", subject="s1", registrant="p1", value=INTENT),
    Entry(kind="approved", subject="s1", registrant="p1", value=Fact(at=NOW)),
    Entry(kind="rejected", subject="s1", registrant="p2", value=Fact(at=NOW)),
    Entry(kind="human", subject="s1", registrant="p1", value=Fact(at=NOW)),
    Entry(kind="seen", subject="s1", registrant="p1", value=Seen(status="approved", held="v", facts=3)),
    Entry(kind="meeting", subject="s1", value=KnownMeeting(organization="default", newest=NOW, full=NOW, policy="v")),
    Entry(kind="dirty", subject="s2", value=Dirty(organization="default", since=NOW)),
    Entry(kind="owner", subject="3", value=Owner(instance="a", at=NOW, released=True)),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind)
def test_round_trip(entry: Entry) -> None:
    """An entry reads back from its record as it was written, and stands with its organisation."""
    message = ledger.to_message(entry, organization="default")

    assert (message.topic, message.partition_by) == ("ledger", "default")
    assert ledger.from_record(message.key, message.value) == entry


def test_memory_of_a_partition() -> None:
    """Applying the records in order restores what was remembered; the last one of a key counts."""
    memory = PartitionMemory()
    for entry in [*ENTRIES, Entry(kind="dirty", subject="s2", value=None)]:
        memory.apply(entry)

    assert memory.owner == Owner(instance="a", at=NOW, released=True)
    assert memory.of("s2").dirty is None
    assert memory.of("s1").registrants == {
        "p1": Memory(intent=INTENT, seen=Seen(status="approved", held="v", facts=3), approved=True, human=True),
        "p2": Memory(rejected=True),
    }


def test_a_kind_of_a_newer_version_is_passed_over() -> None:
    """A record of a kind that this version does not know says nothing to it."""
    assert ledger.from_record("hologram/s1", b"{}") is None


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
