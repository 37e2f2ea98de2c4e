"""``webex-events journal drain``: sends what waits in a journal whose receiver will not come back, and ends.

It is the receiver's own publisher that does it, without a receiver before it: a row is removed once every in-sync replica has
it, so that ending this at any moment costs nothing but rows that are sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from service.bus.journal import Journal
from service.bus.journal_file import FILE_NAME, Extent
from service.bus.journal_salvage import damaged_folders
from service.bus.kafka import KafkaProducer
from service.bus.publisher import KafkaFirstPublisher
from service.bus.routing import place_of
from service.bus.spool import PARTITIONS
from service.cli.api import options
from service.cli.api.connection import api_settings
from service.cli.buses import SPOOL_DEADLINE, Undertaker
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.examples import Command, Group
from service.cli.kafka_connection import kafka_connection
from service.cli.output import Format
from service.cli.printing import print_rows
from service.cli.reading import progress
from service.cli.serving import beside
from service.cli.shutdown import Stop, stopped_by_signals
from service.core.errors import JournalError, JournalInUse, SettingsError
from service.core.event import rfc3339
from service.settings import Settings
from service.telemetry import logging

#: Seconds between two looks at what is left, and between two lines about it where no terminal shows a bar.
LOOK = 0.1
LINE = 10.0

_COLUMNS = ("topic", "partition", "rows", "oldest")

drain_app = typer.Typer(cls=Group)

_Timeout = Annotated[
    float, typer.Option(min=0.1, metavar="SECONDS", help="Give up after so long, with exit code 4; what is left stays.")
]


@drain_app.command(
    "drain",
    cls=Command,
    epilog=(
        "webex-events journal drain /mnt/orphaned-journal\n"
        "webex-events journal drain /mnt/orphaned-journal --dry-run -o table"
    ),
)
def drain(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="The folder of the journal (journal.db is in it).")],
    dry_run: options.DryRun = False,
    timeout: _Timeout = 600.0,
    form: options.Output = None,
) -> None:
    """Send what waits in the journal of a receiver that is no more to Kafka, and end when all of it is acknowledged."""
    settings = _settings(folder)
    try:
        asyncio.run(_list(folder, form) if dry_run else _drain(settings, folder, timeout))
    except JournalInUse as error:
        end(f"{error}. A receiver that runs sends its rows itself.", NOT_NOW)
    except SettingsError as error:
        end("\n".join(map(str, error.problems)), WRONG)
    except JournalError as error:
        end(f"{error}.", FAILED)


def _settings(folder: Path) -> Settings:
    """Ends with exit code 2 where there is no journal, or no Kafka."""
    settings = api_settings()
    if settings.bus != "kafka":
        end("The rows go to Kafka: set WEBEX_EVENTS_BUS=kafka, and where it is.", WRONG)
    if not os.path.lexists(folder / FILE_NAME) and not damaged_folders(folder):
        end(f"There is no {FILE_NAME} in {folder}.", WRONG)
    logging.configure(stream=sys.stderr, colours=sys.stderr.isatty(), level=settings.log.level)
    return settings


async def _list(folder: Path, form: Format | None) -> None:
    """Ends with exit code 1 where something would stay for good."""
    async with await Journal.open(folder) as journal:
        print_rows([await _row(journal, *lane) for lane in (await _lanes(journal)).items()], form, columns=_COLUMNS)
        staying = await _staying(folder, journal)
    if staying:
        end("\n".join(staying), FAILED)


async def _row(journal: Journal, stream: str, extent: Extent) -> dict[str, Any]:
    topic, partition = place_of(stream) or ("", None)
    first = await journal.read(stream, extent.first, 1)
    return {
        "topic": topic,
        "partition": partition,
        "rows": extent.rows,
        "oldest": rfc3339(datetime.fromtimestamp(first[0].timestamp / 1000, UTC)) if first else None,
    }


async def _lanes(journal: Journal) -> dict[str, Extent]:
    """The streams with rows for Kafka."""
    return {
        name: extent
        for name, extent in sorted((await journal.streams()).items())
        if extent.rows and place_of(name) is not None
    }


async def _others(journal: Journal) -> dict[str, int]:
    """Rows of other streams: what Kafka has refused, or of a journal that was a bus itself. They are not for Kafka."""
    streams = await journal.streams()
    return {
        name: extent.rows
        for name, extent in sorted(streams.items())
        if extent.rows and name != PARTITIONS and place_of(name) is None
    }


async def _staying(folder: Path, journal: Journal) -> list[str]:
    """Sentences about what sending does not take out of the folder, and nobody may delete unseen."""
    found = list[str]()
    if others := await _others(journal):
        listed = ", ".join(f"{rows} of {stream}" for stream, rows in others.items())
        found.append(
            f"Records stay in {folder} that do not wait for Kafka: {listed}; docs/reference/journal.md says what they are."
        )
    sides, damage = damaged_folders(folder), journal.state.damage
    if sides or damage is not None:
        found.append(_damaged(folder, sides, damage))
    return found


def _damaged(folder: Path, sides: Sequence[Path], damage: str | None) -> str:
    what = damage or "its process has logged journal.damaged then, with what is missing"
    kept = ", ".join(map(str, sides)) or folder
    return (
        f"The journal in {folder} was found damaged: {what}. Whatever could be read of it goes to Kafka. Nobody else has the"
        f" rest: keep the volume, with {kept}, until you know what was lost (docs/reference/journal.md)."
    )


# --- sending ----------------------------------------------------------------------------------------------------------


async def _drain(settings: Settings, folder: Path, timeout: float) -> None:
    """Ends with exit code 4 where not everything was acknowledged in time, with 1 where something stays for good."""
    async with await Journal.open(folder) as journal:
        total = await _waiting(journal)
        when = await _send(settings, journal, total, timeout) if total else ""
        left, staying = await _waiting(journal), await _staying(folder, journal)
    if left:
        kafka = f"Kafka at {settings.kafka.bootstrap_servers} had not acknowledged them {when}"
        again = f"{left} of {total} records are left in {folder}: {kafka}. Run it again: it goes on from there."
        end("\n".join((*staying, again)), NOT_NOW)
    if staying:
        end("\n".join(staying), FAILED)
    typer.echo(f"{total} records were sent to Kafka; nothing waits in {folder} any more.")


async def _waiting(journal: Journal) -> int:
    return sum(extent.rows for extent in (await _lanes(journal)).values())


async def _send(settings: Settings, journal: Journal, total: int, timeout: float) -> str:
    """When it ended."""
    with stopped_by_signals() as stop:
        async with _publishing(settings, journal, stop) as publisher:
            try:
                async with asyncio.timeout(timeout):
                    await _until_empty(publisher, journal, stop, total)
            except TimeoutError:
                return f"after {timeout:g} s"
        return "when it was to end"


@contextlib.asynccontextmanager
async def _publishing(settings: Settings, journal: Journal, stop: Stop) -> AsyncIterator[KafkaFirstPublisher]:
    """The receiver's publisher, which begins with what is in the journal."""
    producer = KafkaProducer(connection=kafka_connection(settings), topic_prefix=settings.kafka.topic_prefix)
    publisher = KafkaFirstPublisher(producer, journal, deadline=SPOOL_DEADLINE, letter=Undertaker())
    try:
        await publisher.start()
        async with beside(producer.watch(), stop=stop):
            yield publisher
    finally:
        await publisher.stop()


async def _until_empty(publisher: KafkaFirstPublisher, journal: Journal, stop: Stop, total: int) -> None:
    """Acknowledged, and then removed: what only is acknowledged would be sent again by the next one.

    Raises JournalError where the journal has failed meanwhile.
    """
    sent, next_line = 0, time.monotonic() + LINE
    with progress("Sending", total) as advance:
        while not stop.is_set() and (left := publisher.spooled or await _waiting(journal)):
            if journal.state.failure is not None:
                raise JournalError(f"{journal.state.failure}; {left} records are left")
            if total - left > sent:
                advance(total - left - sent)
                sent = total - left
            if not sys.stderr.isatty() and time.monotonic() > next_line:
                next_line += LINE
                typer.echo(f"{left} of {total} records are left.", err=True)
            await asyncio.sleep(LOOK)
