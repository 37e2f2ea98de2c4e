"""The processes, started from what the chart renders and nothing else, take one signed event from end to end.

Commands, variables, settings file, policy and secrets are those of the rendered pods, on real Kafka, with the simulated Webex
beside them. Only what one machine cannot give to two pods is another here: the folders' beginning, addresses, and ports.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import cast

import httpx
import pytest

from tests import line as lines
from tests.deploy.containers import Extracted, extract
from tests.deploy.render import CHART, ROOT, Object, Rendering, pods
from tests.kafka.harness import Cluster
from tests.line import PREFIX, SECRET, TOKEN, Line, Process, register, schedule, touch, until
from tests.ports import free_port

SECRETS = {"webhook-secrets": {"current": SECRET}, "webex-token": {"token": TOKEN}}
POLICY = """
version: 1
rules:
  - {name: partners-in, when: registrant.emailDomain == "partner.example", then: approve, reason: A partner}
"""


class Release:
    """The chart's pods as processes of this machine, and a simulated Webex."""

    def __init__(self, folder: Path, bootstrap: str, prefix: str) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("receiver", "admin", "admin2", "sandbox")}
        self.webhook = f"http://127.0.0.1:{self.ports['receiver']}/webhooks/webex"
        self.webex = f"http://127.0.0.1:{self.ports['sandbox']}"
        self.client = httpx.AsyncClient(timeout=20, trust_env=False)
        self.objects = self._render(bootstrap, prefix)
        self.containers = {each.role: each for each in self._extracted()}
        self.processes: dict[str, Process] = {}

    def _render(self, bootstrap: str, prefix: str) -> list[Object]:
        values = {
            "kafka": {"bootstrapServers": [bootstrap], "topicPrefix": prefix, "group": f"{prefix}processors"},
            "webhook": {"existingSecret": "webhook-secrets"},
            "webex": {"existingSecret": "webex-token"},
            "policy": {"files": {"policy.yaml": POLICY}},
            "config": {"webex": {"base_url": f"{self.webex}/v1"}, "kafka": {"topics": {"partitions": 3}}},
        }
        return Rendering(sets=tuple(f"{name}={json.dumps(value)}" for name, value in values.items())).objects()

    def _extracted(self) -> list[Extracted]:
        return [extract(each, self.objects, SECRETS, self.folder) for each in pods(self.objects)]

    def environ(self, role: str, **here: str) -> dict[str, str]:
        """The pod's variables; addresses and ports, which the environment may say over the file, are of this machine."""
        local = {"RECEIVER__HOST": "127.0.0.1", "ADMIN__HOST": "127.0.0.1", **here}
        return {**self.containers[role].environ, **{PREFIX + name: value for name, value in local.items()}}

    def start(self, role: str, **here: str) -> Process:
        """The command of a role's container."""
        environ = {name.removeprefix(PREFIX): value for name, value in self.environ(role, **here).items()}
        made = Process(role, self.folder, *self.containers[role].arguments, environ=environ)
        self.processes[role] = made
        made.start()
        return made

    async def install(self) -> None:
        """The Job for the topics, then both roles, and Webex beside them; returns when they are ready."""
        topics = self.start("topics")
        assert await asyncio.to_thread(topics.stop_by_itself) == 0
        self._start_webex()
        receiver = str(self.ports["receiver"])
        self.start("receiver", RECEIVER__PORT=receiver, ADMIN__PORT=str(self.ports["admin"]))
        self.start("processor", ADMIN__PORT=str(self.ports["admin2"]))
        for address in (
            f"{self._private('admin')}/readyz",
            f"{self._private('admin2')}/readyz",
            f"{self.webex}/sandbox/ledger",
        ):
            await until(functools.partial(self._answers, address), within=30)

    def _private(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def _start_webex(self) -> None:
        settings = {
            "WEBHOOK__SECRET": SECRET,
            "WEBEX__TOKEN": TOKEN,
            "SANDBOX__PORT": str(self.ports["sandbox"]),
            "SANDBOX__PACE": "0",
            "JOURNAL__PATH": str(self.folder / "sandbox"),
        }
        made = Process("sandbox", self.folder, "sandbox", "--target-url", self.webhook, environ=settings)
        self.processes["sandbox"] = made
        made.start()

    async def _answers(self, address: str) -> bool:
        try:
            return (await self.client.get(address)).status_code == 200
        except httpx.TransportError:
            return False

    def printed(self) -> str:
        """Everything that the processes printed."""
        return "".join(each.output.read_text() for each in self.processes.values() if each.output.exists())

    async def close(self) -> None:
        """Whatever it takes."""
        for process in self.processes.values():
            process.end()
        await self.client.aclose()


@pytest.fixture
async def release(tmp_path: Path, kafka: Cluster, topic_prefix: str) -> AsyncIterator[Release]:
    """One that runs."""
    made = Release(tmp_path, kafka.bootstrap, topic_prefix)
    async with lines.closing(made):
        await made.install()
        yield made


async def test_somebody_registers_and_is_approved(release: Release) -> None:
    """Webex tells of it, signed; the receiver takes it, the processor looks, decides by the mounted policy, and acts."""
    line = cast(Line, release)  # as far as these look at it
    meeting = await schedule(line, "Partner day")
    person, *_ = await register(line, meeting, 1, "partner.example")
    await touch(line, meeting)

    async def approved() -> bool:
        return bool((await lines.ledger(line))["effects"][person]["status"] == "approved")

    await until(approved, within=60)
    codes = [await asyncio.to_thread(release.processes[role].stop) for role in ("receiver", "processor")]
    assert codes == [0, 0]


async def test_helm_test_tells_whether_it_works(release: Release) -> None:
    """Its own script, as the pod starts it: a signed event comes out of Kafka, a badly signed one is refused. Without a
    receiver it fails, so it can be believed.
    """
    container = release.containers["roundtrip"]
    python, script, _, seconds = container.command
    command, environ = (*_program(python), script, release.webhook, seconds), release.environ("roundtrip")

    ended = await asyncio.to_thread(_run, command, environ, release.folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr

    release.processes["receiver"].kill()
    assert (await asyncio.to_thread(_run, command, environ, release.folder)).returncode != 0


def _program(name: str) -> tuple[str, ...]:
    """The image's Python is ours."""
    assert name == "python"
    return (sys.executable,)


def _run(command: tuple[str, ...], environ: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """With ``webex-events`` on the path, as the image has it."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    every = {**environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=every, capture_output=True, text=True, timeout=110, check=False)


def test_the_script_of_helm_test_is_the_charts() -> None:
    """What the ConfigMap has is what is linted and type-checked."""
    rendered = Rendering(
        sets=('kafka.bootstrapServers=["k:1"]', 'webhook.existingSecret="w"', 'webex.existingSecret="x"')
    )
    data = [each["data"]["roundtrip.py"] for each in rendered.objects() if "roundtrip.py" in each.get("data", {})]

    assert [text.strip() for text in data] == [(CHART / "scripts" / "roundtrip.py").read_text("utf-8").strip()]
