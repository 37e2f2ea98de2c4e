"""Texts with conditions' language in them: ``Webinar: ${meeting.title}``; ``$${`` stands for ``${``.

A text that is one expression as a whole (``${…}``) is its value, which may be a number or true or false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.core.policy.conditions import ConditionFailed, ConditionRefused, Formula, View
from service.core.policy.expressions import Fault, closing_brace

_OPENING = "${"
_ESCAPED = "$${"


@dataclass(frozen=True)
class Template:
    """A text and the expressions in it, in their order."""

    parts: tuple[str | Formula, ...]

    def value(self, view: View) -> object:
        """What it is now. Raises ConditionFailed."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Formula):
            return _plain(self.parts[0].value(view))
        return "".join(part if isinstance(part, str) else as_text(part.value(view)) for part in self.parts)

    def formulas(self) -> Iterator[Formula]:
        """Its expressions."""
        return (part for part in self.parts if isinstance(part, Formula))


def template(text: str, lists: Mapping[str, Sequence[object]], variables: Sequence[str]) -> str | Template:
    """What ``text`` stands for: itself where it has no expressions. Raises ConditionRefused with offsets in ``text``."""
    parts, faults, index = list[str | Formula](), list[Fault](), 0
    while index < len(text):
        if not text.startswith(_OPENING, index):
            step = _ESCAPED if text.startswith(_ESCAPED, index) else text[index]
            parts.append(_OPENING if step == _ESCAPED else step)
            index += len(step)
            continue
        start, end = index + len(_OPENING), closing_brace(text, index + len(_OPENING))
        if end is None:
            raise ConditionRefused(
                *faults, Fault('"${" without its "}"; a text with "${" in it is written "$${"', index)
            )
        try:
            parts.append(Formula(text[start:end], lists, variables))
        except ConditionRefused as refused:
            faults += [Fault(fault.message, start + fault.offset) for fault in refused.faults]
        index = end + 1
    if faults:
        raise ConditionRefused(*faults)
    return (
        Template(tuple(_joined(parts)))
        if any(isinstance(part, Formula) for part in parts)
        else "".join(map(str, parts))
    )


def filled(value: object, view: View) -> Any:
    """``value`` with every template in it evaluated. Raises ConditionFailed."""
    if isinstance(value, Template):
        return value.value(view)
    if isinstance(value, Mapping):
        return {name: filled(item, view) for name, item in value.items()}
    return [filled(item, view) for item in value] if isinstance(value, tuple) else value


def formulas(value: object) -> Iterator[Formula]:
    """Every expression in ``value``."""
    if isinstance(value, Template):
        yield from value.formulas()
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ():
        yield from formulas(item)


def _joined(parts: Sequence[str | Formula]) -> Iterator[str | Formula]:
    """Neighbouring texts as one."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        yield part
        text = ""
    if text:
        yield text


def as_text(value: object) -> str:
    """A value as it stands in a text. Raises ConditionFailed."""
    plain = _plain(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, str | int | float):
        return str(plain)
    raise ConditionFailed("no text, number, time, true or false")


def _plain(value: object) -> object:
    """A value as JSON has it. Raises ConditionFailed."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {as_text(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or (isinstance(value, str | int | float) and value not in _NO_NUMBERS and value == value):
        return value
    raise ConditionFailed("a value that JSON does not have")


_NO_NUMBERS = (float("inf"), float("-inf"))
