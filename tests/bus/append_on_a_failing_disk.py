"""Started by the fsync tests: one fsync of the journal's files fails, later ones would succeed again.

Arguments: the folder, and whose fsync fails, ``wal`` (a commit) or ``db`` (a checkpoint). Standard output: a JSON object that
says what came of each thing tried.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import apsw
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.core.errors import JournalError
from service.core.message import Message

#: Which file's next fsync fails.
armed: set[str] = set()


class _Disk(apsw.VFS):
    """SQLite's own way to the disk, but for that fsync."""

    def __init__(self) -> None:
        super().__init__("failing", base="unix", makedefault=True)

    def xOpen(self, name: Any, flags: Any) -> _File:  # noqa: N802 - apsw's name
        return _File(name, flags)


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: Any) -> None:
        super().__init__("unix", name, flags)
        self._kind = "wal" if flags[0] & apsw.SQLITE_OPEN_WAL else "db"

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        if self._kind in armed:
            armed.clear()
            raise apsw.IOError("input/output error, on purpose")
        super().xSync(flags)


def message(number: int, size: int = 10) -> Message:
    """A record whose value begins with its number."""
    return Message(topic="meetings", key="k", value=b"%d " % number + b"v" * size, partition_by="k")


async def told(attempt: Awaitable[Any]) -> str:
    """How it ended."""
    try:
        await attempt
    except JournalError:
        return "refused"
    return "done"


def digest(folder: Path) -> str:
    """Of all that is in the journal's files."""
    return hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in ("journal.db", "journal.db-wal"))
    ).hexdigest()


async def fail(journal: Journal, kind: str) -> list[str]:
    """Append until the fsync has failed: at once in a commit, after some MiB in a checkpoint."""
    armed.add(kind)
    answers = list[str]()
    while journal.state.failure is None and len(answers) < 20:
        answers.append(await told(journal.append([("meetings", message(1, 1_000_000))])))
        await journal.bounds("meetings")  # the checkpoint comes first
    return answers


async def main(folder: Path, kind: str) -> dict[str, Any]:
    """Before, and after."""
    said: dict[str, Any] = {}
    journal = await Journal.open(folder)
    await journal.append([("meetings", message(0))])
    await journal.commit("group", "meetings", 0)
    said["appends"] = await fail(journal, kind)
    before = digest(folder)
    said["after"] = [
        await told(attempt)
        for attempt in (
            *(journal.append([("meetings", message(2))], essential=essential) for essential in (False, True)),
            journal.trim("meetings", 1),
            journal.commit("group", "meetings", 1),
            journal.forget("group"),
        )
    ]
    await asyncio.sleep(1.2)  # housekeeping has had its turn
    said["accepting"] = journal.accepting
    said["read"] = [stored.offset for stored in await journal.read("meetings", 0, 10)]
    said["positions"] = await journal.positions("meetings")
    await journal.close()
    said["untouched"] = digest(folder) == before
    said["opened again"] = await told(Journal.open(folder))
    return said


if __name__ == "__main__":
    _disk = _Disk()
    with capture_logs() as logs:
        answer = asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
    answer["logs"] = [log["event"] for log in logs if log["log_level"] == "error"]
    sys.stdout.write(json.dumps(answer))
