"""The import rules and the shape of the code, read from the sources; nothing of the service is imported here.

``python -m tests.test_architecture`` prints the report and ends with 1 where a rule is broken.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SHELLS = ("webex", "bus", "receiver", "telemetry", "sandbox")
LONGEST_FUNCTION = 40
PATTERN_NAMES = frozenset({"utils", "util", "helpers", "helper", "manager", "common", "base", "service", "misc"})

#: What core may take from the standard library: nothing that reads a clock, the machine, a file or the network.
PURE = frozenset(
    {
        *("__future__", "abc", "ast", "base64", "binascii", "bisect", "collections", "copy", "dataclasses", "datetime"),
        *(
            "decimal",
            "difflib",
            "email",
            "enum",
            "fnmatch",
            "fractions",
            "functools",
            "hashlib",
            "heapq",
            "hmac",
            "html",
        ),
        *(
            "ipaddress",
            "itertools",
            "json",
            "math",
            "numbers",
            "operator",
            "re",
            "string",
            "struct",
            "textwrap",
            "types",
        ),
        *("typing", "unicodedata", "urllib", "zlib"),
    }
)
EVERYWHERE = frozenset({"msgspec"})
POLICY_ONLY = frozenset({"cel", "idna", "yaml"})

#: Third-party library → the modules (with all below them, or with this beginning) that may import it.
OWNERS: dict[str, tuple[str, ...]] = {
    "aiokafka": ("service.bus.kafka",),
    "apsw": ("service.bus.journal",),
    "cel": ("service.core.policy",),
    "click": ("service.cli",),
    "dotenv": ("service.settings",),
    "httpcore": ("service.webex",),
    "httptools": ("service.receiver.guard", "service.receiver.framing"),
    "httpx": ("service.webex", "service.sandbox", "service.cli"),
    "idna": ("service.core.policy",),
    "jsonschema": ("service.webex",),
    "msgspec": ("service",),
    "prometheus_client": ("service.telemetry",),
    "pydantic": ("service.settings",),
    "pydantic_settings": ("service.settings", "service.cli"),
    "rich": ("service.cli",),
    "starlette": ("service.receiver", "service.telemetry", "service.sandbox"),
    "structlog": tuple(f"service.{shell}" for shell in (*SHELLS, "controllers", "cli")),
    "typer": ("service.cli",),
    "uvicorn": ("service.cli", "service.receiver.guard", "service.receiver.direct"),
    "uvloop": ("service.cli",),
    "yaml": ("service.core.policy", "service.settings", "service.cli"),
}

#: Calls that a module may make while it is imported: they build values and touch nothing.
VALUE_CALLS = frozenset(
    {
        *(
            "attrgetter",
            "bytes",
            "dict.fromkeys",
            "str",
            "dict",
            "float",
            "frozenset",
            "int",
            "len",
            "range",
            "set",
            "tuple",
            "auto",
            "enum.auto",
            "Path",
            "Decimal",
        ),
        *(
            "NewType",
            "TypedDict",
            "TypeVar",
            "ParamSpec",
            "MappingProxyType",
            "types.MappingProxyType",
            "dataclass",
            "dataclasses.dataclass",
        ),
        *("field", "dataclasses.field", "msgspec.field", "msgspec.json.Decoder", "msgspec.json.Encoder", "re.compile"),
        *("msgspec.msgpack.Decoder", "msgspec.msgpack.Encoder", "partial", "functools.partial"),
        *("datetime", "datetime.datetime", "timedelta", "datetime.timedelta", "struct.Struct", "ContextVar"),
    }
)
#: Methods of constants: what they do to a text or a mapping is a value again.
VALUE_METHODS = frozenset({"encode", "items", "join", "keys", "lower", "split", "values"})
#: ... and in ``cli``, where commands are declared.
DECLARING_CALLS = frozenset({"typer.Typer", "typer.Option", "typer.Argument", "add_typer", "verbs_of"})


@dataclass(frozen=True)
class Source:
    """One module of the service, parsed."""

    module: str
    tree: ast.Module
    package: bool = False


@dataclass(frozen=True)
class Import:
    """``target`` is the full dotted name as written; of ``from a import b`` both a and b are known."""

    target: str
    name: str
    line: int

    @property
    def top(self) -> str:
        """The distribution's (or standard library's) first name."""
        return self.target.partition(".")[0]


Rule = Callable[[Source], Iterator[str]]


@cache
def read_service() -> Sequence[Source]:
    """Every module below ``service``, parsed once for all rules."""
    return tuple(
        parse(path.read_text("utf-8"), ".".join(module_parts(path)), package=path.name == "__init__.py")
        for path in sorted((ROOT / "service").rglob("*.py"))
    )


def module_parts(path: Path) -> tuple[str, ...]:
    """``service/core/event.py`` → service, core, event."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def parse(text: str, module: str, *, package: bool = False) -> Source:
    """A module from its text."""
    return Source(module=module, tree=ast.parse(text), package=package)


