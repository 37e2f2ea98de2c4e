"""What the endpoint does with a request: one answer each, whatever the publisher, the secrets or the observers do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.core import event as events
from service.core.errors import CannotStore
from service.core.message import Message
from service.core.signature import ANYBODY, Secret, sign
from service.receiver.answers import Answer
from service.receiver.endpoint import Limits
from service.receiver.request import Headers
from service.receiver.tracing import Sparing, Tracing
from service.telemetry.metrics import Metrics
from tests.receiver.conftest import SECRET, Bench
from tests.receiver.test_app import BODY, RAW

ORGANIZATION = "00000001-0000-4000-8000-000000000000"  # the sample's, which has it in the long form
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"

Done = Callable[[Exception | None], None]


class Held:
    """A publisher that answers when it is told to."""

    def __init__(self) -> None:
        self.offers: list[tuple[Sequence[Message], Done]] = []
        self.withdrawn: list[object] = []

    def offer(self, messages: Sequence[Message], done: Done) -> int:
        """Keep it; its place is the offer."""
        self.offers.append((messages, done))
        return len(self.offers) - 1

    def withdraw(self, offer: object) -> None:
        """Note it."""
        self.withdrawn.append(offer)


class Refusing(Held):
    """One that says no at once."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def offer(self, messages: Sequence[Message], done: Done) -> int:
        """Raise."""
        raise self._error


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def bench() -> Bench:
    return Bench(limits=Limits())


def statuses(answers: Sequence[Answer]) -> list[int]:
    return [answer.status for answer in answers]


# --- one answer -------------------------------------------------------------------------------------------------------


def test_the_answer_comes_when_the_publisher_says_so(bench: Bench, held: Held) -> None:
    """Before that there is none: a 204 is a promise."""
    answers: list[Answer] = []
    ticket = bench.endpoint(held).take(RAW, BODY, answers.append)
    assert (ticket is not None, answers) == (True, [])

    held.offers[0][1](None)
    assert statuses(answers) == [204]


@pytest.mark.parametrize(
    ("error", "status"),
    [(CannotStore(), 503), (RuntimeError("alice@example.org"), 503), (None, 204)],
    ids=["cannot store", "a bug", "stored"],
)
def test_a_late_answer_of_the_publisher_is_no_second_one(
    bench: Bench, held: Held, error: Exception | None, status: int
) -> None:
    """Whatever the publisher says twice, or after the request was given up, is heard once."""
    answers: list[Answer] = []
    endpoint = bench.endpoint(held)
    first, second = (endpoint.take(RAW, BODY, answers.append) for _ in range(2))
    assert first is not None
    assert second is not None
    for _ in range(2):
        held.offers[0][1](error)
    assert statuses(answers) == [status]

    assert endpoint.give_up(second).status == 503
    held.offers[1][1](None)
    assert statuses(answers) == [status]


@pytest.mark.parametrize("error", [CannotStore(retry_after=7), RuntimeError("alice@example.org")], ids=["no", "a bug"])
def test_a_publisher_that_refuses_at_once_is_a_503(bench: Bench, error: Exception) -> None:
    """There is nothing to wait for then, and the next request is looked at as before."""
    answers: list[Answer] = []
    ticket = bench.endpoint(Refusing(error)).take(RAW, BODY, answers.append)

    assert (ticket, statuses(answers)) == (None, [503])


def test_an_answer_that_cannot_be_sent_disturbs_nobody(bench: Bench, held: Held) -> None:
    """The publisher calls back for many at once: one whose connection is broken must not stop it."""
    tries: list[Answer] = []

    def broken(answer: Answer) -> None:
        tries.append(answer)
        raise RuntimeError("alice@example.org")

    endpoint = bench.endpoint(held)
    with capture_logs() as logs:
        endpoint.take(RAW, BODY, broken)
        endpoint.take(RAW, b"forged", broken)
        held.offers[0][1](None)

    assert statuses(tries) == [401, 204]
    assert "alice" not in repr(logs)


class Blind(Metrics):
    """Metrics with bugs."""

    def webhook_stored(self, status: int, topic: str, seconds: float) -> None:
        """Raise."""
        raise RuntimeError("alice@example.org")

    def webhook_refused(self, reason: str) -> None:
        """Raise."""
        raise RuntimeError("alice@example.org")


def test_what_cannot_be_counted_is_answered_all_the_same(held: Held) -> None:
    """What is durable is a 204: to ask for it again would only make it come twice."""
    answers: list[Answer] = []
    endpoint = Bench(metrics=Blind()).endpoint(held)
    endpoint.take(RAW, BODY, answers.append)
    endpoint.take(RAW, b"forged", answers.append)
    held.offers[0][1](None)

    assert statuses(answers) == [401, 204]


