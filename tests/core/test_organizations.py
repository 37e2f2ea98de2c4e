"""Organisations: their ids in either form, and the keys of their work."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.organizations import SINGLE, Organization, Organizations, organization_id, registration_id, wire_id

BARE = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8xZWI2NWZkZi05NjQzLTQxN2YtOTk3NC1hZDcyY2FlMGUxMGY"
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"
OTHER_LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi85NmFiYzJhYS0zZGNjLTExZTUtYTE1Mi1mZTM0ODE5Y2RjOWE"


def written(uri: str) -> str:
    return base64.b64encode(uri.encode()).decode()


@pytest.mark.parametrize(
    ("value", "bare"),
    [
        pytest.param(BARE, BARE, id="a UUID"),
        pytest.param(BARE.upper(), BARE, id="in capitals"),
        pytest.param(LONG, BARE, id="Webex's long form"),
        pytest.param(OTHER_LONG, OTHER, id="Cisco's example"),
        pytest.param(LONG + "==", BARE, id="padded"),
        pytest.param(written(f"ciscospark://urn:TEAM:eu-central-1_k/ORGANIZATION/{BARE}"), BARE, id="another cluster"),
        pytest.param(written("ciscospark://us/ORGANIZATION/consumer"), "consumer", id="the organisation of the free"),
        pytest.param(written(f"ciscospark://us/PEOPLE/{BARE}"), "", id="a person"),
        pytest.param(written(f"ciscospark://us/ORGANIZATION/{BARE}/x"), "", id="more behind it"),
        pytest.param(written("ciscospark://us/ORGANIZATION/"), "", id="none in it"),
        pytest.param(written("hello"), "", id="base64 of something else"),
        pytest.param("default", "", id="a word"),
        pytest.param(BARE + "\n", "", id="a line break"),
        pytest.param("", "", id="nothing"),
        pytest.param(None, "", id="null"),
        pytest.param(7, "", id="a number"),
        pytest.param("Y" * 600, "", id="too long"),
        pytest.param("ä", "", id="not ASCII"),
    ],
)
def test_an_id_in_any_form(value: object, bare: str) -> None:
    """Both forms of the same organisation are one id; what is none is the empty text."""
    assert organization_id(value) == bare


@pytest.mark.parametrize(
    ("value", "owner"),
    [
        pytest.param(written(f"ciscospark://us/WEBHOOK/{BARE}").rstrip("="), f"webhook:{BARE}", id="Webex's form"),
        pytest.param(written(f"ciscospark://us/WEBHOOK/{BARE.upper()}"), f"webhook:{BARE}", id="capitals, padded"),
        pytest.param(LONG, "", id="an organisation"),
        pytest.param(BARE, "", id="a UUID: that could be anything's"),
        pytest.param(None, "", id="null"),
        pytest.param("Y" * 600, "", id="too long"),
    ],
)
def test_a_registration_is_no_organisation(value: object, owner: str) -> None:
    """Registrations are kept apart, even one that has an organisation's UUID."""
    assert registration_id(value) == owner
    assert owner != organization_id(BARE)


@given(st.one_of(st.text(), st.none(), st.integers(), st.binary().map(lambda b: base64.b64encode(b).decode())))
def test_any_value_has_an_answer(value: object) -> None:
    """Whatever comes in an envelope, there is a key for it, and never that of another organisation by accident."""
    several = Organizations((Organization("default", BARE), Organization(OTHER, OTHER)))
    assert organization_id(value) in ("", *([value.lower()] if isinstance(value, str) else []))
    assert several.key_of(value) not in ("default", OTHER, "")
    assert SINGLE.key_of(value) == "default"


@given(st.uuids())
def test_the_long_form_is_the_inverse(uuid: object) -> None:
    """What we write to Webex is what it writes itself, and means the same organisation."""
    assert organization_id(wire_id(str(uuid))) == str(uuid)


def test_the_long_form() -> None:
    """A UUID is written out; what is long already stays as Webex gave it; anything else is refused."""
    assert (wire_id(BARE), wire_id(LONG)) == (LONG, LONG)
    with pytest.raises(ValueError, match="organisation"):
        wire_id("acme")


def test_with_one_organisation_everything_is_its_work() -> None:
    """Whatever ``orgId`` an event carries: there is no other credential."""
    assert [SINGLE.key_of(value) for value in (BARE, OTHER_LONG, "", None)] == ["default"] * 4
    one = Organizations((Organization(BARE, BARE),))
    assert [one.key_of(value) for value in (BARE, OTHER_LONG, "", None)] == [BARE] * 4


@pytest.mark.parametrize(
    ("org_id", "key"),
    [
        pytest.param(LONG, "default", id="the first, in the other form"),
        pytest.param(OTHER, OTHER, id="another"),
        pytest.param(
            "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000000", id="not configured"
        ),
        pytest.param(written("ciscospark://us/ORGANIZATION/default"), "unknown", id="called like the first one's key"),
        pytest.param("", "unknown", id="none"),
    ],
)
def test_with_several_the_id_decides(org_id: str, key: str) -> None:
    """A configured organisation has its key, another its own id, and an event without one is nobody's."""
    several = Organizations((Organization("default", BARE), Organization(OTHER, OTHER)))
    assert several.key_of(org_id) == key


def test_an_organisation_without_an_id_is_not_that_of_events_without_one() -> None:
    """Nothing equals nothing, here."""
    several = Organizations((Organization("default"), Organization(OTHER, OTHER)))
    assert several.key_of("") == "unknown"
