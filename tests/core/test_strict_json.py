"""Signed bodies that are no JSON, or more than anybody can read: each is quarantined with its reason, and none takes long.

The cases are those of Bishop Fox's survey of JSON parsers, of RFC 8259 and RFC 7493, and what our own parser is slow at.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.core.notification import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, accept
from service.core.signature import sign, verify

NOON = datetime(2026, 1, 20, 12, 0, 10, tzinfo=UTC)
SECRET = b"a secret of the tests"
LARGEST = 64 * 1024
MILLISECOND = 1_000_000

#: The beginning of a notification, up to the value of a field that nobody knows; and its end.
HEAD = b'{"resource":"meetings","event":"started","id":"h","orgId":"o","data":{"id":"5f0c2e7b91a84d36b0e1c4d7a9f83b62","x":'
TAIL = b"}}"


def reason(raw: bytes) -> str:
    """Why the signed bytes go to quarantine; "" where they do not."""
    headers = [(name.encode(), value.encode()) for name, value in sign(raw, SECRET).items()]
    assert verify(raw, headers, secrets=[SECRET]) == 0
    accepted = accept(raw, received=NOON, receiver="r1")
    return str(accepted.event.data["reason"]) if accepted.quarantined else ""


def holding(value: bytes) -> bytes:
    """A notification with this value in an unknown field."""
    return HEAD + value + TAIL


NOT_JSON = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "1e400": b"1e400",
    "minus 1e400": b"-1e400",
    "a number without a fraction": b"1.",
    "a number without a beginning": b".5",
    "a plus": b"+1",
    "a leading zero": b"01",
    "hexadecimal": b"0x1F",
    "a lone surrogate": rb'"\ud800"',
    "a lone low surrogate": rb'"\udc00"',
    "a surrogate with another letter": rb'"\ud800\u0041"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "a NUL within a text": b'"a\x00b"',
    "a newline within a text": b'"a\nb"',
    "an unknown escape": rb'"\x41"',
    "single quotes": b"'x'",
    "a comment": b"1 /* one */",
    "a trailing comma": b"[1,]",
    "a trailing comma in an object": b'{"a":1,}',
    "a name without quotes": b"{a:1}",
    "a number as a name": b"{1:1}",
    "the wrong bracket": b"[1}",
    "True": b"True",
    "nothing": b"",
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_by_one_value(value: bytes) -> None:
    """What lenient parsers take for JSON, each in its own way, is not read at all."""
    assert reason(holding(value)) == "notJson"


NO_NOTIFICATION = {
    "a byte order mark": (b"\xef\xbb\xbf" + holding(b"1"), "notJson"),
    "UTF-16": (holding(b"1").decode().encode("utf-16"), "notJson"),
    "UTF-16 without a mark": (holding(b"1").decode().encode("utf-16-le"), "notJson"),
    "UTF-32": (holding(b"1").decode().encode("utf-32"), "notJson"),
    "NULs": (b"\x00" * 4000, "notJson"),
    "a NUL after it": (holding(b"1") + b"\x00", "notJson"),
    "two of them": (holding(b"1") * 2, "notJson"),
    "commas": (b"," * LARGEST, "notJson"),
    "quotes": (b'"' * LARGEST, "notJson"),
    "brackets that stay open": (b"[" * 900, "notJson"),
    "a form": (b"resource=meetings&event=started", "notJson"),
    "nothing": (b"", "notJson"),
    "depth 1 000": (holding(b"[" * 1000 + b"]" * 1000), "tooDeep"),
    "depth 30 000": (holding(b"[" * 30_000 + b"]" * 30_000), "tooDeep"),
    "depth 30 000, left open": (b"[" * 30_000, "tooDeep"),
    "depth 10 000 of objects": (holding(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), "tooDeep"),
    "one level too many": (holding(b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)), "tooDeep"),
    "just deep enough": (holding(b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)), ""),
    "2^64": (holding(b"18446744073709551616"), "hugeNumber"),
    "minus 2^63 and one more": (holding(b"-9223372036854775809"), "hugeNumber"),
    "2^64 in the envelope": (holding(b"1").replace(b'"h"', b"18446744073709551616"), "hugeNumber"),
    "64 bits": (holding(b"[18446744073709551615,-9223372036854775808]"), ""),
    "4 301 digits": (holding(b"9" * 4301), "tooManyDigits"),
    "65 000 digits of a fraction": (holding(b"0." + b"1" * 65_000), "tooManyDigits"),
    "a large fraction": (holding(b"1.7976931348623157e308"), ""),
    "2 001 elements": (b'{"x":[' + b"0," * 2000 + b"0]}", "tooManyValues"),
    "2 001 members": (b"{" + b",".join(b'"%d":""' % number for number in range(2001)) + b"}", "tooManyValues"),
    "30 000 lists": (holding(b"[" + b"[]," * 20_000 + b"[]]"), "tooManyValues"),
    "towers of lists": (holding(b"[" + b",".join([b"[" * 50 + b"]" * 50] * 50) + b"]"), "tooManyValues"),
    "towers of objects": (holding(b"[" + b",".join([b'{"a":' * 50 + b"1" + b"}" * 50] * 50) + b"]"), "tooManyValues"),
    "the same name twice": (holding(b'1,"x":2'), ""),
    "escapes of all kinds": (holding(rb'"\" \\ \/ \b \f \n \r \t \u0000 \ud83d\ude00 \uffff"'), ""),
    "another resource with NaN": (b'{"resource":"rooms","x":NaN}', "notJson"),
    "another resource with 2^64": (b'{"resource":"rooms","x":18446744073709551616}', "hugeNumber"),
}


@pytest.mark.parametrize(("raw", "why"), NO_NOTIFICATION.values(), ids=NO_NOTIFICATION)
def test_what_nobody_should_read(raw: bytes, why: str) -> None:
    """Whole bodies, each with its stable reason; what is unusual but right passes."""
    assert reason(raw) == why


# The limits


HOSTILE = st.text('",[{}]:\\0', max_size=40)


@given(st.integers(MAX_VALUES - 2, MAX_VALUES + 2), st.lists(HOSTILE, min_size=1, max_size=4), st.booleans())
@example(MAX_VALUES, ["\\"], True)
@example(MAX_VALUES, ['\\"'], False)
@example(MAX_VALUES, [",,,\\"], False)
@example(MAX_VALUES, [",,,\\"], True)
@example(MAX_VALUES, [",[{" * 5], True)
@settings(deadline=None)
def test_values_are_counted_outside_texts(values: int, texts: list[str], as_object: bool) -> None:
    """Commas and brackets are counted, but for those within texts and names, whatever is escaped there."""
    row = [texts[number % len(texts)] for number in range(values)]
    members = {f"{text}{number}": text for number, text in enumerate(row)}
    raw = msgspec.json.encode(members if as_object else row)
    assert (reason(raw) == "tooManyValues") == (values > MAX_VALUES)


@pytest.mark.parametrize(
    "fill", ["0123456789", ",[{", '",', "\\", '\\"', "é,"], ids=["digits", "commas", "quotes", "escapes", "both", "é"]
)
def test_a_long_text_is_not_counted(fill: str) -> None:
    """A text may hold anything, however long it is."""
    text = msgspec.json.encode(fill * (20_000 // len(fill)))
    assert reason(holding(text)) == ""


@pytest.mark.parametrize("number", [b"9", b"12345.678e1", b"-1"])
def test_digits_are_counted_outside_texts(number: bytes) -> None:
    """As many as are allowed pass, and no more; those in texts do not count."""
    count = sum(number.count(digit) for digit in b"0123456789")
    most = MAX_DIGITS // count
    rows = [b'{"x":["%b",%b%b]}' % (b"7" * 3000, b" " * gap, b",".join([number] * most)) for gap in (0, 9)]
    assert {reason(raw) for raw in rows} <= {"unknownResource", "tooManyValues"}
    more = b'{"x":["%b",%b1]}' % (b"7" * 3000, b"1" * MAX_DIGITS)
    assert reason(more) == "tooManyDigits"


# The time


def filled(unit: bytes, count: int = LARGEST) -> bytes:
    """A notification of at most 64 KiB with an array of these, at most so many."""
    most = (LARGEST - len(HEAD) - len(TAIL) - 2) // (len(unit) + 1)
    return holding(b"[" + b",".join([unit] * min(count, most)) + b"]")


def padded(unit: bytes, count: int, pad: bytes) -> bytes:
    """So many of these, and then one text that takes the rest of 64 KiB."""
    rest = LARGEST - len(HEAD) - len(TAIL) - (len(unit) + 1) * count - 4
    return holding(b"[" + b",".join([unit] * count) + b',"' + pad * (rest // len(pad)) + b'"]')


def keyed(head: bytes, tail: bytes, count: int) -> bytes:
    """So many names, and then one text that takes the rest of 64 KiB."""
    names = b"".join(b'"%x":"",' % number for number in range(count))
    return head + names + b'"long":"' + b"\\n" * ((LARGEST - len(head + names + tail) - 9) // 2) + b'"' + tail


SLOW = {
    "lists": filled(b"[]"),
    "objects": filled(b'{"a":{}}'),
    "nested lists": filled(b"[[[[]]]]"),
    "towers of lists": filled(b"[" * 60 + b"]" * 60),
    "zeros": filled(b"0"),
    "small texts": filled(b'"a"'),
    "texts that are no ASCII": filled('"é"'.encode()),
    "deep lists": holding(b"[" * 32_000 + b"]" * 32_000),
    "deep objects": holding(b'{"a":' * 10_000 + b"0" + b"}" * 10_000),
    "one long text": holding(b'"' + b"x" * 65_000 + b'"'),
    "escapes": holding(b'"' + b"\\n" * 32_000 + b'"'),
    "escaped letters": holding(b'"' + b"\\u0001" * 10_000 + b'"'),
    "escaped quotes and brackets": holding(b'"' + b'\\",[' * 16_000 + b'"'),
    "emoji": holding(b'"' + "😀".encode() * 16_000 + b'"'),
    "long integers": filled(b"9" * 4300),
    "integers of 20 digits": filled(b"9" * 20),
    "the largest fractions": filled(b"1e308"),
    "the smallest fractions": filled(b"2.2250738585072011360574e-308"),
    "long fractions": filled(b"1.00000000000000011102230246251565404e-300"),
    "one long fraction": holding(b"0." + b"1" * 65_000),
    "as many zeros as may be": padded(b"0", MAX_VALUES - 10, b"\\n"),
    "as many texts as may be": padded(b'""', MAX_VALUES - 10, b"\\n"),
    "as many lists as may be": padded(b"[]", MAX_VALUES // 2 - 10, b"0"),
    "as many objects as may be": padded(b'{"a":0}', MAX_VALUES // 2 - 10, b","),
    "as many large fractions as may be": padded(b"1e308", MAX_DIGITS // 4 - 10, b"\\n"),
    "as many small fractions as may be": padded(b"5e-324", MAX_DIGITS // 4 - 10, b"\\n"),
    "as many names as may be": keyed(HEAD[: -len('"x":')], TAIL, MAX_VALUES - 10),
    "as many names beside data as may be": keyed(
        b'{"resource":"meetings","event":"started",', b',"data":{"id":"x"}}', MAX_VALUES - 10
    ),
    "devices": b'{"resource":"meetingParticipants","event":"joined","data":{"id":"x","devices":[%b1]}}'
    % (b"{}," * 900 + b" " * 60_000),
    "a long organisation": holding(b"1").replace(b'"o"', b'"%b"' % ("é" * 32_000).encode()),
    "a long time": holding(b"1").replace(b'"x"', b'"start":"%b","x"' % ("\x85" * 32_000).encode()),
    "a long id": holding(b"1").replace(b"5f0c", "\x85".encode() * 32_000),
    "a long registration": holding(b"1").replace(b'"h"', b'"%b"' % ("\x85" * 32_000).encode()),
    "a long address": holding(b"1").replace(b'"x"', b'"hostEmail":"%b","x"' % (b"\\u0001" * 10_000)),
    "white space": b" " * 65_000 + b"{}",
    "quotes": b'"' * LARGEST,
    "quotes and commas": b'"' * 60_000 + b"," * 5_000,
    "commas": b"," * LARGEST,
    "NULs": b"\x00" * LARGEST,
}


def milliseconds(raw: bytes) -> float:
    """CPU time of this thread for the best of five."""
    taken = []
    for _ in range(5):
        started = time.thread_time_ns()
        accept(raw, received=NOON, receiver="r1")
        taken.append(time.thread_time_ns() - started)
    return min(taken) / MILLISECOND


@pytest.mark.parametrize("raw", SLOW.values(), ids=SLOW)
def test_no_body_stalls_the_loop(raw: bytes) -> None:
    """Nobody waits for longer than 2 ms because of another's body; the worst takes half of that where this was written."""
    assert LARGEST - 12_000 < len(raw) <= LARGEST + 64
    assert milliseconds(raw) <= 2.0
