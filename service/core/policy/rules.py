"""Rules as they stand in the file: their keys, their scope, what meeting rules set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import yaml

from service.core.meetings import CHOICES, SETTABLE
from service.core.policy import meeting_rules, reading
from service.core.policy.conditions import Condition, ConditionRefused
from service.core.policy.decisions import Outcome, Rule
from service.core.policy.expressions import VARIABLES, nearest
from service.core.policy.meeting_rules import MeetingRule, why_not
from service.core.policy.reading import File
from service.core.policy.scopes import (
    ALWAYS,
    EVERYWHERE,
    Patterns,
    Scope,
    ScopeRefused,
    Window,
    host_pattern,
    patterns,
)
from service.core.policy.templates import Template, template

MOST_RULES = 500

#: How deep objects in ``set`` may be nested, and the characters of a text in it.
_DEEPEST_VALUE = 16
_LONGEST_VALUE = 10_000

_RULE_KEYS = ("name", "meetings", "active", "when", "then", "notify", "reason")
_MEETING_RULE_KEYS = ("name", "meetings", "active", "when", "set", "enforce", "notify", "method", "reason")
_SCOPE_KEYS = ("title", "host", "site", "scheduledType", "integrationTag", "startsAfter", "startsBefore")

#: Webex's words ("List Meetings").
SCHEDULED_TYPES = ("meeting", "webinar", "personalRoomMeeting")

_Lists = Mapping[str, Sequence[object]]
_Rule = TypeVar("_Rule")


def outcome(file: File, node: yaml.Node) -> Outcome | None:
    """What happens to a registrant."""
    word = reading.choice(file, node, tuple(Outcome))
    return None if word is None else Outcome(word)


def read_rules(file: File, node: yaml.Node | None, lists: _Lists) -> list[Rule]:
    """The rules for registrants."""
    return list(_rules(file, node, "rules", lambda entry, names: _rule(file, entry, lists, names)))


def read_meeting_rules(file: File, node: yaml.Node | None, lists: _Lists) -> list[MeetingRule]:
    """The rules for meetings."""
    return list(_rules(file, node, "meetingRules", lambda entry, names: _meeting_rule(file, entry, lists, names)))


def _rules(
    file: File, node: yaml.Node | None, key: str, read: Callable[[yaml.Node, set[str]], _Rule | None]
) -> Iterator[_Rule]:
    entries = node.value if isinstance(node, yaml.SequenceNode) else []
    if node is not None and not isinstance(node, yaml.SequenceNode):
        file.refuse(node, f'{key} must be a list: each one begins with "- name:"')
    if node is not None and len(entries) > MOST_RULES:
        file.refuse(node, f"there are {len(entries)} rules, {MOST_RULES} at most")
        return
    names: set[str] = set()
    for entry in entries:
        rule = read(entry, names)
        if rule is not None:
            yield rule


def _rule(file: File, node: yaml.Node, lists: _Lists, names: set[str]) -> Rule | None:
    fields = reading.fields_of(file, node, "a rule", known=_RULE_KEYS, required=("name", "when", "then"))
    name = _name(file, fields.get("name"), names)
    then = reading.optional(file, fields.get("then"), outcome, Outcome.HOLD)
    notify = reading.optional(file, fields.get("notify"), reading.flag, True)
    reason = reading.optional(file, fields.get("reason"), reading.text, "")
    scope, active = _scope(file, fields.get("meetings")), _active(file, fields.get("active"))
    condition = _condition(file, fields.get("when"), lists, VARIABLES)
    if name is None or then is None or notify is None or reason is None or condition is None:
        return None
    return Rule(name=name, condition=condition, then=then, scope=scope, active=active, notify=notify, reason=reason)


def _meeting_rule(file: File, node: yaml.Node, lists: _Lists, names: set[str]) -> MeetingRule | None:
    fields = reading.fields_of(file, node, "a meeting rule", known=_MEETING_RULE_KEYS, required=("name", "when", "set"))
    name = _name(file, fields.get("name"), names)
    enforce = reading.optional(file, fields.get("enforce"), _word("once", "always"), "once")
    method = reading.optional(file, fields.get("method"), _word("patch", "put"), "patch")
    notify = reading.optional(file, fields.get("notify"), reading.flag, False)
    reason = reading.optional(file, fields.get("reason"), reading.text, "")
    scope, active = _scope(file, fields.get("meetings")), _active(file, fields.get("active"))
    condition = _condition(file, fields.get("when"), lists, meeting_rules.VARIABLES)
    wanted = _set(file, fields["set"], lists) if "set" in fields else {}
    if name is None or condition is None or enforce is None or method is None or notify is None or reason is None:
        return None
    return MeetingRule(
        name=name,
        version=_version(name, fields),
        condition=condition,
        set=wanted,
        scope=scope,
        active=active,
        enforce=cast('Literal["once", "always"]', enforce),
        notify=notify,
        method=cast('Literal["patch", "put"]', method),
        reason=reason,
    )


def _version(name: str, fields: Mapping[str, yaml.Node]) -> str:
    """Of what the rule does. A new reason, comment or order of keys is no reason to overrule a person once more."""
    does = [name, *(reading.canonical(fields.get(key)) for key in ("meetings", "active", "when", "set"))]
    return hashlib.sha256(json.dumps(does).encode()).hexdigest()[:12]


def _name(file: File, node: yaml.Node | None, names: set[str]) -> str | None:
    name = reading.optional(file, node, reading.text, "")
    if node is not None and name and name in names:
        file.refuse(node, f'another rule is called "{name}"')
    names.add(name or "")
    return name


def _word(*words: str) -> Callable[[File, yaml.Node], str | None]:
    return lambda file, node: reading.choice(file, node, words)


def _condition(file: File, node: yaml.Node | None, lists: _Lists, variables: Sequence[str]) -> Condition | None:
    if not isinstance(node, yaml.ScalarNode):
        if node is not None:
            file.refuse(node, "a condition is a text; put it in quotes")
        return None
    try:
        return Condition(node.value, lists, variables)
    except ConditionRefused as refused:
        _refuse_inside(file, node, refused)
        return None


def _refuse_inside(file: File, node: yaml.ScalarNode, refused: ConditionRefused) -> None:
    for fault in refused.faults:
        file.refuse_inside(node, fault.message, fault.offset)


def _active(file: File, node: yaml.Node | None) -> Window:
    if node is None:
        return ALWAYS
    fields = reading.fields_of(file, node, "active", known=("from", "until"))
    return _window(file, node, fields.get("from"), fields.get("until"))


def _window(file: File, node: yaml.Node, since: yaml.Node | None, until: yaml.Node | None) -> Window:
    window = Window(
        since=reading.optional(file, since, reading.time, None), until=reading.optional(file, until, reading.time, None)
    )
    if window.since is not None and window.until is not None and window.until <= window.since:
        file.refuse(until or node, "this is not after the time that it begins with")
    return window


def _scope(file: File, node: yaml.Node | None) -> Scope:
    if node is None:
        return EVERYWHERE
    fields = reading.fields_of(file, node, "meetings", known=_SCOPE_KEYS)
    if isinstance(node, yaml.MappingNode) and not node.value:
        file.refuse(node, f"meetings wants one of {', '.join(_SCOPE_KEYS)}")
    starts = _window(file, node, fields.get("startsAfter"), fields.get("startsBefore"))
    return Scope(
        title=_patterns(file, fields.get("title")),
        host=_patterns(file, fields.get("host"), host_pattern),
        site=_patterns(file, fields.get("site")),
        scheduled_type=_patterns(file, fields.get("scheduledType"), _scheduled_type),
        integration_tag=_patterns(file, fields.get("integrationTag")),
        starts_after=starts.since,
        starts_before=starts.until,
    )


def _patterns(
    file: File, node: yaml.Node | None, usual: Callable[[str], str] = lambda written: written
) -> Patterns | None:
    if node is None:
        return None
    written: list[str] = []
    for text, entry in reading.texts(file, node):
        try:
            written.append(usual(text))
        except ScopeRefused as refused:
            file.refuse(entry, str(refused))
    return patterns(written)


def _scheduled_type(written: str) -> str:
    if not patterns([written]).fit(SCHEDULED_TYPES):
        raise ScopeRefused(f"no meeting has this scheduledType{nearest(written, SCHEDULED_TYPES)}")
    return written


def _set(file: File, node: yaml.Node, lists: _Lists) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for key, value in reading.pairs(file, node, "set"):
        name = key.value
        if name not in SETTABLE:
            file.refuse(key, f'meeting rules cannot set "{name}"{nearest(name, SETTABLE)}')
            continue
        before = len(file.problems)
        wanted[name] = _value(file, value, lists, SETTABLE[name] == "string")
        if len(file.problems) == before:
            _check_value(file, value, name, wanted[name])
    if isinstance(node, yaml.MappingNode) and not node.value:
        file.refuse(node, "set wants at least one field")
    return wanted


def _value(file: File, node: yaml.Node, lists: _Lists, text: bool = False, levels: int = _DEEPEST_VALUE) -> Any:
    """A value of JSON, with templates for texts that have expressions. ``text``: what looks like a time is a text."""
    if levels == 0:
        file.refuse(node, "nested too deeply")
    elif isinstance(node, yaml.MappingNode):
        items = reading.pairs(file, node, "a value")
        return {key.value: _value(file, value, lists, levels=levels - 1) for key, value in items}
    elif isinstance(node, yaml.SequenceNode):
        return tuple(_value(file, item, lists, levels=levels - 1) for item in node.value)
    elif node.tag == "tag:yaml.org,2002:null":
        return None
    elif node.tag == "tag:yaml.org,2002:bool":
        return reading.flag(file, node)
    elif (number := reading.number(node)) is not None and not text:
        return number
    else:
        return _template(file, node, lists)
    return None


def _template(file: File, node: yaml.Node, lists: _Lists) -> str | Template | None:
    if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"):
        file.refuse(node, "a text is wanted here; put it in quotes")
    elif len(node.value) > _LONGEST_VALUE:
        file.refuse(node, f"the text is longer than {_LONGEST_VALUE} characters")
    elif isinstance(node, yaml.ScalarNode):
        try:
            return template(node.value, lists, meeting_rules.VARIABLES)
        except ConditionRefused as refused:
            _refuse_inside(file, node, refused)
    return None


def _check_value(file: File, node: yaml.Node, name: str, value: object) -> None:
    """Whether Webex could take it, as far as that can be known before a meeting is there."""
    kind = SETTABLE[name]
    if not isinstance(value, Template):
        refusal = why_not(name, value)
        near = nearest(value, CHOICES.get(name, ())) if isinstance(value, str) else ""
        if refusal:
            file.refuse(node, refusal + near)
    elif len(value.parts) > 1 and kind != "string":
        file.refuse(node, f"{name} is a JSON {kind}, no text")
