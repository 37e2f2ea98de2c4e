"""The receiver on a disk that is full, that fails, or that takes its time. Every 2xx is in Kafka in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from tests.faults.history import Post, Writer, read
from tests.faults.invariants import Bounds, Report, check
from tests.faults.reading import Reader
from tests.faults.sender import Notices
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.harness import Broker, Cluster
from tests.line import SECRET, Process, free_port
from tests.volume import mounted

PREFIX = "disk."

#: What may be: a journal that drains while Kafka comes back sends some records twice.
#: Requests after each start: Kafka has acknowledged something on most lanes before anything is broken.
WARM_UP = 30

BOUNDS = Bounds(duplicates=1000, quiet=60)

#: Requests per second while the journal fills; and MiB of its volume.
RATE = 200.0
VOLUME = 40

#: Seconds in which other answers come while an fsync takes 0.5. On an idle machine p99 is below 0.05 (the figure is
#: printed); a loop that waited for the disk would be at 0.5 on any.
PROMPT = 0.25

#: Which fsync fails; counted from the receiver's start: the first ones are those of opening the journal.
FAILING = (1, 2, 4, 6, 9, 12, 15, 20, 30, 50)


class Receiver:
    """The real process, its journal in ``journal``, one broker, and whatever a sender sees of it."""

    def __init__(self, cluster: Cluster, folder: Path, journal: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.port, self.admin = free_port(), free_port()
        self._environ = {
            "BUS": "kafka",
            "KAFKA__BOOTSTRAP_SERVERS": cluster.bootstrap,
            "KAFKA__TOPIC_PREFIX": PREFIX,
            "WEBHOOK__SECRET": SECRET,
            "WEBEX__TOKEN": "disk-token",
            "RECEIVER__HOST": "127.0.0.1",
            "RECEIVER__PORT": str(self.port),
            "ADMIN__PORT": str(self.admin),
            "JOURNAL__PATH": str(journal),
        }
        self.process = Process("receiver", folder, "serve", "receiver", environ=self._environ)
        self.client = httpx.AsyncClient(timeout=20, trust_env=False)
        self.history = Writer(folder / "posts.jsonl")
        self._notices = Notices(secret=SECRET, keys=20, seed=7)
        self._sender: subprocess.Popen[bytes] | None = None

    @property
    def broker(self) -> Broker:
        """The only one."""
        return self.cluster.brokers[0]

    @property
    def webhook(self) -> str:
        """Where Webex would send to."""
        return f"http://127.0.0.1:{self.port}/webhooks/webex"

    async def prepare(self) -> None:
        """Make the topics."""
        topics = Process("topics", self.folder, "topics", "apply", environ=self._environ)
        topics.start()
        assert await asyncio.to_thread(topics.stop_by_itself) == 0, topics.output.read_text()[-2000:]

    async def start(self, *, tracer: tuple[str, ...] = ()) -> None:
        """Return when it accepts, directly into Kafka."""
        self.process.under = tracer
        self.process.start()
        await until(self.is_ready, within=60)
        await until(lambda: self.measures("producer_healthy", lambda value: value == 1), within=60)
        for _ in range(WARM_UP):
            assert (await self.post()).status in (204, 401)
        await until(lambda: self.measures("journal_rows", lambda value: value == 0), within=30)

    async def without_kafka(self) -> None:
        """Kafka stands still, and the receiver has noticed."""
        self.broker.pause()
        await self.post()
        await until(lambda: self.measures("journal_rows", lambda value: value > 0), within=20)

    async def end(self) -> None:
        """Everything."""
        self.end_load()
        self.process.end()
        self.broker.resume()
        self.history.close()
        await self.client.aclose()

    # What it says

    async def readyz(self) -> int:
        """The status; 0 where there was no answer."""
        with contextlib.suppress(httpx.HTTPError):
            return (await self.client.get(f"http://127.0.0.1:{self.admin}/readyz")).status_code
        return 0

    async def is_ready(self) -> bool:
        """It says that it would store an event."""
        return await self.readyz() == 200

    async def is_not_ready(self) -> bool:
        """It says that it would not."""
        return await self.readyz() == 503

    async def metric(self, name: str) -> float:
        """Of the receiver, with its labels if any; -1 where there is none."""
        text = (await self.client.get(f"http://127.0.0.1:{self.admin}/metrics")).text
        found = re.search(rf"^webex_events_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else -1

    async def measures(self, name: str, fits: Callable[[float], bool]) -> bool:
        """Whether a metric is as it should be."""
        with contextlib.suppress(httpx.HTTPError):
            return fits(await self.metric(name))
        return False

    # What is sent

    async def post(self) -> Post:
        """One signed notification, written down with its answer."""
        notice = self._notices.next()
        headers = {"content-type": "application/json", **notice.headers}
        t0, status = time.monotonic(), 0
        with contextlib.suppress(httpx.HTTPError):
            status = (await self.client.post(self.webhook, content=notice.body, headers=headers)).status_code
        post = Post(
            id=notice.id,
            key=notice.key,
            ctr=notice.ctr,
            status=status,
            t0=t0,
            t1=time.monotonic(),
            topics=notice.topics,
            event=notice.event,
        )
        self.history.write(post)
        return post

    async def refusal(self) -> httpx.Response:
        """The whole answer to a signed notification that nobody counts on."""
        notice = Notices(secret=SECRET, keys=1, seed=99).next()
        headers = {"content-type": "application/json", **notice.headers}
        return await self.client.post(self.webhook, content=notice.body, headers=headers)

    def begin_load(self, rate: float) -> None:
        """So many requests per second, whatever the answers are."""
        command = (sys.executable, "-m", "tests.faults.sender", self.webhook, str(self.folder / "load.jsonl"))
        options = (f"--secret={SECRET}", f"--rate={rate}", "--seed=1")
        with (self.folder / "load.log").open("ab") as log:
            self._sender = subprocess.Popen((*command, *options), stdout=log, stderr=subprocess.STDOUT)

    def end_load(self) -> None:
        """What is under way is waited for."""
        if self._sender is not None:
            self._sender.terminate()
            self._sender.wait(30)
            self._sender = None

    async def judged(self) -> tuple[list[Post], Report]:
        """All that was sent, and the verdict on what is in Kafka."""
        files = [path for name in ("posts.jsonl", "load.jsonl") if (path := self.folder / name).exists()]
        posts = [line for line in read(*files) if isinstance(line, Post)]
        reader = Reader(self.cluster.bootstrap, PREFIX, posts)
        found = await reader.read(until=max(post.t1 for post in posts) + BOUNDS.quiet + 1)
        return posts, check([*posts, *found], BOUNDS)


@contextlib.asynccontextmanager
async def standing(cluster: Cluster, folder: Path, *, mib: int | None = None) -> AsyncIterator[Receiver]:
    """Topics are made, nothing runs but the broker. The journal is on a volume of so many ``mib`` where that is said."""
    with contextlib.ExitStack() as stack:
        journal = folder / "journal"
        if mib is not None:
            stack.enter_context(mounted(journal, mib))
        receiver = Receiver(cluster, folder, journal)
        try:
            await receiver.prepare()
            yield receiver
        except BaseException:
            sys.stderr.write(receiver.process.output.read_text()[-6000:])
            raise
        finally:
            await receiver.end()


async def until(true: Callable[[], Awaitable[bool]], *, within: float) -> float:
    """Wait until it is so; how many seconds that took."""
    begun = time.monotonic()
    while not await true():
        assert time.monotonic() - begun < within, "waited in vain"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


def tracer(inject: str, log: Path) -> tuple[str, ...]:
    """strace, told to do something to every fdatasync: that is the call by which SQLite synchronises."""
    if shutil.which("strace") is None:
        pytest.skip("no `strace` in PATH")
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


@pytest.mark.timeout(900)
async def test_a_failed_fsync_is_never_a_2xx(kafka_clusters: ClusterFactory, tmp_path: Path) -> None:
    """EIO once, at any fsync since the start: that request is no 2xx, and we are not ready; with Kafka, all goes on."""
    async with standing(kafka_clusters(1), tmp_path) as receiver:
        unready = list[float]()
        for when in FAILING:
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
        while posts[-1].status in (204, 401) and len(posts) < max(FAILING) + 10:
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
