"""The roles of the program, each built here from the settings and handed its collaborators."""

from __future__ import annotations

import contextlib
import random
import secrets as chance
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta

import structlog

from service.cli.buses import Bus, opened_bus
from service.cli.clock import utc_now
from service.cli.credentials import credentials, tenants
from service.cli.policy_file import LivePolicy
from service.cli.secret_files import LiveSecrets
from service.cli.serving import Stop, beside, bound, running, serving, url_of
from service.controllers.backlog import Backlog
from service.controllers.ledger import Ledger
from service.controllers.organizations import OrganizationsController
from service.controllers.ownership import Ownership
from service.controllers.processor import Processor
from service.controllers.registrants import RegistrantsController
from service.controllers.sweep import Intervals, Sweep
from service.controllers.task import Task
from service.receiver.app import create_app as receiver_app
from service.settings import Settings, require_secrets
from service.telemetry.admin import create_app as admin_app
from service.telemetry.metrics import Metrics
from service.webex.api import WebexApi
from service.webex.client import Wiring
from service.webex.rate import Budget
from service.webex.tenant import Tenant
from service.webex.tokens import Credential

#: The topic that the processors consume.
WORK = "work"


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
    """The listener for probes and metrics; gives its address."""
    app = admin_app(live=lambda: True, ready=lambda: ready() and bus.can_store(), metrics=metrics)
    with bound(settings.admin.host, settings.admin.port, setting="WEBEX_EVENTS_ADMIN__PORT") as listener:
        async with serving(app, listener):
            yield url_of(listener)


@contextlib.asynccontextmanager
async def processing(
    settings: Settings, bus: Bus, metrics: Metrics, policy: LivePolicy, found: Mapping[str, Credential], *, stop: Stop
) -> AsyncIterator[None]:
    """The processor at work, with a credential for each organisation; when it ends by itself, ``stop`` is set and its error
    is raised at the end.
    """
    wiring = Wiring(
        traceparent=lambda: structlog.contextvars.get_contextvars().get("traceparent"),
        observe=metrics.webex_called,
    )
    async with tenants(settings, found, wiring) as opened:
        for key, tenant in opened.items():
            _watch_budget(metrics, key, tenant.client.budget)
        processor = _processor(settings, bus, metrics, policy, opened)
        async with beside(policy.watch(), stop=stop), running(processor.run(stop), stop=stop):
            yield


def _watch_budget(metrics: Metrics, key: str, budget: Budget) -> None:
    metrics.watch_webex(
        key,
        rate=lambda: budget.state().rate,
        throttled_for=lambda: budget.throttled_for,
        circuit_open=lambda: budget.state().circuit_open,
    )


def _processor(
    settings: Settings, bus: Bus, metrics: Metrics, policy: LivePolicy, opened: Mapping[str, Tenant]
) -> Processor:
    instance = _instance(settings)
    ledger = Ledger(reader=bus.reader, publisher=bus.publisher)
    ownership = Ownership(ledger, instance=instance, now=utc_now)
    controller = RegistrantsController(
        webex=lambda task: _calls(opened, task),
        ledger=ledger,
        ownership=ownership,
        policy=policy,
        observer=metrics,
        receiver=instance,
        now=utc_now,
    )
    backlog = Backlog()
    intervals = Intervals(
        look=timedelta(seconds=settings.sweep.interval), full_look=timedelta(seconds=settings.sweep.full_interval)
    )
    return Processor(
        consumer=bus.consumer(WORK, settings.kafka.group),
        publisher=bus.publisher,
        ledger=ledger,
        ownership=ownership,
        controller=controller,
        organizations=OrganizationsController(tenants=opened, ledger=ledger, backlog=backlog, observer=metrics),
        backlog=backlog,
        sweep=Sweep(ledger=ledger, backlog=backlog, intervals=intervals, now=utc_now),
        observer=metrics,
        now=utc_now,
        chance=random.random,
    )


def _instance(settings: Settings) -> str:
    """The owner's name in the ledger. Only a name that is one process' own lets it write at once after a restart."""
    if settings.bus == "journal":
        return "journal"  # its lock lets one process in
    return settings.kafka.instance_id or f"{socket.gethostname()}-{chance.token_hex(4)}"


def _calls(opened: Mapping[str, Tenant], task: Task) -> WebexApi:
    tenant = opened[task.place.organization]
    return tenant.sweeping if task.swept else tenant.api
