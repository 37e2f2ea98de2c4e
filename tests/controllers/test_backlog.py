"""What waits: hints and commands of one series in one entry, in order, and nothing forgotten when work fails."""

from __future__ import annotations

from datetime import UTC, datetime

from service.controllers.backlog import Backlog
from service.controllers.ledger import Place
from service.controllers.task import Task
from service.core.message import Received
from service.core.work import Command

SERIES = "5" * 32
PLACE = Place("default", 0, 1)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def record(offset: int) -> Received:
    return Received(topic="work", partition=0, offset=offset, key="default", value=b"", timestamp=0)


def command(id_: str, *, series: str = SERIES) -> Command:
    return Command(
        organization="default", id=id_, digest=id_, operation="registrants.approve", series=series, key="k", at=""
    )


async def test_commands_wait_in_order_before_the_look() -> None:
    """The commands of a series and its look are one entry; the commands keep their order."""
    backlog = Backlog()
    backlog.command(PLACE, record(1), command("first"))
    backlog.mark(Task(place=PLACE, series=SERIES, full=True), first=NOW)
    backlog.command(PLACE, record(2), command("second"))

    waiting = backlog.take((0, SERIES))
    assert waiting is not None
    assert [each.id for _, each in waiting.commands] == ["first", "second"]
    assert (waiting.look, waiting.task.full, waiting.first) == (True, True, NOW)


async def test_a_command_alone_wants_no_look() -> None:
    """Nobody asked for one."""
    backlog = Backlog()
    backlog.command(PLACE, record(1), command("only"))
    waiting = backlog.take((0, SERIES))
    assert waiting is not None
    assert not waiting.look


async def test_commands_about_no_series_do_not_wait_for_each_other() -> None:
    """Each has an entry of its own."""
    backlog = Backlog()
    for number in range(3):
        backlog.command(PLACE, record(number), command(str(number), series=""))
    assert len(backlog.queue) == 3


async def test_what_came_meanwhile_comes_behind_what_failed() -> None:
    """A command that has to be tried again stays before those that came while it was tried."""
    backlog = Backlog()
    backlog.command(PLACE, record(1), command("first"))
    failed = backlog.take((0, SERIES))
    assert failed is not None
    backlog.command(PLACE, record(2), command("second"))
    backlog.mark(Task(place=PLACE, series=SERIES, host_email="host@example.com"))
    failed.attempts = 1
    backlog.put_back(failed, 60)

    assert backlog.take((0, SERIES)) is None  # its time has not come
    assert backlog.parked == 1
    backlog.resume("default")
    again = backlog.take((0, SERIES))
    assert again is not None
    assert [each.id for _, each in again.commands] == ["first", "second"]
    assert (again.look, again.task.host_email) == (True, "host@example.com")


async def test_a_swept_look_and_a_hinted_one_are_one_that_somebody_waits_for() -> None:
    """Joined, it is as full as the fuller and as urgent as the more urgent."""
    backlog = Backlog()
    backlog.mark(Task(place=PLACE, series=SERIES, full=True, swept=True))
    backlog.mark(Task(place=PLACE, series=SERIES, org_id="org"))
    waiting = backlog.take((0, SERIES))
    assert waiting is not None
    assert (waiting.task.full, waiting.task.swept, waiting.task.org_id) == (True, False, "org")
