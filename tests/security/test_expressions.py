"""No text makes a regular expression, or what else reads a stranger's text, take longer than its length explains (X7)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.core.errors import BadSignature
from service.core.identifiers import is_instance, series_of
from service.core.notification import accept
from service.core.organizations import organization_id, registration_id
from service.core.signature import verify
from service.receiver.tracing import Tracing
from service.telemetry.redaction import masked
from tests.security.expressions import Expression, adversarial, examples, expressions, seconds, slowest

SIZE = 64 * 1024

#: Seconds of CPU at that size, on what a stranger's notification meets. The promise is 5 ms; machines differ.
LONGEST = 0.015

#: ... and on everything else, which nobody waits for in the receiver's loop.
LONGEST_ELSEWHERE = 0.1

#: How much longer twice the text may take: more than twice, as it fits into the processor's cache no longer, and less than the
#: four times of what goes by the square. Below this many seconds the clock says nothing.
GROWTH, NOTHING = 3.2, 0.0005

#: What is slow has to be so as often.
TRIES = 5

RECEIVING = ("core.signature", "core.notification", "core.organizations", "core.identifiers", "receiver.", "telemetry.")

#: Those that see only what the operator wrote, and whose length has a limit of its own there.
OPERATORS = {
    "core.policy.reading._EMAIL": "a message about the policy file",
    "core.policy.expressions._TOKEN": "a condition in the policy file",
}

FOUND = [each for each in expressions() if each.name not in OPERATORS]


def judged(ask: Callable[[str], object], texts: list[Callable[[int], str]], longest: float = LONGEST) -> list[str]:
    """What is wrong with it."""
    wrong = []
    for short, text in slowest(ask, texts, enough=longest):
        if short > longest:
            return [f"{text(16)[:60]!r} …: {short * 1000:.2f} ms long before {SIZE} characters"]
        for _ in range(TRIES):  # a busy machine may slow down one of the two
            once, twice = seconds(ask, text(SIZE)), seconds(ask, text(2 * SIZE))
            if once <= longest and (twice <= NOTHING or twice <= GROWTH * max(once, NOTHING / 2)):
                break
        else:
            wrong.append(f"{text(16)[:60]!r} …: {once * 1000:.2f} ms, {twice * 1000:.2f} ms")
    return wrong


@pytest.mark.parametrize("expression", FOUND, ids=[each.name for each in FOUND])
def test_an_expression_takes_time_by_length(expression: Expression) -> None:
    """64 KiB of the worst that we can think of take some milliseconds, and twice as much takes twice as long."""
    longest = LONGEST if expression.name.startswith(RECEIVING) else LONGEST_ELSEWHERE
    assert judged(expression.ask, adversarial(expression.pattern), longest) == []


def test_they_are_found() -> None:
    """Those of the receiver's path are among them; and every one has texts that begin like a match."""
    modules = {each.name.rpartition(".")[0] for each in FOUND}
    assert {
        "core.identifiers",
        "core.organizations",
        "core.notification",
        "receiver.tracing",
        "receiver.framing",
    } <= modules
    assert {"telemetry.redaction", "telemetry.logging"} <= modules
    assert {each.name for each in expressions()} >= OPERATORS.keys()
    assert [each.name for each in FOUND if not examples(each.pattern)] == []


@pytest.mark.parametrize(
    ("pattern", "way"),
    [
        (r"(?:[a-z0-9]+[._-]?)*[a-z]", "fullmatch"),  # exponential, as it stands in many validators
        (r"\s*=\s*\S+\s+x", "search"),
        (r"a*a*a*b", "fullmatch"),
        (r"[\w.]+@[\w.]+", "search"),
        (r'"(?:[^"\\]|\\.|\\")*"x', "match"),
    ],
)
@pytest.mark.timeout(20)
def test_a_bad_one_would_be_found(pattern: str, way: str) -> None:
    """Quadratic and worse ones are seen."""
    bad = Expression("bad", re.compile(pattern), (way,))
    assert judged(bad.ask, adversarial(bad.pattern))


def test_a_new_one_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds an expression adds its test."""
    folder = tmp_path / "planted" / "deeper"
    folder.mkdir(parents=True)
    (folder / "new.py").write_text("import re\n_NEW = re.compile('a+')\nask = _NEW.search\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = expressions(tmp_path / "planted", "planted")
    assert (found.name, found.pattern.pattern, found.ways) == ("deeper.new._NEW", "a+", ("search",))


# --- what reads a stranger's text by other means ----------------------------------------------------------------------


def _verify(header: str) -> Callable[[str], object]:
    def ask(text: str) -> None:
        text = text[: len(text) // 4]  # the guard lets 16 KiB of headers through
        with pytest.raises(BadSignature):
            verify(b"", [(header.encode(), text.encode())], secrets=[b"secret"])

    return ask


def _accept(text: str) -> object:
    return accept(text.encode(), received=datetime(2026, 1, 10, tzinfo=UTC), receiver="r")


def _notification(text: str) -> object:
    text = text[: len(text) // 12]  # it is there twice, and a character may become six: 64 KiB of body
    return _accept(json.dumps({"resource": "meetings", "event": "started", "data": {"id": text, "hostEmail": text}}))


READERS: dict[str, Callable[[str], object]] = {
    "masked": masked,
    "series_of": series_of,
    "is_instance": is_instance,
    "organization_id": organization_id,
    "registration_id": registration_id,
    "traceparent": lambda text: Tracing().begin(text.encode()),
    "X-Spark-Signature": _verify("x-spark-signature"),
    "X-Webex-Signature": _verify("x-webex-signature"),
    "an id": _notification,
}

UNITS = [
    *("a", "0", " ", ",", "=", '"', "'", "_", "-", "@", "\\", "é", "\x00", "\n", "0_", "a,", "=,", "eyJ.", "token="),
    "{",
    "[",
    "0,",
]


@pytest.mark.parametrize("ask", READERS.values(), ids=READERS.keys())
def test_a_reader_takes_time_by_length(ask: Callable[[str], object]) -> None:
    """The same is true of the functions on a notification's way."""
    assert judged(ask, [lambda size, unit=unit: unit * (size // len(unit)) for unit in UNITS]) == []  # type: ignore[misc]
