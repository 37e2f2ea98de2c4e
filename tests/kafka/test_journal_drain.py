"""``webex-events journal drain`` with a real journal and a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.journal_file import FILE_NAME
from service.bus.kafka_partitioner import partition_for
from service.bus.routing import SPOOL, stream_of
from service.bus.spool import REFUSED
from service.bus.topics import TopicPlan
from service.core import event
from service.core.message import Message, Received
from tests.cli.program import invoke, refusal, running
from tests.facts import fact
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics, first_occurrences, limit_batches, numbered, read_topic

# Plain functions with loops of their own: the command wants the main thread for its signals.

PARTITIONS = 3
KEYS = [f"k{n}" for n in range(10)]
TOPICS = (TopicPlan(name="work", partitions=PARTITIONS), TopicPlan(name="dead-letters", partitions=1))

#: Somebody listens there, and never answers.
NOWHERE = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "LOG__LEVEL": "error"}


def fill(folder: Path, rows: Sequence[tuple[str, Message]]) -> Path:
    """A journal with these rows by their streams, whose process is gone."""

    async def append() -> None:
        async with await Journal.open(folder) as journal:
            for begin in range(0, len(rows), 1000):
                await journal.append(rows[begin : begin + 1000])

    asyncio.run(append())
    return folder


def lane_rows(count: int, *, value: int = 0) -> list[tuple[str, Message]]:
    """So many for each key, in the lanes of their partitions, as a receiver left them; ``value`` bytes besides the number."""
    return [
        (stream_of("work", partition_for(key, PARTITIONS)), padded(numbered(key, number), value))
        for number in range(count)
        for key in KEYS
    ]


def padded(message: Message, size: int) -> Message:
    """With so many spaces before its number."""
    return Message(
        topic=message.topic,
        key=message.key,
        value=b" " * size + (message.value or b""),
        partition_by=message.partition_by,
    )


def rows_in(folder: Path) -> dict[str, int]:
    """What is left in the journal, by stream."""

    async def read() -> dict[str, int]:
        async with await Journal.open(folder) as journal:
            return {name: extent.rows for name, extent in (await journal.streams()).items() if extent.rows}

    return asyncio.run(read())


@pytest.fixture
def settings(kafka: Cluster, topic_prefix: str) -> Mapping[str, str]:
    """Of a process that is no receiver, with the topics made."""
    asyncio.run(create_topics(kafka, topic_prefix, TOPICS))
    return {
        "BUS": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA__TOPIC_PREFIX": topic_prefix,
        "LOG__LEVEL": "error",
    }


def sentences(done: subprocess.CompletedProcess[bytes], code: int) -> list[str]:
    """What it said besides the log."""
    return [line for line in refusal(done, code) if not line.startswith("{")]


def on_kafka(kafka: Cluster, prefix: str) -> list[Received]:
    """Everything on ``work``."""
    return asyncio.run(read_topic(kafka, prefix, "work", partitions=PARTITIONS))


def test_everything_is_sent(kafka: Cluster, topic_prefix: str, settings: Mapping[str, str], tmp_path: Path) -> None:
    """Of lanes, of a topic that was not counted yet, and of an earlier version; each key in its order. Then nothing waits."""
    rows = lane_rows(50)
    rows += [(stream_of("work", None), numbered("uncounted", number)) for number in range(5)]
    rows += [(SPOOL, numbered("early", number)) for number in range(5)]
    folder = fill(tmp_path / "orphan", rows)
    done = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)
    again = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)

    said = "records were sent to Kafka; nothing waits in"
    assert (done.returncode, done.stdout.decode()) == (0, f"510 {said} {folder} any more.\n")
    assert (again.returncode, again.stdout.decode()) == (0, f"0 {said} {folder} any more.\n")
    assert first_occurrences(on_kafka(kafka, topic_prefix)) == {
        **{key: list(range(50)) for key in KEYS},
        "uncounted": list(range(5)),
        "early": list(range(5)),
    }
    assert len(on_kafka(kafka, topic_prefix)) == 510
    assert [name for name in rows_in(folder) if name.startswith(SPOOL)] == []


def test_killed_in_the_middle(kafka: Cluster, topic_prefix: str, settings: Mapping[str, str], tmp_path: Path) -> None:
    """``kill -9`` costs nothing: what was not acknowledged stands in the journal, and the next one sends it."""
    folder = fill(tmp_path / "orphan", lane_rows(1000, value=2000))
    sent = 0
    with running("journal", "drain", str(folder), folder=tmp_path, settings=settings) as first:
        while not sent and first.process.poll() is None:
            sent = len(on_kafka(kafka, topic_prefix))
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(10)
    left = rows_in(folder)
    done = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)

    assert 0 < sum(rows for name, rows in left.items() if name.startswith(SPOOL)) <= 10_000
    assert done.returncode == 0
    assert first_occurrences(on_kafka(kafka, topic_prefix)) == {key: list(range(1000)) for key in KEYS}
    assert [name for name in rows_in(folder) if name.startswith(SPOOL)] == []


def test_kafka_that_comes_too_late(
    kafka: Cluster, topic_prefix: str, settings: Mapping[str, str], tmp_path: Path
) -> None:
    """4 after the time that it had, with how many are left; later all of it is still there to be sent."""
    folder = fill(tmp_path / "orphan", lane_rows(2))
    late = invoke("journal", "drain", str(folder), "--timeout", "1", folder=tmp_path, settings=NOWHERE)
    left = rows_in(folder)
    done = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)

    (said,) = sentences(late, 4)
    assert said.startswith(
        f"20 of 20 records are left in {folder}: Kafka at 127.0.0.1:1 had not acknowledged them after 1 s."
    )
    assert said.endswith(" Run it again: it goes on from there.")
    assert sum(left.values()) == 20
    assert done.returncode == 0
    assert first_occurrences(on_kafka(kafka, topic_prefix)) == {key: [0, 1] for key in KEYS}


def test_what_is_too_large_becomes_a_dead_letter(
    kafka: Cluster, topic_prefix: str, settings: Mapping[str, str], tmp_path: Path
) -> None:
    """As in the receiver; the others go on."""
    asyncio.run(limit_batches(kafka, f"{topic_prefix}work", 4096))
    large = fact("registered", "ann", text="x" * 8000)
    rows = [(stream_of("work", 0), numbered("k0", 0)), (stream_of("work", 0), event.to_message(large, topic="work"))]
    folder = fill(tmp_path / "orphan", [*rows, (stream_of("work", 0), numbered("k0", 1))])
    done = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)

    assert done.returncode == 0
    assert [record.value for record in on_kafka(kafka, topic_prefix)] == [b"0", b"1"]
    (letter,) = asyncio.run(read_topic(kafka, topic_prefix, "dead-letters"))
    assert event.decode(letter.value or b"").data["reason"] == "refusedByKafka"


def test_what_is_not_for_kafka_stays(settings: Mapping[str, str], tmp_path: Path) -> None:
    """1, and which streams: nobody may throw this volume away unseen."""
    folder = fill(tmp_path / "orphan", [*lane_rows(1), (REFUSED, numbered("k0", 7)), ("meetings", numbered("k1", 8))])
    done = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)

    said = (
        f"Records stay in {folder} that do not wait for Kafka: 1 of meetings, 1 of refused; docs/reference/journal.md"
    )
    assert sentences(done, 1) == [f"{said} says what they are."]
    left = rows_in(folder)
    assert (left["meetings"], left["refused"]) == (1, 1)


def without_one(data: bytes) -> bytes:
    """A journal in which one record is not what was written."""
    assert data.count(b" " * 60 + b"0") == len(KEYS)
    return data.replace(b" " * 60 + b"0", b" " * 60 + b"7", 1)


def without_any(_: bytes) -> bytes:
    """The file is cut to nothing; the lock still says how many there were."""
    return b""


@pytest.mark.parametrize(
    ("damage", "kept", "lost"),
    [
        (without_one, 19, f"1 records of {stream_of('work', None)}/"),
        (without_any, 0, "20 records that were appended last"),
    ],
)
def test_a_journal_that_was_damaged(
    kafka: Cluster,
    topic_prefix: str,
    settings: Mapping[str, str],
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    kept: int,
    lost: str,
) -> None:
    """1, how many are missing, and the folder that nobody may throw away; every time, until somebody has seen to it."""
    folder = fill(tmp_path / "orphan", lane_rows(2, value=60))
    (folder / FILE_NAME).write_bytes(damage((folder / FILE_NAME).read_bytes()))
    first = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)
    again = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)
    (side,) = folder.glob("damaged-*")
    shutil.rmtree(side)
    seen_to = invoke("journal", "drain", str(folder), folder=tmp_path, settings=settings)

    (said,), (still,) = sentences(first, 1), sentences(again, 1)
    assert said.startswith(f"The journal in {folder} was found damaged: ")
    assert f"missing: {lost}" in said
    assert f"keep the volume, with {side}, until" in said
    assert f"keep the volume, with {side}, until" in still
    assert (first.stdout, again.stdout) == (b"", b"")
    assert len(on_kafka(kafka, topic_prefix)) == kept
    assert seen_to.returncode == 0


def test_a_dry_run_sees_the_damage_too(tmp_path: Path) -> None:
    """Also that of earlier, with what waits; and where a process was killed while it mended, there may be nothing else."""
    folder = fill(tmp_path / "orphan", lane_rows(2))
    (folder / "damaged-20300101T000000Z").mkdir()
    dry = invoke("journal", "drain", str(folder), "--dry-run", "-o", "json", folder=tmp_path, settings=NOWHERE)
    late = invoke("journal", "drain", str(folder), "--timeout", "0.5", folder=tmp_path, settings=NOWHERE)
    (folder / FILE_NAME).rename(folder / "damaged-20300101T000000Z" / "salvaged.db")
    mended = invoke("journal", "drain", str(folder), "--dry-run", "-o", "json", folder=tmp_path, settings=NOWHERE)

    assert f"{folder / 'damaged-20300101T000000Z'}, until" in sentences(dry, 1)[0]
    assert [line.split()[0] for line in sentences(late, 4)] == ["The", "20"]
    assert "was found damaged: the journal was damaged before" in sentences(mended, 1)[0]
    for done in (dry, mended):
        assert sum(each["rows"] for each in json.loads(done.stdout)["items"]) == 20


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    """What waits, for which partition, and since when; Kafka is not asked."""
    folder = fill(tmp_path / "orphan", lane_rows(4))
    done = invoke("journal", "drain", str(folder), "--dry-run", "-o", "json", folder=tmp_path, settings=NOWHERE)

    items = json.loads(done.stdout)["items"]
    assert (done.returncode, sum(each["rows"] for each in items)) == (0, 40)
    assert [(each["topic"], each["partition"]) for each in items] == [("work", 0), ("work", 1), ("work", 2)]
    assert all(each["oldest"].startswith("20") for each in items)
    assert sum(rows_in(folder).values()) == 40


def test_a_journal_that_a_process_has_is_left_alone(tmp_path: Path) -> None:
    """4 and which process: a receiver that came back sends its rows itself."""
    folder = fill(tmp_path / "orphan", lane_rows(1))
    holder = """
