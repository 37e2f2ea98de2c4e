"""`rejects list|show`: from the files of a receiver, whether it is running or not."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from service.core.diagnosis import Code, Diagnosis
from service.core.errors import BadSignature
from service.core.rejects import Refused, remembered, written
from service.core.signature import sign
from service.receiver.endpoint import WrongOwner
from service.receiver.rejects_file import NEWER, OLDER
from tests.cli.program import ANY_PORT, invoke, refusal, running

NOW = datetime.now(UTC)
#: Id, diagnosis, and how long ago.
KEPT = [
    ("0000000000a1", Code.WRONG_SECRET, timedelta(days=6)),
    ("0000000000b2", Code.BODY_ALTERED, timedelta(hours=3)),
    ("0000000000c3", Code.WRONG_OWNER, timedelta(minutes=5)),
]


#: Why it refuses, as its records and metrics say it.
RECEIVERS_OWN = {each.__name__[0].lower() + each.__name__[1:] for each in (BadSignature, WrongOwner)}


def line(id_: str, code: Code, ago: timedelta, *, bodies: bool = False) -> bytes:
    """One record."""
    reason = "wrongOwner" if code is Code.WRONG_OWNER else "badSignature"
    refused = Refused(time=NOW - ago, reason=reason, headers=[(b"user-agent", b"x")], body=b"{}", source="192.0.2.7")
    return written(remembered(refused, Diagnosis(code, "A sentence."), id_=id_, left_out=0, bodies=bodies))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder where a receiver has been at work; its last line is torn."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / OLDER).write_bytes(line(*KEPT[0]) + line("00000000001d", Code.WRONG_SECRET, timedelta(days=8)))
    (folder / NEWER).write_bytes(line(*KEPT[1]) + line(*KEPT[2]) + b'{"id":"torn')
    return folder


def listed(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The items of ``rejects list``."""
    done = invoke("rejects", "list", *words, "-o", "json", folder=folder.parent)
    assert (done.returncode, done.stderr) == (0, b"")
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


@pytest.mark.parametrize(
    ("words", "found"),
    [
        pytest.param([], ["a1", "b2", "c3"], id="all that are young enough"),
        pytest.param(["--since", "4h"], ["b2", "c3"], id="since"),
        pytest.param(["--since", "30d"], ["a1", "b2", "c3"], id="never longer than they may be kept"),
        pytest.param(["--reason", "badSignature"], ["a1", "b2"], id="by reason"),
        pytest.param(["--reason", "bodyAltered"], ["b2"], id="by diagnosis"),
        pytest.param(["--reason", "bodyEmpty"], [], id="none"),
    ],
)
def test_list(data: Path, words: list[str], found: list[str]) -> None:
    """Oldest first; the torn line and what is too old are left out."""
    assert [each["id"][-2:] for each in listed(data, *words)] == found


def test_list_as_a_table(data: Path) -> None:
    """What matters stands in a line each."""
    done = invoke("rejects", "list", "-o", "table", folder=data.parent)
    head, *rows = done.stdout.decode().splitlines()

    assert head.split() == ["ID", "TIME", "COUNT", "DIAGNOSIS", "REASON", "SOURCE", "BODYBYTES", "USERAGENT"]
    assert [row.split()[3] for row in rows] == ["wrongSecret", "bodyAltered", "wrongOwner"]


def test_lines(data: Path) -> None:
    """For programs: one object a line."""
    done = invoke("rejects", "list", "-o", "jsonl", folder=data.parent)

    assert [json.loads(each)["diagnosis"] for each in done.stdout.splitlines()] == [code for _, code, _ in KEPT]


def test_show(data: Path) -> None:
    """The whole record, with what mends it, and without a body unless that is kept."""
    with (data / NEWER).open("ab") as stream:
        stream.write(b"\n" + line("0000000000e5", Code.WRONG_SECRET, timedelta(), bodies=True))
    done = invoke("rejects", "show", "0000000000b2", "-o", "json", folder=data.parent)
    with_body = invoke("rejects", "show", "0000000000e5", "-o", "json", folder=data.parent)
    shown = json.loads(done.stdout)

    assert (shown["diagnosis"], shown["sentence"]) == ("bodyAltered", "A sentence.")
    assert "byte by byte" in shown["mending"]
    assert "body" not in shown
    assert json.loads(with_body.stdout)["body"] == "e30="


def test_none_of_that_id_is_1(data: Path) -> None:
    """The folder is named."""
    done = invoke("rejects", "show", "0000000000ff", folder=data.parent)

    assert refusal(done, 1) == ["There is no refused request 0000000000ff in data; `rejects list` shows them."]


@pytest.mark.parametrize("reason", ["nonsense", "", "WRONGSECRET"])
def test_a_reason_that_is_none_is_2(data: Path, reason: str) -> None:
    """Those that there are are shown: the receiver's own, and every diagnosis."""
    (said,) = refusal(invoke("rejects", "list", "--reason", reason, folder=data.parent), 2)

    assert said.startswith(f"There is no reason {reason!r}; there are: ")
    assert {*RECEIVERS_OWN, *Code} == set(said.partition("there are: ")[2].split(", "))


