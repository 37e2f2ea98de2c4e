"""``webex-events journal``: groups of the embedded bus."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from service.bus.journal import Journal
from service.cli.buses import open_journal
from service.core.message import Message
from service.settings import load
from tests.cli.program import invoke


def journal_with_groups(folder: Path) -> dict[str, str]:
    """Two groups on ``work``, one of them also elsewhere; the settings."""

    async def fill() -> None:
        async with await Journal.open(folder / "data") as journal:
            for topic in ("work", "commands"):
                message = Message(topic=topic, key="k", value=b"v", partition_by="o")
                await journal.append([(topic, message) for _ in range(10)])
            for group, topic, position in (("old", "work", 3), ("old", "commands", 10), ("new", "work", 10)):
                await journal.commit(group, topic, position)

    asyncio.run(fill())
    return {"BUS": "journal", "JOURNAL__PATH": str(folder / "data")}


def positions(folder: Path) -> dict[str, int]:
    """Of the groups that are left on ``work``."""

    async def read() -> dict[str, int]:
        async with await Journal.open(folder / "data") as journal:
            return await journal.positions("work")

    return asyncio.run(read())


def test_groups_are_listed_with_what_waits(tmp_path: Path) -> None:
    """By topic and group."""
    done = invoke("journal", "groups", "-o", "json", folder=tmp_path, settings=journal_with_groups(tmp_path))
    assert done.returncode == 0
    assert json.loads(done.stdout)["items"] == [
        {"group": "old", "topic": "commands", "position": 10, "waiting": 0},
        {"group": "new", "topic": "work", "position": 10, "waiting": 0},
        {"group": "old", "topic": "work", "position": 3, "waiting": 7},
    ]


def test_a_group_that_is_no_more_is_forgotten(tmp_path: Path) -> None:
    """It and no other; without --yes it is only said what would be lost."""
    settings = journal_with_groups(tmp_path)
    asked = invoke("journal", "forget", "old", folder=tmp_path, settings=settings)
    assert asked.returncode == 2
    assert b"has not finished 7 records" in asked.stderr
    assert positions(tmp_path) == {"old": 3, "new": 10}
    done = invoke("journal", "forget", "old", "--yes", folder=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (0, b"old is forgotten.\n")
    assert positions(tmp_path) == {"new": 10}


def test_a_group_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With the names of those that are."""
    done = invoke("journal", "forget", "odl", "--yes", folder=tmp_path, settings=journal_with_groups(tmp_path))
    assert done.returncode == 1
    assert b"its groups: new, old" in done.stderr


def test_only_the_embedded_bus_has_groups_of_its_own(tmp_path: Path) -> None:
    """Kafka's are Kafka's; and a journal is not made in order to look at it."""
    kafka = {"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    assert invoke("journal", "groups", folder=tmp_path, settings=kafka).returncode == 2
    nothing = invoke("journal", "groups", folder=tmp_path, settings={"JOURNAL__PATH": str(tmp_path / "none")})
    assert nothing.returncode == 2
    assert not (tmp_path / "none").exists()


def test_a_journal_that_a_process_has_is_left_alone(tmp_path: Path) -> None:
    """Exit code 4: later, once that process has ended."""
    settings = journal_with_groups(tmp_path)

    async def meanwhile() -> int:
        async with await Journal.open(tmp_path / "data"):
            done = await asyncio.to_thread(
                invoke, "journal", "forget", "old", "--yes", folder=tmp_path, settings=settings
            )
            assert b"in use" in done.stderr
            return done.returncode

    assert asyncio.run(meanwhile()) == 4


def test_the_operators_limit_is_passed_on(tmp_path: Path) -> None:
    """JOURNAL__MAX_MIB bounds what the journal could have, whatever the volume gives."""
    settings = load({"WEBEX_EVENTS_JOURNAL__PATH": str(tmp_path / "data"), "WEBEX_EVENTS_JOURNAL__MAX_MIB": "16"})

    async def capacity() -> int:
        async with await open_journal(settings) as journal:
            return journal.capacity

    assert asyncio.run(capacity()) == 16 * 1024 * 1024
