"""`dev`: the whole product in one process, as a newcomer meets it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bus.journal import Journal
from tests.cli.program import ANY_PORT, Running, environment, running

LIVELY = {**ANY_PORT, "SANDBOX__PACE": "0.05", "SWEEP__INTERVAL": "1"}
#: Hardly anybody registers, and no sweep comes round: the processor looks when a test makes it look.
QUIET = {**ANY_PORT, "SANDBOX__PACE": "86400", "SWEEP__INTERVAL": "604800", "LOG__LEVEL": "debug"}
#: What ends one after the other, each with a line in the log.
STEPS = ["requests", "work", "commands", "calls", "probes", "sandbox", "journal"]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def started(process: Running) -> dict[str, Any]:
    """What `dev` says when everything is there."""
    line: dict[str, Any] = process.until("dev.started")[0]
    return line


def control(dev: dict[str, Any], path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the sandbox, past Webex's operations; with a body: tell it."""
    url = dev["webex"].removesuffix("/v1") + f"/sandbox/{path}"
    with httpx.Client(trust_env=False, timeout=10) as client:
        answer = client.post(url, json=body) if body else client.get(url)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def approved(process: Running) -> dict[str, str]:
    """Those whom the policy has approved so far, each with the series of the meeting."""
    return {line["registrant"]: line["series"] for line in process.events("registrant.approved")}


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end it in order; after a restart people go on registering, and nobody is approved twice.

    Meetings of the first run are looked at without another webhook about them.
    """
    with running("dev", folder=tmp_path, settings=LIVELY) as first:
        first.until("registrant.approved", 5)
        assert first.end(signal.SIGINT) == 0
    before = approved(first)
    with running("dev", folder=tmp_path, settings=LIVELY) as second:
        dev = started(second)
        known = set(before.values())
        second.wait(lambda: [1] if known & set(approved(second).values()) else [], "a look at a known meeting")
        effects = control(dev, "ledger")["effects"]
        assert second.end(signal.SIGTERM) == 0
    after = approved(second)

    assert not before.keys() & after.keys()
    assert before.keys() <= effects.keys()
    assert {effects[one]["approved"] for one in before} == {1}
    assert max(one["approved"] + one["rejected"] for one in effects.values()) == 1
    assert {one["repeated"] for one in effects.values()} == {0}
    said = [json.loads(line) for line in second.lines]
    end = said[[line["event"] for line in said].index("dev.stopping") :]
    assert [line["step"] for line in end if line["event"] == "shutdown.step"] == STEPS
    assert end[-1]["event"] == "process.stopped"
    assert (tmp_path / "data" / "dev-webhook-secret").stat().st_mode & 0o077 == 0
    assert facts(tmp_path) >= before.keys() | after.keys()


def facts(folder: Path) -> set[str]:
    """The registrants who were approved, by the facts on the bus: one of each kind for everybody."""
    events = [json.loads(value) for value in asyncio.run(published(folder))]
    assert len({event["id"] for event in events}) == len(events)
    told = Counter((event["type"], event["data"]["id"]) for event in events)
    assert set(told.values()) == {1}
    return {registrant for kind, registrant in told if kind == "webex.registrant.approved.v1"}


async def published(folder: Path) -> list[bytes]:
    """Everything on the topic of registrants."""
    async with await Journal.open(folder / "data") as journal:
        return [row.message.value or b"" for row in await journal.read("registrants", 0, 100_000)]


def test_the_line_to_try_works_as_it_is_printed(tmp_path: Path) -> None:
    """It is typed in another terminal, knows neither ports nor secret by itself, and makes the processor look."""
    with running("dev", folder=tmp_path, settings=QUIET) as process:
        dev = started(process)
        process.until("look.finished")  # because of the webhook about the new meeting
        meeting = process.events("sandbox.meeting_created")[0]["meeting_id"]
        assert not process.events("registrant.registered")
        people = control(dev, "people", {"meetingId": meeting, "count": 2, "domain": "example.org"})["ids"]
        tried = subprocess.run(
            ("sh", "-c", dev["try_in_another_terminal"]),
            cwd=tmp_path,
            env=environment({}),
            capture_output=True,
            timeout=30,
            check=False,
        )

        assert (tried.returncode, tried.stderr) == (0, b"")
        assert tried.stdout.decode() == f"meetings.updated about meeting {meeting}: answered 204\n"
        process.wait(lambda: [1] if set(people) <= approved(process).keys() else [], "the look")
        acted = [each for each in process.until("registrants.acted") if each["verb"] == "approve"]
        assert sum(each["confirmed"] for each in acted) >= 2
        assert process.end(signal.SIGTERM) == 0


def test_another_folder_is_a_part_of_the_line_to_try(tmp_path: Path) -> None:
    """Where the made-up secret is not in ./data, the line says where; no line has the secret."""
    settings = {**QUIET, "JOURNAL__PATH": str(tmp_path / "my journal")}
    with running("dev", folder=tmp_path, settings=settings) as process:
        line = started(process)["try_in_another_terminal"]
        assert process.end(signal.SIGTERM) == 0

    assert line.startswith(f"WEBEX_EVENTS_JOURNAL__PATH='{tmp_path}/my journal' ")
    secret = (tmp_path / "my journal" / "dev-webhook-secret").read_text()
    assert len(secret) == 40
    assert secret not in "\n".join(process.lines)


#: Runs a program on a terminal of its own; what comes on stdin is typed there.
TERMINAL = (
    sys.executable,
    "-c",
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
)


def test_on_a_terminal_it_is_for_people(tmp_path: Path) -> None:
    """Coloured lines, a block with an address a line, the command to copy on a line of its own, and Ctrl-C ends it."""
    with running("dev", folder=tmp_path, settings={**QUIET, "LOG__LEVEL": "info"}, before=TERMINAL) as process:
        process.wait(lambda: [line for line in process.lines if "sandbox.webhook_delivered" in line], "the webhook")
        assert process.process.stdin is not None
        process.process.stdin.write(b"\x03")
        process.process.stdin.flush()
        assert process.ended() == 0

    shown = [COLOUR.sub("", line) for line in process.lines]
    text = "\n".join(shown)
    assert any(line != plain for line, plain in zip(process.lines, shown, strict=True))
    assert re.search(r"^  Webhooks go to: +http://127\.0\.0\.1:\d+/webhooks/webex$", text, re.MULTILINE)
    assert re.search(r"^  Simulated Webex: +http://127\.0\.0\.1:\d+/v1$", text, re.MULTILINE)
    assert re.search(
        r"^  \S*webex-events trigger meetings\.updated --meeting [0-9a-f]{32} --url \S+$", text, re.MULTILINE
    )
    assert "Ctrl-C ends it" in text
    assert re.search(r"webhook\.accepted +id=[0-9a-f]{8}… ", text)
    assert text.index("Webhooks go to") < text.index("webhook.accepted") < text.index("dev.stopping")
    for noise in ("{", "Traceback", "dev.started", "traceparent"):
        assert noise not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_can_be_ended_as_soon_as_it_speaks(tmp_path: Path, number: signal.Signals) -> None:
    """A signal during the start is obeyed too."""
    with running("dev", folder=tmp_path, settings=LIVELY) as process:
        process.until("ledger.restored")
        assert process.end(number) == 0
    assert "Traceback" not in "\n".join(process.lines)
