from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import (
    WebexConflict,
    WebexError,
    WebexNotFound,
    WebexRejected,
    WebexThrottled,
    WebexUnauthorized,
    WebexUnavailable,
)
from service.webex.protocol import Request, checked_base_url, cursor, decipher, path

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BASE = "https://webexapis.com/v1"

CLASSES: list[tuple[int, type[WebexError]]] = [
    (301, WebexRejected),
    (302, WebexRejected),
    (304, WebexRejected),
    (400, WebexRejected),
    (401, WebexUnauthorized),
    (403, WebexUnauthorized),
    (404, WebexNotFound),
    (405, WebexRejected),
    (408, WebexUnavailable),
    (409, WebexConflict),
    (410, WebexRejected),
    (412, WebexConflict),
    (415, WebexRejected),
    (422, WebexRejected),
    (423, WebexThrottled),
    (428, WebexRejected),
    (429, WebexThrottled),
    (451, WebexRejected),
    (500, WebexUnavailable),
    (502, WebexUnavailable),
    (503, WebexUnavailable),
    (504, WebexUnavailable),
    (599, WebexUnavailable),
]

BODIES = {
    "as documented": b'{"message": "ann@example.com is known", "errors": [{"description": "x"}], "trackingId": "T_1"}',
    "without a tracking id": b'{"message": "ann@example.com"}',
    "a list": b'[{"message": "ann@example.com"}]',
    "a number": b"7",
    "null": b"null",
    "HTML": b"<html>ann@example.com</html>",
    "empty": b"",
    "cut short": b'{"message": "ann@exam',
    "not UTF-8": b'{"message": "\xff\xfe"}',
    "deeply nested": b"[" * 100_000,
    "too long or badly encoded": None,
    "a tracking id that is none": b'{"trackingId": "ann@example.com"}',
    "a tracking id of another type": b'{"trackingId": {"a": 1}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize(("status", "kind"), CLASSES, ids=[str(status) for status, _ in CLASSES])
def test_the_status_alone_decides_the_class(status: int, kind: type[WebexError], body: bytes | None) -> None:
    """Whatever the body of an error is, its class is that of the status, and nothing of the body is told."""
    with pytest.raises(WebexError) as caught:
        decipher(status, {}, body, now=NOW, operation="registrants.approve")
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.maybe_done is (status >= 500)
    assert "ann@" not in repr(caught.value) + str(caught.value.tracking_id)
    assert str(caught.value).startswith(f"registrants.approve: Webex answered {status}")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        pytest.param(
            {"trackingid": "ROUTER_5F-1:2.b"}, b'{"trackingId": "other"}', "ROUTER_5F-1:2.b", id="header first"
        ),
        pytest.param({}, b'{"trackingId": "B_9"}', "B_9", id="body"),
        pytest.param({"trackingid": "ann@example.com"}, b"", None, id="not an id"),
        pytest.param({"trackingid": "x" * 200}, b"", None, id="too long"),
        pytest.param({}, b"", None, id="none"),
    ],
)
def test_the_tracking_id_is_kept_where_it_is_one(headers: dict[str, str], body: bytes, expected: str | None) -> None:
    """Cisco's id comes from the header or the body, and only where it looks like an id."""
    with pytest.raises(WebexRejected) as caught:
        decipher(409, headers, body, now=NOW)
    assert caught.value.tracking_id == expected
    assert (expected or "tracking id") in str(caught.value) or expected is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("194", 194.0, id="seconds"),
        pytest.param("Sun, 01 Mar 2026 12:01:00 GMT", 60.0, id="date"),
        pytest.param("rand(30),add(30)", 15.0, id="seen in the wild"),
        pytest.param("86400", 900.0, id="a day is capped"),
        pytest.param("-5", 15.0, id="negative"),
        pytest.param(None, 15.0, id="absent"),
    ],
)
@pytest.mark.parametrize("status", [429, 423])
def test_a_throttled_answer_says_how_long_to_wait(status: int, value: str | None, seconds: float) -> None:
    """429 and 423 carry the seconds of ``Retry-After``, or a sane default; they were not processed."""
    with pytest.raises(WebexThrottled) as caught:
        decipher(status, {} if value is None else {"retry-after": value}, b"", now=NOW)
    assert caught.value.retry_after == pytest.approx(seconds)
    assert not caught.value.maybe_done


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(200, b'{"a": [1]}', {"a": [1]}, id="JSON"),
        pytest.param(204, b"", None, id="no content"),
        pytest.param(200, b" \n", None, id="only white space"),
        pytest.param(207, b"[]", [], id="multi-status"),
    ],
)
def test_a_success_is_decoded(status: int, body: bytes, expected: object) -> None:
    """Any 2xx gives its JSON, or None where there is no body."""
    assert decipher(status, {}, body, now=NOW) == expected


