"""Which answer each kind of request gets, and what is durable afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.core import event as events
from service.core.errors import CannotStore, RecordRefused
from service.core.signature import ANYBODY, Secret, sign
from service.receiver.answers import NO_SUCH_METHOD, NO_SUCH_ROUTE, problem
from service.receiver.app import create_app
from tests.fakes import RecordingPublisher
from tests.receiver.conftest import SECRET, SECRETS, URL, Bench
from tests.servers import running

SAMPLES = Path(__file__).parents[1] / "samples"
BODY = (SAMPLES / "meetings.started.json").read_bytes()
SIGNED = sign(BODY, SECRET)
SPARK, WEBEX = "X-Spark-Signature", "X-Webex-Signature"
JSON = {"Content-Type": "application/json"}
CAP = 64 * 1024


def flipped(body: bytes, bit: int = 77) -> bytes:
    """``body`` with one bit changed."""
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def signed(body: bytes, **headers: str) -> dict[str, Any]:
    """A request with ``body``, as Webex would send it."""
    return {"content": body, "headers": {**sign(body, SECRET), **JSON, **headers}}


def altered(header: str, **others: str) -> dict[str, Any]:
    """The sample with one hex digit of this header's last digest changed."""
    value = SIGNED[header]
    wrong = value[:-1] + ("0" if value[-1] != "0" else "1")
    return {"content": BODY, "headers": {header: wrong, **others, **JSON}}


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


BIG = b'{"x":"' + b"x" * (CAP - 8) + b'"}'

ANSWERS = [
    pytest.param("POST", URL, signed(BODY), 204, id="a signed notification"),
    pytest.param("POST", URL, {"content": BODY, "headers": SIGNED}, 204, id="no content type"),
    pytest.param("POST", URL, {"content": BODY, "headers": {SPARK: SIGNED[SPARK]}}, 204, id="SHA-1 alone"),
    pytest.param("POST", URL, {"content": BODY, "headers": {WEBEX: SIGNED[WEBEX]}}, 204, id="SHA-2 alone"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Type": "application/json;charset=UTF-8"}), 204, id="a charset"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Type": "Application/JSON ; x=y"}), 204, id="odd spelling"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Encoding": "identity"}), 415, id="encoded as it is"),
    pytest.param("POST", URL + "?x=1", signed(BODY), 204, id="a query, which is not looked at"),
    pytest.param("POST", URL, signed(b"not json"), 204, id="signed, but not JSON"),
    pytest.param("POST", URL, signed(b""), 204, id="signed, but empty"),
    pytest.param("POST", URL, signed(b"[" * 30_000), 204, id="signed, but nested too deep"),
    pytest.param("POST", URL, signed(BIG), 204, id="as long as it may be"),
    pytest.param("POST", URL, {"content": BODY, "headers": JSON}, 401, id="no signature"),
    pytest.param("POST", URL, {"content": flipped(BODY), "headers": SIGNED}, 401, id="a flipped bit in the body"),
    pytest.param("POST", URL, altered(SPARK), 401, id="a wrong SHA-1"),
    pytest.param("POST", URL, altered(WEBEX), 401, id="a wrong SHA-512"),
    pytest.param("POST", URL, altered(WEBEX, **{SPARK: SIGNED[SPARK]}), 401, id="a good SHA-1 beside a wrong SHA-512"),
    pytest.param("POST", URL, {"content": BODY, "headers": {SPARK: b"\xe4" * 40}}, 401, id="a signature that is no hex"),
    pytest.param(
        "POST", URL, {"content": BODY, "headers": [(SPARK, SIGNED[SPARK])] * 2}, 401, id="two signature headers"
    ),
    pytest.param("POST", URL, {"content": BODY, "headers": sign(BODY, b"old")}, 401, id="a secret that is not live"),
    pytest.param("GET", URL, {}, 405, id="GET"),
    pytest.param("HEAD", URL, {}, 405, id="HEAD"),
    pytest.param("PUT", URL, signed(BODY), 405, id="PUT"),
    pytest.param("OPTIONS", URL, {}, 405, id="OPTIONS"),
    pytest.param("POST", "http://receiver/", signed(BODY), 404, id="another path"),
    pytest.param("POST", URL + "/", signed(BODY), 404, id="a slash at the end"),
    pytest.param("POST", "http://receiver/Webhooks/webex", signed(BODY), 404, id="another spelling of the path"),
    pytest.param("GET", "http://receiver/readyz", {}, 404, id="the private listener's paths"),
    pytest.param("POST", URL, signed(BIG + b" "), 413, id="one byte too long"),
    pytest.param("POST", URL, {"content": b"", "headers": {"Content-Length": "9" * 5000}}, 413, id="an absurd length"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Type": "text/plain"}), 415, id="text"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Type": "application/jsonp"}), 415, id="nearly JSON"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Type": ""}), 415, id="an empty content type"),
    pytest.param(
        "POST", URL, {"content": BODY, "headers": [("content-type", "application/json"), ("content-type", "a/b")]}, 415,
        id="two content types",
    ),
    pytest.param("POST", URL, signed(BODY, **{"Content-Encoding": "gzip"}), 415, id="compressed"),
    pytest.param("POST", URL, signed(BODY, **{"Content-Encoding": "identity, br"}), 415, id="compressed as well"),
    pytest.param("POST", URL, {"content": BODY, "headers": SIGNED | {"Content-Length": "-1"}}, 400, id="length -1"),
    pytest.param("POST", URL, {"content": BODY, "headers": SIGNED | {"Content-Length": "5"}}, 400, id="too short a length"),
    pytest.param("POST", URL, {"content": BODY, "headers": SIGNED | {"Content-Length": "9999"}}, 400, id="too long a length"),
    pytest.param(
        "POST",
        URL,
        {"content": BODY, "headers": [*SIGNED.items(), ("content-length", str(len(BODY))), ("content-length", "7")]},
        400,
        id="two lengths",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "url", "request_", "status"), ANSWERS)
