"""CloudEvents in structured JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.event import (
    TOPICS,
    CloudEvent,
    begun,
    decode,
    encode,
    event_id,
    event_id_after,
    new_event,
    rfc3339,
    to_message,
)

NOON = datetime(2026, 1, 20, 12, 0, tzinfo=UTC)

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def event(**changes: Any) -> CloudEvent:
    """An event of which a test says only what matters to it."""
    return new_event(
        **{
            "id": "e1",
            "type": "webex.meeting.started.v1",
            "source": "/webex",
            "key": "k1",
            "origin": "webhook",
            "received": NOON,
            "receiver": "r1",
            "data": {},
            **changes,
        }
    )


def test_the_json_is_a_structured_cloud_event() -> None:
    """Attributes stand beside each other, data is an object, and an attribute without a value is left out."""
    assert msgspec.json.decode(encode(event(subject="meetings/k1", data={"state": "inProgress"}))) == {
        "specversion": "1.0",
        "id": "e1",
        "source": "/webex",
        "type": "webex.meeting.started.v1",
        "subject": "meetings/k1",
        "time": "2026-01-20T12:00:00.000Z",
        "datacontenttype": "application/json",
        "data": {"state": "inProgress"},
        "partitionkey": "k1",
        "origin": "webhook",
        "receivedtime": "2026-01-20T12:00:00.000Z",
        "receiver": "r1",
    }


def test_time_is_when_it_happened_where_that_is_known() -> None:
    """``time`` and ``receivedtime`` differ as soon as somebody knows when it happened."""
    happened = event(time=NOON - timedelta(minutes=5))
    assert (happened.time, happened.receivedtime) == ("2026-01-20T11:55:00.000Z", "2026-01-20T12:00:00.000Z")


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.none() | st.text())
def test_decode_undoes_encode(data: dict[str, Any], subject: str | None) -> None:
    """What was encoded comes back equal."""
    original = event(data=data, subject=subject)
    assert decode(encode(original)) == original


def test_an_attribute_from_a_later_version_is_no_obstacle() -> None:
    """A reader of today reads an event that has one extension more."""
    assert decode(encode(event())[:-1] + b',"tomorrow":"1"}') == event()


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"id":1}', b"\xff"], ids=["empty", "array", "no attributes", "types", "bytes"]
)
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    """Anything else is one of msgspec's errors."""
    with pytest.raises(msgspec.DecodeError):
        decode(raw)


@pytest.mark.parametrize(("family", "topic"), TOPICS.items(), ids=TOPICS)
def test_each_family_has_its_topic(family: str, topic: str) -> None:
    """The record goes to the family's topic, and its key, which decides the partition, is the event's."""
    message = to_message(event(type=f"webex.{family}.changed.v1"))
    assert (message.topic, message.key, message.partition_by) == (topic, "k1", "k1")
    assert message.value == encode(event(type=f"webex.{family}.changed.v1"))


def test_an_event_id_is_a_literal() -> None:
    """Ids must not change between versions: consumers deduplicate by them."""
    assert event_id("a", b"b") == "3c9d591045bc8876f9d0399bbfb05c6a"


@given(st.lists(st.text() | st.binary(), max_size=4), st.lists(st.text() | st.binary(), max_size=4))
def test_event_ids_keep_their_parts_apart(one: list[str | bytes], other: list[str | bytes]) -> None:
    """Only the same parts give the same id: moving a character from one part to the next gives another."""
    assert (event_id(*one) == event_id(*other)) == (as_bytes(one) == as_bytes(other))
    assert event_id("ab", "c") != event_id("a", "bc")


@given(st.lists(st.text() | st.binary(), max_size=4), st.text(st.characters()), st.binary())
def test_an_id_may_be_begun_before_the_rest_is_known(parts: list[str | bytes], name: str, content: bytes) -> None:
    """It is the same id, and what was begun serves again."""
    first = begun(*parts)
    for _ in range(2):
        assert event_id_after(first, name, content) == event_id(*parts, name, content)


def test_an_id_begun_is_a_literal_too() -> None:
    """A lone surrogate, which JSON can carry, has an id as well."""
    assert event_id_after(begun(), "a", b"b") == "3c9d591045bc8876f9d0399bbfb05c6a"
    assert event_id_after(begun("x"), "\ud800", b"") == event_id("x", "\ud800", b"")


def as_bytes(parts: list[str | bytes]) -> list[bytes]:
    """The parts as they are hashed."""
    return [part.encode() if isinstance(part, str) else part for part in parts]


def test_rfc3339_is_utc_with_milliseconds() -> None:
    """Every time zone is converted, and microseconds are cut off."""
    paris = timezone(timedelta(hours=1))
    assert rfc3339(datetime(2026, 1, 20, 13, 0, 0, 123999, tzinfo=paris)) == "2026-01-20T12:00:00.123Z"
