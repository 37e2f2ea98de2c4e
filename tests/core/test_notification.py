"""Notifications: what each becomes, and that none is ever lost."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import event as events
from service.core import work
from service.core.notification import (
    MAX_DEPTH,
    MAX_ID_LENGTH,
    MAX_REMEMBERED,
    WITHHELD,
    Accepted,
    Delivery,
    accept,
    accepted,
    quickly,
)
from service.core.organizations import SINGLE, Organization, Organizations
from service.core.resources import FAMILIES, Envelope, Shape

NOON = datetime(2026, 1, 20, 12, 0, 10, tzinfo=UTC)
RECEIVED = "2026-01-20T12:00:10.000Z"
SERIES = "501e995485e2460bb129410116757b13"
INSTANCE = f"{SERIES}_I_194316955237236650"
OCCURRENCE = f"{SERIES}_20210514T203000Z"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def body(resource: Any = "meetings", verb: Any = "started", data: Any = None, **envelope: Any) -> bytes:
    """The bytes of a notification; ``data`` is about one meeting's instance unless told otherwise."""
    data = {"id": INSTANCE} if data is None else data
    return msgspec.json.encode({"id": "hook", "resource": resource, "event": verb, **envelope, "data": data})


def taken(raw: bytes, received: datetime = NOON, traceparent: str | None = None) -> Accepted:
    """What becomes of the bytes."""
    return accept(raw, received=received, receiver="r1", traceparent=traceparent)


def reason(raw: bytes) -> str:
    """Why the bytes go to quarantine; "" where they do not."""
    accepted = taken(raw)
    assert accepted.quarantined == (accepted.event.type == "webex.notification.quarantined.v1")
    return str(accepted.event.data["reason"]) if accepted.quarantined else ""


# What it becomes


KNOWN = [
    ("meetings", "created", "webex.meeting.created.v1", "meetings"),
    ("meetings", "updated", "webex.meeting.updated.v1", "meetings"),
    ("meetings", "deleted", "webex.meeting.deleted.v1", "meetings"),
    ("meetings", "started", "webex.meeting.started.v1", "meetings"),
    ("meetings", "ended", "webex.meeting.ended.v1", "meetings"),
    ("meetingParticipants", "joined", "webex.participant.joined.v1", "participants"),
    ("meetingParticipants", "left", "webex.participant.left.v1", "participants"),
    ("recordings", "created", "webex.recording.created.v1", "recordings"),
    ("recordings", "updated", "webex.recording.updated.v1", "recordings"),
    ("recordings", "deleted", "webex.recording.deleted.v1", "recordings"),
    ("convergedRecordings", "created", "webex.converged-recording.created.v1", "recordings"),
    ("convergedRecordings", "updated", "webex.converged-recording.updated.v1", "recordings"),
    ("convergedRecordings", "deleted", "webex.converged-recording.deleted.v1", "recordings"),
    ("meetingTranscripts", "created", "webex.transcript.created.v1", "transcripts"),
    ("serviceApp", "authorized", "webex.service-app.authorized.v1", "service-apps"),
    ("serviceApp", "deauthorized", "webex.service-app.deauthorized.v1", "service-apps"),
    ("registrants", "created", "webex.registrant.created.v1", "registrants"),
    ("meetingRegistrants", "updated", "webex.registrant.updated.v1", "registrants"),
    ("meetingRegistrants", "statusChanged", "webex.registrant.statusChanged.v1", "registrants"),
]


@pytest.mark.parametrize(("resource", "verb", "type_", "topic"), KNOWN)
def test_every_known_event_has_its_type_and_topic(resource: str, verb: str, type_: str, topic: str) -> None:
    """Resource and event become the type; the record goes to the topic of the family, and is the event."""
    accepted = taken(body(resource, verb, {"id": "x"}))
    assert (accepted.event.type, accepted.messages[0].topic, accepted.quarantined) == (type_, topic, False)
    assert accepted.messages[0].value is not None
    assert events.decode(accepted.messages[0].value) == accepted.event


