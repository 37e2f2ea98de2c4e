"""Topics of a Kafka cluster: asked about, created, configured. What they should be is in ``topics``.

``create_topics`` and ``alter_configs`` of aiokafka do not raise: their answers are looked at. ``alter_configs`` replaces
all overrides of a topic (the protocol's AlterConfigs; aiokafka has no incremental one).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from service.bus.kafka_connection import Connection
from service.bus.kafka_groupless import answer_within
from service.bus.kafka_refusal import reason_of
from service.bus.topics import Existing
from service.core.errors import KafkaUnavailable

#: Seconds for an answer, and for a created topic to have its leaders.
PATIENCE = 20.0

#: Seconds for a change to be seen by the broker that is asked.
HEARD = 5.0

#: ``config_source`` of DescribeConfigs: set for this topic (DYNAMIC_TOPIC_CONFIG).
_SET_FOR_THE_TOPIC = 1

Answer = TypeVar("Answer")


@asynccontextmanager
async def kafka_admin(connection: Connection) -> AsyncIterator[KafkaAdmin]:
    """An admin client while the block runs. Raises KafkaUnavailable."""
    client = connection.client(AIOKafkaAdminClient, request_timeout_ms=int(PATIENCE * 1000))
    try:
        await _answer(client.start())
        yield KafkaAdmin(client)
    finally:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(5):
                await client.close()


class KafkaAdmin:
    """``topics.Admin`` on Kafka."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def brokers(self) -> int:
        """How many brokers are registered and alive."""
        cluster = await _answer(self._client.describe_cluster())
        return len(cluster["brokers"])

    async def describe(self, topics: Sequence[str]) -> dict[str, Existing]:
        """Those of ``topics`` that exist."""
        described = await self._described(topics)
        for topic in described:
            if topic["error_code"] == TopicAuthorizationFailedError.errno:  # it may exist: nobody tells us
                raise KafkaUnavailable(reason_of(TopicAuthorizationFailedError(topic["topic"])))
        found = {topic["topic"]: topic["partitions"] for topic in described if topic["error_code"] == 0}
        overrides = await self._overrides(list(found))
        return {
            name: Existing(len(partitions), min(len(p["replicas"]) for p in partitions), overrides.get(name, {}))
            for name, partitions in found.items()
        }

    async def _described(self, topics: Sequence[str]) -> list[dict[str, Any]]:
        """aiokafka's ``describe_topics`` would have those that are missing made, where the brokers create topics themselves."""
        request = MetadataRequest(list(topics), allow_auto_topic_creation=False)
        described: list[dict[str, Any]] = (await _answer(self._client._send_request(request))).to_object()["topics"]
        return described

    async def _overrides(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        answers = await _answer(self._client.describe_configs(resources)) if resources else []
        overrides = {}
        for error_code, message, _, topic, entries in (each for answer in answers for each in answer.resources):
            if error_code:  # to go on would be to forget them at the next alter_configs
                raise KafkaUnavailable(
                    f"the settings of {topic} cannot be read: {message or for_code(error_code).__name__}"
                )
            overrides[topic] = {name: value for name, value, _, source, *_ in entries if source == _SET_FOR_THE_TOPIC}
        return overrides

    async def create(self, topic: str, *, partitions: int, replication: int, configuration: Mapping[str, str]) -> str:
        """Create one and wait until it can be used; the problem, or ""."""
        new = NewTopic(topic, partitions, replication, topic_configs=dict(configuration))
        answer = await _answer(self._client.create_topics([new]))
        _, error_code, message = answer.topic_errors[0]
        if error_code:
            return _problem(error_code, message)
        return "" if await self._usable(topic, partitions) else "created, but without leaders for all partitions so far"

    async def _usable(self, topic: str, partitions: int) -> bool:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            (described,) = await _answer(self._client.describe_topics([topic]))
            if sum(each["leader"] >= 0 for each in described["partitions"]) == partitions:
                return True
            await asyncio.sleep(0.05)
        return False

    async def configure(self, topic: str, overrides: Mapping[str, str]) -> str:
        """Replace all overrides; the problem, or ""."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict(overrides))
        answers = await _answer(self._client.alter_configs([resource]))
        error_code, message, *_ = answers[0].resources[0]
        if error_code:
            return _problem(error_code, message)
        await self._heard_of(topic, overrides)
        return ""

    async def _heard_of(self, topic: str, overrides: Mapping[str, str]) -> None:
        """Brokers hear of it a moment after the answer: whoever described and replaced before that would lose this change."""
        deadline = time.monotonic() + HEARD
        while time.monotonic() < deadline:
            if (await self._overrides([topic]))[topic] == dict(overrides):
                return
            await asyncio.sleep(0.05)


def _problem(error_code: int, message: str | None) -> str:
    return f"{for_code(error_code).__name__}: {message}" if message else for_code(error_code).__name__


async def _answer(asked: Awaitable[Answer]) -> Answer:
    return await answer_within(PATIENCE, asked)
