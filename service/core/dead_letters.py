"""Dead letters: records of ours that led nowhere, with the reason, so that an operator can look, mend and send them again.

A letter is a CloudEvent ``webex.record.buried.v1`` on the topic ``dead-letters``. It is never changed: that it was redriven
or discarded is a later event of the same subject.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from service.core.event import CloudEvent, decode, event_id, new_event, rfc3339
from service.core.message import Message, Received

#: Bytes of a record that its letter repeats; of a longer one its place has to do, where retention keeps it.
LONGEST = 512 * 1024

BURIED, REDRIVEN, DISCARDED = (f"webex.record.{verb}.v1" for verb in ("buried", "redriven", "discarded"))


def bury(
    record: Received,
    *,
    reason: str,
    detail: str = "",
    status: int | None = None,
    tracking_id: str | None = None,
    attempts: int = 0,
    now: datetime,
    receiver: str,
) -> CloudEvent:
    """The letter of ``record``; the same record gives the same id. ``detail`` is a sentence without personal data."""
    value = record.value or b""
    id_ = event_id("letter", record.topic, str(record.partition), str(record.offset))
    data: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key,
        "reason": reason,
        "detail": detail,
        "status": status,
        "trackingId": tracking_id,
        "attempts": attempts,
        "bytes": len(value),
        "valueBase64": base64.b64encode(value).decode() if len(value) <= LONGEST else None,
    }
    return new_event(
        id=id_,
        type=BURIED,
        source="/webex",
        key=id_,
        origin="processor",
        subject=f"letters/{id_}",
        received=now,
        receiver=receiver,
        data=data,
    )


class Letter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of one letter, without the record itself.

    ``state`` is ``waiting``, ``redriven`` or ``discarded``, since ``since``; ``buried`` is when it was written.
    """

    id: str
    state: str
    topic: str
    partition: int
    offset: int
    key: str
    reason: str
    detail: str = ""
    status: int | None = None
    tracking_id: str | None = None
    attempts: int = 0
    bytes: int = 0
    buried: str = ""
    since: str = ""


_STATES = {BURIED: "waiting", REDRIVEN: "redriven", DISCARDED: "discarded"}


class Letters:
    """Every letter, with its present state: add the records of the topic, those of each partition in order."""

    def __init__(self) -> None:
        self._letters: dict[str, Letter] = {}
        self.unreadable = 0

    def __iter__(self) -> Iterator[Letter]:
        return iter(self._letters.values())

    def add(self, value: bytes | None) -> None:
        """One record. What is no letter counts as unreadable."""
        try:
            event = decode(value or b"")
            state = _STATES[event.type]
            if state == "waiting":
                letter = msgspec.convert({**event.data, "id": event.partitionkey, "state": state}, Letter)
                self._letters[letter.id] = msgspec.structs.replace(letter, buried=event.time, since=event.time)
            elif (before := self._letters.get(event.partitionkey)) is not None:
                self._letters[before.id] = msgspec.structs.replace(before, state=state, since=event.time)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, KeyError):
            self.unreadable += 1


def content_of(value: bytes | None, id_: str) -> bytes | None:
    """The record that the letter ``id_`` repeats, where ``value`` is that letter and it does."""
    try:
        event = decode(value or b"")
        if event.type != BURIED or event.partitionkey != id_:
            return None
        return base64.b64decode(event.data["valueBase64"], validate=True)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, KeyError, TypeError, binascii.Error):
        return None


def redrive(letter: Letter, content: bytes) -> Message:
    """The record once more. It stands where its key says: those of ``work`` are keyed by their organisation."""
    return Message(topic=letter.topic, key=letter.key, value=content, partition_by=letter.key)


def closed(letter: Letter, type_: str, *, now: datetime, receiver: str) -> CloudEvent:
    """That a letter was redriven or discarded (``type_``)."""
    return new_event(
        id=event_id(type_, letter.id, rfc3339(now)),
        type=type_,
        source="/webex",
        key=letter.id,
        origin="command",
        subject=f"letters/{letter.id}",
        received=now,
        receiver=receiver,
        data={"topic": letter.topic, "partition": letter.partition, "offset": letter.offset, "reason": letter.reason},
    )
