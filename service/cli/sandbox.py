"""The simulated Webex as a process of its own, or as a part of `dev`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from service.cli.clock import utc_now
from service.cli.serving import Stop, beside, bound, serving, url_of
from service.core.errors import Problem, SettingsError
from service.sandbox.app import create_app
from service.sandbox.deliveries import Deliveries
from service.sandbox.simulation import Pace, run_simulation
from service.sandbox.world import World
from service.settings import Settings, require_secrets

#: Starts people registering, and delivers webhooks to an address, signed with a secret.
Deliver = Callable[[str, bytes], AbstractAsyncContextManager[None]]


async def serve_sandbox(settings: Settings, stop: Stop, *, target: str | None) -> None:
    """The simulated Webex until ``stop``; webhooks go to ``target`` where there is one. Raises SettingsError."""
    if target is not None:
        require_secrets(settings)
    token = settings.webex.token.get_secret_value() if settings.webex.token else None
    async with contextlib.AsyncExitStack() as stack:
        _, address, deliver = await stack.enter_async_context(simulated_webex(settings, token=token, stop=stop))
        if target is not None:
            await stack.enter_async_context(deliver(target, settings.webhook.fixed_secrets[0]))
        structlog.get_logger().info("sandbox.started", webex=f"{address}/v1", webhooks_to=target)
        await stop.wait()


@contextlib.asynccontextmanager
async def simulated_webex(
    settings: Settings, *, token: str | None, stop: Stop
) -> AsyncIterator[tuple[World, str, Deliver]]:
    """The world, its address, and a way to let it live; its state is kept beside the journal."""
    sandbox = settings.sandbox
    with (
        contextlib.closing(_open(settings.journal.path)) as world,
        bound(sandbox.host, sandbox.port, setting="WEBEX_EVENTS_SANDBOX__PORT") as listener,
    ):
        pace = Pace(fastest=sandbox.pace / 2, slowest=sandbox.pace * 1.5)

        @contextlib.asynccontextmanager
        async def deliver(target: str, secret: bytes) -> AsyncIterator[None]:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(beside(Deliveries(target, secret).run(world), stop=stop))
                if sandbox.pace > 0:
                    await stack.enter_async_context(beside(run_simulation(world, pace), stop=stop))
                yield

        async with serving(create_app(world, token=token), listener):
            yield world, url_of(listener), deliver


def _open(folder: Path) -> World:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return World.open(folder / "sandbox.db", now=utc_now)
    except OSError as error:
        raise SettingsError((Problem(f"{folder} cannot hold the sandbox's state ({error.strerror})"),)) from error
