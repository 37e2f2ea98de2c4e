"""``webex-events dev``: receiver, processor and a simulated Webex in one process, on the journal."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import structlog
import typer

from service.cli.buses import opened_bus
from service.cli.health import Health
from service.cli.policy_file import LivePolicy
from service.cli.private_listener import private_listener
from service.cli.processing import processing
from service.cli.receiver import public_listener
from service.cli.sandbox import simulated_webex
from service.cli.secret_files import LiveSecrets, read_secret
from service.cli.serving import beside
from service.cli.shutdown import Stop, unless_stopped
from service.cli.trigger import TRIGGERED
from service.core.organizations import ONLY_ORGANIZATION
from service.core.signature import ANYBODY, Secret
from service.sandbox.world import World
from service.settings import Settings, Tracing, Webex
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress
from service.webex.tokens import StaticToken

#: In `dev` the sweep comes round quickly (s), unless the settings say otherwise: people should see something happen.
SWEEP_INTERVAL = 2

#: What `dev` does not leave to the settings.
DEV_SETTINGS: Mapping[str, object] = {"BUS": "journal"}

_TOKEN = "sandbox"  # noqa: S105 - the sandbox takes any


async def run_dev(settings: Settings, stop: Stop) -> None:
    """Everything in one process, until ``stop``. Raises SettingsError, PolicyError, JournalError."""
    metrics = Metrics()
    policy = LivePolicy(settings.policy.file or demo_policy())
    async with contextlib.AsyncExitStack() as stack:
        async with unless_stopped(stop):
            await _start(settings, metrics, policy, stack, stop)
        await stop.wait()
        structlog.get_logger().info("dev.stopping")


async def _start(
    settings: Settings, metrics: Metrics, policy: LivePolicy, stack: contextlib.AsyncExitStack, stop: Stop
) -> None:
    """Everything, one after the other; ``stack`` ends it the other way round."""
    enter = stack.enter_async_context
    progress = Progress()
    metrics.watch_loops(progress.ages)
    health = Health(stop=stop, progress=progress)
    private = await enter(private_listener(settings, metrics, health, stop=stop))
    bus = await enter(opened_bus(settings, stop=stop, spool=False, tell=health.starting))
    live = _live_secrets(settings)
    webex = await enter(simulated_webex(settings, token=None, stop=stop))
    api = f"{webex.address}/v1"
    settings = _for_dev(settings, webex=api)
    await enter(private.showing(bus))
    found = {ONLY_ORGANIZATION: StaticToken(_TOKEN)}
    await enter(processing(settings, bus, metrics, policy, found, progress, stop=stop))
    await enter(beside(live.watch(), stop=stop))
    public = await enter(public_listener(settings, bus, metrics, live, stop=stop))
    webhook = f"{public}/webhooks/webex"
    await enter(webex.delivering(webhook, live()[0].value))
    await enter(webex.living())
    health.started = True
    meeting = await _first_meeting(webex.world)
    _tell(settings, {"webhook": webhook, "webex": api, "metrics": f"{private.url}/metrics"}, meeting)


def _for_dev(settings: Settings, *, webex: str) -> Settings:
    """``settings`` with the sandbox as Webex, and where nobody chose otherwise a quick sweep and a line for each webhook."""
    sweep = settings.sweep
    quick = sweep if "interval" in sweep.model_fields_set else sweep.model_copy(update={"interval": SWEEP_INTERVAL})
    own = Webex(base_url=webex, allow_http=True)  # and none of the real credentials
    tracing = settings.tracing if "ratio" in settings.tracing.model_fields_set else Tracing(ratio=1)
    return settings.model_copy(update={"sweep": quick, "webex": own, "tracing": tracing})


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
    if not file.exists():  # the journal's lock keeps every other process out
        unfinished = file.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_hex(20), "ascii")
        unfinished.replace(file)
    return LiveSecrets(fixed=(Secret(read_secret(file), {ANYBODY: file.name}),))


async def _first_meeting(world: World) -> str:
    """The series id of a simulated meeting, to try things on; "" where none comes at once."""
    for _ in range(100):
        meetings = world.meetings()
        if meetings:
            return str(meetings[0].id)
        await asyncio.sleep(0.02)
    return ""


def _tell(settings: Settings, addresses: Mapping[str, str], meeting: str) -> None:
    command = _trigger(settings, addresses["webhook"], meeting)
    if sys.stdout.isatty():
        typer.echo(_block({**addresses, "journal": str(settings.journal.path)}, command))
    else:
        structlog.get_logger().info("dev.started", **addresses, try_in_another_terminal=command)


_NAMES = {"webhook": "Webhooks go to", "webex": "Simulated Webex", "metrics": "Metrics", "journal": "Journal"}


def _block(addresses: Mapping[str, str], command: str) -> str:
    """What somebody at a terminal is told."""
    rows = [f"  {_NAMES[name] + ':':<17} {address}" for name, address in addresses.items()]
    hint = "  To send a signed webhook, type this in another terminal, in this folder:"
    return "\n".join(
        ["", *rows, "", hint, "", f"  {command}", "", "  Ctrl-C ends it; the next start goes on from there.", ""]
    )


def _trigger(settings: Settings, url: str, meeting: str) -> str:
    """A command that reaches this process from another terminal, where its environment may not be set."""
    words = [*_program(), "trigger", "meetings.updated", *(["--meeting", meeting] if meeting else [])]
    if url != TRIGGERED:
        words += ["--url", url]
    path = settings.journal.path
    chosen = "" if path == Path("data") else f"WEBEX_EVENTS_JOURNAL__PATH={shlex.quote(str(path))} "
    return chosen + shlex.join(words)


def _program() -> list[str]:
    """How this program was called, as short as it can be typed in this folder."""
    called = Path(sys.argv[0])
    script = called if called.name == "webex-events" else Path(sys.executable).with_name("webex-events")
    return [_short(script)] if script.exists() else [_short(Path(sys.executable)), "-m", "service"]


def _short(program: Path) -> str:
    absolute = program.absolute()
    with contextlib.suppress(ValueError):
        return str(absolute.relative_to(Path.cwd()))
    return str(absolute)
