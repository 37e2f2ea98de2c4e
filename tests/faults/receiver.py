"""The real receiver with a journal of its own and one broker, and whatever a sender sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx

from tests.faults.history import Post, Writer, read
from tests.faults.invariants import Bounds, Report, check
from tests.faults.reading import Reader
from tests.faults.sender import Notices
from tests.kafka.harness import Broker, Cluster
from tests.line import SECRET, Process
from tests.ports import free_port
from tests.volume import mounted

PREFIX = "alone."

#: What may be: a journal that drains while Kafka comes back sends some records twice; what is refused is none of it.
BOUNDS = Bounds(duplicates=1000, letters=0, quiet=60)

#: Requests after each start: Kafka has acknowledged something on most lanes before anything is broken.
WARM_UP = 30


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
