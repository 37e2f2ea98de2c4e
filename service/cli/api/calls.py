"""One call of the API for a person or a script: shown, confirmed, made, read back, printed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer

from service.cli.api.connection import api_settings, talk
from service.cli.api.verification import verified
from service.cli.clock import utc_now
from service.cli.endings import FAILED, WRONG, end
from service.cli.output import Format, rendered
from service.core.errors import WebexError
from service.webex import pages
from service.webex.client import Reply, WebexClient
from service.webex.operations import Operation
from service.webex.protocol import Request, leads_on
from service.webex.registrants import list_registrants

#: Fields of bodies and headers that are never shown before they are sent.
SECRET_FIELDS = frozenset({"clientSecret", "hostKey", "panelistPassword", "password", "secret"})
_TOKENS = frozenset({"accessToken", "refreshToken", "access_token", "refresh_token"})


@dataclass(frozen=True)
class Asked:
    """What was typed. ``request`` is made of all the parameters; those of the other places are for further calls."""

    op: Operation
    request: Request
    path: Mapping[str, str]
    query: Mapping[str, Any]
    headers: Mapping[str, str]
    host_email: str = ""
    organization: str | None = None
    form: Format | None = None
    dry_run: bool = False
    every: bool = False
    yes: bool = False
    verify: bool = False
    reveal: bool = True


Rows = Sequence[Mapping[str, Any]]


def perform(asked: Asked) -> None:
    """Do it, and print what came of it. Ends with an exit code."""
    settings = api_settings()
    if asked.dry_run:
        show(_preview(asked.request, settings.webex.base_url), asked.form)
        return
    confirm(f"{asked.op.summary}: {asked.request.method} {asked.request.path}", yes=asked.yes or not asked.op.destroys)
    reply, rows = talk(
        settings,
        lambda client: _call(client, asked),
        organization=asked.organization,
        patient=asked.every or asked.verify,
    )
    _print(asked, reply, rows)
    if not all(row["verified"] for row in rows):
        end("Webex accepted it, but does not show it (yet); that may take some minutes.", FAILED)


def confirm(what: str, *, yes: bool) -> None:
    """Go on only if a person at the terminal says so, or ``yes``. Ends with exit code 2 where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        end(f"{what}\nThis cannot be taken back, and nobody is here to be asked: --yes answers.", WRONG)
    if not typer.confirm(f"{what}\nThis cannot be taken back. Go on?", err=True):
        end("Nothing was sent.", FAILED)


def show(value: Any, form: Format | None) -> None:
    """Print ``value`` on stdout: by default a table on a terminal, else JSON."""
    text = rendered(value, form or (Format.TABLE if sys.stdout.isatty() else Format.JSON))
    if text:
        typer.echo(text)


async def _call(client: WebexClient, asked: Asked) -> tuple[Reply, Rows]:
    if asked.every:
        return await _every_page(client, asked), ()
    reply = await client.call(asked.request)
    if not asked.verify:
        return reply, ()
    try:
        rows = await verified(
            client, asked.op, request=asked.request, path=asked.path, host_email=asked.host_email, answer=reply.value
        )
    except WebexError as error:  # it is done all the same, and the answer is worth having
        rows = [{"verified": False, "differs": [str(error)]}]
    return reply, rows


# --- every page -------------------------------------------------------------------------------------------------------


async def _every_page(client: WebexClient, asked: Asked) -> Reply:
    if asked.op.name == "registrants.list":
        items = await _every_registrant(client, asked)
    else:
        found = pages.items(client, asked.op, path=asked.path, query=asked.query, headers=asked.headers)
        items = [item async for item in found]
    return Reply(status=200, value={"items": items}, link=None, tracking_id=None)


async def _every_registrant(client: WebexClient, asked: Asked) -> list[Any]:
    """Webex lists 90 days at a time at most and promises no link to the next page, so this is a walk of its own."""
    since, series = asked.query.get("registrationTimeFrom"), asked.path["meetingId"]
    people = await list_registrants(
        client, series, since=moment(since) if since else None, now=utc_now(), host_email=asked.host_email
    )
    return [each.fields for each in people]


def moment(text: str) -> datetime:
    """A time as Webex takes it; UTC where no zone is said. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


# --- what is printed --------------------------------------------------------------------------------------------------


def _preview(request: Request, base_url: str) -> dict[str, Any]:
    """The request without the access token and without what is secret in it."""
    return {
        "method": request.method,
        "url": base_url + request.path,
        "query": dict(request.query),
        "headers": _without(dict(request.headers), SECRET_FIELDS),
        "body": _without(request.json, SECRET_FIELDS),
    }


def _print(asked: Asked, reply: Reply, rows: Rows) -> None:
    if reply.value is None:
        show({"items": rows} if rows else None, asked.form)
    else:
        show(reply.value if asked.reveal else _without(reply.value, _TOKENS), asked.form)
        for row in rows:
            state = "verified" if row["verified"] else f"NOT verified: {', '.join(row.get('differs', ()))}"
            typer.echo(f"{row.get('id', '')} {state}".strip(), err=True)
    if reply.value is None and not rows:
        typer.echo(f"{asked.op.resource} {asked.op.verb}: Webex did it ({_traced(reply)})", err=True)
    if asked.op.answers == "items" and leads_on(reply.link):
        typer.echo("There are more; --all reads every page.", err=True)


def _traced(reply: Reply) -> str:
    return f"{reply.status}, tracking id {reply.tracking_id}" if reply.tracking_id else str(reply.status)


def _without(value: Any, names: Collection[str]) -> Any:
    """``value`` with *** in the place of every field of these names."""
    if isinstance(value, Mapping):
        return {name: "***" if name in names else _without(each, names) for name, each in value.items()}
    if isinstance(value, list):
        return [_without(each, names) for each in value]
    return value
