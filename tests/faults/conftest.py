"""Long scenarios: `make faults`. A plain run of all tests leaves this folder out (``norecursedirs``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.core import event
from tests import line as lines
from tests.faults.history import AnyLine, Effect, Kafka
from tests.faults.invariants import check
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
            history: list[AnyLine] = []

            async def remember() -> None:
                history.extend(await _effects(made))

            made.before_stop = remember
            await made.start()
            yield made
            if history:  # it was stopped: what stands on the bus is final
                report = check([*history, *await _facts(made)])
                assert report.ok, str(report)

    return started


async def _effects(line: JournalLine | KafkaLine) -> list[Effect]:
    """How often each registrant was approved and rejected: no test wants that twice, whatever people did meanwhile."""
    found = (await lines.ledger(line))["effects"]
    return [
        Effect(id=id_, key=one["meetingId"], call=call, status=204, t0=0.0, t1=0.0)
        for id_, one in found.items()
        for call in ("approved", "rejected")
        for _ in range(one[call])
    ]


async def _facts(line: JournalLine | KafkaLine) -> list[Kafka]:
    """What was told of registrants."""
    return [
        Kafka(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            id=event.decode(record.value or b"").id,
            key=record.key,
            ctr=0,
        )
        for record in await line.records("registrants")
    ]
