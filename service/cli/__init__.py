"""The composition root: every collaborator is built here and handed down as an argument. Nothing else reads the settings."""

from __future__ import annotations

from service.cli.commands import app


def main() -> None:
    """``webex-events``."""
    app(prog_name="webex-events")
