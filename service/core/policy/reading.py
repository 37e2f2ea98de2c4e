"""YAML with a fixed set of keys, read so that every problem is reported at once, with its line and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import yaml

from service.core.errors import Problem
from service.core.policy.expressions import nearest
from service.core.policy.places import line_and_column, place

#: Bytes of a file; about one second of reading.
LARGEST_FILE = 1024 * 1024
LONGEST_TEXT = 1000

#: Entries of a list of patterns.
MOST_PATTERNS = 100

#: Numbers that YAML and people read alike: not 0123 (octal), 1_000 or 1:30 (sexagesimal).
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}", re.ASCII)

#: RFC 3339 with its offset: a time without one would depend on where the program runs.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)

_EMAIL = re.compile(r"[^\s\"'@]+@[^\s\"']+")

_TRUE = ("true", "yes", "on")

_Value = TypeVar("_Value")


class File:
    """The text, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.problems: list[Problem] = []

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


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML leaves it open
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


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


def fields_of(
    file: File, node: yaml.Node, owner: str, *, known: Iterable[str], required: Sequence[str] = ()
) -> dict[str, yaml.Node]:
    """The values of a mapping by their keys; unknown, repeated and missing keys are noted."""
    known, fields = tuple(known), dict[str, yaml.Node]()
    for key, value in pairs(file, node, owner):
        if key.value in known:
            fields[key.value] = value
        else:
            file.refuse(key, f'{owner} has no key "{key.value}"{nearest(key.value, known)}')
    for name in required if isinstance(node, yaml.MappingNode) else ():
        if name not in fields:
            file.refuse(node, f'{owner} lacks the key "{name}"')
    return fields


def pairs(file: File, node: yaml.Node, owner: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping, each key once."""
    if not isinstance(node, yaml.MappingNode):
        file.refuse(node, f"{owner} must be keys with values")
        return []
    found: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            file.refuse(key, "a key must be a word")
        elif key.value in found:
            file.refuse(key, f'"{key.value}" stands here for the second time')
        else:
            found[key.value] = (key, value)
    return list(found.values())


def optional(
    file: File, node: yaml.Node | None, read: Callable[[File, yaml.Node], _Value | None], default: _Value
) -> _Value | None:
    """What ``read`` makes of the node; the default without one."""
    return default if node is None else read(file, node)


def text(file: File, node: yaml.Node) -> str | None:
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


def texts(file: File, node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    """A text, or a list of texts, each with its node."""
    several = isinstance(node, yaml.SequenceNode)
    nodes: list[yaml.Node] = node.value if several else [node]
    if several and not 0 < len(nodes) <= MOST_PATTERNS:
        file.refuse(node, f"there are {len(nodes)} entries, 1 to {MOST_PATTERNS} are wanted")
        return []
    read = [(text(file, one), one) for one in nodes]
    return [(value, one) for value, one in read if value is not None]


def flag(file: File, node: yaml.Node) -> bool | None:
    """True or false."""
    if node.tag != "tag:yaml.org,2002:bool" or not isinstance(node, yaml.ScalarNode):
        file.refuse(node, "true or false is wanted here")
        return None
    return node.value.lower() in _TRUE


def choice(file: File, node: yaml.Node, words: Sequence[str]) -> str | None:
    """One of ``words``."""
    word = node.value if isinstance(node, yaml.ScalarNode) else ""
    if word in words:
        return str(word)
    wanted = f"{', '.join(words[:-1])} or {words[-1]}"
    file.refuse(node, f"{wanted} is wanted here{nearest(word, words)}")
    return None


def time(file: File, node: yaml.Node) -> datetime | None:
    """A moment in the form of RFC 3339."""
    written = node.value if isinstance(node, yaml.ScalarNode) else ""
    try:
        if _RFC3339.fullmatch(written):
            return datetime.fromisoformat(written.upper())
    except ValueError:
        pass
    file.refuse(node, "a time with its offset is wanted here: 2026-03-01T09:00:00+01:00")
    return None


def number(node: yaml.Node) -> int | float | None:
    """A number that people and YAML read alike, None for anything else."""
    if node.tag == "tag:yaml.org,2002:int" and _INTEGER.fullmatch(node.value):
        return int(node.value)
    return float(node.value) if node.tag == "tag:yaml.org,2002:float" and _DECIMAL.fullmatch(node.value) else None


def canonical(node: yaml.Node | None) -> Any:
    """What the node says, whatever its order, comments, quotes and line breaks: for a hash."""
    if isinstance(node, yaml.MappingNode):
        return sorted(([canonical(key), canonical(value)] for key, value in node.value), key=str)
    if isinstance(node, yaml.SequenceNode):
        return [canonical(item) for item in node.value]
    return None if node is None else [node.tag, node.value]
