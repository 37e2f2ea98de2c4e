"""Reading topics for a command: every partition, with a bar on stderr where a person is waiting."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime

import typer

from service.cli.bus_client import BusClient
from service.core.message import Received

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress(label: str, length: int) -> Iterator[Advance]:
    """A bar on stderr; nothing where that is no terminal."""
    if not sys.stderr.isatty() or length <= 0:
        yield lambda _: None
        return
    with typer.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


async def every_record(
    bus: BusClient, topic: str, *, since: datetime | None = None, now: datetime | None = None, label: str = ""
) -> AsyncIterator[Received]:
    """The records of all partitions of ``topic``, one partition after the other.

    With ``since`` and ``now`` there is a bar: how far a partition was read is told by the times of its records.
    """
    partitions = await bus.partitions(topic)
    begin, end = (int(each.timestamp() * 1000) if each else 0 for each in (since, now))
    span = max(end - begin, 0) if since and now else 0
    with progress(label or f"Reading {topic}", span * len(partitions)) as advance:
        for partition in partitions:
            position = begin
            async for record in bus.read(topic, partition, since=since):
                if record.timestamp > position:
                    advance(min(record.timestamp, end) - min(position, end))
                    position = record.timestamp
                yield record
            advance(end - min(position, end))
