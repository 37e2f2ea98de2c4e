"""``webex-events ledger``, on a journal that no process has, and on one that a process has."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.bus.kafka_partitioner import partition_for
from service.bus.topics import TopicPlan
from service.cli.bus_client import opened_bus_client
from service.core import ledger
from service.core.ledger import Entry, Fact, KnownMeeting, Owner, PartitionMemory, Seen
from service.core.message import Message, Received
from service.settings import Settings, load
from tests.cli.program import PROGRAM, environment, invoke, refusal
from tests.cli.records import on, put
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, read_topic

NOW = datetime.now(UTC)
ENTRIES = [
    Entry(kind="meeting", subject="s1", value=KnownMeeting(organization="default", host_email="host@example.com")),
    Entry(kind="human", subject="s1", registrant="p1", value=Fact(at=NOW)),
    Entry(kind="seen", subject="s1", registrant="p1", value=Seen(status="pending")),
    Entry(kind="founded", subject="0", value=Fact(at=NOW)),
]
OBSERVING = Entry(kind="observing", subject="0", value=Fact(at=NOW))


def owner(*, age: float, released: bool = False) -> Entry:
    """A lease that was renewed so many seconds ago."""
    at = datetime.now(UTC) - timedelta(seconds=age)
    return Entry(kind="owner", subject="0", value=Owner(instance="a", at=at, released=released))


def journal(folder: Path, *entries: Entry) -> dict[str, str]:
    """The settings of a journal with this ledger."""
    path = folder / "data"
    put(path, *(ledger.to_message(entry, organization="default") for entry in entries))
    return {"JOURNAL__PATH": str(path)}


def keys(records: Sequence[Received]) -> list[str]:
    """Of the records, but for leases."""
    return [record.key for record in records if not record.key.startswith("owner/")]


def exported(folder: Path, *entries: Entry) -> Path:
    """The export of such a ledger."""
    folder.mkdir()
    file = folder / "ledger.jsonl"
    done = invoke("ledger", "export", str(file), folder=folder, settings=journal(folder, *entries))
    assert done.returncode == 0
    return file


def test_what_is_exported_is_imported(tmp_path: Path) -> None:
    """Into an empty ledger, and that is begun then."""
    file = exported(tmp_path / "a", *ENTRIES, owner(age=3))
    settings = {"JOURNAL__PATH": str(tmp_path / "b")}
    done = invoke("ledger", "import", str(file), "--yes", folder=tmp_path, settings=settings)

    assert done.returncode == 0
    assert [(row["kind"], row["records"], row["written"]) for row in json.loads(done.stdout)["items"]] == [
        ("human", 1, 1),
        ("meeting", 1, 1),
        ("seen", 1, 1),
    ]
    records = on(tmp_path / "b", "ledger")
    assert keys(records) == ["meeting/s1", "human/s1/p1", "seen/s1/p1", "founded/0"]


def test_an_export_is_for_its_user_only(tmp_path: Path) -> None:
    """It has people's ids and hosts' addresses; nothing is left beside it."""
    file = exported(tmp_path / "a", *ENTRIES)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in file.parent.iterdir()} == {"ledger.jsonl", "data"}


def test_an_export_to_stdout_is_read_from_stdin(tmp_path: Path) -> None:
    """What is not the file goes to stderr."""
    done = invoke("ledger", "export", "-", folder=tmp_path, settings=journal(tmp_path, *ENTRIES))
    settings = {"JOURNAL__PATH": str(tmp_path / "b")}
    again = invoke("ledger", "import", "-", "--yes", folder=tmp_path, settings=settings, stdin=done.stdout)

    assert (done.returncode, again.returncode) == (0, 0)
    assert "host@example.com" not in done.stderr.decode()
    assert len(keys(on(tmp_path / "b", "ledger"))) == 4


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """And says what would be."""
    file = exported(tmp_path / "a", *ENTRIES)
    settings = {"JOURNAL__PATH": str(tmp_path / "b")}
    done = invoke("ledger", "import", str(file), "--dry-run", folder=tmp_path, settings=settings)

    assert done.returncode == 0
    assert sum(row["written"] for row in json.loads(done.stdout)["items"]) == 3
    assert not (tmp_path / "b").exists()


def test_nothing_is_written_without_a_yes(tmp_path: Path) -> None:
    """Where nobody can be asked."""
    file = exported(tmp_path / "a", *ENTRIES)
    settings = {"JOURNAL__PATH": str(tmp_path / "b")}
    refusal(invoke("ledger", "import", str(file), folder=tmp_path, settings=settings), 2)

    assert not (tmp_path / "b").exists()


def test_a_ledger_that_is_not_empty_is_only_added_to(tmp_path: Path) -> None:
    """With --merge, and what it has itself stays as it is."""
    file = exported(tmp_path / "a", *ENTRIES)
    newer = Entry(kind="seen", subject="s1", registrant="p1", value=Seen(status="approved"))
    settings = journal(tmp_path, newer)
    said = refusal(invoke("ledger", "import", str(file), "--yes", folder=tmp_path, settings=settings), 1)
    assert "--merge" in said[-1]
    done = invoke("ledger", "import", str(file), "--merge", "--yes", folder=tmp_path, settings=settings)

    assert done.returncode == 0
    assert keys(on(tmp_path / "data", "ledger")) == ["seen/s1/p1", "meeting/s1", "human/s1/p1", "founded/0"]


def test_what_a_host_decided_since_is_not_taken_back(tmp_path: Path) -> None:
    """An old release of somebody about whom the ledger says anything by now is left out, and an old intent too."""
    then = [
        *ENTRIES[:2],
        Entry(kind="released", subject="s1", registrant="p1", value=Fact(at=NOW)),
        Entry(kind="released", subject="s1", registrant="p2", value=Fact(at=NOW)),
    ]
    file = exported(tmp_path / "a", *then)
    settings = journal(tmp_path, *ENTRIES[:2], OBSERVING)
    done = invoke("ledger", "import", str(file), "--merge", "--yes", folder=tmp_path, settings=settings)

    memory = PartitionMemory()
    for record in on(tmp_path / "data", "ledger"):
        entry = ledger.from_record(record.key, record.value)
        assert entry is not None
        memory.apply(entry)
    people = memory.series["s1"].registrants
    assert done.returncode == 0
    assert done.stderr.decode().startswith("3 records are left out")
    assert (people["p1"].human, people["p2"].released) == (True, True)


@pytest.mark.parametrize(
    ("age", "released", "more", "code"),
    [
        pytest.param(2, False, [], 4, id="owned"),
        pytest.param(2, False, [OBSERVING], 0, id="observing"),
        pytest.param(2, True, [], 0, id="stopped"),
        pytest.param(60, False, [], 0, id="killed"),
    ],
)
def test_a_running_processor_would_not_see_it(
    tmp_path: Path, age: float, released: bool, more: list[Entry], code: int
) -> None:
    """So nothing is imported beside one, unless that only observes and reads the ledger again when it is adopted."""
    file = exported(tmp_path / "a", *ENTRIES)
    settings = journal(tmp_path, owner(age=age, released=released), *more)
    done = invoke("ledger", "import", str(file), "--yes", folder=tmp_path, settings=settings)

    assert done.returncode == code
    written = keys(on(tmp_path / "data", "ledger"))
    assert ("human/s1/p1" in written) == (code == 0)
    assert ("founded/0" in written) == (code == 0 and OBSERVING not in more)


@pytest.mark.parametrize("merge", [[], ["--merge"]], ids=["implied", "said"])
def test_what_an_observer_wrote_is_in_nobodys_way(tmp_path: Path, merge: list[str]) -> None:
    """It has seen people again before anything was imported: what it says stays, and the rest is added."""
    p2 = Entry(kind="human", subject="s1", registrant="p2", value=Fact(at=NOW))
    file = exported(tmp_path / "a", *ENTRIES, p2)
    newer = Entry(kind="seen", subject="s1", registrant="p1", value=Seen(status="approved"))
    settings = journal(tmp_path, OBSERVING, owner(age=2), ENTRIES[0], newer)
    done = invoke("ledger", "import", str(file), *merge, "--yes", folder=tmp_path, settings=settings)

    assert done.returncode == 0, done.stderr
    written = keys(on(tmp_path / "data", "ledger"))
    assert written == ["observing/0", "meeting/s1", "seen/s1/p1", "human/s1/p1", "human/s1/p2"]


def test_whose_a_series_is_counts_also_where_that_is_known_already(tmp_path: Path) -> None:
    """Of several organisations: the file's record of the meeting says it, although it is not written once more."""
    second = "11111111-2222-4333-8444-555555555555"
    meeting = Entry(kind="meeting", subject="s2", value=KnownMeeting(organization=second))
    human = Entry(kind="human", subject="s2", registrant="p", value=Fact(at=NOW))
    file = exported(tmp_path / "a", *ENTRIES, meeting, human)
    settings = {
        **journal(tmp_path, OBSERVING, ENTRIES[0], meeting),
        "WEBEX__TOKEN": "t",
        "WEBEX__ORGANIZATION_ID": "22222222-2222-4333-8444-555555555555",
        "WEBEX__ORGANIZATIONS__EMEA__ID": second,
        "WEBEX__ORGANIZATIONS__EMEA__TOKEN": "u",
    }
    done = invoke("ledger", "import", str(file), "--yes", folder=tmp_path, settings=settings)

    assert done.returncode == 0, done.stderr
    assert "human/s2/p" in keys(on(tmp_path / "data", "ledger"))


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    """With the file and the line."""
    (tmp_path / "x").write_text("hello\n")
    (said,) = refusal(invoke("ledger", "import", "x", "--yes", folder=tmp_path), 2)
    assert said.startswith("x: line 1: ")
    refusal(invoke("ledger", "import", "missing", "--yes", folder=tmp_path), 2)
    refusal(invoke("ledger", "import", ".", "--yes", folder=tmp_path), 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [("owner/0", '{"instance":"evil","at":"2099-01-01T00:00:00Z"}'), ("seen/s1/p", '{"status":5}'), ("nonsense", "1")],
)
def test_what_no_ledger_says_is_not_imported(tmp_path: Path, key: str, value: str) -> None:
    """With the line, and nothing of the file is."""
    head, *records, _ = exported(tmp_path / "a", *ENTRIES).read_text().splitlines()
    lines = [head, *records, f'{{"partition":0,"key":"{key}","value":{value}}}', f'{{"records":{len(records) + 1}}}']
    (tmp_path / "x").write_text("\n".join(lines))
    (said,) = refusal(invoke("ledger", "import", "x", "--yes", folder=tmp_path), 2)

    assert said.startswith(f"x: line {len(records) + 2}: ")
    assert not (tmp_path / "data").exists()


