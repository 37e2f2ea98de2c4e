"""Requests as Webex sends them, byte by byte: their signatures, and the events that come of them."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft7Validator, FormatChecker

from service.core.errors import BadSignature
from service.core.event import encode
from service.core.notification import Accepted, accept
from service.core.resources import FAMILIES
from service.core.signature import sign, verify

SAMPLES = Path(__file__).parents[1] / "samples"
SIGNED = json.loads((SAMPLES / "signatures.json").read_text("utf-8"))
SECRET: bytes = SIGNED["secret"].encode()
HEADERS: dict[str, dict[str, str]] = SIGNED["headers"]

RECEIVED = datetime(2026, 1, 20, 16, 30, tzinfo=UTC)
NOW = "2026-01-20T16:30:00.000Z"
SERIES = "5f0c2e7b91a84d36b0e1c4d7a9f83b62"
ENDED = "501e995485e2460bb129410116757b13"
CALL = "b7c1d0de-52a4-4f0e-9a3e-3a2f6f1d0c11"
RECORDING = "4f914b1dfe3c4d11a61730f18c0f5387"
APP = "Y2lzY29zcGFyazovL3VzL0FQUExJQ0FUSU9OLzAwMDAwMDAzLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMA"
ORG = "/webex/orgs/Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8wMDAwMDAwMS0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDA"

#: Sample, the event's type within ``webex.`` and ``.v1``, key, time, whether it makes the processor look.
EVENTS = [
    ("meetings.created", "meeting.created", SERIES, NOW, True),
    ("meetings.created-carries-secrets", "meeting.created", SERIES, NOW, True),
    ("meetings.created-minimal", "meeting.created", SERIES, NOW, True),
    ("meetings.updated", "meeting.updated", SERIES, NOW, True),
    ("meetings.updated-odd-types", "meeting.updated", SERIES, NOW, True),
    ("meetings.updated-unknown-fields", "meeting.updated", SERIES, NOW, True),
    ("meetings.deleted", "meeting.deleted", SERIES, NOW, True),
    ("meetings.started", "meeting.started", SERIES, "2026-01-20T15:00:02.000Z", True),
    ("meetings.started-personal-room", "meeting.started", "PR-example-host-room", "2026-01-20T10:00:00.000Z", False),
    ("meetings.ended", "meeting.ended", ENDED, "2021-05-14T20:26:54.000Z", True),
    ("meetingParticipants.joined", "participant.joined", SERIES, "2026-01-20T15:01:07.000Z", False),
    ("meetingParticipants.joined-1970", "participant.joined", SERIES, NOW, False),
    ("meetingParticipants.left", "participant.left", SERIES, "2026-01-20T15:42:30.500Z", False),
    ("recordings.created", "recording.created", SERIES, NOW, False),
    ("recordings.updated", "recording.updated", SERIES, NOW, False),
    ("recordings.deleted", "recording.deleted", RECORDING, NOW, False),
    ("convergedRecordings.created", "converged-recording.created", CALL, NOW, False),
    ("convergedRecordings.updated", "converged-recording.updated", CALL, NOW, False),
    ("convergedRecordings.deleted", "converged-recording.deleted", CALL, NOW, False),
    ("meetingTranscripts.created", "transcript.created", SERIES, NOW, False),
    ("serviceApp.authorized", "service-app.authorized", APP, NOW, True),
    ("serviceApp.deauthorized", "service-app.deauthorized", APP, NOW, True),
    ("registrants.created", "registrant.created", SERIES, NOW, True),
    ("meetingRegistrants.updated", "registrant.updated", SERIES, NOW, True),
]

QUARANTINED = [
    ("messages.created", "unknownResource"),
    ("meetings.teleported", "unknownEvent"),
    ("meetings.created-without-id", "missingId"),
    ("meetings.created-lone-surrogate", "notJson"),
    ("truncated", "notJson"),
]

#: Sample → the beginning of the SHA-256 of its records, one to a line, as the first version of the program wrote them.
RECORDS = {
    "convergedRecordings.created": "223bf28f29ead01d",
    "convergedRecordings.deleted": "356ac4b7a556587f",
    "convergedRecordings.updated": "869591f299de0ed4",
    "meetingParticipants.joined-1970": "167c3804c43fa534",
    "meetingParticipants.joined": "b4196c362c441565",
    "meetingParticipants.left": "7cd5e40502797f7f",
    "meetingRegistrants.updated": "fe20586dc7de7a3e",
    "meetingTranscripts.created": "5cbfb9ab10745bd4",
    "meetings.created-carries-secrets": "2ef4a51523b98b70",
    "meetings.created-lone-surrogate": "93b58db2f28eeb99",
    "meetings.created-minimal": "594de638176db701",
    "meetings.created-without-id": "97806819a44ee945",
    "meetings.created": "3b182ba3bf978237",
    "meetings.deleted": "e0c94ed5836ed5e0",
    "meetings.ended": "3ab2c5d7cce44838",
    "meetings.started-personal-room": "38dc8efdee68ae94",
    "meetings.started": "2fece726025351f7",
    "meetings.teleported": "71a592cdd65ae5d2",
    "meetings.updated-odd-types": "0117043f165945c1",
    "meetings.updated-unknown-fields": "000ff1a7e611c1f6",
    "meetings.updated": "8ce0738155e2bf7e",
    "messages.created": "b9115a59cfde709b",
    "recordings.created": "4cfd00bb149154db",
    "recordings.deleted": "7b206d82f9093067",
    "recordings.updated": "3dcb8afe403b9cc8",
    "registrants.created": "66061502de0d9eea",
    "serviceApp.authorized": "4745678b8561833f",
    "serviceApp.deauthorized": "94353ca4e3b85fb5",
    "truncated": "103b85200b4b4f7e",
}


def sample(name: str) -> bytes:
    """The exact body."""
    return (SAMPLES / f"{name}.json").read_bytes()


def accepted(name: str) -> Accepted:
    """What becomes of the sample."""
    return accept(sample(name), received=RECEIVED, receiver="r1")


def names() -> list[str]:
    """Every sample."""
    return [name.removesuffix(".json") for name in HEADERS]


def test_every_sample_is_in_the_tables() -> None:
    """A sample without an expectation, or without signatures, proves nothing."""
    bodies = {path.stem for path in SAMPLES.glob("*.json")} - {"signatures", "cloudevents.schema"}
    assert bodies == set(names()) == {row[0] for row in EVENTS} | {row[0] for row in QUARANTINED}


def test_every_known_event_has_a_sample() -> None:
    """All that Webex documents is here, and each name under which registrants may come."""
    known = {f"{resource}.{verb}" for resource, family in FAMILIES.items() for verb in family.verbs}
    documented = {name for name in known if "egistrants." not in name}
    assert documented | {"registrants.created", "meetingRegistrants.updated"} == known & set(names())


@pytest.mark.parametrize("name", names())
def test_the_recorded_signatures_are_right(name: str) -> None:
    """OpenSSL's signatures verify, together and each alone, and ours are the same."""
    recorded = HEADERS[f"{name}.json"]
    pairs = [(header.lower().encode(), value.encode()) for header, value in recorded.items()]
    for headers in (pairs, pairs[:1], pairs[1:]):
        assert verify(sample(name), headers, secrets=[b"another", SECRET]) == 1
    assert sign(sample(name), SECRET) == recorded


