"""What stands in a journal's file, whatever its format is: ids are looked for in every text or blob of every table."""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

#: The rig's own id in an event, or the id of the event in its hint.
_ID = re.compile(rb'"rig":\s*\{"id":\s*"([^"]+)"|"event_id":\s*"([^"]+)"')
_QUARANTINED = re.compile(rb'"bodyBase64":\s*"([^"]+)"')


def ids_in_journal(folder: Path) -> set[str]:
    """The ids of all that stands there. The process whose journal it is must have ended."""
    return {id_ for path in folder.glob("*.db") for id_ in _ids(path)}


def _ids(path: Path) -> Iterator[str]:
    connection = sqlite3.connect(path)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - its own tables
                for value in row:
                    yield from ids_in(value.encode() if isinstance(value, str) else value)
    finally:
        connection.close()


def ids_in(raw: object) -> Iterator[str]:
    """The ids in what the product wrote; none in anything but bytes."""
    if not isinstance(raw, bytes):
        return
    for rig, event in _ID.findall(raw):
        yield (rig or event).decode()
    for body in _QUARANTINED.findall(raw):
        yield from ids_in(base64.b64decode(body))
