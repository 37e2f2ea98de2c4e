"""Which loop the tests of this folder run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

#: Written to a loop's own transports; the service runs on uvloop.
_ON_BOTH = "test_kafka_express.py"

Loops = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Loops:
    """asyncio's, or that and the service's."""
    loops: Loops = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.path.name == _ON_BOTH else loops
