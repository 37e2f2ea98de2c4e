"""Orders of an operator: ``pause``, ``resume``, ``policy confirm``, ``registrants release``.

Each group here has no name of its own: its commands stand with the group that it is added to.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

import msgspec
import typer

from service.cli.api.connection import api_settings
from service.cli.bus_client import BusClient, over_bus
from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command, Group
from service.cli.orders import PATIENCE, Organization, Wait, give, keys_of, order
from service.core.identifiers import series_of
from service.core.ledger import KnownMeeting, PolicyRecord
from service.core.message import UNREADABLE
from service.settings import Settings

#: Registrants of one order: a record has to hold them.
MOST_REGISTRANTS = 1000

_VERSION = re.compile(r"[0-9a-f]{12}")

#: As Webex's ids are; a thousand of them fit into a record.
_REGISTRANT = re.compile(r"[!-.0-~]{1,256}")

operate_app = typer.Typer(cls=Group)
confirm_app = typer.Typer(cls=Group)
release_app = typer.Typer(cls=Group)


@operate_app.command("pause", cls=Command, epilog="webex-events pause\nwebex-events pause --organization emea --wait 0")
def pause(organization: Organization = None, wait: Wait = PATIENCE) -> None:
    """Stop every write to Webex until `resume`, over restarts too; looking and publishing go on."""
    settings = api_settings()
    keys = keys_of(settings, organization)
    give(order("pause"), keys, wait, said="Nothing is written to Webex any more", otherwise=_brake(settings))


def _brake(settings: Settings) -> str:
    """What stops the writes also where no order comes through: processors read the policy's file again by themselves."""
    file = settings.policy.file
    named = f"the policy file ({file})" if file else "the policy file (WEBEX_EVENTS_POLICY__FILE of the processors)"
    return f"The quick brake: `paused: true` in {named} stops every write within 10 s, whatever waits on the bus."


@operate_app.command("resume", cls=Command, epilog="webex-events resume\nwebex-events resume --organization emea")
def resume(organization: Organization = None, wait: Wait = PATIENCE) -> None:
    """Take `pause` back: what waited is done now. `paused: true` in the policy file stays what it is."""
    give(order("resume"), keys_of(api_settings(), organization), wait, said="The pause is over")


@confirm_app.command(
    "confirm",
    cls=Command,
    epilog="webex-events policy confirm 0123456789ab\nwebex-events policy confirm 0123456789ab --organization emea",
)
def confirm(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As the log and `policy check` show it.")],
    organization: Organization = None,
    wait: Wait = PATIENCE,
) -> None:
    """Let a new version of the policy, held for changing too much at once, change what it does."""
    if not _VERSION.fullmatch(version):
        end("A version is 12 hex digits; `webex-events policy check FILE` shows it.", WRONG)
    settings = api_settings()
    keys = _on_trial(settings, version, keys_of(settings, organization))
    give(order("confirm", policy=version), keys, wait, said=f"Version {version} is confirmed")


def _on_trial(settings: Settings, version: str, keys: list[str]) -> list[str]:
    """Those of ``keys`` that have the version on trial; said of the others. Ends with exit code 1 where there is none."""
    found = over_bus(settings, lambda bus: _trials(bus, keys), create=False)
    trying = [key for key in keys if found.get(key) == version]
    others = [
        f"Version {version} is not on trial; on trial is {found.get(key) or 'none'} ({key})."
        for key in keys
        if key not in trying
    ]
    if not trying:
        end("\n".join(others), FAILED)
    for sentence in others:
        typer.echo(sentence, err=True)
    return trying


async def _trials(bus: BusClient, keys: Collection[str]) -> dict[str, str]:
    """The version on trial of each organisation, as the ledger has it; "" for none."""
    found = dict[str, str]()
    for partition in await bus.partitions("ledger"):
        async for record in bus.read("ledger", partition):
            kind, _, key = record.key.partition("/")
            if kind == "policy" and key in keys:
                found[key] = _trial(record.value)
    return found


def _trial(value: bytes | None) -> str:
    try:
        return msgspec.json.decode(value, type=PolicyRecord).trial if value is not None else ""
    except UNREADABLE:
        return ""


@release_app.command(
    "release",
    cls=Command,
    epilog=(
        "webex-events registrants release MEETING_ID REGISTRANT_ID\n"
        "webex-events registrants release MEETING_ID REGISTRANT_ID REGISTRANT_ID --organization emea"
    ),
)
def release(
    meeting: Annotated[str, typer.Argument(metavar="MEETING_ID", help="The meeting series.")],
    registrants: Annotated[list[str], typer.Argument(metavar="REGISTRANT_ID...", help="Who.")],
    organization: Organization = None,
    wait: Wait = PATIENCE,
) -> None:
    """Let the policy decide again about registrants whom a person put back or who were decided, once they are pending."""
    series = series_of(meeting)
    if series is None:
        end(f"{meeting} is not the id of a meeting.", WRONG)
    if len(registrants) > MOST_REGISTRANTS:
        end(f"At most {MOST_REGISTRANTS} registrants at a time.", WRONG)
    if wrong := [each for each in registrants if not _REGISTRANT.fullmatch(each)]:
        end(f"{wrong[0]!r} is not the id of a registrant.", WRONG)
    wanted = order("release", series=series, registrants=list(dict.fromkeys(registrants)))
    keys = _whose(series, keys_of(api_settings(), organization))
    said = f"The policy decides again about {len(wanted.registrants)} registrants as soon as they are pending"
    give(wanted, keys, wait, said=said)


def _whose(series: str, keys: list[str]) -> list[str]:
    """The one of ``keys`` that the meeting belongs to. Ends with exit code 1 where the ledger does not know."""
    if len(keys) == 1:
        return keys
    found = over_bus(api_settings(), lambda bus: _organization_of(bus, series), create=False)
    if found not in keys:
        end(f"The ledger does not know meeting {series}; --organization says whose it is.", FAILED)
    return [found]


async def _organization_of(bus: BusClient, series: str) -> str:
    """As the ledger knows it, else ""."""
    key, found = f"meeting/{series}", ""
    for partition in await bus.partitions("ledger"):
        async for record in bus.read("ledger", partition):
            if record.key == key:
                found = _organization(record.value)
    return found


def _organization(value: bytes | None) -> str:
    try:
        return msgspec.json.decode(value, type=KnownMeeting).organization if value is not None else ""
    except UNREADABLE:
        return ""