def test_those_who_wait_too_long_are_answered_and_withdrawn(bench: Bench, held: Held) -> None:
    """One look at all who wait answers the late ones, oldest first, and leaves the others alone."""
    answers: list[tuple[int, int]] = []
    endpoint = bench.endpoint(held)

    def called(number: int) -> Callable[[Answer], None]:
        return lambda answer: answers.append((number, answer.status))

    tickets = [endpoint.take(RAW, BODY, called(number)) for number in range(3)]
    late = tickets[2].verified + bench.limits.publish_seconds if tickets[2] is not None else 0.0
    endpoint.sweep(late)
    endpoint.sweep(late)

    assert answers == [(0, 503), (1, 503)]
    assert held.withdrawn == [0, 1]


# --- whose it is ------------------------------------------------------------------------------------------------------


def owned(*owners: str) -> Callable[[], tuple[Secret, ...]]:
    """One secret, with a file for each of these owners."""
    live = (Secret(SECRET, {owner: f"file-of-{owner or 'all'}" for owner in owners}),)
    return lambda: live


@pytest.mark.parametrize(
    ("owners", "body", "status"),
    [
        pytest.param([ANYBODY], BODY, 204, id="anybody's"),
        pytest.param([ORGANIZATION], BODY, 204, id="the organisation's"),
        pytest.param([OTHER], BODY, 401, id="another's"),
        pytest.param([OTHER, ORGANIZATION], BODY, 204, id="one of two, with the same secret"),
        pytest.param([OTHER, ANYBODY], BODY, 204, id="another's and everybody's"),
        pytest.param([OTHER], b'{"resource":"meetings"}', 204, id="a notification that names nobody"),
    ],
)
def test_a_secret_that_belongs_to_somebody_signs_for_nobody_else(
    held: Held, owners: list[str], body: bytes, status: int
) -> None:
    """A good signature by another organisation's secret is a 401, and nothing is stored."""
    bench, answers = Bench(secrets=owned(*owners)), list[Answer]()
    headers = [(name.lower().encode(), value.encode()) for name, value in sign(body, SECRET).items()]
    bench.endpoint(held).take(headers, body, answers.append)
    for _, done in held.offers:
        done(None)

    metrics = bench.metrics.render()[0].decode()
    assert statuses(answers) == [status]
    assert len(held.offers) == (status == 204)
    assert ('refusals_total{reason="wrongOwner"} 1.0' in metrics) == (status == 401)


def test_it_is_counted_which_secret_matched(bench: Bench, held: Held) -> None:
    """By its name, so that one that is no longer used can be retired."""
    endpoint = bench.endpoint(held)
    for _ in range(3):
        endpoint.take(RAW, BODY, lambda _: None)
    endpoint.take(RAW, b"forged", lambda _: None)

    counted = [line for line in bench.metrics.render()[0].decode().splitlines() if "secret" in line and '"new"' in line]
    assert [line.split()[-1] for line in counted if "_total" in line] == ["3.0"]


class Remembering:
    """Keeps what it is told of rejects."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def keep(self, *, reason: str, headers: Headers, body: bytes, source: str) -> None:
        """Keep it."""
        self.kept.append({"reason": reason, "headers": headers, "body": body, "source": source})


def test_what_is_refused_with_401_is_remembered(held: Held) -> None:
    """With what is needed to explain it; other refusals are not."""
    remembering = Remembering()
    endpoint = Bench(rejections=remembering, secrets=owned(OTHER)).endpoint(held)
    unheard = [(b"content-type", b"text/plain"), *RAW]
    for headers, body in ((RAW, BODY), (RAW, b"forged"), (unheard, BODY), (RAW, b"x" * 65_537)):
        endpoint.take(headers, body, lambda _: None, "192.0.2.7")

    assert remembering.kept == [
        {"reason": "wrongOwner", "headers": RAW, "body": BODY, "source": "192.0.2.7"},
        {"reason": "badSignature", "headers": RAW, "body": b"forged", "source": "192.0.2.7"},
    ]


def test_headers_may_come_as_a_mapping(held: Held) -> None:
    """Where no name is there twice; what is remembered of them are pairs all the same."""
    remembering, answers = Remembering(), list[Answer]()
    endpoint = Bench(rejections=remembering).endpoint(held)
    endpoint.take(dict(RAW), BODY, answers.append)
    endpoint.take(dict(RAW), b"forged", answers.append)
    endpoint.take({**dict(RAW), b"content-type": b"text/plain"}, BODY, answers.append)
    held.offers[0][1](None)

    assert statuses(answers) == [401, 415, 204]
    assert [each["headers"] for each in remembering.kept] == [list(RAW)]


# --- traces and lines -------------------------------------------------------------------------------------------------

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.mark.parametrize(
    ("ratio", "sent", "sampled"),
    [
        pytest.param(0.0, None, False, id="none"),
        pytest.param(1.0, None, True, id="all"),
        pytest.param(0.0, f"{TRACE}-00", False, id="the caller does not"),
        pytest.param(0.0, f"{TRACE}-01", True, id="the caller does"),
        pytest.param(0.0, f"{TRACE}-03", True, id="the caller does, with a flag that is not known"),
        pytest.param(1.0, f"{TRACE}-00", True, id="all, also those that a caller does not"),
    ],
)
def test_only_what_is_sampled_is_logged(held: Held, ratio: float, sent: str | None, sampled: bool) -> None:
    """A line in the log and the flag in the event's ``traceparent`` go together."""
    headers = RAW if sent is None else [*RAW, (b"traceparent", sent.encode())]
    with capture_logs() as logs:
        Bench(tracing=Tracing(ratio)).endpoint(held).take(headers, BODY, lambda _: None)
        held.offers[0][1](None)

    found = events.decode(held.offers[0][0][0].value or b"").traceparent or ""
    assert [line["event"] for line in logs] == ["webhook.accepted"] * sampled
    assert bool(int(found[-2:], 16) & 1) == sampled
    assert sent is None or found[:-2] == sent[:-2]


