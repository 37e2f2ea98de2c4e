"""A webhook's secret changes while requests come in: the real process, over a socket (reliability I3)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from service.cli.clock import utc_now
from service.cli.secret_files import SETTLING
from service.cli.trigger import notification
from service.core.signature import sign
from tests.cli.program import ANY_PORT, running
from tests.cli.test_secret_files import mounted

RATE = 150
OLD, NEW = b"canary-old-secret", b"canary-new-secret"


@dataclass
class Sender:
    """Sends signed notifications at a steady rate, whatever becomes of them; ``answers``: when, by which secret, status."""

    client: httpx.AsyncClient
    url: str
    answers: list[tuple[float, bytes, int]] = field(default_factory=list)

    async def send(self, *secrets: bytes, seconds: float) -> None:
        """For so long, by these secrets in turn."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for n in range(int(seconds * RATE)):
                await asyncio.sleep(began + n / RATE - time.monotonic())
                group.create_task(self._one(secrets[n % len(secrets)]))

    async def until(self, secret: bytes, status: int) -> float:
        """Seconds until a notification that this secret signed has that answer."""
        began = time.monotonic()
        while await self._one(secret) != status:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def _one(self, secret: bytes) -> int:
        body = notification("meetings.updated", series="5" * 32, now=utc_now(), data={})
        headers = {"content-type": "application/json", **sign(body, secret)}
        status = (await self.client.post(self.url, content=body, headers=headers)).status_code
        self.answers.append((time.monotonic(), secret, status))
        return status

    def statuses(self, secret: bytes) -> set[int]:
        """What that secret's notifications were answered; forgotten from now on."""
        found = {status for _, own, status in self.answers if own == secret}
        self.answers = [each for each in self.answers if each[1] != secret]
        return found


async def test_a_rotation_refuses_nothing_valid(tmp_path: Path) -> None:
    """A, then A and B, then B, at 150 requests a second: no valid one is refused, and A is within 5 s of its removal.

    The folder is swapped as Kubernetes does it, and half a file lies in it for a moment. Nothing is logged but names.
    """
    secrets = tmp_path / "secrets"
    mounted(secrets, "1", old=OLD)
    settings = {**ANY_PORT, "WEBHOOK__SECRETS_DIR": str(secrets), "LOG__LEVEL": "debug"}
    with running("serve", "receiver", folder=tmp_path, settings=settings) as process:
        url = (await asyncio.to_thread(process.until, "receiver.started"))[0]["webhook"]
        async with httpx.AsyncClient() as client:
            sender = Sender(client, url)
            await sender.send(OLD, seconds=0.5)
            mounted(secrets, "2", old=OLD, new=NEW)
            sending = asyncio.create_task(sender.send(OLD, seconds=3))
            known_after = await sender.until(NEW, 204)
            await sending
            assert sender.statuses(OLD) == {204}
            sender.statuses(NEW)

            await sender.send(OLD, NEW, seconds=0.5)
            (secrets / "half").write_bytes(b"")
            await asyncio.sleep(SETTLING / 2)
            (secrets / "half").unlink()
            mounted(secrets, "3", new=NEW)
            (secrets / "old").unlink()
            sending = asyncio.create_task(sender.send(NEW, seconds=3))
            gone_after = await sender.until(OLD, 401)
            await sending

            assert sender.statuses(NEW) == {204}
            sender.statuses(OLD)
            assert await sender.until(OLD, 401) < 1
            assert sender.statuses(OLD) == {401}  # and it stays refused
        shown = "\n".join(process.lines)
        changes = [(each["added"], each["removed"]) for each in process.events("secrets.changed")]

    assert known_after < 5
    assert gone_after < 5
    assert changes == [(["new"], []), ([], ["old"])]
    assert "canary" not in shown
