"""What stands in Kafka, read by a consumer that is none of the product's, from the first offset to the end."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.faults.history import Kafka, Letter, Post
from tests.faults.left_behind import ids_in
from tests.faults.quorum import copies

#: Topics where the rig's events go; ``work`` has their hints.
EVENTS = ("meetings", "participants", "recordings", "registrants", "quarantine")
TOPICS = (*EVENTS, "work", "dead-letters")

AnyRecord = Kafka | Letter


class Reader:
    """Reads until everything that was promised is there, or the time is over."""

    def __init__(self, bootstrap: str, prefix: str, posts: Iterable[Post]) -> None:
        self._bootstrap, self._prefix = bootstrap, prefix
        self._posts = {post.id: post for post in posts}
        self._by_event = {post.event: post for post in self._posts.values()}
        self._missing = {
            (topic, post.id) for post in self._posts.values() if 200 <= post.status < 300 for topic in post.topics
        }

    @property
    def missing(self) -> int:
        """Records that were promised and have not been read."""
        return len(self._missing)

    async def read(self, *, until: float) -> list[AnyRecord]:
        """All records that there are once nothing is missing, or at ``until`` (monotonic)."""
        found: list[AnyRecord] = []
        async with _consuming(self._bootstrap, self._prefix) as consumer:
            while True:
                ends = await consumer.end_offsets(list(consumer.assignment()))
                while await _behind(consumer, ends):
                    batches = await consumer.getmany(timeout_ms=200, max_records=5000)
                    found += [line for records in batches.values() for each in records for line in self._lines(each)]
                if not self._missing or time.monotonic() > until:
                    return found
                await asyncio.sleep(0.5)

    def _lines(self, record: Any) -> Iterator[AnyRecord]:
        topic = record.topic.removeprefix(self._prefix)
        if topic == "dead-letters":
            yield from self.letters(json.loads(record.value)["data"])
            return
        id_, key, ctr, received = self.rigs_own(topic, record.key.decode(), json.loads(record.value))
        self._missing.discard((topic, id_))
        yield Kafka(
            topic=topic,
            partition=record.partition,
            offset=record.offset,
            id=id_,
            key=key,
            ctr=ctr,
            received=datetime.fromisoformat(received).timestamp(),
            appended=record.timestamp / 1000 if record.timestamp_type == 1 else 0.0,
        )

    def letters(self, letter: Mapping[str, Any]) -> Iterator[Letter]:
        """Of the record that it holds: its id, exactly; one that ends like it is another one."""
        for id_ in ids_in(base64.b64decode(letter["valueBase64"] or "")):
            post = self._posts.get(id_) or self._by_event.get(id_)
            if post is not None:
                yield Letter(id=post.id, reason=letter["reason"])

    def rigs_own(self, topic: str, key: str, value: Mapping[str, Any]) -> tuple[str, str, int, str]:
        """Id, key and number that the sender gave to the event of this record, and when the product took it in."""
        if topic == "work":
            return (*self._hint(value), value["at"])
        return (*_event(topic, key, value), value["receivedtime"])

    def _hint(self, hint: Mapping[str, Any]) -> tuple[str, str, int]:
        """A hint names its event only."""
        post = self._by_event.get(hint["event_id"])
        if post is None:
            return hint["event_id"], hint["series"], 0
        return post.id, f"{hint['series']}/{post.topics[0]}", post.ctr


def _event(topic: str, key: str, event: Mapping[str, Any]) -> tuple[str, str, int]:
    """Id, key and number, as the sender put them into ``data.rig``."""
    data = event["data"]
    if topic == "quarantine":
        rig = json.loads(base64.b64decode(data["bodyBase64"]))["data"]["rig"]
        return rig["id"], rig["id"], rig["ctr"]
    rig = data["raw"]["rig"] if "raw" in data else data["rig"]
    return rig["id"], f"{key}/{topic}", rig["ctr"]


@asynccontextmanager
async def _consuming(bootstrap: str, prefix: str) -> AsyncIterator[Any]:
    """Assigned to every partition, at the beginning."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = await copies(bootstrap, [prefix + topic for topic in TOPICS])
        partitions = [TopicPartition(*place) for place in places]
        consumer.assign(partitions)
        for place in partitions:
            consumer.seek(place, 0)
        yield consumer
    finally:
        await consumer.stop()


async def _behind(consumer: Any, ends: Mapping[TopicPartition, int]) -> bool:
    return any([await consumer.position(place) < end for place, end in ends.items()])
