"""Started by the durability tests: appends pairs from several tasks and says on standard output what is durable, until killed.

Each line is ``<event offset> <hint offset> <value>``, written only after the append has returned.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from service.bus.journal import Journal
from service.core.message import Message


async def append_pairs(journal: Journal, name: str) -> None:
    """An event and its hint, over and over."""
    for number in count():
        value = f"{os.getpid()}-{name}-{number}"
        entries = [
            (topic, Message(topic=topic, key=name, value=value.encode(), partition_by=name))
            for topic in ("meetings", "work")
        ]
        event, hint = await journal.append(entries)
        os.write(1, f"{event} {hint} {value}\n".encode())


async def main(folder: Path) -> None:
    """Eight at once, so that transactions hold several appends."""
    async with await Journal.open(folder) as journal:
        await asyncio.gather(*(append_pairs(journal, f"task{n}") for n in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
