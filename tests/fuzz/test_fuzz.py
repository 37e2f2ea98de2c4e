"""The fuzzer itself: it finds what is planted, and says how to see it again. ``make fuzz`` lets it run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from msgspec import structs

from service.core.errors import CannotStore, MalformedRequest
from service.receiver.answers import STORED, Answer, refused
from tests.fuzz.judging import Judge, Take, Wrong
from tests.fuzz.requests import Request, Signed, Then, corpus, mutated

ROOT = Path(__file__).parents[2]
SAMPLE = corpus()[0]


def test_every_request_of_the_corpus_is_answered_as_it_should_be() -> None:
    """204 where it is signed and stored, 503 where it is signed and not, 401 where it is not signed."""
    judge = Judge()
    for data in corpus():
        request = Request.parse(data)
        signed = request.signed not in (Signed.FORGED, Signed.UNSIGNED)
        if any(b"signature" in name for name, _ in request.own):
            continue  # the reference knows
        assert judge.judge(data) == ((204 if request.then is Then.STORED else 503) if signed else 401), data


def test_a_request_survives_being_written() -> None:
    """What is in a file of findings is what was judged; any bytes are some request."""
    chance = Random(1)  # noqa: S311
    for data in [*corpus(), b"", b"\n", b"signed\n\n", chance.randbytes(500)]:
        request = Request.parse(data)
        assert Request.parse(bytes(request)) == request


def test_the_same_chance_gives_the_same_request() -> None:
    """A run can be repeated by its seed; and there are many different ones that are signed and get into the parser."""
    made = [mutated(SAMPLE, Random(number)) for number in range(500)]  # noqa: S311
    assert made == [mutated(SAMPLE, Random(number)) for number in range(500)]  # noqa: S311
    assert len(set(made)) > 450
    judge = Judge()
    answers = [judge.judge(data) for data in made]
    assert set(answers) >= {204, 401, 413, 415, 503}
    assert answers.count(204) > 250


# --- it can fail ------------------------------------------------------------------------------------------------------


def twice(take: Take) -> Take:
    def spoilt(headers: Any, body: bytes, answer: Any, source: str) -> object:
        def both(given: Answer) -> None:
            answer(given)
            answer(given)

        return take(headers, body, both, source)

    return spoilt


def never(take: Take) -> Take:
    return lambda headers, body, answer, source: take(headers, body, lambda given: None, source)


def answering(answer_with: Any) -> Callable[[Take], Take]:
    return lambda take: lambda headers, body, answer, source: answer(answer_with)


def before_it_is_stored(take: Take) -> Take:
    def spoilt(headers: Any, body: bytes, answer: Any, source: str) -> object:
        answer(STORED)
        return take(headers, body, lambda given: None, source)

    return spoilt


def raising(take: Take) -> Take:
    def spoilt(headers: Any, body: bytes, answer: Any, source: str) -> object:
        raise ValueError

    return spoilt


def slow(take: Take) -> Take:
    def spoilt(headers: Any, body: bytes, answer: Any, source: str) -> object:
        begun = time.thread_time()
        while time.thread_time() < begun + 0.11:
            pass
        return take(headers, body, answer, source)

    return spoilt


def logging_lines(take: Take) -> Take:
    def spoilt(headers: Any, body: bytes, answer: Any, source: str) -> object:
        structlog.get_config()["logger_factory"]().msg('{"event": "x"}\nforged')
        return take(headers, body, answer, source)

    return spoilt


def unsigned(take: Take) -> Take:
    good = Request.parse(SAMPLE)
    return lambda headers, body, answer, source: take(good.headers, good.body, answer, source)


FORGED = bytes(replace(Request.parse(SAMPLE), signed=Signed.FORGED))


@pytest.mark.parametrize(
    ("fault", "data", "sentence"),
    [
        pytest.param(twice, SAMPLE, "2 answers", id="two answers"),
        pytest.param(never, SAMPLE, "0 answers", id="no answer"),
        pytest.param(before_it_is_stored, SAMPLE, "still waits", id="an answer before it is durable"),
        pytest.param(answering(STORED), SAMPLE, "nothing was offered", id="a 204 for nothing"),
        pytest.param(answering(refused(CannotStore())), SAMPLE, "nothing was offered", id="a 503 for nothing"),
        pytest.param(
            answering(structs.replace(refused(MalformedRequest()), body=b'{"status": 400}')),
            FORGED,
            "length",
            id="a wrong length",
        ),
        pytest.param(unsigned, FORGED, "not signed", id="what is not signed is taken"),
        pytest.param(slow, SAMPLE, "of CPU", id="too slow"),
        pytest.param(raising, SAMPLE, "ValueError", id="an error"),
        pytest.param(logging_lines, SAMPLE, "JSONDecodeError", id="a forged line of the log"),
    ],
)
def test_a_planted_fault_is_found(fault: Callable[[Take], Take], data: bytes, sentence: str) -> None:
    """Each of the judge's demands bites."""
    with pytest.raises((Wrong, ValueError)) as found:
        Judge(fault).judge(data)
    assert sentence in repr(found.value)


# --- the program ------------------------------------------------------------------------------------------------------


def program(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python`` with these arguments."""
    return subprocess.run(
        (sys.executable, *arguments),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_went_well(tmp_path: Path) -> None:
    """Exit 0 after as many as were asked for, with the seed and the answers."""
    done = program("-m", "tests.fuzz", "--executions=300", "--seed=7", "--hypothesis", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 requests, seed 7" in done.stdout
    assert "204: " in done.stdout


def test_too_few_are_a_failure(tmp_path: Path) -> None:
    """A receiver that became slow does not hide in a run that ends early."""
    done = program("-m", "tests.fuzz", "--executions=999999", "--cpu-seconds=0.1", "--hypothesis", folder=tmp_path)
    assert done.returncode == 1
    assert "of 999999 within 0 s" in done.stdout


PLANTED = """
import sys
from pathlib import Path
from tests.fuzz.engines import Run, watch_for_hangs

def fails(data):
    {fault}

watch_for_hangs()
Run(10, 5.0, 1, Path("findings"), hang_seconds=0.1).judged(fails, b"signed stored\\n\\n{{}}")
"""


@pytest.mark.parametrize(("fault", "name"), [("1 / 0", "ZeroDivisionError"), ("while True: pass", "Hang")])
def test_a_finding_can_be_repeated(tmp_path: Path, fault: str, name: str) -> None:
    """The request is in a file, and the last line is what to type."""
    done = program("-c", PLANTED.format(fault=fault), folder=tmp_path)
    (finding,) = (tmp_path / "findings").iterdir()
    assert (done.returncode, finding.read_bytes()) == (1, b"signed stored\n\n{}")
    assert name in done.stdout
    command = done.stdout.strip().splitlines()[-1].partition("python ")[2]
    assert program(*command.split(), folder=tmp_path).stdout == "answered 204\n"