@pytest.mark.parametrize("name", names())
def test_a_newline_more_and_the_signature_is_wrong(name: str) -> None:
    """The signature is over the bytes, not over what they mean."""
    headers = [(header.lower().encode(), value.encode()) for header, value in HEADERS[f"{name}.json"].items()]
    with pytest.raises(BadSignature):
        verify(sample(name) + b"\n", headers, secrets=[SECRET])


@pytest.mark.parametrize(("name", "kind", "key", "time", "looks"), EVENTS, ids=[row[0] for row in EVENTS])
def test_its_event(name: str, kind: str, key: str, time: str, looks: bool) -> None:
    """Type, key, time and hint of every sample."""
    event, *others = accepted(name).messages
    got = accepted(name).event
    assert (got.type, got.partitionkey, got.time, bool(others)) == (f"webex.{kind}.v1", key, time, looks)
    assert got.source == ("/webex" if name == "meetings.created-minimal" else ORG)
    assert event.key == key


@pytest.mark.parametrize("name", names())
def test_its_records_byte_by_byte(name: str) -> None:
    """Consumers compare and deduplicate records: they do not change, however they come about."""
    records = b"\n".join(message.value or b"" for message in accepted(name).messages)
    assert hashlib.sha256(records).hexdigest()[:16] == RECORDS[name]