async def test_each_kind_of_request_has_its_answer(
    bench: Bench, method: str, url: str, request_: Mapping[str, Any], status: int
) -> None:
    """Every request is answered as the table says, and only what got a 2xx was published."""
    answer = await bench.send(method, url, **request_)

    assert answer.status_code == status
    assert len(bench.publisher.batches) == (1 if status == 204 else 0)
    assert f'webex_events_webhooks_total{{answer="{status}"}} 1.0' in bench.metrics.render()[0].decode()


@pytest.mark.parametrize(("method", "url", "request_", "status"), [row for row in ANSWERS if row.values[3] != 204])
async def test_a_refusal_is_a_problem_document(
    bench: Bench, method: str, url: str, request_: Mapping[str, Any], status: int
) -> None:
    """Refusals are RFC 9457 problems that say their status and nothing about the request."""
    answer = await bench.send(method, url, **request_)

    if method != "HEAD":
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"] == "about:blank"
        assert problem["status"] == status
        assert problem.keys() <= {"type", "title", "status", "detail"}
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert answer.headers.get("connection") == (None if status == 401 else "close")


def test_the_answers_that_are_written_out_are_those_that_would_be_made() -> None:
    """To the byte."""
    assert problem(404) == NO_SUCH_ROUTE
    assert problem(405, headers=((b"allow", b"POST"),)) == NO_SUCH_METHOD


async def test_a_204_has_no_body(bench: Bench) -> None:
    """The good answer is empty."""
    answer = await bench.send(**signed(BODY))

    assert (answer.content, answer.headers.get("content-type")) == (b"", None)


async def test_event_and_hint_are_one_batch(bench: Bench) -> None:
    """The event and the hint beside it are published together, as one promise."""
    await bench.send(**signed(BODY))

    (batch,) = bench.publisher.batches
    assert [message.topic for message in batch] == ["meetings", "work"]
    assert events.decode(batch[0].value or b"").receiver == "receiver-0"
    assert events.decode(batch[0].value or b"").receivedtime == "2026-01-10T09:00:00.000Z"


