"""``webex-events events tail``: what is on the bus, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.cli.bus_client import opened_bus_client
from service.core import event
from service.core.message import Message
from service.settings import load
from tests.cli.program import invoke, refusal, running
from tests.cli.records import put
from tests.cli.test_bus_client import running_process
from tests.facts import fact

NOBODY = "No process runs on this journal, so nothing more comes; `webex-events dev` would be one."

Done = subprocess.CompletedProcess[bytes]


def settings_in(folder: Path) -> dict[str, str]:
    """A journal as the bus."""
    return {"BUS": "journal", "JOURNAL__PATH": str(folder / "data"), "ADMIN__PORT": "0"}


def tail(folder: Path, *options: str) -> Done:
    """Run it to its end."""
    return invoke("events", "tail", *options, folder=folder, settings=settings_in(folder))


def shown(done: Done) -> list[Any]:
    """The events of ``-o jsonl``."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def ids(done: Done) -> list[str]:
    """Whom they are about."""
    return [each["data"]["id"] for each in shown(done)]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A journal with three facts, one of them about a meeting, and something that is no event."""
    old = datetime.now(UTC) - timedelta(hours=3)
    put(tmp_path / "data", fact("registered", "ann"), at=old)
    put(tmp_path / "data", fact("approved", "bob"), fact("updated", "it", family="meeting"))
    strange = Message(topic="registrants", key="k", value=b"[1]", partition_by="k")
    put(tmp_path / "data", strange, Message(topic="work", key="k", value=b"{}", partition_by="k"))
    return tmp_path


def test_everything_that_is_there(filled: Path) -> None:
    """Each event as it was written, one a line; what is none is named, without what is in it."""
    done = tail(filled, "--from-beginning")

    assert sorted(ids(done)) == ["ann", "bob", "it"]
    assert next(each for each in shown(done) if each["data"]["id"] == "ann") == json.loads(
        event.encode(fact("registered", "ann"))
    )
    assert done.returncode == 0
    assert refusal(done, 0)[1:] == ["registrants/0, offset 2: no event that this version can read."]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--from-beginning", "--topic", "meetings"), ["it"]),
        (("--from-beginning", "--type", "webex.registrant.*"), ["ann", "bob"]),
        (("--from-beginning", "--type", "*.approved.v1"), ["bob"]),
        (("--since", "1h", "--topic", "registrants"), ["bob"]),
        (("--from-beginning", "--topic", "registrants", "--count", "1"), ["ann"]),
    ],
)
def test_only_what_is_wanted(filled: Path, options: tuple[str, ...], expected: list[str]) -> None:
    """By topic, type, time and number."""
    done = tail(filled, *options)

    assert (ids(done), done.returncode) == (expected, 0)


def test_the_table_has_no_data_in_it(filled: Path) -> None:
    """When, where, what, and about which meeting; nobody's name or address."""
    done = tail(filled, "--from-beginning", "-o", "table", "--topic", "meetings")

    heading, row = done.stdout.decode().splitlines()
    assert heading.split() == ["TIME", "TOPIC", "TYPE", "SUBJECT"]
    assert row.split() == ["2026-03-01T12:00:00.000Z", "meetings", "webex.meeting.updated.v1", f"meetings/{'a' * 32}"]
    assert [heading.index(name) for name in ("TOPIC", "TYPE", "SUBJECT")] == [26, 40, 80]
    assert row.index("meetings") == 26


def test_an_event_in_json_is_one_document(filled: Path) -> None:
    """For people."""
    done = tail(filled, "--from-beginning", "-o", "json", "--topic", "meetings")

    assert json.loads(done.stdout)["type"] == "webex.meeting.updated.v1"
    assert done.stdout.count(b"\n") > 5


