"""How to reach the cluster: the one value that every client of ours is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Connection:
    """Where the brokers are, and how to speak with them. ``bootstrap_servers``: ``host:port``, comma-separated."""

    bootstrap_servers: str

    def options(self) -> dict[str, Any]:
        """Arguments that every client of aiokafka takes."""
        return {"bootstrap_servers": self.bootstrap_servers}
