"""How fast the ledger is restored, and what an entry takes of memory: ``python -m tests.benchmarks.bench_ledger``.

On a journal, and on a real broker of its own (or ``KAFKA_BOOTSTRAP_SERVERS``). The mix is that of webinars: of a hundred
people 60 are approved by the policy, 10 rejected, 25 held, 5 put back to pending by their host; a series for every 500 people
and a command for every 20. Each restore is a process of its own, so that what it takes is what it adds to the resident set.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher, JournalReader
from service.bus.kafka import KafkaReader
from service.bus.kafka_connection import Connection
from service.bus.protocols import PartitionReader, Publisher
from service.controllers.ledger import Ledger
from service.core import ledger
from service.core.ledger import CommandRecord, Entry, Fact, Intent, KnownMeeting, Seen
from tests.fakes import RecordingPublisher
from tests.kafka.bus import kafka_bus
from tests.kafka.harness import Cluster

PEOPLE = 100_000
WEBINAR = 500
BATCH = 100
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
VERSION = "0123456789ab"
REASONS = {"approve": "Comes from a partner domain", "reject": "Works for a rival", "hold": "No rule matches"}

#: What is promised.
RATE, MEMORY = 20_000, 400


def entries(people: int = PEOPLE) -> Iterator[Entry]:
    """What a processor leaves behind that decided on so many people, in batches of a hundred."""
    for first in range(0, people, BATCH):
        series = uuid.uuid5(uuid.NAMESPACE_OID, str(first // WEBINAR)).hex
        at = NOW + timedelta(seconds=first)
        if first % WEBINAR == 0:
            yield Entry(kind="meeting", subject=series, value=_meeting(at))
        for n in range(BATCH):
            yield from _of_person(series, str(uuid.uuid4()), n, at)
        for n in range(BATCH // 20):
            record = CommandRecord(digest=uuid.uuid4().hex, at=at, finished=at + timedelta(seconds=n))
            yield ledger.command_entry(str(uuid.uuid4()), record)


def _meeting(at: datetime) -> KnownMeeting:
    return KnownMeeting(
        organization="default",
        org_id=str(uuid.UUID(int=1)),
        host_email="host@example.com",
        newest=at,
        full=at,
        policy=VERSION,
        active=at,
        start=at + timedelta(days=7),
        end=at + timedelta(days=7, hours=1),
    )


def _of_person(series: str, id_: str, n: int, at: datetime) -> Iterator[Entry]:
    """The first 60 of a hundred are approved, then 10 rejected, 25 held, 5 put back."""
    verb = "reject" if 60 <= n < 70 else "hold" if 70 <= n < 95 else "approve"
    status = {"approve": "approved", "reject": "rejected", "hold": "pending"}[verb]
    if verb != "hold":
        intent = Intent(verb=verb, rule="partners-in", reason=REASONS[verb], notify=False, policy=VERSION, at=at)
        yield Entry(kind="intent", subject=series, registrant=id_, value=intent)
        yield Entry(kind=status, subject=series, registrant=id_, value=Fact(at=at))
    if n >= 95:
        yield Entry(kind="human", subject=series, registrant=id_, value=Fact(at=at))
    held = VERSION if verb == "hold" else ""
    seen = Seen(status="pending" if n >= 95 else status, held=held, facts=2, print=uuid.uuid4().hex[:16])
    yield Entry(kind="seen", subject=series, registrant=id_, value=seen)


async def fill(publisher: Publisher) -> int:
    """Write them all; returns how many."""
    messages = [ledger.to_message(entry, organization="default") for entry in entries()]
    for start in range(0, len(messages), 1000):
        await publisher.publish(messages[start : start + 1000])
    return len(messages)


# --- the restore, in a process of its own -----------------------------------------------------------------------------


@asynccontextmanager
async def opened_reader(bus: str, place: str, prefix: str) -> AsyncIterator[PartitionReader]:
    """The reader of a bus that is filled."""
    if bus == "kafka":
        yield KafkaReader(connection=Connection(bootstrap_servers=place), topic_prefix=prefix)
        return
    async with await Journal.open(Path(place)) as journal:
        yield JournalReader(journal)


def resident() -> int:
    """Bytes of the resident set."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def restore(bus: str, place: str, prefix: str) -> None:
    """Print what one restore took, as JSON."""
    async with opened_reader(bus, place, prefix) as reader:
        restored = Ledger(reader=reader, publisher=RecordingPublisher())
        gc.collect()
        before, started, cpu = resident(), time.perf_counter(), time.process_time()
        records = await restored.restore(0)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        gc.collect()
        took = resident() - before
    figures = {"records": records, "entries": restored.entries, "seconds": seconds, "cpu": cpu, "bytes": took}
    sys.stdout.write(json.dumps(figures) + "\n")


def measured(bus: str, place: str, prefix: str = "") -> str:
    """One line of figures."""
    command = (sys.executable, "-m", "tests.benchmarks.bench_ledger", bus, place, prefix)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    rate, each = figures["entries"] / figures["seconds"], figures["bytes"] / figures["entries"]
    kept = "kept" if rate >= RATE and each <= MEMORY else "BROKEN"
    return (
        f"{bus:<8} {figures['entries']:>8} entries  {rate:>8.0f} entries/s  {figures['cpu'] / figures['entries'] * 1e6:>5.1f} "
        f"us CPU/entry  {each:>4.0f} bytes/entry  promise (>= {RATE} entries/s, <= {MEMORY} bytes) {kept}"
    )


async def main() -> None:
    """Both buses, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        async with await Journal.open(Path(folder)) as journal:
            await fill(JournalPublisher(journal))
        sys.stdout.write(measured("journal", folder) + "\n")
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        await on_kafka(Cluster(given))
        return
    with Cluster.started(1) as cluster:
        await on_kafka(cluster)


async def on_kafka(cluster: Cluster) -> None:
    """The same on a broker."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    async with kafka_bus(cluster, prefix) as bus:
        await fill(bus.publisher())
        sys.stdout.write(measured("kafka", cluster.bootstrap, prefix) + "\n")


if __name__ == "__main__":
    asyncio.run(restore(*sys.argv[1:4]) if len(sys.argv) > 1 else main())
