"""Giving an order to whoever owns the organisations, and seeing that it was obeyed.

An order is a record on ``work``: it waits there until a processor obeys it. The processor answers in the ledger, so that is
where we look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer

from service.bus.kafka_partitioner import partition_for
from service.cli.api.connection import api_settings
from service.cli.bus_client import BusClient, over_bus
from service.cli.clock import utc_now
from service.cli.endings import NOT_NOW, WRONG, end
from service.core import work
from service.core.event import rfc3339
from service.core.ledger import PolicyRecord
from service.core.message import UNREADABLE, Received
from service.core.organizations import organization_id
from service.core.work import Order
from service.settings import Settings

#: How long (s) a command waits for its order to be obeyed, and how often it looks.
PATIENCE = 10.0
AGAIN = 0.25

#: ... and the longest that it can be told to.
LONGEST_WAIT = 86_400.0

#: Our clock and those of the processors may differ by so much.
SKEW = timedelta(minutes=5)

Organization = Annotated[
    str | None,
    typer.Option("--organization", metavar="NAME", help="Only this one, where the settings have several: name or id."),
]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait until it is so; 0: do not look.", min=0, max=LONGEST_WAIT)
]


def order(verb: str, **more: Any) -> Order:
    """An order, still for nobody."""
    return msgspec.convert({"kind": "order", "organization": "", "verb": verb, "at": rfc3339(utc_now()), **more}, Order)


def give(wanted: Order, keys: Sequence[str], wait: float, *, said: str, otherwise: str = "") -> None:
    """Give ``wanted`` to the owners of ``keys``, and wait until all have obeyed. Ends with exit code 4 where they have not.

    ``otherwise``: what else can be done where it is not so at once.
    """
    orders = [msgspec.structs.replace(wanted, organization=key) for key in keys]
    try:
        missing = over_bus(api_settings(), lambda bus: given(bus, orders, wait), create=False)
    except typer.Exit:  # the sentence why was said
        _say(otherwise)
        raise
    if wait == 0:
        typer.echo("The order is stored; it is obeyed as soon as a processor reads it.")
        _say(otherwise)
    elif missing:
        typer.echo(
            f"The order is stored, but within {wait:g} s nothing was heard of it for {', '.join(sorted(missing))}. "
            "It is obeyed as soon as a processor reads it.",
            err=True,
        )
        _say(otherwise)
        raise typer.Exit(NOT_NOW)
    else:
        typer.echo(f"{said} ({', '.join(keys)}).")


def _say(sentence: str) -> None:
    if sentence:
        typer.echo(sentence, err=True)


async def given(bus: BusClient, orders: Sequence[Order], wait: float) -> Collection[str]:
    """Publish them, and look for ``wait`` seconds; the organisations for which nothing says that they were obeyed."""
    since = utc_now() - SKEW
    partitions = await bus.partitions("ledger")
    missing = {each.organization: (each, _answers(each, len(partitions))) for each in orders}
    last = dict.fromkeys(partitions, -1)
    async for record in _news(bus, last, since):
        last[record.partition] = record.offset
    await bus.publish([work.to_message(each) for each in orders])
    deadline = asyncio.get_running_loop().time() + wait
    while any(keys for _, keys in missing.values()) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(AGAIN)
        async for record in _news(bus, last, since):
            last[record.partition] = record.offset
            for each, keys in missing.values():
                if record.key in keys and _says_so(each, record.value):
                    keys.discard(record.key)
    return [organization for organization, (_, keys) in missing.items() if keys]


async def _news(bus: BusClient, last: Mapping[int, int], since: datetime) -> AsyncIterator[Received]:
    """What is new in the ledger."""
    for partition in list(last):
        async for record in bus.read("ledger", partition, since=since):
            if record.offset > last[partition]:
                yield record


def _answers(given_: Order, partitions: int) -> set[str]:
    """The records of the ledger that are written when it is obeyed."""
    organization = given_.organization
    match given_.verb:
        case "confirm":
            return {f"policy/{organization}"}
        case "adopt":
            return {f"observing/{partition_for(organization, partitions)}"} if partitions else set()
        case "release":
            return {f"released/{given_.series}/{id_}" for id_ in given_.registrants}
        case _:
            return {f"paused/{organization}"}


def _says_so(given_: Order, value: bytes | None) -> bool:
    if given_.verb != "confirm":
        return (value is None) == (given_.verb in ("resume", "adopt"))
    try:
        return value is not None and msgspec.json.decode(value, type=PolicyRecord).accepted == given_.policy
    except UNREADABLE:
        return False


def keys_of(settings: Settings, organization: str | None) -> list[str]:
    """The keys of all organisations, or of the one with this name or id. Ends with exit code 2 where there is none."""
    known = settings.webex.known.known
    if organization is None:
        return [each.key for each in known]
    named = settings.webex.organizations.get(organization)
    bare = organization_id(named.id if named is not None else organization)
    found = [each.key for each in known if organization == each.key or (bare and bare == each.id)]
    if not found:
        names = ", ".join([each.key for each in known] + sorted(settings.webex.organizations))
        end(f"There is no organisation {organization} in the settings, but: {names}", WRONG)
    return found