@pytest.mark.parametrize("body", [b"<html>", b'{"a"', b"\xff", b"[" * 100_000, None])
def test_a_success_that_cannot_be_read_may_have_had_its_effect(body: bytes | None) -> None:
    """HTML, cut-short, over-long and over-nested successes are refused, and count as possibly done."""
    with pytest.raises(WebexRejected) as caught:
        decipher(200, {}, body, now=NOW)
    assert caught.value.maybe_done


@given(st.integers(200, 599), st.dictionaries(st.text(), st.text()), st.none() | st.binary())
def test_an_answer_ends_in_a_value_or_a_webex_error(status: int, headers: dict[str, str], body: bytes | None) -> None:
    """No answer at all raises anything else."""
    with contextlib.suppress(WebexError):
        decipher(status, headers, body, now=NOW)


STEERING = {
    "..%2f": "../people/me",
    "a query": "a?x=1",
    "a fragment": "a#b",
    "already encoded dots": "%2e%2e",
    "already encoded slash": "a%2fb",
    "line break": "a\r\nX-Evil: 1",
    "NUL": "a\x00b",
    "backslash": "..\\..\\people",
    "semicolon": "a;b=c",
    "another host": "https://evil.example/x",
    "user": "@evil.example",
    "text": "ä 语",
    "dot-like": "...",
    "double slash": "//evil.example",
}


@pytest.mark.parametrize("value", STEERING.values(), ids=STEERING.keys())
def test_an_id_cannot_steer_the_url(value: str) -> None:
    """Whatever an id holds, it stays one segment of the path on our host, all through httpx."""
    request = Request(operation="x", method="GET", path=path("meetings", value, "registrants"), query={"max": "100"})
    url = httpx.URL(request.url(BASE))
    raw_path, _, query = url.raw_path.partition(b"?")
    assert url.host == "webexapis.com"
    assert raw_path.split(b"/")[1:3] == [b"v1", b"meetings"]
    assert raw_path.split(b"/")[4:] == [b"registrants"]
    assert query == b"max=100"
    assert httpx.URL(BASE + "/" + raw_path.split(b"/")[3].decode()).path == "/v1/" + value


@pytest.mark.parametrize("value", ["", ".", "..", "x" * 10_240, "\ud800"])
def test_what_cannot_be_an_id_is_refused(value: str) -> None:
    """Empty, dot, over-long and non-text ids never become a URL, and are not shown."""
    with pytest.raises(WebexRejected) as caught:
        path("meetings", value)
    assert len(str(caught.value)) < 100


@given(st.text(min_size=1, max_size=40).filter(lambda text: text not in (".", "..")))
def test_any_text_as_an_id_stays_one_segment(value: str) -> None:
    """No text that is taken as an id adds a segment, a query or a host."""
    url = httpx.URL(Request(operation="x", method="GET", path=path("meetings", value)).url(BASE))
    assert url.host == "webexapis.com"
    assert url.raw_path.count(b"/") == 3
    assert b"?" not in url.raw_path


def test_a_query_value_is_encoded() -> None:
    """A plus, a space and an ampersand in an address survive."""
    request = Request(operation="x", method="GET", path="/meetings", query={"hostEmail": "a+b&max=1 c@example.com"})
    assert httpx.URL(request.url(BASE)).params.multi_items() == [("hostEmail", "a+b&max=1 c@example.com")]