import asyncio, sys, time
from pathlib import Path
from service.bus.journal import Journal
journal = asyncio.run(Journal.open(Path(sys.argv[1])))
print("it is mine", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", holder, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"it is mine\n"
        done = invoke("journal", "drain", str(folder), folder=tmp_path, settings=NOWHERE)
        other.kill()

    assert sentences(done, 4)[0].startswith(
        f"the journal in {folder} cannot be opened: it is in use (process {other.pid})"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (NOWHERE, "There is no journal.db in "),
        ({"BUS": "journal"}, "The rows go to Kafka: set WEBEX_EVENTS_BUS=kafka"),
    ],
)
def test_there_is_nothing_to_drain(settings: Mapping[str, str], said: str, tmp_path: Path) -> None:
    """2; and no journal is made where somebody has mistyped its name."""
    done = invoke("journal", "drain", str(tmp_path / "orphna"), folder=tmp_path, settings=settings)

    assert sentences(done, 2)[0].startswith(said)
    assert not (tmp_path / "orphna").exists()


def test_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    """4 within seconds, as a Job's pod is asked to end; nothing is lost."""
    folder = fill(tmp_path / "orphan", lane_rows(1))
    loud = {**NOWHERE, "LOG__LEVEL": "info"}
    with running("journal", "drain", str(folder), folder=tmp_path, settings=loud) as draining:
        draining.until("publisher.spooling")
        began = time.monotonic()
        code = draining.end(signal.SIGTERM)

    assert code == 4
    assert time.monotonic() - began < 5
    assert "10 of 10 records are left" in draining.lines[-1]
    assert draining.lines[-1].endswith(
        "had not acknowledged them when it was to end. Run it again: it goes on from there."
    )
    assert sum(rows_in(folder).values()) == 10
