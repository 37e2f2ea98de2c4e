"""Poison among work: nobody waits for it, nothing of it is lost, also where its letters cannot be written."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from service.bus.kafka_partitioner import partition_for
from service.bus.topics import TopicPlan
from service.cli.clock import utc_now
from service.core import event, work
from service.core.organizations import ONLY_ORGANIZATION
from tests import line as lines
from tests.faults.stage import eventually, logged
from tests.faults.topics import lag
from tests.kafka.foreign import ODD, Foreign, committed, delete_topic, foreign, write_batch
from tests.kafka.harness import Cluster
from tests.kafka.records import create_topics
from tests.line import PARTITIONS, KafkaLine

pytestmark = [pytest.mark.timeout(600), pytest.mark.kafka]

#: Nothing stands still for longer (s), except where the test says so.
HELD_UP = 5.0


def _poison(number: int) -> Foreign:
    """One of five kinds."""
    garbage = b"\xff\xfe not JSON %d" % number
    kinds: list[Foreign] = [
        (b"k", garbage, []),
        (b"k", b'{"kind":"hint","organization":7,"number":%d}' % number, []),  # wrong schema, and no event either
        (b"k", b"{" + b"x" * 900_000, []),  # huge
        (None, None, []),
        (b"\xff\xfe", garbage, [(ODD, b"\xff"), ("other", None)]),  # aiokafka cannot even decode its batch
    ]
    return kinds[number % len(kinds)]


def _item(id_: str) -> bytes:
    """A command that was refused when it was taken in: its owner has only to say so."""
    return msgspec.json.encode(
        work.Command(
            organization=ONLY_ORGANIZATION,
            id=id_,
            digest=id_,
            operation="meetings.get",
            key="theirs",
            at=event.rfc3339(utc_now()),
            refusal="notAllowed",
            message="no",
        )
    )


def _command(id_: str) -> bytes:
    """As a downstream system writes it; no operation is allowed here."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": id_,
            "type": "webex.command.meetings.get.v1",
            "source": "/test",
            "data": {"parameters": {"meetingId": "5" * 32}},
        }
    ).encode()


