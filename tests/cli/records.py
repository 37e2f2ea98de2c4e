"""Records on the journal of a test, put there and read back while no process has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.core import event
from service.core.event import CloudEvent
from service.core.message import Message, Received


def put(folder: Path, *records: CloudEvent | Message, at: datetime | None = None) -> None:
    """Append them; ``at`` is the time of the records, now without it."""
    messages = [event.to_message(each) if isinstance(each, CloudEvent) else each for each in records]

    async def append() -> None:
        async with await Journal.open(folder, now=lambda: at or datetime.now(UTC)) as journal:
            await JournalPublisher(journal).publish(messages)

    asyncio.run(append())


def on(folder: Path, topic: str) -> Sequence[Received]:
    """Everything on a topic."""

    async def read() -> list[Received]:
        async with await Journal.open(folder) as journal:
            return [record async for record in JournalReader(journal).read(topic, 0)]

    return asyncio.run(read())
