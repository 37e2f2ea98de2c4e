"""What the endpoint does with a request: one answer each, whatever the publisher, the secrets or the observers do."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import pytest
import structlog
from structlog.testing import capture_logs

from service.core import event as events
from service.core.errors import CannotStore
from service.core.message import Message
from service.core.signature import ANYBODY, Secret, sign
from service.receiver.answers import Answer
from service.receiver.endpoint import GROUP, Endpoint, Limits
from service.receiver.request import Headers
from service.receiver.tracing import Sparing, Tracing
from service.telemetry.metrics import Metrics
from tests.fakes import Turn
from tests.receiver.conftest import SECRET, SECRETS, Bench
from tests.receiver.test_app import BODY, RAW

ORGANIZATION = "00000001-0000-4000-8000-000000000000"  # the sample's, which has it in the long form
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"

Done = Callable[[Exception | None], None]


class Held:
    """A publisher that answers when it is told to."""

    def __init__(self) -> None:
        self.offers: list[tuple[Sequence[Message], Done]] = []
        self.withdrawn: list[object] = []
        self.flushed: list[int] = []

    def offer(self, messages: Sequence[Message], done: Done) -> int:
        """Keep it; its place is the offer."""
        self.offers.append((messages, done))
        return len(self.offers) - 1

    def withdraw(self, offer: object) -> None:
        """Note it."""
        self.withdrawn.append(offer)

    def flush(self) -> None:
        """Note how many were offered until then."""
        self.flushed.append(len(self.offers))


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
def turn() -> Turn:
    return Turn()


@pytest.fixture
def bench(turn: Turn) -> Bench:
    return Bench(limits=Limits(), turn=turn)


def statuses(answers: Sequence[Answer]) -> list[int]:
    return [answer.status for answer in answers]


# --- one answer -------------------------------------------------------------------------------------------------------


def test_the_answer_comes_when_the_publisher_says_so(bench: Bench, turn: Turn, held: Held) -> None:
    """Before that there is none: a 204 is a promise."""
    answers: list[Answer] = []
    bench.endpoint(held).take(RAW, BODY, answers.append)
    turn.end()
    assert answers == []

    held.offers[0][1](None)
    assert statuses(answers) == [204]


@pytest.mark.parametrize(
    ("error", "status"),
    [(CannotStore(), 503), (RuntimeError("alice@example.org"), 503), (None, 204)],
    ids=["cannot store", "a bug", "stored"],
)
def test_a_late_answer_of_the_publisher_is_no_second_one(
    bench: Bench, turn: Turn, held: Held, error: Exception | None, status: int
) -> None:
    """Whatever the publisher says twice, or after the request was given up, is heard once."""
    answers: list[Answer] = []
    endpoint = bench.endpoint(held)
    _, second = (endpoint.take(RAW, BODY, answers.append) for _ in range(2))
    turn.end()
    for _ in range(2):
        held.offers[0][1](error)
    assert statuses(answers) == [status]

    assert endpoint.give_up(second).status == 503
    held.offers[1][1](None)
    assert statuses(answers) == [status]


@pytest.mark.parametrize("error", [CannotStore(retry_after=7), RuntimeError("alice@example.org")], ids=["no", "a bug"])
def test_a_publisher_that_refuses_at_once_is_a_503(bench: Bench, turn: Turn, error: Exception) -> None:
    """There is nothing to wait for then, and the next request is looked at as before."""
    answers: list[Answer] = []
    endpoint = bench.endpoint(Refusing(error))
    for count in (1, 2):
        endpoint.take(RAW, BODY, answers.append)
        turn.end()
        assert statuses(answers) == [503] * count


def test_an_answer_that_cannot_be_sent_disturbs_nobody(bench: Bench, turn: Turn, held: Held) -> None:
    """The publisher calls back for many at once: one whose connection is broken must not stop it."""
    tries: list[Answer] = []

    def broken(answer: Answer) -> None:
        tries.append(answer)
        raise RuntimeError("alice@example.org")

    endpoint = bench.endpoint(held)
    with capture_logs() as logs:
        endpoint.take(RAW, BODY, broken)
        endpoint.take(RAW, b"forged", broken)
        turn.end()
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


def test_what_cannot_be_counted_is_answered_all_the_same(turn: Turn, held: Held) -> None:
    """What is durable is a 204: to ask for it again would only make it come twice."""
    answers: list[Answer] = []
    endpoint = Bench(metrics=Blind(), turn=turn).endpoint(held)
    endpoint.take(RAW, BODY, answers.append)
    endpoint.take(RAW, b"forged", answers.append)
    turn.end()
    held.offers[0][1](None)

    assert statuses(answers) == [401, 204]


def test_those_who_wait_too_long_are_answered_and_withdrawn(bench: Bench, turn: Turn, held: Held) -> None:
    """One look at all who wait answers the late ones, oldest first, and leaves the others alone."""
    answers: list[tuple[int, int]] = []
    endpoint = bench.endpoint(held)

    def called(number: int) -> Callable[[Answer], None]:
        return lambda answer: answers.append((number, answer.status))

    late = 0.0
    for number in range(3):
        ticket = endpoint.take(RAW, BODY, called(number))
        turn.end()
        late = ticket.verified + bench.limits.publish_seconds
    endpoint.sweep(late)
    endpoint.sweep(late)

    assert answers == [(0, 503), (1, 503)]
    assert held.withdrawn == [0, 1]


# --- what comes in one turn -------------------------------------------------------------------------------------------

Answering = Callable[[Answer], None]


def signed(body: bytes) -> Headers:
    """Headers with our signature of this body."""
    return [(name.lower().encode(), value.encode()) for name, value in sign(body, SECRET).items()]


def numbered(number: int) -> tuple[Headers, bytes]:
    """A request that can be told from others."""
    body = json.dumps({**json.loads(BODY), "id": f"webhook-{number}"}).encode()
    return signed(body), body


def offered(held: Held) -> list[int]:
    """The numbers of the requests whose events were offered, in that order."""
    values = [messages[0].value or b"" for messages, _ in held.offers]
    return [int(re.findall(rb"webhook-(\d+)", value)[0]) for value in values]


class Answers:
    """What each of several requests was answered, by its number."""

    def __init__(self) -> None:
        self.given: dict[int, list[int]] = {}

    def of(self, number: int) -> Answering:
        """To be called with the answer to this one."""
        return lambda answer: self.given.setdefault(number, []).append(answer.status)


def ask(endpoint: Endpoint, answers: Answers, numbers: Iterable[int]) -> None:
    """A good request of each number."""
    for number in numbers:
        endpoint.take(*numbered(number), answers.of(number))


def test_what_comes_in_one_turn_is_offered_together(bench: Bench, turn: Turn, held: Held) -> None:
    """In the order in which it came, and the publisher is told once that there is no more; the next turn is as this one."""
    endpoint, answers = bench.endpoint(held), Answers()
    ask(endpoint, answers, range(5))
    assert (offered(held), held.flushed) == ([], [])
    turn.end()
    assert (offered(held), held.flushed) == ([0, 1, 2, 3, 4], [5])

    ask(endpoint, answers, range(5, 8))
    assert len(turn.due) == 1
    turn.end()
    assert (offered(held), held.flushed, turn.due) == ([0, 1, 2, 3, 4, 5, 6, 7], [5, 8], [])

    for _, done in held.offers:
        done(None)
    assert answers.given == {number: [204] for number in range(8)}


async def test_the_turn_is_that_of_the_loop(held: Held) -> None:
    """Unless it is told otherwise: what is taken in several callbacks of one turn goes together, and nothing lingers."""
    endpoint, answers, loop = Bench(limits=Limits()).endpoint(held), Answers(), asyncio.get_running_loop()
    for number in range(3):
        loop.call_soon(ask, endpoint, answers, [number])
    await asyncio.sleep(0)
    assert held.flushed == []
    await asyncio.sleep(0)
    assert (offered(held), held.flushed) == ([0, 1, 2], [3])


def test_the_first_of_many_are_served_before_the_turn_ends(bench: Bench, turn: Turn, held: Held) -> None:
    """The publisher's store is at work on them while the others are still read; the rest need not wait for as many more."""
    endpoint, answers, many = bench.endpoint(held), Answers(), 2 * GROUP + 3
    for number in range(many):
        ask(endpoint, answers, [number])
        assert len(held.offers) == (number + 1) // GROUP * GROUP
    turn.end()

    assert offered(held) == list(range(many))
    assert (held.flushed, turn.due) == ([GROUP, 2 * GROUP, many], [])
    turn.end()
    assert held.flushed == [GROUP, 2 * GROUP, many]


