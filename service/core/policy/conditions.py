"""Conditions in CEL, by cel-rust: compiled once, checked before they are used, and unable to raise anything but one error.

Texts are matched by Rust's regex crate, in a time linear in their length: it knows no look-around and no back-references.
The engine's parser limits its own depth, so no expression overflows the stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import cel

from service.core.policy import expressions
from service.core.policy.comparisons import (
    AFTER_OPERAND,
    BEFORE_OPERAND,
    SAME,
    USUAL_FORMS,
    address_faults,
    comparisons,
    exact,
    same,
)
from service.core.policy.expressions import VARIABLES, Expression, Fault

#: Characters of an expression.
LONGEST = 4096

#: How deep objects and arrays from Webex may be nested: cel-rust converts them by recursion.
_DEEPEST_VALUE = 64

_ENGINE_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")

_SLIPS = {
    "mismatched input '<EOF>'": "it ends too early",
    "mismatched input 'and'": 'write "&&" for "and"',
    "mismatched input 'or'": 'write "||" for "or"',
    "mismatched input 'not'": 'write "!" for "not"',
    "token recognition error at: '= '": 'write "==" for "="',
}

_CEL_TYPES = {"str": "string", "float": "double", "dict": "map", "NoneType": "null"}

_EXPLANATIONS = {
    "KeyError": "a field, an answer or a key is not there",
    "IndexError": "a place in a list is not there",
    "TypeError": "values of different types are compared or combined",
    "RuntimeError": "a function does not accept what it was given",
    "ZeroDivisionError": "a division by zero",
    "OverflowError": "a number is too large",
    "ValueError": "a value that conditions cannot hold",
}


_Result = TypeVar("_Result")


class ConditionRefused(Exception):
    """The expression cannot be used, with every reason."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults


class ConditionFailed(Exception):
    """The engine gave no result. The message names the kind of error and holds no value.

    ``detail`` is the engine's own sentence, which may quote the registrant: for expressions without one only.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        explanation = _EXPLANATIONS.get(kind)
        super().__init__(f"{kind}: {explanation}" if explanation else kind)
        self.kind = kind
        self.detail = detail


class View:
    """What the conditions of one policy see: its lists, given once, and the variables, given for each registrant.

    ``whole`` are the lists that they do not only look something up in (None: all). The engine copies those anew for each
    expression, 42 ns an entry; what is only looked up in costs the same however long the list is.
    """

    def __init__(self, lists: Mapping[str, Sequence[object]], *, whole: frozenset[str] | None = None) -> None:
        shown = {name: list(entries) for name, entries in lists.items() if whole is None or name in whole}
        self._context = cel.Context({"lists": shown})
        self._context.add_function(_LOOK_UP, _look_up({name: frozenset(entries) for name, entries in lists.items()}))
        self._context.add_function(SAME, same)

    def show(self, variable: str, value: Mapping[str, Any]) -> None:
        """Replace ``variable``. Raises ConditionFailed for what CEL has no type for."""
        if _too_deep(value, _DEEPEST_VALUE):
            raise ConditionFailed("nested too deeply")
        _attempt(self._context.add_variable, variable, value)

    def run(self, program: cel.Program) -> object:
        """The result of a program. Raises ConditionFailed."""
        return _attempt(program.execute, self._context)


def _look_up(lists: Mapping[str, frozenset[object]]) -> Callable[[object, str], bool]:
    """The engine's ``value in list``. It must not raise: the engine would print what it was called with."""

    def listed(value: object, name: str) -> bool:
        # Of Python's equal values that CEL tells apart, only true and false can be in a list of texts and numbers.
        return isinstance(value, str | int | float) and not isinstance(value, bool) and value in lists[name]

    return listed


