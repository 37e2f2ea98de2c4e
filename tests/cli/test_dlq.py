"""`dlq list|show|redrive|discard`, on a journal that nobody has and on that of a running process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.bus.topics import TopicPlan
from service.cli.dlq import redriven
from service.core import dead_letters, event
from service.core.dead_letters import LONGEST, LONGEST_KEY, Letters
from service.core.errors import CannotStore
from service.core.event import CloudEvent
from service.core.message import Message, Received
from tests.cli.program import ANY_PORT, invoke, refusal, run, running
from tests.cli.records import on, put
from tests.facts import NOW
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, producing, read_topic, send_all

HINT = b'{"kind": "hint", "organization": "default", "series": "s"}'


def letter(offset: int, *, reason: str = "WebexRejected", value: bytes = HINT, topic: str = "work") -> CloudEvent:
    """About the record at ``offset``."""
    return buried(
        Received(topic=topic, partition=0, offset=offset, key="default", value=value, timestamp=5), reason=reason
    )


def buried(record: Received, *, reason: str = "WebexRejected") -> CloudEvent:
    """About this one."""
    return dead_letters.bury(record, reason=reason, detail="why", attempts=2, now=NOW, receiver="processor-1")


@pytest.fixture
def letters(tmp_path: Path) -> list[str]:
    """Three: 0 and 2 were refused by Webex, 1 is no item. Their ids."""
    written = [letter(0, value=b"zero"), letter(1, reason="notAnItem", value=b"\xff"), letter(2)]
    put(tmp_path / "data", *written)
    return [each.partitionkey for each in written]


def items(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a command printed, which succeeded."""
    done = invoke("dlq", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    return list(json.loads(done.stdout)["items"])


def test_list_says_why_and_nothing_of_the_record(tmp_path: Path, letters: list[str]) -> None:
    """Place, reason, attempts; oldest first."""
    listed = items(tmp_path, "list")

    assert [each["id"] for each in listed] == letters
    assert {name: listed[0][name] for name in ("topic", "offset", "reason", "attempts", "state", "detail")} == {
        "topic": "work",
        "offset": 0,
        "reason": "WebexRejected",
        "attempts": 2,
        "state": "waiting",
        "detail": "why",
    }
    assert "hint" not in json.dumps(listed)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--reason", "notAnItem"], [1]),
        (["--topic", "commands"], []),
        (["--topic", "work"], [0, 1, 2]),
        (["--state", "discarded"], []),
        (["--state", "all"], [0, 1, 2]),
        (["--since", "2026-03-01T12:00:00Z"], [0, 1, 2]),
        (["--since", "2026-03-01T12:00:01Z"], []),
        (["--since", "2h"], []),
    ],
    ids=str,
)
def test_list_can_be_narrowed(tmp_path: Path, letters: list[str], options: list[str], expected: list[int]) -> None:
    """By reason, topic, state and time."""
    assert [each["id"] for each in items(tmp_path, "list", *options)] == [letters[n] for n in expected]


def test_a_table_for_people(tmp_path: Path, letters: list[str]) -> None:
    """One line for each."""
    shown = invoke("dlq", "list", "-o", "table", folder=tmp_path).stdout.decode().splitlines()
    assert shown[0].split()[:4] == ["ID", "STATE", "BURIED", "TOPIC"]
    assert len(shown) == 4
    assert invoke("dlq", "list", "--reason", "x", "-o", "table", folder=tmp_path).stdout == b"(none)\n"


def test_show_has_the_record(tmp_path: Path, letters: list[str]) -> None:
    """As JSON where it is some, else in base64; a few characters of the id do."""
    shown = json.loads(invoke("dlq", "show", letters[2][:6], folder=tmp_path).stdout)
    assert (shown["id"], shown["record"]) == (letters[2], msgspec.json.decode(HINT))
    assert json.loads(invoke("dlq", "show", letters[1], folder=tmp_path).stdout)["recordBase64"] == "/w=="


@pytest.mark.parametrize("id_", ["0123456789", "a", ""], ids=["unknown", "too short", "empty"])
def test_a_name_of_no_letter_is_1(tmp_path: Path, letters: list[str], id_: str) -> None:
    """A sentence."""
    (line,) = refusal(invoke("dlq", "show", id_, folder=tmp_path), 1)
    assert "letters begin with" in line


