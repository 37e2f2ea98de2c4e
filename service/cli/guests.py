"""``webex-events guests sponsor``: a meeting between people without a licence, made once, with a link for everybody."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from service.cli.api import options
from service.cli.api.bodies import read_body
from service.cli.api.calls import show
from service.cli.api.connection import api_settings, talk
from service.cli.api.verbs import verbs_of
from service.cli.clock import utc_now
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.examples import Command
from service.cli.output import Format
from service.controllers.guests import OutcomeUnknown, Result, Sponsor, Sponsored, Unfinished
from service.core import guests
from service.core.guests import Refused
from service.webex.client import WebexClient
from service.webex.sponsoring import SponsoringApi

#: What Cisco's developer sandbox for guest-to-guest is licensed for; subscriptions have more.
LICENCE = 10

guests_app = verbs_of("guests")


_Title = Annotated[str | None, typer.Option(metavar="TEXT", help="Of the meeting.")]
_Start = Annotated[str | None, typer.Option(metavar="TIME", help="Of the meeting, ISO 8601 with an offset.")]
_End = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Of the meeting, ISO 8601 with an offset.")]
_Host = Annotated[str | None, typer.Option(metavar="PERSON", help='Who starts it: "Name <address>".')]
_Guests = Annotated[
    list[str] | None, typer.Option(metavar="PERSON", help='Who takes part: "Name <address>"; repeatable.')
]
_Minutes = Annotated[int | None, typer.Option(help="How long the links can be used, 1 to 60.")]
_Tokens = Annotated[options.TrueFalse | None, typer.Option(help="Make a guest token for everybody.")]
_Key = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Name of this request: one name makes one meeting, within about a week. Default: a new one.",
    ),
]
_Licence = Annotated[int, typer.Option(help="Meetings that the licence allows at the same time.", min=1)]
_Wait = Annotated[float, typer.Option(help="Seconds to wait for a place where the licence is full.", min=0)]


@guests_app.command(
    "sponsor",
    cls=Command,
    epilog=(
        "webex-events guests sponsor --body FILE\n"
        "webex-events guests sponsor --title Consultation --start 2027-01-10T09:00:00Z --end 2027-01-10T09:30:00Z "
        '--host "Ada <ada@example.org>" --guest "Bea <bea@example.net>"'
    ),
)
def sponsor(  # noqa: PLR0913 - each is an option
    body: options.Body = None,
    title: _Title = None,
    start: _Start = None,
    end_: _End = None,
    host: _Host = None,
    guest: _Guests = None,
    expiration_minutes: _Minutes = None,
    tokens: _Tokens = None,
    key: _Key = "",
    licence: _Licence = LICENCE,
    wait: _Wait = 0.0,
    organization: options.Organization = None,
    form: options.Output = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,  # noqa: ARG001 - nothing is destroyed
) -> None:
    """Sponsor a guest-to-guest meeting: create it once, print a start link for the host and a join link for each guest.

    The body is {meeting, host, guests, expirationMinutes, tokens}. Asking again with the same --key makes new links for the
    same meeting. The token must be a Service App's.
    """
    settings = api_settings()
    meeting = {"title": title, "start": start, "end": end_}
    more = {"host": host, "guests": guest, "expirationMinutes": expiration_minutes, "tokens": tokens}
    wanted = _body(body, meeting=meeting, more=more)
    key = key or f"cli-{secrets.token_hex(12)}"
    if dry_run:
        show({"key": key, "licence": licence, "body": wanted}, form)
        return

    async def work(client: WebexClient) -> Result:
        return await Sponsor(SponsoringApi(client), licence=licence).sponsor(wanted, key=key, wait=wait)

    _report(talk(settings, work, organization=organization, patient=True), form, key=key)


def _body(file: Path | None, *, meeting: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The body from the file and the options, which win. Ends with exit code 2 where it cannot be sponsored."""
    try:
        body = dict(read_body(file)) if file else {}
    except (ValueError, OSError) as error:
        end(str(error), WRONG)
    given = {name: value for name, value in meeting.items() if value is not None}
    if given or not file:
        fields = body.get("meeting")
        body["meeting"] = {**(fields if isinstance(fields, dict) else {}), **given}
    body |= {name: _told(name, value) for name, value in more.items() if value not in (None, [])}
    found = guests.read(body, now=utc_now())
    if isinstance(found, Refused):
        end(
            f"{found.message}. The body comes from --body FILE, or from --title, --start, --end, --host, --guest.",
            WRONG,
        )
    return body


def _told(name: str, value: Any) -> Any:
    match name:
        case "host":
            return _person(value)
        case "guests":
            return [_person(each) for each in value]
        case "tokens":
            return value == "true"
    return value


def _person(text: str) -> dict[str, str]:
    """``Name <address>``, or an address alone, which is the name too."""
    name, address = parseaddr(text)
    return {"email": address, "displayName": name or address}


def _report(result: Result, form: Format | None, *, key: str) -> None:
    """Print what came of it. Ends with the exit code of it."""
    show(msgspec.to_builtins(result), form)
    match result:
        case Sponsored():
            if result.expire_before_start:
                typer.echo("The links end before the meeting begins: ask again nearer to it, for new ones.", err=True)
        case Unfinished():
            troubles = "\n".join(f"{trouble.step}: {trouble.message}" for trouble in result.troubles)
            end(
                f"{troubles}\nThe meeting exists, but not everybody has a link; to go on, add --key {key}",
                FAILED,
            )
        case Refused():
            _refuse(result)
        case OutcomeUnknown():
            end(f"{result.message}\nTry again with --key {key} after {result.retry_at:%H:%M} UTC.", NOT_NOW)


def _refuse(refused: Refused) -> NoReturn:
    codes = {"licenceFull": NOT_NOW, "invalidBody": WRONG, "keyReused": WRONG}
    end(f"Not sponsored ({refused.reason}): {refused.message}.", codes.get(refused.reason, FAILED))
