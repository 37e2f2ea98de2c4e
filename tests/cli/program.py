"""``webex-events`` as a process of its own, in an empty folder and with an environment that has nothing else of ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from service.cli.commands import app

PREFIX = "WEBEX_EVENTS_"
PROJECT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "service")

#: Any free port for every listener.
ANY_PORT = {"RECEIVER__HOST": "127.0.0.1", "RECEIVER__PORT": "0", "ADMIN__PORT": "0", "SANDBOX__PORT": "0"}


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours without its settings, and ``settings`` (names without the prefix)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, "PYTHONPATH": str(PROJECT), **{PREFIX + name: value for name, value in settings.items()}}


def run(
    *arguments: str, folder: Path, settings: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        (*PROGRAM, *arguments),
        cwd=folder,
        env=environment(settings or {}),
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
    )


def invoke(
    *arguments: str, folder: Path, settings: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """The same within this process, which is quicker. Not for roles: they catch signals and configure the logs."""
    ours: dict[str, str | None] = {name: None for name in os.environ if name.startswith(PREFIX)}
    ours |= {PREFIX + name: value for name, value in (settings or {}).items()}
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, arguments, prog_name="webex-events", input=stdin, env=ours)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def refusal(done: subprocess.CompletedProcess[bytes], code: int) -> list[str]:
    """The lines on stderr of a command that ended with ``code``, with sentences and without a traceback."""
    shown = done.stderr.decode()
    assert done.returncode == code, (done.returncode, done.stdout.decode(), shown)
    assert "Traceback" not in shown
    return shown.splitlines()


class Running:
    """A process that goes on; its output is read all the time."""

    def __init__(self, command: Sequence[str], *, folder: Path, settings: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\r\n"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event so far; every line must be JSON."""
        return [each for each in map(json.loads, self.lines) if each["event"] == name]

    def until(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until an event was logged so often."""
        return self.wait(lambda: found if len(found := self.events(name)) >= count else [], name)

    def wait(self, ask: Callable[[], list[Any]], what: str) -> list[Any]:
        """Wait until ``ask`` finds something."""
        deadline = time.monotonic() + 20
        while not (found := ask()):
            assert self.process.poll() is None, (what, self.process.returncode, self.lines)
            assert time.monotonic() < deadline, (what, self.lines)
            time.sleep(0.02)
        return found

    def end(self, number: signal.Signals) -> int:
        """Ask it to end; the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Its exit code, within a few seconds; everything that it said has been read."""
        code = self.process.wait(5)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Whatever it takes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5)
        self._reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def running(
    *arguments: str, folder: Path, settings: Mapping[str, str], before: Sequence[str] = ()
) -> Iterator[Running]:
    """Start a command; it is gone at the end of the block. ``before``: another program that runs it."""
    process = Running((*before, *PROGRAM, *arguments), folder=folder, settings=settings)
    try:
        yield process
    finally:
        process.close()