async def test_what_is_not_understood_is_kept(bench: Bench) -> None:
    """A signed notification of an unknown kind is published to quarantine and counted."""
    await bench.send(**signed((SAMPLES / "messages.created.json").read_bytes()))

    ((message, *_),) = bench.publisher.batches
    assert message.topic == "quarantine"
    assert 'webex_events_quarantined_total{reason="unknownResource"} 1.0' in bench.metrics.render()[0].decode()


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        pytest.param([TRACE], TRACE, id="valid"),
        pytest.param(["cc" + TRACE[2:] + "-what-comes-later"], TRACE, id="a later version"),
        pytest.param([], None, id="none"),
        pytest.param([TRACE, TRACE], None, id="two"),
        pytest.param([TRACE + "-more"], None, id="more than version 00 has"),
        pytest.param(["ff" + TRACE[2:]], None, id="the forbidden version"),
        pytest.param([TRACE.upper()], None, id="capitals"),
        pytest.param(["00-" + "0" * 32 + TRACE[35:]], None, id="no trace"),
        pytest.param([TRACE[:36] + "0" * 16 + "-01"], None, id="no parent"),
        pytest.param(["x" * 60_000], None, id="long nonsense"),
    ],
)
async def test_the_trace_goes_on(bench: Bench, headers: list[str], kept: str | None) -> None:
    """A valid ``traceparent`` is passed on with the event; anything else begins a new trace."""
    pairs = [*SIGNED.items(), *(("traceparent", value) for value in headers)]
    await bench.send(content=BODY, headers=pairs)

    found = events.decode(bench.publisher.batches[0][0].value or b"").traceparent or ""
    if kept is not None:
        assert found == kept
    else:
        assert len(found) == len(TRACE)
        assert found[3:35] not in ("0" * 32, TRACE[3:35])


# --- when things go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "retry_after", "reason"),
    [
        pytest.param(
            CannotStore("the disk of alice@example.org is full", retry_after=7), "7", "cannotStore", id="cannot store"
        ),
        pytest.param(RuntimeError("alice@example.org"), "5", "storeFailed", id="a bug in the publisher"),
        pytest.param(RecordRefused("alice@example.org"), "5", "storeFailed", id="a record that no topic takes"),
    ],
)
async def test_what_is_not_durable_is_a_503(error: Exception, retry_after: str, reason: str) -> None:
    """After a good signature there is only 2xx or 503, whatever the publisher does; each is counted by its reason."""
    bench = Bench(publisher=RecordingPublisher(error=error))
    with capture_logs() as logs:
        answer = await bench.send(**signed(BODY))

    assert (answer.status_code, answer.headers["retry-after"]) == (503, retry_after)
    assert "alice" not in answer.text + repr(logs)
    assert f'webhook_refusals_total{{reason="{reason}"}} 1.0' in bench.metrics.render()[0].decode()


async def test_what_is_cut_off_at_the_end_of_the_process_is_a_503(bench: Bench) -> None:
    """Also then there is only 2xx or 503: the server cancels what still runs when its time is over."""
    bench.publisher.gate = asyncio.Event()
    asked = asyncio.create_task(bench.send(**signed(BODY)))
    await asyncio.sleep(0.02)
    asked.cancel()

    assert (await asked).status_code == 503


async def test_a_publisher_that_hangs_is_a_503() -> None:
    """Webex gets its answer in time even where the publisher never does anything, and that is taken back."""
    gate = asyncio.Event()
    bench = Bench(publisher=RecordingPublisher(gate=gate))
    answer = await bench.send(**signed(BODY))
    gate.set()
    await asyncio.sleep(0.01)

    assert answer.status_code == 503
    assert bench.publisher.batches == []
    assert 'webhook_refusals_total{reason="storeTooSlow"} 1.0' in bench.metrics.render()[0].decode()