def test_what_is_large_does_not_wait_for_the_end_of_the_turn(turn: Turn, held: Held) -> None:
    """Nor does what came before it, in whose place it would be offered else: bodies of 64 KiB together are enough."""
    endpoint, taken = Bench(limits=Limits(body_bytes=1 << 20), turn=turn).endpoint(held), []
    for size in (10, 32 * 1024, 32 * 1024 - 10, 1, 70_000, 40_000, 40_000, 10):
        endpoint.take(signed(b"x" * size), b"x" * size, lambda _: None)
        taken.append(len(held.offers))
    assert taken == [0, 0, 0, 4, 5, 5, 7, 7]

    turn.end()
    assert (len(held.offers), held.flushed) == (8, [4, 5, 7, 8])


def test_a_body_that_is_too_large_holds_up_nobody(bench: Bench, turn: Turn, held: Held) -> None:
    """It is refused at once, and those before it are served at once too."""
    endpoint, answers = bench.endpoint(held), Answers()
    ask(endpoint, answers, [0])
    endpoint.take(RAW, b"x" * 65_537, answers.of(1))
    assert (offered(held), answers.given) == ([0], {1: [413]})


class Capricious(Held):
    """It raises these for what has these numbers."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__()
        self._errors = errors

    def offer(self, messages: Sequence[Message], done: Done) -> int:
        """Raise, or keep it."""
        for number, error in self._errors.items():
            if b'webhook-%d"' % number in (messages[0].value or b""):
                raise error
        return super().offer(messages, done)


def test_one_that_is_wrong_disturbs_no_other(turn: Turn) -> None:
    """Whatever is wrong with it, and wherever that shows: each gets one answer, and the good ones are offered in order."""
    held = Capricious({2: CannotStore(retry_after=7), 6: RuntimeError("alice@example.org")})
    endpoint, answers = Bench(limits=Limits(), turn=turn).endpoint(held), Answers()
    with capture_logs() as logs:
        ask(endpoint, answers, [0])
        endpoint.take(RAW, b"forged", answers.of(1))
        ask(endpoint, answers, [2, 3])
        endpoint.take([*RAW, (b"content-type", b"text/plain")], BODY, answers.of(4))
        endpoint.take(None, BODY, answers.of(5))  # type: ignore[arg-type] # a bug
        ask(endpoint, answers, [6, 7])
        turn.end()

    assert offered(held) == [0, 3, 7]
    assert held.flushed == [3]
    assert answers.given == {1: [401], 2: [503], 4: [415], 5: [500], 6: [503]}
    assert "alice" not in repr(logs)
    for _, done in held.offers:
        done(None)
    assert answers.given == {0: [204], 1: [401], 2: [503], 3: [204], 4: [415], 5: [500], 6: [503], 7: [204]}


class Confused(Tracing):
    """With a bug that the second one meets."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.begun = 0

    def begin(self, header: bytes | None) -> tuple[str, bool]:
        """Raise, or begin."""
        self.begun += 1
        if self.begun == 2:
            raise LookupError("alice@example.org")
        return super().begin(header)


