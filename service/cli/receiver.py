"""The role ``receiver`` and its public listener, built here from the settings.

What is entered first ends last: requests, then the private listener, then what Kafka has not acknowledged, then the journal.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import structlog

from service.cli.buses import Bus, opened_bus
from service.cli.clock import rfc3339_now, utc_now
from service.cli.garbage import spare_what_stays
from service.cli.health import Health
from service.cli.private_listener import private_listener
from service.cli.process_limits import room_for
from service.cli.secret_files import LiveSecrets
from service.cli.serving import beside, bound, serving, url_of
from service.cli.shutdown import REQUESTS, Step, Stop, unless_stopped
from service.receiver.app import create_app
from service.receiver.asgi import Asgi
from service.receiver.connections import Connections, GuardLimits
from service.receiver.direct import Direct
from service.receiver.endpoint import Endpoint, understanding
from service.receiver.rejects import Keeping, Rejects
from service.receiver.tracing import Tracing
from service.settings import Settings, require_secrets
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress


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
            spare_what_stays()
            health.started = True
            structlog.get_logger().info("receiver.started", webhook=f"{address}/webhooks/webex", bus=settings.bus)
        await stop.wait()
        structlog.get_logger().info("receiver.stopping")


@contextlib.asynccontextmanager
async def public_listener(
    settings: Settings, bus: Bus, metrics: Metrics, live: LiveSecrets, *, stop: Stop
) -> AsyncIterator[str]:
    """The receiver's listener; gives its address."""
    if settings.webhook.secrets_dir:
        metrics.watch_reload("secrets", live)
    rejects = _rejects(settings, live)
    endpoint = _endpoint(settings, bus, metrics, live, rejects)
    connections = _connections(settings, metrics, body_bytes=endpoint.limits.body_bytes)
    direct = partial(Direct, connections=connections, endpoint=endpoint)
    protocol = direct if settings.receiver.direct else partial(Asgi, connections=connections)
    app = create_app(endpoint, guarded=True)
    address = (settings.receiver.host, settings.receiver.port)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        listener = stack.enter_context(bound(*address, setting="WEBEX_EVENTS_RECEIVER__PORT"))
        await enter(beside(rejects.run(), stop=stop))  # all three until the last request has its answer
        await enter(beside(endpoint.keep(), stop=stop))
        await enter(beside(connections.keep(), stop=stop))
        requests = serving(app, listener, stop=stop, protocol=protocol)
        await enter(Step("requests", requests, limit=REQUESTS, stop=stop))
        yield url_of(listener)


def _rejects(settings: Settings, live: LiveSecrets) -> Rejects:
    kept = settings.rejects
    keeping = Keeping(most=kept.max, retention=timedelta(seconds=kept.retention), bodies=kept.bodies)
    folder, mode = settings.journal.path, settings.webhook.signatures
    return Rejects(folder=folder, secrets=live, mode=mode, now=utc_now, keeping=keeping)


def _endpoint(settings: Settings, bus: Bus, metrics: Metrics, live: LiveSecrets, rejects: Rejects) -> Endpoint:
    return Endpoint(
        publisher=bus.receiving,
        secrets=live,
        mode=settings.webhook.signatures,
        understand=understanding(receiver=socket.gethostname(), organizations=settings.webex.known),
        now=rfc3339_now,
        observe=metrics,
        tracing=Tracing(settings.tracing.ratio),
        rejections=rejects,
    )


def _connections(settings: Settings, metrics: Metrics, *, body_bytes: int) -> Connections:
    receiver = settings.receiver
    most = room_for(receiver.max_connections)
    if most < receiver.max_connections:
        advice = "raise the limit of open files (ulimit -n, LimitNOFILE), or set RECEIVER__MAX_CONNECTIONS"
        structlog.get_logger().warning("receiver.few_files", connections=most, advice=advice)
    limits = GuardLimits(body_bytes, connections=most, per_source=receiver.max_connections_per_source)
    connections = Connections(observe=metrics, limits=limits)
    metrics.watch_connections(lambda: len(connections))
    return connections
