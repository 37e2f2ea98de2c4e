"""Started by the I/O error test: the kernel refuses to let the journal's files grow, then allows it again.

Standard output: one word for each thing tried.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher
from service.core.errors import CannotStore, JournalError
from service.core.message import Message

MESSAGE = Message(topic="meetings", key="k", value=b"v" * 100_000, partition_by="k")


async def try_publish(journal: Journal) -> str:
    """How a publish ends."""
    try:
        await JournalPublisher(journal).publish([MESSAGE])
    except CannotStore:
        return "refused"
    return "stored"


async def try_open(folder: Path) -> str:
    """How an open ends."""
    try:
        await Journal.open(folder)
    except JournalError:
        return "refused"
    return "opened"


async def main(folder: Path) -> list[str]:
    """Before, while and after the limit; then a second open in the same process."""
    journal = await Journal.open(folder)
    words = [await try_publish(journal)]
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, unlimited[1]))
    words += [await try_publish(journal)]
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    words += [await try_publish(journal), "failed" if journal.state.failure else "trusted"]
    await journal.close()
    return [*words, await try_open(folder)]


if __name__ == "__main__":
    sys.stdout.write(" ".join(asyncio.run(main(Path(sys.argv[1])))))