def test_redrive_puts_records_back_in_their_order(tmp_path: Path, letters: list[str]) -> None:
    """Byte for byte, keyed by organisation; the letters wait no more, and --all finds nothing again."""
    done = items(tmp_path, "redrive", "--all", "--yes")

    assert [each["state"] for each in done] == ["redriven"] * 3
    assert [(each.key, each.value) for each in on(tmp_path / "data", "work")] == [
        ("default", b"zero"),
        ("default", b"\xff"),
        ("default", HINT),
    ]
    assert items(tmp_path, "list") == []
    assert items(tmp_path, "redrive", "--all", "--yes") == []
    assert len(on(tmp_path / "data", "work")) == 3


class Sent:
    """A bus that says what was published, in order, or cannot store."""

    def __init__(self, records: Sequence[Received], *, full: bool = False) -> None:
        self.topics: list[str] = []
        self._records, self._full = records, full

    async def partitions(self, topic: str) -> Sequence[int]:
        return (0,)

    async def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        for record in self._records:
            yield record

    async def follow(self, topics: Sequence[str], *, since: datetime | None) -> AsyncGenerator[Sequence[Received]]:
        yield self._records

    async def publish(self, messages: Sequence[Message]) -> None:
        if self._full:
            raise CannotStore
        self.topics += [message.topic for message in messages]


@pytest.mark.parametrize("full", [False, True])
def test_a_letter_is_marked_only_after_its_record_was_stored(tmp_path: Path, letters: list[str], full: bool) -> None:
    """A crash in between sends it twice, never not at all."""
    records = on(tmp_path / "data", "dead-letters")
    known = Letters()
    for record in records:
        known.add(record.value)
    bus = Sent(records, full=full)
    with pytest.raises(CannotStore) if full else contextlib.nullcontext():
        asyncio.run(redriven(bus, list(known)))

    assert bus.topics == ([] if full else ["work"] * 3 + ["dead-letters"] * 3)


def test_redrive_of_some(tmp_path: Path, letters: list[str]) -> None:
    """Named ones are not asked about; narrowed ones are."""
    assert [each["id"] for each in items(tmp_path, "redrive", letters[1][:8])] == [letters[1]]
    assert "--yes" in "".join(refusal(invoke("dlq", "redrive", "--all", "--reason", "x", folder=tmp_path), 2))
    assert [each["id"] for each in items(tmp_path, "redrive", "--all", "--reason", "WebexRejected", "--yes")] == [
        letters[0],
        letters[2],
    ]


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_a_dry_run_changes_nothing(tmp_path: Path, letters: list[str], verb: str) -> None:
    """It shows which letters would be meant."""
    before = [len(on(tmp_path / "data", topic)) for topic in ("dead-letters", "work")]
    assert [each["id"] for each in items(tmp_path, verb, "--all", "--dry-run")] == letters
    assert [len(on(tmp_path / "data", topic)) for topic in ("dead-letters", "work")] == before


def test_discard_sends_nothing(tmp_path: Path, letters: list[str]) -> None:
    """The letter is not listed any more, and still there."""
    assert "--yes" in "".join(refusal(invoke("dlq", "discard", letters[0], folder=tmp_path), 2))
    (done,) = items(tmp_path, "discard", letters[0], "--yes")

    assert done["state"] == "discarded"
    assert [each["id"] for each in items(tmp_path, "list")] == letters[1:]
    assert [each["id"] for each in items(tmp_path, "list", "--state", "discarded")] == [letters[0]]
    assert on(tmp_path / "data", "work") == []


@pytest.mark.parametrize("verb", ["redrive", "discard"])
@pytest.mark.parametrize("arguments", [[], ["abcdef", "--all"]], ids=["none", "both"])
def test_which_letters_has_to_be_said(tmp_path: Path, letters: list[str], verb: str, arguments: list[str]) -> None:
    """Neither none nor both."""
    refusal(invoke("dlq", verb, *arguments, "--yes", folder=tmp_path), 2)


def test_a_record_that_its_letter_does_not_repeat(tmp_path: Path) -> None:
    """It is taken from its place while retention keeps it there; where it is gone, nothing is sent and exit code 1 says so."""
    large = b"x" * (LONGEST + 1)
    put(tmp_path / "data", Message(topic="commands", key="k", value=large, partition_by="k"))
    (record,) = on(tmp_path / "data", "commands")
    there, gone = buried(record), buried(msgspec.structs.replace(record, offset=9))
    put(tmp_path / "data", there, gone)
    lines = refusal(invoke("dlq", "redrive", "--all", "--yes", folder=tmp_path), 1)

    assert gone.partitionkey in lines[-1]
    assert there.partitionkey not in lines[-1]
    assert [each.value for each in on(tmp_path / "data", "commands")] == [large, large]
    assert [each["id"] for each in items(tmp_path, "list")] == [gone.partitionkey]


