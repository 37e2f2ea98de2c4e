"""What a CEL expression talks about, read from its text: the binding gives no syntax tree and no places.

Only expressions that the engine has compiled are read here, so brackets balance and texts end. The lexical rules are those of
the CEL specification, "Syntax" (https://github.com/cel-expr/cel-spec/blob/master/doc/langdef.md#syntax).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: What a condition may talk about.
VARIABLES = ("registrant", "meeting", "counts", "lists")

#: Names of types, for ``type(registrant.zipCode) == int``.
TYPES = ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint")

#: What the engine (cel-rust 0.14) has without its opt-in extensions.
FUNCTIONS = ("bytes", "double", "duration", "dyn", "has", "int", "size", "string", "timestamp", "type", "uint")
METHODS = (
    "contains",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "matches",
    "size",
    "startsWith",
)

#: Loops: ``list.exists(name, condition)``.
MACROS = ("all", "exists", "existsOne", "exists_one", "filter", "map")

#: The most loops within each other, and the most steps that loops over the longest list may take: 0.1 s for one registrant.
DEEPEST_LOOP = 2
MOST_STEPS = 250_000

_KEYWORDS = ("true", "false", "null", "in")

_TOKEN = re.compile(
    r"""
    (?P<space> \s+ | //[^\n]* )
  | (?P<text>
        (?: [rR][bB]? | [bB][rR] ) (?: \"{3}(?s:.*?)\"{3} | '{3}(?s:.*?)'{3} | "[^"\n]*" | '[^'\n]*' )
      | [bB]? (?: \"{3}(?s:\\.|[^\\])*?\"{3} | '{3}(?s:\\.|[^\\])*?'{3} | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
    )
  | (?P<number> 0[xX][0-9a-fA-F]+[uU]? | (?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?[uU]? )
  | (?P<name> [A-Za-z_]\w* )
  | (?P<sign> == | != | . )
    """,
    re.VERBOSE | re.ASCII,
)


class Fault(NamedTuple):
    """Why an expression is refused; ``offset`` counts its characters from 0."""

    message: str
    offset: int


class Token(NamedTuple):
    """One word of an expression. ``kind`` is ``text``, ``number``, ``name`` or ``sign``."""

    kind: str
    text: str
    offset: int


@dataclass(frozen=True)
class Use:
    """A name where it stands. ``loops`` says how many loops run around it.

    ``role`` is ``variable``, ``function``, ``method``, ``member``, ``binder`` (a loop names its element), ``bound`` (that
    element), ``keyword`` or ``rooted`` (after a dot without anything before it).
    """

    role: str
    name: str
    index: int
    offset: int
    loops: int


class Expression:
    """The tokens of an expression and the use of every name in it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = [
            Token(match.lastgroup or "", match[0], match.start())
            for match in _TOKEN.finditer(source)
            if match.lastgroup != "space"
        ]
        self.uses = tuple(_uses(self))

    def token(self, index: int) -> Token:
        """The token at ``index``; an empty one beyond the ends."""
        return self.tokens[index] if 0 <= index < len(self.tokens) else Token("", "", 0)

    def texts(self, start: int, count: int) -> list[str]:
        """The texts of ``count`` tokens from ``start``."""
        return [self.token(index).text for index in range(start, start + count)]

    def member(self, use: Use) -> str | None:
        """The field that is selected of ``use``, None where it is used as a whole or by a computed name."""
        dot, name, after = (self.token(use.index + step) for step in (1, 2, 3))
        return name.text if dot.text == "." and name.kind == "name" and after.text != "(" else None

    def variables(self, name: str) -> Iterator[Use]:
        """Every use of one variable."""
        return (use for use in self.uses if use.role == "variable" and use.name == name)

    def reads(self, variable: str) -> frozenset[str] | None:
        """The fields of ``variable`` that the expression selects; None where it may read all of them."""
        members = [self.member(use) for use in self.variables(variable)]
        return None if None in members else frozenset(name for name in members if name is not None)


def union(reads: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """What several expressions read together; None stands for everything."""
    every = list(reads)
    return None if None in every else frozenset().union(*(names for names in every if names is not None))


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that names the most similar known word, "" where none is similar."""
    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f'; did you mean "{by_lower[found[0]]}"?' if found else ""


def closing_brace(text: str, start: int) -> int | None:
    """Where the expression that begins at ``start`` of a text ends: the index of the "}" that closes it, None without one."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        if match[0] == "}" and depth == 0:
            return match.start()
        depth += {"{": 1, "}": -1}.get(match[0], 0)
    return None


def faults(
    expression: Expression, lists: Mapping[str, Sequence[object]], variables: Sequence[str] = VARIABLES
) -> Iterator[Fault]:
    """What is wrong with the names in an expression, and whether it could take too long.

    ``variables`` are those that it may talk about where it stands.
    """
    for use in expression.uses:
        message = _misuse(expression, use, variables)
        if message:
            yield Fault(message, use.offset)
    yield from _unknown_lists(expression, lists)
    yield from _loops_too_deep(expression)
    yield from _too_many_steps(expression, lists)


def _uses(expression: Expression) -> Iterator[Use]:
    scopes: list[str | None] = []
    for index, token in enumerate(expression.tokens):
        if token.text == "(":
            scopes.append(_bound_name(expression, index))
        elif token.text == ")":
            scopes.pop()
        elif token.kind == "name":
            loops = sum(scope is not None for scope in scopes)
            yield Use(_role(expression, index, scopes), token.text, index, token.offset, loops)


def _bound_name(expression: Expression, bracket: int) -> str | None:
    """The name that a loop gives to its element, where the bracket opens a loop."""
    dot, macro = expression.texts(bracket - 2, 2)
    name, comma = expression.token(bracket + 1), expression.token(bracket + 2)
    opens = dot == "." and macro in MACROS and name.kind == "name" and comma.text == ","
    return name.text if opens else None


def _role(expression: Expression, index: int, scopes: Sequence[str | None]) -> str:
    name, before, after = (
        expression.token(index).text,
        expression.token(index - 1).text,
        expression.token(index + 1).text,
    )
    if before == ".":
        if not _ends_operand(expression.token(index - 2)):
            return "rooted"
        return "method" if after == "(" else "member"
    if name in _KEYWORDS:
        return "keyword"
    if after == "(":
        return "function"
    if before == "(" and scopes and scopes[-1] == name and after == ",":
        return "binder"
    return "bound" if name in scopes else "variable"


def _ends_operand(token: Token) -> bool:
    return (token.kind in ("name", "text", "number") and token.text != "in") or token.text in tuple(")]}")


def _misuse(expression: Expression, use: Use, variables: Sequence[str]) -> str:
    match use.role:
        case "variable" if use.name in VARIABLES and use.name not in variables:
            return f'there is no "{use.name}" here: it can talk about {" and ".join(variables)}'
        case "variable" if use.name not in VARIABLES + TYPES:
            return f'unknown variable "{use.name}"{nearest(use.name, variables)}'
        case "function" if use.name not in FUNCTIONS:
            return _unknown_function(use.name)
        case "method" if use.name in MACROS:
            return _unusable_loop(expression, use)
        case "method" if use.name not in METHODS:
            return _unknown_function(use.name)
        case "binder" if use.name in VARIABLES:
            return f'"{use.name}" is a variable already: call the element by another name'
        case "rooted":
            return f'write "{use.name}" without the dot before it'
    return ""


def _unknown_function(name: str) -> str:
    if name in METHODS + MACROS:
        return f'"{name}" stands after a value and a dot: value.{name}(…)'
    if name in FUNCTIONS:
        return f'"{name}" stands before its value: {name}(value)'
    return f'unknown function "{name}"{nearest(name, FUNCTIONS + METHODS + MACROS)}'


def _unusable_loop(expression: Expression, use: Use) -> str:
    if _bound_name(expression, use.index + 1) is None:
        return f'"{use.name}" wants a name for the element and a condition: list.{use.name}(x, …)'
    return ""


def _unknown_lists(expression: Expression, lists: Mapping[str, Sequence[object]]) -> Iterator[Fault]:
    """Lists by a fixed name; a computed one (``lists[registrant.city]``) is left to the run time."""
    for use in expression.variables("lists"):
        name = expression.member(use)
        if name is not None and name not in lists:
            yield Fault(f'unknown list "{name}"{nearest(name, lists)}', expression.token(use.index + 2).offset)


def _loops_too_deep(expression: Expression) -> Iterator[Fault]:
    for use in expression.uses:
        if use.role == "binder" and use.loops > DEEPEST_LOOP:
            yield Fault(f"loops stand at most {DEEPEST_LOOP} deep within each other", use.offset)


def _too_many_steps(expression: Expression, lists: Mapping[str, Sequence[object]]) -> Iterator[Fault]:
    """A list costs its length, and as much again for each loop around it."""
    named = expression.reads("lists")
    longest = max((len(entries) for name, entries in lists.items() if named is None or name in named), default=0)
    for use in expression.variables("lists"):
        steps = longest ** (use.loops + 1)
        if steps > MOST_STEPS:
            yield Fault(
                f"a list of {longest} entries in a loop takes too long: {steps} steps, {MOST_STEPS} at most", use.offset
            )
