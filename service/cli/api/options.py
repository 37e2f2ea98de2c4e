"""Options that mean the same wherever they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.output import Format

#: What an option takes that is a boolean at Webex: there, not to say anything is a third thing to say.
TrueFalse = Literal["true", "false"]

Body = Annotated[Path | None, typer.Option("--body", metavar="FILE", help="The body as JSON; - reads stdin.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=TEXT", help="A field of the body; NAME:=JSON for numbers and the like."),
]
Organization = Annotated[
    str | None,
    typer.Option(
        "--organization", metavar="NAME", help="Whose credential, where the settings have several: name or id."
    ),
]
Output = Annotated[Format | None, typer.Option("--output", "-o", help="Default: table on a terminal, else json.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Verify = Annotated[bool, typer.Option("--verify", help="Read back whether it is so now; exit code 1 if it is not.")]
All = Annotated[bool, typer.Option("--all", help="Every page, not only the first.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Print the tokens.")]
