"""A role as a process: its probes and answers when there is no room any more."""

from __future__ import annotations

import re
from pathlib import Path

from service.cli.clock import utc_now
from service.cli.trigger import notification
from service.core.signature import sign
from tests.ending import Role, role
from tests.line import SECRET


async def post(receiver: Role, size: int) -> int:
    """The status of the answer to a notification of so many bytes."""
    body = notification("meetings.updated", series="5" * 32, now=utc_now(), data={"agenda": "x" * size})
    headers = {"content-type": "application/json", **sign(body, SECRET.encode())}
    return (await receiver.client.post(receiver.webhook, content=body, headers=headers)).status_code


async def test_a_receiver_whose_journal_is_full(tmp_path: Path) -> None:
    """503 before the last byte is taken, since others have to go on; not ready, and alive all the same."""
    async with role("receiver", tmp_path, BUS="journal", JOURNAL__MAX_MIB="16") as receiver:
        await receiver.start()
        statuses = [await post(receiver, 60_000)]
        while statuses[-1] == 204 and len(statuses) < 400:
            statuses.append(await post(receiver, 60_000))
        refused = await receiver.client.get(f"http://127.0.0.1:{receiver.ports['admin']}/readyz")
        shown = await receiver.scraped()

        assert statuses[-1] == 503
        assert refused.status_code == 503
        assert "The journal is full (8" in refused.json()["detail"]
        assert await receiver.probe("livez") == 200
        assert 'webex_events_webhook_refusals_total{reason="cannotStore"} 1.0\n' in shown
        used = re.search(r"^webex_events_journal_used_ratio (\S+)$", shown, re.MULTILINE)
        assert used is not None
        assert 0.8 <= float(used[1]) < 0.95
        assert (await receiver.ended(receiver.signal()))[0] == 0
