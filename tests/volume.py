"""Small volumes: real ones where mounting is permitted, and figures that say there is one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1024 * 1024


@contextlib.contextmanager
def mounted(folder: Path, mib: int) -> Iterator[Path]:
    """``folder`` on a tmpfs of its own. Skips where that is not permitted; as root in CI that is a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "webex-events-test", str(folder))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"no tmpfs of {mib} MiB: {done.stderr.strip()}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(said)
        pytest.skip(said)
    try:
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def fill_up(folder: Path) -> Path:
    """Take what is left of the volume, as another program might; remove the file to give it back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"f" * 4096)
    return filler


class PretendedVolume:
    """So many bytes for the journal's folder, less what is in it and what ``others`` have taken. Nothing enforces it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.others = 0

    def __call__(self, folder: Path) -> int:
        """What is left."""
        held = sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())
        return max(0, self.size - self.others - held)
