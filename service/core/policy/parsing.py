"""The policy file: YAML with a fixed set of keys. Every problem is reported at once, with its line and column."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import yaml

from service.core.errors import PolicyError, Problem
from service.core.policy.conditions import Condition, ConditionRefused, never_equal, usual_domain
from service.core.policy.decisions import Outcome, Policy, Rule
from service.core.policy.expressions import nearest
from service.core.policy.places import line_and_column, place

#: Bytes of a file; about one second of reading.
LARGEST_FILE = 1024 * 1024
MOST_RULES = 500
MOST_ENTRIES = 10_000
LONGEST_TEXT = 1000

_FILE_KEYS = ("version", "default", "paused", "lists", "rules")
_RULE_KEYS = ("name", "meetings", "when", "then", "notify", "reason")

#: Keys of the file format that this version does not act on: an operator must not believe that they are enforced.
_LATER_KEYS = ("meetingRules",)

#: A list's name is written behind ``lists.`` in conditions.
_LIST_NAME = re.compile(r"(?!(?:in|true|false|null)\Z)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

#: Numbers that YAML and people read alike: not 0123 (octal), 1_000 or 1:30 (sexagesimal).
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)

_EMAIL = re.compile(r"[^\s\"'@]+@[^\s\"']+")

_TRUE = ("true", "yes", "on")

_Value = TypeVar("_Value")
_Entries = Mapping[str, Sequence[tuple[str | int, yaml.Node]]]


def parse(text: str) -> Policy:
    """The policy that ``text`` describes. Raises PolicyError with every problem.

    Entries of lists are texts or whole numbers and are compared as they are written. A list in which
    ``registrant.emailDomain`` is looked up is refused where an entry could never equal one (capitals, letters beyond ASCII,
    no domain), with the spelling that would.
    """
    file = _File(text)
    root = file.root()
    policy = None if root is None else _policy(file, root)
    if policy is None or file.problems:
        raise PolicyError(file.report())
    return policy


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML leaves it open
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _File:
    """The text, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.problems: list[Problem] = []
        #: The lists in which conditions look up an e-mail's domain.
        self.domain_lists: set[str] = set()

    def refuse(self, node: yaml.Node, message: str) -> None:
        """Note a problem where ``node`` begins."""
        self.problems.append(Problem(message, node.start_mark.line + 1, node.start_mark.column + 1))

    def refuse_inside(self, node: yaml.ScalarNode, message: str, offset: int) -> None:
        """Note a problem at a character of the node's value."""
        self.problems.append(Problem(message, *place(self.text, node, offset)))

    def report(self) -> tuple[Problem, ...]:
        """The problems from top to bottom. They may quote the file and are logged: e-mail addresses are left out."""
        ordered = sorted(self.problems, key=lambda problem: (problem.line, problem.column))
        return tuple(replace(problem, message=_EMAIL.sub("…", problem.message)) for problem in ordered)

    def root(self) -> yaml.Node | None:
        """The node tree; None, with a problem noted, where there is none."""
        if len(self.text.encode("utf-8", "surrogatepass")) > LARGEST_FILE:
            self.problems.append(Problem(f"the file is larger than {LARGEST_FILE} bytes", 1, 1))
            return None
        try:
            root: yaml.Node | None = yaml.compose(self.text, Loader=_Loader)
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            self.problems.append(_syntax_problem(self.text, error))
            return None
        if root is None:
            self.problems.append(Problem("the file is empty", 1, 1))
        return root


def _syntax_problem(text: str, error: Exception) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "not valid YAML"
        return Problem(message, mark.line + 1, mark.column + 1) if mark else Problem(message, 1, 1)
    if isinstance(error, yaml.reader.ReaderError):
        return Problem("a character that YAML does not allow", *line_and_column(text, error.position))
    if isinstance(error, RecursionError):
        return Problem("nested too deeply", 1, 1)
    return Problem("a character escape that stands for no character", 1, 1)


def _policy(file: _File, root: yaml.Node) -> Policy | None:
    fields = _fields(file, root, "the policy", known=_FILE_KEYS, required=("version",))
    _check_version(file, fields.get("version"))
    default = _optional(file, fields.get("default"), _outcome, Outcome.HOLD)
    paused = _optional(file, fields.get("paused"), _flag, False)
    entries = _lists(file, fields.get("lists"))
    lists = {name: tuple(value for value, _ in rows) for name, rows in entries.items()}
    rules = _rules(file, fields.get("rules"), lists)
    _check_domains(file, entries)
    if file.problems or default is None or paused is None:
        return None
    version = hashlib.sha256(file.text.encode()).hexdigest()[:12]
    return Policy(version=version, paused=paused, default=default, rules=rules, lists=lists)


def _fields(
    file: _File, node: yaml.Node, owner: str, *, known: Sequence[str], required: Sequence[str] = ()
) -> dict[str, yaml.Node]:
    """The values of a mapping by their keys; unknown, repeated and missing keys are noted."""
    fields: dict[str, yaml.Node] = {}
    for key, value in _pairs(file, node, owner):
        if key.value in known:
            fields[key.value] = value
        elif key.value in _LATER_KEYS and known is _FILE_KEYS:
            file.refuse(key, f"{key.value} are not supported by this version yet")
        else:
            file.refuse(key, f'{owner} has no key "{key.value}"{nearest(key.value, known)}')
    for name in required if isinstance(node, yaml.MappingNode) else ():
        if name not in fields:
            file.refuse(node, f'{owner} lacks the key "{name}"')
    return fields


