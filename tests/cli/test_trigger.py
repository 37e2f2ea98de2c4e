"""`trigger`: whatever Webex sends, as Webex would send it, to a real receiver."""

from __future__ import annotations

import json
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.bus.journal import Journal
from service.bus.journal_file import Stored
from service.core.event import TOPICS
from service.core.resources import FAMILIES
from tests.cli.program import ANY_PORT, Running, invoke, refusal, run, running

SECRET = "trigger-secret-1"
SERIES = "0123456789abcdef0123456789abcdef"
EVENTS = [f"{resource}.{verb}" for resource, family in FAMILIES.items() for verb in sorted(family.verbs)]


@dataclass
class Receiver:
    """`serve receiver` on a journal, and how often it answered 2xx to what."""

    process: Running
    folder: Path
    url: str
    accepted: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A real one, for all tests of this module."""
    folder = tmp_path_factory.mktemp("receiver")
    with running("serve", "receiver", folder=folder, settings={**ANY_PORT, "WEBHOOK__SECRET": SECRET}) as process:
        (started,) = process.until("receiver.started")
        yield Receiver(process, folder, started["webhook"])


@pytest.mark.parametrize("what", EVENTS)
def test_every_event_is_accepted(tmp_path: Path, receiver: Receiver, what: str) -> None:
    """2xx for all that Webex knows."""
    arguments = ("trigger", what, "--meeting", SERIES, "--url", receiver.url)
    done = invoke(*arguments, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET})

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{what} about meeting {SERIES}: answered 204\n"
    receiver.accepted[what] += 1


def test_fields_can_be_set(tmp_path: Path, receiver: Receiver) -> None:
    """`--data` says what the notification is to say."""
    arguments = ("trigger", "meetings.updated", "--url", receiver.url, "--data", '{"title": "Ünï", "recurrence": null}')
    assert run(*arguments, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}).returncode == 0
    receiver.accepted["meetings.updated"] += 1


def test_another_secret_is_1(tmp_path: Path, receiver: Receiver) -> None:
    """The receiver's answer is shown; the secret is not."""
    arguments = ("trigger", "meetings.updated", "--url", receiver.url)
    done = run(*arguments, folder=tmp_path, settings={"WEBHOOK__SECRET": "another-secret"})

    assert done.returncode == 1
    assert done.stdout.decode().endswith(": answered 401\n")
    assert b"another-secret" not in done.stdout + done.stderr


def test_nobody_listening_is_4(tmp_path: Path) -> None:
    """With the address that was tried, and what to start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/webhooks/webex"
    done = run("trigger", "meetings.updated", "--url", url, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET})

    assert refusal(done, 4) == [f"Nobody answered at {url} (ConnectError). Is `webex-events dev` running?"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["meetings.exploded"], "Webex sends no 'meetings.exploded'; it sends meetings.created, ", id="event"
        ),
        pytest.param(["meeting.updated"], "Webex sends no 'meeting.updated'; it sends ", id="resource"),
        pytest.param(["meetings"], "Webex sends no 'meetings'; it sends ", id="no event"),
        pytest.param(["meetings.updated", "--meeting", "5"], "a meeting series id is 32 ", id="meeting"),
        pytest.param(["meetings.updated", "--data", "[1]"], "--data is no JSON object", id="not an object"),
        pytest.param(["meetings.updated", "--data", "{"], "--data is no JSON object", id="not JSON"),
        pytest.param(
            ["meetings.updated", "--url", "ftp://x/"], "Request URL has an unsupported protocol", id="not http"
        ),
        pytest.param(["meetings.updated", "--url", "http://127.0.0.1:port/"], "Invalid port: ", id="no address"),
    ],
)
def test_wrong_words_are_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    """What was wrong in one sentence; for a name, everything that would have been right."""
    (line,) = refusal(invoke("trigger", *arguments, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}), 2)

    assert line.startswith(said)
    assert "it sends" not in said or all(what in line for what in EVENTS)


def test_without_a_secret_it_says_what_to_do(tmp_path: Path) -> None:
    """Before anything is sent."""
    (line,) = refusal(invoke("trigger", "meetings.updated", folder=tmp_path), 2)

    assert line.startswith("Set WEBEX_EVENTS_WEBHOOK__SECRET, or start `webex-events dev` first")


async def test_afterwards_all_of_it_is_on_the_topics(receiver: Receiver) -> None:
    """The receiver ends in order; everything that was answered 2xx is on its family's topic and nothing is quarantined."""
    assert receiver.process.end(signal.SIGTERM) == 0
    stored: list[Stored] = []
    async with await Journal.open(receiver.folder / "data") as journal:
        quarantined = await journal.rows("quarantine")
        for topic in set(TOPICS.values()):
            stored += await journal.read(topic, 0, 1000)

    assert quarantined == 0
    types = Counter(json.loads(each.message.value or b"{}")["type"] for each in stored)
    expected: Counter[str] = Counter()
    for what, count in receiver.accepted.items():
        resource, verb = what.split(".")
        expected[f"webex.{FAMILIES[resource].name}.{verb}.v1"] += count
    assert types == expected
