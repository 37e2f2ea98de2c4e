"""The engine, a pod without a network, a receiver in it, and the figures that are told at the end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT, base_name
from tests.deploy.image.receiver import Receiver
from tests.deploy.tools import cache

_FIGURES: list[str] = []


@pytest.fixture(scope="session")
def engine() -> Engine:
    engine = Engine.at(cache() / "containers")
    assert engine.has_image(PRODUCT), "run `make image-check`: it builds the image first"
    return engine


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    return base_name()


@pytest.fixture
def receiver(engine: Engine) -> Iterator[Receiver]:
    """Not started yet. Its pod has a loopback and nothing else: neither this machine nor the network is there."""
    name = f"check-{uuid.uuid4().hex[:8]}"
    engine.podman("pod", "create", "--network", "none", "--name", name)
    yield Receiver(engine, name)
    engine.podman("pod", "rm", "--force", "--time", "0", name)
    engine.podman("volume", "rm", "--force", f"{name}-journal")


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """Sentences with measured figures, for the end of the run."""
    return _FIGURES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell them."""
    if _FIGURES:
        terminalreporter.section("measured")
        for figure in _FIGURES:
            terminalreporter.write_line(figure)
