"""Where the simulated Webex keeps its state: one SQLite file with one table of JSON documents.

A simulator may lose the last moments of a machine that loses power, not those of a process that is killed: WAL with
``synchronous=NORMAL`` (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

Change = tuple[str, str, bytes | None]


class Store:
    """The file, open and locked for this process alone. Used from one thread."""

    def __init__(self, path: Path | None, *, patience: float = 2.0) -> None:
        """``None`` keeps everything in memory; ``patience``: seconds to wait for another owner.

        Raises sqlite3.Error where the file is in use or is not one of SQLite's.
        """
        self._connection = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=patience)
        try:
            self._prepare()
        except sqlite3.Error:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        # Exclusive: a second sandbox on the same file would answer from its own memory.
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (kind, key)) "
            "WITHOUT ROWID"
        )

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Every document of a kind, as (key, value)."""
        yield from self._connection.execute("SELECT key, value FROM documents WHERE kind = ?", (kind,))

    def save(self, changes: Iterable[Change]) -> None:
        """Write all of them or none: (kind, key, value), where None deletes. Durable against ``kill -9`` on return."""
        listed = list(changes)
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                [change for change in listed if change[2] is not None],
            )
            self._connection.executemany(
                "DELETE FROM documents WHERE kind = ? AND key = ?",
                [(kind, key) for kind, key, value in listed if value is None],
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