def imports_of(source: Source) -> Iterator[Import]:
    """Every import, late ones inside functions too."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from (Import(origin, alias.name, node.lineno) for alias in node.names)


def part_of(module: str) -> str:
    """``service.bus.kafka`` → bus; "" for the package itself."""
    return [*module.split("."), ""][1]


def our_parts(source: Source) -> Iterator[tuple[str, Import]]:
    """The parts of the service that are imported, ``from service import bus`` included."""
    for found in imports_of(source):
        if found.top == "service":
            yield part_of(found.target) or found.name, found


def third_party(source: Source) -> Iterator[Import]:
    """Imports that are neither ours nor the standard library's."""
    for found in imports_of(source):
        if found.top and found.top != "service" and found.top not in sys.stdlib_module_names:
            yield found


def within(module: str, owners: Iterable[str]) -> bool:
    """Whether ``module`` belongs to one of ``owners`` (``service.bus.kafka`` owns ``service.bus.kafka_admin`` too)."""
    return any(module == owner or module.startswith((f"{owner}.", f"{owner}_")) for owner in owners)


# --- the rules: each yields one sentence for each breach --------------------------------------------------------------


def core_is_pure(source: Source) -> Iterator[str]:
    """Core imports core, pure parts of the standard library and msgspec; the policy also CEL, IDNA and YAML."""
    if part_of(source.module) != "core":
        return
    ours = EVERYWHERE | (POLICY_ONLY if within(source.module, ["service.core.policy"]) else frozenset())
    for found in imports_of(source):
        if found.top == "service":
            continue
        if found.top not in PURE | ours:
            yield f"{source.module}:{found.line} imports {found.target}"


CLOCKS = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")
IMPURE_BUILTINS = frozenset({"open", "print", "input", "exec", "eval", "__import__"})


def core_reads_no_clock(source: Source) -> Iterator[str]:
    """Core is given the time, and opens nothing."""
    if part_of(source.module) != "core":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in IMPURE_BUILTINS or called.endswith(CLOCKS):
                yield f"{source.module}:{node.lineno} calls {called}"


ALLOWED_PARTS = {
    "core": {"core"},
    "controllers": {"controllers", "core"},
    "settings": {"settings", "core"},
    **{shell: {shell, "core"} for shell in SHELLS},
}


def shells_never_meet(source: Source) -> Iterator[str]:
    """Shells, controllers and settings import core and themselves; only cli plugs them together."""
    part = part_of(source.module)
    allowed = ALLOWED_PARTS.get(part)
    if allowed is None:
        return
    for imported, found in our_parts(source):
        if imported not in allowed:
            yield f"{source.module}:{found.line} ({part}) imports service.{imported}"


def each_library_has_one_owner(source: Source) -> Iterator[str]:
    """A third-party library is imported by its owner only, and one without an owner by nobody."""
    for found in third_party(source):
        if not within(source.module, OWNERS.get(found.top, ())):
            yield f"{source.module}:{found.line} imports {found.top}"


def imports_are_written_in_full(source: Source) -> Iterator[str]:
    """No relative imports, so that a search finds every use."""
    for found in imports_of(source):
        if found.target.startswith("."):
            yield f"{source.module}:{found.line} imports {found.target}{found.name}"


