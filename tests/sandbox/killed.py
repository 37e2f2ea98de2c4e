"""A sandbox in a process of its own, to be killed: ``python -m tests.sandbox.killed FILE`` prints its port and serves."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from service.sandbox.app import create_app
from service.sandbox.simulation import Pace, run_simulation
from service.sandbox.world import World
from tests.servers import running


async def main(path: Path) -> None:
    """Serve and simulate until killed."""
    world = World.open(path, now=lambda: datetime.now(UTC))
    async with running(create_app(world)) as base_url:
        sys.stdout.write(f"{base_url}\n")
        sys.stdout.flush()
        await run_simulation(world, Pace(fastest=0.002, slowest=0.004, people_per_meeting=20))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