def test_an_export_says_what_it_leaves_out(tmp_path: Path) -> None:
    """A host's decision is in it whatever its value; what cannot be read is counted and named, and the exit code is 1."""
    settings = journal(tmp_path, *ENTRIES)
    broken = [
        Message(topic="ledger", key=key, value=b"\xff", partition_by="default")
        for key in ("human/s1/p9", "seen/s1/\x1b[2J")
    ]
    put(tmp_path / "data", *broken)
    done = invoke("ledger", "export", "x.jsonl", folder=tmp_path, settings=settings)
    said = refusal(done, 1)

    assert said == [
        "4 records of 1 partitions",
        "1 records cannot be read by this version, and are not in the file:",
        "seen/s1/\\x1b[2J",
    ]
    assert "human/s1/p9" in (tmp_path / "x.jsonl").read_text()
    imported = {"JOURNAL__PATH": str(tmp_path / "b")}
    assert invoke("ledger", "import", "x.jsonl", "--yes", folder=tmp_path, settings=imported).returncode == 0


@pytest.mark.parametrize("target", [".", "..", "", "data", "pipe"])
def test_an_export_replaces_files_only(tmp_path: Path, target: str) -> None:
    """Not a folder, and not what stands for a device: root could replace /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    refusal(invoke("ledger", "export", target, folder=tmp_path, settings=journal(tmp_path, *ENTRIES)), 2)
    assert (tmp_path / "pipe").is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "pipe"}


def test_an_export_that_cannot_be_written_is_1(tmp_path: Path) -> None:
    """A folder that is not there, a name that is too long; nothing is left behind."""
    settings = journal(tmp_path, *ENTRIES)
    for target in ("missing/x", "x" * 250):
        refusal(invoke("ledger", "export", target, folder=tmp_path, settings=settings), 1)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param("ledger import - --yes <&-", 2, id="no stdin"),
        pytest.param("policy check - <&-", 2, id="no stdin for a policy"),
        pytest.param("ledger export - >&-", 1, id="no stdout"),
        pytest.param("ledger export - | true", 1, id="nobody reads"),
    ],
)
def test_a_closed_stream_is_no_traceback(tmp_path: Path, words: str, code: int) -> None:
    """As a shell may start it."""
    many = [Entry(kind="human", subject="s1", registrant=f"p{n}", value=Fact(at=NOW)) for n in range(3000)]
    settings = journal(tmp_path, *ENTRIES, *many)
    done = subprocess.run(
        ("bash", "-o", "pipefail", "-c", f"{' '.join(PROGRAM)} {words}"),
        cwd=tmp_path,
        env=environment(settings),
        capture_output=True,
        timeout=30,
        check=False,
    )
    refusal(done, code)
    assert b"Exception ignored" not in done.stderr


def test_there_is_nothing_to_adopt(tmp_path: Path) -> None:
    """That is no failure."""
    done = invoke("ledger", "adopt", "--yes", folder=tmp_path, settings=journal(tmp_path, *ENTRIES))

    assert (done.returncode, done.stdout) == (0, b"No ledger waits to be adopted.\n")


def test_adopting_asks_first(tmp_path: Path) -> None:
    """With what is known, and what is not."""
    settings = journal(tmp_path, *ENTRIES[:3], OBSERVING)
    said = refusal(invoke("ledger", "adopt", folder=tmp_path, settings=settings), 2)
    assert "(3 records)" in said[0]
    refusal(invoke("ledger", "adopt", "--yes", "--wait", "0.1", folder=tmp_path, settings=settings), 4)

    (order,) = on(tmp_path / "data", "work")
    assert json.loads(order.value or b"")["verb"] == "adopt"


@pytest.mark.kafka
def test_from_the_journal_to_kafka(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """The way of somebody who outgrew one machine: each organisation's records in its partition, all partitions begun."""
    organizations = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(8)]
    entries = []
    for n, organization in enumerate(organizations):
        entries.append(Entry(kind="meeting", subject=f"s{n}", value=KnownMeeting(organization=organization)))
        entries.append(Entry(kind="human", subject=f"s{n}", registrant="p", value=Fact(at=NOW)))
    file = exported(tmp_path / "a", *entries)
    settings = {
        "BUS": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA__TOPIC_PREFIX": topic_prefix,
        "JOURNAL__PATH": str(tmp_path / "unused"),
    }
    asyncio.run(create_topics(kafka, topic_prefix, [TopicPlan(name="ledger", partitions=4, compacted=True)]))
    done = invoke("ledger", "import", str(file), "--yes", folder=tmp_path, settings=settings)
    assert done.returncode == 0, done.stderr

    records = asyncio.run(read_topic(kafka, topic_prefix, "ledger", partitions=4))
    at = {record.key: record.partition for record in records}
    wanted = load({f"WEBEX_EVENTS_{name}": value for name, value in settings.items()})
    assert [at[f"founded/{partition}"] for partition in range(4)] == [0, 1, 2, 3]
    assert all(at[f"meeting/s{n}"] == at[f"human/s{n}/p"] for n in range(8))
    assert [at[f"meeting/s{n}"] for n in range(8)] == asyncio.run(_partitions(wanted, organizations))


