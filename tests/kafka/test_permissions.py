"""The permissions of docs/reference/kafka.md are enough: the whole product runs with these and no others."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path

from service.bus.kafka import KafkaReader
from service.cli.bus_client import opened_bus_client
from service.core import event
from service.core.event import CloudEvent
from service.core.message import Message
from service.settings import PREFIX, load
from tests import line as lines
from tests.cli.program import invoke
from tests.kafka.secured import CANARY, Permission, SecuredKafka, password_of
from tests.line import KafkaLine, Process, ledger, register, schedule, touch, until

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "kafka.md"

#: How a row of the page begins → the user who has what it says.
USERS = {
    "`serve receiver`": "receiver",
    "`serve processor`": "processor",
    "`topics plan`": "clerk",
    "`topics apply`": "topics",
    "`dlq`, `ledger`, `pause`": "operator",
    "the same, where they write": "operator",
    "your systems that listen": "downstream",
    "your systems that command": "downstream",
}


def permissions(prefix: str, group: str) -> dict[str, list[Permission]]:
    """User → what the page gives them."""
    granted: dict[str, list[Permission]] = {user: [] for user in USERS.values()}
    rows = [row.split("|")[1:5] for row in PAGE.read_text("utf-8").splitlines() if row.startswith("| ")]
    for who, on, names, operations in rows[1:]:
        user = next(user for begin, user in USERS.items() if who.strip().startswith(begin))
        resource, named = on.strip().removesuffix("s"), re.findall(r"`([\w-]+)`", names)
        for name in named or ["*"]:
            full = name.replace("GROUP", group) if resource == "group" else prefix + name
            granted[user] += [
                (resource, full, each.strip()[0].lower() + each.strip()[1:]) for each in operations.split(",")
            ]
    return granted


class PermittedLine(KafkaLine):
    """The product, each process as a user of its own."""

    def __init__(self, folder: Path, kafka: SecuredKafka, prefix: str) -> None:
        self._kafka = kafka
        secured = {
            "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA__CA_FILE": str(kafka.ca_file),
            "KAFKA__SASL__MECHANISM": "PLAIN",
            "COMMANDS__ALLOW": "meetings.*",
            "COMMANDS__RESTRICTED": "true",
        }
        super().__init__(folder, kafka.server("SASL_SSL"), prefix, settings=secured)

    def of(self, user: str) -> dict[str, str]:
        """The settings of a user."""
        return {
            "KAFKA__SASL__USERNAME": user,
            "KAFKA__SASL__PASSWORD_FILE": str(self._kafka.password_file(user, password_of(user))),
        }

    def process(self, name: str, *arguments: str, **environ: str) -> Process:
        """As in any line; the sandbox has no Kafka, and may be anybody."""
        return super().process(name, *arguments, **environ, **self.of("clerk" if name == "sandbox" else name))

    async def records_of(self, topic: str) -> list[CloudEvent]:
        """Every event there, as those who listen see them."""
        reader = KafkaReader(connection=self._kafka.connection("SASL_SSL", user="downstream"), topic_prefix=self.prefix)
        found = [record for n in range(self.partitions) async for record in reader.read(topic, n)]
        return [event.decode(record.value or b"") for record in found]

    def command(self, *arguments: str, user: str) -> str:
        """What a command prints, run by a user."""
        done = invoke(*arguments, folder=self.folder, settings=self.environ | self.of(user))
        assert done.returncode == 0, (arguments, done)
        return done.stdout.decode()


async def test_the_permissions_of_the_page_are_enough(
    secured_kafka: SecuredKafka, tmp_path: Path, topic_prefix: str
) -> None:
    """Topics are made, people decided, a command answered, a letter written and put back, all writes paused."""
    line = PermittedLine(tmp_path, secured_kafka, topic_prefix)
    for user, granted in permissions(topic_prefix, line.environ["KAFKA__GROUP"]).items():
        await secured_kafka.allow(user, *granted)
    async with lines.closing(line):
        await line.start()
        await _people_are_decided(line)
        await _a_command_is_answered(line)
        await asyncio.to_thread(_operators_work, line)
        assert await line.stop() == [0, 0, 0]

        printed = line.printed()
        complaints = [
            json.loads(each) for each in printed.splitlines() if re.search('"level": "(warning|error)"', each)
        ]
        events = {each["event"] for each in complaints}
        events.discard("consumer.begins_at_the_earliest")  # the receiver may have been quicker than the new group
        assert events == {"letter.written", "order.obeyed"}  # both were asked for
        assert CANARY not in printed


async def _people_are_decided(line: PermittedLine) -> None:
    meeting = await schedule(line, "Partner day")
    people = [*await register(line, meeting, 2, "partner.example"), *await register(line, meeting, 1, "rival.example")]
    await touch(line, meeting)

    async def decided() -> bool:
        effects = (await ledger(line))["effects"]
        return all(effects[id_]["status"] in ("approved", "rejected") for id_ in people)

    await until(decided)
    told = [each.type for each in await line.records_of("registrants")]
    assert {"webex.registrant.approved.v1", "webex.registrant.rejected.v1"} <= set(told)


async def _a_command_is_answered(line: PermittedLine) -> None:
    """And one that cannot be read goes to the dead letters."""
    said = {"specversion": "1.0", "id": "list", "source": "/crm", "type": "webex.command.meetings.list.v1", "data": {}}
    sent: Sequence[bytes] = (json.dumps(said).encode(), b"{")
    settings = load({PREFIX + name: value for name, value in (line.environ | line.of("downstream")).items()})
    async with opened_bus_client(settings) as bus:
        await bus.publish([Message(topic="commands", key="k", value=each, partition_by="k") for each in sent])

    async def answered() -> bool:
        await asyncio.sleep(0.3)
        return bool(await line.records_of("outcomes")) and bool(await line.records_of("dead-letters"))

    await until(answered)


def _operators_work(line: PermittedLine) -> None:
    assert line.command("topics", "plan", user="clerk").count(" unchanged") == 13
    assert "unreadableCommand" in line.command("dlq", "list", user="operator")
    events = line.command(
        "events", "tail", "--from-beginning", "--type", "*.approved.v1", "--count", "2", user="operator"
    )
    assert events.count("webex.registrant.approved.v1") == 2
    line.command("dlq", "redrive", "--all", "--yes", user="operator")
    line.command("pause", user="operator")