def only_cli_reads_the_environment(source: Source) -> Iterator[str]:
    """os.environ and os.getenv belong to cli and settings."""
    if part_of(source.module) in {"cli", "settings"}:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}:
            yield f"{source.module}:{node.lineno} reads {ast.unparse(node)}"
    for found in imports_of(source):
        if found.target == "os" and found.name in {"environ", "getenv", "environb"}:
            yield f"{source.module}:{found.line} imports os.{found.name}"


def nothing_happens_at_import(source: Source) -> Iterator[str]:
    """At the top of a module and of a class: imports, definitions, and constants built by calls that touch nothing."""
    yield from _idle(source, source.tree.body)


def _idle(source: Source, body: Sequence[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _calls(source, statement.decorator_list)
            yield from _idle(source, statement.body)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [default for default in statement.args.kw_defaults if default is not None]
            yield from _calls(source, [*statement.args.defaults, *defaults])
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
            yield from _calls(source, [statement.value] if statement.value else [])
        elif not isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass) and not _starts_the_program(
            source, statement
        ):
            yield f"{source.module}:{statement.lineno} {type(statement).__name__.lower()} at import"


def _starts_the_program(source: Source, statement: ast.stmt) -> bool:
    return source.module.endswith(".__main__") and isinstance(statement, ast.If)


def _calls(source: Source, expressions: Iterable[ast.expr]) -> Iterator[str]:
    for expression in expressions:
        for node in _evaluated(expression):
            if isinstance(node, ast.Call) and not _builds_a_value(source, node):
                yield f"{source.module}:{node.lineno} calls {ast.unparse(node.func)} at import"


def _evaluated(expression: ast.expr) -> Iterator[ast.AST]:
    """The expression's nodes without the bodies of lambdas, which run later."""
    pending: list[ast.AST] = [expression]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def _builds_a_value(source: Source, call: ast.Call) -> bool:
    name = ast.unparse(call.func.value if isinstance(call.func, ast.Subscript) else call.func)
    last = name.rpartition(".")[2]
    if name in VALUE_CALLS or (last in VALUE_METHODS and last != name):
        return True
    if part_of(source.module) == "cli" and (name in DECLARING_CALLS or last in DECLARING_CALLS):
        return True
    in_core = part_of(source.module) == "core"  # a class of core can only be a value
    return name in _frozen_classes(source) or (in_core and last[:1].isupper())


def _frozen_classes(source: Source) -> set[str]:
    return {
        node.name
        for node in source.tree.body
        if isinstance(node, ast.ClassDef)
        if "frozen=True" in " ".join(ast.unparse(part) for part in (*node.decorator_list, *node.keywords))
    }


def no_global_changes(source: Source) -> Iterator[str]:
    """No function rebinds a module's name."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield f"{source.module}:{node.lineno} global {', '.join(node.names)}"


def functions_are_short(source: Source) -> Iterator[str]:
    """No function is longer than 40 lines, from ``def`` to its last line, docstring included."""
    for name, lines, line in functions_of(source):
        if lines > LONGEST_FUNCTION:
            yield f"{source.module}:{line} {name} has {lines} lines"


def functions_of(source: Source) -> Iterator[tuple[str, int, int]]:
    """Name, lines and first line of every function, inner ones too."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1, node.lineno


def modules_are_named_by_their_subject(source: Source) -> Iterator[str]:
    """No utils, helpers, manager, common, base: a name says what a module knows or touches."""
    for name in source.module.split(".")[1:]:
        if name in PATTERN_NAMES or PATTERN_NAMES.intersection(name.split("_")):
            yield f"{source.module} is named after a pattern ({name})"


RULES: tuple[Rule, ...] = (
    core_is_pure,
    core_reads_no_clock,
    shells_never_meet,
    each_library_has_one_owner,
    imports_are_written_in_full,
    only_cli_reads_the_environment,
    nothing_happens_at_import,
    no_global_changes,
    functions_are_short,
    modules_are_named_by_their_subject,
)


def import_cycles(sources: Sequence[Source]) -> list[tuple[str, ...]]:
    """Every ring of modules that import one another, late and type-checking imports included."""
    graph = {source.module: set(_imported_modules(source, {each.module for each in sources})) for source in sources}
    cycles = {_ring(graph, module) for module in graph}
    return sorted(cycles - {()})


def _imported_modules(source: Source, known: set[str]) -> Iterator[str]:
    for found in imports_of(source):
        deeper = f"{found.target}.{found.name}"
        target = deeper if deeper in known else found.target
        if target in known and target != source.module:
            yield target


def _ring(graph: dict[str, set[str]], start: str) -> tuple[str, ...]:
    """The shortest way from ``start`` back to itself, turned so that its first name comes first; () where there is none."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    for way in ways:  # grows while it is read: breadth first
        for step in sorted(graph.get(way[-1], ())):
            if step == start:
                turn = way.index(min(way))
                return way[turn:] + way[:turn]
            if step not in seen:
                seen.add(step)
                ways.append((*way, step))
    return ()


# --- the report -------------------------------------------------------------------------------------------------------


def report(sources: Sequence[Source]) -> tuple[str, int]:
    """The report as text, and the number of breaches."""
    lines = [f"{len(sources)} modules"]
    breaches = 0
    for rule in RULES:
        found = [sentence for source in sources for sentence in rule(source)]
        breaches += len(found)
        lines.append(f"{'ok ' if not found else 'BAD'} {rule.__name__.replace('_', ' ')}")
        lines.extend(f"      {sentence}" for sentence in found)
    cycles = import_cycles(sources)
    lines.append(f"{'ok ' if not cycles else 'BAD'} no import cycle")
    lines.extend(f"      {' → '.join((*cycle, cycle[0]))}" for cycle in cycles)
    lines.append(lengths(sources))
    return "\n".join(lines), breaches + len(cycles)


def lengths(sources: Sequence[Source]) -> str:
    """How long the functions are."""
    functions = sorted(
        (size, f"{source.module}.{name}") for source in sources for name, size, _ in functions_of(source)
    )
    if not functions:
        return "no functions"
    sizes = [size for size, _ in functions]
    long = sum(size > 25 for size in sizes)
    longest, name = functions[-1]
    median = statistics.median(sizes)
    return f"{len(sizes)} functions: median {median:g} lines, {long} over 25, longest {longest} ({name})"


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_service_keeps_the_rule(rule: Rule) -> None:
    """No module of the service breaks the rule."""
    assert [sentence for source in read_service() for sentence in rule(source)] == []


def test_the_service_has_no_import_cycle() -> None:
    """A cycle is a misplaced function."""
    assert import_cycles(read_service()) == []


def test_the_report_names_the_longest_function() -> None:
    """The report can be quoted: rules, cycles, and how long the functions are."""
    text, _ = report(read_service())
    sys.stdout.write(f"\n{text}\n")

    assert "median" in text
    assert "no import cycle" in text


# One line for each way to break a rule: the rule, the module, its text, and what the sentence says.
# fmt: off
PLANTED: list[tuple[Rule, str, str, str]] = [
    (core_is_pure, "core.signature", "import os", "imports os"),
    (core_is_pure, "core.event", "from asyncio import sleep", "imports asyncio"),
    (core_is_pure, "core.event", "import structlog", "imports structlog"),
    (core_is_pure, "core.event", "import cel", "imports cel"),
    (core_is_pure, "core.work", "def f():\n    import time", "imports time"),
    (core_reads_no_clock, "core.retry", "def f():\n    return datetime.now(UTC)", "datetime.now"),
    (core_reads_no_clock, "core.policy", "def f(path):\n    return open(path)", "calls open"),
    (shells_never_meet, "webex.client", "from service.bus import kafka", "service.bus"),
    (shells_never_meet, "receiver.app", "from service import bus", "service.bus"),
    (shells_never_meet, "controllers.sweep", "import service.webex", "service.webex"),
    (shells_never_meet, "bus.kafka", "from service.settings import Settings", "service.settings"),
    (shells_never_meet, "core.work", "from service.controllers import sweep", "service.controllers"),
    (each_library_has_one_owner, "controllers.sweep", "import httpx", "imports httpx"),
    (each_library_has_one_owner, "bus.publisher", "import aiokafka", "imports aiokafka"),
    (each_library_has_one_owner, "cli", "import requests", "imports requests"),
    (imports_are_written_in_full, "bus.kafka", "from . import offsets", ".offsets"),
    (only_cli_reads_the_environment, "bus.kafka", 'def f():\n    return os.environ["A"]', "reads os.environ"),
    (only_cli_reads_the_environment, "bus.kafka", "from os import getenv", "imports os.getenv"),
    (nothing_happens_at_import, "webex.client", "client = httpx.AsyncClient()", "calls httpx.AsyncClient"),
    (nothing_happens_at_import, "bus.kafka", "log = structlog.get_logger()", "calls structlog.get_logger"),
    (nothing_happens_at_import, "cli", "settings = Settings()", "calls Settings"),
    (nothing_happens_at_import, "core.event", "for x in ():\n    pass", "for at import"),
    (nothing_happens_at_import, "core.event", "if TYPE_CHECKING:\n    import os", "if at import"),
    (nothing_happens_at_import, "bus.kafka", "def f(queue=make_queue()): ...", "calls make_queue"),
    (nothing_happens_at_import, "bus.kafka", "class A:\n    lock = Lock()", "calls Lock"),
    (no_global_changes, "cli", "def f():\n    global x\n    x = 1", "global x"),
    (modules_are_named_by_their_subject, "bus.utils", "", "utils"),
    (modules_are_named_by_their_subject, "bus.topic_manager", "", "topic_manager"),
    (functions_are_short, "cli", "def f():\n" + "    x = 1\n" * 40, "f has 41 lines"),
]
# fmt: on


@pytest.mark.parametrize(
    ("rule", "module", "text", "expected"), PLANTED, ids=[f"{rule.__name__}-{said}" for rule, _, _, said in PLANTED]
)
def test_a_planted_breach_is_found(rule: Rule, module: str, text: str, expected: str) -> None:
    """The rule bites: exactly one breach, and the sentence names it."""
    found = list(rule(parse(text, f"service.{module}")))

    assert len(found) == 1
    assert expected in found[0]
    assert found[0].startswith(f"service.{module}")


def test_every_rule_has_a_planted_breach() -> None:
    """A rule that was never seen to fail may be one that cannot."""
    assert {rule for rule, *_ in PLANTED} == set(RULES)


GOOD = '''
"""A module as it should be."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from service.core.message import Message

LIMIT = 64 * 1024
NAMES = frozenset({"a", "b"})
PATTERN = re.compile(r"\\d+")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATER = lambda: make()
TWO = Value(names=NAMES)
_decoder = msgspec.json.Decoder(Message)


class Value(msgspec.Struct, frozen=True):
    """A value."""

    names: frozenset[str] = frozenset()
    more: list[str] = msgspec.field(default_factory=list)


def short(now: datetime, *, limit: int = LIMIT) -> datetime:
    """The time is given."""
    return max(now, EPOCH)
'''


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_module_breaks_no_rule(rule: Rule) -> None:
    """The rules ask for nothing that a plain module of core does not have."""
    assert list(rule(parse(GOOD, "service.core.sample"))) == []


def test_a_planted_cycle_is_found() -> None:
    """A ring of three is found once, whichever way it is imported; a chain is none."""
    texts = {
        "service.core.a": "from service.core import b",
        "service.core.b": "def late():\n    from service.core.c import thing",
        "service.core.c": "import service.core.a",
        "service.core.d": "from service.core.a import x",
    }
    ring = [parse(text, module) for module, text in texts.items()]

    assert import_cycles(ring) == [("service.core.a", "service.core.b", "service.core.c")]
    assert import_cycles(ring[1:]) == []


def test_the_owner_of_a_prefix_owns_its_neighbours_only() -> None:
    """``service.bus.kafka`` stands for kafka.py, kafka_admin.py and kafka/, and for nothing else."""
    owned = [
        "service.bus.kafka",
        "service.bus.kafka_admin",
        "service.bus.kafka.admin",
        "service.bus.kafkaesque",
        "service.bus",
    ]

    assert [within(module, ["service.bus.kafka"]) for module in owned] == [True, True, True, False, False]


def main() -> int:
    """Print the report."""
    text, breaches = report(read_service())
    sys.stdout.write(f"{text}\n")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
