"""Started by the damage tests: opens a journal while the kernel lets no file grow beyond 20 kB. Prints what it is told."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from service.bus.journal import Journal
from service.core.errors import JournalError


async def main(folder: Path) -> str:
    """How an open ends."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        await Journal.open(folder)
    except JournalError as exc:
        return str(exc)
    return "opened"


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(main(Path(sys.argv[1]))))