def test_what_is_not_understood_by_a_bug_disturbs_no_other(turn: Turn, held: Held) -> None:
    """It is a 503, as the signature is good."""
    endpoint, answers = Bench(limits=Limits(), tracing=Confused(), turn=turn).endpoint(held), Answers()
    ask(endpoint, answers, range(3))
    turn.end()

    assert (offered(held), answers.given) == ([0, 2], {1: [503]})


def bug() -> NoReturn:
    """For whoever asks."""
    raise LookupError("alice@example.org")


@pytest.mark.parametrize("count", [1, GROUP + 1])
@pytest.mark.parametrize(
    ("bench", "status"), [(Bench(secrets=bug), 500), (Bench(now=bug), 503)], ids=["before the signature", "behind it"]
)
def test_a_bug_that_meets_all_is_an_answer_to_each(
    turn: Turn, held: Held, bench: Bench, status: int, count: int
) -> None:
    """Nobody waits in vain, and whoever hands over a request is not told: other requests in its hands are none the worse."""
    endpoint, answers = replace(bench, turn=turn).endpoint(held), Answers()
    with capture_logs() as logs:
        ask(endpoint, answers, range(count))
        turn.end()

    assert answers.given == {number: [status] for number in range(count)}
    assert "alice" not in repr(logs)


