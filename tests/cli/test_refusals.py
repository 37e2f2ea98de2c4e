"""What a role says that cannot start: sentences, an exit code, no traceback and no secret."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bus.journal import Journal
from tests.cli.program import ANY_PORT, PREFIX, environment, refusal, run

CANARY = "canary-7b1e"
BAD_POLICY = "version: 1\nrules:\n  - name: r\n    when: registrant.emailDomain in lists.nobody\n    then: maybe\n"


def test_every_problem_of_the_settings_is_told_at_once(tmp_path: Path) -> None:
    """One line for each, wherever it stands; a name that is not known gets the nearest one; no value is shown."""
    (tmp_path / ".env").write_text(f"{PREFIX}SWEEP__INTERVAL=0\n")
    (tmp_path / "settings.yaml").write_text("log: {levle: info}\n")
    settings = {
        "CONFIG": "settings.yaml",
        "BUS": CANARY,
        "RECEIVER__PORT": "99999",
        "KAFKA__BOOTSTRAP_SERVRS": CANARY,
        "WEBEX__BASE_URL": f"https://user:{CANARY}@webexapis.com",
        "WEBEX__TOKEN": CANARY,
        "WEBEX__TOKEN_FILE": "token",
    }
    lines = refusal(run("serve", "receiver", folder=tmp_path, settings=settings), 2)

    assert sorted(line.split(" ")[0].rstrip(":") for line in lines) == [
        f"{PREFIX}{name}" for name in ("BUS", "KAFKA__BOOTSTRAP_SERVRS", "RECEIVER__PORT", "SWEEP__INTERVAL")
    ] + [f"{PREFIX}WEBEX__BASE_URL", "log.levle", "of"]
    shown = "\n".join(lines)
    assert f"did you mean {PREFIX}KAFKA__BOOTSTRAP_SERVERS?" in shown
    assert "did you mean log.level?" in shown
    assert "(.env)" in shown
    assert CANARY not in shown
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("command", "named"),
    [
        pytest.param(["serve", "receiver"], f"{PREFIX}WEBHOOK__SECRET or ", id="receiver without a secret"),
        pytest.param(["serve", "processor"], f"{PREFIX}WEBEX__TOKEN or ", id="processor without a token"),
        pytest.param(["sandbox", "--target-url", "http://x"], f"{PREFIX}WEBHOOK__SECRET or ", id="sandbox"),
        pytest.param(["topics", "plan"], f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS is needed", id="topics without Kafka"),
        pytest.param(["signature", "sign", "-"], f"{PREFIX}WEBHOOK__SECRET", id="signature without a secret"),
    ],
)
def test_a_missing_setting_is_named(tmp_path: Path, command: list[str], named: str) -> None:
    """A command demands the settings that it uses, and only those."""
    (line,) = refusal(run(*command, folder=tmp_path, settings=ANY_PORT), 2)

    assert named in line


@pytest.mark.parametrize("command", [["dev"], ["serve", "processor"]], ids=" ".join)
def test_a_bad_policy_stops_everything_before_it_starts(tmp_path: Path, command: list[str]) -> None:
    """Every problem with file, line and column; not even the journal is opened."""
    (tmp_path / "policy.yaml").write_text(BAD_POLICY)
    settings = {**ANY_PORT, "POLICY__FILE": "policy.yaml", "WEBEX__TOKEN": CANARY}
    done = run(*command, folder=tmp_path, settings=settings)

    lines = refusal(done, 2)
    assert [line.partition(", column")[0] for line in lines] == ["policy.yaml: line 4", "policy.yaml: line 5"]
    assert done.stdout == b""
    assert not (tmp_path / "data").exists()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "name"),
    [(["serve", "receiver"], "RECEIVER"), (["dev"], "ADMIN"), (["sandbox"], "SANDBOX")],
    ids=["receiver", "dev", "sandbox"],
)
def test_a_taken_port_names_the_setting_to_change(tmp_path: Path, taken: int, command: list[str], name: str) -> None:
    """One line, and the process ends in order."""
    settings = {**ANY_PORT, "WEBHOOK__SECRET": CANARY, f"{name}__PORT": str(taken)}
    lines = refusal(run(*command, folder=tmp_path, settings=settings), 2)

    assert lines == [
        f"cannot listen on 127.0.0.1:{taken} (Address already in use); choose another port by {PREFIX}{name}__PORT"
    ]


@pytest.mark.parametrize("command", [["dev"], ["serve", "receiver"]], ids=" ".join)
async def test_a_journal_in_use_is_a_sentence(tmp_path: Path, command: list[str]) -> None:
    """One process at a time; the other one is told by whom the folder is used. Exit code 1: the settings are right."""
    async with await Journal.open(tmp_path / "data"):
        done = run(*command, folder=tmp_path, settings={**ANY_PORT, "WEBHOOK__SECRET": CANARY})

    (line,) = refusal(done, 1)
    assert "the journal in data cannot be opened: it is in use (process " in line


def test_a_sandbox_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """What is not its file is refused."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sandbox.db").write_text("anything but SQLite" * 100)

    (line,) = refusal(run("sandbox", folder=tmp_path, settings=ANY_PORT), 2)
    assert line == "data cannot hold the sandbox's state (file is not a database)"


@pytest.mark.parametrize(
    "raised", ["RuntimeError(C)", "ExceptionGroup(C, [ValueError(C), ExceptionGroup(C, [KeyError(C)])])"]
)
def test_a_bug_is_named_and_not_shown(tmp_path: Path, raised: str) -> None:
    """What nobody expected ends the process with exit code 1; its message may hold anything and is not shown."""
    code = f"""
from service.cli import commands
C = "canary-" + "7b1e"
async def broken(settings, stop):
    raise {raised}
commands.app.command("broken")(lambda: commands.run_role(broken))
commands.app(["broken"])
"""
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=tmp_path, env=environment({}), capture_output=True, timeout=30, check=False
    )

    assert done.returncode == 1
    assert CANARY.encode() not in done.stdout + done.stderr
    assert done.stdout.count(b'"event": "process.failed"') == (1 if "Runtime" in raised else 2)
    assert b"Traceback" not in done.stdout + done.stderr
