"""What is wrong with a command, in words that repeat nothing of it: jsonschema's own messages quote what they refuse."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

#: A name that nobody knows is repeated where it looks like one; anything else may be an address, or a password.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """For one schema; made once, it is quick."""
    return Draft202012Validator(schema)


def problem(checked_by: Draft202012Validator, value: Any) -> str:
    """The first thing that is wrong with ``value`` (decoded JSON), "" where it fits. Names places, never what stands there."""
    try:
        error = next(checked_by.iter_errors(value), None)
    except RecursionError:
        return "it is nested too deeply"
    return _sentence(error) if error is not None else ""


def _sentence(error: ValidationError) -> str:
    at = _place(error.absolute_path)
    match error.validator:
        case "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            return f"{_inside(at, missing)}: is required"
        case "additionalProperties":
            known = error.schema.get("properties", {})
            unknown = next(name for name in error.instance if name not in known)
            if _NAME.fullmatch(unknown) is None:
                return f"{at or 'it'}: has a field that is not known"
            return f"{_inside(at, unknown)}: is not known{_hint(unknown, known)}"
        case "type":
            return f"{at or 'it'}: must be {_choices(error.validator_value)}"
        case "const" | "enum":
            return f"{at or 'it'}: must be {_choices(error.validator_value)}"
        case "pattern":
            return f"{at or 'it'}: has not the form that is wanted"
        case keyword:
            return f"{at or 'it'}: must keep to {keyword} {error.validator_value}"


def _place(path: Iterable[str | int]) -> str:
    at = ""
    for step in path:
        at = f"{at}[{step}]" if isinstance(step, int) else _inside(at, step)
    return at


def _inside(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _choices(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; {near[0]} is" if near else ""
