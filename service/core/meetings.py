"""Meetings as Webex shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """A meeting series. ``fields`` is Webex's whole object, by Webex's names."""

    id: str
    title: str
    fields: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Meeting(id={self.id!r})"  # the fields have passwords and people in them

    @property
    def has_registration(self) -> bool:
        """Whether people register for this meeting: then it has the ``registration`` object."""
        return isinstance(self.fields.get("registration"), Mapping)

    @property
    def host_email(self) -> str:
        """The host's address, "" where Webex did not give it."""
        value = self.fields.get("hostEmail")
        return value if isinstance(value, str) else ""