def test_what_is_no_letter_is_told_of(tmp_path: Path, letters: list[str]) -> None:
    """Of another version, for example."""
    put(tmp_path / "data", Message(topic="dead-letters", key="k", value=b"{}", partition_by="k"))
    done = invoke("dlq", "list", folder=tmp_path)
    assert len(json.loads(done.stdout)["items"]) == 3
    assert done.stderr.startswith(b"1 records of the topic are no letters")


def test_no_journal_is_2_and_makes_none(tmp_path: Path) -> None:
    """In the wrong folder nothing is left behind."""
    (line,) = refusal(invoke("dlq", "list", folder=tmp_path), 2)
    assert "WEBEX_EVENTS_JOURNAL__PATH" in line
    assert list(tmp_path.iterdir()) == []


def test_the_journal_of_a_running_process(tmp_path: Path) -> None:
    """It is asked over its private listener: listed and redriven while it runs."""
    put(tmp_path / "data", letter(0, topic="commands", value=b"{}"))
    settings = {**ANY_PORT, "WEBHOOK__SECRET": "s3cr3t"}
    with running("serve", "receiver", folder=tmp_path, settings=settings) as process:
        process.until("receiver.started")
        (listed,) = json.loads(run("dlq", "list", folder=tmp_path).stdout)["items"]
        assert run("dlq", "redrive", listed["id"], folder=tmp_path).returncode == 0
        assert json.loads(run("dlq", "list", folder=tmp_path).stdout)["items"] == []
    assert [each.value for each in on(tmp_path / "data", "commands")] == [b"{}"]


@pytest.mark.kafka
def test_on_kafka(tmp_path: Path, kafka: Cluster, topic_prefix: str) -> None:
    """The same with a broker: listed, redriven to its partition, and listed no more."""
    settings = {
        "BUS": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA__TOPIC_PREFIX": topic_prefix,
        "KAFKA__TOPICS__PARTITIONS": "2",
    }

    async def prepare() -> None:
        plans = [TopicPlan(name=name, partitions=2) for name in ("dead-letters", "work")]
        await create_topics(kafka, topic_prefix, plans)
        async with producing(kafka, topic_prefix) as producer:
            await send_all(producer, [event.to_message(letter(0)), event.to_message(letter(1))])

    async def sent() -> list[bytes | None]:
        return [each.value for each in await read_topic(kafka, topic_prefix, "work", partitions=2)]

    asyncio.run(prepare())
    done = invoke("dlq", "redrive", "--all", "--yes", folder=tmp_path, settings=settings)
    left = invoke("dlq", "list", folder=tmp_path, settings=settings)

    assert done.returncode == left.returncode == 0, (done.stderr, left.stderr)
    assert (len(json.loads(done.stdout)["items"]), json.loads(left.stdout)["items"]) == (2, [])
    assert asyncio.run(sent()) == [HINT, HINT]


def test_no_broker_is_4(tmp_path: Path) -> None:
    """A sentence with its address."""
    settings = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    (line,) = refusal(run("dlq", "list", folder=tmp_path, settings=settings), 4)
    assert line.startswith("Kafka at 127.0.0.1:1 cannot do it now: ")


@pytest.mark.parametrize("older", [False, True], ids=["a long key", "a topic made anew"])
def test_a_record_comes_back_with_its_own_key_or_not_at_all(tmp_path: Path, older: bool) -> None:
    """The beginning of a key would lead elsewhere; and what is at the place by now may be another record."""
    key = "k" * (LONGEST_KEY + 1)
    put(tmp_path / "data", Message(topic="commands", key=key, value=b"{}", partition_by=key))
    (record,) = on(tmp_path / "data", "commands")
    written = buried(msgspec.structs.replace(record, timestamp=record.timestamp - older))
    put(tmp_path / "data", written)
    done = invoke("dlq", "redrive", written.partitionkey, folder=tmp_path)

    assert done.returncode == older
    assert json.loads(invoke("dlq", "show", written.partitionkey, folder=tmp_path).stdout)["record"] == {}
    assert [(each.key, each.value) for each in on(tmp_path / "data", "commands")] == [(key, b"{}")] * (2 - older)


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_what_is_done_is_not_done_again(tmp_path: Path, letters: list[str], verb: str) -> None:
    """A second person who saw the same list sends nothing twice, unless that is said. Nothing goes for the others either."""
    items(tmp_path, verb, letters[0], "--yes")
    before = len(on(tmp_path / "data", "work"))
    (line,) = refusal(invoke("dlq", "redrive", letters[1], letters[0], folder=tmp_path), 1)

    assert f"{letters[0]} is {verb.rstrip('e')}" in line
    assert "--again" in line
    assert len(on(tmp_path / "data", "work")) == before
    assert [each["id"] for each in items(tmp_path, "redrive", letters[0], "--again")] == [letters[0]]
    assert len(on(tmp_path / "data", "work")) == before + 1
    assert items(tmp_path, "list", "--state", "redriven")[0]["id"] == letters[0]


