"""Many connections at once, and an honest sender beside them: a process of its own, so that its figures are its own."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.receiver.wire import Wire, once, post


@dataclass
class Figures:
    """Of a sender; known when it has ended. Seconds are from when a request was due to its answer."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Of those that got their 200."""
        return len(self.seconds) / (len(self.seconds) + self.failed)

    @property
    def p99(self) -> float:
        """Seconds."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@contextlib.contextmanager
def sending(port: int, *, source: str = "127.0.0.1") -> Iterator[Figures]:
    """An honest sender beside the block: 50 requests a second."""
    figures = Figures()
    command = [sys.executable, "-m", "tests.receiver.crowd", str(port), source]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield figures
        output, _ = process.communicate()
    figures.seconds, figures.failed = json.loads(output)


def send(port: int, source: str, *, pace: int = 50) -> Figures:
    """Until somebody closes the standard input: half of it over one connection, half over new ones."""
    figures, number, begun = Figures(), 0, time.monotonic()
    with Wire(port, source=source) as wire:
        while not select.select([sys.stdin], [], [], max(0.0, begun + number / pace - time.monotonic()))[0]:
            new = number % 2 == 0
            heard = once(port, post(b"Connection: close"), source=source) if new else wire.ask(post(), replies=1)
            if heard.statuses == [200]:
                figures.seconds.append(time.monotonic() - begun - number / pace)
            else:
                figures.failed += 1
            number += 1
    return figures


if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201
    ended = send(int(sys.argv[1]), sys.argv[2])
    print(json.dumps([ended.seconds, ended.failed]))  # noqa: T201
