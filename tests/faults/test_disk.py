"""The receiver on a disk that is full, that fails, or that takes its time. Every 2xx is in Kafka in the end."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults.receiver import Receiver, standing, until
from tests.kafka.fixtures import ClusterFactory, leave_out

QUICK = pytest.mark.quick

#: Requests per second while the journal fills; and MiB of its volume.
RATE = 200.0
VOLUME = 40

#: Seconds in which other answers come while an fsync takes 0.5. On an idle machine p99 is below 0.05 (the figure is
#: printed); a loop that waited for the disk would be at 0.5 on any.
PROMPT = 0.25

#: Which fsync fails; counted from the receiver's start: the first ones are those of opening the journal.
FAILING: dict[str, Sequence[int]] = {
    "three": (1, 6, 20),
    **{f"{first} to {first + 9}": range(first, first + 10) for first in range(1, 51, 10)},
}


def tracer(inject: str, log: Path) -> tuple[str, ...]:
    """strace, told to do something to every fdatasync: that is the call by which SQLite synchronises."""
    if shutil.which("strace") is None:
        leave_out("no `strace` in PATH")
    return (
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-o",
        str(log),
        "-e",
        "trace=fdatasync",
        "-e",
        f"inject=fdatasync:{inject}",
    )


def percentile(values: list[float], share: float) -> float:
    """Of the values, the one that so many are below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# S4, S5, S6


@QUICK
@pytest.mark.timeout(400)
async def test_a_full_volume_refuses_visibly_and_empties_itself(kafka_clusters: ClusterFactory, tmp_path: Path) -> None:
    """Kafka away: 2xx until 80 %, then 503 with Retry-After, never 500; Kafka back: all is sent, and events are taken."""
    async with standing(kafka_clusters(1), tmp_path, mib=VOLUME) as receiver:
        await receiver.start()
        receiver.broker.kill()
        receiver.begin_load(RATE)
        filled = await until(lambda: receiver.measures("journal_full", lambda value: value == 1), within=180)
        await until(receiver.is_not_ready, within=10)
        used = await receiver.metric("journal_used_ratio")
        rows = await receiver.metric("journal_rows")
        assert 0.7 < used < 0.9
        answer = await receiver.refusal()
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"].startswith("application/problem+json")
        await asyncio.sleep(10)  # load goes on against the full journal
        assert await receiver.is_not_ready()

        receiver.broker.start()
        await receiver.cluster.ready()
        ready = await until(receiver.is_ready, within=60)
        drained = await until(lambda: receiver.measures("journal_rows", lambda value: value == 0), within=120)
        await until(lambda: receiver.measures("journal_full", lambda value: value == 0), within=10)
        assert await receiver.metric("journal_used_ratio") < 0.7
        await asyncio.sleep(5)
        receiver.end_load()
        counted = await receiver.metric('webhooks_total{answer="503"}')
        posts, report = await receiver.judged()
        statuses = Counter(post.status for post in posts)
        sys.stdout.write(
            f"\nfull after {filled:.0f} s with {rows:.0f} rows at {used:.0%}; with Kafka back: ready after {ready:.1f} s,"
            f" empty after {ready + drained:.1f} s; answers {dict(statuses)}\n{report}\n"
        )
        assert report.ok, str(report)
        assert statuses.keys() <= {204, 401, 503}
        assert statuses[503] > 0
        assert counted == statuses[503] + 1  # and the one that we asked for ourselves


# S12


@QUICK
@pytest.mark.timeout(200)
async def test_a_slow_fsync_holds_up_nobody_else(kafka_clusters: ClusterFactory, tmp_path: Path) -> None:
    """Half a second for each: who is to be stored waits and is never told early; everybody else is answered at once."""
    async with standing(kafka_clusters(1), tmp_path) as receiver:
        await receiver.start(tracer=tracer("delay_enter=500000", tmp_path / "strace.log"))
        await receiver.without_kafka()
        stop, seconds, idle = asyncio.Event(), list[float](), list[float]()
        probing = asyncio.create_task(probe(receiver, stop, idle))
        await asyncio.sleep(2)
        stop.set()
        await probing
        stop.clear()
        probing = asyncio.create_task(probe(receiver, stop, seconds))
        posts = [await receiver.post() for _ in range(5)]
        posts += await asyncio.gather(*(receiver.post() for _ in range(20)))
        stop.set()
        await probing
        receiver.broker.resume()
        p99 = percentile(seconds, 0.99)
        fastest = min(post.t1 - post.t0 for post in posts if post.status != 401)
        sys.stdout.write(
            f"\n{len(seconds)} probes: p50 {percentile(seconds, 0.5) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms,"
            f" max {max(seconds) * 1000:.1f} ms (without any fsync: p99 {percentile(idle, 0.99) * 1000:.1f} ms);"
            f" fastest POST {fastest * 1000:.0f} ms\n"
        )
        assert {post.status for post in posts} <= {204, 401}
        assert fastest >= 0.5
        assert p99 <= PROMPT
        _, report = await receiver.judged()
        assert report.ok, str(report)


