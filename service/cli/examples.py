"""Help that begins with examples: what people look for first."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

_HEADING = "Examples:\n"


class Command(TyperCommand):
    """A command; its ``epilog`` is examples, one a line."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Examples, then what typer says."""
        _write(self.epilog, formatter)
        super().format_help(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Nothing: it was the beginning."""


class Group(TyperGroup):
    """The same for a group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Examples, then what typer says."""
        _write(self.epilog, formatter)
        super().format_help(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Nothing: it was the beginning."""


def _write(lines: str | None, formatter: Any) -> None:
    formatter.write(_HEADING + "".join(f"  {line}\n" for line in (lines or "").splitlines()) + "\n")
