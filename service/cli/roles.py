"""The roles of the program and their listeners, built here from the settings.

What is entered first ends last: requests, then the private listener, then what Kafka has not acknowledged, then the journal.
The private listener alone begins before its turn: to verify the journal may take minutes, and whoever gets no answer from a
probe for so long would end the process, and have it begin anew.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import structlog

from service.cli.announcement import Announcement, announced, new_token
from service.cli.buses import Bus, opened_bus
from service.cli.clock import utc_now
from service.cli.credentials import credentials
from service.cli.health import Health
from service.cli.policy_file import LivePolicy
from service.cli.processing import processing
from service.cli.secret_files import LiveSecrets
from service.cli.serving import beside, bound, serving, url_of
from service.cli.shutdown import PROBES, REQUESTS, Step, Stop, unless_stopped
from service.receiver.app import create_app as receiver_app
from service.settings import Settings, require_secrets
from service.telemetry.admin import PrivateApp, add_routes
from service.telemetry.admin import create_app as admin_app
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress
from service.telemetry.records import record_routes


async def serve_receiver(settings: Settings, stop: Stop) -> None:
    """Verify, normalize, make durable, answer: until ``stop``. Raises SettingsError, JournalError."""
    require_secrets(settings)
    live = LiveSecrets(fixed=settings.webhook.fixed_secrets, folder=settings.webhook.secrets_dir)
    metrics, health = Metrics(), Health(stop=stop, progress=Progress())
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        async with unless_stopped(stop):
            private = await enter(private_listener(settings, metrics, health, stop=stop))
            bus = await enter(opened_bus(settings, stop=stop, spool=True, tell=health.starting))
            await enter(beside(live.watch(), stop=stop))
            await enter(private.showing(bus))
            address = await enter(public_listener(settings, bus, metrics, live, stop=stop))
            health.started = True
            structlog.get_logger().info("receiver.started", webhook=f"{address}/webhooks/webex", bus=settings.bus)
        await stop.wait()
        structlog.get_logger().info("receiver.stopping")


async def serve_processor(settings: Settings, stop: Stop) -> None:
    """Look, decide, act, verify: until ``stop``. Raises SettingsError, PolicyError, JournalError."""
    found = credentials(settings)
    policy = LivePolicy(settings.policy.file)
    metrics, progress = Metrics(), Progress()
    metrics.watch_loops(progress.ages)
    health = Health(stop=stop, progress=progress)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        async with unless_stopped(stop):
            private = await enter(private_listener(settings, metrics, health, stop=stop))
            bus = await enter(opened_bus(settings, stop=stop, spool=False, tell=health.starting))
            await enter(private.showing(bus))
            await enter(processing(settings, bus, metrics, policy, found, progress, stop=stop))
            health.started = True
            structlog.get_logger().info(
                "processor.started", policy=policy().version, bus=settings.bus, organizations=len(found)
            )
        await stop.wait()
        structlog.get_logger().info("processor.stopping")


@contextlib.asynccontextmanager
async def public_listener(
    settings: Settings, bus: Bus, metrics: Metrics, live: LiveSecrets, *, stop: Stop
) -> AsyncIterator[str]:
    """The receiver's listener; gives its address."""
    app = receiver_app(
        publisher=bus.receiving,
        secrets=live,
        mode=settings.webhook.signatures,
        receiver=socket.gethostname(),
        now=utc_now,
        observe=metrics,
        organizations=settings.webex.known,
    )
    host, port = settings.receiver.host, settings.receiver.port
    with bound(host, port, setting="WEBEX_EVENTS_RECEIVER__PORT") as listener:
        async with Step("requests", serving(app, listener, stop=stop), limit=REQUESTS, stop=stop):
            yield url_of(listener)


class PrivateListener:
    """The listener for probes and metrics, at ``url``: there before the bus is, and gone before it."""

    def __init__(
        self, settings: Settings, app: PrivateApp, metrics: Metrics, health: Health, ends: contextlib.AsyncExitStack
    ) -> None:
        self._settings, self._app, self._metrics, self._health, self._ends = settings, app, metrics, health, ends
        self.url = ""

    async def begin(self, *, stop: Stop) -> None:
        """Listen. Raises SettingsError."""
        await self._ends.enter_async_context(beside(self._health.keep(), stop=stop))
        address = (self._settings.admin.host, self._settings.admin.port)
        listener = self._ends.enter_context(bound(*address, setting="WEBEX_EVENTS_ADMIN__PORT"))
        probes = serving(self._app, listener, stop=stop, drain=1)
        await self._ends.enter_async_context(Step("probes", probes, limit=PROBES, stop=stop))
        self.url = url_of(listener)

    @contextlib.asynccontextmanager
    async def showing(self, bus: Bus) -> AsyncIterator[None]:
        """Speak of ``bus`` too, and where that is the journal, let our own command line ask for it. The end of the block
        is the end of the listener.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._ends.aclose)
            self._health.ask_bus(unready=bus.unready, stuck=bus.stuck)
            bus.measured_by(self._metrics)
            if self._settings.bus == "journal":
                token = new_token()
                add_routes(self._app, record_routes(bus.reader, bus.publisher, token=token))
                stack.enter_context(announced(self._settings.journal.path, Announcement(self.url, token)))
            yield


@contextlib.asynccontextmanager
async def private_listener(
    settings: Settings, metrics: Metrics, health: Health, *, stop: Stop
) -> AsyncIterator[PrivateListener]:
    """The listener, which answers from now on. Raises SettingsError."""
    app = admin_app(stuck=health.stuck, unready=health.unready, metrics=metrics)
    async with contextlib.AsyncExitStack() as ends:
        listener = PrivateListener(settings, app, metrics, health, ends)
        await listener.begin(stop=stop)
        yield listener
