"""Long scenarios: `make faults`. A plain run of all tests leaves this folder out (``norecursedirs``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import line as lines
from tests.line import JournalLine, KafkaLine

Start = Callable[..., AbstractAsyncContextManager[JournalLine | KafkaLine]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(params=["journal", pytest.param("kafka", marks=pytest.mark.kafka)])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """``start(policy=…, settings=…)`` gives the product, started, on each bus."""
    return _on(request.param, request, tmp_path)


@pytest.fixture
def start_on_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """The same on the journal alone, where the bus does not matter."""
    return _on("journal", request, tmp_path)


@pytest.fixture
def start_on_kafka(kafka: Any, topic_prefix: str, request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """The same on Kafka alone."""
    return _on("kafka", request, tmp_path)


def _on(bus: str, request: pytest.FixtureRequest, folder: Path) -> Start:
    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[JournalLine | KafkaLine]:
        made: JournalLine | KafkaLine
        if bus == "kafka":
            cluster = request.getfixturevalue("kafka")
            made = KafkaLine(folder, cluster.bootstrap, request.getfixturevalue("topic_prefix"), **options)
        else:
            made = JournalLine(folder, **options)
        async with lines.closing(made):
            await made.start()
            yield made

    return started