@pytest.mark.parametrize(
    ("resource", "data", "subject", "key"),
    [
        pytest.param("meetings", {"id": SERIES}, f"meetings/{SERIES}", SERIES, id="series"),
        pytest.param("meetings", {"id": OCCURRENCE}, f"meetings/{SERIES}", SERIES, id="occurrence"),
        pytest.param("meetings", {"id": INSTANCE}, f"meetings/{SERIES}", SERIES, id="instance"),
        pytest.param("meetings", {"id": SERIES.upper()}, f"meetings/{SERIES}", SERIES, id="series in capitals"),
        pytest.param("meetings", {"id": "PR-1"}, "meetings/PR-1", "PR-1", id="personal room"),
        pytest.param(
            "meetings", {"id": "PR-1", "meetingSeriesId": SERIES}, f"meetings/{SERIES}", SERIES, id="series beside"
        ),
        pytest.param("recordings", {"id": "a" * 32}, "a" * 32, "a" * 32, id="a recording's id is no series"),
        pytest.param("recordings", {"id": "r", "meetingId": INSTANCE}, f"meetings/{SERIES}", SERIES, id="meetingId"),
        pytest.param(
            "recordings", {"id": "r", "meetingSeriesId": SERIES}, f"meetings/{SERIES}", SERIES, id="meetingSeriesId"
        ),
        pytest.param("recordings", {"id": "r", "meetingId": "PR-1"}, "meetings/PR-1", "PR-1", id="in a personal room"),
        pytest.param("recordings", {"id": "r", "meetingId": 5}, "r", "r", id="a meetingId that is none"),
        pytest.param("recordings", {"id": "r", "meetingId": "a\nb"}, "r", "r", id="a meetingId that cannot be a key"),
        pytest.param("convergedRecordings", {"id": "c", "meetingId": SERIES}, "c", "c", id="a call has no meeting"),
        pytest.param("serviceApp", {"id": "s"}, "s", "s", id="service app"),
        pytest.param("registrants", {"id": "7", "meetingId": SERIES}, f"meetings/{SERIES}", SERIES, id="registrant"),
    ],
)
def test_subject_and_key(resource: str, data: dict[str, Any], subject: str, key: str) -> None:
    """One meeting's events share its series as their key; what has no meeting stands for itself."""
    verb = {"meetings": "started", "serviceApp": "authorized"}.get(resource, "created")
    accepted = taken(body(resource, verb, data))
    assert (accepted.event.subject, accepted.event.partitionkey) == (subject, key)
    assert (accepted.messages[0].key, accepted.messages[0].partition_by) == (key, key)


@pytest.mark.parametrize(
    ("resource", "verb", "fields", "time"),
    [
        ("meetings", "started", {"start": "2026-01-20T11:59:58Z"}, "2026-01-20T11:59:58.000Z"),
        ("meetings", "started", {"start": "2026-01-20T12:59:58+01:00"}, "2026-01-20T11:59:58.000Z"),
        ("meetings", "started", {"end": "2026-01-20T11:59:58Z"}, RECEIVED),
        (
            "meetings",
            "ended",
            {"start": "2026-01-20T11:00:00Z", "end": "2026-01-20T11:30:00.5Z"},
            "2026-01-20T11:30:00.500Z",
        ),
        ("meetings", "created", {"start": "2026-02-20T11:00:00Z"}, RECEIVED),
        ("meetings", "updated", {"start": "2026-02-20T11:00:00Z"}, RECEIVED),
        ("meetingParticipants", "joined", {"joinedTime": "2026-01-20T11:58:00Z"}, "2026-01-20T11:58:00.000Z"),
        ("meetingParticipants", "joined", {"joinedTime": "1970-01-01T00:00:00.000Z"}, RECEIVED),
        ("meetingParticipants", "left", {"joinedTime": "2026-01-20T11:58:00Z"}, RECEIVED),
        ("meetingParticipants", "left", {"leftTime": "2026-01-20T11:59:00Z"}, "2026-01-20T11:59:00.000Z"),
        ("serviceApp", "authorized", {"authorizationDate": "2026-01-05T12:00:00Z"}, RECEIVED),
        ("meetings", "started", {"start": "yesterday"}, RECEIVED),
        ("meetings", "started", {"start": 1768910400}, RECEIVED),
        ("meetings", "started", {"start": None}, RECEIVED),
        ("meetings", "created", {"": "2026-01-20T11:59:58Z"}, RECEIVED),
        ("meetings", "started", {"start": "2026-01-20T11:59:58." + "5" * 60 + "Z"}, "2026-01-20T11:59:58.555Z"),
        ("meetings", "started", {"start": "2026-01-20T11:59:58"}, RECEIVED),
        ("meetings", "started", {"start": "0001-01-01T00:00:00+14:00"}, RECEIVED),
        ("meetings", "started", {"start": "9999-12-31T23:59:59-12:00"}, RECEIVED),
    ],
)
def test_time_is_webexs_where_it_has_one(resource: str, verb: str, fields: dict[str, Any], time: str) -> None:
    """Starting, ending, joining and leaving have their own time; 1970, nonsense and all else is the time received."""
    event = taken(body(resource, verb, {"id": INSTANCE, **fields})).event
    assert (event.time, event.receivedtime) == (time, RECEIVED)


@pytest.mark.parametrize(
    ("org_id", "source"),
    [
        ("Y2lzY29zcGFyazovL3VzL09SR0E=", "/webex/orgs/Y2lzY29zcGFyazovL3VzL09SR0E="),
        ("a/b c\n#é", "/webex/orgs/a%2Fb%20c%0A%23%C3%A9"),
        ("", "/webex"),
        (None, "/webex"),
        (5, "/webex"),
    ],
)
def test_source_names_the_organisation(org_id: object, source: str) -> None:
    """The envelope's organisation is in the source, escaped so that it is always a URI reference."""
    assert taken(body(orgId=org_id)).event.source == source


def test_data_orgid_is_not_the_organisation() -> None:
    """Webex calls the one within data internal: it never decides anything."""
    assert taken(body(data={"id": SERIES, "orgId": "internal"})).event.source == "/webex"


def test_how_we_know_it() -> None:
    """The event says that it came as a webhook, when, to which instance, and in which trace."""
    event = taken(body(), traceparent=TRACE).event
    assert (event.origin, event.receivedtime, event.receiver, event.traceparent) == ("webhook", RECEIVED, "r1", TRACE)


