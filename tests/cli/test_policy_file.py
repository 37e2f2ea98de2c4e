"""The policy file while the process runs: a good new version is taken, a bad one is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.cli.policy_file import MAX_BYTES, LivePolicy, read_policy
from service.core.errors import PolicyError, SettingsError
from service.core.meetings import Meeting
from service.core.policy import HOLD_EVERYTHING, LARGEST_LIST, Counts
from service.core.registrants import Registrant

# ruff: noqa: ASYNC240 - small files; nothing else goes on in these loops

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIRST = "version: 1\ndefault: hold\n"
SECOND = "version: 1\ndefault: approve\npaused: true\n"
BAD = "version: 1\ndefault: maybe\n"
LISTED = """
version: 1
lists: {vips: {file: vips.txt}}
rules: [{name: vips, when: registrant.emailAddress in lists.vips, then: approve}]
"""


async def look_twice(live: LivePolicy) -> None:
    """What two looks in a row show is taken."""
    await live.refresh()
    await live.refresh()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy."""
    file = tmp_path / "policy.yaml"
    file.write_text(FIRST)
    return file


async def test_a_good_version_is_taken(file: Path) -> None:
    """With its pause, and once: what stays as it is is not read anew."""
    live = LivePolicy(file)
    before = live()
    file.write_text(SECOND)
    with capture_logs() as logs:
        await look_twice(live)
        taken = live()
        await live.refresh()

    assert (before.paused, taken.paused, live() is taken) == (False, True, True)
    assert [(line["event"], line["policy"], line["paused"], line["shadow"]) for line in logs] == [
        ("policy.changed", taken.version, True, False)
    ]


async def test_the_metrics_know_what_became_of_a_new_version(file: Path) -> None:
    """A bad one is refused until it is mended; when the one in force was read is not when somebody last tried."""
    live = LivePolicy(file)
    began, seen = live.taken, [live.refused]
    for text in (BAD, FIRST, SECOND):
        file.write_text(text)
        await look_twice(live)
        seen.append(live.refused)
        assert (live.taken > began) == (text == SECOND)

    assert seen == [False, True, False, False]


async def test_what_is_still_being_written_is_not_taken(file: Path) -> None:
    """Half a file may be a policy too: a version counts when two looks in a row show it."""
    live = LivePolicy(file)
    for text in ("version: 1\ndefault: reject\n", FIRST, "version: 1\ndefault: reject\n", BAD, SECOND):
        file.write_text(text)
        await live.refresh()
        assert live().default == "hold"

    await live.refresh()

    assert live().default == "approve"


@pytest.fixture
def listed(file: Path) -> Path:
    """A policy with a list in a file of its own."""
    file.write_text(LISTED)
    (file.parent / "vips.txt").write_text("ann@example.org\n")
    return file


def asked(live: LivePolicy, email: str) -> str:
    """What the policy in force says of somebody."""
    registrant = Registrant(id="r", status="pending", email=email, registered=None, fields={})
    meeting, counts = Meeting(id="m", title="", fields={}), Counts(approved=0, pending=1, capacity=None)
    return live().decide(registrant, meeting=meeting, counts=counts, now=NOW).outcome


