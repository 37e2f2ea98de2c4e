"""``webex-events ledger``: what is remembered of meetings and registrants, kept in a file, put back, or begun anew."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from service.bus.journal_bus import PARTITION
from service.bus.kafka_partitioner import partition_for
from service.cli.api import options
from service.cli.api.calls import confirm
from service.cli.api.connection import api_settings
from service.cli.bus_client import BusClient, batches, has_bus, over_bus
from service.cli.clock import utc_now
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.examples import Command, Group
from service.cli.inputs import is_stdin, stdin
from service.cli.orders import PATIENCE, Organization, Wait, give, keys_of, order
from service.cli.printing import print_rows
from service.cli.reading import progress
from service.core import ledger, ledger_file
from service.core.ledger import Entry, Fact, PartitionMemory
from service.core.ledger_file import Line, Records
from service.core.message import Message, Received

#: A processor that renewed its lease so lately is taken to be running.
RUNNING = timedelta(seconds=30)

_COLUMNS = ("kind", "records", "written")

ledger_app = typer.Typer(
    cls=Group,
    help="What is remembered of meetings and registrants.",
    epilog="webex-events ledger export FILE\nwebex-events ledger import FILE --dry-run\nwebex-events ledger adopt",
    no_args_is_help=True,
)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; - is stdout or stdin.")]
_Merge = Annotated[
    bool, typer.Option("--merge", help="Also into a ledger that is not empty; what is there already stays as it is.")
]


@ledger_app.command(
    "export", cls=Command, epilog="webex-events ledger export ledger.jsonl\nwebex-events ledger export - | gzip > l.gz"
)
def export(file: _File) -> None:
    """Write everything that the ledger remembers to a file, also while processors run."""
    if not is_stdin(file) and os.path.lexists(file) and not file.is_file():
        end(f"{file} is no file that could be replaced; - is stdout.", WRONG)
    found = over_bus(api_settings(), read_ledgers, create=False)
    _refuse_absent(found)
    lines = found.records.lines(partitions=len(found.memories), at=utc_now())
    try:
        with _output(file) as output:
            output.writelines(lines)
    except OSError as error:
        end(f"{file} cannot be written ({error.strerror})", FAILED)
    left_out = found.records.left_out
    typer.echo(f"{len(found.records) - len(left_out)} records of {len(found.memories)} partitions", err=True)
    if left_out:
        names = "\n".join(ascii(key)[1:-1] for key in left_out)
        end(f"{len(left_out)} records cannot be read by this version, and are not in the file:\n{names}", FAILED)


@ledger_app.command(
    "import",
    cls=Command,
    epilog="webex-events ledger import ledger.jsonl --dry-run\nwebex-events ledger import ledger.jsonl --merge --yes",
)
def import_(
    file: _File,
    merge: _Merge = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    form: options.Output = None,
) -> None:
    """Put back what an export wrote, while no processor runs, or while they only observe because the ledger was lost.

    What observing processors wrote themselves stays as it is, with or without --merge.
    """
    lines = _lines(file)
    settings = api_settings()
    found = over_bus(settings, read_ledgers, create=False) if has_bus(settings) else Found.nothing()
    _refuse_absent(found)
    messages = _messages(lines, keys_of(settings, None))
    targets = _targets(messages, found)
    _refuse_running(found, targets, utc_now())
    if not merge:
        _refuse_not_empty(found, targets)
    missing = ledger_file.missing(lines, found.records)
    messages = _those_of(missing, messages)
    if not dry_run:
        confirm(f"Write {len(missing)} records into the ledger.", yes=yes)
        over_bus(settings, lambda bus: _write(bus, messages, found, utc_now()))
    print_rows(_counts(lines, missing), form, columns=_COLUMNS)
    if len(missing) < len(lines):
        typer.echo(f"{len(lines) - len(missing)} records are left out: the ledger says it itself.", err=True)
    if found.observing and not dry_run:
        typer.echo("The processors only observe until `webex-events ledger adopt`.", err=True)


@ledger_app.command("adopt", cls=Command, epilog="webex-events ledger adopt\nwebex-events ledger adopt --yes")
def adopt(organization: Organization = None, wait: Wait = PATIENCE, yes: options.Yes = False) -> None:
    """Go on with the ledger as it is, after it was found empty where it must not be: Webex is written to again."""
    settings = api_settings()
    keys = keys_of(settings, organization)
    found = over_bus(settings, read_ledgers, create=False)
    _refuse_absent(found)
    waiting = [key for key in keys if partition_for(key, max(1, len(found.memories))) in found.observing]
    if not waiting:
        typer.echo("No ledger waits to be adopted.")
        return
    confirm(
        f"For {', '.join(waiting)}: whom a host put back, or the policy decided, is only known as far as the ledger has it "
        f"({len(found.records)} records). Everybody else who is pending is decided by the policy.",
        yes=yes,
    )
    give(order("adopt"), waiting, wait, said="The ledger is adopted")


# --- the ledger as it is ----------------------------------------------------------------------------------------------


class Found:
    """What the partitions of the ledger hold."""

    def __init__(self) -> None:
        self.records = Records()
        self.keys: dict[int, set[str]] = {}
        self.memories: dict[int, PartitionMemory] = {}

    @classmethod
    def nothing(cls) -> Found:
        """Of a journal that is still to be made."""
        found = cls()
        found.begin(PARTITION)
        return found

    @property
    def observing(self) -> list[int]:
        """The partitions that wait to be adopted."""
        return [partition for partition, memory in self.memories.items() if memory.observing is not None]

    def begin(self, partition: int) -> None:
        """A partition, still without any record."""
        self.memories[partition], self.keys[partition] = PartitionMemory(), set()

    def add(self, record: Received) -> None:
        """One record, in the order of its partition."""
        self.records.add(record.partition, record.key, record.value)
        if not record.key.startswith(("owner/", "founded/", "observing/")):
            keys = self.keys[record.partition]
            keys.discard(record.key) if record.value is None else keys.add(record.key)
        else:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                entry = ledger.from_record(record.key, record.value)
                if entry is not None:
                    self.memories[record.partition].apply(entry)


async def read_ledgers(bus: BusClient) -> Found:
    """Every partition."""
    found = Found()
    for partition in await bus.partitions("ledger"):
        found.begin(partition)
        async for record in bus.read("ledger", partition):
            found.add(record)
    return found


def _refuse_absent(found: Found) -> None:
    """Ends with exit code 1 where there is nothing that could have a ledger: the prefix of the topics may be wrong."""
    if not found.memories:
        end("There is no topic for the ledger; `webex-events topics apply` makes it.", FAILED)


def _targets(messages: Iterable[Message], found: Found) -> set[int]:
    """The partitions that the records of a file go to; of a file without any, all of them."""
    count = len(found.memories)
    return {partition_for(message.partition_by, count) for message in messages} or set(found.memories)


def _runs(memory: PartitionMemory, now: datetime) -> bool:
    """Whether a processor has the partition."""
    owner = memory.owner
    return owner is not None and not owner.released and now - owner.at <= RUNNING


def _refuse_running(found: Found, targets: Iterable[int], now: datetime) -> None:
    """Ends with exit code 4 where an owner has the old ledger in memory, and acts by it.

    One that only observes reads it again when it is adopted; what other partitions remember is not changed.
    """
    for partition in sorted(targets):
        memory = found.memories[partition]
        if memory.observing is None and _runs(memory, now):
            end(
                f"A processor owns partition {partition} of the ledger: stop the processors, wait {RUNNING.seconds} s, "
                "and try again.",
                NOT_NOW,
            )


def _refuse_not_empty(found: Found, targets: Iterable[int]) -> None:
    """Ends with exit code 1 where there are records already; whoever observes began to write them again."""
    count = sum(len(found.keys[partition]) for partition in targets if partition not in found.observing)
    if count:
        end(f"The ledger has {count} records already; --merge adds to it what it does not have.", FAILED)


# --- files ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _output(file: Path) -> Iterator[BinaryIO]:
    """For this user only; there as a whole, or not at all."""
    if is_stdin(file):
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        unfinished.touch(mode=0o600, exist_ok=False)
        with unfinished.open("wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _lines(file: Path) -> list[Line]:
    """Ends with exit code 2 where it is no export."""
    try:
        with contextlib.nullcontext(stdin()) if is_stdin(file) else file.open("rb") as stream:
            return ledger_file.parse(stream)
    except OSError as error:
        end(f"{file} cannot be read ({error.strerror})", WRONG)
    except ledger_file.LedgerFileError as error:
        end(f"{file}: {error}", WRONG)


# --- putting it back --------------------------------------------------------------------------------------------------


def _messages(lines: Sequence[Line], organizations: Sequence[str]) -> list[Message]:
    try:
        return ledger_file.to_messages(lines, otherwise=organizations)
    except ledger_file.LedgerFileError as error:
        end(f"Not imported: {error}", WRONG)


def _those_of(lines: Iterable[Line], messages: Iterable[Message]) -> list[Message]:
    """Of ``messages`` only those of ``lines``: the others may still be needed to know whose a series is."""
    keys = {line.key for line in lines}
    return [message for message in messages if message.key in keys]


async def _write(bus: BusClient, messages: Sequence[Message], found: Found, now: datetime) -> None:
    """In order, batch after batch; last of all, that the ledger is begun."""
    with progress("Importing", len(messages)) as advance:
        for batch in batches(messages):
            await bus.publish(batch)
            advance(len(batch))
    await bus.publish(list(_founded(found, now)))


def _founded(found: Found, now: datetime) -> Iterable[Message]:
    for partition, memory in found.memories.items():
        if memory.founded is None and memory.observing is None and not _runs(memory, now):
            entry = Entry(kind="founded", subject=str(partition), value=Fact(at=now))
            yield ledger.to_message(entry, organization="", partition=partition)


def _counts(lines: Sequence[Line], written: Sequence[Line]) -> list[dict[str, object]]:
    all_, new = Counter(line.kind for line in lines), Counter(line.kind for line in written)
    return [{"kind": kind, "records": count, "written": new[kind]} for kind, count in sorted(all_.items())]