async def test_overload_is_refused_and_not_queued(bench: Bench, client: httpx.AsyncClient) -> None:
    """Beyond the events that may wait for durability, a request is refused at once; afterwards all is as before."""
    bench.publisher.gate = asyncio.Event()
    waiting = [asyncio.create_task(client.post("/webhooks/webex", **signed(BODY))) for _ in range(2)]
    await asyncio.sleep(0.02)

    refused = await client.post("/webhooks/webex", **signed(BODY))
    bench.publisher.gate.set()

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [204, 204]
    assert (await client.post("/webhooks/webex", **signed(BODY))).status_code == 204


async def test_a_bug_before_the_signature_is_a_500_without_details() -> None:
    """A bug is logged by its class and place, and neither the log nor the answer shows what it says."""

    def secrets() -> list[Secret]:
        raise LookupError("alice@example.org, top secret")

    with capture_logs() as logs:
        answer = await Bench(secrets=secrets).send(**signed(BODY))

    (failed,) = (line for line in logs if line["event"] == "webhook.failed")
    assert answer.status_code == 500
    assert failed["error"] == "LookupError"
    assert any("receiver/endpoint.py" in place for place in failed["at"])
    assert "alice" not in answer.text + repr(logs)


@pytest.mark.parametrize("secrets", [(), (Secret(b"", {ANYBODY: "empty"}),)], ids=["none", "an empty one"])
async def test_without_a_secret_nothing_is_accepted(secrets: tuple[Secret, ...]) -> None:
    """Where there is no secret the receiver fails closed, even for a body signed with nothing."""
    bench = Bench(secrets=lambda: secrets)

    answer = await bench.send(content=BODY, headers=sign(BODY, b""))

    assert (answer.status_code, bench.publisher.batches) == (500, [])


async def test_a_new_secret_counts_from_the_next_request() -> None:
    """Secrets are asked for at each request."""
    live: tuple[Secret, ...] = SECRETS[:1]
    endpoint = Bench(secrets=lambda: live).endpoint()
    transport = httpx.ASGITransport(create_app(endpoint))
    async with httpx.AsyncClient(transport=transport) as client:
        before = await client.post(URL, **signed(BODY))
        live = SECRETS
        after = await client.post(URL, **signed(BODY))

    assert (before.status_code, after.status_code) == (401, 204)


async def test_one_line_says_what_was_accepted(bench: Bench) -> None:
    """An accepted request is one log line with ids."""
    with capture_logs() as logs:
        await bench.send(**signed(BODY))

    (line,) = logs
    assert line.pop("id") == events.decode(bench.publisher.batches[0][0].value or b"").id
    assert all(0 <= line.pop(stage) < 1000 for stage in ("verify_ms", "understand_ms", "durable_ms"))
    assert line == {
        "event": "webhook.accepted",
        "log_level": "info",
        "type": "webex.meeting.started.v1",
        "topic": "meetings",
        "quarantined": False,
        "signed_by": "new",
    }


# --- bodies that arrive as they like ----------------------------------------------------------------------------------


