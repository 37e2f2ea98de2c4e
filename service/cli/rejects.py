"""``webex-events rejects``: requests that were refused for their signature, from the files of the receiver that runs here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer

from service.cli.api import options
from service.cli.api.connection import api_settings
from service.cli.clock import utc_now
from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command, Group
from service.cli.printing import print_rows
from service.cli.spans import Since, moment_of
from service.core.diagnosis import MENDING, Code
from service.core.rejects import Reject
from service.receiver.rejects_file import read_rejects
from service.settings import Settings

#: What a record may give as its reason or its diagnosis. Why the receiver refused it: either of the first two.
_REASONS = tuple(dict.fromkeys(("badSignature", "wrongOwner", *Code)))
_COLUMNS = ("id", "time", "count", "diagnosis", "reason", "source", "bodyBytes", "userAgent")

rejects_app = typer.Typer(
    cls=Group,
    help="Requests that were refused for their signature, and why. No body and no signature is kept.",
    epilog="webex-events rejects list --since 2h\nwebex-events rejects show 0a1b2c3d4e5f",
    no_args_is_help=True,
)


@rejects_app.command(
    "list",
    cls=Command,
    epilog=(
        "webex-events rejects list\n"
        "webex-events rejects list --since 2h --reason bodyAltered\n"
        "webex-events rejects list -o jsonl"
    ),
)
def rejects_list(
    since: Since | None = None,
    reason: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only of this reason or diagnosis, such as wrongSecret.")
    ] = None,
    form: options.Output = None,
) -> None:
    """List what was refused, oldest first. The receiver may be running."""
    if reason not in (None, *_REASONS):
        end(f"There is no reason {reason!r}; there are: {', '.join(_REASONS)}", WRONG)
    settings, now = api_settings(), utc_now()
    found = _found(settings, oldest=_oldest(since, now, settings))
    kept = [each for each in found if reason is None or reason in (each.reason, each.diagnosis)]
    print_rows([_row(each) for each in kept], form, columns=_COLUMNS)


@rejects_app.command("show", cls=Command, epilog="webex-events rejects show 0a1b2c3d4e5f")
def rejects_show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `rejects list` shows it.")], form: options.Output = None
) -> None:
    """Show one of them, and what mends it."""
    settings = api_settings()
    found = [each for each in _found(settings, oldest=_oldest(None, utc_now(), settings)) if each.id == id_]
    if not found:
        end(f"There is no refused request {id_} in {settings.journal.path}; `rejects list` shows them.", FAILED)
    print_rows({**_row(found[0]), "mending": MENDING.get(found[0].diagnosis, "")}, form)


def _found(settings: Settings, *, oldest: datetime) -> list[Reject]:
    """Ends with exit code 2 where there is no such folder, and with 1 where a file in it cannot be read."""
    if not settings.journal.path.is_dir():
        end(f"There is no folder {settings.journal.path}; WEBEX_EVENTS_JOURNAL__PATH names the receiver's.", WRONG)
    try:
        return read_rejects(settings.journal.path, oldest=oldest)
    except OSError as error:
        end(f"{settings.journal.path}: the refused requests cannot be read ({error.strerror})", FAILED)


def _oldest(since: str | None, now: datetime, settings: Settings) -> datetime:
    kept = now - timedelta(seconds=settings.rejects.retention)
    try:
        return kept if since is None else max(kept, moment_of(since, now=now))
    except ValueError as error:
        end(str(error), WRONG)


def _row(reject: Reject) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(reject)
    return row
