"""``webex-events policy``: check a policy, ask it about one person, try it on everybody who registered lately."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from service.cli.api import options
from service.cli.api.connection import api_settings, talk
from service.cli.bus_client import BusClient, has_bus, over_bus
from service.cli.clock import utc_now
from service.cli.credentials import credentials
from service.cli.endings import WRONG, end
from service.cli.examples import Command, Group
from service.cli.inputs import bytes_of, is_stdin, object_of
from service.cli.output import Format
from service.cli.policy_file import MAX_BYTES, read_lists
from service.cli.printing import chosen, print_rows
from service.cli.reading import every_record, progress
from service.cli.spans import Since, moment_of
from service.core.backtest import Case, Cases, Judged, Meetings, capacity_of, differences, judged, unknown
from service.core.errors import PolicyError, SettingsError, WebexError
from service.core.event import rfc3339
from service.core.identifiers import series_of
from service.core.ledger import Fact
from service.core.meetings import Meeting
from service.core.message import UNREADABLE, Received
from service.core.policy import Counts, Explanation, Policy, Step, parse
from service.core.registrants import Registrant
from service.settings import Settings
from service.webex.api import WebexApi
from service.webex.client import WebexClient
from service.webex.meetings import to_meeting
from service.webex.registrants import to_registrants

policy_app = typer.Typer(
    cls=Group,
    help="The policy for registrants: check it, ask it, try it.",
    epilog=(
        "webex-events policy check policy.yaml\n"
        "webex-events policy explain --registrant REGISTRANT_ID --meeting MEETING_ID\n"
        "webex-events policy backtest new.yaml --since 7d"
    ),
    no_args_is_help=True,
)

_File = Annotated[Path, typer.Argument(help="The policy file; - reads stdin.")]

#: More people than any meeting has, and a number that a condition can count with.
_MANY = 1_000_000_000

#: Records of the ledger after which the policy does not decide about somebody again, the strongest first.
_FINAL = {
    "human": "a person put them back; `registrants release` gives them to the policy again",
    "approved": "seen approved; `registrants release` lets it decide again as soon as they are pending",
    "rejected": "seen rejected; `registrants release` lets it decide again as soon as they are pending",
}


# --- check ------------------------------------------------------------------------------------------------------------


@policy_app.command(
    "check",
    cls=Command,
    epilog="webex-events policy check policy.yaml\nwebex-events policy check - < policy.yaml",
)
def policy_check(file: _File) -> None:
    """Say what is wrong with a policy, with line and column; nothing is changed."""
    checked = read_policy(file)
    said = [f"{file}: {len(checked.rules)} rules"]
    said += [f"{len(checked.meeting_rules)} meeting rules"] if checked.meeting_rules else []
    said += [f"version {checked.version}", *_switches(checked)]
    typer.echo(", ".join(said))


def _switches(policy: Policy) -> list[str]:
    return [name for name in ("paused", "shadow") if getattr(policy, name)]


def read_policy(file: Path) -> Policy:
    """The policy in ``file``, with the lists beside it. Ends with exit code 2, a line for each problem."""
    text = _text_of(file)
    try:
        return parse(text, read_lists(text, Path() if is_stdin(file) else file.parent))
    except PolicyError as error:
        end("\n".join(f"{file}: {problem}" for problem in error.problems), WRONG)


def _text_of(file: Path) -> str:
    content = bytes_of(file)
    if len(content) > MAX_BYTES:
        end(f"{file} is larger than {MAX_BYTES} bytes", WRONG)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        end(f"{file}: not UTF-8", WRONG)


# --- explain ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Subject:
    """Whom it is about, and where."""

    registrant: Registrant
    meeting: Meeting
    counts: Counts


class _OutOfHands(msgspec.Struct, frozen=True, kw_only=True):
    """The policy never decides about somebody any more: ``by`` which kind of record of the ledger, and since when."""

    by: str
    since: str


@policy_app.command(
    "explain",
    cls=Command,
    epilog=(
        "webex-events policy explain --registrant REGISTRANT_ID --meeting MEETING_ID\n"
        "webex-events policy explain new.yaml --registrant person.json --meeting meeting.json\n"
        "webex-events registrants get MEETING_ID ID | webex-events policy explain --registrant - --meeting meeting.json"
    ),
)
def policy_explain(
    file: Annotated[Path | None, typer.Argument(help="The policy file; by default that of the settings.")] = None,
    registrant: Annotated[
        str, typer.Option(metavar="ID|FILE", help="An id, or JSON as Webex has it; - is stdin.")
    ] = "",
    meeting: Annotated[str, typer.Option(metavar="ID|FILE", help="The same for the meeting.")] = "",
    approved: Annotated[
        int | None, typer.Option(help="How many are approved; by default asked, or 0.", min=0, max=_MANY)
    ] = None,
    pending: Annotated[
        int | None, typer.Option(help="How many are pending; by default asked, or 0.", min=0, max=_MANY)
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As if it were then; by default now.")] = None,
    organization: options.Organization = None,
    form: options.Output = None,
) -> None:
    """Which rule decides about one registrant, why, and what the other rules say. Nothing is changed.

    Of a registrant given by an id the ledger says whether the policy still decides about them at all.
    """
    if not registrant or not meeting:
        end("Say who and where: --registrant ID|FILE --meeting ID|FILE", WRONG)
    settings = api_settings()
    rules = file or settings.policy.file
    if rules is None:
        end("Which policy? Name its file, or set WEBEX_EVENTS_POLICY__FILE.", WRONG)
    if [is_stdin(each) for each in (rules, registrant, meeting)].count(True) > 1:
        end("Only one of the policy, the registrant and the meeting can come from stdin.", WRONG)
    now, policy = _at(at), read_policy(rules)
    subject = _subject(settings, registrant, meeting, organization)
    counts = Counts(
        approved=subject.counts.approved if approved is None else approved,
        pending=subject.counts.pending if pending is None else pending,
        capacity=subject.counts.capacity,
    )
    explanation = policy.explain(subject.registrant, meeting=subject.meeting, counts=counts, now=now)
    series = series_of(subject.meeting.id) or subject.meeting.id
    hands = None if _is_file(registrant) else _out_of_hands(settings, series, registrant)
    _print_explanation(explanation, counts, hands, form)


def _at(text: str | None) -> datetime:
    now = utc_now()
    try:
        return now if text is None else moment_of(text, now=now).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        end(str(error), WRONG)


def _subject(settings: Settings, registrant: str, meeting: str, organization: str | None) -> _Subject:
    """From files, or from Webex. Ends with an exit code where either cannot be had."""
    person, place = _from_file(registrant), _from_file(meeting)
    try:
        known = to_meeting({"id": "", **place}) if place is not None else None
        people = [] if person is None else [{"id": "", "status": "pending", **person}]
        given = to_registrants({"items": people}, "file")
    except WebexError:
        end("What the files hold is no registrant or no meeting as Webex has them.", WRONG)
    if known is not None and given:
        return _Subject(given[0], known, _counted((), known))
    series = known.id if known else meeting
    if not series:
        end("The meeting in the file has no id, so that Webex cannot be asked about the registrant.", WRONG)

    async def ask(client: WebexClient) -> _Subject:
        api = WebexApi(client)
        there = known or await api.get_meeting(series)
        one = given[0] if given else await api.get_registrant(series, registrant, host_email=there.host_email)
        others = (
            () if known else await api.list_registrants(series, since=None, now=utc_now(), host_email=there.host_email)
        )
        return _Subject(one, there, _counted(others, there))

    return talk(settings, ask, organization=organization, patient=True)


def _from_file(text: str) -> dict[str, Any] | None:
    """The object in the file that ``text`` names; None where it is an id."""
    return object_of(Path(text)) if _is_file(text) else None


def _is_file(text: str) -> bool:
    """Also where there is none: no id of Webex looks like its name."""
    return is_stdin(text) or os.path.lexists(text) or "/" in text or text.lower().endswith((".json", ".yaml"))


def _out_of_hands(settings: Settings, series: str, id_: str) -> _OutOfHands | None:
    """What the ledger says of the registrant; None where nothing speaks against a decision, or there is no ledger to ask."""
    if not has_bus(settings):
        return None
    try:
        facts = over_bus(settings, lambda bus: _facts_about(bus, series, id_), create=False)
    except typer.Exit:  # the sentence why was said
        typer.echo("So the ledger was not asked whether the policy still decides about them.", err=True)
        return None
    by = next((kind for kind in _FINAL if kind in facts), "")
    return _OutOfHands(by=by, since=facts[by]) if by else None


async def _facts_about(bus: BusClient, series: str, id_: str) -> dict[str, str]:
    """Since when each of :data:`_FINAL` holds; a release takes back what stands before it."""
    found = dict[str, str]()
    async for record in every_record(bus, "ledger"):
        kind, _, who = record.key.partition("/")
        if who != f"{series}/{id_}" or kind not in (*_FINAL, "released"):
            continue
        if kind != "released":
            found.pop(kind, None)
            found |= {kind: _since(record)} if record.value is not None else {}
        elif record.value is not None:
            found.clear()
    return found


def _since(record: Received) -> str:
    """When the fact was noted; where its value cannot be read, when it was written."""
    try:
        return rfc3339(msgspec.json.decode(record.value or b"", type=Fact).at)
    except UNREADABLE:
        return rfc3339(datetime.fromtimestamp(record.timestamp / 1000, UTC))


def _counted(registrants: Sequence[Registrant], meeting: Meeting) -> Counts:
    statuses = Counter(each.status for each in registrants)
    return Counts(approved=statuses["approved"], pending=statuses["pending"], capacity=capacity_of(meeting))


def _print_explanation(
    explanation: Explanation, counts: Counts, hands: _OutOfHands | None, form: Format | None
) -> None:
    if chosen(form) is not Format.TABLE:
        more = {"counts": msgspec.to_builtins(counts), "outOfHands": msgspec.to_builtins(hands)}
        print_rows({**msgspec.to_builtins(explanation), **more}, form)
        return
    decision = explanation.decision
    rows = [
        {"rule": step.name, "then": str(step.then), "says": _says(step), "decides": "←" * (step.name == decision.rule)}
        for step in explanation.steps
    ]
    print_rows(rows, Format.TABLE, columns=("rule", "then", "says", "decides"))
    typer.echo("")
    print_rows(msgspec.to_builtins(decision), Format.TABLE)
    if hands is not None:
        typer.echo("")
        typer.echo(f"They are out of the policy's hands since {hands.since} ({_FINAL[hands.by]}).")


def _says(step: Step) -> str:
    if step.failure:
        return f"failed: {step.failure}"
    if not step.covers:
        return "not for this meeting, or not at this time"
    return "matches" if step.matched else "does not match"


# --- backtest ---------------------------------------------------------------------------------------------------------


@policy_app.command(
    "backtest",
    cls=Command,
    epilog="webex-events policy backtest new.yaml --since 7d\nwebex-events policy backtest new.yaml -o json > report.json",
)
def policy_backtest(
    file: _File,
    since: Since = "7d",
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask Webex about the meetings.")] = False,
    organization: options.Organization = None,
    form: options.Output = None,
) -> None:
    """What another policy would have decided about everybody who registered lately: who would change, by rule.

    Replays the facts on the bus. Nothing is changed.
    """
    now, settings, policy = utc_now(), api_settings(), read_policy(file)
    begin = _at(since)
    cases, told = over_bus(settings, lambda bus: _facts(bus, begin, now), create=False)
    people = cases.in_order()
    meetings = {**told.known(), **_asked(settings, people, offline=offline, organization=organization)}
    results = _replayed(people, policy, meetings)
    _print_backtest(_Backtest(policy, begin, results, meetings, cases.unreadable), form)


async def _facts(bus: BusClient, since: datetime, now: datetime) -> tuple[Cases, Meetings]:
    cases, meetings = Cases(), Meetings()
    async for record in every_record(bus, "registrants", since=since, now=now):
        cases.add(record.value)
    async for record in every_record(bus, "meetings"):
        meetings.add(record.value)
    return cases, meetings


def _asked(
    settings: Settings, people: Sequence[Case], *, offline: bool, organization: str | None
) -> Mapping[str, Meeting]:
    """The meetings as Webex has them, where there is one credential for all of them, or one was chosen."""
    series = sorted({case.series for case in people})
    if offline or not series or not _can_ask(settings, organization):
        return {}

    async def ask(client: WebexClient) -> dict[str, Meeting]:
        found, api = dict[str, Meeting](), WebexApi(client)
        with progress("Asking Webex about the meetings", len(series)) as advance:
            for each in series:
                try:
                    found[each] = await api.get_meeting(each)
                except WebexError as error:
                    typer.echo(f"{each}: {error}; what the events told has to do.", err=True)
                advance(1)
        return found

    return talk(settings, ask, organization=organization, patient=True)


def _can_ask(settings: Settings, organization: str | None) -> bool:
    try:
        return organization is not None or len(credentials(settings)) == 1
    except SettingsError:
        return False


def _replayed(people: Sequence[Case], policy: Policy, meetings: Mapping[str, Meeting]) -> list[Judged]:
    results = []
    with progress("Deciding", len(people)) as advance:
        for result in judged(people, policy, meetings):
            results.append(result)
            advance(1)
    return results


@dataclass(frozen=True)
class _Backtest:
    policy: Policy
    since: datetime
    results: Sequence[Judged]
    meetings: Mapping[str, Meeting]
    unreadable: int

    def report(self) -> dict[str, Any]:
        """For programs: counts, and the differences as ``items``."""
        everywhere = {result.series for result in self.results}
        rows = msgspec.to_builtins(differences(self.results))
        return {
            "policy": self.policy.version,
            "since": self.since.isoformat(),
            "registrants": len(self.results),
            "meetings": len(everywhere),
            "changed": sum(row["count"] for row in rows),
            "open": sum(row["open"] for row in rows),
            "byPeople": sum(result.people for result in self.results),
            "unknownMeetings": unknown(everywhere, self.policy, self.meetings),
            "unreadable": self.unreadable,
            "items": rows,
        }


_COLUMNS = ("rule", "from", "to", "count", "open", "registrants")


def _print_backtest(backtest: _Backtest, form: Format | None) -> None:
    report = backtest.report()
    if chosen(form) is Format.TABLE:
        rows = [_row(each) for each in report["items"]]
        print_rows(rows, Format.TABLE, columns=_COLUMNS)
    else:
        print_rows(report, form)
    said = (
        f"{report['changed']} of {report['registrants']} registrants in {report['meetings']} meetings would be decided "
        f"otherwise by version {report['policy']}; {report['open']} of them are still undecided, so that it would really "
        f"change them. {report['byPeople']} were decided by people or commands and stay so."
    )
    typer.echo(said, err=True)
    if report["unknownMeetings"]:
        typer.echo(
            f"Of {len(report['unknownMeetings'])} meetings too little is known, since only Webex tells titles: rules that ask "
            "for a title, or for what else nobody told, do not fit them.",
            err=True,
        )


def _row(difference: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table; the ids of all stand in the JSON."""
    ids = difference["registrants"]
    before = (
        f"{difference['before']} ({difference['beforeRule']})" if difference["beforeRule"] else difference["before"]
    )
    shown = ", ".join(each.partition("/")[2] for each in ids[:3])
    return {
        "rule": difference["rule"] or "(default)",
        "from": before,
        "to": difference["after"],
        "count": difference["count"],
        "open": difference["open"],
        "registrants": shown + (f" and {len(ids) - 3} more" if len(ids) > 3 else ""),
    }
