"""The roles of the program and their listeners, built here from the settings.

What is entered first ends last: requests, then the private listener, then what Kafka has not acknowledged, then the journal.
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
from service.telemetry.admin import create_app as admin_app
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress
from service.telemetry.records import record_routes


async def serve_receiver(settings: Settings, stop: Stop) -> None:
    """Verify, normalize, make durable, answer: until ``stop``. Raises SettingsError, JournalError."""
    require_secrets(settings)
    live = LiveSecrets(fixed=settings.webhook.fixed_secrets, folder=settings.webhook.secrets_dir)
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        async with unless_stopped(stop):
            bus = await enter(opened_bus(settings, stop=stop, spool=True))
            await enter(beside(live.watch(), stop=stop))
            health = Health(stop=stop, progress=Progress(), unready=bus.unready, stuck=bus.stuck)
            await enter(private_listener(settings, bus, metrics, health, stop=stop))
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
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        async with unless_stopped(stop):
            bus = await enter(opened_bus(settings, stop=stop, spool=False))
            health = Health(stop=stop, progress=progress, unready=bus.unready, stuck=bus.stuck)
            await enter(private_listener(settings, bus, metrics, health, stop=stop))
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


@contextlib.asynccontextmanager
async def private_listener(
    settings: Settings, bus: Bus, metrics: Metrics, health: Health, *, stop: Stop
) -> AsyncIterator[str]:
    """The listener for probes and metrics, and on the journal for our own command line; gives its address."""
    embedded, token = settings.bus == "journal", new_token()
    routes = record_routes(bus.reader, bus.publisher, token=token) if embedded else ()
    app = admin_app(stuck=health.stuck, unready=health.unready, metrics=metrics, more=routes)
    bus.measured_by(metrics)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(beside(health.keep(), stop=stop))
        address = (settings.admin.host, settings.admin.port)
        listener = stack.enter_context(bound(*address, setting="WEBEX_EVENTS_ADMIN__PORT"))
        probes = Step("probes", serving(app, listener, stop=stop, drain=1), limit=PROBES, stop=stop)
        await stack.enter_async_context(probes)
        url = url_of(listener)
        if embedded:
            stack.enter_context(announced(settings.journal.path, Announcement(url, token)))
        yield url
