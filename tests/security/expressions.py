"""Every regular expression of the service, and texts that make a bad one slow.

A bad one is slow where there are several ways to match the same text: it tries them all before it gives up. So the texts
begin like a match, repeat a part of one for as long as they may, and end in what cannot match.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import math
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import service

ROOT = Path(service.__file__).parent

_WAYS = ("fullmatch", "match", "search", "sub", "findall", "finditer", "split")


@dataclass(frozen=True)
class Expression:
    """A compiled pattern at the top of a module, and how it is asked there."""

    name: str
    pattern: re.Pattern[Any]
    ways: tuple[str, ...]

    def ask(self, text: str) -> None:
        """In each of these ways, to the end."""
        subject = text.encode("utf-8", "replace") if isinstance(self.pattern.pattern, bytes) else text
        for way in self.ways:
            if way == "sub":
                self.pattern.sub(subject[:0], subject)
            elif way == "finditer":
                list(self.pattern.finditer(subject))
            else:
                getattr(self.pattern, way)(subject)


def expressions(root: Path = ROOT, package: str = "service") -> list[Expression]:
    """All of them, by walking the modules."""
    found = []
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        parts = [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"]
        for name in _compiled(tree):
            module = importlib.import_module(".".join((package, *parts)))
            found.append(Expression(".".join((*parts, name)), getattr(module, name), _asked(tree, name)))
    return found


def _compiled(tree: ast.Module) -> Iterator[str]:
    """Names at the top of a module whose value is ``re.compile(…)``."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.value).startswith("re.compile("):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _asked(tree: ast.Module, name: str) -> tuple[str, ...]:
    """``NAME.fullmatch``, ``NAME.sub`` …, wherever they stand; where it is only handed on, nobody knows how."""
    ways = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == name}
    return tuple(way for way in _WAYS if way in ways) or ("search", "fullmatch")


# --- texts ------------------------------------------------------------------------------------------------------------

#: Makes a text of about so many characters.
Text = Callable[[int], str]


def adversarial(pattern: re.Pattern[Any]) -> list[Text]:
    """Beginnings of a match, repeated parts of one, and ends that do not fit."""
    matches = examples(pattern)
    letters = list(dict.fromkeys("".join(matches)))[:12]
    pairs = map("".join, itertools.permutations(letters[:5], 2))
    units = list(dict.fromkeys([*letters, "a", "!", " ", *pairs, *itertools.islice(_pieces(matches), 24)]))
    starts = list(dict.fromkeys(["", *matches[:3], matches[0][:-1]]))
    return [_text(*each) for each in itertools.product(starts, units, ("", "\x00"))]


def _text(start: str, unit: str, end: str) -> Text:
    return lambda size: start[: size // 2] + unit * (size // len(unit)) + end


def _pieces(matches: list[str]) -> Iterator[str]:
    for each in matches:
        for at in range(0, len(each), max(1, len(each) // 4)):
            yield from filter(None, (each[at : at + 3], each[at:]))


def examples(pattern: re.Pattern[Any], count: int = 20) -> list[str]:
    """Texts that match, the longest first; always the same ones."""
    found: list[str] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.from_regex(pattern, fullmatch=True))
    def keep(text: str | bytes) -> None:
        found.append(text.decode("latin-1") if isinstance(text, bytes) else text)

    keep()
    return sorted({each[:200] for each in found if each}, key=len, reverse=True)


# --- times ------------------------------------------------------------------------------------------------------------


#: Whoever takes this long (s of CPU) is not waited for.
_HANG = 0.5


class _Hang(Exception):
    """It takes too long to be waited for."""


def seconds(ask: Callable[[str], object], text: str, *, best_of: int = 5) -> float:
    """CPU time, without what else the machine does; infinite where it is too long."""
    before = signal.signal(signal.SIGPROF, _hangs)
    try:
        return min(_once(ask, text) for _ in range(best_of))
    except _Hang:
        return math.inf
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _once(ask: Callable[[str], object], text: str) -> float:
    signal.setitimer(signal.ITIMER_PROF, _HANG)
    begun = time.thread_time()
    ask(text)
    return time.thread_time() - begun


def _hangs(_: int, __: FrameType | None) -> NoReturn:
    raise _Hang


def slowest(
    ask: Callable[[str], object], texts: list[Text], *, enough: float, most: int = 3
) -> list[tuple[float, Text]]:
    """Those that take longest, with their times while they are short; only the first one where it has taken ``enough``."""
    times: dict[Text, float] = {}
    for size in (*range(8, 68, 4), 128, 512, 4096):
        for text in texts:
            times[text] = seconds(ask, text(size), best_of=1)
            if times[text] > enough and (again := seconds(ask, text(size))) > enough:
                return [(again, text)]
    return [(times[text], text) for text in sorted(texts, key=times.__getitem__, reverse=True)[:most]]
