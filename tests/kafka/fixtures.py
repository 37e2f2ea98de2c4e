"""Fixtures for every test that needs a real broker. The top conftest names this module in ``pytest_plugins``.

* ``kafka``: one broker for the whole run. Tests share it, so each takes its own topics: ``topic_prefix``.
* ``secured_kafka``: one broker with TLS, SASL and permissions, for a file of tests.
* ``kafka_clusters``: makes clusters of a test's own, for tests that kill brokers.

Tests that use them get the marker ``kafka``. Where Kafka cannot be had they are left out, in one line; with
``CI=true`` they fail.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest

from tests.kafka.harness import Cluster, KafkaUnavailable
from tests.kafka.secured import SecuredKafka

LEFT_OUT = "not tested against real Kafka: "
FIXTURES = {"kafka", "kafka_clusters", "secured_kafka"}

ClusterFactory = Callable[[int], Cluster]


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """One broker, shared: ``KAFKA_BOOTSTRAP_SERVERS`` where given, else one of our own."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield Cluster(given)
        return
    with ExitStack() as stack:
        yield _started(stack, 1)


@pytest.fixture(scope="module")
def secured_kafka() -> Iterator[SecuredKafka]:
    """One broker with a listener for each way to be let in or refused. Give each test users or topics of its own."""
    with ExitStack() as stack:
        try:
            kafka = stack.enter_context(SecuredKafka.started())
        except KafkaUnavailable as error:
            leave_out(str(error))
        yield kafka


@pytest.fixture
def kafka_clusters() -> Iterator[ClusterFactory]:
    """``kafka_clusters(3)`` starts a cluster of one's own with three brokers; it ends with the test."""
    with ExitStack() as stack:
        yield lambda brokers: _started(stack, brokers)


@pytest.fixture
def topic_prefix() -> str:
    """A topic prefix that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}."


def _started(stack: ExitStack, brokers: int) -> Cluster:
    try:
        return stack.enter_context(Cluster.started(brokers))
    except KafkaUnavailable as error:
        leave_out(str(error))


def leave_out(reason: str) -> NoReturn:
    """Skip the test, or fail it where nothing may be left out."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{LEFT_OUT}{reason}; with CI=true nothing may be left out", pytrace=False)
    pytest.skip(LEFT_OUT + reason)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses a broker."""
    for item in items:
        if FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("kafka")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was left out, and why."""
    skipped = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    reasons = [text.partition(LEFT_OUT)[2] for text in skipped if LEFT_OUT in text]
    if reasons:
        terminalreporter.write_line(f"{LEFT_OUT}{len(reasons)} tests left out, {reasons[0]}", yellow=True)
