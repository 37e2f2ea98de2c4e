"""Registrants as Webex shows them, what we remember of them, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec


class Registrant(msgspec.Struct, frozen=True, kw_only=True):
    """A registrant as a list shows it. ``fields`` is Webex's whole object, by Webex's names."""

    id: str
    status: str
    email: str
    registered: datetime | None
    fields: Mapping[str, Any]
