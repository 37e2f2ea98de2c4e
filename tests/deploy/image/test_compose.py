"""deploy/compose.yaml, really run by podman-compose: the unmodified file and .env.example, Kafka from the harness's jars."""

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

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT, ROOT
from tests.deploy.tools import tool

DEPLOY = ROOT / "deploy"

#: No port of this machine is used, so the check disturbs nobody and nobody disturbs it.
_OVERRIDE = "services:\n" + "".join(f"  {name}: {{ports: !reset []}}\n" for name in ("kafka", "receiver", "sandbox"))

#: Seconds within which a service is as another one waits for it, on a machine that does other things.
PATIENCE = 120


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
        self._command = (str(tool("podman-compose")), "-p", self.project, *files)
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
        """What a command prints there. Raises EngineError."""
        return self.engine.podman("exec", self.name(service), "webex-events", *command)


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
    compose.up("sandbox")
    (decided,) = _tail(compose, "webex.registrant.rejected.v1")
    figures.append(f"compose: from nothing to the first decision {time.monotonic() - began:.0f} s")
    assert decided["type"] == "webex.registrant.rejected.v1"

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


def _all_end_well(compose: Compose, figures: list[str]) -> None:
    compose.wait(lambda: compose.healthy("receiver") and compose.healthy("processor"), "processor")
    for service in ("sandbox", "receiver", "processor"):
        name, began = compose.name(service), time.monotonic()
        used = compose.engine.podman("stats", "--no-stream", "--format", "{{.MemUsage}}", name).partition(" /")[0]
        compose.engine.podman("stop", "--time", "30", name)
        figures.append(f"compose: {service} used {used}, SIGTERM to exit in {time.monotonic() - began:.1f} s")
        assert compose.engine.container(name)["State"]["ExitCode"] == 0
