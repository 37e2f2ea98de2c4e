"""A role as a process: its probes and answers when there is no room any more."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.cli.clock import utc_now
from service.cli.trigger import notification
from service.core.signature import sign
from tests.ending import Role, kafka_settings, role, silent
from tests.line import SECRET, until

#: The program, with a journal whose verification takes as long as the file that is its argument is missing.
SLOW = """
import sys, time
from pathlib import Path
from service.bus import journal
from service.cli import main
opened, gate = journal.open_file, Path(sys.argv.pop(1))
def verified(*given, **more):
    while not gate.exists():
        time.sleep(0.05)
    return opened(*given, **more)
journal.open_file = verified
main()
"""

#: Every role that opens a journal, and the bus on which it does.
WITH_JOURNAL = pytest.mark.parametrize(
    ("name", "bus"), [("receiver", "journal"), ("receiver", "kafka"), ("processor", "journal"), ("dev", "journal")]
)


@contextlib.asynccontextmanager
async def slow(name: str, bus: str, folder: Path) -> AsyncIterator[Role]:
    """A role that is alive, and verifies its journal until ``folder / "gate"`` is there."""
    async with role(name, folder, **(kafka_settings("127.0.0.1:1", "x.") if bus == "kafka" else {"BUS": bus})) as made:
        made.process.program = ("-c", SLOW, str(folder / "gate"))
        made.process.start()

        async def verifying() -> bool:
            if await made.probe("livez") != 200:
                return False
            return "verified" in (await asked(made, "readyz")).text  # it listens a moment before it begins with that

        await until(verifying, within=30)
        yield made


async def asked(slow_one: Role, path: str) -> httpx.Response:
    """The answer of its private listener."""
    return await slow_one.client.get(f"http://127.0.0.1:{slow_one.ports['admin']}/{path}")


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


@WITH_JOURNAL
async def test_the_probes_answer_while_the_journal_is_verified(name: str, bus: str, tmp_path: Path) -> None:
    """Whoever supervises us must not end it for that; the records are there once the bus is."""
    async with slow(name, bus, tmp_path) as starting:
        unready, metrics = await asked(starting, "readyz"), await asked(starting, "metrics")
        records = (await asked(starting, "records/meetings/0")).status_code
        announced = (tmp_path / "data" / "private-listener.json").exists()
        (tmp_path / "gate").touch()

        async def ready() -> bool:
            return await starting.probe("readyz") == 200

        await until(ready, within=30)
        records_of_bus = (await asked(starting, "records/meetings/0")).status_code
        assert "webex_events_journal_trusted 1.0\n" in await starting.scraped()
        code, _ = await starting.ended(starting.signal())

    assert unready.status_code == 503
    assert unready.json()["detail"] == "This process is starting: the journal is being verified"
    assert metrics.status_code == 200
    assert (records, announced) == (404, False)
    assert records_of_bus == (401 if bus == "journal" else 404)
    assert code == 0
    steps = [each for each in starting.steps() if each in {"probes", "flush", "journal"}]
    assert steps == [*(["probes", "flush"] if bus == "kafka" else ["probes"]), "journal"]


@WITH_JOURNAL
async def test_a_start_that_verifies_the_journal_is_ended(name: str, bus: str, tmp_path: Path) -> None:
    """SIGTERM meanwhile: nothing has to be finished, so nothing is waited for."""
    async with slow(name, bus, tmp_path) as starting:
        code, seconds = await starting.ended(starting.signal())

    assert code == 0
    assert seconds < 6
    assert starting.said("process.stopped")
    assert starting.steps() == ["probes"]


@pytest.mark.parametrize("name", ["receiver", "processor", "dev"])
async def test_a_taken_private_port_is_told_before_the_journal_is_opened(name: str, tmp_path: Path) -> None:
    """Exit code 2 and the sentence, however long the journal would take."""
    async with silent() as (address, _):
        port = address.partition(":")[2]
        async with role(name, tmp_path, BUS="journal", ADMIN__PORT=port) as refused:
            refused.process.program = ("-c", SLOW, str(tmp_path / "gate"))
            refused.process.start()
            async with asyncio.timeout(30):
                code = await asyncio.to_thread(refused.process.stop_by_itself)

    said = refused.process.output.read_text()
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port} (" in said
    assert not (tmp_path / "data").exists()


async def test_kafka_that_is_frozen_at_the_start_does_not_keep_the_receiver_from_listening(tmp_path: Path) -> None:
    """Its first attempt to connect would take 8 s; there is a journal, so that webhooks are taken sooner."""
    async with silent() as (address, asked_kafka), role("receiver", tmp_path, **kafka_settings(address, "x.")) as one:
        one.process.start()
        async with asyncio.timeout(30):
            await asked_kafka.wait()

        async def ready() -> bool:
            return await one.probe("readyz") == 200

        await until(ready, within=6)
        assert await post(one, 100) == 204
        assert (await one.ended(one.signal()))[0] == 0