async def probe(receiver: Receiver, stop: asyncio.Event, seconds: list[float]) -> None:
    """Ask for something else, every 10 ms, on both listeners."""
    addresses = (f"http://127.0.0.1:{receiver.admin}/readyz", receiver.webhook)
    while not stop.is_set():
        for address in addresses:
            begun = time.monotonic()
            await receiver.client.get(address)
            seconds.append(time.monotonic() - begun)
        await asyncio.sleep(0.01)


# S3


@pytest.mark.parametrize(
    "failing", [pytest.param(each, id=name, marks=QUICK if name == "three" else ()) for name, each in FAILING.items()]
)
@pytest.mark.timeout(600)
async def test_a_failed_fsync_is_never_a_2xx(
    kafka_clusters: ClusterFactory, tmp_path: Path, failing: Sequence[int]
) -> None:
    """EIO once, at any fsync since the start: that request is no 2xx, and we are not ready; with Kafka, all goes on."""
    async with standing(kafka_clusters(1), tmp_path) as receiver:
        unready = list[float]()
        for when in failing:
            log = tmp_path / f"strace-{when}.log"
            await receiver.start(tracer=tracer(f"error=EIO:when={when}", log))
            unready.append(await fail(receiver, when, log))
            receiver.broker.resume()
            await until(receiver.is_ready, within=60)
            await until(lambda: accepted(receiver), within=30)
            assert await asyncio.to_thread(receiver.process.stop) == 0
            await receiver.start()
            await until(lambda: receiver.measures("journal_rows", lambda value: value == 0), within=30)
            assert await receiver.metric("journal_trusted") == 1
            assert await asyncio.to_thread(receiver.process.stop) == 0
        posts, report = await receiver.judged()
        sys.stdout.write(f"{len(posts)} sent\n{report}\n")
        assert report.ok, str(report)
        assert max(unready) <= 1


async def fail(receiver: Receiver, when: int, log: Path) -> float:
    """Kafka stands still; send until one is refused, which must be because of the failed fsync.

    Returns how many seconds later the readiness said no.
    """
    opened, before = await receiver.metric("journal_trusted") == 1, len(receiver.process.output.read_text())
    receiver.broker.pause()
    stop, answers = asyncio.Event(), list[tuple[float, int]]()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch(receiver, stop, answers))
        posts = [await receiver.post()]
        while posts[-1].status in (204, 401) and len(posts) < when + 10:
            posts.append(await receiver.post())
        posts += [await receiver.post() for _ in range(3)]
        stop.set()
    (call,) = injected(log)
    if "/journal>" in call:
        sys.stdout.write(f"fsync {when}: of the folder, which SQLite ignores, and we do ourselves\n")
        return 0.0
    failed = failed_at(receiver.process.output.read_text()[before:])
    unready = min((at for at, status in answers if status == 503 and at >= (failed or 0)), default=math.inf)
    sys.stdout.write(
        f"fsync {when}: {'' if opened else 'the journal cannot be opened; '}request {len(posts) - 3} is refused,"
        f" not ready {'' if failed is None else f'after {unready - failed:.2f} s'}\n"
    )
    assert {post.status for post in posts[-4:]} <= {503, 401}
    assert (failed is not None) == opened
    return 0.0 if failed is None else unready - failed


def injected(log: Path) -> list[str]:
    """The calls that strace made fail, with their files."""
    return [line for line in log.read_text().splitlines() if "(INJECTED)" in line]


async def watch(receiver: Receiver, stop: asyncio.Event, answers: list[tuple[float, int]]) -> None:
    """The readiness, with the time of day, again and again."""
    while not stop.is_set():
        answers.append((time.time(), await receiver.readyz()))
        await asyncio.sleep(0.02)


def failed_at(printed: str) -> float | None:
    """When the journal was given up (seconds since 1970): the one line that says so."""
    lines = [json.loads(line) for line in printed.splitlines() if '"journal.failed"' in line]
    assert len(lines) <= 1
    return datetime.fromisoformat(lines[0]["timestamp"]).timestamp() if lines else None


async def accepted(receiver: Receiver) -> bool:
    """A request is answered 2xx."""
    return 200 <= (await receiver.post()).status < 300
