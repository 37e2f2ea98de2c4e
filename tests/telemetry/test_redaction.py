"""What is masked in a log line, and what is left alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.redaction import masked, redact

TOKEN = "ZDI3MGEyYzQtNmFlNS00NDNhLWFlNzAtZGVjNjE0MGU1OGZmZWNm_PF84_1eb65fdf-9643-417f-9974-ad72cae0e10f"

HIDDEN = [
    pytest.param("no seat for alice.b+x@example.org today", "no seat for *** today", id="an address"),
    pytest.param("hostEmail=alice%40example.org&max=1", "hostEmail=***&max=1", id="an address in a query"),
    pytest.param("<alice@localhost>,bob@x", "<***>,***", id="short ones"),
    pytest.param("\xe4lice\uff20b\xfccher.example", "***", id="not ASCII"),
    pytest.param("Authorization: Bearer abc.def", "Authorization: Bearer ***", id="a bearer token"),
    pytest.param("basic  YWxhZGRpbg==", "basic ***", id="basic credentials"),
    pytest.param('{"access_token": "abc", "x": 1}', '{"access_token": "***", "x": 1}', id="a token in JSON"),
    pytest.param("client_secret=abc&x=1", "client_secret=***&x=1", id="a secret in a form"),
    pytest.param("password: hunter2", "password: ***", id="a password"),
    pytest.param(f"got {TOKEN} back", "got *** back", id="a Webex token by its shape"),
    pytest.param("eyJhbGciOiJI.eyJzdWIi.c2ln", "***", id="a JSON Web Token"),
]  # fmt: skip

SHOWN = [
    pytest.param("webhook.accepted", id="an event name"),
    pytest.param("0123456789abcdef0123456789abcdef", id="an event id or series"),
    pytest.param("0123456789abcdef0123456789abcdef_20260110T090000Z", id="an occurrence"),
    pytest.param("Y2lzY29zcGFyazovL3VzL1dFQkhPT0svZjRlNjA1NjAtNjYwMi00ZmIwLWEyNWEtOTQ5ODgxNjA5NDk3", id="a Webex id"),
    pytest.param("service/receiver/app.py:120 store", id="a place"),
    pytest.param("127.0.0.11:9092,[::1]:9092", id="servers"),
    pytest.param("the token expired", id="the word alone"),
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN)
def test_personal_data_and_credentials_are_masked(text: str, shown: str) -> None:
    """Addresses and credentials do not get through."""
    assert masked(text) == shown


@pytest.mark.parametrize("text", SHOWN)
def test_ids_are_left_alone(text: str) -> None:
    """What is needed to find something is still there."""
    assert masked(text) == text


@pytest.mark.parametrize(
    "name", ["email", "host_email", "hostEmail", "access_token", "Authorization", "secret", "body"]
)
def test_some_names_are_never_shown(name: str) -> None:
    """A field of such a name is masked whatever it holds, wherever it stands."""
    assert redact(None, "", {name: "plain", "inner": [{name: ["x"]}]}) == {name: "***", "inner": [{name: "***"}]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param({"a": ["bob@x", ("bob@x",)]}, {"a": ["***", ["***"]]}, id="nested"),
        pytest.param({"bob@x": 1}, {"***": 1}, id="a key"),
        pytest.param(ValueError("bob"), "<ValueError>", id="an exception"),
        pytest.param(b"bob", "<bytes>", id="bytes"),
        pytest.param(float("nan"), "nan", id="no number"),
        pytest.param(Path("a/b"), "a/b", id="a path"),
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00:00+00:00", id="a time"),
        pytest.param([None, True, 1, 1.5], [None, True, 1, 1.5], id="plain values"),
        pytest.param([[[[["deep"]]]]], [[["<list>"]]], id="deep"),
    ],
)
def test_everything_becomes_plain(value: Any, shown: Any) -> None:
    """Only texts, numbers, lists and dicts of bounded depth are left."""
    assert redact(None, "", {"x": value}) == {"x": shown}


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "one\r\ntwo", "a\x00b", "\x9b31m", "\u202egnp.exe", "a\u2028b"], ids=ascii
)
def test_control_characters_are_made_visible(text: str) -> None:
    """No value can begin a new line or command a terminal."""
    assert masked(text).isprintable()
    assert "\\" in masked(text)


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "@" * 10**6, "a@" * 10**6, "bearer " * 10**6, "token" * 10**6], ids=str.__len__
)
def test_long_texts_are_cut_and_cost_nothing(text: str) -> None:
    """The work is bounded whatever comes."""
    started = time.perf_counter()

    assert len(masked(text)) < 10_000
    assert time.perf_counter() - started < 0.1


@given(st.text())
def test_any_text_is_printable_afterwards(text: str) -> None:
    """Whatever comes in, one line of valid UTF-8 comes out."""
    assert len(masked(text).encode("utf-8").decode("utf-8").splitlines()) <= 1
