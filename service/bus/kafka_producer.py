"""The producer: supervised, in order for each partition, at least once. Decision 3 has the measurements behind it.

A batch is tried until Kafka has acknowledged or refused it. Retriable errors are aiokafka's to retry. What a client will
never get over (a sequence that broke, a sender that died) and what only looks like it (a batch that is not acknowledged for
long) have one cure: a new client, and everything that is not acknowledged is given to it once more, in order. The new one
is connected before the old one is let go, so that nothing is given up while Kafka is away: then no new one can be had, and
the old one goes on where it was when Kafka is back, without a duplicate.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import structlog
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
)

from service.bus.kafka_client import SPENT, KafkaClient, Timing
from service.bus.kafka_connection import Connection
from service.bus.kafka_refusal import reason_of
from service.bus.kafka_topic_facts import Ask, TopicFacts
from service.bus.outgoing import Outgoing, total_size
from service.core.errors import RecordRefused, whereabouts

__all__ = ["KafkaProducer", "Timing"]

#: Beyond this the producer is not healthy: nothing more is to be given to it.
MAX_PENDING_BYTES = 64 * 1024 * 1024

#: Seconds between two looks at the client in use.
_LOOK = 1.0

#: A batch that a new client did not help waits twice as long for the next one, up to this many times ``stall``.
_MOST_PATIENCE = 8

#: Kafka will not take it as it is, and has written nothing of it.
_REFUSALS = (InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)

_FORBIDDEN = (ClusterAuthorizationFailedError, TopicAuthorizationFailedError)

#: Why a client is tried beside the one in use, which is kept if it answers after all.
_STALLED = "stalled"
_SILENT = "silent"
_LOOKS_WEDGED = (_STALLED, _SILENT)


class _Pending(msgspec.Struct, eq=False):
    topic: str
    partition: int
    batch: Sequence[Outgoing]
    size: int
    patience: float
    acknowledged: asyncio.Future[None]
    since: float
    due: float
    delivery: asyncio.Future[Any] | None = None  # by the client that has it: our task, or the client's own future
    given: bool = False  # aiokafka has it, and owes us an answer

    @property
    def place(self) -> tuple[str, int]:
        return self.topic, self.partition

    @property
    def answer(self) -> asyncio.Future[Any]:
        """Done when it is not waited for any more: by its sender, or where that has withdrawn it, by us."""
        return self.delivery if self.delivery is not None and self.acknowledged.done() else self.acknowledged

    def let_go(self) -> None:
        """What becomes of the delivery concerns nobody any more."""
        if isinstance(self.delivery, asyncio.Task):
            self.delivery.cancel()
        self.delivery = None


class KafkaProducer:
    """``publisher.BatchSender`` on Kafka. For one event loop; ``start`` once, ``stop`` once.

    ``idempotent``: by decision 3; False is there to be measured against.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        topic_prefix: str,
        client_id: str = "webex-events",
        timing: Timing | None = None,
        idempotent: bool = True,
    ) -> None:
        self._connection = connection
        self._prefix = topic_prefix
        self._client_id = client_id
        self._timing = timing or Timing()
        self._idempotent = idempotent
        self._log = structlog.get_logger()
        self._facts = TopicFacts(topic_prefix, self._timing)
        self._pending: dict[_Pending, None] = {}  # in order of send
        self._pending_bytes = 0
        self._withdrawn: dict[tuple[str, int], _Pending] = {}  # by partition, the oldest the client has not answered
        self._client: KafkaClient | None = None
        self._last_acknowledged = 0.0
        self._attempts_failed = 0
        self._unreachable = False
        self._held_up: set[tuple[str, str]] = set()
        self._crashes: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._tried = asyncio.Event()
        self._stopped = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.replacements: Counter[str] = Counter()  # clients that were given up for another, by reason

    @property
    def healthy(self) -> bool:
        """Connected, and with room for more: a batch given now will most likely be acknowledged in time.

        Not while what was given is not acknowledged, withdrawn or not, nor while nobody answers questions about topics. Either
        ends with an answer, or with another client: nobody has to risk a batch for it.
        """
        client = self._client
        if client is None or self._pending_bytes >= MAX_PENDING_BYTES:
            return False
        before = time.monotonic() - self._timing.slow
        if self._last_acknowledged > before:
            return True
        if self._silent(self._timing.slow):
            return False
        return not any(each.since <= before and self._has_leader(client, each) for each in self._unanswered())

    @property
    def pending(self) -> int:
        """Batches that are neither acknowledged nor refused yet."""
        return len(self._pending)

    def partitions(self, topic: str) -> int | None:
        """How many ``topic`` has; None: not known (yet). The first question makes us look, and go on looking."""
        return self._facts.partitions(topic)

    def largest(self, topic: str) -> int:
        """What the ``record_size.batched_size`` of a batch's records may be together, in bytes."""
        return self._facts.largest(topic)

    def busy(self, topic: str, partition: int) -> bool:
        """A batch given now would have to wait until others are answered: later it may be a larger one."""
        return self._client is not None and self._client.busy(self._prefix + topic, partition)

    def flush(self) -> None:
        """Nothing more is to go with what was given in this turn of the loop: send it now."""
        if self._client is not None:
            self._client.flush()

    async def start(self) -> None:
        """Begin; returns when the first attempt to connect has ended, well or not. It goes on trying, also when cancelled."""
        self._tasks = (
            asyncio.create_task(self._supervise(), name="kafka-producer"),
            asyncio.create_task(self._facts.keep_up(self._ask), name="kafka-topic-facts"),
        )
        await self._tried.wait()

    async def watch(self) -> None:
        """For as long as it lives, once started. Raises RuntimeError when one of its tasks has ended, which none may: what it
        is given would wait for ever.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        names = ", ".join(sorted(task.get_name() for task in done))
        if not self._stopped:
            raise RuntimeError(f"{names} has ended, and must not")

    def send(self, topic: str, partition: int, batch: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Take the batch; the future is done when every in-sync replica has all of it.

        It fails with RecordRefused only: Kafka refused the batch as a whole, or it is larger than ``largest``; nothing of it
        is written. Cancelling the future means "do not send it again": what is on its way may arrive. Order is kept among
        the batches of a partition where the next one is given after the one before is done.
        """
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = total_size(batch)
        if size > (largest := self._facts.largest(topic)):
            acknowledged.set_exception(RecordRefused(f"{size} bytes for {topic}: Kafka takes {largest}"))
            return acknowledged
        if self._stopped:
            acknowledged.cancel()
            return acknowledged
        now, patience = time.monotonic(), self._timing.stall
        pending = _Pending(topic, partition, batch, size, patience, acknowledged, now, now + patience)
        self._pending[pending] = None
        self._pending_bytes += size
        acknowledged.add_done_callback(partial(self._forget, pending))
        if (client := self._client) is not None:
            self._hand_to(client, pending)
        return acknowledged

    async def stop(self, timeout: float = 5.0) -> None:
        """Wait for what is pending, ``timeout`` seconds at most, then let go of the rest: its futures are cancelled.

        That takes 3 seconds more at most.
        """
        self._stopped = True
        if self._pending:
            await asyncio.wait({each.acknowledged for each in self._pending}, timeout=timeout)
        for task in self._tasks:
            task.cancel()
        for pending in tuple(self._pending):
            pending.acknowledged.cancel()
        self._drop_withdrawn()
        client, self._client = self._client, None
        ends = [*self._tasks, *([asyncio.create_task(client.end())] if client else ())]
        if ends:
            await asyncio.wait(ends, timeout=3)

    # --- one batch ----------------------------------------------------------------------------------------------------

    def _give_again(self, client: KafkaClient, pending: _Pending) -> None:
        pending.let_go()
        pending.due = time.monotonic() + pending.patience
        if not pending.acknowledged.done():
            self._hand_to(client, pending)

    def _hand_to(self, client: KafkaClient, pending: _Pending) -> None:
        taken = None
        try:
            told = partial(self._answered, client, pending)
            taken = client.hand_over(self._prefix + pending.topic, pending.partition, pending.batch, told)
        except _REFUSALS:
            pass  # the longer way comes to it as well, and says so
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch stays ours, and may go the longer way
            self._say_crashed(error)
        pending.given = taken is not None
        pending.delivery = taken if taken is not None else asyncio.create_task(self._deliver(client, pending))

    def _say_crashed(self, error: Exception) -> None:
        """Once for each place: it may come with every batch."""
        where = whereabouts(error)
        known = (type(error).__name__, where[-1])
        if known not in self._crashes:
            self._crashes.add(known)
            self._log.error("producer.crashed", error=known[0], where=where)

    def _answered(self, client: KafkaClient, pending: _Pending, taken: asyncio.Future[Any]) -> None:
        """What was handed over is acknowledged or refused; what else there is takes the longer way."""
        error = taken.exception()
        if pending.delivery is not taken:
            return
        if error is None:
            client.acknowledged = True
            self._acknowledge(pending)
        elif self._may_succeed(client, pending, error) and not pending.acknowledged.done():
            pending.given = False
            pending.delivery = asyncio.create_task(self._deliver(client, pending, pause=self._timing.backoff))
            return
        if self._withdrawn:
            self._owes_nothing(pending)

    def _forget(self, pending: _Pending, acknowledged: asyncio.Future[None]) -> None:
        """It is acknowledged, refused or cancelled. What the client owes us an answer to shows that it hangs, whoever waits."""
        del self._pending[pending]
        self._pending_bytes -= pending.size
        if not acknowledged.cancelled():
            pending.let_go()
            return
        unanswered = pending.delivery is not None and not pending.delivery.done()
        owed = unanswered and pending.given and not self._stopped
        if owed and self._withdrawn.setdefault(pending.place, pending) is pending:
            return  # the client has it anyway, and its acknowledgement says that all is well again
        pending.let_go()

    def _owes_nothing(self, pending: _Pending) -> None:
        if self._withdrawn.get(pending.place) is pending:
            del self._withdrawn[pending.place]

    async def _deliver(self, client: KafkaClient, pending: _Pending, pause: float = 0.0) -> None:
        try:
            await self._try(client, pending, pause)
        finally:
            self._owes_nothing(pending)

    async def _try(self, client: KafkaClient, pending: _Pending, pause: float) -> None:
        """Until it is acknowledged, refused or withdrawn, or the client is spent: then the next one gets it."""
        while True:
            if pause:
                await asyncio.sleep(pause)
            try:
                taken = await self._give(client, pending)
                if taken is None:
                    return
                await taken
            except Exception as error:  # noqa: BLE001 - whatever it is, the batch stays ours
                pending.given = False
                if not self._may_succeed(client, pending, error) or pending.acknowledged.done():
                    return
                pause = min(max(pause * 2, self._timing.backoff), self._timing.longest_backoff)
            else:
                client.acknowledged = True
                self._acknowledge(pending)
                return

    async def _give(self, client: KafkaClient, pending: _Pending) -> asyncio.Future[Any] | None:
        """To aiokafka, when that has room; None: it is not to have it any more. What is withdrawn before must not get there: it
        would be queued behind newer ones, and be written after them.
        """
        topic = self._prefix + pending.topic
        if _is_wanted(client, pending):
            await client.look_up(topic, pending.partition)
        if not _is_wanted(client, pending):
            return None
        taken = await client.send(topic, pending.partition, pending.batch)
        pending.given = True
        return taken

    def _may_succeed(self, client: KafkaClient, pending: _Pending, error: BaseException) -> bool:
        """When it is tried again with the same client."""
        if isinstance(error, _REFUSALS):
            self._refuse(pending, error)
        elif isinstance(error, SPENT):
            self._spent(client, type(error).__name__)
        else:
            self._hold_up(pending, error)
            if isinstance(error, _FORBIDDEN):  # another client would get the same answer
                pending.due = time.monotonic() + pending.patience
            return True
        return False

    def _acknowledge(self, pending: _Pending) -> None:
        self._last_acknowledged = time.monotonic()
        if self._unreachable:
            self._say_reachable()
        if self._held_up:
            self._held_up = {each for each in self._held_up if each[0] != pending.topic}
        if self._withdrawn:
            self._drop_withdrawn(pending)
        if not pending.acknowledged.done():
            pending.acknowledged.set_result(None)

    def _drop_withdrawn(self, after: _Pending | None = None) -> None:
        """What was withdrawn says nothing any more: of the partition of what came ``after`` it, else of all."""
        for place in (after.place,) if after is not None else tuple(self._withdrawn):
            gone = self._withdrawn.pop(place, None)
            if gone is not None and gone is not after:
                gone.let_go()

    def _refuse(self, pending: _Pending, error: BaseException) -> None:
        self._facts.look_again()  # its limit may be another now
        if not pending.acknowledged.done():
            refusal = f"{pending.topic}: {type(error).__name__}, {len(pending.batch)} records, {pending.size} bytes"
            pending.acknowledged.set_exception(RecordRefused(refusal))

    def _spent(self, client: KafkaClient, reason: str) -> None:
        client.spent = client.spent or reason
        self._wake.set()

    def _hold_up(self, pending: _Pending, error: BaseException) -> None:
        """Say once for each topic that, and why, it is not written to; to try again is all that can be done."""
        known = (pending.topic, type(error).__name__)
        if known not in self._held_up and not (self._client is None or self._client.ended):
            self._held_up.add(known)
            where = whereabouts(error)[-1:]
            self._log.error(
                "producer.held_up", topic=self._prefix + pending.topic, reason=reason_of(error), where=where
            )

    # --- one client after the other -----------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while True:
            try:
                await self._replace(await self._needed())
            except Exception as error:  # noqa: BLE001 - a supervisor: whatever it was, it must go on
                self._log.error("producer.crashed", error=type(error).__name__, where=whereabouts(error))
                self._tried.set()
                await asyncio.sleep(self._timing.longest_backoff)

    async def _needed(self) -> str:
        """Return when another client is needed: why; "" where there is none."""
        while self._client is not None:
            if self._client.dead:
                self._client.spent = self._client.spent or "died"
            if self._client.spent is not None:
                return self._client.spent
            if self._overdue():
                return _STALLED
            if self._silent_for_long():
                return _SILENT
            self._wake.clear()
            due = min((each.due for each in self._unanswered()), default=float("inf"))
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK, due - time.monotonic())):
                    await self._wake.wait()
        return ""

    def _overdue(self) -> list[_Pending]:
        now = time.monotonic()
        return [each for each in self._unanswered() if each.due <= now]

    def _unanswered(self) -> Iterator[_Pending]:
        return chain(self._pending, self._withdrawn.values())

    def _silent(self, seconds: float) -> bool:
        """Kafka has answered nothing for so long, neither questions nor batches."""
        since = self._facts.silent_since
        return since is not None and max(since, self._last_acknowledged) + seconds <= time.monotonic()

    def _silent_for_long(self) -> bool:
        """... and nothing waits that would show it, or that another client would write twice."""
        return not self._pending and self._silent(self._timing.stall)

    async def _replace(self, reason: str) -> None:
        """Connect a new client, and use it instead of the one there is, if that does any good."""
        await asyncio.sleep(self._pause())
        overdue = self._overdue()
        client = KafkaClient(
            self._connection, client_id=self._client_id, timing=self._timing, idempotent=self._idempotent
        )
        try:
            problem = await client.connect(self._prefix + topic for topic in self._facts.known)
            self._tried.set()
            self._attempts_failed = self._attempts_failed + 1 if problem else 0
            if problem:
                self._say_unreachable(problem)
                _look_again(overdue, after=self._timing.longest_backoff)
            elif reason not in _LOOKS_WEDGED or await self._does_better(client):
                await self._adopt(client, reason)
                self._wait_longer(overdue)
            else:
                _look_again(overdue, after=self._timing.stall)
        finally:
            if client is not self._client:
                await client.end()

    def _pause(self) -> float:
        failures = self._attempts_failed + (self._client is not None and not self._client.acknowledged)
        longest = self._timing.longest_backoff
        return 0.0 if not failures else min(self._timing.backoff * 2 ** min(failures - 1, 10), longest)

    def _wait_longer(self, overdue: Sequence[_Pending]) -> None:
        """To look whether a new client helps costs nothing; to use one may cost duplicates."""
        for pending in overdue:
            pending.patience = min(pending.patience * 2, self._timing.stall * _MOST_PATIENCE)
            _look_again([pending], after=pending.patience)

    async def _does_better(self, client: KafkaClient) -> bool:
        """Whether Kafka could take what is overdue (``client`` sees leaders), and the client in use still does not give it;
        with nothing waiting, whether that one still gets no answer to a question.
        """
        if self._silent_for_long():
            self._facts.look_again()
            await asyncio.sleep(self._timing.slow)
            return self._silent_for_long()
        waiting = {each.answer for each in self._overdue() if self._has_leader(client, each)}
        if not waiting:
            return False
        _, still = await asyncio.wait(waiting, timeout=self._timing.slow)
        return bool(still)

    def _has_leader(self, client: KafkaClient, pending: _Pending) -> bool:
        return client.leads(self._prefix + pending.topic, pending.partition)

    async def _adopt(self, client: KafkaClient, reason: str) -> None:
        old = self._client
        if old is not None:
            with suppress(Exception):  # whatever it dies of, the new one is needed all the more
                await old.end()
            await asyncio.sleep(0)  # answers that came at the very end are heard
            if reason in _LOOKS_WEDGED:  # else its numbers are what is wrong
                client.take_over(old, [pending.batch for pending in self._pending])
            self.replacements[reason] += 1
            self._log.warning("producer.replaced", reason=reason, pending=self.pending)
        self._client = client
        self._say_reachable()
        self._drop_withdrawn()
        self._facts.answered()  # it has connected
        self._facts.look_again()
        for pending in tuple(self._pending):
            self._give_again(client, pending)

    def _say_unreachable(self, reason: str) -> None:
        if not self._unreachable:
            self._unreachable = True
            self._log.warning("producer.unreachable", reason=reason, pending=self.pending)

    def _say_reachable(self) -> None:
        if self._unreachable:
            self._unreachable = False
            self._log.info("producer.connected", pending=self.pending)

    def _ask(self) -> Ask | None:
        return self._client.ask if self._client is not None and not self._client.ended else None


def _is_wanted(client: KafkaClient, pending: _Pending) -> bool:
    return client.spent is None and not pending.acknowledged.done()


def _look_again(overdue: Sequence[_Pending], *, after: float) -> None:
    for pending in overdue:
        pending.due = time.monotonic() + after
