"""Dead letters: where records go that led nowhere. Only when the letter is durable is the record finished."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from service.controllers.ports import Clock, Observer, Publisher
from service.core import dead_letters, event
from service.core.errors import CannotStore, EventProcessorError, RecordRefused, WebexError
from service.core.message import Received

#: Where a letter cannot be written, it is tried again after so many seconds.
AGAIN = 1.0


class Letters:
    """Writes them."""

    def __init__(self, *, publisher: Publisher, observer: Observer, receiver: str, now: Clock) -> None:
        self._publisher, self._observer, self._receiver, self._now = publisher, observer, receiver, now
        self._log = structlog.get_logger()

    async def bury(
        self, record: Received, reason: str, *, error: EventProcessorError | None = None, attempts: int = 0
    ) -> None:
        """Return when the letter of ``record`` is durable, however long that takes."""
        webex = error if isinstance(error, WebexError) else None
        written = partial(
            dead_letters.bury,
            record,
            reason=reason,
            detail=str(error) if error else "",
            status=webex.status if webex else None,
            tracking_id=webex.tracking_id if webex else None,
            attempts=attempts,
            now=self._now(),
            receiver=self._receiver,
        )
        letter = written()
        while True:
            try:
                await self._publisher.publish([event.to_message(letter)])
                break
            except RecordRefused:  # the topic takes less than most do
                letter = written(brief=True)
                await asyncio.sleep(AGAIN)
            except CannotStore:
                await asyncio.sleep(AGAIN)
        self._observer.letter_written(reason)
        self._log.error("letter.written", id=letter.id, partition=record.partition, offset=record.offset, reason=reason)
