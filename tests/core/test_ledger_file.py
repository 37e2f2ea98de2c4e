"""The ledger as a file: what goes in comes out, and what is no export is said so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.core import ledger, ledger_file
from service.core.ledger import Entry, Fact, KnownMeeting, Owner, PartitionMemory, Seen
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


FACTS = ("approved/s/p", "rejected/s/p", "human/s/p", "released/s/p", "paused/default")


@pytest.mark.parametrize(
    "value", [b"\xff", b"", b"{", b"5", b'{"at": "soon"}', b"[" * 100_000], ids=lambda v: str(v[:9])
)
def test_a_fact_is_exported_by_its_key(value: bytes) -> None:
    """Whatever its value is: that it is there is what a host decided."""
    records = Records()
    for key in FACTS:
        records.add(0, key, value)
    lines = ledger_file.parse(file_of(records))

    assert tuple(line.key for line in lines) == FACTS
    for line in lines:
        entry = ledger.from_record(line.key, bytes(line.value))
        assert entry is not None
        assert isinstance(entry.value, Fact)
    assert records.left_out == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seen/s1/p9", b"\xff"),
        ("seen/s1/p9", b'{"status": 5}'),
        ("seen/s1/p9", b"[" * 100_000),
        ("seen/s1/p9", b'{"status": "pending", "new": "\xff"}'),
        ("meeting/s1", b"null"),
        ("meeting/s1/p", b'{"organization": "default"}'),
        ("human/s1", b'{"at": "2026-03-01T12:00:00Z"}'),
        ("hat/s1", b"{}"),
        ("", b"{}"),
    ],
)
def test_what_nobody_can_read_is_left_out_and_named(key: str, value: bytes) -> None:
    """The file is whole all the same, and could be imported."""
    records = records_of(ENTRIES[0])
    records.add(0, key, value)

    assert [line.key for line in ledger_file.parse(file_of(records))] == [ENTRIES[0].key]
    assert records.left_out == [key]


def test_a_record_is_one_line() -> None:
    """However its JSON is laid out; what a newer version says beside it stays."""
    records = Records()
    records.add(0, "seen/s/p", b'{\n "status":\t"pending",\n "new": 1.50\n}')
    (line,) = ledger_file.parse(file_of(records))
    assert bytes(line.value) == b'{"status":"pending","new":1.50}'


PERSON = [
    Entry(kind="intent", subject="s", registrant="p", value=ENTRIES[0].value),
    *(Entry(kind=kind, subject="s", registrant="p", value=Fact(at=NOW)) for kind in ("approved", "human", "released")),
]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], ["intent", "approved", "human", "released"]),
        (["seen"], ["approved", "human"]),
        (["human"], ["approved"]),
        (["approved", "human"], []),
        (["released"], ["approved", "human"]),
        (["of another"], ["intent", "approved", "human", "released"]),
    ],
    ids=str,
)
def test_what_takes_back_is_not_put_behind_what_the_ledger_says(there: list[str], expected: list[str]) -> None:
    """A release, or an intent, of somebody about whom it has any record by now: a host may have decided since."""
    values = {"seen": Seen(status="pending")}
    entries = [Entry(kind=kind, subject="s", registrant="p", value=values.get(kind, Fact(at=NOW))) for kind in there]
    if there == ["of another"]:
        entries = [Entry(kind="human", subject="s", registrant="q", value=Fact(at=NOW)), ENTRIES[6]]
    lines = ledger_file.parse(file_of(records_of(*PERSON)))

    assert [line.kind for line in ledger_file.missing(lines, records_of(*entries, partition=1))] == expected


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
        ([WHOLE[0], b"\n", WHOLE[1], b'{"partition": 0}', WHOLE[3], WHOLE[4]], "line 4"),
    ],
    ids=[
        *("empty", "not text", "another object", "nested", "version", "head", "no foot", "hole", "cut", "no record"),
        "a line of white space",
    ],
)
def test_what_is_no_whole_export_is_refused(lines: list[bytes], said: str) -> None:
    """With the line."""
    with pytest.raises(LedgerFileError, match=said):
        ledger_file.parse(lines)


def test_the_owner_is_not_exported() -> None:
    """Who acts is no matter of what is remembered."""
    owner = Entry(kind="owner", subject="0", value=Owner(instance="a", at=NOW))
    assert ledger_file.parse(file_of(records_of(owner))) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("owner/0", b'{"instance":"evil","at":"2099-01-01T00:00:00Z"}'),
        ("founded/0", b'{"at":"2026-03-01T12:00:00Z"}'),
        ("observing/0", b'{"at":"2026-03-01T12:00:00Z"}'),
        ("seen/s/p", b'{"status":5}'),
        ("seen/s/p", b"null"),
        ("seen/s/p", b"[" * 100_000 + b"]" * 100_000),
        ("seen/s", b'{"status":"pending"}'),
        ("meeting/s", b"{}"),
        ("policy/default", b"{}"),
        ("nonsense", b"1"),
        ("hat/s", b"{}"),
        ("", b"{}"),
    ],
    ids=lambda each: str(each[:20]),
)
def test_what_no_export_writes_is_no_record(key: str, value: bytes) -> None:
    """With the line: a lease of nobody, a value that no processor could read, a kind that there is not."""
    line = b'{"partition":0,"key":"%s","value":%s}' % (key.encode(), value)
    with pytest.raises(LedgerFileError, match=r"^line 3: "):
        ledger_file.parse([WHOLE[0], WHOLE[1], line, WHOLE[3], WHOLE[4]])
