"""Refused requests: what is kept of them, how little that costs, and what happens when it cannot be kept."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.core.rejects import Reject
from service.core.signature import ANYBODY, Secret, SignatureMode, sign
from service.receiver.rejects import Keeping, Rejects
from service.receiver.rejects_file import NEWER, OLDER, read_rejects

START = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
KEY = b"canary-live-secret"
BODY = b'{"id":"x","email":"canary@example.org","password":"canary-password"}'


@dataclass
class Desk:
    """A store in a folder, with a clock that stands still unless it is moved; every batch is written at once."""

    folder: Path
    keeping: Keeping = field(default_factory=Keeping)
    now: datetime = START
    secrets: Callable[[], list[Secret]] = lambda: [Secret(KEY, {ANYBODY: "current"})]
    rejects: Rejects = field(init=False)

    def __post_init__(self) -> None:
        self.rejects = Rejects(
            folder=self.folder,
            secrets=self.secrets,
            mode=SignatureMode.AUTO,
            now=lambda: self.now,
            keeping=self.keeping,
        )

    def refuse(self, body: bytes = BODY, source: str = "192.0.2.7", **headers: bytes) -> None:
        """One request is refused."""
        pairs = tuple((name.replace("_", "-").encode(), value) for name, value in headers.items())
        self.rejects.keep(reason="badSignature", headers=pairs, body=body, source=source)

    async def write(self, *, seconds: float = 0.03) -> list[Reject]:
        """The store runs for a moment and ends; what there is then."""
        running = asyncio.create_task(self.rejects.run(interval=0.01))
        await asyncio.sleep(seconds)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self.found()

    def write_now(self) -> None:
        """One batch, without waiting for its time."""
        self.rejects._write(*self.rejects._taken())

    def found(self) -> list[Reject]:
        """What there is."""
        return read_rejects(self.folder, oldest=LONG_AGO)

    def files(self) -> set[str]:
        """Their names."""
        return {each.name for each in self.folder.iterdir()}

    def pass_by(self, **span: float) -> None:
        """Time passes."""
        self.now += timedelta(**span)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_what_is_kept(desk: Desk) -> None:
    """Enough to find out why; nothing of the signature, the body or the secret."""
    spark, webex = (value.encode() for value in sign(BODY + b"\n", KEY).values())
    desk.refuse(
        x_spark_signature=spark,
        x_webex_signature=webex,
        content_type=b"application/json; charset=utf-8",
        user_agent=b"relay/1.2",
        authorization=b"Bearer canary-token",
        cookie=b"canary-cookie",
    )
    (kept,) = await desk.write()

    assert (kept.reason, kept.diagnosis, kept.time, kept.last, kept.count) == (
        "badSignature",
        "bodyAltered",
        START,
        START,
        1,
    )
    assert (kept.source, kept.content_type, kept.user_agent) == (
        "192.0.2.7",
        "application/json; charset=utf-8",
        "relay/1.2",
    )
    assert kept.signatures == {
        "X-Spark-Signature": "40 hex digits",
        "X-Webex-Signature": "SHA-256=64 hex digits, SHA-512=128 hex digits",
    }
    assert kept.body_bytes == len(BODY)
    text = (desk.folder / NEWER).read_text("utf-8")
    assert "canary" not in text
    assert spark.decode() not in text
    assert '"body"' not in text


async def test_only_the_owner_may_read_it(desk: Desk) -> None:
    """Also where the file was there before, open to everybody."""
    (desk.folder / NEWER).touch(mode=0o666)
    (desk.folder / NEWER).chmod(0o666)
    desk.refuse()
    await desk.write()

    assert (desk.folder / NEWER).stat().st_mode & 0o777 == 0o600


async def test_bodies_only_when_asked_for(tmp_path: Path) -> None:
    """REJECTS__BODIES=true: then the whole body is there."""
    desk = Desk(tmp_path, Keeping(bodies=True))
    desk.refuse(b"\xff\x00")
    (kept,) = await desk.write()

    assert kept.body == "/wA="


HOSTILE = b'\r\n{"id":"forged"}\n\x1b[2J\xc2\x9b31m\xe2\x80\xae", "x": "<script>\x00'


async def test_what_strangers_write_breaks_no_line(desk: Desk) -> None:
    """CR, LF, ANSI, JSON, HTML and nothing at all in headers and address: one record, of harmless characters (X5)."""
    desk.refuse(
        HOSTILE,
        source=HOSTILE.decode(),
        x_spark_signature=HOSTILE,
        x_webex_signature=b",".join([HOSTILE, b"SHA-256=", b"canary=1", b"", b"v1=abc", b"x"]),
        content_type=HOSTILE * 100,
        user_agent=HOSTILE,
    )
    (kept,) = await desk.write()
    (line,) = (desk.folder / NEWER).read_bytes().splitlines()

    assert json.loads(line)["id"] == kept.id
    shown = kept.source + kept.content_type + kept.user_agent + repr(kept.signatures)
    assert shown.isprintable()
    assert shown.isascii()
    assert not set(shown) & set('"<>\\\x1b')
    assert len(kept.content_type) <= 120
    assert "canary" not in line.decode()


async def test_those_alike_are_counted(desk: Desk) -> None:
    """All the same: one record with its first and its last time; another source, body or signature is another."""
    for _ in range(5):
        desk.refuse()
        desk.pass_by(seconds=1)
    desk.refuse(source="192.0.2.8")
    desk.refuse(b"another")
    desk.refuse(x_spark_signature=b"0" * 40)
    desk.refuse(x_spark_signature=b"1" * 40)
    first, *others = await desk.write()

    assert (first.count, first.time, first.last) == (5, START, START + timedelta(seconds=4))
    assert [each.count for each in others] == [1, 1, 1, 1]


async def test_a_count_goes_on_growing(desk: Desk) -> None:
    """Batch after batch it is the same record; written when it has doubled, after a minute, and at the end."""
    sizes: list[int] = []
    for _ in range(8):
        desk.refuse()
        desk.write_now()
        sizes.append((desk.folder / NEWER).read_bytes().count(b"\n"))
    before = desk.found()[0].count
    desk.pass_by(minutes=1)
    desk.refuse()
    desk.write_now()
    desk.refuse()
    (after,) = await desk.write()

    assert sizes == [1, 2, 2, 3, 3, 3, 3, 4]
    assert (before, after.count) == (8, 10)


async def test_after_an_hour_it_is_another_record(desk: Desk) -> None:
    """What goes wrong every day is seen every day."""
    desk.refuse()
    await desk.write()
    desk.pass_by(hours=1)
    desk.refuse()

    assert [each.time for each in await desk.write()] == [START, START + timedelta(hours=1)]


async def test_a_flood_is_counted(desk: Desk) -> None:
    """20 at once, then one a second; how many were left out stands in those that come next."""
    for n in range(1000):
        desk.refuse(str(n).encode())
    await desk.write()
    desk.pass_by(seconds=3)
    for n in range(10):
        desk.refuse(b"later %d" % n)
    kept = await desk.write()

    assert len(kept) == 23
    assert sum(each.left_out for each in kept) == 980


async def test_what_waits_is_bounded(desk: Desk) -> None:
    """Bodies of 64 KiB do not pile up between two batches."""
    for n in range(200):
        desk.refuse(n.to_bytes(2, "big") * 32_768)
    waiting, left_out = desk.rejects._taken()

    assert (len(waiting), left_out) == (32, 168)


async def test_the_store_is_bounded(tmp_path: Path) -> None:
    """``most`` records in two files, the newest of them; a reader finds none twice."""
    desk = Desk(tmp_path, Keeping(most=10))
    for n in range(30):
        desk.refuse(str(n).encode())
        desk.pass_by(seconds=1)
        desk.write_now()
    lines = [(tmp_path / name).read_bytes().count(b"\n") for name in (NEWER, OLDER)]
    kept = await desk.write()

    assert all(1 <= count <= 5 for count in lines)
    assert [each.time for each in kept] == sorted(each.time for each in kept)
    assert kept[-1].time == START + timedelta(seconds=29)


@pytest.mark.parametrize("most", [0, 1])
async def test_nothing_and_one(tmp_path: Path, most: int) -> None:
    """0 keeps none, and makes no file."""
    desk = Desk(tmp_path, Keeping(most=most))
    desk.refuse(b"1")
    desk.refuse(b"2")
    kept = await desk.write()

    assert len(kept) <= 2 * most
    assert bool(desk.files()) == bool(most)


async def test_what_is_old_goes(desk: Desk) -> None:
    """A record is taken out of both files when it is older than it may be, even if nothing else comes."""
    desk.keeping = Keeping(most=10, retention=timedelta(days=7))
    desk.__post_init__()
    for n in range(8):
        desk.refuse(str(n).encode())
    await desk.write()
    desk.pass_by(days=6)
    desk.refuse(b"young")
    desk.write_now()
    desk.pass_by(days=1, seconds=1)
    desk.write_now()

    assert [each.time for each in desk.found()] == [START + timedelta(days=6)]
    assert (desk.folder / NEWER).read_bytes().count(b"\n") == 1
    assert not (desk.folder / OLDER).exists()
    assert desk.files() == {NEWER}


async def test_a_torn_line_is_left_out(desk: Desk) -> None:
    """A process died while it wrote: what comes after stands on a line of its own."""
    desk.refuse(b"1")
    await desk.write()
    with (desk.folder / NEWER).open("ab") as stream:
        stream.write(b'{"id":"torn","ti')
    desk.refuse(b"2")
    desk.pass_by(seconds=1)
    kept = await desk.write()

    assert len(kept) == 2
    assert len((desk.folder / NEWER).read_bytes().splitlines()) == 3


@pytest.mark.parametrize("lack", ["no folder", "a folder in its place"])
async def test_without_a_place_they_wait_in_memory(tmp_path: Path, lack: str) -> None:
    """One warning, no error; when there is a place they are written."""
    folder = tmp_path / "data"
    if lack == "a folder in its place":
        (folder / NEWER).mkdir(parents=True)
    desk = Desk(folder)
    with capture_logs() as logs:
        for n in range(3):
            desk.refuse(str(n).encode())
            desk.write_now()
    if lack == "no folder":
        folder.mkdir()
    else:
        (folder / NEWER).rmdir()

    assert [(each["event"], each["log_level"]) for each in logs] == [("rejects.in_memory", "warning")]
    assert len(await desk.write()) == 3


async def test_a_link_is_not_followed(desk: Desk) -> None:
    """Nobody can have us write into another file by putting a link into the folder; it is replaced, or refused."""
    precious = desk.folder / "precious"
    precious.write_text("precious\n")
    for _ in range(2):
        desk.refuse()
        (desk.folder / NEWER).unlink(missing_ok=True)
        (desk.folder / NEWER).symlink_to(precious)
        desk.write_now()

    assert precious.read_text() == "precious\n"


async def test_a_bug_ends_nothing(tmp_path: Path) -> None:
    """Whatever fails in here is logged without its message, and the loop goes on."""
    desk = Desk(tmp_path, secrets=lambda: [][0])
    with capture_logs() as logs:
        desk.refuse()
        running = asyncio.create_task(desk.rejects.run(interval=0.01))
        await asyncio.sleep(0.05)
        ended = running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert not ended
    assert [(each["event"], each["error"]) for each in logs] == [("rejects.failed", "IndexError")]


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """The file is a pipe without an end: requests go on being taken, and the end waits a second at most."""
    os.mkfifo(tmp_path / NEWER)
    pipe = os.open(tmp_path / NEWER, os.O_RDWR)
    desk = Desk(tmp_path)
    desk.refuse()
    running = asyncio.create_task(desk.rejects.run(interval=0.01))
    await asyncio.sleep(0.1)
    hangs = any(each.name.startswith("asyncio_") for each in threading.enumerate())
    for n in range(1000):
        desk.refuse(str(n).encode())
    before = time.monotonic()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    took = time.monotonic() - before
    (tmp_path / NEWER).unlink()
    os.close(pipe)

    assert hangs
    assert 0.9 < took < 2


def test_it_is_cheap(desk: Desk) -> None:
    """A refusal costs microseconds of the loop, and less in a flood (0.6 and 0.1 µs on an idle machine)."""
    before = time.process_time()
    for _ in range(10_000):
        desk.refuse(source="192.0.2.7")

    assert (time.process_time() - before) / 10_000 < 20e-6


async def test_a_foreign_line_is_left_out(tmp_path: Path) -> None:
    """A time without a zone cannot be compared, and one such line must not keep all others from being read."""
    desk = Desk(tmp_path)
    desk.refuse(BODY)
    kept = await desk.write()
    line = (tmp_path / NEWER).read_bytes()
    foreign = json.loads(line) | {"id": "00000000000f", "time": "2026-01-10T09:00:00", "last": "2026-01-10T09:00:00"}
    (tmp_path / NEWER).write_bytes(json.dumps(foreign).encode() + b"\n" + line)
    assert read_rejects(tmp_path, oldest=LONG_AGO) == kept