def _attempt(call: Callable[..., _Result], *arguments: object) -> _Result:
    """Call the engine. Raises ConditionFailed."""
    try:
        return call(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust arrives as a BaseException of its own
        raise ConditionFailed(type(error).__name__, str(error)) from None


class Formula:
    """One compiled expression."""

    def __init__(
        self, source: str, lists: Mapping[str, Sequence[object]], variables: Sequence[str] = VARIABLES
    ) -> None:
        """``variables`` are those that it may talk about. Raises ConditionRefused."""
        if len(source) > LONGEST:
            raise ConditionRefused(Fault(f"the condition has {len(source)} characters, {LONGEST} at most", 0))
        self.source = source
        _compile(source)
        expression = Expression(source)
        faults = (
            *expressions.faults(expression, lists, variables),
            *_bad_patterns(expression),
            *(address_faults(expression) if "registrant" in variables else ()),
        )
        if faults:
            raise ConditionRefused(*faults)
        compared = list(comparisons(expression))
        #: Lists in which an e-mail's domain or address is looked up, by the name of the field.
        self.address_lists = {
            field: frozenset(one.listed for one in compared if one.field == field and one.listed)
            for field in USUAL_FORMS
        }
        run = Expression(exact(expression))
        self.reads = {name: run.reads(name) for name in VARIABLES}
        quick = _with_look_ups(run)
        self._program = _compile(quick)
        #: Lists that it does not only look up in; None for all.
        self.whole_lists = Expression(quick).reads("lists")

    def value(self, view: View) -> object:
        """The result. Raises ConditionFailed."""
        return view.run(self._program)


class Condition(Formula):
    """An expression that is true or false."""

    def holds(self, view: View) -> bool:
        """Whether the condition is true. Raises ConditionFailed."""
        result = self.value(view)
        if not isinstance(result, bool):
            kind = type(result).__name__
            raise ConditionFailed(f"{_CEL_TYPES.get(kind, kind)} instead of true or false")
        return result


def _compile(source: str) -> cel.Program:
    try:
        return _attempt(cel.compile, source)
    except ConditionFailed as failure:
        raise ConditionRefused(_syntax_fault(source, failure)) from failure


def _syntax_fault(source: str, failure: ConditionFailed) -> Fault:
    found = _ENGINE_ERROR.search(failure.detail)
    if found is None:
        return Fault(f"not a valid CEL expression ({failure.kind})", 0)
    message = found[3].split(" expecting ")[0]
    lines = source.split("\n")[: int(found[1]) - 1]
    offset = sum(len(line) + 1 for line in lines) + int(found[2]) - 1
    return Fault(f"not a valid CEL expression: {_SLIPS.get(message, message)}", min(offset, len(source)))


def _too_deep(value: object, levels: int) -> bool:
    if isinstance(value, Mapping):
        return levels == 0 or any(_too_deep(item, levels - 1) for item in value.values())
    if isinstance(value, list | tuple):
        return levels == 0 or any(_too_deep(item, levels - 1) for item in value)
    return False


def _bad_patterns(expression: Expression) -> Iterator[Fault]:
    """A pattern is a literal text: a registrant must not be able to write one, and a wrong one is found here."""
    for use in expression.uses:
        if (use.role, use.name) == ("method", "matches"):
            pattern, closing = expression.token(use.index + 2), expression.token(use.index + 3)
            if pattern.kind != "text" or closing.text != ")":
                yield Fault("the pattern of matches must be a text in quotes, written here", pattern.offset)
            elif (reason := _unusable_pattern(pattern.text)) is not None:
                yield Fault(f"not a regular expression: {reason}", pattern.offset)


def _unusable_pattern(literal: str) -> str | None:
    try:
        _attempt(cel.compile(f"''.matches({literal})").execute)
    except ConditionFailed as failure:
        reason = re.search(r"error: ([^\n]*?)\.? Check function", failure.detail)
        return reason[1] if reason else "it is too large, or no text"
    return None


#: The function that stands for ``… in lists.name`` when an expression is run. No condition can be written with it.
_LOOK_UP = "listed"


def _with_look_ups(expression: Expression) -> str:
    """The source with a function call for each ``variable.field in lists.name``."""
    source, done, pieces = expression.source, 0, list[str]()
    for use in expression.uses:
        start, end = use.index, use.index + 6
        if use.role == "variable" and use.name != "lists" and _is_look_up(expression, start):
            field, name = expression.token(start + 2).text, expression.token(end).text
            pieces += [source[done : use.offset], f'{_LOOK_UP}({use.name}.{field},"{name}")']
            done = expression.token(end).offset + len(name)
    return "".join((*pieces, source[done:]))


def _is_look_up(expression: Expression, start: int) -> bool:
    dot, field = expression.texts(start + 1, 2)
    return (
        (dot, expression.token(start + 2).kind, field) == (".", "name", field)
        and expression.texts(start + 3, 3) == ["in", "lists", "."]
        and expression.token(start + 6).kind == "name"
        and expression.token(start - 1).text in BEFORE_OPERAND
        and expression.token(start + 7).text in AFTER_OPERAND
    )
