"""The composition root: every collaborator is built here and handed down as an argument. Nothing else reads the settings."""

from __future__ import annotations

import sys

from service.cli.process_limits import prepare


def main() -> None:
    """``webex-events``."""
    prepare()
    if sys.argv[1:2] == ["serve"]:
        from service.cli.serve import only_serve as app  # half the memory, and half the time to start
    elif sys.argv[1:2] == ["health"]:
        from service.cli.probe import only_health as app  # a tenth of that
    else:
        from service.cli.commands import app
    app(prog_name="webex-events")
