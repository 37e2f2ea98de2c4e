"""Who drives the judge: atheris, which is guided by the code that a request reaches, or Hypothesis where it is missing.

Both change real notifications by :func:`tests.fuzz.requests.mutated`, so that what they invent gets past the signature and
into the parser. Both stop at the first finding.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import NoReturn

#: Every so many requests the CPU time is looked at.
_STEP = 256

#: Hypothesis remembers what it tried: it begins anew after so many.
_AT_A_TIME = 10_000


class Hang(BaseException):
    """A request that does not end. No handler of errors may take it for one."""


@dataclass
class Run:
    """``executions`` requests within ``cpu_seconds``; ``findings`` is the folder where one goes that fails. Any one that
    takes longer than ``hang_seconds`` (CPU) will not end; the judge has a stricter limit for those that do.
    """

    executions: int
    cpu_seconds: float
    seed: int
    findings: Path
    hang_seconds: float = 10.0
    done: int = 0
    answers: Counter[int] = field(default_factory=Counter)

    def judged(self, judge: Callable[[bytes], int], data: bytes) -> None:
        """Judge one. A failure ends the process with 1, and so does the end of the time; the last request with 0."""
        signal.setitimer(signal.ITIMER_PROF, self.hang_seconds)
        try:
            self.answers[judge(data)] += 1
        except (Exception, Hang):  # noqa: BLE001 - whatever it is, it is a finding
            self._found(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self.done += 1
        if self.done >= self.executions:
            self._end(0)
        if self.done % _STEP == 0 and time.process_time() > self.cpu_seconds:
            self._end(1, f"only {self.done} of {self.executions} within {self.cpu_seconds:.0f} s of CPU")

    def _found(self, data: bytes) -> NoReturn:
        self.findings.mkdir(parents=True, exist_ok=True)
        path = self.findings / f"finding-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        self._end(1, f"{traceback.format_exc()}\nAgain: python -m tests.fuzz --repeat {path}")

    def _end(self, code: int, sentence: str = "") -> NoReturn:
        answers = ", ".join(f"{int(status)}: {count}" for status, count in sorted(self.answers.items()))
        sys.stdout.write(
            f"{self.done} requests in {time.process_time():.0f} s of CPU (answers {answers})\n{sentence}\n"
        )
        sys.stdout.flush()
        os._exit(code)  # neither libFuzzer nor Hypothesis has anything to add


def _hangs(_: int, __: FrameType | None) -> NoReturn:
    raise Hang("it does not end")


def watch_for_hangs() -> None:
    """From now on a request that does not end raises Hang."""
    signal.signal(signal.SIGPROF, _hangs)


def drive(run: Run, *, hypothesis: bool) -> NoReturn:
    """Make the requests of ``run``. Ends the process."""
    watch_for_hangs()
    guided = not hypothesis and importlib.util.find_spec("atheris") is not None
    sys.stdout.write(
        f"{run.executions} requests, seed {run.seed}, "
        f"{'atheris' if guided else 'Hypothesis, which is not guided by the code: atheris is not installed'}\n"
    )
    sys.stdout.flush()
    (_with_atheris if guided else _with_hypothesis)(run)
    raise AssertionError("the last request ends the process")


def _with_atheris(run: Run) -> None:
    atheris = importlib.import_module("atheris")  # it is no dependency: only some Pythons have it
    with atheris.instrument_imports(include=["service.core", "service.receiver", "service.telemetry"]):
        from tests.fuzz.judging import Judge
    from tests.fuzz.requests import mutated

    judge = Judge()

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        return mutated(data, Random(seed))[:most]  # noqa: S311

    # Its own alarm for hangs would end a slow process, whatever it does: ours is enough.
    options = [
        f"-seed={run.seed}",
        f"-artifact_prefix={run.findings}/",
        "-max_len=200000",
        "-timeout=1000000",
        "-rss_limit_mb=4096",
        "-verbosity=0",
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(_seeds(run.findings / "corpus"))],
        lambda data: run.judged(judge.judge, data),
        custom_mutator=mutator,
    )
    atheris.Fuzz()


def _seeds(folder: Path) -> Path:
    """A folder of requests to begin with; libFuzzer adds those that reach something new. Each run begins anew."""
    from tests.fuzz.requests import corpus

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, data in enumerate(corpus()):
        (folder / f"{number:03}").write_bytes(data)
    return folder


def _with_hypothesis(run: Run) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    from tests.fuzz.judging import Judge
    from tests.fuzz.requests import corpus, mutated

    judge, seeds = Judge(), corpus()
    for begun in range(0, run.executions, _AT_A_TIME):

        @seed(run.seed + begun)
        @settings(
            max_examples=_AT_A_TIME,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(seeds), st.integers(0, 2**64 - 1))
        def some(data: bytes, chance: int) -> None:
            run.judged(judge.judge, mutated(data, Random(chance)))  # noqa: S311

        some()
