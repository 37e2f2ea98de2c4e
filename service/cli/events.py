"""``webex-events events``: the events that left this program, as they stand on the bus. Nothing is committed or changed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec
import typer

from service.cli.api.connection import api_settings
from service.cli.bus_client import BusClient, over_bus
from service.cli.clock import utc_now
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.examples import Command, Group
from service.cli.output import Format, aligned, rendered
from service.cli.spans import moment_of
from service.core.event import TOPICS
from service.core.message import UNREADABLE, Received

#: Topics on which every record is a CloudEvent; the first ones are read where nobody names any.
EVENT_TOPICS = tuple(dict.fromkeys(TOPICS.values()))
_OTHERS = ("commands", "restricted")

#: Everything that is there: no record is older.
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_NOBODY_WRITES = "No process runs on this journal, so nothing more comes; `webex-events dev` would be one."

#: The columns of the table, and what they take; the last one is as long as it is.
_COLUMNS = {"time": 24, "topic": 12, "type": 38, "subject": 0}

events_app = typer.Typer(
    cls=Group,
    help="The events on the bus. They hold personal data, which is shown because you ask for it, and logged nowhere.",
    epilog="webex-events events tail\nwebex-events events tail --type 'webex.registrant.*' -o jsonl",
    no_args_is_help=True,
)

_Topics = Annotated[
    list[str] | None, typer.Option("--topic", metavar="NAME", help="Only this topic, without the prefix; repeatable.")
]
_Type = Annotated[str, typer.Option("--type", metavar="PATTERN", help="Only these types, as in 'webex.registrant.*'.")]
_Begin = Annotated[bool, typer.Option("--from-beginning", help="First everything that is there.")]
_Since = Annotated[
    str | None, typer.Option(metavar="SPAN", help="First what was written since: 90m, 2h, 7d, or a moment.")
]
_Count = Annotated[int | None, typer.Option(min=1, metavar="N", help="End when so many were shown.")]
_Timeout = Annotated[
    float | None, typer.Option(min=0.1, metavar="SECONDS", help="End after so long; with --count that is exit code 4.")
]
_Output = Annotated[Format | None, typer.Option("--output", "-o", help="Default: table on a terminal, else jsonl.")]


@dataclass(frozen=True)
class _Wanted:
    """What is to be shown: topics, types, and from when on (None: from now)."""

    topics: Sequence[str]
    type: str
    since: datetime | None
    count: int | None


@events_app.command(
    "tail",
    cls=Command,
    epilog=(
        "webex-events events tail\n"
        "webex-events events tail --topic registrants --since 2h -o jsonl\n"
        "webex-events events tail --type 'webex.meeting.*' --count 1 --timeout 30"
    ),
)
def tail(
    topics: _Topics = None,
    type_: _Type = "*",
    from_beginning: _Begin = False,
    since: _Since = None,
    count: _Count = None,
    timeout: _Timeout = None,
    form: _Output = None,
) -> None:
    """Show events as they come, until Ctrl-C. No consumer group is joined, and nothing is committed."""
    settings = api_settings()
    if strange := sorted(set(topics or ()) - {*EVENT_TOPICS, *_OTHERS}):
        end(f"No topic of events: {', '.join(strange)}; there are {', '.join((*EVENT_TOPICS, *_OTHERS))}.", WRONG)
    wanted = _Wanted(topics or EVENT_TOPICS, type_, _begin(since, from_beginning=from_beginning), count)
    show = _Show(wanted, form or (Format.TABLE if sys.stdout.isatty() else Format.JSONL))

    async def work(bus: BusClient) -> str:
        await _announce(bus, wanted, named=bool(topics))
        try:
            async with asyncio.timeout(timeout):
                await show.follow(bus)
        except TimeoutError:
            missing = "" if count is None else f"{show.shown} of {count} events came within {timeout:g} s."
        else:
            missing = "" if count is None and wanted.since is not None else _NOBODY_WRITES
        return "" if show.shown == count else missing

    if said := over_bus(settings, work, create=False):
        end(said, NOT_NOW)


def _begin(since: str | None, *, from_beginning: bool) -> datetime | None:
    """Ends with exit code 2 for what is no time, or both."""
    if since is not None and from_beginning:
        end("--since and --from-beginning exclude each other.", WRONG)
    try:
        return _BEGINNING if from_beginning else moment_of(since, now=utc_now()) if since is not None else None
    except (ValueError, OverflowError) as error:
        end(f"--since: {error}", WRONG)


async def _announce(bus: BusClient, wanted: _Wanted, *, named: bool) -> None:
    """Say which topics are read. Ends with exit code 1 where one that was named is not there, or none is."""
    missing = [topic for topic in wanted.topics if not await bus.partitions(topic)]
    there = [topic for topic in wanted.topics if topic not in missing]
    if missing and (named or not there):
        end(
            f"There is no topic {', '.join(missing)} on Kafka; `webex-events topics apply` makes those of ours.", FAILED
        )
    more = f"; not there yet: {', '.join(missing)}" if missing else ""
    typer.echo(f"Reading {', '.join(there)}{more}.", err=True)


class _Show:
    """Prints what is wanted; ``shown`` is how many."""

    def __init__(self, wanted: _Wanted, form: Format) -> None:
        self._wanted, self._form = wanted, form
        self.shown = 0

    async def follow(self, bus: BusClient) -> None:
        """Until there are enough, or nobody could write more."""
        if self._form is Format.TABLE:
            typer.echo(aligned([name.upper() for name in _COLUMNS], [*_COLUMNS.values()]))
        async with aclosing(bus.follow(self._wanted.topics, since=self._wanted.since)) as batches:
            async for records in batches:
                for record in records:
                    self._look(record)
                    if self.shown == self._wanted.count:
                        return

    def _look(self, record: Received) -> None:
        event = _event(record)
        if event is None:
            place = f"{record.topic}/{record.partition}, offset {record.offset}"
            typer.echo(f"{place}: no event that this version can read.", err=True)
        elif fnmatchcase(event["type"], self._wanted.type):
            self.shown += 1
            typer.echo(_line(record.topic, event, self._form))


def _event(record: Received) -> dict[str, Any] | None:
    """The event in it; also one whose sender kept to CloudEvents, but not to our additions. None where it is none."""
    try:
        found = msgspec.json.decode(record.value or b"")
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("type"), str) else None


def _line(topic: str, event: Mapping[str, Any], form: Format) -> str:
    if form is Format.TABLE:
        row = {**event, "topic": topic}
        return aligned([row.get(name) for name in _COLUMNS], [*_COLUMNS.values()])
    return rendered(event if form is Format.JSON else {"items": [event]}, form)
