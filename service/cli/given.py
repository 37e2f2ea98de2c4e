"""The settings that a command was given, or the end of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from service.cli.endings import WRONG, end
from service.core.errors import SettingsError
from service.settings import Settings, load


def settings_of(overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings of a command. Ends the process with exit code 2 where they are wrong."""
    try:
        return load(os.environ, dotenv=Path(".env"), overrides=overrides)
    except SettingsError as error:
        end(str(error), WRONG)
