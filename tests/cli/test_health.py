"""What the probes say, and that it is the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from service.bus.journal import State
from service.cli.buses import opened_bus
from service.cli.health import Health, why_not_kept, why_not_stored
from service.cli.private_listener import private_listener
from service.cli.shutdown import Stop
from service.settings import load
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress


def state(*, failure: str | None = None, full: bool = False) -> State:
    """Of a journal at 83 % of its room."""
    return State(rows=0, bytes=0, waiting=0, commits=0, full=full, used=0.83, failure=failure, damage=None)


@dataclass
class Bench:
    """A process whose bus has these complaints, and a clock that stands still."""

    unready: str | None = None
    stuck: str | None = None
    now: float = 0.0
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.progress = Progress(monotonic=lambda: self.now)
        self.health = Health(stop=self.stop, progress=self.progress)
        self.ask()
        self.health.started = True

    def ask(self) -> None:
        """Of the bus these complaints are."""
        self.health.ask_bus(unready=lambda: self.unready, stuck=lambda: self.stuck)


async def test_ready_is_what_could_store_an_event() -> None:
    """From when everything has been started, and until the end is asked for."""
    bench = Bench()
    assert bench.health.unready() is None
    bench.unready = "the journal is full"
    assert bench.health.unready() == "the journal is full"
    bench.unready, bench.health.started = None, False
    assert bench.health.unready() == "This process is starting: not everything runs yet"
    bench.stop.set()
    assert bench.health.unready() == "This process is about to end"


async def test_a_start_is_not_stuck_however_long_it_takes() -> None:
    """There is no bus yet that could complain: alive, and not ready until there is one, and everything runs."""
    health = Health(stop=Stop(), progress=Progress())
    health.starting("the journal is being verified")
    assert health.stuck() is None
    assert health.unready() == "This process is starting: the journal is being verified"
    health.ask_bus(unready=lambda: "the journal is full", stuck=lambda: "it failed")
    assert health.unready() == "This process is starting: not everything runs yet"
    assert health.stuck() == "it failed"
    health.started = True
    assert health.unready() == "the journal is full"


async def test_only_what_a_restart_helps_is_stuck() -> None:
    """A loop that hangs, and a bus that has given up; never that nothing can be stored now, or that the end has begun."""
    bench = Bench(unready="Kafka does not acknowledge")
    bench.stop.set()
    bench.progress.watch("work")
    assert bench.health.stuck() is None
    bench.now = 61
    assert bench.health.stuck() == "Nothing has been heard for too long of: work; restart the process"
    bench.progress.beat("work")
    bench.stuck = "the journal is not trusted any more"
    assert bench.health.stuck() == "the journal is not trusted any more"


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        pytest.param(None, "and there is none here", id="none"),
        pytest.param(state(full=True), "and the journal is full (83% of its room); bring Kafka back", id="full"),
        pytest.param(state(failure="it failed"), "and it failed; look at the disk, then restart", id="failed"),
    ],
)
def test_the_sentence_names_both_who_refuse(journal: State | None, said: str) -> None:
    """Kafka, and why the journal does not help."""
    sentence = why_not_stored(journal, missing="there is none here")
    assert sentence.startswith("Kafka does not acknowledge")
    assert said in sentence


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        pytest.param(state(), None, id="well"),
        pytest.param(state(full=True), "The journal is full (83% of its room); make its volume larger", id="full"),
        pytest.param(state(failure="it failed"), "It failed; look at the disk, then restart", id="failed"),
    ],
)
def test_the_journal_as_the_bus(journal: State, said: str | None) -> None:
    """Where it alone stores events, it alone is to blame."""
    sentence = why_not_kept(journal)
    assert sentence is None if said is None else (sentence or "").startswith(said)


async def test_the_private_listener_says_it(tmp_path: Path) -> None:
    """The probes ask these very questions, and a loop that hangs or a journal that fails is seen from outside."""
    bench = Bench()
    bench.health.started = False
    settings = load({"WEBEX_EVENTS_JOURNAL__PATH": str(tmp_path), "WEBEX_EVENTS_ADMIN__PORT": "0"})
    async with (
        private_listener(settings, Metrics(), bench.health, stop=bench.stop) as private,
        opened_bus(settings, stop=bench.stop, spool=False) as bus,
        private.showing(bus),
        httpx.AsyncClient(base_url=private.url, trust_env=False) as client,
    ):
        bench.ask()

        async def probed(path: str) -> tuple[int, str]:
            answer = await client.get(path)
            return answer.status_code, answer.json()["detail"] if answer.status_code == 503 else ""

        bench.progress.watch("work", limit=5)
        assert await probed("/readyz") == (503, "This process is starting: not everything runs yet")
        bench.health.started = True
        assert (await probed("/readyz"), await probed("/livez")) == ((200, ""), (200, ""))
        bench.now = 6
        assert (await probed("/livez"))[0] == 503
        bench.progress.beat("work")
        bench.unready, bench.stuck = "the journal is full", "the journal has failed"
        assert await probed("/readyz") == (503, "the journal is full")
        assert await probed("/livez") == (503, "the journal has failed")
        bench.unready = None
        bench.stop.set()
        assert (await probed("/readyz"))[0] == 503
