"""Hints: after which events the processor looks, and where."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from service.core.event import CloudEvent, new_event
from service.core.work import Hint, decode, encode, hint_for, to_message

SERIES = "501e995485e2460bb129410116757b13"


def event(type: str) -> CloudEvent:  # noqa: A002 - CloudEvents' own name
    """An event of that type, received at noon."""
    return new_event(
        id="e1",
        type=type,
        source="/webex",
        key=SERIES,
        origin="webhook",
        received=datetime(2026, 1, 20, 12, 0, tzinfo=UTC),
        receiver="r1",
        data={},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


@pytest.mark.parametrize(
    ("type_", "looks"),
    [
        ("webex.meeting.created.v1", True),
        ("webex.meeting.ended.v1", True),
        ("webex.registrant.created.v1", True),
        ("webex.service-app.authorized.v1", True),
        ("webex.participant.joined.v1", False),
        ("webex.recording.created.v1", False),
        ("webex.converged-recording.created.v1", False),
        ("webex.transcript.created.v1", False),
        ("webex.notification.quarantined.v1", False),
        ("webex.command.succeeded.v1", False),
    ],
)
def test_what_triggers_a_look(type_: str, looks: bool) -> None:
    """Meetings, registrants and service apps make the processor look; nothing else does."""
    assert (hint_for(event(type_), series=SERIES, org_id="", host_email="") is not None) == looks


def test_without_a_series_there_is_nowhere_to_look() -> None:
    """An event that names no meeting gives no hint."""
    assert hint_for(event("webex.meeting.created.v1"), series=None, org_id="", host_email="") is None


def test_a_hint_says_where_and_why() -> None:
    """The hint has the series, the event's type, id, time received and trace, and who to ask as."""
    hint = hint_for(event("webex.meeting.created.v1"), series=SERIES, org_id="org", host_email="host@example.com")
    assert hint == Hint(
        organization="default",
        series=SERIES,
        reason="webex.meeting.created.v1",
        at="2026-01-20T12:00:00.000Z",
        event_id="e1",
        org_id="org",
        host_email="host@example.com",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def test_the_record_stands_with_its_organisation() -> None:
    """Hints are keyed and partitioned by organisation, so that each organisation has one owner; decoding undoes it."""
    hint = Hint(organization="default", series=SERIES, reason="sweep", at="2026-01-20T12:00:00.000Z")
    message = to_message(hint)
    assert (message.topic, message.key, message.partition_by) == ("work", "default", "default")
    assert message.value == encode(hint)
    assert decode(encode(hint)) == hint


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"kind":"command"}'], ids=["empty", "no kind", "another kind"])
def test_what_is_no_hint_is_refused(raw: bytes) -> None:
    """Anything else is one of msgspec's errors."""
    with pytest.raises(msgspec.DecodeError):
        decode(raw)


def test_a_hint_about_an_organisation_names_no_meeting() -> None:
    """Consent given or taken back is about the organisation, whatever meeting somebody writes into it."""
    for series in (None, SERIES):
        hint = hint_for(
            event("webex.service-app.deauthorized.v1"), series=series, org_id="org", host_email="", organization="other"
        )
        assert hint is not None
        assert (hint.organization, hint.series, hint.org_id) == ("other", "", "org")
        assert decode(encode(hint)) == hint
