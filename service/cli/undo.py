"""``webex-events registrants undo``: take back what a rule of the policy approved."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import typer

from service.cli.api import options
from service.cli.api.connection import api_settings, talk
from service.cli.api.refusals import explained
from service.cli.api.verbs import verbs_of
from service.cli.bus_client import BusClient, over_bus
from service.cli.clock import utc_now
from service.cli.credentials import credentials
from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command
from service.cli.output import Format, rendered
from service.cli.printing import print_rows
from service.cli.reading import every_record, progress
from service.cli.spans import Since, moment_of
from service.core import ledger
from service.core.backtest import Case, Cases
from service.core.errors import SettingsError, WebexError, WebexNotFound
from service.core.identifiers import series_of
from service.core.ledger import KnownMeeting
from service.core.message import UNREADABLE
from service.core.organizations import ONLY_ORGANIZATION
from service.core.registrants import BATCH, Registrant
from service.settings import Settings
from service.webex.client import WebexClient
from service.webex.registrants import batch, query_registrants

registrants_app = verbs_of("registrants")

#: Where somebody may be after the call.
_DONE = {"cancel": ("pending", "cancelled", "canceled"), "reject": ("rejected",)}

#: Webex shows the effect of a batch late: it is asked so often, with so many seconds in between.
_LOOKS, _PAUSE = 3, 2.0

_REJECTED = (
    "After `registrants release` the policy decides about rejected registrants only as soon as they are pending again; "
    "--to cancel is for those who are to be released later."
)

#: What stands in the place of a rule where none decided, as in a backtest.
_DEFAULT = "(default)"

_COLUMNS = ("meetingId", "id", "approved", "rule", "result")

T = TypeVar("T")

Verb = Literal["cancel", "reject"]


@dataclass(frozen=True)
class _Meeting:
    """The people of one meeting, and how Webex is asked about it."""

    series: str
    known: KnownMeeting | None
    cases: tuple[Case, ...]

    @property
    def host_email(self) -> str:
        return self.known.host_email if self.known else ""

    @property
    def organization(self) -> str:
        return self.known.organization if self.known else ONLY_ORGANIZATION


@dataclass
class _Outcome:
    """What became of everybody, by series and id, and the error that ended it early, if one did."""

    results: dict[tuple[str, str], str]
    error: WebexError | None = None


@registrants_app.command(
    "undo",
    cls=Command,
    epilog=(
        "webex-events registrants undo --since 2h --rule partners-in --dry-run\n"
        "webex-events registrants undo --since 2h --rule partners-in\n"
        "webex-events registrants undo --since 1d --rule partners-in --to reject --notify false --yes"
    ),
)
def undo(
    since: Since,
    rule: Annotated[str, typer.Option(metavar="NAME", help="The rule that approved them; (default): none did.")],
    to: Annotated[Verb, typer.Option(help="What to do.", case_sensitive=False)] = "cancel",
    meeting: Annotated[str | None, typer.Option(metavar="ID", help="Only in this meeting series.")] = None,
    notify: Annotated[options.TrueFalse, typer.Option(help="Whether Webex sends its mail.")] = "true",
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    form: options.Output = None,
) -> None:
    """Cancel or reject whom a rule approved: shown first, done after the count was confirmed, read back.

    Who was decided by a person or a command since is left alone. The policy never decides again about those that were
    undone, until `registrants release` says so; of rejected ones, as soon as they are pending too.
    """
    settings, begin, series = api_settings(), _moment(since), _series(meeting)
    if not rule:
        end(f"--rule: which one? {_DEFAULT} is the policy's default.", WRONG)
    found = over_bus(settings, lambda bus: _found(bus, rule, begin, series), create=False)
    if dry_run or not found:
        _print(found, {}, form)
        return
    meetings, lost = _still_approved(settings, found)
    count, before = (sum(len(each.cases) for each in those) for those in (meetings, found))
    if count < before:
        typer.echo(f"{before - count} of {before} are not approved any more and left alone.", err=True)
    if not count:
        raise typer.Exit(FAILED if lost else 0)
    _print(meetings, {}, form, aside=True)
    _confirm(count, len(meetings), to, yes=yes)
    outcome = _done(settings, meetings, to, notify=notify == "true")
    _print(meetings, outcome.results, form)
    if to == "reject":
        typer.echo(_REJECTED, err=True)
    _finish(outcome)
    if lost:
        raise typer.Exit(FAILED)


def _moment(text: str) -> datetime:
    try:
        return moment_of(text, now=utc_now()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        end(f"--since: {error}", WRONG)


def _series(meeting: str | None) -> str | None:
    """None for every one, and only where nothing was said: an empty text is a variable that was not set."""
    if meeting is None:
        return None
    found = series_of(meeting)
    if found is None:
        end(f"--meeting: {meeting!r} is not the id of a meeting.", WRONG)
    return found


# --- whom -------------------------------------------------------------------------------------------------------------


async def _found(bus: BusClient, rule: str, since: datetime, series: str | None) -> list[_Meeting]:
    """Whom the rule approved since, where that was the last word; by meeting."""
    cases = Cases()
    async for record in every_record(bus, "registrants", since=since, now=utc_now()):
        if series in (None, record.key):
            cases.add(record.value)
    _warn_of_unknown(rule, cases)
    people: dict[str, list[Case]] = {}
    for case in cases.in_order():
        if _approved_by(case, rule):
            people.setdefault(case.series, []).append(case)
    known = await _known(bus, people) if people else {}
    return [_Meeting(series, known.get(series), tuple(those)) for series, those in people.items()]


def _warn_of_unknown(rule: str, cases: Cases) -> None:
    """Said where no fact names the rule: it may be a slip of the pen."""
    named = {case.rule or _DEFAULT for case in cases.in_order() if case.by == "policy"}
    if rule not in named:
        there = f"; it names: {', '.join(sorted(named))}" if named else ""
        typer.echo(f'Nothing that is on the bus since then names a rule "{rule}"{there}.', err=True)


def _approved_by(case: Case, rule: str) -> bool:
    """Really: what shadow mode only proposed, a person may have done meanwhile, and that is theirs to take back."""
    decided = (case.outcome, case.by) == ("approve", "policy") and not case.proposed
    return decided and (case.rule or _DEFAULT) == rule


async def _known(bus: BusClient, people: Mapping[str, object]) -> dict[str, KnownMeeting]:
    """Whose meetings they are, from the ledger."""
    known = dict[str, KnownMeeting]()
    async for record in every_record(bus, "ledger"):
        kind, _, series = record.key.partition("/")
        if kind == "meeting" and series in people and record.value is not None:
            entry = _entry(record.key, record.value)
            if isinstance(entry, KnownMeeting):
                known[series] = entry
    return known


def _entry(key: str, value: bytes) -> object:
    try:
        entry = ledger.from_record(key, value)
    except UNREADABLE:
        return None
    return entry.value if entry else None


def _still_approved(settings: Settings, found: Sequence[_Meeting]) -> tuple[list[_Meeting], list[str]]:
    """Those who are approved at Webex now, and the meetings that it does not find. Ends with an exit code where it cannot be
    asked.
    """
    left, lost = list[_Meeting](), list[str]()
    with progress("Looking", len(found)) as advance:
        for each in found:
            shown = _talk(settings, each, partial(_found_people, meeting=each))
            approved = {person.id for person in shown or () if person.status == "approved"}
            cases = tuple(case for case in each.cases if case.id in approved)
            left += [_Meeting(each.series, each.known, cases)] if cases else []
            lost += [each.series] if shown is None else []
            advance(1)
    for series in lost:
        typer.echo(f"Webex does not find meeting {series} (any more): its registrants are left alone.", err=True)
    return left, lost


async def _found_people(client: WebexClient, meeting: _Meeting) -> list[Registrant] | None:
    try:
        return await _people(client, meeting)
    except WebexNotFound:
        return None


async def _people(client: WebexClient, meeting: _Meeting) -> list[Registrant]:
    addresses = [address for case in meeting.cases if (address := case.registrant.email)]
    return await query_registrants(client, meeting.series, addresses, host_email=meeting.host_email)


def _confirm(count: int, meetings: int, to: Verb, *, yes: bool) -> None:
    """Go on only if a person types the count, or ``yes``. Ends with exit code 2 where nobody can be asked."""
    if yes:
        return
    what = f"{to} {count} registrants of {meetings} meetings"
    if not sys.stdin.isatty():
        end(f"To {what} is not done unasked, and nobody is here to be asked: --yes answers.", WRONG)
    if typer.prompt(f"To {what}, type their count", err=True).strip() != str(count):
        end("Nothing was sent.", FAILED)


# --- doing it ---------------------------------------------------------------------------------------------------------


def _done(settings: Settings, meetings: Sequence[_Meeting], to: Verb, *, notify: bool) -> _Outcome:
    outcome = _Outcome({})
    with progress("Undoing", sum(len(each.cases) for each in meetings)) as advance:
        for each in meetings:
            if outcome.error is None:
                _talk(settings, each, partial(_undo, meeting=each, to=to, notify=notify, outcome=outcome))
            advance(len(each.cases))
    return outcome


async def _undo(client: WebexClient, meeting: _Meeting, to: Verb, *, notify: bool, outcome: _Outcome) -> None:
    """All of one meeting, a hundred in a call. The first error ends it; what it left open is read back all the same."""
    ids = [case.id for case in meeting.cases]
    asked = list[str]()
    try:
        for start in range(0, len(ids), BATCH):
            asked += (some := ids[start : start + BATCH])
            await batch(client, meeting.series, to, some, send_email=notify, host_email=meeting.host_email)
        outcome.results |= await _read_back(client, meeting, asked, to)
    except WebexError as error:
        outcome.error = error
        outcome.results |= await _after(client, meeting, asked, to)


async def _after(client: WebexClient, meeting: _Meeting, asked: Sequence[str], to: Verb) -> dict[tuple[str, str], str]:
    """What became of those who were asked for before an error, as far as Webex still answers."""
    try:
        return await _read_back(client, meeting, asked, to, looks=1)
    except WebexError:
        return {(meeting.series, id_): "unknown" for id_ in asked}


async def _read_back(
    client: WebexClient, meeting: _Meeting, asked: Sequence[str], to: Verb, *, looks: int = _LOOKS
) -> dict[tuple[str, str], str]:
    """``done`` for everybody whom Webex shows as wanted, and ``notShown`` for the others, which may be late only."""
    for look in range(looks):
        now = {person.id: person.status for person in await _people(client, meeting)}
        shown = {id_ for id_ in asked if now.get(id_) in _DONE[to]}
        if len(shown) == len(asked) or look == looks - 1:
            break
        await asyncio.sleep(_PAUSE)
    return {(meeting.series, id_): "done" if id_ in shown else "notShown" for id_ in asked}


def _talk(settings: Settings, meeting: _Meeting, work: Callable[[WebexClient], Awaitable[T]]) -> T:
    """With the credential of the meeting's organisation."""
    try:
        several = len(credentials(settings)) > 1
    except SettingsError as error:
        end(str(error), WRONG)
    return talk(settings, work, organization=meeting.organization if several else None, patient=True)


# --- what is printed --------------------------------------------------------------------------------------------------


def _print(
    meetings: Sequence[_Meeting], results: Mapping[tuple[str, str], str], form: Format | None, *, aside: bool = False
) -> None:
    """The table. ``aside``: on stderr, because the outcome is still to come."""
    rows = [_row(each, case, results) for each in meetings for case in each.cases]
    if aside:
        typer.echo(rendered({"items": rows}, Format.TABLE, columns=_COLUMNS), err=True)
    else:
        print_rows(rows, form, columns=_COLUMNS)


def _row(meeting: _Meeting, case: Case, results: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    row = {"meetingId": meeting.series, "id": case.id, "approved": case.decided, "rule": case.rule}
    return {**row, "result": results.get((meeting.series, case.id), "untouched")} if results else row


def _finish(outcome: _Outcome) -> None:
    """The exit code: of the error, or 1 where Webex does not show all of it."""
    if outcome.error is not None:
        end(*explained(outcome.error))
    if late := sum(result != "done" for result in outcome.results.values()):
        end(f"Webex accepted it, but does not show it (yet) for {late}; that may take some minutes.", FAILED)