def _pairs(file: _File, node: yaml.Node, owner: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping, each key once."""
    if not isinstance(node, yaml.MappingNode):
        file.refuse(node, f"{owner} must be keys with values")
        return []
    pairs: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            file.refuse(key, "a key must be a word")
        elif key.value in pairs:
            file.refuse(key, f'"{key.value}" stands here for the second time')
        else:
            pairs[key.value] = (key, value)
    return list(pairs.values())


def _optional(
    file: _File, node: yaml.Node | None, read: Callable[[_File, yaml.Node], _Value | None], default: _Value
) -> _Value | None:
    return default if node is None else read(file, node)


def _check_version(file: _File, node: yaml.Node | None) -> None:
    if node is not None and node.value != "1":
        file.refuse(node, "this program reads version 1 of the policy file")


def _text(file: _File, node: yaml.Node) -> str | None:
    """A text of one line that is not empty."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        file.refuse(node, "a text is wanted here; put it in quotes")
    elif not node.value.strip() or not node.value.strip().isprintable():
        file.refuse(node, "the text must be one line and not empty")
    elif len(node.value) > LONGEST_TEXT:
        file.refuse(node, f"the text is longer than {LONGEST_TEXT} characters")
    else:
        return str(node.value).strip()
    return None


def _flag(file: _File, node: yaml.Node) -> bool | None:
    if node.tag != "tag:yaml.org,2002:bool" or not isinstance(node, yaml.ScalarNode):
        file.refuse(node, "true or false is wanted here")
        return None
    return node.value.lower() in _TRUE


def _outcome(file: _File, node: yaml.Node) -> Outcome | None:
    word = node.value if isinstance(node, yaml.ScalarNode) else ""
    if word == Outcome.WAITLIST:
        file.refuse(node, "waitlist is not supported by this version yet")
    elif word not in tuple(Outcome):
        file.refuse(node, f"approve, reject or hold is wanted here{nearest(word, Outcome)}")
    else:
        return Outcome(word)
    return None


def _lists(file: _File, node: yaml.Node | None) -> _Entries:
    entries: dict[str, list[tuple[str | int, yaml.Node]]] = {}
    for key, value in [] if node is None else _pairs(file, node, "lists"):
        if not _LIST_NAME.fullmatch(key.value):
            file.refuse(key, f'"{key.value}" cannot stand in a condition: use letters, digits and "_", a letter first')
        entries[key.value] = _entries(file, value)
    return entries


def _entries(file: _File, node: yaml.Node) -> list[tuple[str | int, yaml.Node]]:
    if not isinstance(node, yaml.SequenceNode):
        file.refuse(node, "a list of texts is wanted here: [one, two]")
        return []
    if len(node.value) > MOST_ENTRIES:
        file.refuse(node, f"the list has {len(node.value)} entries, {MOST_ENTRIES} at most")
        return []
    read = ((_entry(file, entry), entry) for entry in node.value)
    return [(value, entry) for value, entry in read if value is not None]


def _entry(file: _File, node: yaml.Node) -> str | int | None:
    if node.tag == "tag:yaml.org,2002:int" and _INTEGER.fullmatch(node.value):
        return int(node.value)
    return _text(file, node)


def _rules(file: _File, node: yaml.Node | None, lists: Mapping[str, Sequence[object]]) -> list[Rule]:
    if node is None:
        return []
    if not isinstance(node, yaml.SequenceNode):
        file.refuse(node, 'rules must be a list: each one begins with "- name:"')
        return []
    if len(node.value) > MOST_RULES:
        file.refuse(node, f"there are {len(node.value)} rules, {MOST_RULES} at most")
        return []
    names: set[str] = set()
    rules = [_rule(file, entry, lists, names) for entry in node.value]
    return [rule for rule in rules if rule is not None]


def _rule(file: _File, node: yaml.Node, lists: Mapping[str, Sequence[object]], names: set[str]) -> Rule | None:
    fields = _fields(file, node, "a rule", known=_RULE_KEYS, required=("name", "when", "then"))
    name = _optional(file, fields.get("name"), _text, "")
    if name and name in names:
        file.refuse(fields["name"], f'another rule is called "{name}"')
    names.add(name or "")
    then = _optional(file, fields.get("then"), _outcome, Outcome.HOLD)
    notify = _optional(file, fields.get("notify"), _flag, True)
    reason = _optional(file, fields.get("reason"), _text, "")
    titles = _titles(file, fields.get("meetings"))
    condition = _condition(file, fields["when"], lists) if "when" in fields else None
    if name is None or then is None or notify is None or reason is None or condition is None:
        return None
    return Rule(name=name, condition=condition, then=then, titles=titles, notify=notify, reason=reason)


def _titles(file: _File, node: yaml.Node | None) -> re.Pattern[str] | None:
    """The scope of a rule: a pattern of the shell (``*``, ``?``, ``[…]``) for the whole title, whatever its case."""
    if node is None:
        return None
    fields = _fields(file, node, "meetings", known=("title",), required=("title",))
    pattern = _optional(file, fields.get("title"), _text, "")
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE) if pattern else None


def _condition(file: _File, node: yaml.Node, lists: Mapping[str, Sequence[object]]) -> Condition | None:
    if not isinstance(node, yaml.ScalarNode):
        file.refuse(node, "a condition is a text; put it in quotes")
        return None
    try:
        condition = Condition(node.value, lists)
    except ConditionRefused as refused:
        for fault in refused.faults:
            file.refuse_inside(node, fault.message, fault.offset)
        return None
    file.domain_lists |= condition.domain_lists
    return condition


def _check_domains(file: _File, entries: _Entries) -> None:
    for name in file.domain_lists:
        for value, node in entries.get(name, ()):
            if usual_domain(value) != value:
                file.refuse(node, never_equal(value))
