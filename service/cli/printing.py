"""Printing what a command found out itself: rows with columns of their own, or one thing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from service.cli.output import COLUMNS, Format, rendered

#: A reason or an explanation is not cut short, unless it is endless.
WIDEST = 200


def chosen(form: Format | None) -> Format:
    """``form``, else a table on a terminal and JSON elsewhere."""
    return form or (Format.TABLE if sys.stdout.isatty() else Format.JSON)


def print_rows(
    found: Sequence[Mapping[str, Any]] | Mapping[str, Any], form: Format | None, *, columns: Sequence[str] = COLUMNS
) -> None:
    """Rows as a table on a terminal, else as JSON ``{"items": […]}``; one thing as it is."""
    value = found if isinstance(found, Mapping) else {"items": list(found)}
    typer.echo(rendered(value, chosen(form), columns=columns, widest=WIDEST))