def test_nothing_was_refused(tmp_path: Path) -> None:
    """A folder without a file: an empty list."""
    (tmp_path / "data").mkdir()

    assert listed(tmp_path / "data") == []


@pytest.mark.parametrize("words", [["list"], ["show", "0000000000a1"]])
@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_no_folder_is_2(tmp_path: Path, words: list[str], there: str) -> None:
    """An empty list would say that nothing was refused; what names the folder is said."""
    if there == "a file":
        (tmp_path / "data").write_bytes(b"")

    assert refusal(invoke("rejects", *words, folder=tmp_path), 2) == [
        "There is no folder data; WEBEX_EVENTS_JOURNAL__PATH names the receiver's."
    ]


def test_a_file_that_cannot_be_read_is_1(data: Path) -> None:
    """A sentence, and no traceback."""
    (data / NEWER).unlink()
    (data / NEWER).mkdir()

    assert refusal(invoke("rejects", "list", folder=data.parent), 1) == [
        "data: the refused requests cannot be read (Is a directory)"
    ]


def test_a_time_that_is_none_is_2(data: Path) -> None:
    """What may be written is said."""
    (said,) = refusal(invoke("rejects", "list", "--since", "yesterday", folder=data.parent), 2)

    assert said.startswith("'yesterday' is no time")


# --- the whole receiver -----------------------------------------------------------------------------------------------

CANARY = b"canary-secret-0123456789"
BODY = b'{"id":"x","data":{"email":"canary@example.org","displayName":"Canary Canaria","password":"canary-password"}}'
#: Header values that strangers may send over a socket, and that logs, terminals and JSON might trip over.
HOSTILE = (
    b'canary@example.org", "event": "forged", "x": "',
    b"\x1b[2J\x1b]0;canary\x07",
    b'canary\r\n {"event":"forged"}',
    b"\xff\xfe canary \x9b31m",
    b"endless canary " * 50,
)


def request(body: bytes, *headers: bytes) -> bytes:
    """The bytes of one."""
    fixed = (
        b"Host: receiver",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    )
    return b"\r\n".join((b"POST /webhooks/webex?canary=1 HTTP/1.1", *fixed, *headers, b"", body))


def exchange(port: int, sent: bytes) -> bytes:
    """What is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def refusals() -> Iterator[bytes]:
    """Requests that are refused, each with something that must not be seen again."""
    signed = {name.encode(): value.encode() for name, value in sign(BODY + b"\n", CANARY).items()}
    yield request(BODY, *(b": ".join(each) for each in signed.items()))  # altered
    yield request(BODY, b"X-Spark-Signature: " + signed[b"X-Spark-Signature"], b"X-Spark-Signature: " + b"0" * 40)
    yield request(BODY, b"Authorization: Bearer canary-token", b"Cookie: canary=1", b"X-Canary-Secret: canary")
    for n, value in enumerate(HOSTILE):
        for name in (b"User-Agent", b"X-Spark-Signature", b"X-Webex-Signature", b"Traceparent", b"Content-Type"):
            yield request(BODY + b" " * n, name + b": " + value)


@pytest.mark.parametrize("direct", ["true", "false"])
def test_refusals_show_nothing_and_break_nothing(tmp_path: Path, direct: str) -> None:
    """Secrets, addresses and names that strangers send, or that we hold, are in no answer, log line, metric or record; every
    line of the log and of the store is one JSON object; and what was refused can be listed while the receiver runs.
    """
    settings = {**ANY_PORT, "WEBHOOK__SECRET": CANARY.decode(), "LOG__LEVEL": "debug", "RECEIVER__DIRECT": direct}
    with running("serve", "receiver", folder=tmp_path, settings=settings) as process:
        url = urlsplit(process.until("receiver.started")[0]["webhook"])
        answers = [exchange(url.port or 0, each) for each in refusals()]
        found: list[dict[str, Any]] = process.wait(lambda: listed(tmp_path / "data"), "a record")
        assert process.end(signal.SIGTERM) == 0
    kept = listed(tmp_path / "data")
    stored = (tmp_path / "data" / NEWER).read_bytes()
    done = invoke("rejects", "list", "-o", "table", folder=tmp_path)

    assert {answer.split()[1] for answer in answers} <= {b"400", b"401", b"415"}
    assert b"401" in answers[0]
    assert found
    assert [each["diagnosis"] for each in kept if each["diagnosis"] == "bodyAltered"] == ["bodyAltered"]
    assert all(json.loads(each)["event"] != "forged" for each in process.lines)
    assert all(json.loads(each)["id"] for each in stored.splitlines())
    assert len(done.stdout.splitlines()) == len(kept) + 1
    for text in (b"".join(answers), "\n".join(process.lines).encode()):
        assert b"canary" not in text.lower()
    for secret in (CANARY, b"canary@", b"canary-password", b"canaria", b"canary-token", b"\x1b", *HOSTILE):
        assert secret not in stored.lower() + done.stdout.lower()
