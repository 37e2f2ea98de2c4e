"""``webex-events dlq``: dead letters, which are records of ours that led nowhere. Look, mend the cause, send them again."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import typer

from service.cli.api import options
from service.cli.api.calls import confirm
from service.cli.api.connection import api_settings
from service.cli.bus_client import BusClient, over_bus
from service.cli.clock import utc_now
from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command, Group
from service.cli.output import Format
from service.cli.printing import print_rows
from service.cli.reading import every_record, progress
from service.cli.spans import moment_of
from service.core import dead_letters, event
from service.core.dead_letters import DISCARDED, REDRIVEN, Letter, Letters
from service.core.message import UNREADABLE

TOPIC = "dead-letters"

#: Who closes letters: the name in the events.
_RECEIVER = "cli"

#: Bytes of records that are kept in memory at a time.
_TOGETHER = 32 * 1024 * 1024

_COLUMNS = (
    *("id", "state", "buried", "topic", "partition", "offset", "reason", "attempts", "status", "trackingId", "detail"),
)

dlq_app = typer.Typer(
    cls=Group,
    help="Dead letters: records that led nowhere, with the reason.",
    epilog=(
        "webex-events dlq list\n"
        "webex-events dlq show ID\n"
        "webex-events dlq redrive ID\n"
        "webex-events dlq redrive --all --reason WebexRejected\n"
        "webex-events dlq discard ID"
    ),
    no_args_is_help=True,
)

_Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Of letters; the first 6 characters do.")]
_All = Annotated[bool, typer.Option("--all", help="Every letter that waits, or those that the options below leave.")]
_Again = Annotated[bool, typer.Option("--again", help="Also those that were redriven or discarded already.")]
_Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this reason.")]
_Topic = Annotated[str | None, typer.Option(metavar="TEXT", help="Only of this topic, without the prefix.")]
_Since = Annotated[str | None, typer.Option(metavar="SPAN", help="Only those buried since: 90m, 2h, 7d, or a moment.")]
_State = Annotated[
    Literal["waiting", "redriven", "discarded", "all"], typer.Option(help="Only in this state.", case_sensitive=False)
]


@dlq_app.command(
    "list",
    cls=Command,
    epilog="webex-events dlq list\nwebex-events dlq list --state all --since 7d -o jsonl",
)
def list_letters(
    state: _State = "waiting",
    reason: _Reason = None,
    topic: _Topic = None,
    since: _Since = None,
    form: options.Output = None,
) -> None:
    """What went to the dead letters, oldest first; without the records themselves, which hold personal data."""
    after = _moment(since)
    letters = over_bus(api_settings(), _read, create=False)
    found = [each for each in letters if state in ("all", each.state) and _fits(each, reason, topic, after)]
    print_rows([_row(letter) for letter in found], form, columns=_COLUMNS)
    if letters.unreadable:
        typer.echo(f"{letters.unreadable} records of the topic are no letters that this version can read.", err=True)


@dlq_app.command("show", cls=Command, epilog="webex-events dlq show 4f1c2d")
def show_letter(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Of the letter; the first 6 characters do.")],
    form: options.Output = None,
) -> None:
    """One letter with the record that it is about; that may hold personal data."""

    async def work(bus: BusClient) -> tuple[Letter, _Content | None]:
        (letter,) = _named(await _read(bus), [id_])
        return letter, (await _contents(bus, [letter])).get(letter.id)

    letter, content = over_bus(api_settings(), work, create=False)
    shown = {**msgspec.to_builtins(letter), **_readable(content.value if content else None)}
    print_rows(shown, form or Format.JSON)


@dlq_app.command(
    "redrive",
    cls=Command,
    epilog="webex-events dlq redrive 4f1c2d\nwebex-events dlq redrive --all --reason WebexRejected --dry-run",
)
def redrive(  # noqa: PLR0913 - one argument for each option
    ids: _Ids = None,
    every: _All = False,
    reason: _Reason = None,
    topic: _Topic = None,
    since: _Since = None,
    again: _Again = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    form: options.Output = None,
) -> None:
    """Put the records back where they came from, in their order, after the cause was mended."""
    if again and every:
        end("--all is every letter that waits; --again is for letters that are named.", WRONG)
    chosen = _chosen(ids, every, reason, topic, since)
    if not again and (closed := [f"{letter.id} is {letter.state}" for letter in chosen if letter.state != "waiting"]):
        end(f"{', '.join(closed)} already: nothing was sent. --again sends also such records.", FAILED)
    if dry_run:
        print_rows([_row(letter) for letter in chosen], form, columns=_COLUMNS)
        return
    if every:
        confirm(f"Send {len(chosen)} records again.", yes=yes)
    done = over_bus(api_settings(), lambda bus: redriven(bus, chosen), create=False)
    print_rows([_row(letter) for letter in done], form, columns=_COLUMNS)
    sent = {letter.id for letter in done}
    if missing := [letter.id for letter in chosen if letter.id not in sent]:
        end(f"The records of {', '.join(missing)} are not there any more: nothing was sent for them.", FAILED)


@dlq_app.command(
    "discard",
    cls=Command,
    epilog="webex-events dlq discard 4f1c2d\nwebex-events dlq discard --all --since 2h --reason unreadable --yes",
)
def discard(
    ids: _Ids = None,
    every: _All = False,
    reason: _Reason = None,
    topic: _Topic = None,
    since: _Since = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    form: options.Output = None,
) -> None:
    """Say that letters need nothing any more: they are not listed, and stay on the topic as long as it keeps them."""
    chosen = []
    for letter in _chosen(ids, every, reason, topic, since):
        if letter.state == "waiting":
            chosen.append(letter)
        else:
            typer.echo(f"{letter.id} is {letter.state} already.", err=True)
    if not dry_run and (chosen or every):
        confirm(f"Discard {len(chosen)} letters.", yes=yes)
        chosen = over_bus(api_settings(), lambda bus: _close(bus, chosen, DISCARDED), create=False)
    print_rows([_row(letter) for letter in chosen], form, columns=_COLUMNS)


# --- which ------------------------------------------------------------------------------------------------------------


def _chosen(
    ids: Sequence[str] | None, every: bool, reason: str | None, topic: str | None, since: str | None
) -> list[Letter]:
    """Those that were named, or those that wait. Ends with exit code 2 where neither or both were asked for."""
    if bool(ids) == every:
        end("Which letters? Name them, or say --all.", WRONG)
    if ids and (reason, topic, since) != (None, None, None):
        end("--reason, --topic and --since go with --all, not with letters that are named.", WRONG)
    after = _moment(since)
    letters = over_bus(api_settings(), _read, create=False)
    found = _named(letters, ids) if ids else [each for each in letters if each.state == "waiting"]
    chosen = [each for each in found if _fits(each, reason, topic, after)]
    return sorted(chosen, key=_place)


def _place(letter: Letter) -> tuple[str, int, int]:
    """In the order of the records; those that never had a place in the order of their letters, and first."""
    return letter.topic, *((-1, -1) if letter.partition is None else (letter.partition, letter.offset or 0))


def _named(letters: Letters, ids: Sequence[str]) -> list[Letter]:
    """Ends with exit code 1 where a name is that of no letter, or of several."""
    found: dict[str, Letter] = {}
    for name in ids:
        fitting = [each for each in letters if each.id == name or (len(name) >= 6 and each.id.startswith(name))]
        if len(fitting) != 1:
            end(f"{len(fitting) or 'No'} letters begin with {name}.", FAILED)
        found[fitting[0].id] = fitting[0]
    return list(found.values())


def _fits(letter: Letter, reason: str | None, topic: str | None, since: str) -> bool:
    return reason in (None, letter.reason) and topic in (None, letter.topic) and letter.buried >= since


def _moment(since: str | None) -> str:
    """As events have their times, so that texts compare; "" for none. Ends with exit code 2 for what is no time."""
    try:
        return "" if since is None else event.rfc3339(moment_of(since, now=utc_now()))
    except (ValueError, OverflowError) as error:
        end(f"--since: {error}", WRONG)


# --- what is done -----------------------------------------------------------------------------------------------------


async def _read(bus: BusClient) -> Letters:
    letters = Letters()
    async for record in every_record(bus, TOPIC):
        letters.add(record.value)
    return letters


async def redriven(bus: BusClient, chosen: Sequence[Letter]) -> list[Letter]:
    """Those whose record was sent again. They are marked after that: a crash in between sends them twice, never not at all."""
    done = list[Letter]()
    with progress("Redriving", len(chosen)) as advance:
        for group in _groups(chosen):
            contents = await _contents(bus, group)
            there = [
                (letter, found.key, found.value)
                for letter in group
                if (found := contents.get(letter.id)) is not None and found.key is not None
            ]
            await bus.publish([dead_letters.redrive(*each) for each in there])
            done += await _close(bus, [letter for letter, _, _ in there], REDRIVEN)
            advance(len(group))
    return done


def _groups(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """``letters`` in their order, so many together as fit into memory."""
    group, size = list[Letter](), 0
    for letter in letters:
        if group and size + letter.bytes > _TOGETHER:
            yield group
            group, size = [], 0
        group.append(letter)
        size += letter.bytes
    if group:
        yield group


@dataclass(frozen=True)
class _Content:
    """A record: its key, None where only the beginning of that is known, and its value."""

    key: str | None
    value: bytes


async def _contents(bus: BusClient, letters: Sequence[Letter]) -> dict[str, _Content]:
    """The records by the letters' ids: what the letter repeats, else what stands at the record's place still."""
    wanted, found = {letter.id: letter for letter in letters}, dict[str, _Content]()
    async for record in every_record(bus, TOPIC):
        letter = wanted.get(record.key)
        if letter and (value := dead_letters.content_of(record.value, letter.id)) is not None:
            found[letter.id] = _Content(None if letter.key_cut else letter.key, value)
    for letter in letters:
        whole = letter.id in found and not letter.key_cut
        if not whole and (there := await _at_its_place(bus, letter)) is not None:
            found[letter.id] = there
    return found


async def _at_its_place(bus: BusClient, letter: Letter) -> _Content | None:
    """None where another record is there now, because the topic was made anew."""
    if letter.partition is None or letter.partition not in await bus.partitions(letter.topic):
        return None
    async for record in bus.read(letter.topic, letter.partition):
        if record.offset == letter.offset and record.value is not None and dead_letters.id_of(record) == letter.id:
            return _Content(record.key, record.value)
    return None


async def _close(bus: BusClient, letters: Sequence[Letter], type_: str) -> list[Letter]:
    """The letters as they are then."""
    now, state = utc_now(), "redriven" if type_ == REDRIVEN else "discarded"
    closing = [dead_letters.closed(letter, type_, now=now, receiver=_RECEIVER) for letter in letters]
    await bus.publish([event.to_message(each) for each in closing])
    return [msgspec.structs.replace(letter, state=state, since=event.rfc3339(now)) for letter in letters]


# --- what is printed --------------------------------------------------------------------------------------------------


def _row(letter: Letter) -> dict[str, Any]:
    row = msgspec.to_builtins(letter)
    return {name: value for name, value in row.items() if value is not False and value not in (None, "")}


def _readable(content: bytes | None) -> dict[str, Any]:
    """The record as JSON where it is some, else in base64."""
    if content is None:
        return {"record": None}
    try:
        return {"record": msgspec.json.decode(content)}
    except UNREADABLE:
        return {"recordBase64": base64.b64encode(content).decode()}
