"""The operator's rules for meetings: when which fields shall be set to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from service.core.meetings import CHOICES, ERASABLE, SETTABLE, Meeting
from service.core.policy import variables
from service.core.policy.conditions import Condition, ConditionFailed, Formula, View
from service.core.policy.expressions import union
from service.core.policy.scopes import ALWAYS, EVERYWHERE, Scope, Window
from service.core.policy.templates import as_text, filled, formulas
from service.core.wishes import Wish

#: What conditions and texts of meeting rules may talk about.
VARIABLES = ("meeting", "lists")


@dataclass(frozen=True, kw_only=True)
class MeetingRule:
    """One meeting rule of the file. ``set`` has Webex's names, with templates where the file has expressions."""

    name: str
    version: str
    condition: Condition
    set: Mapping[str, Any]
    scope: Scope = EVERYWHERE
    active: Window = ALWAYS
    enforce: Literal["once", "always"] = "once"
    notify: bool = False
    method: Literal["patch", "put"] = "patch"
    reason: str = ""

    def formulas(self) -> Iterator[Formula]:
        """Its condition, and the expressions in what it sets."""
        yield self.condition
        yield from formulas(self.set)

    def wish(self, meeting: Meeting, view: View, *, now: datetime) -> Wish | None:
        """What it wants of ``meeting``, None where it wants nothing; never raises."""
        if not (self.active.includes(now) and self.scope.covers(meeting)):
            return None
        try:
            wanted = self._wanted(meeting, view)
            if wanted is not None and self.enforce == "always":
                self._check_it_settles(meeting, wanted, view)
        except ConditionFailed as failure:
            return self._wish({}, failure=f'Meeting rule "{self.name}" could not be evaluated ({failure})')
        return None if wanted is None else self._wish(wanted)

    def _wish(self, wanted: Mapping[str, Any], *, failure: str = "") -> Wish:
        return Wish(
            rule=self.name,
            version=self.version,
            set=wanted,
            enforce=self.enforce,
            notify=self.notify,
            method=self.method,
            reason=self.reason or f'Meeting rule "{self.name}" matched',
            failure=failure,
        )

    def _wanted(self, meeting: Meeting, view: View) -> dict[str, Any] | None:
        """Raises ConditionFailed."""
        read = union(formula.reads["meeting"] for formula in self.formulas())
        view.show("meeting", variables.meeting_fields(meeting, read))
        if not self.condition.holds(view):
            return None
        wanted = {name: _value(name, filled(value, view)) for name, value in self.set.items()}
        for name, value in wanted.items():
            if refusal := why_not(name, value):
                raise ConditionFailed(refusal)
        return wanted

    def _check_it_settles(self, meeting: Meeting, wanted: Mapping[str, Any], view: View) -> None:
        """A title made of the title would grow with every look. Raises ConditionFailed."""
        read = union(formula.reads["meeting"] for formula in formulas(self.set))
        if read is not None and read.isdisjoint(wanted):
            return
        title = str(wanted.get("title", meeting.title))
        after = msgspec.structs.replace(meeting, title=title, fields={**meeting.fields, **wanted})
        if self._wanted(after, view) not in (None, wanted):
            raise ConditionFailed("it would change again what it has set, without end")


def why_not(name: str, value: object) -> str:
    """Why Webex would not take ``value`` for a field, "" where it might. The sentence does not quote the value."""
    kind, choices = SETTABLE[name], CHOICES.get(name)
    if value is None and name in ERASABLE:
        return ""
    if not _is_a(value, kind):
        return f"{name} is a JSON {kind}"
    return f"{name} is one of {', '.join(choices)}" if choices and value not in choices else ""


def _value(name: str, value: object) -> object:
    """A number, or true or false, is a text where Webex wants one."""
    return as_text(value) if SETTABLE[name] == "string" and isinstance(value, bool | int | float) else value


def _is_a(value: object, kind: str) -> bool:
    """Whether ``value`` has the JSON type ``kind``."""
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "array": (list, tuple),
    "object": Mapping,
}
