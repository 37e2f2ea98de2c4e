"""Commands through the running product, on either bus: taken in, carried out, answered, whatever dies meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from service import settings
from service.cli.bus_client import opened_bus_client
from service.core import event
from service.core.commands import mark_of
from service.core.message import Message
from tests import line as lines
from tests.line import JournalLine, KafkaLine, call, facts, register, schedule, until
from tests.webex.test_commanding import example

WORKERS = 4
ALLOWED = {"COMMANDS__ALLOW": "meetings.create,registrants.*"}


@pytest.fixture(params=["journal", pytest.param("kafka", marks=pytest.mark.kafka)])
async def line(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JournalLine | KafkaLine]:
    """The product, started, on each bus."""
    made: JournalLine | KafkaLine
    if request.param == "kafka":
        cluster = request.getfixturevalue("kafka")
        prefix = request.getfixturevalue("topic_prefix")
        made = KafkaLine(tmp_path, cluster.bootstrap, prefix, settings=ALLOWED)
    else:
        made = JournalLine(tmp_path, settings=ALLOWED)
    async with lines.closing(made):
        await made.start()
        yield made


def _command(operation: str, id_: str, data: Mapping[str, Any]) -> Message:
    said = {"specversion": "1.0", "id": id_, "source": "/crm", "type": f"webex.command.{operation}.v1", "data": data}
    return Message(topic="commands", key="order-7", value=json.dumps(said).encode(), partition_by="order-7")


def _settings(line: JournalLine | KafkaLine) -> settings.Settings:
    environ = {"JOURNAL__PATH": str(line.folder / "data"), **line.environ}
    return settings.load({settings.PREFIX + name: value for name, value in environ.items()})


async def _send(line: JournalLine | KafkaLine, *sent: Message) -> None:
    async with opened_bus_client(_settings(line)) as bus:
        await bus.publish(sent)


async def _answered(line: JournalLine | KafkaLine) -> set[str]:
    """The ids of the commands that have an outcome."""
    async with opened_bus_client(_settings(line)) as bus:
        found = [
            event.decode(record.value or b"")
            for partition in await bus.partitions("outcomes")
            async for record in bus.read("outcomes", partition)
        ]
    return {each.data["commandId"] for each in found}


async def _raw_outcomes(line: JournalLine | KafkaLine) -> list[str]:
    """The command of every record on ``outcomes``, the same event counted as often as it stands there."""
    return [event.decode(record.value or b"").data["commandId"] for record in await line.records("outcomes")]


async def _begun(line: JournalLine | KafkaLine, commands: int) -> bool:
    """Whether so many commands were begun: by then calls are under way."""
    async with opened_bus_client(_settings(line)) as bus:
        found = {
            record.key
            for partition in await bus.partitions("ledger")
            async for record in bus.read("ledger", partition)
            if record.key.startswith("command/")
        }
    return len(found) >= commands


async def _told(line: JournalLine | KafkaLine, decided: int) -> bool:
    """Whether so many facts about decisions were published."""
    async with opened_bus_client(_settings(line)) as bus:
        found = [
            event.decode(record.value or b"").type
            for partition in await bus.partitions("registrants")
            async for record in bus.read("registrants", partition)
        ]
    return sum(map(_is_decision, found)) >= decided


async def test_each_command_has_one_record(line: JournalLine | KafkaLine) -> None:
    """Where nothing dies, a command that came twice has one record on ``outcomes``, not two of the same event."""
    ids = [f"make-{n}" for n in range(5)]
    creates = [_command("meetings.create", id_, example("meetings.create")["data"]) for id_ in ids]
    await _send(line, *creates, *creates)

    async def all_answered() -> bool:
        return await _answered(line) >= set(ids)

    await until(all_answered, within=60)
    await line.stop()

    assert Counter(await _raw_outcomes(line)) == dict.fromkeys(ids, 1)


async def test_commands_are_carried_out_once_through_a_kill(line: JournalLine | KafkaLine) -> None:
    """Killed while meetings are made and people approved: nothing is done twice, each command has one outcome, and what became
    of people is put down to the command.

    Each worker may have been killed between the outcome's record and the commit of its command: that outcome may stand there
    twice, as the same event.

    A creation that was begun and whose call died with the process is looked for for fifteen minutes, longer than this waits:
    at most one for each worker.
    """
    meeting = await schedule(line, "Partner day")
    first, second = await register(line, meeting, 2, "nobody.example")
    create, about = example("meetings.create")["data"], {"meetingId": meeting}
    made = [f"make-{n}" for n in range(10)]
    creates = [_command("meetings.create", id_, create) for id_ in made]
    people = [
        _command("registrants.approve", "approve", {"parameters": about, "body": {"registrants": [{"id": first}]}}),
        _command("registrants.reject", "reject", {"parameters": about, "body": {"registrants": [{"id": second}]}}),
        _command("meetings.get", "not allowed", {"parameters": about}),
    ]
    await _send(line, *creates, *creates, *people, Message(topic="commands", key="k", value=b"{", partition_by="k"))
    await until(lambda: _begun(line, 3), within=60)
    line.crash()
    await line.start()
    wanted = {*made, "approve", "reject", "not allowed"}

    async def all_answered() -> bool:
        answered = await _answered(line)
        return answered >= wanted - set(made) and len(wanted - answered) <= WORKERS

    await until(all_answered, within=90)
    await until(lambda: _told(line, 2), within=30)
    shown = (await call(line, "GET", "/v1/meetings?from=2030-01-01&to=2030-02-01&max=100"))["items"]
    await line.stop()
    outcomes = [event.decode(record.value or b"") for record in await line.records("outcomes")]
    letters = [event.decode(record.value or b"") for record in await line.records("dead-letters")]

    raw = Counter(await _raw_outcomes(line))
    answered = Counter(data["commandId"] for data in {each.id: each.data for each in outcomes}.values())
    tags = Counter(tag for each in shown for tag in each["integrationTags"])

    assert set(answered.values()) == set(tags.values()) == {1}
    assert sum(count - 1 for count in raw.values()) <= WORKERS
    assert max(raw.values()) <= 2
    assert {mark_of(id_) for id_ in answered.keys() & set(made)} <= tags.keys() <= set(map(mark_of, made))
    assert {each.type for each in outcomes if each.data["commandId"] != "not allowed"} == {"webex.command.succeeded.v1"}
    assert {each.data["reason"] for each in letters} == {"unreadableCommand"}
    said = {
        fact.data["id"]: fact.data.get("decision") or {} for _, fact in await facts(line) if _is_decision(fact.type)
    }
    assert {id_: (each["by"], each["rule"]) for id_, each in said.items()} == {
        first: ("command", "approve"),
        second: ("command", "reject"),
    }


def _is_decision(type_: str) -> bool:
    return type_ in ("webex.registrant.approved.v1", "webex.registrant.rejected.v1")
