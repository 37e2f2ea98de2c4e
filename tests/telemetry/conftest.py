"""Logging is the one thing that a process configures for itself: here it is put back after each test."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from service.telemetry.logging import configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where JSON lines go."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure(stream=stream, colours=False, level="debug")
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
