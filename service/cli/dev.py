"""``webex-events dev``: receiver, processor and a simulated Webex in one process, on the journal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import structlog

from service.bus.journal import Journal
from service.cli.buses import embedded_bus
from service.cli.policy_file import LivePolicy
from service.cli.roles import private_listener, processing, public_listener
from service.cli.sandbox import simulated_webex
from service.cli.secret_files import LiveSecrets, read_secret
from service.cli.serving import Stop, beside
from service.sandbox.world import World
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.webex.tokens import StaticToken

#: In `dev` the sweep comes round quickly, unless the settings say otherwise: people should see something happen.
SWEEP_INTERVAL = 2

_TOKEN = "sandbox"  # noqa: S105 - the sandbox takes any


async def run_dev(settings: Settings, stop: Stop) -> None:
    """Everything in one process, until ``stop``. Raises SettingsError, PolicyError, JournalError."""
    metrics = Metrics()
    policy = LivePolicy(settings.policy.file or demo_policy())
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        journal = await enter(await Journal.open(settings.journal.path))
        bus = await enter(embedded_bus(settings, journal, stop=stop))
        live = _live_secrets(settings)
        world, webex, deliver = await enter(simulated_webex(settings, token=None, stop=stop))
        settings = settings.model_copy(update={"webex": settings.webex.model_copy(update={"base_url": f"{webex}/v1"})})
        await enter(processing(settings, bus, metrics, policy, StaticToken(_TOKEN), stop=stop))
        private = await enter(private_listener(settings, bus, metrics, ready=bus.can_store))
        await enter(beside(live.watch(), stop=stop))
        public = await enter(public_listener(settings, bus, metrics, live))
        webhook = f"{public}/webhooks/webex"
        await enter(deliver(webhook, live()[0]))
        meeting = await _first_meeting(world)
        _tell(settings, {"webhook": webhook, "webex": f"{webex}/v1", "metrics": f"{private}/metrics"}, meeting)
        await stop.wait()
        structlog.get_logger().info("dev.stopping")


def with_dev_defaults(environ: Mapping[str, str]) -> dict[str, object]:
    """What `dev` sets by itself: always the journal, and a quick sweep where nobody chose another one."""
    interval = "SWEEP__INTERVAL"
    chosen = {} if environ.get(f"WEBEX_EVENTS_{interval}") else {interval: SWEEP_INTERVAL}
    return {"BUS": "journal", **chosen}


def demo_policy() -> Path:
    """The policy of `dev` where the settings name none."""
    return Path(str(resources.files("service.cli").joinpath("demo-policy.yaml")))


def dev_secret_file(settings: Settings) -> Path:
    """Where `dev` keeps the webhook secret that it made up."""
    return settings.journal.path / "dev-webhook-secret"


def _live_secrets(settings: Settings) -> LiveSecrets:
    """Those of the settings, or one of our own that is kept beside the journal."""
    if settings.webhook.fixed_secrets or settings.webhook.secrets_dir:
        return LiveSecrets(fixed=settings.webhook.fixed_secrets, folder=settings.webhook.secrets_dir)
    file = dev_secret_file(settings)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as new:
            new.write(secrets.token_hex(20))
    return LiveSecrets(fixed=(read_secret(file),))


async def _first_meeting(world: World) -> str:
    """The series id of a simulated meeting, to try things on; "" where none comes at once."""
    for _ in range(100):
        meetings = world.meetings()
        if meetings:
            return str(meetings[0].id)
        await asyncio.sleep(0.02)
    return ""


def _tell(settings: Settings, addresses: Mapping[str, str], meeting: str) -> None:
    command = f"{_program()} trigger meetings.updated --meeting {meeting}"
    if settings.receiver.port != 8080:
        command += f" --url {addresses['webhook']}"
    structlog.get_logger().info("dev.started", **addresses, try_in_another_terminal=command)


def _program() -> str:
    """How this program was called, as short as it can be typed in this folder."""
    called = Path(sys.argv[0])
    if called.name != "webex-events":
        return "webex-events"
    with contextlib.suppress(ValueError):
        return str(called.resolve().relative_to(Path.cwd()))
    return str(called)