@pytest.mark.parametrize(("name", "reason"), QUARANTINED, ids=[row[0] for row in QUARANTINED])
def test_its_quarantine(name: str, reason: str) -> None:
    """Samples that are not understood, each with its reason."""
    assert (accepted(name).quarantined, accepted(name).event.data["reason"]) == (True, reason)


def test_the_documented_sample_in_full() -> None:
    """The one notification whose body Cisco documents: every attribute, every field, in its place."""
    event = accepted("meetings.ended").event
    assert event.id == "126aea0423501880ae6576c6c1a97595"
    assert event.subject == f"meetings/{ENDED}"
    sent = json.loads(sample("meetings.ended"))
    assert event.data == {**sent.pop("data"), "webhook": sent}


def test_odd_types_are_kept_in_raw() -> None:
    """What is not of its type is in raw as it came; null is what Webex said."""
    data = accepted("meetings.updated-odd-types").event.data
    assert data["raw"] == {"meetingNumber": 25500000001, "title": 5}
    assert data["webhook"]["raw"] == {"name": ["not", "a", "name"]}
    assert (data["start"], data["state"]) == (None, "active")


def test_secrets_are_not_published() -> None:
    """Passwords, keys and secrets stay out of the records; that they were there does not."""
    result = accepted("meetings.created-carries-secrets")
    published = b"".join(message.value or b"" for message in result.messages)
    assert not any(secret in published for secret in (b"open sesame", b"271828", b"not for everybody"))
    assert result.event.data["webhook"]["withheld"] == ["hostKey", "password", "secret"]


# CloudEvents, as others see it


def validator() -> Draft7Validator:
    """CloudEvents' schema; the formats it names are checked too (jsonschema leaves these two to other packages)."""
    checker = FormatChecker(formats=())
    uri = re.compile(r"(?:[\w.~!$&'()*+,;=:@/?#\[\]-]|%[0-9A-Fa-f]{2})+", re.ASCII)
    rfc3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
    checker.checks("uri-reference")(lambda value: uri.fullmatch(value) is not None)
    checker.checks("date-time")(lambda value: rfc3339.fullmatch(value) is not None)
    schema = json.loads((SAMPLES / "cloudevents.schema.json").read_text("utf-8"))
    return Draft7Validator(schema, format_checker=checker)


@pytest.mark.parametrize("name", names())
def test_its_event_is_valid(name: str) -> None:
    """Every sample's event is a CloudEvent by the official schema, and its extensions have names that are allowed."""
    document = json.loads(encode(accepted(name).event))
    validator().validate(document)
    assert all(re.fullmatch("[a-z0-9]{1,20}", attribute) for attribute in document)


@pytest.mark.parametrize(
    "change", [{"id": ""}, {"source": "a b"}, {"time": "today"}, {"type": None}], ids=["id", "source", "time", "type"]
)
def test_the_validation_can_fail(change: dict[str, Any]) -> None:
    """The schema and its formats do refuse what is wrong."""
    document = json.loads(encode(accepted("meetings.ended").event))
    assert not validator().is_valid({**document, **change})


@pytest.mark.parametrize("name", names())
def test_the_official_sdk_reads_its_event(name: str) -> None:
    """CloudEvents' own Python SDK finds the same attributes and data."""
    event = accepted(name).event
    read = JSONFormat().read(None, encode(event))
    attributes = read.get_attributes()
    assert attributes.pop("time") == datetime.fromisoformat(event.time)
    ours = json.loads(encode(event))
    assert read.get_data() == ours.pop("data") == event.data
    assert attributes == {attribute: value for attribute, value in ours.items() if attribute != "time"}
