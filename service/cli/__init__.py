"""The composition root: every collaborator is built here and handed down as an argument. Nothing else reads the settings."""

from __future__ import annotations

import contextlib
import sys


def main() -> None:
    """``webex-events``."""
    _no_core_dumps()
    if sys.argv[1:2] == ["serve"]:
        from service.cli.serve import only_serve as app  # half the memory, and half the time to start
    else:
        from service.cli.commands import app
    app(prog_name="webex-events")


def _no_core_dumps() -> None:
    """Secrets are in this process' memory: what is left of it when it crashes must not be written anywhere."""
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