class Full:
    """Keeps nothing."""

    def keep(self, **_: object) -> None:
        """Raise."""
        raise OSError("alice@example.org")


@pytest.mark.parametrize("mute", [False, True])
def test_what_cannot_be_remembered_or_logged_disturbs_nobody(turn: Turn, held: Held, mute: bool) -> None:
    """A rejection for which there is no place, and a log that raises for every line: all have their answers."""
    endpoint, answers = Bench(limits=Limits(), turn=turn, rejections=Full()).endpoint(held), Answers()
    if mute:
        structlog.configure(processors=[lambda *_: bug()])
    for number in range(3):
        endpoint.take(RAW, b"forged", answers.of(10 + number))
        ask(endpoint, answers, [number])
    turn.end()

    assert (offered(held), answers.given) == ([0, 1, 2], {10: [401], 11: [401], 12: [401]})


class Stuck(Held):
    """It cannot be hurried."""

    def flush(self) -> None:
        """Raise."""
        raise RuntimeError("alice@example.org")


def test_a_publisher_that_cannot_be_hurried_stores_all_the_same(turn: Turn) -> None:
    """What is offered is offered; a bug there is nothing that whoever hands over a request hears of."""
    held, answers = Stuck(), Answers()
    endpoint = Bench(limits=Limits(), turn=turn).endpoint(held)
    ask(endpoint, answers, range(GROUP + 1))
    turn.end()
    for _, done in held.offers:
        done(None)

    assert answers.given == {number: [204] for number in range(GROUP + 1)}


def test_no_more_of_one_turn_come_in_than_may_wait(turn: Turn, held: Held) -> None:
    """Two may: of three, the third is told to come again; those whom the publisher refuses leave their place in the next."""
    endpoint, answers = Bench(limits=Limits(publishing=2), turn=turn).endpoint(held), Answers()
    endpoint.take(RAW, b"forged", answers.of(9))
    ask(endpoint, answers, range(3))
    turn.end()
    assert (offered(held), answers.given) == ([0, 1], {9: [401], 2: [503]})

    held.offers[0][1](None)
    ask(endpoint, answers, range(3, 5))
    turn.end()
    assert (offered(held), answers.given) == ([0, 1, 3], {9: [401], 2: [503], 0: [204], 4: [503]})


def test_who_gives_up_before_it_is_served_is_never_offered(bench: Bench, turn: Turn, held: Held) -> None:
    """Nor looked at, nor called back; it is counted, once, and the others of that turn are served."""
    endpoint, answers = bench.endpoint(held), Answers()
    ask(endpoint, answers, [0])
    tickets = [endpoint.take(*request, answers.of(1)) for request in (numbered(1), (RAW, b"forged"))]
    ask(endpoint, answers, [2])
    assert [endpoint.give_up(ticket).status for ticket in tickets] == [503, 503]
    turn.end()

    metrics = bench.metrics.render()[0].decode()
    assert (offered(held), held.withdrawn, answers.given) == ([0, 2], [], {})
    assert 'refusals_total{reason="storeTooSlow"} 2.0' in metrics
    assert 'reason="badSignature"' not in metrics
    assert endpoint.give_up(tickets[0]).status == 503
    assert 'refusals_total{reason="storeTooSlow"} 2.0' in bench.metrics.render()[0].decode()