@pytest.mark.parametrize("options", [(), ("--from-beginning", "--count", "9")])
def test_nobody_could_write_more(filled: Path, options: tuple[str, ...]) -> None:
    """While we have the journal ourselves nothing comes: said at once, and not waited for."""
    done = tail(filled, *options)

    assert refusal(done, 4)[-1] == NOBODY


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--topic", "work"), "No topic of events: work; there are meetings, registrants, "),
        (("--since", "yesterday"), "--since: 'yesterday' is no time"),
        (("--since", "1h", "--from-beginning"), "--since and --from-beginning exclude each other."),
    ],
)
def test_what_cannot_be_asked(filled: Path, options: tuple[str, ...], said: str) -> None:
    """2, and nothing is read."""
    assert refusal(tail(filled, *options), 2)[0].startswith(said)


def test_no_journal_is_made_in_order_to_look_at_it(tmp_path: Path) -> None:
    """Somebody stands in the wrong folder."""
    assert "there is no journal" in refusal(tail(tmp_path), 2)[0]
    assert not (tmp_path / "data").exists()


async def meanwhile(work: Callable[[int], Coroutine[Any, Any, None]], ask: Callable[[], Done]) -> Done:
    """What ``ask`` gives, which runs while ``work`` is done again and again with the next number."""

    async def again() -> None:
        for number in range(10_000):
            await work(number)
            await asyncio.sleep(0.05)

    working = asyncio.ensure_future(again())
    try:
        return await asyncio.to_thread(ask)
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def test_what_comes_at_a_running_process(filled: Path) -> None:
    """From now on: nothing of what was there before, each once and in its order, until there are enough."""
    settings = load({f"WEBEX_EVENTS_{name}": value for name, value in settings_in(filled).items()})
    async with running_process(settings), opened_bus_client(settings) as bus:

        async def publish(number: int) -> None:
            await bus.publish([event.to_message(fact("registered", f"{number}-{each}")) for each in range(3)])

        done = await meanwhile(publish, lambda: tail(filled, "--count", "30"))

    came = ids(done)
    first = int(came[0].partition("-")[0])
    following = [f"{number}-{each}" for number in range(first, first + 12) for each in range(3)]
    begins = following.index(came[0])
    assert came == following[begins : begins + 30]
    assert done.returncode == 0


async def test_too_few_come_in_time(filled: Path) -> None:
    """4, and how many there were; without a number to wait for the time is simply over."""
    settings = load({f"WEBEX_EVENTS_{name}": value for name, value in settings_in(filled).items()})
    async with running_process(settings):
        wait = ("--from-beginning", "--timeout", "1.5")
        few = await asyncio.to_thread(tail, filled, *wait, "--count", "9")
        over = await asyncio.to_thread(tail, filled, *wait)

    assert refusal(few, 4)[-1] == "3 of 9 events came within 1.5 s."
    assert (len(ids(few)), len(ids(over)), over.returncode) == (3, 3, 0)


async def test_the_process_that_is_asked_goes_away(filled: Path) -> None:
    """1, rather than waiting for what cannot come."""
    settings = load({f"WEBEX_EVENTS_{name}": value for name, value in settings_in(filled).items()})
    async with running_process(settings):
        asking = asyncio.create_task(asyncio.to_thread(tail, filled, "--timeout", "20"))
        await asyncio.sleep(2)
    done = await asking

    assert "the running process did not give its records" in refusal(done, 1)[-1]


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    """As any other program: 130, no traceback; what was shown before is out, though nobody asked for a flush."""
    settings = {**settings_in(tmp_path), "RECEIVER__PORT": "0", "SANDBOX__PORT": "0", "SWEEP__INTERVAL": "1"}
    with running("dev", folder=tmp_path, settings=settings) as dev:
        dev.until("dev.started")
        with running("events", "tail", "--from-beginning", folder=tmp_path, settings=settings) as following:
            following.wait(lambda: [line for line in following.lines if line.startswith("{")], "an event")
            code = following.end(signal.SIGINT)
        dev.end(signal.SIGTERM)

    assert code == 130
    assert not any("Traceback" in line or "Error" in line for line in following.lines)
