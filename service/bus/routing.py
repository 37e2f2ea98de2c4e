"""Which lane a record takes, which lane has to be empty before another one may go on, and to which partitions a lane leads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from service.bus.kafka_partitioner import partition_for
from service.bus.lane import Delivery, Entry, Lane
from service.core.message import Message

#: Streams of the journal with what Kafka has not acknowledged: of earlier versions (everything in one), of a topic whose
#: partitions are not counted yet (``spool/<topic>``), of a partition (``spool/<topic>/<partition>``).
SPOOL = "spool"

#: Keys whose lanes are remembered, at most.
REMEMBERED_KEYS = 65_536


class Routing:
    """The lanes of a publisher. ``partitions`` says how many a topic has; None: nobody knows (yet)."""

    def __init__(self, partitions: Callable[[str], int | None]) -> None:
        self._partitions = partitions
        self._lanes: dict[tuple[str, int | None], Lane] = {}
        self._by_key: dict[tuple[str, int], dict[str, Lane]] = {}  # topic and count of partitions, key
        self._remembered = 0
        self._asked: dict[str, dict[str, Lane]] = {}  # by topic, those for its count as it is now
        self._first: Lane | None = None  # of an earlier version: before all others

    def __iter__(self) -> Iterator[Lane]:
        if self._first is not None:
            yield self._first
        yield from tuple(self._lanes.values())

    def adopt(self, lane: Lane) -> None:
        """A lane with rows of an earlier run."""
        if lane.stream == SPOOL:
            self._first = lane
        else:
            self._lanes[lane.topic, lane.partition] = lane

    def lane_for(self, message: Message) -> Lane:
        """Raises UnicodeError for what cannot decide a partition."""
        by_key = self._asked.get(message.topic)
        if by_key is not None and message.partition is None and (lane := by_key.get(message.partition_by)) is not None:
            return lane
        return self._found(message)

    def ask_again(self) -> None:
        """How many partitions a topic has. Until then that is asked once for each topic."""
        self._asked.clear()

    def _found(self, message: Message) -> Lane:
        topic, partition_by = message.topic, message.partition_by
        if message.partition is not None:
            return self._lane(topic, message.partition)
        count = self._partitions(topic)
        if count is None:
            partition_by.encode()
            return self._lane(topic, None)
        if self._remembered >= REMEMBERED_KEYS:
            self._remembered = 0
            self._by_key.clear()
            self._asked.clear()
        by_key = self._asked[topic] = self._by_key.setdefault((topic, count), {})
        lane = by_key.get(partition_by)
        if lane is None:
            lane = by_key[partition_by] = self._lane(topic, partition_for(partition_by, count))
            self._remembered += 1
        return lane

    def _lane(self, topic: str, partition: int | None) -> Lane:
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = Lane(topic, partition, stream_of(topic, partition))
        return lane

    def before(self, lane: Lane) -> Lane | None:
        """The lane that has to be empty before this one may go on."""
        if self._first is not None and lane is not self._first:
            return self._first
        if lane.partition is None:
            return None
        uncounted = self._lanes.get((lane.topic, None))
        return None if uncounted is None or uncounted.empty else uncounted

    def emptied(self, lane: Lane) -> list[Lane]:
        """Those that had to wait for it."""
        if lane.partition is not None:
            return []
        if lane is self._first:
            self._first = None
            return list(self._lanes.values())
        if self._partitions(lane.topic) is not None:
            self._lanes.pop((lane.topic, None), None)
        return [other for other in self._lanes.values() if other.topic == lane.topic and other is not lane]

    def leads_somewhere(self, lane: Lane) -> bool:
        """False as long as it is not known where to."""
        return not lane.topic or lane.partition is not None or self._partitions(lane.topic) is not None

    def deliveries(self, lane: Lane, entries: Sequence[Entry]) -> list[Delivery]:
        """By partition; of ``entries`` up to the first one for which it is not known. A topic that was made anew may have
        fewer than it had.
        """
        if lane.partition is not None and lane.partition < (self._partitions(lane.topic) or lane.partition + 1):
            return [Delivery(lane.topic, lane.partition, entries)]
        by_place: dict[tuple[str, int], list[Entry]] = {}
        for entry in entries:
            message, partition = entry.message, entry.message.partition
            if partition is None:
                count = self._partitions(message.topic)
                if count is None:
                    break
                partition = partition_for(message.partition_by, count)
            by_place.setdefault((message.topic, partition), []).append(entry)
        return [Delivery(topic, partition, some) for (topic, partition), some in by_place.items()]


def stream_of(topic: str, partition: int | None) -> str:
    """Where the rows of a lane stand."""
    return f"{SPOOL}/{topic}" if partition is None else f"{SPOOL}/{topic}/{partition}"


def place_of(stream: str) -> tuple[str, int | None] | None:
    """Topic and partition of the lane whose rows stand in ``stream``; None: that is no lane's."""
    kind, _, place = stream.partition("/")
    topic, _, partition = place.partition("/")
    if kind != SPOOL:
        return None
    return topic, int(partition) if partition else None
