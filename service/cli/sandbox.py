"""The simulated Webex as a process of its own, or as a part of `dev`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from service.cli.clock import utc_now
from service.cli.secret_files import read_secrets
from service.cli.serving import beside, bound, serving, url_of
from service.cli.shutdown import REQUESTS, Step, Stop
from service.core.errors import Problem, SettingsError
from service.sandbox.app import create_app
from service.sandbox.deliveries import Deliveries
from service.sandbox.simulation import Pace, run_clock, run_simulation
from service.sandbox.world import World
from service.settings import Settings, require_secrets


@dataclass(frozen=True)
class SimulatedWebex:
    """Its state, where it answers, and what it can do beside answering."""

    world: World
    address: str
    #: Deliver webhooks: those that were registered, and to this address, signed with this secret.
    delivering: Callable[[str | None, bytes], AbstractAsyncContextManager[None]]
    #: Let people register, at the pace of the settings.
    living: Callable[[], AbstractAsyncContextManager[None]]


async def serve_sandbox(settings: Settings, stop: Stop, *, target: str | None) -> None:
    """The simulated Webex until ``stop``; webhooks go to ``target`` where there is one. Raises SettingsError."""
    secret = _signing_secret(settings) if target is not None else b""
    token = settings.webex.token.get_secret_value() if settings.webex.token else None
    async with contextlib.AsyncExitStack() as stack:
        webex = await stack.enter_async_context(simulated_webex(settings, token=token, stop=stop))
        await stack.enter_async_context(webex.delivering(target, secret))
        await stack.enter_async_context(webex.living())
        structlog.get_logger().info("sandbox.started", webex=f"{webex.address}/v1", webhooks_to=target)
        await stop.wait()
        structlog.get_logger().info("sandbox.stopping")


def _signing_secret(settings: Settings) -> bytes:
    require_secrets(settings)
    folder, fixed = settings.webhook.secrets_dir, settings.webhook.fixed_secrets
    return (*fixed, *(read_secrets(folder) if folder else ()))[0].value


@contextlib.asynccontextmanager
async def simulated_webex(settings: Settings, *, token: str | None, stop: Stop) -> AsyncIterator[SimulatedWebex]:
    """A Webex that answers; its state is kept beside the journal. ``token`` None: it takes any."""
    sandbox = settings.sandbox
    with (
        contextlib.closing(_open(settings.journal.path)) as world,
        bound(sandbox.host, sandbox.port, setting="WEBEX_EVENTS_SANDBOX__PORT") as listener,
    ):
        app = create_app(world, token=token)
        async with Step("sandbox", serving(app, listener, stop=stop), limit=REQUESTS, stop=stop):
            yield SimulatedWebex(
                world=world,
                address=url_of(listener),
                delivering=lambda target, secret: beside(Deliveries(target, secret).run(world), stop=stop),
                living=partial(_living, world, sandbox.pace, stop=stop),
            )


@contextlib.asynccontextmanager
async def _living(world: World, pace: float, *, stop: Stop) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(beside(run_clock(world), stop=stop))
        if pace > 0:
            simulation = run_simulation(world, Pace(fastest=pace / 2, slowest=pace * 1.5))
            await stack.enter_async_context(beside(simulation, stop=stop))
        yield


def _open(folder: Path) -> World:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "sandbox.db").touch(mode=0o600)
        return World.open(folder / "sandbox.db", now=utc_now)
    except OSError as error:
        reason = error.strerror
    except sqlite3.Error as error:
        reason = str(error)  # in use by another process, or no SQLite file
    raise SettingsError((Problem(f"{folder} cannot hold the sandbox's state ({reason})"),))
