"""The processor, plugged together: every collaborator is built here, once, and handed down as an argument."""

from __future__ import annotations

import contextlib
import random
import secrets as chance
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service.cli.buses import Bus
from service.cli.clock import utc_now
from service.cli.credentials import tenants
from service.cli.followed import FollowedConsumer
from service.cli.policy_file import LivePolicy
from service.cli.serving import beside, running
from service.cli.shutdown import CALLS, PROCESSING, Step, Stop
from service.controllers.backlog import Backlog
from service.controllers.commands import CommandsController
from service.controllers.discovery import Discovery
from service.controllers.intake import LOOP as TAKING_IN_COMMANDS
from service.controllers.intake import Intake
from service.controllers.ledger import Ledger
from service.controllers.letters import Letters
from service.controllers.meetings import MeetingsController
from service.controllers.orders import Orders
from service.controllers.organizations import OrganizationsController
from service.controllers.ownership import Ownership
from service.controllers.permission import Permission
from service.controllers.processor import LOOPS, Processor
from service.controllers.registrants import RegistrantsController
from service.controllers.series import SeriesController
from service.controllers.sponsors import Sponsors
from service.controllers.sweep import Intervals, Sweep
from service.controllers.task import Task
from service.controllers.worker import Worker
from service.core.commands import Allowed
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.progress import Progress
from service.webex.api import WebexApi
from service.webex.client import Wiring
from service.webex.commanding import Catalogue
from service.webex.rate import Budget
from service.webex.tenant import Tenant
from service.webex.tokens import Credential

#: The topic that the processors consume, and the one from which they take commands.
WORK, COMMANDS = "work", "commands"


@contextlib.asynccontextmanager
async def processing(
    settings: Settings,
    bus: Bus,
    metrics: Metrics,
    policy: LivePolicy,
    found: Mapping[str, Credential],
    progress: Progress,
    *,
    stop: Stop,
) -> AsyncIterator[None]:
    """The processor at work, with a credential for each organisation; when it ends by itself, ``stop`` is set and its error
    is raised at the end.
    """
    wiring = Wiring(
        traceparent=lambda: structlog.contextvars.get_contextvars().get("traceparent"),
        observe=metrics.webex_called,
    )
    async with Step("calls", tenants(settings, found, wiring), limit=CALLS, stop=stop) as opened:
        for key, tenant in opened.items():
            _watch_budget(metrics, key, tenant.client.budget)
            metrics.watch_token(key, tenant.token_ends)
        if settings.policy.file:
            metrics.watch_reload("policy", policy)
        plan = _Plan(settings, bus, metrics, policy, opened, progress)
        for loop in (*LOOPS, TAKING_IN_COMMANDS):
            progress.watch(loop, should=bus.healthy)  # without its bus it waits, and would wait after a restart
        async with (
            beside(policy.watch(), stop=stop),
            Step("commands", running(plan.intake().run(stop), stop=stop), limit=PROCESSING, stop=stop),
            Step("work", running(plan.processor().run(stop), stop=stop), limit=PROCESSING, stop=stop),
        ):
            yield


def _watch_budget(metrics: Metrics, key: str, budget: Budget) -> None:
    metrics.watch_webex(
        key,
        rate=lambda: budget.state().rate,
        throttled_for=lambda: budget.throttled_for,
        circuit_open=lambda: budget.state().circuit_open,
    )


def _instance(settings: Settings) -> str:
    """The owner's name in the ledger. Only a name that is one process' own lets it write at once after a restart."""
    if settings.bus == "journal":
        return "journal"  # its lock lets one process in
    return settings.kafka.instance_id or f"{socket.gethostname()}-{chance.token_hex(4)}"


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word for word in words.split(",") if word)


@dataclass(frozen=True)
class _Shared:
    """What nearly every collaborator needs; there is one of each."""

    consumer: FollowedConsumer
    instance: str
    backlog: Backlog
    ledger: Ledger
    ownership: Ownership
    permission: Permission
    letters: Letters


