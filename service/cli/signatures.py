"""``webex-events signature``: sign a body as Webex does, or find out whether it was signed, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.api import options
from service.cli.api.connection import api_settings
from service.cli.dev import dev_secret_file
from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command, Group
from service.cli.inputs import bytes_of
from service.cli.output import Format
from service.cli.printing import print_rows
from service.cli.secret_files import read_secret, read_secrets
from service.core.diagnosis import Code, Diagnosis, diagnose
from service.core.errors import SettingsError
from service.core.signature import ANYBODY, Secret, sign
from service.settings import Settings

#: Bytes that may be hashed to find out what is wrong; a receiver takes less (service.core.diagnosis.EFFORT).
EFFORT = 1 << 30

signature_app = typer.Typer(
    cls=Group,
    help="Sign a body as Webex does, or find out whether it was signed.",
    epilog=(
        "webex-events signature sign body.json\n"
        'webex-events signature verify body.json --header "X-Spark-Signature: 0a1b…"'
    ),
    no_args_is_help=True,
)


@signature_app.command(
    "sign",
    cls=Command,
    epilog=(
        "webex-events signature sign body.json\n"
        "webex-events signature sign - < body.json\n"
        "webex-events signature sign body.json --secret autumn"
    ),
)
def signature_sign(
    body: Annotated[Path, typer.Argument(help="File with the exact bytes; - reads stdin.")],
    secret: Annotated[str | None, typer.Option(help="The file's name, where there are several.")] = None,
) -> None:
    """Print the signature headers of a body."""
    for name, value in sign(bytes_of(body), signing_secret(api_settings(), secret)).items():
        typer.echo(f"{name}: {value}")


@signature_app.command(
    "verify",
    cls=Command,
    epilog=(
        'webex-events signature verify body.json --header "X-Spark-Signature: 0a1b…"\n'
        'webex-events signature verify - -H "X-Webex-Signature: SHA-256=0a1b…" -o json < body.json'
    ),
)
def signature_verify(
    body: Annotated[Path, typer.Argument(help="File with the exact bytes; - reads stdin.")],
    header: Annotated[list[str], typer.Option("--header", "-H", help='"Name: value" as it was received; repeatable.')],
    form: options.Output = None,
) -> None:
    """Say whether a live secret signed a body, and if not, why: exit 0 if so, 1 if not."""
    settings = api_settings()
    found = diagnose(
        bytes_of(body),
        tuple(map(_raw_header, header)),
        secrets=live_secrets(settings),
        mode=settings.webhook.signatures,
        effort=EFFORT,
    )
    if form in (Format.JSON, Format.JSONL):
        print_rows(_row(found), form)
        raise typer.Exit(0 if found.code is Code.VERIFIED else FAILED)
    if found.code is not Code.VERIFIED:
        end(f"not verified ({found.code}): {found.sentence}\n{found.mending}", FAILED)
    typer.echo(f"verified with the secret {found.secret}")


def live_secrets(settings: Settings) -> tuple[Secret, ...]:
    """The live secrets of the settings, else the one that `dev` made up. Ends with exit code 2 where there is none."""
    folder, fixed, made_up = settings.webhook.secrets_dir, settings.webhook.fixed_secrets, dev_secret_file(settings)
    try:
        found = (*fixed, *(read_secrets(folder) if folder else ()))
        return found or (Secret(read_secret(made_up), {ANYBODY: made_up.name}),)
    except SettingsError as error:
        hint = f"Set WEBEX_EVENTS_WEBHOOK__SECRET, or start `webex-events dev` first ({error})"
        end(str(error) if fixed or folder else hint, WRONG)


def signing_secret(settings: Settings, name: str | None = None) -> bytes:
    """The secret of that name, else the first that belongs to nobody, else the first. Ends with exit code 2 where there is
    none of that name.
    """
    live = live_secrets(settings)
    named = [each for each in live if name in each.names.values()]
    if name is not None and not named:
        known = sorted(own for each in live for own in each.names.values())
        end(f"There is no secret {name}; there are: {', '.join(known)}", WRONG)
    return next((each for each in (*named, *live) if named or ANYBODY in each.names), live[0]).value


def _raw_header(text: str) -> tuple[bytes, bytes]:
    """Ends with exit code 2 where it is none."""
    name, colon, value = text.encode("utf-8", "surrogateescape").partition(b":")
    if not colon or not name.strip():
        end(f'{text!r} is no header: write "Name: value"', WRONG)
    return name.strip().lower(), value.strip()


def _row(found: Diagnosis) -> dict[str, object]:
    return {
        "verified": found.code is Code.VERIFIED,
        "code": found.code,
        "sentence": found.sentence,
        "mending": found.mending,
        "secret": found.secret,
    }
