"""The product's containers in one pod, as locked up as a cluster would have them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT

SECRET = "a-secret-of-the-check"

#: What Pod Security's `restricted` asks for, and little memory.
LOCKED_UP = (
    *("--read-only", "--tmpfs", "/tmp", "--user", "65532:65532", "--cap-drop", "ALL"),  # noqa: S108 - in the container
    *("--security-opt", "no-new-privileges", "--memory", "256m"),
)
#: Nothing at run time may need a shell: these files are empty in the container.
_NO_SHELL = tuple(
    word for shell in ("/usr/bin/dash", "/usr/bin/bash") for word in ("--volume", f"/dev/null:{shell}:ro")
)
#: Seconds within which a container of ours is ready here, on a machine that does other things.
PATIENCE = 60


class NotReady(RuntimeError):
    """The container did not become ready; the message holds what it logged."""


@dataclass
class Receiver:
    """One receiver, its journal on a volume, and commands beside it in the same pod."""

    engine: Engine
    pod: str

    @property
    def name(self) -> str:
        return f"{self.pod}-receiver"

    def start(self, **settings: str) -> float:
        """Start it; the seconds until it was ready. ``settings`` without their prefix. Raises NotReady."""
        began = time.monotonic()
        volume = ("--volume", f"{self.pod}-journal:/var/lib/webex-events")
        environ = _environ(WEBHOOK__SECRET=SECRET, JOURNAL__PATH="/var/lib/webex-events", **settings)
        how = ("--detach", "--pod", self.pod, "--name", self.name, *LOCKED_UP, *_NO_SHELL, *volume, *environ)
        self.engine.podman("run", *how, PRODUCT, "serve", "receiver")
        self.wait_ready()
        return time.monotonic() - began

    def wait_ready(self) -> None:
        """Return when it would store an event. Raises NotReady."""
        began = time.monotonic()
        while not self._answers_ready():
            if time.monotonic() - began > PATIENCE or not self.running:
                raise NotReady(self.log())
            time.sleep(0.1)

    def _answers_ready(self) -> bool:
        ask = "import urllib.request as u; u.urlopen('http://127.0.0.1:9090/readyz', timeout=2)"
        return self.engine.run("podman", "exec", self.name, "python", "-S", "-c", ask).returncode == 0

    @property
    def running(self) -> bool:
        return bool(self.engine.container(self.name)["State"]["Running"])

    def beside(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Run one command of the program in the pod: its exit code and all that it printed."""
        how = ("--rm", "--no-healthcheck", "--pod", self.pod, *LOCKED_UP, *_NO_SHELL, *_environ(**settings))
        done = self.engine.run("podman", "run", *how, PRODUCT, *arguments)
        return done.returncode, done.stdout + done.stderr

    def inside(self, code: str) -> str:
        """What a piece of Python prints in the container itself. Raises EngineError."""
        return self.engine.podman("exec", self.name, "python", "-c", code)

    def log(self) -> str:
        done = self.engine.run("podman", "logs", self.name)
        return done.stdout + done.stderr

    def stop(self, grace: int = 45) -> tuple[int, float]:
        """SIGTERM, and SIGKILL after ``grace`` seconds: the exit code, and the seconds it took."""
        began = time.monotonic()
        self.engine.podman("stop", "--time", str(grace), self.name)
        seconds = time.monotonic() - began
        return int(self.engine.container(self.name)["State"]["ExitCode"]), seconds


def _environ(**settings: str) -> tuple[str, ...]:
    return tuple(word for name, value in settings.items() for word in ("--env", f"WEBEX_EVENTS_{name}={value}"))
