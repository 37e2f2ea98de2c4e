"""The policy file while the process runs: a good new version is taken, a bad one is not."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.cli.policy_file import MAX_BYTES, LivePolicy
from service.core.errors import PolicyError, SettingsError
from service.core.policy import HOLD_EVERYTHING

# ruff: noqa: ASYNC240 - small files; nothing else goes on in these loops

FIRST = "version: 1\ndefault: hold\n"
SECOND = "version: 1\ndefault: approve\npaused: true\n"
BAD = "version: 1\ndefault: maybe\n"


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
        await live.refresh()
        taken = live()
        await live.refresh()

    assert (before.paused, taken.paused, live() is taken) == (False, True, True)
    assert [(line["event"], line["policy"], line["paused"]) for line in logs] == [
        ("policy.changed", taken.version, True)
    ]


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
        for _ in range(3):
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
            await live.refresh()

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
