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
from service.core.message import UNREADABLE, Message, Received

#: Bytes of a record that its letter repeats; of a longer one its place has to do, where retention keeps it.
LONGEST = 512 * 1024

#: Bytes that the record's key may take in the letter, as JSON, and in a brief one; a longer key is cut. With the value in
#: base64 and all the rest this is less than a record may have, whatever the key is made of.
LONGEST_KEY = 64 * 1024
BRIEF_KEY = 512

#: ... and each of the texts that say why.
_LONGEST_TEXT = 4 * 1024

#: Why there is a letter of a record that never had a place.
REFUSED_BY_KAFKA = "refusedByKafka"

BURIED, REDRIVEN, DISCARDED = (f"webex.record.{verb}.v1" for verb in ("buried", "redriven", "discarded"))


def id_of(record: Received) -> str:
    """The id of the letter about ``record``: of its place, and of its time, since a topic that was made anew begins at 0."""
    return event_id("letter", record.topic, str(record.partition), str(record.offset), str(record.timestamp))


def bury(  # noqa: PLR0913 - one argument for each thing that is told
    record: Received,
    *,
    reason: str,
    detail: str = "",
    status: int | None = None,
    tracking_id: str | None = None,
    attempts: int = 0,
    now: datetime,
    receiver: str,
    brief: bool = False,
) -> CloudEvent:
    """The letter of ``record``; the same record gives the same id. ``detail`` is a sentence without personal data.

    It always fits into a record of Kafka's default size. ``brief``: of a topic that takes less; without the value, and with
    the beginning of a long key.
    """
    most = BRIEF_KEY if brief else _LONGEST_TEXT
    data: dict[str, Any] = {
        **_told(record, brief=brief),
        "reason": reason,
        "detail": _cut(detail, most),
        "status": status,
        "trackingId": None if tracking_id is None else _cut(tracking_id, most),
        "attempts": attempts,
    }
    return _letter(id_of(record), data, origin="processor", now=now, receiver=receiver)


def refused(message: Message, *, detail: str, now: datetime, receiver: str) -> CloudEvent:
    """The letter of a record that Kafka refused, so that it has no place; :func:`fits` says whether there can be one.

    Refused once more it is another letter. ``detail`` is a sentence without personal data.
    """
    value = message.value or b""
    data: dict[str, Any] = {
        "topic": message.topic,
        "partition": None,
        "offset": None,
        "key": message.key,
        "partitionBy": message.partition_by,
        "bytes": len(value),
        "valueBase64": base64.b64encode(value).decode(),
        "reason": REFUSED_BY_KAFKA,
        "detail": _cut(detail, _LONGEST_TEXT),
    }
    id_ = event_id(REFUSED_BY_KAFKA, message.topic, message.key, value, rfc3339(now))
    return _letter(id_, data, origin="publisher", now=now, receiver=receiver)


def fits(message: Message) -> bool:
    """Whether a letter can hold all of it, so that it can be sent again."""
    texts = (message.key, message.partition_by)
    return len(message.value or b"") <= LONGEST and all(_cut(text, LONGEST_KEY) == text for text in texts)


def _letter(id_: str, data: dict[str, Any], *, origin: str, now: datetime, receiver: str) -> CloudEvent:
    return new_event(
        id=id_,
        type=BURIED,
        source="/webex",
        key=id_,
        origin=origin,
        subject=f"letters/{id_}",
        received=now,
        receiver=receiver,
        data=data,
    )


def _told(record: Received, *, brief: bool) -> dict[str, Any]:
    value = record.value or b""
    key = _cut(record.key, BRIEF_KEY if brief else LONGEST_KEY)
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": key,
        "keyCut": key != record.key,
        "bytes": len(value),
        "valueBase64": base64.b64encode(value).decode() if len(value) <= LONGEST and not brief else None,
    }


def _cut(text: str, most: int) -> str:
    """As much of ``text`` as takes ``most`` bytes in JSON, where a character has between one and six."""
    text = text[:most]
    while (size := len(msgspec.json.encode(text))) > most:
        text = text[: len(text) * most // size]
    return text


class Letter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of one letter, without the record itself.

    ``state`` is ``waiting``, ``redriven`` or ``discarded``, since ``since``; ``buried`` is when it was written. ``key_cut``:
    ``key`` is only the beginning of the record's. ``partition`` and ``offset`` None: Kafka refused the record, so that it
    never had a place; where it belongs is up to ``partition_by`` then.
    """

    id: str
    state: str
    topic: str
    partition: int | None
    offset: int | None
    key: str
    key_cut: bool = False
    partition_by: str | None = None
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
    """Every letter, with its present state: add the records of the topic, those of each partition in order.

    A processor that is killed buries the same record again when it is back. That is the same letter, and opens none that
    was closed: a record that was redriven and failed once more is at another place.
    """

    def __init__(self) -> None:
        self._letters: dict[str, Letter] = {}
        self._closed: dict[str, tuple[str, str]] = {}  # also of letters that retention took away
        self.unreadable = 0

    def __iter__(self) -> Iterator[Letter]:
        return iter(self._letters.values())

    def add(self, value: bytes | None) -> None:
        """One record. What is no letter counts as unreadable."""
        try:
            event = decode(value or b"")
            state = _STATES[event.type]
            if state == "waiting":
                self._bury(event)
            else:
                self._close(event.partitionkey, state, event.time)
        except (*UNREADABLE, KeyError):
            self.unreadable += 1

    def _bury(self, event: CloudEvent) -> None:
        letter = msgspec.convert({**event.data, "id": event.partitionkey, "state": "waiting"}, Letter)
        if letter.id not in self._letters:
            state, since = self._closed.get(letter.id, ("waiting", event.time))
            self._letters[letter.id] = msgspec.structs.replace(letter, buried=event.time, state=state, since=since)

    def _close(self, id_: str, state: str, since: str) -> None:
        self._closed[id_] = state, since
        if (before := self._letters.get(id_)) is not None:
            self._letters[id_] = msgspec.structs.replace(before, state=state, since=since)


def content_of(value: bytes | None, id_: str) -> bytes | None:
    """The record that the letter ``id_`` repeats, where ``value`` is that letter and it does."""
    try:
        event = decode(value or b"")
        if event.type != BURIED or event.partitionkey != id_:
            return None
        return base64.b64decode(event.data["valueBase64"], validate=True)
    except (*UNREADABLE, KeyError, TypeError, binascii.Error):
        return None


def redrive(letter: Letter, key: str, content: bytes) -> Message:
    """The record once more. Where the letter does not say by what it stands, it is by its ``key``: those of ``work``, which
    are most, are keyed by their organisation.
    """
    return Message(topic=letter.topic, key=key, value=content, partition_by=letter.partition_by or key)


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
