"""The roles of the program and their listeners, built here from the settings."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import structlog

from service.cli.announcement import Announcement, announced, new_token
from service.cli.buses import Bus, opened_bus
from service.cli.clock import utc_now
from service.cli.credentials import credentials
from service.cli.policy_file import LivePolicy
from service.cli.processing import processing
from service.cli.secret_files import LiveSecrets
from service.cli.serving import Stop, beside, bound, serving, url_of
from service.receiver.app import create_app as receiver_app
from service.settings import Settings, require_secrets
from service.telemetry.admin import create_app as admin_app
from service.telemetry.metrics import Metrics
from service.telemetry.records import record_routes


async def serve_receiver(settings: Settings, stop: Stop) -> None:
    """Verify, normalize, make durable, answer: until ``stop``. Raises SettingsError, JournalError."""
    require_secrets(settings)
    live = LiveSecrets(fixed=settings.webhook.fixed_secrets, folder=settings.webhook.secrets_dir)
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        bus = await stack.enter_async_context(opened_bus(settings, stop=stop, spool=True))
        await stack.enter_async_context(beside(live.watch(), stop=stop))
        await stack.enter_async_context(private_listener(settings, bus, metrics, ready=bus.can_store))
        address = await stack.enter_async_context(public_listener(settings, bus, metrics, live))
        structlog.get_logger().info("receiver.started", webhook=f"{address}/webhooks/webex", bus=settings.bus)
        await stop.wait()
        structlog.get_logger().info("receiver.stopping")


async def serve_processor(settings: Settings, stop: Stop) -> None:
    """Look, decide, act, verify: until ``stop``. Raises SettingsError, PolicyError, JournalError."""
    found = credentials(settings)
    policy = LivePolicy(settings.policy.file)
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        bus = await stack.enter_async_context(opened_bus(settings, stop=stop, spool=False))
        await stack.enter_async_context(processing(settings, bus, metrics, policy, found, stop=stop))
        await stack.enter_async_context(private_listener(settings, bus, metrics, ready=lambda: not stop.is_set()))
        structlog.get_logger().info(
            "processor.started", policy=policy().version, bus=settings.bus, organizations=len(found)
        )
        await stop.wait()
        structlog.get_logger().info("processor.stopping")


@contextlib.asynccontextmanager
async def public_listener(settings: Settings, bus: Bus, metrics: Metrics, live: LiveSecrets) -> AsyncIterator[str]:
    """The receiver's listener; gives its address."""
    app = receiver_app(
        publisher=bus.publisher,
        secrets=live,
        mode=settings.webhook.signatures,
        receiver=socket.gethostname(),
        now=utc_now,
        observe=metrics,
        organizations=settings.webex.known,
    )
    metrics.watch_publisher(healthy=bus.healthy, journal_rows=bus.waiting)
    host, port = settings.receiver.host, settings.receiver.port
    with bound(host, port, setting="WEBEX_EVENTS_RECEIVER__PORT") as listener:
        async with serving(app, listener):
            yield url_of(listener)


@contextlib.asynccontextmanager
async def private_listener(
    settings: Settings, bus: Bus, metrics: Metrics, *, ready: Callable[[], bool]
) -> AsyncIterator[str]:
    """The listener for probes and metrics, and on the journal for our own command line; gives its address."""
    embedded, token = settings.bus == "journal", new_token()
    routes = record_routes(bus.reader, bus.publisher, token=token) if embedded else ()
    app = admin_app(live=lambda: True, ready=lambda: ready() and bus.can_store(), metrics=metrics, more=routes)
    with contextlib.ExitStack() as stack:
        address = (settings.admin.host, settings.admin.port)
        listener = stack.enter_context(bound(*address, setting="WEBEX_EVENTS_ADMIN__PORT"))
        async with serving(app, listener):
            url = url_of(listener)
            if embedded:
                stack.enter_context(announced(settings.journal.path, Announcement(url, token)))
            yield url
