"""Dead letters: where records go that led nowhere. Only when the letter is durable is the record finished.

They are written beside everything else: a topic that takes no letters holds up nobody but the records that wait for it,
whose offsets do not move. It is said once, and again every minute, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import structlog

from service.controllers.ports import Clock, Observer, Publisher
from service.core import dead_letters, event
from service.core.errors import CannotStore, EventProcessorError, RecordRefused, WebexError
from service.core.event import CloudEvent
from service.core.message import Received

#: Where letters cannot be written, it is tried again after so many seconds, doubled up to the second figure.
AGAIN, LONGEST_AGAIN = 1.0, 10.0

#: Seconds after which it is said again that they cannot be written.
REMIND = 60.0

#: Letters written at a time: as many, or those of so many bytes of records.
TOGETHER, TOGETHER_BYTES = 50, 512 * 1024

Finish = Callable[[Received], None]


@dataclass(frozen=True)
class _Letter:
    """A letter that has to be written, and what is to be done then."""

    record: Received
    reason: str
    error: EventProcessorError | None
    attempts: int
    at: datetime
    finish: Finish


class Letters:
    """Writes them. They are bounded by the records that their consumer delivers without any being finished."""

    def __init__(self, *, publisher: Publisher, observer: Observer, receiver: str, topic: str, now: Clock) -> None:
        """``topic`` is that of the records: a processor has letters of more than one."""
        self._publisher, self._observer, self._receiver, self._now = publisher, observer, receiver, now
        self._topic = topic
        self._waiting: dict[tuple[int, int], _Letter] = {}  # partition and offset; oldest first
        self._posted = asyncio.Event()
        self._failing_since: float | None = None
        self._told = float("-inf")
        self._log = structlog.get_logger()

    @property
    def waiting(self) -> int:
        """How many are not durable yet."""
        return len(self._waiting)

    def post(
        self,
        record: Received,
        reason: str,
        *,
        finish: Finish,
        error: EventProcessorError | None = None,
        attempts: int = 0,
    ) -> None:
        """The letter of ``record`` has to be written; ``finish`` is called with it when the letter is durable."""
        letter = _Letter(record, reason, error, attempts, self._now(), finish)
        self._waiting[record.partition, record.offset] = letter
        self._posted.set()

    def forget(self, partitions: Collection[int]) -> None:
        """These partitions are somebody else's now, who meets their records again."""
        self._waiting = {place: letter for place, letter in self._waiting.items() if place[0] not in partitions}

    async def run(self) -> None:
        """Write what is posted, until cancelled."""
        delay = AGAIN
        while True:
            await self._posted.wait()
            problems = await asyncio.gather(*map(self._write, self._next_ones()))  # each has a partition of its own
            problem = next((problem for problem in problems if problem is not None), None)
            self._tell(problem)
            if not self._waiting:
                self._posted.clear()
            if problem is None:
                delay = AGAIN
            else:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_AGAIN)

    def _next_ones(self) -> list[_Letter]:
        chosen, size = list[_Letter](), 0
        for letter in self._waiting.values():
            size += len(letter.record.value or b"")
            if chosen and (size > TOGETHER_BYTES or len(chosen) >= TOGETHER):
                break
            chosen.append(letter)
        return chosen

    async def _write(self, letter: _Letter) -> EventProcessorError | None:
        """None once it is durable, else the problem: then it is tried again, after the others."""
        try:
            await self._publisher.publish([event.to_message(self._written(letter))])
        except RecordRefused:  # the topic takes less than most do
            try:
                await self._publisher.publish([event.to_message(self._written(letter, brief=True))])
            except (CannotStore, RecordRefused) as error:
                return self._put_last(letter, error)
        except CannotStore as error:
            return self._put_last(letter, error)
        self._done(letter)
        return None

    def _written(self, letter: _Letter, *, brief: bool = False) -> CloudEvent:
        webex = letter.error if isinstance(letter.error, WebexError) else None
        return dead_letters.bury(
            letter.record,
            reason=letter.reason,
            detail=str(letter.error) if letter.error else "",
            status=webex.status if webex else None,
            tracking_id=webex.tracking_id if webex else None,
            attempts=letter.attempts,
            now=letter.at,
            receiver=self._receiver,
            brief=brief,
        )

    def _put_last(self, letter: _Letter, error: EventProcessorError) -> EventProcessorError:
        place = letter.record.partition, letter.record.offset
        if self._waiting.get(place) is letter:
            self._waiting[place] = self._waiting.pop(place)
        return error

    def _done(self, letter: _Letter) -> None:
        record = letter.record
        if self._waiting.get((record.partition, record.offset)) is letter:
            del self._waiting[record.partition, record.offset]
        letter.finish(record)
        self._observer.letter_written(letter.reason)
        id_ = dead_letters.id_of(record)
        self._log.error(
            "letter.written", id=id_, partition=record.partition, offset=record.offset, reason=letter.reason
        )

    def _tell(self, problem: EventProcessorError | None) -> None:
        now = time.monotonic()
        self._observer.letters_waiting(self._topic, 0 if problem is None else len(self._waiting))
        if problem is None:
            if self._failing_since is not None:
                self._log.info("letters.written_again", seconds=round(now - self._failing_since))
            self._failing_since, self._told = None, float("-inf")
            return
        self._failing_since = self._failing_since or now
        if now - self._told >= REMIND:
            self._told = now
            self._log.error(
                "letters.cannot_be_written",
                waiting=len(self._waiting),
                seconds=round(now - self._failing_since),
                reason=type(problem).__name__,
                to_do="the topic dead-letters must exist and take records; nothing is lost, and no offset moves past them",
            )
