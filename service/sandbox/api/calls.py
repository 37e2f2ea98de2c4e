"""What an operation is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.sandbox.meetings import View
from service.sandbox.refusals import invalid
from service.sandbox.tokens import Caller
from service.sandbox.world import Host, World

#: The type of a query parameter: a number, true or false, or one of some words.
Kind = str | tuple[str, ...]
NUMBER, FLAG = "number", "flag"


@dataclass(frozen=True)
class Call:
    """One request, read and authorised.

    ``lag``: how far behind reads are; ``site``: where the sandbox is reached; ``loses_page``: this page of a list is left out.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    caller: Caller
    lag: timedelta
    batch_limit: int
    site: str
    loses_page: bool = False

    @property
    def meeting_id(self) -> str:
        """The path's meeting id, "" where it has none."""
        return self.path.get("meetingId", "")

    @property
    def host(self) -> Host:
        """Whose meetings this is about: ``hostEmail`` in the query or the body; "Delete registration" has it in a header."""
        given = self.query.get("hostEmail") or self.body.get("hostEmail") or self.headers.get("hostemail", "")
        return Host(self.caller, str(given))

    def view(self, world: World) -> View:
        """How meetings are shown: in the time zone of the header ``timezone``, UTC where it names none."""
        return View(world.identity, world.now(), self.site, _zone(self.headers.get("timezone", "")))

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean parameter of the query."""
        return self.query[name] == "true" if name in self.query else default


@dataclass(frozen=True)
class Answer:
    """What goes back: a JSON ``body`` or plain ``text``. ``following``: the query of the next page, where there is one."""

    status: int
    body: Any = None
    text: str | None = None
    following: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def check_parameter(name: str, value: str, kind: Kind) -> None:
    """Raises Refusal (400) where ``value`` is not of its type."""
    if kind == FLAG and value not in ("true", "false"):
        raise invalid(f"{name} must be true or false.")
    if kind == NUMBER and not (value.isascii() and value.isdigit()):
        raise invalid(f"{name} must be a number.")
    if isinstance(kind, tuple) and value not in kind:
        raise invalid(f"{name} must be one of {', '.join(kind)}.")


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (LookupError, ValueError, OSError) as error:
        raise invalid("timezone is not one of the IANA time zone database.") from error


def page_size(query: Mapping[str, str], *, default: int = 10) -> int:
    """``max``: 1 to 100. Raises Refusal (400)."""
    text = query.get("max", str(default))
    if not 1 <= int(text[:9]) <= 100:
        raise invalid("max must be between 1 and 100.")
    return int(text)


def offset(query: Mapping[str, str]) -> int:
    """How many items the pages before have shown. Raises Refusal (400) for a cursor that is not ours."""
    text = query.get("cursor", "0")
    if not (text.isascii() and text.isdigit()):
        raise invalid("The cursor is not one of ours.")
    return int(text[:9])


def paged(items: list[Any], query: Mapping[str, str], *, size: int) -> Answer:
    """One page of ``items``, and where the next one is."""
    start = offset(query)
    following = {**query, "cursor": str(start + size)} if len(items) > start + size else {}
    return Answer(200, {"items": items[start : start + size]}, following=following)
