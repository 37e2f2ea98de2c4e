"""A whole processor over a desk: everything real but Webex, which is at its port."""

from __future__ import annotations

from datetime import timedelta

from service.bus.journal_bus import JournalConsumer
from service.controllers.backlog import Backlog
from service.controllers.commands import CommandsController
from service.controllers.discovery import Discovery
from service.controllers.letters import Letters
from service.controllers.meetings import MeetingsController
from service.controllers.orders import Orders
from service.controllers.organizations import OrganizationsController
from service.controllers.processor import Processor
from service.controllers.series import SeriesController
from service.controllers.sponsors import Sponsors
from service.controllers.sweep import Intervals, Sweep
from service.controllers.worker import Worker
from service.core.commands import Allowed
from tests.controllers.conftest import Desk

GROUP = "processors"


def processor(
    desk: Desk,
    *,
    group: str = GROUP,
    interval: float = 3600,
    backlog: Backlog | None = None,
    organizations: OrganizationsController | None = None,
    allow: tuple[str, ...] = (),
    discover: bool = False,
) -> Processor:
    """One that looks at ``desk``'s meetings, at the latest every ``interval`` seconds, with two workers.

    ``discover``: it also lists them, so that it finds the desk's meeting without any hint.
    """
    backlog = backlog or Backlog()
    consumer = JournalConsumer(desk.journal, topic="work", group=group)
    organizations = organizations or OrganizationsController(
        tenants=desk.tenants, ledger=desk.ledger, backlog=backlog, observer=desk.observer
    )
    intervals = Intervals(look=timedelta(seconds=interval), full_look=timedelta(hours=1))
    sweep = Sweep(ledger=desk.ledger, backlog=backlog, intervals=intervals, now=desk.clock)
    letters = Letters(publisher=desk.publisher, observer=desk.observer, receiver="test", topic="work", now=desk.clock)
    sponsors = Sponsors(tenants=desk.tenants, licence=2)
    return Processor(
        consumer=consumer,
        ledger=desk.ledger,
        ownership=desk.ownership,
        permission=desk.permission,
        policy=lambda: desk.policy,
        letters=letters,
        orders=Orders(ledger=desk.ledger, backlog=backlog, sweep=sweep, now=desk.clock),
        worker=Worker(
            consumer=consumer,
            ledger=desk.ledger,
            letters=letters,
            series=series(desk),
            commands=commands(desk, sponsors, Allowed(operations=allow)),
            organizations=organizations,
            backlog=backlog,
            sweep=sweep,
            observer=desk.observer,
            now=desk.clock,
            chance=lambda: 0.0,
        ),
        organizations=organizations,
        sponsors=sponsors,
        backlog=backlog,
        sweep=sweep,
        discovery=Discovery(
            tenants=desk.tenants,
            ledger=desk.ledger,
            backlog=backlog,
            observer=desk.observer,
            hosts=(),
            interval=timedelta(seconds=3600),
            partition_of=consumer.partition_of,
            usable=organizations.usable if discover else lambda _: False,
            now=desk.clock,
        ),
        observer=desk.observer,
        now=desk.clock,
        workers=2,
    )


def series(desk: Desk) -> SeriesController:
    """Looks at one series."""
    meetings = MeetingsController(
        webex=lambda task: desk.tenants[task.place.organization].api,
        ledger=desk.ledger,
        permission=desk.permission,
        policy=lambda: desk.policy,
        observer=desk.observer,
        receiver="test",
        now=desk.clock,
    )
    return SeriesController(
        webex=lambda task: desk.tenants[task.place.organization].api,
        ledger=desk.ledger,
        meetings=meetings,
        registrants=desk.controller,
        now=desk.clock,
    )


def commands(desk: Desk, sponsors: Sponsors, allowed: Allowed) -> CommandsController:
    """Carries out commands."""
    return CommandsController(
        tenants=desk.tenants,
        ledger=desk.ledger,
        permission=desk.permission,
        sponsors=sponsors,
        allowed=allowed,
        observer=desk.observer,
        receiver="test",
        now=desk.clock,
        restricted=False,
    )
