"""``webex-events journal``: the journal as the bus, where a consumer group that is no more would keep it from being emptied."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from service.bus.journal import Journal
from service.cli.api import options
from service.cli.api.calls import confirm
from service.cli.api.connection import api_settings
from service.cli.bus_client import has_bus
from service.cli.buses import open_journal
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.examples import Command, Group
from service.cli.printing import print_rows
from service.core.errors import JournalError, JournalInUse
from service.settings import Settings
from service.telemetry import logging

_COLUMNS = ("group", "topic", "position", "waiting")

journal_app = typer.Typer(
    cls=Group,
    help="The journal: as the bus, who reads it and who does not any more; behind Kafka, one whose receiver is no more.",
    epilog=(
        "webex-events journal groups\n"
        "webex-events journal forget OLD_GROUP\n"
        "webex-events journal drain /mnt/orphaned-journal"
    ),
    no_args_is_help=True,
)


@dataclass(frozen=True)
class Position:
    """Where a group is on a topic, and how many records it has not finished there."""

    group: str
    topic: str
    position: int
    waiting: int


@journal_app.command("groups", cls=Command, epilog="webex-events journal groups")
def groups(form: options.Output = None) -> None:
    """List the consumer groups of the journal with what they have not finished. The process that has it must be stopped."""
    found = asyncio.run(_groups(_settings()))
    print_rows([asdict(each) for each in found], form, columns=_COLUMNS)


@journal_app.command(
    "forget", cls=Command, epilog="webex-events journal forget old-group\nwebex-events journal forget old-group --yes"
)
def forget(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Its name, as `journal groups` shows it.")],
    yes: options.Yes = False,
) -> None:
    """Forget a consumer group that is no more: retention waits for it no longer."""
    settings = _settings()
    found = asyncio.run(_groups(settings))
    own = [each for each in found if each.group == group]
    if not own:
        end(
            f"The journal knows no group {group}; its groups: {', '.join(sorted({each.group for each in found}))}.",
            FAILED,
        )
    waiting = sum(each.waiting for each in own)
    confirm(f"{group} has not finished {waiting} records; they are removed as soon as they are old enough.", yes=yes)
    asyncio.run(_forget(settings, group))
    typer.echo(f"{group} is forgotten.")


def _settings() -> Settings:
    """Ends with exit code 2 where there is no journal that is a bus."""
    settings = api_settings()
    if settings.bus != "journal":
        end("With BUS=kafka the groups are Kafka's: kafka-consumer-groups.sh lists and deletes them.", WRONG)
    if not has_bus(settings):
        end(f"There is no journal in {settings.journal.path}; WEBEX_EVENTS_JOURNAL__PATH names its folder.", WRONG)
    level = "debug" if settings.log.level == "debug" else "error"
    logging.configure(stream=sys.stderr, colours=sys.stderr.isatty(), level=level)
    return settings


async def _groups(settings: Settings) -> list[Position]:
    async with await _opened(settings) as journal:
        found: list[Position] = []
        for topic, extent in sorted((await journal.streams()).items()):
            for group, position in sorted((await journal.positions(topic)).items()):
                found.append(Position(group, topic, position, extent.next - max(position, extent.first)))
        return found


async def _forget(settings: Settings, group: str) -> None:
    async with await _opened(settings) as journal:
        await journal.forget(group)


async def _opened(settings: Settings) -> Journal:
    """Ends with exit code 4 where another process has it, and with 1 where it cannot be opened."""
    try:
        return await open_journal(settings)
    except JournalInUse as error:
        end(f"{error}.", NOT_NOW)
    except JournalError as error:
        end(f"{error}.", FAILED)
