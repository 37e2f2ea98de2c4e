"""Guests of a Service App: a token for one, how many there are (Webex OpenAPI, tag "Guest Management").

Errors as in :mod:`service.webex.meetings`.
"""

from __future__ import annotations

from service.webex.calls import ask
from service.webex.client import WebexClient
from service.webex.objects import Guest
from service.webex.operations import by_id
from service.webex.protocol import unreadable

_COUNT_CHARACTERS = 18


async def create_guest(client: WebexClient, *, subject: str, display_name: str) -> Guest:
    """A token for the guest that we call ``subject``; each call makes another one, and earlier ones stay valid."""
    answer: Guest = await ask(client, by_id("Create a Guest"), body={"subject": subject, "displayName": display_name})
    return answer


async def count_guests(client: WebexClient) -> int:
    """How many guests there are. Webex answers with a plain number as text."""
    op = by_id("Get Guest Count")
    value = await ask(client, op)
    if isinstance(value, str) and len(value) <= _COUNT_CHARACTERS and value.isascii() and value.isdigit():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise unreadable(op.name)
    return value