async def test_a_list_that_changed_is_another_version(listed: Path) -> None:
    """Lists are re-read like the policy itself, and named by its version."""
    live = LivePolicy(listed)
    before = live().version
    assert (asked(live, "ann@example.org"), asked(live, "bob@example.org")) == ("approve", "hold")

    (listed.parent / "vips.txt").write_text("# nobody else\nBob@Example.org  # on 3 May\r\n")
    await look_twice(live)

    assert (asked(live, "ann@example.org"), asked(live, "bob@example.org")) == ("hold", "approve")
    assert live().version != before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, 'line 3, column 22: the file "vips.txt" cannot be read', id="gone"),
        pytest.param(b"\xff", 'line 3, column 22: the file "vips.txt" cannot be read', id="not UTF-8"),
        pytest.param(b"#" * (LARGEST_LIST + 1), 'line 3, column 22: the file "vips.txt" cannot be read', id="large"),
        pytest.param(b"ann\n", 'line 3, column 22: vips.txt, line 1: "ann" never equals', id="no address"),
        pytest.param(b"\x1b[31m\n", "line 3, column 22: vips.txt, line 1: an entry has", id="a terminal's colours"),
    ],
)
async def test_a_bad_list_refuses_the_new_version(listed: Path, content: bytes | None, said: str) -> None:
    """The old policy and the old list stay; it is told once."""
    live = LivePolicy(listed)
    list_file = listed.parent / "vips.txt"
    list_file.unlink()
    if content is not None:
        list_file.write_bytes(content)
    with capture_logs() as logs:
        for _ in range(4):
            await live.refresh()

    assert asked(live, "ann@example.org") == "approve"
    assert [line["event"] for line in logs] == ["policy.refused"]
    assert logs[0]["problems"][0].startswith(said)


async def test_a_pipe_keeps_nobody_waiting(listed: Path) -> None:
    """Neither in the place of a list nor of the policy: nothing may ever be written into it."""
    live = LivePolicy(listed)
    for file in (listed.parent / "vips.txt", listed):
        file.unlink()
        os.mkfifo(file)
        with capture_logs() as logs:
            async with asyncio.timeout(5):
                await live.refresh()
                await live.refresh()
        assert [line["event"] for line in logs] == ["policy.refused"]
    assert asked(live, "ann@example.org") == "approve"


def test_nothing_starts_on_a_bad_list(listed: Path) -> None:
    """Neither the process nor a command."""
    (listed.parent / "vips.txt").unlink()
    for read in (LivePolicy, read_policy):
        with pytest.raises(PolicyError, match="cannot be read"):
            read(listed)


@pytest.mark.parametrize(
    "content",
    [BAD.encode(), b"\xff", b"version: 1\n#" + b"x" * MAX_BYTES, None],
    ids=["bad", "not UTF-8", "too large", "gone"],
)
async def test_a_bad_version_is_refused_once(file: Path, content: bytes | None) -> None:
    """The old one stays, and the log says so once, not every two seconds."""
    live = LivePolicy(file)
    before = live()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with capture_logs() as logs:
        for _ in range(4):
            await live.refresh()

    assert live() is before
    assert [(line["event"], line["in_force"], len(line["problems"])) for line in logs] == [
        ("policy.refused", before.version, 1)
    ]


async def test_the_same_mistake_after_a_good_version_is_told_again(file: Path) -> None:
    """Going back to what is in force ends the complaint."""
    live = LivePolicy(file)
    with capture_logs() as logs:
        for text in (BAD, FIRST, BAD, SECOND, BAD):
            file.write_text(text)
            await look_twice(live)

    told = [line["event"] for line in logs]
    assert told == ["policy.refused", "policy.refused", "policy.changed", "policy.refused"]
    assert live().paused


async def test_watching_refreshes(file: Path) -> None:
    """A new version is in force soon after it was written."""
    live = LivePolicy(file)
    task = asyncio.create_task(live.watch(interval=0.01))
    file.write_text(SECOND)
    async with asyncio.timeout(5):
        while not live().paused:  # noqa: ASYNC110 - it is watched from outside
            await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_without_a_file_everything_is_held() -> None:
    """And there is nothing to re-read."""
    live = LivePolicy(None)
    await live.refresh()

    assert live() is HOLD_EVERYTHING


def test_nothing_starts_on_a_bad_policy(tmp_path: Path) -> None:
    """Neither on one that is wrong nor on one that cannot be read."""
    (tmp_path / "bad.yaml").write_text(BAD)
    with pytest.raises(PolicyError, match="line 2, column 10"):
        LivePolicy(tmp_path / "bad.yaml")
    with pytest.raises(SettingsError, match=r"POLICY__FILE: .*missing\.yaml cannot be read"):
        LivePolicy(tmp_path / "missing.yaml")
