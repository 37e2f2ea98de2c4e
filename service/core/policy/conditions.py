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
from service.core.policy.addresses import domain
from service.core.policy.expressions import Expression, Fault

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
    """What the conditions of one policy see: its lists, given once, and the variables, given for each registrant."""

    def __init__(self, lists: Mapping[str, Sequence[object]]) -> None:
        self._context = cel.Context({"lists": {name: list(entries) for name, entries in lists.items()}})

    def show(self, variable: str, value: Mapping[str, Any]) -> None:
        """Replace ``variable``. Raises ConditionFailed for what CEL has no type for."""
        if _too_deep(value, _DEEPEST_VALUE):
            raise ConditionFailed("nested too deeply")
        _attempt(self._context.add_variable, variable, value)

    def run(self, program: cel.Program) -> object:
        """The result of a program. Raises ConditionFailed."""
        return _attempt(program.execute, self._context)


def _attempt(call: Callable[..., _Result], *arguments: object) -> _Result:
    """Call the engine. Raises ConditionFailed."""
    try:
        return call(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust arrives as a BaseException of its own
        raise ConditionFailed(type(error).__name__, str(error)) from None


class Condition:
    """One compiled expression."""

    def __init__(self, source: str, lists: Mapping[str, Sequence[object]]) -> None:
        """Raises ConditionRefused."""
        self.source = source
        self._program = _compile(source)
        expression = Expression(source)
        faults = (*expressions.faults(expression, lists), *_bad_patterns(expression), *_bad_domains(expression))
        if faults:
            raise ConditionRefused(*faults)
        self.reads = {name: expression.reads(name) for name in expressions.VARIABLES}
        #: Lists in which an e-mail's domain is looked up.
        self.domain_lists = frozenset(_domain_lists(expression))

    def holds(self, view: View) -> bool:
        """Whether the condition is true. Raises ConditionFailed."""
        result = view.run(self._program)
        if not isinstance(result, bool):
            kind = type(result).__name__
            raise ConditionFailed(f"{_CEL_TYPES.get(kind, kind)} instead of true or false")
        return result


def usual_domain(entry: object) -> str:
    """How ``registrant.emailDomain`` spells ``entry``: equal to it where it is right, "" where it is no domain."""
    return domain(entry) if isinstance(entry, str) else ""


def never_equal(entry: object) -> str:
    """The sentence for an entry that no ``registrant.emailDomain`` can equal."""
    usual = usual_domain(entry)
    advice = f'; write "{usual}"' if usual else ""
    return f'"{entry}" never equals registrant.emailDomain, which is a lower-case ASCII domain{advice}'


def _compile(source: str) -> cel.Program:
    if len(source) > LONGEST:
        raise ConditionRefused(Fault(f"the condition has {len(source)} characters, {LONGEST} at most", 0))
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


def _literal(text: str) -> object:
    return cel.compile(text).execute()


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


def _domain_lists(expression: Expression) -> Iterator[str]:
    for use in expression.variables("registrant"):
        if expression.texts(use.index + 1, 5) == [".", "emailDomain", "in", "lists", "."]:
            yield expression.token(use.index + 6).text


def _bad_domains(expression: Expression) -> Iterator[Fault]:
    """``registrant.emailDomain != "Example.org"`` would always be true."""
    for use in expression.variables("registrant"):
        if expression.texts(use.index + 1, 2) == [".", "emailDomain"]:
            for token in _compared(expression, use.index + 3):
                value = _literal(token.text)
                if value != usual_domain(value):
                    yield Fault(never_equal(value), token.offset)


def _compared(expression: Expression, operator: int) -> Iterator[expressions.Token]:
    """The literal texts on the right of ``==``, ``!=`` or ``in [``."""
    sign = expression.token(operator).text
    if sign in ("==", "!=") and expression.token(operator + 1).kind == "text":
        yield expression.token(operator + 1)
    if sign == "in" and expression.token(operator + 1).text == "[":
        index = operator + 2
        while expression.token(index).kind == "text":
            yield expression.token(index)
            index += 2