@pytest.mark.parametrize(
    "value",
    ["", "junk", "\ud800", f"{TRACE}-x", TRACE.upper(), "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + TRACE[2:]],
)
def test_a_malformed_traceparent_is_left_out(value: str) -> None:
    """It comes from outside, so what is not W3C's form is not passed on."""
    assert taken(body(), traceparent=value).event.traceparent is None


@pytest.mark.parametrize("raw", [body(), body("rooms", "created"), b"{"], ids=["known", "unknown", "no JSON"])
@pytest.mark.parametrize("traceparent", [TRACE, None])
def test_a_delivery_is_accepted_as_its_parts_are(raw: bytes, traceparent: str | None) -> None:
    """Who has looked at the circumstances already hands them over as they go into the event."""
    delivery = Delivery(raw, RECEIVED, "r1", traceparent)
    assert accepted(delivery, SINGLE) == taken(raw, traceparent=traceparent)


@pytest.mark.parametrize(
    ("raw", "org_id", "registration"),
    [
        pytest.param(body(orgId="org"), "org", "hook", id="a known event"),
        pytest.param(body("rooms", "created", orgId="org"), "org", "hook", id="an unknown resource"),
        pytest.param(body(orgId="o" * 600, big=2**64), "o" * 600, "hook", id="what no consumer could read"),
        pytest.param(body(), "", "hook", id="no organisation"),
        pytest.param(body(orgId=5, id=["x"]), "", "", id="no texts"),
        pytest.param(body(orgId="org")[:-1], "", "", id="not JSON"),
        pytest.param(b"[]", "", "", id="not an object"),
    ],
)
def test_whose_it_is(raw: bytes, org_id: str, registration: str) -> None:
    """The envelope's organisation and registration as they came, whatever becomes of the rest."""
    accepted = taken(raw)
    assert (accepted.org_id, accepted.registration) == (org_id, registration)


def test_an_endless_organisation_is_not_in_the_source() -> None:
    """Escaping it would take others' time; nothing of it is lost."""
    endless = "é" * (MAX_ID_LENGTH + 1)
    event = taken(body(orgId=endless)).event
    assert (event.source, event.data["webhook"]["orgId"]) == ("/webex", endless)
    assert taken(body(orgId=endless[1:])).event.source == "/webex/orgs/" + "%C3%A9" * MAX_ID_LENGTH


# The id


def test_the_id_is_a_literal() -> None:
    """Ids must not change between versions: SHA-256 over the length-prefixed parts, 32 digits."""
    raw = b'{"id":"hook","resource":"meetings","event":"started","data":{"id":"x"}}'
    assert taken(raw).event.id == "eba0cfbb43c533e5909e8f13bb947011"


@pytest.mark.parametrize(("resource", "verb"), [(row[0], row[1]) for row in KNOWN])
def test_a_redelivery_has_the_same_id(resource: str, verb: str) -> None:
    """The same bytes within a minute are the same event, whoever receives them, whatever its kind."""
    raw = body(resource, verb, {"id": "x"})
    again = accept(raw, received=NOON + timedelta(seconds=49), receiver="another")
    assert again.event.id == taken(raw).event.id


@pytest.mark.parametrize(
    ("resource", "verb", "same"),
    [
        ("meetings", "updated", False),
        ("recordings", "updated", False),
        ("convergedRecordings", "updated", False),
        ("registrants", "updated", False),
        ("registrants", "statusChanged", False),
        ("meetings", "started", True),
        ("meetingParticipants", "joined", True),
        ("registrants", "created", True),
        ("serviceApp", "authorized", True),
    ],
)
def test_only_what_can_happen_again_gets_a_new_id_later(resource: str, verb: str, same: bool) -> None:
    """Two real updates with the same thin bytes stay two events; anything else is a redelivery however late."""
    raw = body(resource, verb, {"id": "x"})
    assert (taken(raw).event.id == taken(raw, received=NOON + timedelta(seconds=50)).event.id) == same


@pytest.mark.parametrize(
    "other",
    [
        body(id="another hook"),
        body(verb="ended"),
        body(data={"id": SERIES}),
        body(data={"id": INSTANCE, "state": "inProgress"}),
        body() + b" ",
    ],
    ids=["registration", "event", "data.id", "data", "one space"],
)
def test_anything_else_has_another_id(other: bytes) -> None:
    """Any difference in the registration, the event, the resource or the bytes makes another event."""
    assert taken(other).event.id != taken(body()).event.id


# The data


def test_typed_webhook_and_raw() -> None:
    """Known fields stay where they were, the envelope is under webhook, and what is new is under raw, on both levels."""
    raw = body(
        data={"id": INSTANCE, "state": "hologram", "hostEmail": "host@example.com", "galaxy": {"arms": [4, None]}},
        name="n",
        ownedBy="org",
        actorId="a",
        orgId="o",
        appId="p",
        createdBy="c",
        filter="f",
        attempt=2,
    )
    assert taken(raw).event.data == {
        "id": INSTANCE,
        "state": "hologram",
        "hostEmail": "host@example.com",
        "webhook": {
            "id": "hook",
            "name": "n",
            "resource": "meetings",
            "event": "started",
            "filter": "f",
            "orgId": "o",
            "createdBy": "c",
            "appId": "p",
            "ownedBy": "org",
            "actorId": "a",
            "raw": {"attempt": 2},
        },
        "raw": {"galaxy": {"arms": [4, None]}},
    }


@pytest.mark.parametrize(
    ("resource", "verb"),
    [("meetingParticipants", "joined"), ("registrants", "created"), ("meetingRegistrants", "created")],
)
def test_people_have_no_raw(resource: str, verb: str) -> None:
    """Unknown fields of participants and registrants stay where Webex put them, whatever their names."""
    fields = {"id": "x", "email": 5, "shoeSize": 43, "raw": {"own": 1}}
    data = taken(body(resource, verb, fields)).event.data
    assert {name: value for name, value in data.items() if name != "webhook"} == fields
    assert "raw" not in data["webhook"]


def test_a_person_s_own_webhook_field_is_kept_too() -> None:
    """A foreign field that has our name moves to where it stood in the envelope."""
    data = taken(body("registrants", "created", {"id": "x", "webhook": "theirs"}, attempt=2)).event.data
    assert data["webhook"]["raw"] == {"attempt": 2, "data": {"webhook": "theirs"}}


@pytest.mark.parametrize(
    "wrong", [5, True, [], {}, 1.5, {"a": "b"}], ids=["number", "boolean", "list", "object", "fraction", "full object"]
)
def test_a_field_of_another_type_goes_to_raw(wrong: object) -> None:
    """One field that is not as expected changes nothing for the others, nor for the event."""
    data = taken(body(data={"id": INSTANCE, "title": wrong, "state": "x"}, name=wrong, ownedBy="org")).event.data
    assert (data["raw"], data["webhook"]["raw"]) == ({"title": wrong}, {"name": wrong})
    assert (data["state"], data["webhook"]["ownedBy"], "title" in data) == ("x", "org", False)


def test_null_is_a_value() -> None:
    """A field that Webex sends as null is one that it sent."""
    assert taken(body(data={"id": INSTANCE, "title": None})).event.data["title"] is None


@pytest.mark.parametrize("name", sorted(WITHHELD))
@pytest.mark.parametrize(
    ("resource", "verb"), [("meetings", "created"), ("registrants", "created"), ("recordings", "created")]
)
def test_what_opens_a_door_is_withheld(resource: str, verb: str, name: str) -> None:
    """Secrets and links never reach a topic, from the envelope or from data; their names say that they were there."""
    for raw in (
        body(resource, verb, {"id": "x", name: "open sesame"}),
        body(resource, verb, {"id": "x"}, **{name: "open sesame"}),
    ):
        accepted = taken(raw)
        assert all(b"sesame" not in (message.value or b"") for message in accepted.messages)
        assert accepted.event.data["webhook"]["withheld"] == [name]


def test_no_shape_has_a_field_that_is_withheld_or_ours() -> None:
    """Withholding looks at unknown fields only, and our own two names must be free."""
    shapes: list[type[Shape]] = [Envelope, *(family.shape for family in FAMILIES.values())]
    assert all(not WITHHELD & set(shape.__struct_encode_fields__) for shape in shapes)
    assert all(not {"webhook", "raw"} & set(shape.__struct_encode_fields__) for shape in shapes)


# The quick way and the careful one


def carefully(raw: bytes) -> bytes:
    """The same notification, but the quick way does not read it: no envelope is as long as that."""
    return raw[:1] + b" " * MAX_REMEMBERED + raw[1:]


def told(raw: bytes) -> list[dict[str, Any]]:
    """The records, but for the ids, which are made from the bytes."""
    records = [msgspec.json.decode(message.value or b"") for message in taken(raw).messages]
    return [{name: value for name, value in record.items() if name not in {"id", "event_id"}} for record in records]


def in_order(value: Any) -> Any:
    """The same with the fields of objects as lists, so that their order matters."""
    if isinstance(value, list):
        return [in_order(each) for each in value]
    return [(name, in_order(each)) for name, each in value.items()] if isinstance(value, dict) else value


PLAIN = (
    st.none() | st.text(max_size=3) | st.booleans() | st.integers(-(2**63) - 1, 2**63) | st.lists(st.text(), max_size=2)
)
DEVICES = st.lists(st.dictionaries(st.text(max_size=3), JSON_VALUES | PLAIN, max_size=2), max_size=2)


def fields_of(shape: type[Shape]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields that the shape knows, mostly texts, in any order, seldom one more."""
    names = [name for name in shape.__struct_encode_fields__ if name not in {"resource", "event", "devices"}]
    known = st.dictionaries(st.sampled_from(names), st.text(max_size=5), max_size=8)
    return st.builds(
        lambda *parts: {name: value for part in parts for name, value in part.items()},
        known,
        st.dictionaries(st.sampled_from([*names, "devices"]), PLAIN | DEVICES, max_size=1),
        st.dictionaries(st.sampled_from(["new", "secret", "webhook", "raw"]), JSON_VALUES, max_size=1)
        | st.just({})
        | st.just({}),
    )


@given(st.sampled_from(KNOWN), st.data())
def test_both_ways_tell_the_same(known: tuple[str, str, str, str], data: st.DataObject) -> None:
    """Whether the quick way reads it or not, the records are equal, to the order of their fields."""
    envelope = data.draw(fields_of(Envelope))
    fields = {**data.draw(fields_of(FAMILIES[known[0]].shape)), "id": INSTANCE}
    raw = as_json({**envelope, "resource": known[0], "event": known[1], "data": fields})
    if not taken(raw).quarantined:
        assert in_order(told(raw)) == in_order(told(carefully(raw)))


@pytest.mark.parametrize(("resource", "verb"), [(row[0], row[1]) for row in KNOWN])
def test_the_quick_way_reads_what_is_documented(resource: str, verb: str) -> None:
    """All known fields of their types are read at once, and no other bytes are."""
    data = dict.fromkeys(text_fields(FAMILIES[resource].shape), "x")
    envelope = dict.fromkeys(text_fields(Envelope), "x") | {"resource": resource, "event": verb}
    raw = as_json({**envelope, "data": data})
    assert quickly(raw) is not None
    assert taken(raw).event.data == {**data, "webhook": envelope}
    assert quickly(carefully(raw)) is None
    assert quickly(as_json({**envelope, "data": {**data, "new": 1}})) is None
    assert quickly(as_json(envelope)) is None


HOOK = b'"id":"hook","resource":"meetings","event":"started"'


@pytest.mark.parametrize(
    ("raw", "quick", "why"),
    [
        pytest.param(b'{%b,"data":{"id":"x"}}' % HOOK, True, "", id="as Webex writes it"),
        pytest.param(b' {%b , "data": { "id" : "x" } }\n' % HOOK, True, "", id="white space"),
        pytest.param(b'{%b,"data":{"id":"x","title":"\\"data\\":{"}}' % HOOK, True, "", id="within a text"),
        pytest.param(b'{%b,"data" :{"id":"x"}}' % HOOK, False, "", id="white space before the colon"),
        pytest.param(b'{"data":{"id":"x"},%b}' % HOOK, False, "", id="data first"),
        pytest.param(b'{%b,"data":{"id":"x"},"status":"active"}' % HOOK, False, "", id="data in the midst"),
        pytest.param(b'{%b,"data":5,"data":{"id":"x"}}' % HOOK, True, "", id="data twice"),
        pytest.param(b'{%b,"new":{"secret":1},"data":{"id":"x"}}' % HOOK, True, "", id="what is new in the envelope"),
        pytest.param(b'{%b,"secret":1,"data":{"id":"x"}}' % HOOK, True, "", id="a secret in the envelope"),
        pytest.param(b'{%b,"name":5,"data":{"id":"x"}}' % HOOK, True, "", id="a name that is no text"),
        pytest.param(b'{"resource":5,%b,"data":{"id":"x"}}' % HOOK, True, "", id="a resource twice"),
        pytest.param(b'{%b,"data":{"id":"x","new":1}}' % HOOK, False, "", id="what is new in data"),
        pytest.param(b'{%b,"big":18446744073709551616,"data":{"id":"x"}}' % HOOK, False, "hugeNumber", id="2^64"),
        pytest.param(b'{%b,"big":NaN,"data":{"id":"x"}}' % HOOK, False, "notJson", id="NaN"),
        pytest.param(b'{%b,"data":{"id":"x","webhook":{}}}' % HOOK, False, "", id="our own name"),
        pytest.param(b'{%b,"data":{"id":"x","webhook":null}}' % HOOK, False, "", id="our own name with null"),
        pytest.param(b'{%b,"name":"%b","data":{"id":"x"}}' % (HOOK, b"n" * MAX_REMEMBERED), False, "", id="long"),
        pytest.param(b'{%b,"data":null}' % HOOK, False, "missingId", id="no data"),
        pytest.param(b'{%b,"data":{"id":null}}' % HOOK, False, "missingId", id="a null id"),
        pytest.param(b'{%b,"data":{"title":"x"}}' % HOOK, False, "missingId", id="no id"),
        pytest.param(b'{%b,"data":{"id":""}}' % HOOK, False, "invalidId", id="an empty id"),
        pytest.param(b'{%b "data":{"id":"x"}}' % HOOK, False, "notJson", id="no comma before data"),
        pytest.param(b'{%b,,"data":{"id":"x"}}' % HOOK, False, "notJson", id="two commas before data"),
        pytest.param(b'{%b},"data":{"id":"x"}}' % HOOK, False, "notJson", id="the envelope closed too early"),
        pytest.param(b'{%b,"data":{"id":"x"}' % HOOK, False, "notJson", id="cut short"),
        pytest.param(b'{%b,"data":{"id":"x"}}}' % HOOK, False, "notJson", id="closed too often"),
        pytest.param(b'{%b,"data":}' % HOOK, False, "notJson", id="no value"),
        pytest.param(b'{%b,"name":"n"data":{"id":"x"}}' % HOOK, False, "notJson", id="a text that ends too early"),
        pytest.param(b'[%b,"data":{"id":"x"}}' % HOOK, False, "notJson", id="the wrong bracket"),
        pytest.param(b'{%b,"data":{"id":"x"},"x\\"data":{"id":"y"}}' % HOOK, False, "", id="a quote in a name"),
        pytest.param(b'{%b,"\\"data":{"id":"y"}}' % HOOK, False, "missingId", id="a quote at the front of a name"),
        pytest.param(b'"data":{"id":"x"}}', False, "notJson", id="no envelope"),
        pytest.param(b'{"data":{"id":"x"}}', False, "unknownResource", id="an empty envelope"),
    ],
)
def test_the_quick_way_cuts_where_it_may(raw: bytes, quick: bool, why: str) -> None:
    """Envelope and data are read apart; together they are what the bytes are as a whole, or the quick way is not taken."""
    for _ in range(2):  # the envelope is remembered the second time
        assert (quickly(raw) is not None, reason(raw)) == (quick, why)
    if quick:
        assert in_order(told(raw)) == in_order(told(carefully(raw)))


@given(
    st.integers(1),
    st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"}", b",", b":", b'"data":', b"\\", b'"\\', b'x\\"']),
    st.booleans(),
)
def test_a_notification_that_is_almost_right_is_read_alike(position: int, patch: bytes, instead: bool) -> None:
    """Bytes that are put somewhere, or taken away, have the same effect on both ways."""
    raw = body(orgId="o", name="n", data={"id": INSTANCE, "start": "2026-01-20T11:59:58Z", "title": "t"})
    at = 1 + position % (len(raw) - 1)
    raw = raw[:at] + patch + raw[at + (len(patch) or 1 if instead else 0) :]
    assert reason(raw) == reason(carefully(raw))
    if not reason(raw):
        assert in_order(told(raw)) == in_order(told(carefully(raw)))


def test_another_webhook_s_envelope_is_not_mistaken() -> None:
    """What is remembered of one envelope is not told of another one, nor of the same one with other data."""
    for name, number in (("a", 1), ("b", 2), ("a", 3)):
        fields = {"id": f"{SERIES}_I_{number}", "title": f"t{number}"}
        accepted = taken(body(data=fields, id=f"hook {name}", name=name, orgId=f"org {name}"))
        assert (accepted.registration, accepted.org_id) == (f"hook {name}", f"org {name}")
        assert accepted.event.data["webhook"]["name"] == name
        assert {key: value for key, value in accepted.event.data.items() if key != "webhook"} == fields


def text_fields(shape: type[Shape]) -> list[str]:
    """The fields that hold texts."""
    hints = get_type_hints(shape)
    named = zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True)
    return [name for field, name in named if hints[field] == str | None]


@pytest.mark.parametrize(
    ("resource", "fields", "quick"),
    [
        ("recordings", {"sizeBytes": 2**63 - 1}, True),
        ("recordings", {"sizeBytes": 2**63}, False),
        ("recordings", {"sizeBytes": 1.5}, False),
        ("meetingParticipants", {"devices": [{"name": "a", "n": 1, "on": True, "off": None}]}, True),
        ("meetingParticipants", {"devices": [{"deep": [1]}]}, False),
        ("meetingParticipants", {"devices": [{"n": 2**64}]}, False),
        ("meetingParticipants", {"devices": [{"n": 1.5}]}, False),
        ("meetingParticipants", {"host": 1}, False),
        ("serviceApp", {"scopes": ["a", "b"]}, True),
        ("serviceApp", {"scopes": [1]}, False),
    ],
)
def test_the_quick_way_reads_plain_values_only(resource: str, fields: dict[str, Any], quick: bool) -> None:
    """What needs a close look, because of its size, its depth or its type, gets one."""
    verb = {"meetingParticipants": "joined", "serviceApp": "authorized"}.get(resource, "created")
    raw = body(resource, verb, {"id": "x", **fields})
    assert (quickly(raw) is not None) == quick


# The hint


@pytest.mark.parametrize(
    ("resource", "verb", "data", "series"),
    [
        ("meetings", "created", {"id": SERIES}, SERIES),
        ("meetings", "ended", {"id": INSTANCE}, SERIES),
        ("meetings", "deleted", {"id": "PR-1", "meetingSeriesId": SERIES}, SERIES),
        ("meetings", "started", {"id": "PR-1"}, None),
        ("registrants", "created", {"id": "7", "meetingId": SERIES}, SERIES),
        ("registrants", "created", {"id": "7"}, None),
        ("meetingParticipants", "joined", {"id": "p", "meetingId": INSTANCE}, None),
        ("recordings", "created", {"id": "r", "meetingSeriesId": SERIES}, None),
        ("meetingTranscripts", "created", {"id": "t", "meetingSeriesId": SERIES}, None),
        ("serviceApp", "authorized", {"id": "s"}, ""),
        ("rooms", "created", {"id": SERIES}, None),
    ],
)
def test_the_hint_beside_the_event(resource: str, verb: str, data: dict[str, Any], series: str | None) -> None:
    """Meetings and registrants whose series is known make the processor look there, a Service App at its organisation."""
    accepted = taken(body(resource, verb, {**data, "hostEmail": "host@example.com"}, orgId="org"), traceparent=TRACE)
    hints = [work.decode(message.value or b"") for message in accepted.messages if message.topic == "work"]
    assert hints == (
        [
            work.Hint(
                organization="default",
                series=series,
                reason=accepted.event.type,
                at=RECEIVED,
                event_id=accepted.event.id,
                org_id="org",
                host_email="host@example.com",
                instance=data["id"] if data["id"] == INSTANCE else "",
                traceparent=TRACE,
            )
        ]
        if series is not None
        else []
    )


def test_a_hint_does_without_organisation_and_host() -> None:
    """Where the notification has neither, or nonsense, the hint is there all the same."""
    accepted = taken(body(data={"id": SERIES, "hostEmail": 5}, orgId=["x"]))
    hint = work.decode(accepted.messages[1].value or b"")
    assert isinstance(hint, work.Hint)
    assert (hint.series, hint.org_id, hint.host_email) == (SERIES, "", "")


BARE = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8xZWI2NWZkZi05NjQzLTQxN2YtOTk3NC1hZDcyY2FlMGUxMGY"
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"
STRANGER = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("resource", "data", "org_id", "key"),
    [
        pytest.param("meetings", {"id": SERIES}, LONG, "default", id="the first one's meeting"),
        pytest.param("meetings", {"id": SERIES, "orgId": BARE}, OTHER, OTHER, id="the envelope says whose"),
        pytest.param("meetings", {"id": SERIES}, STRANGER, STRANGER, id="not configured"),
        pytest.param("meetings", {"id": SERIES}, None, "unknown", id="no organisation"),
        pytest.param("serviceApp", {"id": "s", "authorizerOrgId": OTHER}, LONG, OTHER, id="the customer's consent"),
        pytest.param("serviceApp", {"id": "s"}, LONG, "default", id="a consent without a customer"),
    ],
)
def test_the_organisation_of_the_event_is_the_key_of_its_hint(
    resource: str, data: dict[str, Any], org_id: str | None, key: str
) -> None:
    """With several organisations each has its own key; an event is published whatever its organisation is."""
    several = Organizations((Organization("default", BARE), Organization(OTHER, OTHER)))
    raw = body(resource, {"meetings": "updated"}.get(resource, "authorized"), data, orgId=org_id)
    single, many = (
        accept(raw, received=NOON, receiver="r1", organizations=organizations) for organizations in (SINGLE, several)
    )
    assert single.event == many.event
    assert [message.key for message in single.messages[1:]] == ["default"]
    assert [(message.key, message.partition_by) for message in many.messages[1:]] == [(key, key)]


# Quarantine


DEEP = b'{"resource":"meetings","event":"started","data":{"id":"x","a":%s}}'

QUARANTINED = [
    pytest.param(b"", "notJson", id="empty"),
    pytest.param(b"resource=meetings", "notJson", id="a form"),
    pytest.param(body()[:-1], "notJson", id="cut short"),
    pytest.param(body() + b"x", "notJson", id="something after it"),
    pytest.param(b"\xef\xbb\xbf" + body(), "notJson", id="a byte order mark"),
    pytest.param(body().decode().encode("utf-16"), "notJson", id="UTF-16"),
    pytest.param(body().replace(b"hook", b"h\xffk"), "notJson", id="not UTF-8"),
    pytest.param(body().replace(b"hook", b"\\ud83d"), "notJson", id="a lone surrogate"),
    pytest.param(body().replace(b'"hook"', b"NaN"), "notJson", id="NaN"),
    pytest.param(body().replace(b'"hook"', b"1e999"), "notJson", id="no number holds it"),
    pytest.param(body().replace(b'"hook"', b"9" * 5000), "tooManyDigits", id="more digits than Python reads"),
    pytest.param(body().replace(b'"hook"', b"9" * 30), "hugeNumber", id="an integer of 100 bits"),
    pytest.param(body().replace(b'"hook"', b"[[18446744073709551616]]"), "hugeNumber", id="one more than 64 bits"),
    pytest.param(body().replace(b'"hook"', b"18446744073709551615"), "", id="64 bits"),
    pytest.param(DEEP % (b"[" * 20_000 + b"]" * 20_000), "tooDeep", id="deeper than Python goes"),
    pytest.param(DEEP % (b'{"a":' * 500 + b"1" + b"}" * 500), "tooDeep", id="deep objects"),
    pytest.param(DEEP % (b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)), "tooDeep", id="one level too deep"),
    pytest.param(DEEP % (b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)), "", id="just not too deep"),
    pytest.param(b"[]", "notAnObject", id="an array"),
    pytest.param(b'"x"', "notAnObject", id="a text"),
    pytest.param(b"null", "notAnObject", id="null"),
    pytest.param(b"{}", "unknownResource", id="an empty object"),
    pytest.param(body("rooms", "created"), "unknownResource", id="a resource of messaging"),
    pytest.param(body("adminBatchJobs", "statusChanged"), "unknownResource", id="a resource not handled"),
    pytest.param(body("Meetings"), "unknownResource", id="names are case-sensitive"),
    pytest.param(body(["meetings"]), "unknownResource", id="a resource that is no text"),
    pytest.param(body(verb="teleported"), "unknownEvent", id="an event nobody knows"),
    pytest.param(body("meetingTranscripts", "deleted"), "unknownEvent", id="another resource's event"),
    pytest.param(body("registrants", "exploded"), "unknownEvent", id="a registrant's event nobody knows"),
    pytest.param(body(verb={}), "unknownEvent", id="an event that is no text"),
    pytest.param(body(verb=None), "unknownEvent", id="no event"),
    pytest.param(b'{"resource":"meetings","event":"started"}', "missingId", id="no data"),
    pytest.param(body(data=[{"id": "x"}]), "missingId", id="data that is a list"),
    pytest.param(body(data={}), "missingId", id="no id"),
    pytest.param(body(data={"id": None}), "missingId", id="a null id"),
    pytest.param(body(data={"id": ""}), "invalidId", id="an empty id"),
    pytest.param(body(data={"id": 5}), "invalidId", id="a number as id"),
    pytest.param(body(data={"id": "a\x00b"}), "invalidId", id="a control character in the id"),
    pytest.param(body(data={"id": "x" * (MAX_ID_LENGTH + 1)}), "invalidId", id="an endless id"),
    pytest.param(body(data={"id": "x" * MAX_ID_LENGTH}), "", id="a long id"),
]


@pytest.mark.parametrize(("raw", "why"), QUARANTINED)
def test_what_is_not_understood_is_kept_with_its_reason(raw: bytes, why: str) -> None:
    """Signed bytes that tell us nothing are never lost: they are an event of their own, under a stable reason."""
    assert reason(raw) == why


def test_a_quarantined_event() -> None:
    """It has the exact bytes, comes from Webex as a whole, and is its own key on the topic quarantine."""
    raw = b"\xff{not json"
    accepted = taken(raw, traceparent=TRACE)
    event, (message,) = accepted.event, accepted.messages
    assert event.data == {
        "reason": "notJson",
        "detail": "The body is not strict JSON in UTF-8.",
        "bodyBase64": base64.b64encode(raw).decode(),
    }
    assert (event.source, event.subject, event.partitionkey, event.time) == ("/webex", None, event.id, RECEIVED)
    assert (event.origin, event.traceparent) == ("webhook", TRACE)
    assert (message.topic, message.key) == ("quarantine", event.id)
    assert taken(raw, received=NOON + timedelta(days=1)).event.id == event.id


@pytest.mark.parametrize(
    "raw",
    [
        body("jo@example.com"),
        body(verb="jo@example.com"),
        body(data={"name": "jo@example.com"}),
        body(data={"id": "\njo@example.com"}),
        b"jo@example.com",
    ],
    ids=["resource", "event", "without an id", "id", "text"],
)
def test_the_detail_repeats_nothing_personal(raw: bytes) -> None:
    """The sentence is for logs and pages too: it repeats names of Webex's kind and nothing else."""
    assert "jo@" not in taken(raw).event.data["detail"]
    assert "rooms" in taken(body("rooms")).event.data["detail"]


# Totality


def is_sound(accepted: Accepted) -> None:
    """The event can be written, read back equal, and stands first among the records."""
    assert events.decode(events.encode(accepted.event)) == accepted.event
    assert accepted.messages[0] == events.to_message(accepted.event)
    assert len(accepted.messages) <= 2 - accepted.quarantined


@given(st.binary())
def test_any_bytes_have_an_answer(raw: bytes) -> None:
    """No bytes make it raise."""
    is_sound(taken(raw))


@given(st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_has_an_answer(position: int, bit: int) -> None:
    """A notification that is almost right is no trouble either."""
    raw = bytearray(body(orgId="o", data={"id": INSTANCE, "start": "2026-01-20T11:59:58Z", "title": "é"}))
    raw[position % len(raw)] ^= 1 << bit
    is_sound(taken(bytes(raw)))


FIELDS = [
    "id",
    "title",
    "start",
    "end",
    "joinedTime",
    "meetingId",
    "hostEmail",
    "devices",
    "durationSeconds",
    "new",
    "webhook",
]
ENVELOPE = ["id", "name", "resource", "event", "orgId", "filter", "data", "new", "secret"]


@given(
    st.sampled_from(KNOWN),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON_VALUES, max_size=4),
    st.dictionaries(st.sampled_from(ENVELOPE) | st.text(), JSON_VALUES, max_size=2),
)
def test_any_values_in_an_envelope_have_an_answer(
    known: tuple[str, str, str, str], fields: dict[str, Any], envelope: dict[str, Any]
) -> None:
    """Whatever stands in the fields of an envelope, on both levels, nothing raises."""
    sent = {"id": "hook", "resource": known[0], "event": known[1], "data": {"id": INSTANCE, **fields}, **envelope}
    is_sound(taken(as_json(sent)))


@given(st.sampled_from(KNOWN), st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON_VALUES, max_size=5))
def test_nothing_of_data_is_lost(known: tuple[str, str, str, str], fields: dict[str, Any]) -> None:
    """Every field of data, of whatever type, is in the event as it was, but for what is withheld."""
    sent = {name: value for name, value in fields.items() if name not in WITHHELD} | {"id": INSTANCE}
    raw = as_json({"resource": known[0], "event": known[1], "data": sent})
    accepted = taken(raw)
    if accepted.quarantined:
        assert base64.b64decode(accepted.event.data["bodyBase64"]) == raw
        return
    data = dict(accepted.event.data)
    moved = data.pop("webhook").get("raw", {}).get("data", {})
    if not FAMILIES[known[0]].keeps_unknown:
        data |= data.pop("raw", {})
    assert data | moved == msgspec.json.decode(raw)["data"]


def as_json(value: object) -> bytes:
    """As msgspec writes it: integers of any size, no lone surrogates."""
    return msgspec.json.encode(value)
