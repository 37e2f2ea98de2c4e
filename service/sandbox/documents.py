"""What the parts of a world share: documents to be written together, counters, and facts to be logged once they are durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import structlog

from service.sandbox.records import Counters
from service.sandbox.store import Store

_Record = TypeVar("_Record", bound=msgspec.Struct)


class Documents:
    """A store, and the changes since the last commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log = structlog.get_logger()
        self._dirty: dict[tuple[str, str], msgspec.Struct | None] = {}
        self._facts: list[tuple[str, Mapping[str, object]]] = []
        self._listeners: list[Callable[[], None]] = []
        self.counters = self.read("counters", Counters).get("", Counters())

    def read(self, kind: str, record: type[_Record]) -> dict[str, _Record]:
        """Every stored document of a kind by its key."""
        decoder = msgspec.json.Decoder(record)
        return {key: decoder.decode(value) for key, value in self._store.load(kind)}

    def put(self, kind: str, key: str, record: msgspec.Struct | None) -> None:
        """Write with the next commit; None deletes."""
        self._dirty[kind, key] = record

    def count(self, **more: int) -> Counters:
        """Count on, by the names of Counters."""
        changed = {name: getattr(self.counters, name) + value for name, value in more.items()}
        self.counters = msgspec.structs.replace(self.counters, **changed)
        self.put("counters", "", self.counters)
        return self.counters

    def note(self, event: str, **fields: object) -> None:
        """Log this with the next commit: ids and counts only."""
        self._facts.append((event, fields))

    def listen(self, listener: Callable[[], None]) -> None:
        """``listener`` is called after each commit."""
        self._listeners.append(listener)

    def commit(self) -> None:
        """All changes become durable together; then they are logged, and the listeners called. Raises sqlite3.Error."""
        changes = [(k, key, None if r is None else msgspec.json.encode(r)) for (k, key), r in self._dirty.items()]
        if changes:
            self._store.save(changes)
        facts, self._facts, self._dirty = self._facts, [], {}
        for event, fields in facts:
            self._log.info(event, **fields)
        for listener in self._listeners:
            listener()

    def close(self) -> None:
        """Close the store; what was not committed is forgotten."""
        self._store.close()
