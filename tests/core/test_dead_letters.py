"""Dead letters: what they say, what becomes of them, and how their records are sent again."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from service.bus.record_size import MAX_RECORD_BYTES, record_size
from service.core import dead_letters, event
from service.core.dead_letters import DISCARDED, LONGEST, REDRIVEN, Letter, Letters
from service.core.message import Message, Received
from tests.facts import NOW, fact

RECORD = Received(topic="work", partition=2, offset=7, key="default", value=b'{"kind": "hint"}', timestamp=5)


def letter_about(record: Received = RECORD) -> event.CloudEvent:
    """Buried by a processor."""
    return dead_letters.bury(
        record,
        reason="WebexRejected",
        detail="Webex refused meetings.get",
        status=400,
        tracking_id="track-1",
        attempts=3,
        now=NOW,
        receiver="processor-1",
    )


def read(*events: event.CloudEvent | bytes | None) -> Letters:
    """What the topic says."""
    letters = Letters()
    for each in events:
        letters.add(event.encode(each) if isinstance(each, event.CloudEvent) else each)
    return letters


def test_a_letter_says_what_it_is_about() -> None:
    """Cause, attempts, Webex's tracking id, the place of the record; on the topic of dead letters."""
    (letter,) = read(letter_about())

    assert event.to_message(letter_about()).topic == "dead-letters"
    assert letter == Letter(
        id=letter_about().partitionkey,
        state="waiting",
        topic="work",
        partition=2,
        offset=7,
        key="default",
        reason="WebexRejected",
        detail="Webex refused meetings.get",
        status=400,
        tracking_id="track-1",
        attempts=3,
        bytes=len(RECORD.value or b""),
        buried="2026-03-01T12:00:00.000Z",
        since="2026-03-01T12:00:00.000Z",
    )


def test_the_same_record_is_one_letter() -> None:
    """Delivered once more and buried once more: the same id. Of a topic that was made anew it is another record."""
    assert len(list(read(letter_about(), letter_about()))) == 1
    later = dead_letters.bury(RECORD, reason="again", now=NOW + timedelta(hours=1), receiver="p", brief=True)
    assert list(read(letter_about(), later)) == list(read(letter_about()))  # the first one waits since then
    for other in ({"offset": 8}, {"partition": 1}, {"topic": "commands"}, {"timestamp": 6}):
        assert len(list(read(letter_about(), letter_about(msgspec.structs.replace(RECORD, **other))))) == 2


@pytest.mark.parametrize(("type_", "state"), [(REDRIVEN, "redriven"), (DISCARDED, "discarded")])
def test_a_closed_letter_waits_no_more(type_: str, state: str) -> None:
    """Whatever comes behind: a processor that was killed buries the same record once more, also after retention took the
    first letter away.
    """
    (letter,) = read(letter_about())
    closing = dead_letters.closed(letter, type_, now=NOW, receiver="cli")

    assert [each.state for each in read(letter_about(), closing)] == [state]
    assert [each.state for each in read(letter_about(), closing, letter_about())] == [state]
    assert [each.state for each in read(closing, letter_about())] == [state]
    assert list(read(closing)) == []  # retention took the letter away
    assert event.to_message(closing).key == letter.id  # so it stands behind its letter


@pytest.mark.parametrize(
    "value", [RECORD.value, b"", b"\xff\x00", b"x" * LONGEST], ids=["json", "empty", "bytes", "long"]
)
def test_a_record_comes_back_as_it_was(value: bytes) -> None:
    """Byte for byte, with its key, to its topic."""
    letter = letter_about(msgspec.structs.replace(RECORD, value=value))
    (known,) = read(letter)
    content = dead_letters.content_of(event.encode(letter), known.id)

    assert content == value
    assert dead_letters.redrive(known, "default", content) == Message(
        topic="work", key="default", value=value, partition_by="default"
    )


def test_what_a_letter_does_not_repeat() -> None:
    """A record that is too long for it; and another letter's is not given out."""
    letter = letter_about(msgspec.structs.replace(RECORD, value=b"x" * (LONGEST + 1)))
    assert dead_letters.content_of(event.encode(letter), letter.partitionkey) is None
    assert dead_letters.content_of(event.encode(letter_about()), "another") is None
    assert dead_letters.content_of(b"{", "another") is None
    assert dead_letters.content_of(b'{"id": "\xff"}', "another") is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="tombstone"),
        pytest.param(b"{", id="not JSON"),
        pytest.param(b'{"id": "\xff"}', id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"topic": "work", "offset": 5}', id="of another version"),
        pytest.param(event.encode(fact("held", "x")), id="another event"),
        pytest.param(
            event.encode(msgspec.structs.replace(letter_about(), data={"topic": 5})), id="a letter without its fields"
        ),
    ],
)
def test_what_is_no_letter_is_counted(value: bytes | None) -> None:
    """It is neither lost in silence nor in the way of the others."""
    letters = read(value, letter_about())
    assert (letters.unreadable, len(list(letters))) == (1, 1)


