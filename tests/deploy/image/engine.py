"""buildah and podman with a store and settings of their own: nobody's images are touched, and no daemon runs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SETTINGS = """\
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=4096:4096"]  # podman's own are more than a container may set
[engine]
runtime = "runc"               # crun does not start on a mixed hierarchy of cgroups
cgroup_manager = "cgroupfs"    # there may be no systemd
events_logger = "file"
[network]
network_backend = "netavark"
"""


class EngineError(RuntimeError):
    """A command of the engine failed; the message holds the end of what it said."""


@dataclass(frozen=True)
class Engine:
    """The two programs, and the environment that gives them a store below one folder."""

    environ: Mapping[str, str]

    @classmethod
    def at(cls, folder: Path) -> Engine:
        """Use ``folder``, which is made where it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        settings, storage = folder / "containers.conf", folder / "storage.conf"
        settings.write_text(_SETTINGS)
        storage.write_text(_storage(folder))
        return cls({**os.environ, "CONTAINERS_CONF": str(settings), "CONTAINERS_STORAGE_CONF": str(storage)})

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is; ``timeout`` in seconds."""
        return subprocess.run(
            command,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def do(self, *command: str, timeout: float = 300) -> str:
        """What a command printed. Raises EngineError where it failed."""
        done = self.run(*command, timeout=timeout)
        if done.returncode:
            raise EngineError(
                f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        return done.stdout.strip()

    def podman(self, *words: str, timeout: float = 120) -> str:
        """``podman …``. Raises EngineError."""
        return self.do("podman", *words, timeout=timeout)

    def buildah(self, *words: str, timeout: float = 900) -> str:
        """``buildah …``. Raises EngineError."""
        return self.do("buildah", *words, timeout=timeout)

    def has_image(self, name: str) -> bool:
        """Whether it is in the store."""
        return self.run("podman", "image", "exists", name).returncode == 0

    def image(self, name: str) -> dict[str, Any]:
        """What ``podman image inspect`` says."""
        return dict(json.loads(self.podman("image", "inspect", name))[0])

    def container(self, name: str) -> dict[str, Any]:
        """What ``podman container inspect`` says."""
        return dict(json.loads(self.podman("container", "inspect", name))[0])


def _storage(folder: Path) -> str:
    """overlay cannot stand on overlay, which is what CI's own container may have; vfs copies, anywhere."""
    kind = subprocess.run(("stat", "-f", "-c", "%T", folder), capture_output=True, text=True, check=True).stdout.strip()
    driver = "vfs" if "overlay" in kind else "overlay"
    return f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
