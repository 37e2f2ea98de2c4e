"""Organisations with a secret each cannot speak for one another (reliability I4)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.core.signature import Secret, sign
from service.receiver.answers import Answer
from service.receiver.endpoint import Endpoint, Limits
from tests.fakes import Turn
from tests.receiver.conftest import Bench

STARTED = json.loads((Path(__file__).parents[1] / "samples" / "meetings.started.json").read_bytes())
TENANTS = [str(uuid.UUID(int=n)) for n in range(100)]
SECRETS = tuple(Secret(f"secret-of-{each}".encode(), {each: f"{each}.current"}) for each in TENANTS)


#: The answers to a body with a secret's signature.
Ask = Callable[[bytes, bytes], list[Answer]]


class Counting:
    """A publisher that counts, and never answers."""

    def __init__(self) -> None:
        self.offered = 0

    def offer(self, *_: Any) -> None:
        """One more."""
        self.offered += 1

    def withdraw(self, _: object) -> None:
        """Nothing was kept."""

    def flush(self) -> None:
        """Nothing waits for more."""


@pytest.fixture
def publisher() -> Counting:
    return Counting()


@pytest.fixture
def turn() -> Turn:
    return Turn()


@pytest.fixture
def ask(publisher: Counting, turn: Turn) -> Ask:
    return partial(answered, Bench(secrets=lambda: SECRETS, limits=Limits(), turn=turn).endpoint(publisher), turn)


def answered(endpoint: Endpoint, turn: Turn, body: bytes, secret: bytes) -> list[Answer]:
    """The answer to this body with this secret's signature; none yet where it was accepted."""
    answers: list[Answer] = []
    headers = {"content-type": "application/json", **sign(body, secret)}
    endpoint.take(
        tuple((name.lower().encode(), value.encode()) for name, value in headers.items()), body, answers.append
    )
    turn.end()
    return answers


def test_no_tenant_is_taken_for_another(ask: Ask, publisher: Counting) -> None:
    """100 tenants: signed by one and named after another is 401 in all 9 900 pairs, with the same answer as to somebody
    unknown; after itself it is accepted.
    """
    (unknown,) = ask(b"{}", b"nobody's secret")
    bodies = [json.dumps({**STARTED, "orgId": each}).encode() for each in TENANTS]
    crossed = [ask(bodies[j], SECRETS[i].value) for i in range(100) for j in range(100) if i != j]

    assert len(crossed) == 9_900
    assert all(each == [unknown] for each in crossed)
    assert unknown.status == 401
    assert publisher.offered == 0
    assert [ask(bodies[i], SECRETS[i].value) for i in range(100)] == [[]] * 100
    assert publisher.offered == 100


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"orgId": None}, 401, id="no organisation"),
        pytest.param({"orgId": None, "id": None}, 401, id="nobody at all"),
        pytest.param({"orgId": TENANTS[1], "resource": None}, 401, id="another, and not understood"),
        pytest.param({"orgId": None, "id": None, "resource": None}, None, id="nobody at all, and not understood"),
        pytest.param({"orgId": TENANTS[0].upper()}, None, id="itself, in capitals"),
    ],
)
def test_silence_is_no_name(ask: Ask, change: dict[str, object], status: int | None) -> None:
    """Who names nobody cannot hide behind that; what nobody understands is kept all the same."""
    body = json.dumps({name: value for name, value in {**STARTED, **change}.items() if value is not None}).encode()

    assert [each.status for each in ask(body, SECRETS[0].value)] == ([] if status is None else [status])
