"""The thread between the journal and its file: what it does once nobody can know what reached the disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from service.bus import group_commit
from service.bus.journal import Journal
from service.cli.shutdown import LIMIT
from service.core.errors import JournalError
from service.core.message import Message

ROOT = Path(__file__).parents[2]


def on_a_failing_disk(folder: Path, kind: str) -> dict[str, Any]:
    """What another process said whose disk fails once; its journal stays locked as long as it lives."""
    command = (sys.executable, "-m", "tests.bus.append_on_a_failing_disk", str(folder), kind)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("kind", "appends"),
    [
        pytest.param("wal", {"refused"}, id="in a commit: that append is refused"),
        pytest.param("db", {"done"}, id="in a checkpoint: what was appended is in the log"),
    ],
)
async def test_after_a_failed_fsync_nothing_is_written(tmp_path: Path, kind: str, appends: set[str]) -> None:
    """Although the disk would take it again: not one byte, not at closing either. Reading goes on, one log line says why."""
    said = on_a_failing_disk(tmp_path, kind)
    assert set(said["appends"]) == appends
    rows = list(range(1 + said["appends"].count("done")))
    assert said["after"] == ["refused"] * 5
    assert said["read"] == rows
    assert said["positions"] == {"group": 0}
    assert said["untouched"]
    assert not said["accepting"]
    assert said["opened again"] == "refused"
    assert said["logs"] == ["journal.failed"]
    async with await Journal.open(tmp_path) as journal:
        assert journal.accepting
        assert [stored.offset for stored in await journal.read("meetings", 0, 10)][: len(rows)] == rows
        assert await journal.committed("group", "meetings") == 0


async def test_whatever_happens_in_the_thread_nobody_waits_for_ever(tmp_path: Path) -> None:
    """Also what ends a thread in silence: who waited is told, the journal is given up, and reading goes on."""

    def die(_: object) -> None:
        raise SystemExit

    with contextlib.suppress(JournalError):
        async with asyncio.timeout(10), await Journal.open(tmp_path) as journal:
            message = Message(topic="meetings", key="k", value=b"{}", partition_by="k")
            await journal.append([("meetings", message)])
            waiting = [journal._writer.submit(die), journal._writer.submit(lambda file: file.extent("meetings"))]
            for each in waiting:
                with pytest.raises(JournalError, match="not trusted any more"):
                    await each
            assert not journal.accepting
            assert [stored.offset for stored in await journal.read("meetings", 0, 10)] == [0]


async def test_a_stuck_disk_does_not_keep_the_process_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing gives up in time, cancelled or not, and leaves nothing behind for which the loop's end would wait."""
    assert group_commit.CLOSE_DEADLINE <= LIMIT / 5
    stuck = threading.Event()
    journal = await Journal.open(tmp_path)
    waiting = journal._writer.submit(lambda _: stuck.wait(30))
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(journal.close(), 0.1)
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 2)
        monkeypatch.setattr(group_commit, "CLOSE_DEADLINE", 0.1)
        with pytest.raises(JournalError, match="did not finish"):
            await journal.close()
    finally:
        stuck.set()
    monkeypatch.undo()
    await journal.close()
    assert await waiting