@pytest.mark.parametrize(
    ("url", "allow_http"),
    [
        ("https://webexapis.com/v1", False),
        ("https://webexapis.com/v1/", False),
        ("http://127.0.0.1:8090/v1", False),
        ("http://127.9.9.9/v1", False),
        ("http://[::1]:8090/v1", False),
        ("http://localhost:8090", False),
        ("http://sandbox:8090/v1", True),
    ],
)
def test_a_base_url_is_https_or_loopback_or_allowed(url: str, *, allow_http: bool) -> None:
    """https everywhere; plain http on loopback, or where it was allowed explicitly."""
    assert checked_base_url(url, allow_http=allow_http) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://webexapis.com/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://localhost.evil.example/",
        "http://[::2]/",
        "ftp://webexapis.com",
        "webexapis.com/v1",
        "",
        "https://",
        "https://user:secret@webexapis.com/v1",
        "https://webexapis.com/v1?x=1",
        "https://webexapis.com/v1#x",
        "https://webexapis.com:99999/v1",
        "https://webex apis.com/v1",
    ],
)
def test_any_other_base_url_is_refused_at_once(url: str) -> None:
    """A token is never sent in the clear, nor to what is not a plain URL; what is refused is not shown."""
    with pytest.raises(ValueError, match=r"URL|Port") as caught:
        checked_base_url(url)
    assert "secret" not in str(caught.value)


FIRST = Request(
    operation="registrants.list",
    method="GET",
    path="/meetings/5/registrants",
    query={"max": "100", "registrationTimeFrom": "2026-01-01T00:00:00Z"},
)
HERE = "https://webexapis.com/v1/meetings/5/registrants"


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        pytest.param(f'<{HERE}?cursor=abc&max=100>; rel="next"', {"cursor": "abc"}, id="plain"),
        pytest.param(f"<{HERE}?cursor=abc>; rel=next", {"cursor": "abc"}, id="unquoted"),
        pytest.param(f'<{HERE}?cursor=a%2Bb%3D>; rel="NEXT last"', {"cursor": "a+b="}, id="encoded, two relations"),
        pytest.param(f'<{HERE}?p=1>; rel="prev", <{HERE}?p=3>; rel="next"', {"p": "3"}, id="several links"),
        pytest.param(f'<{HERE}?cursor=abc&max=null>; rel="next"', {"cursor": "abc"}, id="max=null"),
        pytest.param(
            f'<{HERE}?cursor=abc&max=10&registrationTimeFrom=x>; rel="next"', {"cursor": "abc"}, id="other filters"
        ),
        pytest.param(
            f'<{HERE}?cursor=abc&hostEmail=eve%40x>; rel="next"', {"cursor": "abc"}, id="a filter we did not send"
        ),
        pytest.param('</v1/meetings/5/registrants?cursor=abc>; rel="next"', {"cursor": "abc"}, id="relative"),
        pytest.param(f'<{HERE.replace(".com", ".com:443")}?c=1>; rel="next"', {"c": "1"}, id="the default port"),
        pytest.param(f'<{HERE}?max=null>; rel="next"', {}, id="nothing new"),
        pytest.param(f'<{HERE}?cursor=null>; rel="next"', {}, id="a cursor that is null"),
        pytest.param('<https://evil.example/v1/meetings/5/registrants?cursor=abc>; rel="next"', {}, id="another host"),
        pytest.param('<http://webexapis.com/v1/meetings/5/registrants?cursor=abc>; rel="next"', {}, id="in the clear"),
        pytest.param('<https://webexapis.com/v1/people/me?cursor=abc>; rel="next"', {}, id="another path"),
        pytest.param('<https://webexapis.com:99999/v1?cursor=abc>; rel="next"', {}, id="an impossible port"),
        pytest.param('<https://[::1/v1?cursor=abc>; rel="next"', {}, id="not a URL"),
        pytest.param(f"<{HERE}?" + "&".join(f"a{n}=1" for n in range(99)) + '>; rel="next"', {}, id="too many fields"),
        pytest.param(f'<{HERE}?cursor=abc>; rel="last"', {}, id="not next"),
        pytest.param("", {}, id="empty"),
        pytest.param(None, {}, id="absent"),
        pytest.param("<<<>>>;;; rel=next" * 3000, {}, id="junk"),
    ],
)
def test_only_a_cursor_is_taken_from_a_link(link: str | None, expected: dict[str, str]) -> None:
    """A next link gives new parameters of our own URL, and nothing else."""
    known = ("max", "hostEmail", "registrationTimeFrom", "registrationTimeTo")
    assert cursor(link, first=FIRST, base_url=BASE, known=known) == expected


@given(st.text())
def test_any_link_gives_a_mapping(link: str) -> None:
    """No Link header raises."""
    assert isinstance(cursor(f"<{link}>; rel=next", first=FIRST, base_url=BASE, known=()), dict)