LONG = 1024 * 1024


@pytest.mark.parametrize("character", ["k", "\x01", '"', "é", "\N{GRINNING FACE}"], ids=ascii)
@pytest.mark.parametrize("size", [1, LONGEST, LONGEST + 1, LONG])
@pytest.mark.parametrize("brief", [False, True])
def test_a_letter_always_fits_a_record(character: str, size: int, brief: bool) -> None:
    """Whatever key, value and sentences are made of, and however long they are."""
    record = msgspec.structs.replace(RECORD, key=character * LONG, value=b"\xff" * size)
    letter = dead_letters.bury(
        record,
        reason="WebexRejected",
        detail=character * LONG,
        tracking_id=character * LONG,
        now=NOW,
        receiver="processor-1",
        brief=brief,
    )
    message = event.to_message(letter)
    (known,) = read(message.value)

    assert record_size(message) <= (4096 if brief else MAX_RECORD_BYTES)
    assert (known.key_cut, known.bytes, record.key.startswith(known.key)) == (True, size, True)
    assert (letter.data["valueBase64"] is None) == (brief or size > LONGEST)


def test_a_key_that_fits_is_whole() -> None:
    """Also in a brief letter, which has the same id and is without the value."""
    for brief in (False, True):
        letter = dead_letters.bury(RECORD, reason="x", now=NOW, receiver="p", brief=brief)
        (known,) = read(letter)
        assert (known.key, known.key_cut, known.id) == ("default", False, letter_about().partitionkey)
        assert (dead_letters.content_of(event.encode(letter), known.id) is None) == brief


REFUSED = Message(topic="ledger", key="registrants/x", value=b'{"a": 1}', partition_by="default")


def test_a_record_that_kafka_refused_has_no_place() -> None:
    """So its letter holds all of it, and says where it belongs."""
    letter = dead_letters.refused(REFUSED, detail="MessageSizeTooLarge, 5003 bytes", now=NOW, receiver="receiver-1")
    (known,) = read(letter)

    assert event.to_message(letter).topic == "dead-letters"
    assert known == Letter(
        id=letter.partitionkey,
        state="waiting",
        topic="ledger",
        partition=None,
        offset=None,
        key="registrants/x",
        partition_by="default",
        reason="refusedByKafka",
        detail="MessageSizeTooLarge, 5003 bytes",
        bytes=8,
        buried="2026-03-01T12:00:00.000Z",
        since="2026-03-01T12:00:00.000Z",
    )
    content = dead_letters.content_of(event.encode(letter), known.id)
    assert dead_letters.redrive(known, known.key, content or b"") == REFUSED


def test_refused_once_more_it_is_another_letter() -> None:
    """It was redriven before the cause was mended: nobody would look at a letter that is closed."""
    first, second = (
        dead_letters.refused(REFUSED, detail="", now=NOW + timedelta(seconds=n), receiver="r") for n in range(2)
    )
    (known,) = read(first)
    closing = dead_letters.closed(known, REDRIVEN, now=NOW, receiver="cli")
    assert [each.state for each in read(first, closing, second)] == ["redriven", "waiting"]


@pytest.mark.parametrize(
    ("value", "key", "fits"),
    [
        (b"x" * LONGEST, "k", True),
        (b"x" * (LONGEST + 1), "k", False),
        (b"", "k" * (64 * 1024 - 2), True),
        (b"", "k" * (64 * 1024 - 1), False),
    ],
)
def test_what_a_letter_of_a_refused_record_can_hold(value: bytes, key: str, fits: bool) -> None:
    """All of it, in a record that Kafka takes by default; else there can be none."""
    message = Message(topic="work", key=key, value=value, partition_by=key)
    assert dead_letters.fits(message) is fits
    letter = event.to_message(dead_letters.refused(message, detail="x" * LONG, now=NOW, receiver="r"))
    assert record_size(letter) <= MAX_RECORD_BYTES or not fits