def test_where_all_give_up_nothing_is_offered(bench: Bench, turn: Turn, held: Held) -> None:
    """And the publisher is not disturbed; who comes in that turn after all is served."""
    endpoint, answers = bench.endpoint(held), Answers()
    endpoint.give_up(endpoint.take(*numbered(0), answers.of(0)))
    turn.end()
    assert (held.offers, held.flushed) == ([], [])

    endpoint.give_up(endpoint.take(*numbered(1), answers.of(1)))
    ask(endpoint, answers, [2])
    turn.end()
    assert (offered(held), held.flushed, turn.due) == ([2], [1], [])


def test_where_all_are_refused_the_publisher_is_not_disturbed(bench: Bench, turn: Turn, held: Held) -> None:
    """Forgeries are no reason to hurry."""
    endpoint, answers = bench.endpoint(held), list[Answer]()
    for _ in range(3):
        endpoint.take(RAW, b"forged", answers.append)
    turn.end()

    assert (statuses(answers), held.flushed) == ([401] * 3, [])


def test_what_is_asked_for_while_others_are_answered_is_served_next(bench: Bench, turn: Turn, held: Held) -> None:
    """A client that gets its answer may have sent more: that is taken meanwhile, and comes behind."""
    endpoint, answers = bench.endpoint(held), Answers()

    def more(answer: Answer) -> None:
        answers.of(1)(answer)
        ask(endpoint, answers, [3])

    ask(endpoint, answers, [0])
    endpoint.take(RAW, b"forged", more)
    ask(endpoint, answers, [2])
    turn.end()
    assert (offered(held), answers.given) == ([0, 2], {1: [401]})
    turn.end()
    assert (offered(held), held.flushed) == ([0, 2, 3], [2, 3])


def test_what_was_offered_is_let_go_of(bench: Bench, turn: Turn, held: Held) -> None:
    """Headers and bodies of thousands may wait for the publisher, which has what it needs."""
    endpoint = bench.endpoint(held)
    tickets = [endpoint.take(*numbered(number), lambda _: None) for number in range(3)]
    assert tickets[0].body == numbered(0)[1]
    turn.end()

    assert [(ticket.headers, ticket.body) for ticket in tickets] == [((), b"")] * 3


def test_secrets_are_asked_for_once_for_all_that_go_together(turn: Turn, held: Held) -> None:
    """A new one counts from the next turn; what is served before the end of one has them anew."""
    asked: list[Sequence[Secret]] = [SECRETS[:1], SECRETS, SECRETS]
    endpoint, answers = Bench(limits=Limits(), secrets=lambda: asked.pop(0), turn=turn).endpoint(held), Answers()
    ask(endpoint, answers, range(3))
    turn.end()
    assert (answers.given, len(asked)) == ({number: [401] for number in range(3)}, 2)

    ask(endpoint, answers, range(3, 4 + GROUP))
    turn.end()
    assert (offered(held), asked) == (list(range(3, 4 + GROUP)), [])


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
    turn: Turn, held: Held, owners: list[str], body: bytes, status: int
) -> None:
    """A good signature by another organisation's secret is a 401, and nothing is stored."""
    bench, answers = Bench(secrets=owned(*owners), turn=turn), list[Answer]()
    headers = [(name.lower().encode(), value.encode()) for name, value in sign(body, SECRET).items()]
    bench.endpoint(held).take(headers, body, answers.append)
    turn.end()
    for _, done in held.offers:
        done(None)

    metrics = bench.metrics.render()[0].decode()
    assert statuses(answers) == [status]
    assert len(held.offers) == (status == 204)
    assert ('refusals_total{reason="wrongOwner"} 1.0' in metrics) == (status == 401)


def test_it_is_counted_which_secret_matched(bench: Bench, turn: Turn, held: Held) -> None:
    """By its name, so that one that is no longer used can be retired."""
    endpoint = bench.endpoint(held)
    for _ in range(3):
        endpoint.take(RAW, BODY, lambda _: None)
    endpoint.take(RAW, b"forged", lambda _: None)
    turn.end()

    counted = [line for line in bench.metrics.render()[0].decode().splitlines() if "secret" in line and '"new"' in line]
    assert [line.split()[-1] for line in counted if "_total" in line] == ["3.0"]


