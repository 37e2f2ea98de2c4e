"""What everybody on the machine can read about a running command: its arguments."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from service.sandbox.app import create_app
from service.sandbox.world import World
from tests.cli import program
from tests.servers import running

TOKEN = "process-list-canary-token-52d1"
SECRET = "process-list-canary-secret-9ae0"
PROC = Path("/proc")

pytestmark = pytest.mark.skipif(not (PROC / "self" / "cmdline").exists(), reason="the arguments are read from /proc")


@dataclass
class Slow:
    """The simulated Webex, which answers when it is told to; keeps what was sent."""

    app: ASGIApp
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    sent: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.sent += dict(scope["headers"]).get(b"authorization", b"")
            self.asked.set()
            await self.go_on.wait()
        await self.app(scope, receive, send)


@contextlib.asynccontextmanager
async def slow_sandbox() -> AsyncIterator[tuple[Slow, str]]:
    """It, and its base URL."""
    world = World.open(None, now=lambda: datetime.now(UTC), seed="process-list")
    try:
        slow = Slow(create_app(world, token=TOKEN))
        async with running(slow) as address:
            yield slow, f"{address}/v1"
            slow.go_on.set()
    finally:
        world.close()


def everything_listed() -> dict[int, bytes]:
    """The arguments of every process, by its id."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            found[int(folder.name)] = (folder / "cmdline").read_bytes()
    return found


@pytest.mark.parametrize("way", ["TOKEN", "TOKEN_FILE"])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["auth", "check"], id="a read"),
        pytest.param(
            [
                "auth",
                "token",
                "app",
                "--client-id",
                "c",
                "--client-secret-file",
                "secret",
                "--target-org-id",
                "o",
                "-y",
            ],
            id="a write with a secret in its body",
        ),
    ],
)
async def test_no_secret_in_the_process_list(tmp_path: Path, arguments: list[str], way: str) -> None:
    """While a command waits for Webex, no process has the token or a secret among its arguments."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    async with slow_sandbox() as (slow, base):
        settings = {"WEBEX__BASE_URL": base, f"WEBEX__{way}": TOKEN if way == "TOKEN" else "token"}
        with program.running(*arguments, folder=tmp_path, settings=settings) as command:
            async with asyncio.timeout(20):
                await slow.asked.wait()
            listed = everything_listed()
            slow.go_on.set()
            code = await asyncio.to_thread(command.ended)

    assert code == 0, command.lines
    assert slow.sent == f"Bearer {TOKEN}".encode()
    assert listed[command.process.pid].split(b"\0")[-len(arguments) - 1 : -1] == [each.encode() for each in arguments]
    for arguments_listed in listed.values():
        assert TOKEN.encode() not in arguments_listed
        assert SECRET.encode() not in arguments_listed
