"""What the producer has to know of the topics that it writes to: how many partitions, and how large a batch may be.

Both are asked for with requests of our own, on a connection of their own: on the producer's they would wait behind a
batch that waits for its replicas, and the time-out would close it. aiokafka's own look-ups would also make a topic that is
missing, where the brokers create topics by themselves, with whatever number of partitions those think right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from service.bus.kafka_client import Timing
from service.bus.kafka_refusal import reason_of
from service.bus.record_size import BATCH_OVERHEAD, MAX_BATCH_BYTES
from service.core.errors import whereabouts

_LIMIT = "max.message.bytes"
_LARGEST = MAX_BATCH_BYTES - BATCH_OVERHEAD

Ask = Callable[[Any], Awaitable[Any]]
"""Sends a request to any broker, and gives its answer. Raises KafkaError."""


class TopicFacts:
    """Partitions and limits, by topic without prefix. What was known once is remembered, and partitions never become fewer:
    metadata that comes with an error, or from a broker that is behind, must not move keys.

    Looks are ``timing.look`` apart; while a topic is missing or nobody answers, as far as two attempts to connect.
    """

    def __init__(self, topic_prefix: str, timing: Timing) -> None:
        self._prefix = topic_prefix
        self._timing = timing
        self._log = structlog.get_logger()
        self._wanted: set[str] = set()
        self._partitions: dict[str, int] = {}
        self._largest: dict[str, int] = {}
        self._said: set[tuple[str, str]] = set()
        self._look = asyncio.Event()
        self.silent_since: float | None = None  # every question since then (time.monotonic) was in vain

    def partitions(self, topic: str) -> int | None:
        """How many it has; None: not known (yet). The first question makes us look."""
        if topic not in self._wanted:
            self._wanted.add(topic)
            self.look_again()
        return self._partitions.get(topic)

    def largest(self, topic: str) -> int:
        """Bytes that the records of one batch may have together (``record_size.batched_size``): the topic's limit for a
        batch without the batch's own header, 1 MiB where that is not known and at most.
        """
        return self._largest.get(topic, _LARGEST)

    @property
    def known(self) -> frozenset[str]:
        """The topics that were asked about and exist."""
        return frozenset(self._partitions)

    def look_again(self) -> None:
        """Something new is to be asked, or what we know was shown to be wrong."""
        self._look.set()

    def answered(self) -> None:
        """Somebody is there."""
        self.silent_since = None

    async def keep_up(self, asks: Callable[[], Ask | None]) -> None:
        """Look, again and again, until cancelled. ``asks`` gives what to ask with; None: there is nothing now."""
        pause = self._timing.backoff
        while True:
            self._look.clear()
            ask = asks()
            if ask is not None and await self._asked(ask):
                pause = self._timing.backoff
                await self._wait(self._timing.look)
            else:
                await self._wait(pause)
                pause = min(pause * 2, self._timing.longest_backoff)

    async def _wait(self, pause: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._look.wait()
                await asyncio.sleep(0)  # whoever asks about one topic asks about others in the same moment

    async def _asked(self, ask: Ask) -> bool:
        """One look; whether every topic is known now."""
        try:
            await self._look_at(ask, sorted(self._wanted))
        except (KafkaError, TimeoutError):
            if self.silent_since is None:
                self.silent_since = time.monotonic()
            return False  # the producer says that Kafka cannot be reached
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read must not end all further looks
            self._log.error("producer.look_failed", error=type(error).__name__, where=whereabouts(error))
            return False
        self.answered()
        return self._wanted <= self._partitions.keys()

    async def _look_at(self, ask: Ask, topics: Sequence[str]) -> None:
        if not topics:
            return
        names = {self._prefix + topic: topic for topic in topics}
        found = self._learn_partitions(names, await ask(MetadataRequest(list(names), allow_auto_topic_creation=False)))
        if found:
            resources = [(ConfigResourceType.TOPIC, name, [_LIMIT]) for name in found]
            self._learn_limits(names, await ask(DescribeConfigsRequest(resources, include_synonyms=False)))

    def _learn_partitions(self, names: Mapping[str, str], answer: Any) -> list[str]:
        found = []
        for described in answer.to_object()["topics"]:
            name, code = described["topic"], described["error_code"]
            if code:
                self._say_once("producer.topic_unknown", name, reason_of(for_code(code)()))
                continue
            found.append(name)
            topic, count = names[name], len(described["partitions"])
            if count > self._partitions.get(topic, 0):
                self._partitions[topic] = count
            self._known_again(name)
        return found

    def _learn_limits(self, names: Mapping[str, str], answer: Any) -> None:
        for code, _, _, name, entries in answer.resources:
            if code:  # most likely nobody allowed us to read it: Kafka's default is what most topics have
                self._say_once("producer.limit_unknown", name, reason_of(for_code(code)()))
            for value in _values(entries):
                self._largest[names[name]] = min(int(value) - BATCH_OVERHEAD, _LARGEST)

    def _say_once(self, event: str, name: str, reason: str) -> None:
        if (event, name) not in self._said:
            self._said.add((event, name))
            self._log.warning(event, topic=name, reason=reason)

    def _known_again(self, name: str) -> None:
        if ("producer.topic_unknown", name) in self._said:
            self._said.discard(("producer.topic_unknown", name))
            self._log.info("producer.topic_found", topic=name)


def _values(entries: Iterable[Sequence[Any]]) -> Iterable[str]:
    return (value for name, value, *_ in entries if name == _LIMIT)
