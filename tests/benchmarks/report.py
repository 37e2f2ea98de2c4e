"""What a run has found: as JSON, and as tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.benchmarks.figures import Row, summary
from tests.benchmarks.rows import RATE, Round, Start, Steady

#: The load average (1 minute) up to which a machine is quiet.
QUIET = 0.5

#: Milliseconds by which the generator itself may miss its times at p99, before its figures say nothing of the server.
LATE = 5.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: medians over the rounds. ``parts`` are lines of the small benchmarks, as they print them."""

    machine: dict[str, Any]
    rows: dict[str, Row]
    steady: dict[str, Steady] = {}
    starts: dict[str, Start] = {}
    parts: dict[str, list[str]] = {}


def result(machine: Mapping[str, object], rounds: Sequence[Round], parts: Mapping[str, list[str]]) -> Result:
    """Of all rounds."""
    return Result(
        machine=dict(machine),
        rows=summary([look for each in rounds for look in each.closed]),
        steady=_medians(Steady, [each.steady for each in rounds]),
        starts=_medians(Start, [each.starts for each in rounds]),
        parts=dict(parts),
    )


def _medians(kind: Callable[..., Any], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for each in rounds for name in each)
    found = {}
    for name in names:
        columns = [msgspec.structs.asdict(each[name]) for each in rounds if name in each]
        found[name] = kind(**{field: statistics.median(each[field] for each in columns) for field in columns[0]})
    return found


def read(file: Path) -> Result:
    """A run that was written. Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode(file.read_bytes(), type=Result)


def write(file: Path, found: Result) -> None:
    """As JSON that can be compared line by line."""
    rounded = msgspec.json.Decoder(float_hook=lambda text: round(float(text), 4)).decode(msgspec.json.encode(found))
    file.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=1) + b"\n")


def put_between(marker: str, lines: Iterable[str], document: str) -> str:
    """``document`` with these lines between ``<!-- marker: begin -->`` and ``<!-- marker: end -->``. Raises ValueError."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->"
    before, begun, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"the markers of {marker} are missing")
    return f"{before}{begin}{''.join(f'{line}{chr(10)}' for line in lines)}{end}{after}"


def tables(found: Result) -> Iterator[str]:
    """Markdown, line by line."""
    machine = found.machine
    yield f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']} at the start; kernel {machine['kernel']}."
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    yield f"Python {machine['python']} ({machine['build']}); {libraries}. Commit {machine['commit']}{_changed(machine)}."
    if machine["load"] > QUIET:
        yield f"**The machine was busy (load {machine['load']} before the run): compare these figures with no others.**"
    yield ""
    yield "| closed loop, 64 connections | CPU us/event | x hello | events/s | x hello | p50 ms | p99 ms | p99.9 ms |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in found.rows.items():
        yield (
            f"| {name} | {row.cpu_us:.1f} | {row.cpu_ratio:.2f} | {row.rate:.0f} | {row.rate_ratio:.2f} | {row.p50:.2f} "
            f"| {row.p99:.2f} | {row.p999:.2f} |"
        )
    generator, looks = max(row.own_us for row in found.rows.values()), min(row.looks for row in found.rows.values())
    yield ""
    yield f"Medians of {looks} looks at each row; the generator took up to {generator:.1f} us for a request."
    yield from _steady(found.steady)
    yield from _starts(found.starts)
    for name, lines in found.parts.items():
        yield from ("", f"{name}:", *(f"    {line}" for line in lines))


def _changed(machine: Mapping[str, object]) -> str:
    return ", changed since" if machine["changed"] else ""


def _steady(steady: Mapping[str, Steady]) -> Iterator[str]:
    if not steady:
        return
    yield ""
    yield f"| open loop, {RATE:.0f}/s, from the intended start | events/s | p50 ms | p99 ms | p99.9 ms | longest | generator |"
    yield "|---|---|---|---|---|---|---|"
    for name, each in steady.items():
        late = f"p99 {each.late:.2f} ms late" + (": NOT VALID" if each.late > LATE else "")
        yield (
            f"| {name} | {each.rate:.0f} | {each.p50:.2f} | {each.p99:.2f} | {each.p999:.2f} | {each.longest:.2f} | {late} |"
        )


def _starts(starts: Mapping[str, Start]) -> Iterator[str]:
    yield ""
    yield "| process | ready after exec, s | resident after the load, MiB |"
    yield "|---|---|---|"
    for name, start in starts.items():
        yield f"| {name} | {start.ready:.2f} | {start.resident:.0f} |"