class _Plan:
    """How the processor is put together."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        metrics: Metrics,
        policy: LivePolicy,
        opened: Mapping[str, Tenant],
        progress: Progress,
    ) -> None:
        self._settings, self._bus, self._metrics, self._policy, self._opened = settings, bus, metrics, policy, opened
        self._progress = progress
        self._instance = _instance(settings)

    def intake(self) -> Intake:
        """What takes commands in."""
        return Intake(
            consumer=self._consumer(COMMANDS, f"{self._settings.kafka.group}-commands"),
            publisher=self._bus.publisher,
            catalogue=Catalogue(),
            allow=self._allowed(),
            organizations=self._settings.webex.known,
            now=utc_now,
            letters=self._letters(COMMANDS),
            pulse=self._progress.beat,
        )

    def _consumer(self, topic: str, group: str) -> FollowedConsumer:
        consumer = FollowedConsumer(self._bus.consumer(topic, group))
        self._metrics.watch_consumer(topic, consumer)
        return consumer

    def _letters(self, topic: str) -> Letters:
        return Letters(
            publisher=self._bus.publisher, observer=self._metrics, receiver=self._instance, topic=topic, now=utc_now
        )

    def _allowed(self) -> Allowed:
        commands = self._settings.commands
        return Allowed(operations=_listed(commands.allow), hosts=_listed(commands.hosts), sites=_listed(commands.sites))

    def processor(self) -> Processor:
        """What owns organisations, and works for them."""
        shared = self._shared()
        organizations = OrganizationsController(
            tenants=self._opened,
            ledger=shared.ledger,
            backlog=shared.backlog,
            observer=self._metrics,
            partition_of=shared.consumer.partition_of,
        )
        sponsors = Sponsors(tenants=self._opened, licence=self._settings.guests.licence)
        sweep = self._sweep(shared)
        return Processor(
            consumer=shared.consumer,
            ledger=shared.ledger,
            ownership=shared.ownership,
            permission=shared.permission,
            policy=self._policy,
            letters=shared.letters,
            orders=Orders(ledger=shared.ledger, backlog=shared.backlog, sweep=sweep, now=utc_now),
            worker=self._worker(shared, organizations, sponsors, sweep),
            organizations=organizations,
            sponsors=sponsors,
            backlog=shared.backlog,
            sweep=sweep,
            discovery=self._discovery(shared, organizations),
            observer=self._metrics,
            now=utc_now,
            pulse=self._progress.beat,
        )

    def _shared(self) -> _Shared:
        ledger = Ledger(reader=self._bus.reader, publisher=self._bus.publisher, atomic=self._settings.bus == "journal")
        consumer = self._consumer(WORK, self._settings.kafka.group)
        ownership = Ownership(ledger, instance=self._instance, unconfirmed=consumer.unconfirmed, now=utc_now)
        return _Shared(
            consumer=consumer,
            instance=self._instance,
            backlog=Backlog(),
            ledger=ledger,
            ownership=ownership,
            permission=Permission(ledger=ledger, ownership=ownership, policy=self._policy),
            letters=self._letters(WORK),
        )

    def _worker(
        self, shared: _Shared, organizations: OrganizationsController, sponsors: Sponsors, sweep: Sweep
    ) -> Worker:
        commands = CommandsController(
            tenants=self._opened,
            ledger=shared.ledger,
            permission=shared.permission,
            sponsors=sponsors,
            allowed=self._allowed(),
            observer=self._metrics,
            receiver=self._instance,
            now=utc_now,
            usable=organizations.usable,
            doubt=organizations.doubt,
            restricted=self._settings.commands.restricted,
        )
        return Worker(
            consumer=shared.consumer,
            ledger=shared.ledger,
            letters=shared.letters,
            series=self._series(shared),
            commands=commands,
            organizations=organizations,
            backlog=shared.backlog,
            sweep=sweep,
            observer=self._metrics,
            now=utc_now,
            chance=random.random,
        )

    def _series(self, shared: _Shared) -> SeriesController:
        meetings = MeetingsController(
            webex=self._calls,
            ledger=shared.ledger,
            permission=shared.permission,
            policy=self._policy,
            observer=self._metrics,
            receiver=self._instance,
            now=utc_now,
        )
        registrants = RegistrantsController(
            webex=self._calls,
            ledger=shared.ledger,
            permission=shared.permission,
            policy=self._policy,
            observer=self._metrics,
            receiver=self._instance,
            now=utc_now,
        )
        return SeriesController(
            webex=self._calls, ledger=shared.ledger, meetings=meetings, registrants=registrants, now=utc_now
        )

    def _calls(self, task: Task) -> WebexApi:
        tenant = self._opened[task.place.organization]
        return tenant.sweeping if task.swept else tenant.api

    def _sweep(self, shared: _Shared) -> Sweep:
        sweep = self._settings.sweep
        intervals = Intervals(look=timedelta(seconds=sweep.interval), full_look=timedelta(seconds=sweep.full_interval))
        return Sweep(ledger=shared.ledger, backlog=shared.backlog, intervals=intervals, budget=self._rate, now=utc_now)

    def _rate(self, organization: str) -> float:
        """Calls per second that Webex allows now; none while it wants to be left alone."""
        tenant = self._opened.get(organization)
        if tenant is None:
            return 0.0
        budget = tenant.client.budget
        state = budget.state()
        return 0.0 if state.circuit_open or budget.throttled_for > 0 else state.rate

    def _discovery(self, shared: _Shared, organizations: OrganizationsController) -> Discovery:
        sweep = self._settings.sweep
        return Discovery(
            tenants=self._opened,
            ledger=shared.ledger,
            backlog=shared.backlog,
            observer=self._metrics,
            hosts=_listed(sweep.hosts),
            interval=timedelta(seconds=sweep.discovery_interval),
            partition_of=shared.consumer.partition_of,
            usable=organizations.usable,
            now=utc_now,
        )
