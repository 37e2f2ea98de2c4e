"""What a command prints about Webex's answers: a table for people, JSON and JSON lines for programs.

JSON is what Webex answered, with nothing left out or renamed. Names and titles come from strangers: whatever could
steer a terminal is made visible (table) or escaped (JSON), so that it is text and nothing else.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec


class Format(enum.StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


#: Columns of a list, of those that its items have, in this order; nothing else of an item is shown in the table.
COLUMNS = (
    *("id", "title", "name", "email", "firstName", "lastName", "displayName", "status", "verified", "state"),
    *("start", "end", "hostEmail", "registrationTime", "resource", "event", "targetUrl", "ownedBy"),
)

#: Columns of the terminal that one cell of a list takes; ids are never cut.
WIDEST = 40

_STEERING = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def rendered(value: Any, form: Format, *, columns: Sequence[str] = COLUMNS, widest: int = WIDEST) -> str:
    """``value``, as decoded from JSON, as text without a last newline; "" for None, which is an answer without a body.

    ``columns`` are those of a list's table, and ``widest`` what one cell of it takes.
    """
    if value is None:
        return ""
    if form is Format.TABLE:
        return "\n".join(_table(value, columns, widest))
    if form is Format.JSONL:
        return "\n".join(_json(item) for item in items_of(value, otherwise=[value]))
    return _json(value, indent=2)


def items_of(value: Any, *, otherwise: Sequence[Any] = ()) -> Sequence[Any]:
    """The ``items`` of a list that Webex answered; ``otherwise`` for what is no list."""
    items = value.get("items") if isinstance(value, dict) else None
    return items if isinstance(items, list) else otherwise


def _json(value: Any, *, indent: int = 0) -> str:
    encoded = msgspec.json.encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # these stand only inside of texts


def _table(value: Any, columns: Sequence[str], widest: int) -> Iterator[str]:
    items = items_of(value, otherwise=[None])
    if not items:
        yield "(none)"
    elif all(isinstance(item, dict) for item in items):
        yield from _list(items, columns, widest)
    elif isinstance(value, dict):
        yield from _object(value)
    else:
        yield _cell(value)


def _list(items: Sequence[Mapping[str, Any]], columns: Sequence[str], widest: int) -> Iterator[str]:
    names = [name for name in columns if any(name in item for item in items)] or list(items[0])
    rows = [[_short(name, _cell(item.get(name)), widest) for name in names] for item in items]
    widths = [max(map(_width, column)) for column in zip(names, *rows, strict=True)]
    for row in ([name.upper() for name in names], *rows):
        yield aligned(row, widths)


def aligned(values: Sequence[Any], widths: Sequence[int]) -> str:
    """One row of a table; what is wider than its column moves the others."""
    cells = [_cell(value) for value in values]
    return "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _object(value: Mapping[str, Any]) -> Iterator[str]:
    fields = [(_cell(name), _cell(field)) for name, field in _flat(value)]
    widest = max((_width(name) for name, _ in fields), default=0)
    for name, field in fields:
        yield f"{name}{' ' * (widest - _width(name))}  {field}".rstrip()


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """``registration.rules.0.question``: every field below with its way to it."""
    for name, field in value.items():
        if isinstance(field, list) and field and all(isinstance(each, dict) for each in field):
            field = {str(i): each for i, each in enumerate(field)}
        if isinstance(field, dict) and field:
            yield from _flat(field, f"{before}{name}.")
        else:
            yield f"{before}{name}", field


def _cell(value: Any) -> str:
    """One value on one line, without anything that a terminal would obey."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _short(name: str, cell: str, widest: int) -> str:
    if name == "id" or _width(cell) <= widest:
        return cell
    kept = cell[:widest]
    while _width(kept) >= widest:
        kept = kept[:-1]
    return f"{kept}…"


def _width(text: str) -> int:
    """Columns that ``text`` takes on a terminal: East Asian characters take two (Unicode TR 11), accents none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))
