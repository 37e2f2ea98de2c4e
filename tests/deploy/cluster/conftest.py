"""One control plane for all tests of this folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.cluster.control_plane import Cluster, control_plane


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One that nobody else uses, without anything of the chart in it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="control-plane-") as folder, control_plane(Path(folder)) as made:
        print(f"\ncontrol plane: {time.monotonic() - began:.1f} s\n{made.kubectl('version')}")  # noqa: T201 - for the note
        yield made