@pytest.mark.kafka
@pytest.mark.parametrize(("observing", "code"), [(True, 0), (False, 4)], ids=["observed", "owned"])
def test_only_the_owners_of_what_is_imported_count(
    kafka: Cluster, topic_prefix: str, tmp_path: Path, *, observing: bool, code: int
) -> None:
    """Of four partitions that processors run on, three had no work and were founded: nothing is written there."""
    target = partition_for("default", 4)
    file = exported(tmp_path / "a", *ENTRIES)
    settings = {
        "BUS": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA__TOPIC_PREFIX": topic_prefix,
        "JOURNAL__PATH": str(tmp_path / "unused"),
    }
    asyncio.run(create_topics(kafka, topic_prefix, [TopicPlan(name="ledger", partitions=4, compacted=True)]))
    wanted = load({f"WEBEX_EVENTS_{name}": value for name, value in settings.items()})
    asyncio.run(_running_on(wanted, {target} if observing else set()))
    done = invoke("ledger", "import", str(file), "--yes", folder=tmp_path, settings=settings)

    refusal(done, code)
    records = asyncio.run(read_topic(kafka, topic_prefix, "ledger", partitions=4))
    written = {record.key: record.partition for record in records if record.key.startswith(("human/", "seen/"))}
    assert written == ({"human/s1/p1": target, "seen/s1/p1": target} if code == 0 else {})
    assert (f"founded/{target}" in {record.key for record in records}) == (not observing)


async def _running_on(settings: Settings, observing: Collection[int]) -> None:
    """Owners of four partitions; of ``observing`` the ledger was lost."""
    entries = []
    for partition in range(4):
        lease = Owner(instance="a", at=datetime.now(UTC))
        entries.append((partition, Entry(kind="owner", subject=str(partition), value=lease)))
        begun = "observing" if partition in observing else "founded"
        entries.append((partition, Entry(kind=begun, subject=str(partition), value=Fact(at=NOW))))
    async with opened_bus_client(settings) as bus:
        await bus.publish([ledger.to_message(entry, organization="", partition=p) for p, entry in entries])


async def _partitions(settings: Settings, organizations: list[str]) -> list[int]:
    """Where a producer puts what is partitioned by these."""
    async with opened_bus_client(settings) as bus:
        probes = [Message(topic="ledger", key=f"probe/{o}", value=b"{}", partition_by=o) for o in organizations]
        await bus.publish(probes)
        found = {r.key: p for p in await bus.partitions("ledger") async for r in bus.read("ledger", p)}
    return [found[f"probe/{organization}"] for organization in organizations]
