"""Signed webhooks on a fixed timetable, whatever the answers are: ``python -m tests.faults.sender URL HISTORY``.

A process of its own, so that it neither slows down nor is slowed down by what it measures. Open loop: request *n* is due
at ``n / rate`` seconds, and how long it took is counted from then. SIGTERM ends it: what is under way is waited for.

Every request has an id of its own and a number that counts up for its key; both stand in ``data.rig`` and come out at the
other end. What it sends is a mixture: events with and without a hint, some that are not understood (quarantine), and
some with a wrong signature, which must come out nowhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.core.notification import accept
from service.core.signature import sign
from tests.faults.history import Post, Writer

#: Seconds that an answer may take before the sender gives up, as Webex would.
PATIENCE = 15.0

#: Connections that are open before the first request, so that requests arrive in the order in which they are sent.
READY = 64

#: Seconds after which an idle connection is not used any more: a server may end it just when the next request is on its way.
IDLE = 30.0

#: Weight, resource, event, topics. None of them is ``updated``: its id has the minute of its arrival in it.
MIXTURE = (
    (40, "meetings", "started", ("meetings", "work")),
    (15, "meetings", "ended", ("meetings", "work")),
    (30, "meetingParticipants", "joined", ("participants",)),
    (8, "recordings", "created", ("recordings",)),
    (4, "registrants", "registered", ("registrants", "work")),
    (2, "telepathy", "received", ("quarantine",)),
)

#: One request in so many has a wrong signature.
FORGED = 100


@dataclass(frozen=True)
class Notice:
    """One request to be. ``event`` is the id that its event will have."""

    id: str
    key: str
    ctr: int
    topics: tuple[str, ...]
    event: str
    body: bytes
    headers: dict[str, str]


class Notices:
    """Makes requests; the same ``seed`` gives the same ones."""

    def __init__(self, *, secret: str, keys: int, seed: int) -> None:
        self._secret = secret.encode()
        self._chance = random.Random(seed)  # noqa: S311 - not a secret
        self._series = [f"{self._chance.getrandbits(128):032x}" for _ in range(keys)]
        self._run = f"{self._chance.getrandbits(32):08x}"
        self._counters: dict[str, int] = defaultdict(int)
        self._made = 0

    def next(self) -> Notice:
        """The next one."""
        self._made += 1
        id_ = f"{self._run}-{self._made}"
        series = self._chance.choice(self._series)
        _, resource, verb, topics = self._chance.choices(MIXTURE, [row[0] for row in MIXTURE])[0]
        # Each family has an order of its own; what is not understood has none, its key is its id.
        key = id_ if topics == ("quarantine",) else f"{series}/{topics[0]}"
        self._counters[key] += 1
        body = self._body(id_, series, resource, verb, self._counters[key])
        forged = self._made % FORGED == 0
        return Notice(
            id=id_,
            key=key,
            ctr=self._counters[key],
            topics=topics,
            event=accept(body, received=datetime.now(UTC), receiver="rig").event.id,
            body=body,
            headers=sign(body, b"not the secret" if forged else self._secret),
        )

    def _body(self, id_: str, series: str, resource: str, verb: str, ctr: int) -> bytes:
        """About 1.5 kB, as Webex's are."""
        place = {"id": f"{series}_I_{100_000 + ctr}"} if resource == "meetings" else {"id": id_, "meetingId": series}
        envelope = {
            "id": "Y2lzY29zcGFyazovL3VzL1dFQkhPT0svcmln",
            "name": "rig",
            "targetUrl": "https://example.com/webhooks/webex",
            "resource": resource,
            "event": verb,
            "orgId": "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi9yaWc",
            "ownedBy": "creator",
            "status": "active",
            "created": "2026-01-10T09:00:00.000Z",
            "data": {**place, "hostEmail": "host@example.com", "title": "x" * 900, "rig": {"id": id_, "ctr": ctr}},
        }
        return json.dumps(envelope).encode()


class _Connection:
    """One kept-alive HTTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._used = time.monotonic()

    @property
    def usable(self) -> bool:
        return time.monotonic() - self._used < IDLE and not (self.reader.at_eof() or self.writer.is_closing())

    async def status(self) -> int:
        """Read one answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
        await self.reader.readexactly(length)
        self._used = time.monotonic()
        return int(lines[0].split()[1])


class Sender:
    """Sends what is due, and writes down what came of it."""

    def __init__(self, url: str, history: Writer) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._history = history
        self._idle: list[_Connection] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, notices: Notices, *, rate: float, stop: asyncio.Event) -> None:
        """Until ``stop`` is set or the parent is gone, and what is under way has ended."""
        parent = os.getppid()
        self._idle = [await self._open() for _ in range(READY)]
        began, number = time.monotonic() + 0.1, 0
        notice = notices.next()
        while not stop.is_set() and os.getppid() == parent:
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._post(notice, due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            number, notice = number + 1, notices.next()
        if self._under_way:
            await asyncio.wait(self._under_way)
        for connection in self._idle:
            connection.writer.close()

    async def _open(self) -> _Connection:
        return _Connection(*await asyncio.open_connection(self._host, self._port))

    async def _connected(self) -> _Connection:
        while self._idle:
            if (connection := self._idle.pop()).usable:
                return connection
            connection.writer.close()
        return await self._open()

    async def _post(self, notice: Notice, due: float) -> None:
        t0, status = time.monotonic(), 0
        connection = None
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await self._connected()
                t0 = time.monotonic()
                connection.writer.write(self._request(notice))
                status = await connection.status()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            if connection is not None:
                connection.writer.close()
        else:
            self._idle.append(connection)
        self._history.write(
            Post(
                id=notice.id,
                key=notice.key,
                ctr=notice.ctr,
                status=status,
                t0=t0,
                t1=time.monotonic(),
                due=due,
                topics=notice.topics,
                event=notice.event,
            )
        )

    def _request(self, notice: Notice) -> bytes:
        lines = [
            f"POST {self._path} HTTP/1.1",
            f"host: {self._host}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(notice.body)}",
            *(f"{name}: {value}" for name, value in notice.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + notice.body


async def _run(arguments: Any) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notices = Notices(secret=arguments.secret, keys=arguments.keys, seed=arguments.seed)
    with Writer(arguments.history) as history:
        await Sender(arguments.url, history).run(notices, rate=arguments.rate, stop=stop)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sender", description="Send webhooks on a timetable.")
    parser.add_argument("url")
    parser.add_argument("history", type=Path)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(_run(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