def test_nobody_without_a_good_signature_makes_us_log_what_they_like(bench: Bench, held: Held) -> None:
    """The flag of a forged request is not looked at, and there is no trace of it."""
    with capture_logs() as logs:
        bench.endpoint(held).take([*RAW, (b"traceparent", f"{TRACE}-01".encode())], b"forged", lambda _: None)

    assert [(line["event"], TRACE[3:35] in repr(line)) for line in logs] == [("webhook.refused", False)]


def test_the_share_that_is_sampled_is_the_one_that_was_asked_for() -> None:
    """A twentieth of new traces, each with ids of its own, and the same ones for whoever has the ids."""
    traces = [Tracing(0.05).begin(None) for _ in range(100)]
    tracing = Tracing(0.05)
    traces += [tracing.begin(None) for _ in range(20_000)]
    sampled = [traceparent for traceparent, is_sampled in traces if is_sampled]

    assert {sampled for _, sampled in (Tracing(1).begin(None) for _ in range(500))} == {True}
    assert {sampled for _, sampled in (Tracing(0).begin(None) for _ in range(500))} == {False}
    assert len({traceparent[3:52] for traceparent, _ in traces}) == len(traces)
    assert 800 < len(sampled) < 1200
    assert all(Tracing(0.05).begin(each[:-2].encode() + b"00") == (each, True) for each in sampled[:50])


def test_a_flood_of_refusals_is_ten_lines_a_second(bench: Bench, held: Held) -> None:
    """Each is counted and answered, and the next line says how many have none."""
    answers: list[Answer] = []
    endpoint = bench.endpoint(held)
    with capture_logs() as logs:
        for _ in range(25):
            endpoint.take(RAW, b"forged", answers.append)
        time.sleep(1.05)
        endpoint.take(RAW, b"forged", answers.append)

    assert statuses(answers) == [401] * 26
    assert [line.get("left_out", 0) for line in logs] == [*[0] * 10, 15]


def test_a_line_says_how_many_were_left_out_before_it() -> None:
    """Of its own kind, which has a second of its own."""
    now = 100.0
    lines = Sparing(2, clock=lambda: now)
    assert [lines.left_out("forged") for _ in range(5)] == [0, 0, None, None, None]
    assert lines.left_out("tooLarge") == 0

    now = 101.5
    assert [lines.left_out("forged") for _ in range(3)] == [3, 0, None]


class Knowing(Held):
    """One whose offers know whom to call, as those of the buses do."""

    def offer(self, messages: Sequence[Message], done: Done) -> Any:
        """Keep it; it is the offer itself."""
        self.offers.append((messages, done))
        return self.offers[-1]


@pytest.mark.parametrize("headers", [RAW, ()], ids=["stored", "refused"])
def test_a_request_leaves_nothing_for_the_collector(headers: Headers) -> None:
    """It runs seldom in a role: what only it could free would pile up."""
    held = Knowing()
    endpoint = Bench(limits=Limits()).endpoint(held)
    endpoint.take(headers, BODY, lambda _: None)  # what is made once
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            endpoint.take(headers, BODY, lambda _: None)
        for _, done in held.offers:
            done(None)
        held.offers.clear()
        assert gc.collect() < 100
    finally:
        gc.enable()
