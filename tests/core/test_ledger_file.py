"""The ledger as a file: what goes in comes out, and what is no export is said so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.core import ledger, ledger_file
from service.core.ledger import Entry, Fact, KnownMeeting, Owner, PartitionMemory
from service.core.ledger_file import LedgerFileError, Records
from tests.core.test_ledger import ENTRIES, contents, memory_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def records_of(*entries: Entry, partition: int = 0) -> Records:
    """As they are read from the ledger."""
    records = Records()
    for entry in entries:
        message = ledger.to_message(entry, organization="x")
        records.add(partition, message.key, message.value)
    return records


def file_of(records: Records, *, partitions: int = 1) -> list[bytes]:
    """The lines of the export."""
    return list(records.lines(partitions=partitions, at=NOW))


def test_a_file_restores_the_same_memory() -> None:
    """But for what is about the partition itself."""
    about_meetings = [entry for entry in ENTRIES if entry.kind not in ("owner", "founded", "observing")]
    lines = ledger_file.parse(file_of(records_of(*ENTRIES)))
    messages = ledger_file.to_messages(lines, otherwise=["default"])

    restored = PartitionMemory()
    for message in messages:
        entry = ledger.from_record(message.key, message.value)
        assert entry is not None
        restored.apply(entry)
    assert contents(restored) == contents(memory_of(*about_meetings))
    assert {message.partition_by for message in messages} == {"default"}


def test_the_last_record_of_a_key_counts_and_stands_where_it_was_written() -> None:
    """A release takes back what stands before it, and not what stands behind."""
    human, released = (
        Entry(kind=kind, subject="s1", registrant="p1", value=Fact(at=NOW)) for kind in ("human", "released")
    )
    meeting = Entry(kind="meeting", subject="s1", value=KnownMeeting(organization="default"))
    gone = Entry(kind="approved", subject="s1", registrant="p1", value=None)
    lines = ledger_file.parse(file_of(records_of(human, meeting, gone, released, human)))

    assert [line.key for line in lines] == ["meeting/s1", "released/s1/p1", "human/s1/p1"]


def test_each_record_goes_to_its_organisation() -> None:
    """By its meeting; what does not say is a neighbour's, a command everybody's."""
    meetings = [
        Entry(kind="meeting", subject=series, value=KnownMeeting(organization=organization))
        for series, organization in (("s1", "one"), ("s2", "two"))
    ]
    people = [Entry(kind="human", subject=series, registrant="p", value=Fact(at=NOW)) for series in ("s1", "s2")]
    paused = Entry(kind="paused", subject="two", value=Fact(at=NOW))
    command = ENTRIES[9]
    lines = ledger_file.parse(file_of(records_of(*people, *meetings, paused, command)))
    found = [(message.key, message.partition_by) for message in ledger_file.to_messages(lines, otherwise=[])]

    assert found == [
        ("human/s1/p", "one"),
        ("human/s2/p", "two"),
        ("meeting/s1", "one"),
        ("meeting/s2", "two"),
        ("paused/two", "two"),
        (command.key, "one"),
        (command.key, "two"),
    ]


@pytest.mark.parametrize("organizations", [[], ["one", "two"]])
def test_nobody_guesses_whose_a_series_is(organizations: list[str]) -> None:
    """Facts about people in the wrong partition would protect nobody."""
    lines = ledger_file.parse(file_of(records_of(Entry(kind="human", subject="s", registrant="p", value=Fact(at=NOW)))))
    with pytest.raises(LedgerFileError, match="human/s/p"):
        ledger_file.to_messages(lines, otherwise=organizations)

    assert ledger_file.to_messages(lines, otherwise=["only"])[0].partition_by == "only"


def test_a_record_that_is_no_json_is_left_out() -> None:
    """It could not be read by anybody; the file is whole all the same."""
    records = records_of(ENTRIES[0])
    records.add(0, "seen/s1/p9", b"\xff")

    assert len(ledger_file.parse(file_of(records))) == 1


WHOLE = file_of(records_of(*ENTRIES[:3]))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1"),
        ([b"PK\x03\x04"], "line 1"),
        ([b"{}"], "line 1"),
        ([b"[" * 100_000], "line 1"),
        ([WHOLE[0].replace(b'"version":1', b'"version":2'), *WHOLE[1:]], "version 1"),
        (WHOLE[:1], "line 1"),
        (WHOLE[:-1], "line 4"),
        ([*WHOLE[:2], *WHOLE[3:]], "says 3 records and has 2"),
        ([*WHOLE[:-1], WHOLE[-1][:4]], "line 5"),
        ([WHOLE[0], b'{"partition": 0}', *WHOLE[2:]], "line 2"),
    ],
    ids=["empty", "not text", "another object", "nested", "version", "head", "no foot", "hole", "cut", "no record"],
)
def test_what_is_no_whole_export_is_refused(lines: list[bytes], said: str) -> None:
    """With the line."""
    with pytest.raises(LedgerFileError, match=said):
        ledger_file.parse(lines)


def test_the_owner_is_not_exported() -> None:
    """Who acts is no matter of what is remembered."""
    owner = Entry(kind="owner", subject="0", value=Owner(instance="a", at=NOW))
    assert ledger_file.parse(file_of(records_of(owner))) == []