def test_what_needs_nothing_is_not_discarded(tmp_path: Path, letters: list[str]) -> None:
    """It stays what it is; that is said, and is no failure."""
    items(tmp_path, "redrive", letters[0])
    done = invoke("dlq", "discard", letters[0], folder=tmp_path)

    assert (done.returncode, done.stderr.decode()) == (0, f"{letters[0]} is redriven already.\n")
    assert [each["id"] for each in items(tmp_path, "list", "--state", "redriven")] == [letters[0]]


def test_a_letter_that_is_written_twice_stays_closed(tmp_path: Path, letters: list[str]) -> None:
    """A processor that was killed buries the same record once more."""
    items(tmp_path, "redrive", letters[0])
    put(tmp_path / "data", letter(0, value=b"zero"))

    assert [each["id"] for each in items(tmp_path, "list")] == letters[1:]


@pytest.mark.parametrize(
    "wrong",
    [
        ["list", "--since", "garbage"],
        ["list", "--since", ""],
        ["list", "--since", "9999-12-31T23:59:59-12:00"],
        ["list", "--state", "open"],
        ["show"],
        ["redrive", "--all", "--yes", "--since", ""],
        ["discard", "--all", "--yes", "--since", ""],
        ["redrive", "abcdef", "--reason", "x"],
        ["discard", "abcdef", "--yes", "--topic", "work"],
        ["redrive", "abcdef", "--since", "2h"],
        ["redrive", "--all", "--again", "--yes"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("some", [False, True], ids=["none", "some"])
def test_wrong_usage_is_2(tmp_path: Path, letters: list[str], wrong: list[str], some: bool) -> None:
    """Whether or not there are letters, and nothing is done: an empty time is a variable that was not set."""
    folder = tmp_path if some else tmp_path / "other"
    if not some:
        folder.mkdir()
        put(folder / "data", Message(topic="work", key="k", value=HINT, partition_by="k"))
    refusal(invoke("dlq", *wrong, folder=folder), 2)
    assert len(on(tmp_path / "data", "dead-letters")) == 3


def test_strange_letters_are_listed_and_lead_nowhere(tmp_path: Path) -> None:
    """Numbers that are none of any topic, a text that could steer a terminal."""
    strange = letter(0)
    for name, value in (
        ("partition", -1),
        ("offset", 2**63),
        ("bytes", -5),
        ("detail", "\x1b[2J"),
        ("valueBase64", None),
    ):
        strange.data[name] = value
    put(tmp_path / "data", strange)

    assert invoke("dlq", "list", "-o", "table", folder=tmp_path).stdout.count(b"\x1b") == 0
    assert json.loads(invoke("dlq", "show", strange.partitionkey, folder=tmp_path).stdout)["record"] is None
    refusal(invoke("dlq", "redrive", strange.partitionkey, folder=tmp_path), 1)


def test_a_record_that_kafka_refused_is_redriven_too(tmp_path: Path, letters: list[str]) -> None:
    """It never had a place: listed without one, shown whole, sent once more in the order of the letters."""
    refused = [
        dead_letters.refused(
            Message(topic="work", key=f"k{n}", value=b"%d" % n, partition_by="default"),
            detail="MessageSizeTooLargeError",
            now=NOW,
            receiver="receiver-1",
        )
        for n in (7, 3)
    ]
    put(tmp_path / "data", *refused)
    ids = [each.partitionkey for each in refused]

    listed = items(tmp_path, "list", "--reason", "refusedByKafka")
    assert [each["id"] for each in listed] == ids
    assert not {"partition", "offset"} & listed[0].keys()
    assert invoke("dlq", "list", "-o", "table", folder=tmp_path).returncode == 0
    assert json.loads(invoke("dlq", "show", ids[0], folder=tmp_path).stdout)["record"] == 7
    items(tmp_path, "redrive", "--all", "--yes")
    assert [(each.key, each.value) for each in on(tmp_path / "data", "work")][:2] == [("k7", b"7"), ("k3", b"3")]
    assert items(tmp_path, "list") == []