@pytest.fixture
async def line(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> AsyncIterator[KafkaLine]:
    """The product on Kafka, started."""
    made = KafkaLine(tmp_path, kafka.bootstrap, topic_prefix)
    async with lines.closing(made):
        await made.start()
        yield made


async def _write(line: KafkaLine, topic: str, records: Sequence[Foreign], *, partition: int | None = None) -> None:
    """In batches of some hundred, and few of those that are large, one partition after another."""
    async with foreign(Cluster(line.bootstrap)) as client:
        batch, size, number = list[Foreign](), 0, 0
        for record in [*records, None]:
            if batch and (record is None or size + len(record[1] or b"") > 950_000 or len(batch) >= 250):
                place = number % PARTITIONS if partition is None else partition
                await write_batch(client, f"{line.prefix}{topic}", batch, partition=place)
                batch, size, number = [], 0, number + 1
            if record is not None:
                batch.append(record)
                size += len(record[1] or b"")


async def _outcomes(line: KafkaLine) -> Counter[str]:
    """How often each command has been answered."""
    return Counter(event.decode(record.value or b"").data["commandId"] for record in await line.records("outcomes"))


async def _letters(line: KafkaLine, topic: str) -> Counter[tuple[int, int, str]]:
    """Partition, offset and reason of each letter about ``topic``."""
    found = [event.decode(record.value or b"").data for record in await line.records("dead-letters")]
    return Counter((each["partition"], each["offset"], each["reason"]) for each in found if each["topic"] == topic)


def _mixed(good: Sequence[Foreign], poison: int) -> list[Foreign]:
    """So much poison among them, anywhere."""
    mixed = [*good, *map(_poison, range(poison))]
    random.Random(poison).shuffle(mixed)  # noqa: S311 - not a secret
    return mixed


def _groups(line: KafkaLine) -> dict[str, str]:
    return {"work": f"{line.prefix}processors", "commands": f"{line.prefix}processors-commands"}


async def _done(line: KafkaLine) -> bool:
    return [await lag(line.bootstrap, group, f"{line.prefix}{topic}") for topic, group in _groups(line).items()] == [
        0,
        0,
    ]


@pytest.mark.parametrize(("records", "poison"), [pytest.param(1000, 20, marks=pytest.mark.quick), (10_000, 100)])
async def test_c5_poison_stops_nobody(line: KafkaLine, records: int, poison: int) -> None:
    """So much poison of five kinds among so many records, on both topics: each has its letter with place and reason, all
    others have their outcomes, nothing lags.
    """
    good = records - poison
    home: list[Foreign] = [(ONLY_ORGANIZATION.encode(), _item(f"work-{n}"), []) for n in range(good)]
    partition = partition_for(ONLY_ORGANIZATION, PARTITIONS)
    begun = time.monotonic()
    await _write(line, "work", _mixed(home, poison), partition=partition)
    await _write(line, "commands", _mixed([(b"k", _command(f"command-{n}"), []) for n in range(good)], poison))
    await eventually(lambda: _done(line), within=300, every=1)
    took = time.monotonic() - begun

    outcomes, buried = await _outcomes(line), {topic: await _letters(line, topic) for topic in ("work", "commands")}
    gap = await _longest_gap(line)
    print(  # noqa: T201
        f"\nC5: {poison} of {records} on work and on commands: {[len(each) for each in buried.values()]} letters,"
        f" {len(outcomes)} outcomes, all in {took:.0f} s; longest time without an outcome {gap:.1f} s"
    )
    assert outcomes == Counter(f"{topic}-{n}" for topic in ("work", "command") for n in range(good))
    assert {topic: len(each) for topic, each in buried.items()} == {"work": poison, "commands": poison}
    assert set(buried["work"].values()) | set(buried["commands"].values()) == {1}
    assert {reason for _, _, reason in buried["work"]} == {"unreadable"}
    assert {reason for _, _, reason in buried["commands"]} == {"unreadableCommand"}
    assert {place for place, *_ in buried["work"]} == {partition}
    assert gap <= HELD_UP


async def _longest_gap(line: KafkaLine) -> float:
    """Seconds without an outcome, between the first and the last."""
    times = sorted(record.timestamp for record in await line.records("outcomes"))
    return max(later - earlier for earlier, later in itertools.pairwise(times)) / 1000


@pytest.mark.quick
async def test_c6_letters_that_cannot_be_written(line: KafkaLine) -> None:
    """The topic of the letters is gone: no offset moves past poison, everybody else goes on, one alert; and when the topic
    is there again every letter is written.
    """
    home, partition = ONLY_ORGANIZATION.encode(), partition_for(ONLY_ORGANIZATION, PARTITIONS)
    await delete_topic(Cluster(line.bootstrap), f"{line.prefix}dead-letters")
    work_ = [_poison(0), *((home, _item(f"work-{n}"), []) for n in range(50)), _poison(1)]
    await _write(line, "work", work_, partition=partition)
    commands = [_poison(3), *((b"k", _command(f"command-{n}"), []) for n in range(50))]
    await _write(line, "commands", commands, partition=0)
    wanted = Counter(f"{topic}-{n}" for topic in ("work", "command") for n in range(50))

    async def answered() -> bool:
        return await _outcomes(line) == wanted

    took = await eventually(answered, within=60)
    await eventually(lambda: _alerted(line), within=40)
    behind = {topic: await committed(Cluster(line.bootstrap), group) for topic, group in _groups(line).items()}
    assert behind["work"].get(partition, 0) == 0
    assert behind["commands"].get(0, 0) == 0

    await create_topics(
        Cluster(line.bootstrap), line.prefix, [TopicPlan(name="dead-letters", partitions=PARTITIONS, replication=1)]
    )
    healed = await eventually(lambda: _done(line), within=90, every=1)
    buried = {topic: sorted(await _letters(line, topic)) for topic in ("work", "commands")}
    alerts = len(logged(line, "letters.cannot_be_written"))
    print(  # noqa: T201
        f"\nC6: without dead-letters the other 100 were done in {took:.1f} s, {alerts} alerts;"
        f" {sum(map(len, buried.values()))} letters {healed:.0f} s after the topic was back"
    )
    assert await _outcomes(line) == wanted
    assert [(place, offset) for place, offset, _ in buried["work"]] == [(partition, 0), (partition, 51)]
    assert [(place, offset) for place, offset, _ in buried["commands"]] == [(0, 0)]


async def _alerted(line: KafkaLine) -> bool:
    alerts = logged(line, "letters.cannot_be_written")
    return len(alerts) >= 2 and all(
        alert["level"] == "error" and alert["to_do"] for alert in alerts
    )  # one for each topic