async def drive(bench: Bench, *messages: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """Give the app these ASGI messages and then nothing more; what it sent."""
    sent: list[dict[str, Any]] = []
    pending = list(messages)

    async def receive() -> dict[str, Any]:
        if not pending:
            await asyncio.Event().wait()
        return pending.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/webhooks/webex", "headers": headers, "query_string": b""}
    await bench.app(scope, receive, send)
    return sent


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


RAW = [(name.lower().encode(), value.encode()) for name, value in SIGNED.items()]


async def test_a_slow_body_is_given_up(bench: Bench) -> None:
    """A body that stops arriving is a 408, and the connection is closed."""
    sent = await drive(bench, part(BODY[:10]), headers=RAW)

    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_client_that_hangs_up_is_nobody_to_answer(bench: Bench) -> None:
    """A client that goes away in the middle gets no answer and makes no noise."""
    with capture_logs() as logs:
        sent = await drive(bench, part(BODY[:10]), {"type": "http.disconnect"}, headers=RAW)

    assert sent == []
    assert [(line["event"], line["log_level"]) for line in logs] == [("webhook.abandoned", "debug")]


async def test_a_chunked_body_has_the_same_limit(bench: Bench) -> None:
    """A body without a declared length is refused at its first byte beyond 64 KiB."""
    answer = await bench.send(content=chunks(CAP, 1), headers=JSON)

    assert (answer.status_code, answer.json()["status"]) == (413, 413)


async def test_an_endless_body_is_read_no_further_than_it_may(bench: Bench) -> None:
    """Reading stops at the first chunk beyond 64 KiB."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 4096
            yield b"x" * 4096

    answer = await bench.send(content=endless())

    assert answer.status_code == 413
    assert read <= CAP + 2 * 4096


async def test_a_declared_length_is_refused_before_anything_is_read(bench: Bench) -> None:
    """With too long a Content-Length no byte of the body is waited for."""
    sent = await drive(bench, headers=[*RAW, (b"content-length", b"65537")])

    assert sent[0]["status"] == 413


async def test_trailers_never_become_headers(bench: Bench) -> None:
    """A signature that the server merges into the headers while the body is read does not count."""
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]

    async def receive() -> dict[str, Any]:
        headers.extend(RAW)
        return part(BODY, more=False)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/webhooks/webex", "headers": headers, "query_string": b""}
    await bench.app(scope, receive, send)

    assert sent[0]["status"] == 401


async def test_over_a_real_socket(bench: Bench) -> None:
    """The same app behind uvicorn: stored, refused, and the connection is kept or closed as it should be."""
    async with running(bench.app) as url, httpx.AsyncClient(base_url=url) as client:
        stored = await client.post("/webhooks/webex", **signed(BODY))
        forged = await client.post("/webhooks/webex", content=flipped(BODY), headers={**SIGNED, **JSON})
        chunked = await client.post("/webhooks/webex", content=chunks(*[8192] * 9), headers=JSON)
        again = await client.post("/webhooks/webex", **signed(BODY))

    assert [answer.status_code for answer in (stored, forged, chunked, again)] == [204, 401, 413, 204]
    assert chunked.headers["connection"] == "close"
    assert len(bench.publisher.batches) == 2


# --- properties -------------------------------------------------------------------------------------------------------

EDITS = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(BODY) * 8 - 1)),
    st.tuples(st.just("cut"), st.integers(0, len(BODY) - 1)),
    st.tuples(st.just("insert"), st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("replace"), st.binary(max_size=512)),
)


def edited(body: bytes, edit: tuple[str, Any]) -> bytes:
    """``body`` after one mutation."""
    match edit:
        case ("flip", int(bit)):
            return flipped(body, bit)
        case ("cut", int(length)):
            return body[:length]
        case ("insert", bytes(start)):
            return start + body
        case (_, bytes(other)):
            return other
    raise AssertionError(edit)


@given(
    edit=EDITS, resign=st.booleans(), headers=st.dictionaries(st.sampled_from([SPARK, WEBEX]), st.binary(max_size=200))
)
@settings(max_examples=1000, deadline=None)
async def test_no_mutation_gives_a_5xx(edit: tuple[str, Any], resign: bool, headers: dict[str, bytes]) -> None:
    """A mutated request is refused with 401, or stored where it was signed after the mutation; never a 5xx, never lost."""
    bench = Bench()
    body = edited(BODY, edit)
    own = {name: value.encode() for name, value in (sign(body, SECRET) if resign else SIGNED).items()}

    answer = await bench.send(content=body, headers=list({**own, **({} if resign else headers)}.items()))

    assert answer.status_code == (204 if resign or (body == BODY and not headers) else 401)
    assert len(bench.publisher.batches) == (answer.status_code == 204)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
@settings(max_examples=300, deadline=None)
async def test_any_signed_json_is_stored(value: Any) -> None:
    """Whatever is signed is a 204 and is published."""
    bench = Bench()
    body = json.dumps(value).encode()

    answer = await bench.send(**signed(body))

    assert (answer.status_code, len(bench.publisher.batches)) == (204, 1)
    assert msgspec.json.decode(bench.publisher.batches[0][0].value or b"")["specversion"] == "1.0"