class Remembering:
    """Keeps what it is told of rejects."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def keep(self, *, reason: str, headers: Headers, body: bytes, source: str) -> None:
        """Keep it."""
        self.kept.append({"reason": reason, "headers": headers, "body": body, "source": source})


def test_what_is_refused_with_401_is_remembered(turn: Turn, held: Held) -> None:
    """With what is needed to explain it; other refusals are not."""
    remembering = Remembering()
    endpoint = Bench(rejections=remembering, secrets=owned(OTHER), turn=turn).endpoint(held)
    unheard = [(b"content-type", b"text/plain"), *RAW]
    for headers, body in ((RAW, BODY), (RAW, b"forged"), (unheard, BODY), (RAW, b"x" * 65_537)):
        endpoint.take(headers, body, lambda _: None, "192.0.2.7")
    turn.end()

    assert sorted(remembering.kept, key=lambda each: str(each["reason"])) == [
        {"reason": "badSignature", "headers": RAW, "body": b"forged", "source": "192.0.2.7"},
        {"reason": "wrongOwner", "headers": RAW, "body": BODY, "source": "192.0.2.7"},
    ]


def test_headers_may_come_as_a_mapping(turn: Turn, held: Held) -> None:
    """Where no name is there twice; what is remembered of them are pairs all the same."""
    remembering, answers = Remembering(), list[Answer]()
    endpoint = Bench(rejections=remembering, turn=turn).endpoint(held)
    endpoint.take(dict(RAW), BODY, answers.append)
    endpoint.take(dict(RAW), b"forged", answers.append)
    endpoint.take({**dict(RAW), b"content-type": b"text/plain"}, BODY, answers.append)
    turn.end()
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
def test_only_what_is_sampled_is_logged(turn: Turn, held: Held, ratio: float, sent: str | None, sampled: bool) -> None:
    """A line in the log and the flag in the event's ``traceparent`` go together."""
    headers = RAW if sent is None else [*RAW, (b"traceparent", sent.encode())]
    with capture_logs() as logs:
        Bench(tracing=Tracing(ratio), turn=turn).endpoint(held).take(headers, BODY, lambda _: None)
        turn.end()
        held.offers[0][1](None)

    found = events.decode(held.offers[0][0][0].value or b"").traceparent or ""
    assert [line["event"] for line in logs] == ["webhook.accepted"] * sampled
    assert bool(int(found[-2:], 16) & 1) == sampled
    assert sent is None or found[:-2] == sent[:-2]


def test_nobody_without_a_good_signature_makes_us_log_what_they_like(bench: Bench, turn: Turn, held: Held) -> None:
    """The flag of a forged request is not looked at, and there is no trace of it."""
    with capture_logs() as logs:
        bench.endpoint(held).take([*RAW, (b"traceparent", f"{TRACE}-01".encode())], b"forged", lambda _: None)
        turn.end()

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


def test_a_flood_of_refusals_is_ten_lines_a_second(bench: Bench, turn: Turn, held: Held) -> None:
    """Each is counted and answered, and the next line says how many have none."""
    answers: list[Answer] = []
    endpoint = bench.endpoint(held)
    with capture_logs() as logs:
        for _ in range(25):
            endpoint.take(RAW, b"forged", answers.append)
        turn.end()
        time.sleep(1.05)
        endpoint.take(RAW, b"forged", answers.append)
        turn.end()

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
def test_a_request_leaves_nothing_for_the_collector(turn: Turn, headers: Headers) -> None:
    """It runs seldom in a role: what only it could free would pile up."""
    held = Knowing()
    endpoint = Bench(limits=Limits(), turn=turn).endpoint(held)
    endpoint.take(headers, BODY, lambda _: None)  # what is made once
    turn.end()
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            endpoint.take(headers, BODY, lambda _: None)
        turn.end()
        for _, done in held.offers:
            done(None)
        held.offers.clear()
        assert gc.collect() < 100
    finally:
        gc.enable()
