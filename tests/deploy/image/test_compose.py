"""deploy/compose.yaml, really run by podman-compose: the unmodified file and .env.example, Kafka from the harness's jars.

Of the profile `obs` Prometheus is run, Debian's; Grafana and the collector are in no package, and their files are looked at by
:mod:`tests.deploy.test_observing`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.image.engine import Engine, EngineError
from tests.deploy.image.images import PRODUCT, ROOT
from tests.deploy.tools import tool

DEPLOY, CHART = ROOT / "deploy", ROOT / "helm" / "webex-events"

#: No port of this machine is used, so the check disturbs nobody and nobody disturbs it.
_OVERRIDE = "services:\n" + "".join(
    f"  {name}: {{ports: !reset []}}\n" for name in ("kafka", "receiver", "sandbox", "prometheus")
)

#: Seconds within which a service is as another one waits for it, on a machine that does other things.
PATIENCE = 120
#: What the program ends with where Kafka, which has just started, does not answer in time (docs/reference/cli.md).
LATER = 4


class Compose:
    """The file's services, each started when those that it depends on are as it wants them.

    podman-compose leaves that to podman, and one before 4.6 does not wait for health, nor start what stands behind a
    service that has ended.
    """

    def __init__(self, engine: Engine, override: Path) -> None:
        self.engine = engine
        self.project = f"check-{uuid.uuid4().hex[:8]}"
        self.services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        files = ("-f", str(DEPLOY / "compose.yaml"), "-f", str(override), "--env-file", str(DEPLOY / ".env.example"))
        self._command = (str(tool("podman-compose")), "-p", self.project, *files, "--profile", "obs")
        self._conditions: dict[str, Callable[[str], bool]] = {
            "service_healthy": self.healthy,
            "service_completed_successfully": self._completed,
        }

    def name(self, service: str) -> str:
        """The container's."""
        return f"{self.project}_{service}_1"

    def do(self, *words: str) -> str:
        """``podman-compose …``. Raises EngineError."""
        return self.engine.do(*self._command, *words)

    def up(self, service: str) -> None:
        """Start it behind its dependencies. Raises AssertionError where one does not come."""
        if self.engine.run("podman", "container", "exists", self.name(service)).returncode == 0:
            return
        for dependency, wanted in self.services[service].get("depends_on", {}).items():
            self.up(dependency)
            self.wait(partial(self._conditions[wanted["condition"]], dependency), dependency)
        self.do("up", "--detach", "--no-build", "--no-deps", service)

    def wait(self, holds: Callable[[], bool], service: str) -> None:
        """Until it holds; the service's log where it does not."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, self.engine.run("podman", "logs", "--tail", "40", self.name(service))
            time.sleep(0.5)

    def healthy(self, service: str) -> bool:
        """By its own health check, which only systemd would run by the clock."""
        return self.engine.run("podman", "healthcheck", "run", self.name(service)).returncode == 0

    def _completed(self, service: str) -> bool:
        state = self.engine.container(self.name(service))["State"]
        return bool(state["Status"] == "exited" and state["ExitCode"] == 0)

    def inside(self, service: str, *command: str) -> str:
        """What a command prints there; asked again where it says "try again later". Raises EngineError."""
        words, began = ("exec", self.name(service), "webex-events", *command), time.monotonic()
        while time.monotonic() - began < PATIENCE:
            done = self.engine.run("podman", *words, timeout=PATIENCE + 30)
            if done.returncode != LATER:
                break
        if done.returncode:
            raise EngineError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def prometheus(self, question: str) -> Any:
        """What Prometheus answers to one of our containers; nothing while it does not."""
        url = f"http://prometheus:9090/api/v1/{question}"
        ask = f"import urllib.request as u; print(u.urlopen('{url}', timeout=5).read().decode())"
        done = self.engine.run("podman", "exec", self.name("receiver"), "python", "-c", ask)
        return {} if done.returncode else json.loads(done.stdout)["data"]


@pytest.fixture
def compose(engine: Engine, tmp_path: Path) -> Iterator[Compose]:
    override = tmp_path / "override.yaml"
    override.write_text(_OVERRIDE)
    named = Engine({**engine.environ, "WEBEX_EVENTS_IMAGE": PRODUCT})
    compose = Compose(named, override)
    yield compose
    compose.engine.run(*compose._command, "down", "--volumes", "--timeout", "1")


@pytest.mark.timeout(600)
def test_a_person_is_decided_about_and_kafka_may_go_and_come_back(compose: Compose, figures: list[str]) -> None:
    began = time.monotonic()
    compose.up("processor")
    compose.up("prometheus")
    compose.up("sandbox")
    (decided,) = _tail(compose, "webex.registrant.approved.v1")
    figures.append(f"compose: from nothing to the first decision {time.monotonic() - began:.0f} s")
    assert decided["type"] == "webex.registrant.approved.v1"
    _is_watched(compose, figures)

    compose.do("stop", "kafka")
    answered = compose.inside("receiver", "trigger", "recordings.created")
    assert "answered 204" in answered
    compose.engine.podman("start", compose.name("kafka"))
    compose.wait(lambda: compose.healthy("kafka"), "kafka")
    (stored,) = _tail(compose, "webex.recording.created.v1")
    assert stored["type"] == "webex.recording.created.v1"

    _all_end_well(compose, figures)


def _tail(compose: Compose, type_: str) -> list[dict[str, Any]]:
    asked = ("--from-beginning", "--type", type_, "--count", "1", "--timeout", str(PATIENCE), "-o", "jsonl")
    return [json.loads(line) for line in compose.inside("receiver", "events", "tail", *asked).splitlines()]


def _is_watched(compose: Compose, figures: list[str]) -> None:
    """Prometheus reads both roles, evaluates all rules of the chart, and no alert fires."""
    compose.wait(lambda: _settled(_targets(compose)) and _settled(_rules(compose)), "prometheus")
    assert sorted(_targets(compose)) == [("webex-events-processor", "up"), ("webex-events-receiver", "up")]
    rules = _rules(compose)
    assert [rule for rule in rules if rule[1] != "ok"] == []
    assert sorted(name for name, _ in rules) == sorted(_shipped())
    assert [alert["labels"] for alert in compose.prometheus("alerts")["alerts"] if alert["state"] == "firing"] == []
    figures.append(f"compose: Prometheus reads both roles and evaluates {len(rules)} rules, of which none fires")


def _settled(found: list[tuple[str, str]]) -> bool:
    return bool(found) and all(health != "unknown" for _, health in found)


def _targets(compose: Compose) -> list[tuple[str, str]]:
    """Each job, and how it was found the last time."""
    found = compose.prometheus("targets").get("activeTargets", ())
    return [(target["labels"]["job"], target["health"]) for target in found]


def _rules(compose: Compose) -> list[tuple[str, str]]:
    """Each rule, and how its last evaluation went."""
    found = compose.prometheus("rules").get("groups", ())
    return [(rule["name"], rule["health"]) for group in found for rule in group["rules"]]


def _shipped() -> list[str]:
    file = yaml.safe_load((CHART / "files" / "rules" / "webex-events.yaml").read_text("utf-8"))
    return [rule.get("alert") or rule["record"] for group in file["groups"] for rule in group["rules"]]


def _all_end_well(compose: Compose, figures: list[str]) -> None:
    compose.wait(lambda: compose.healthy("receiver") and compose.healthy("processor"), "processor")
    for service in ("sandbox", "receiver", "processor"):
        name, began = compose.name(service), time.monotonic()
        used = compose.engine.podman("stats", "--no-stream", "--format", "{{.MemUsage}}", name).partition(" /")[0]
        compose.engine.podman("stop", "--time", "30", name)
        figures.append(f"compose: {service} used {used}, SIGTERM to exit in {time.monotonic() - began:.1f} s")
        assert compose.engine.container(name)["State"]["ExitCode"] == 0
