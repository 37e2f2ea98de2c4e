"""How a command ends: exit codes that scripts rely on, and the sentence that goes with them."""

from __future__ import annotations

from typing import NoReturn

import typer

#: Failed; wrong usage or settings; refused by Webex; temporarily not possible. 0 is: done.
FAILED, WRONG, REFUSED, NOT_NOW = 1, 2, 3, 4


def end(sentence: str, code: int) -> NoReturn:
    """Say it on stderr, and end with ``code``."""
    typer.echo(sentence, err=True)
    raise typer.Exit(code)
