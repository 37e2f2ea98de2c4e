"""The way to Webex for a command: the settings that it needs, one client, and exit codes for whatever goes wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from service.cli.api.refusals import Overheard, explained, said
from service.cli.credentials import token_source
from service.cli.endings import WRONG, end
from service.core.errors import SettingsError, WebexError
from service.settings import Settings, load
from service.telemetry import logging
from service.webex.client import Bounds, WebexClient, Wiring
from service.webex.tokens import TokenSource
from service.webex.transport import Transport

T = TypeVar("T")


def api_settings() -> Settings:
    """The settings. Ends with exit code 2 where they are no good."""
    try:
        return load(os.environ, dotenv=Path(".env"))
    except SettingsError as error:
        end("\n".join(map(str, error.problems)), WRONG)


def talk(
    settings: Settings,
    work: Callable[[WebexClient], Awaitable[T]],
    *,
    organization: str | None = None,
    patient: bool = False,
) -> T:
    """What ``work`` gives, with a client for the Webex of the settings. Ends with exit code 2, 3, 4 or 1 on an error.

    ``organization``: whose credential, where the settings have several. ``patient``: it is several calls, so those that
    only read are repeated where Webex has no time for them.
    """
    level = "debug" if settings.log.level == "debug" else "error"  # what a person should know is said in sentences
    logging.configure(stream=sys.stderr, colours=sys.stderr.isatty(), level=level)
    heard = bytearray()
    try:
        token = token_source(settings, organization=organization or "")
        return asyncio.run(_with_client(settings, token, work, heard=heard, bounds=_bounds(patient=patient)))
    except SettingsError as error:
        end("\n".join(map(str, error.problems)), WRONG)
    except WebexError as error:
        end(*explained(error, said=said(bytes(heard))))


def _bounds(*, patient: bool) -> Bounds:
    """A verb is one call: what Webex answers to it is the outcome, and what to do about that is for whoever called."""
    return Bounds() if patient else Bounds(retries=0, throttle=0.0)


async def _with_client(
    settings: Settings,
    token: TokenSource,
    work: Callable[[WebexClient], Awaitable[T]],
    *,
    heard: bytearray,
    bounds: Bounds,
) -> T:
    webex = settings.webex
    wiring = Wiring(transport=lambda connections: Overheard(Transport(connections=connections), heard))
    async with WebexClient(webex.base_url, token, allow_http=webex.allow_http, bounds=bounds, wiring=wiring) as client:
        return await work(client)
