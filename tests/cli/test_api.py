"""The verbs of Webex's API on the command line, against the simulated Webex over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
import typer.main
from typer.testing import CliRunner, Result

from service.cli.api.verbs import kebab
from service.cli.commands import app
from service.sandbox.app import create_app
from service.sandbox.world import World
from service.webex.operations import OPERATIONS, Operation, operation
from tests.servers import running

TOKEN = "Y2lzY29zcGFyazovL3VzL1RPS0VO_P0A1_0123abcd-0123-4567-89ab-0123456789ab"
WRITES = [op for op in OPERATIONS if not op.reads]
GROUPS = {"applications": "auth"}


def name_of(op: Operation) -> str:
    return op.name


def words(op: Operation) -> list[str]:
    return [GROUPS.get(op.resource, op.resource), op.verb]


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:00:00Z")


@dataclass
class Cli:
    """Runs commands as a script would: no terminal anywhere. Nothing that it prints may have the token in it."""

    base_url: str
    webex: httpx.Client
    token: str | None = TOKEN
    known: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str | None = None, **settings: str) -> Result:
        env = {
            "WEBEX_EVENTS_WEBEX__BASE_URL": f"{self.base_url}/v1",
            "WEBEX_EVENTS_WEBEX__TOKEN": self.token,
            **{f"WEBEX_EVENTS_{name}": value for name, value in settings.items()},
        }
        filled = [re.sub(r"^\{(\w+)\}$", lambda name: self.known[name[1]], argument) for argument in arguments]
        result = CliRunner().invoke(app, filled, input=stdin, env=env)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert TOKEN not in result.output
        return result

    def calls(self) -> list[dict[str, Any]]:
        """What the sandbox was asked, oldest first."""
        return list(self.webex.get("/sandbox/ledger").json()["calls"])

    def control(self, path: str, **body: Any) -> dict[str, Any]:
        """A control route of the sandbox."""
        response = self.webex.post(f"/sandbox/{path}", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command configures the logging of its process, which here is that of all tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@contextlib.asynccontextmanager
async def simulated(*, link_header: bool) -> AsyncIterator[str]:
    world = World.open(None, now=lambda: datetime.now(UTC), seed="cli")
    try:
        async with running(create_app(world, token=TOKEN, link_header=link_header)) as base_url:
            yield base_url
    finally:
        world.close()


@contextlib.contextmanager
def beside(served: contextlib.AbstractAsyncContextManager[str]) -> Iterator[str]:
    """A server in a thread of its own: commands bring their own loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(served.__aenter__(), loop).result(30)
        asyncio.run_coroutine_threadsafe(served.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="module", params=[True], ids=["links"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[str]:
    """One simulated Webex for all tests here; each has a meeting of its own."""
    with beside(simulated(link_header=request.param)) as base_url:
        yield base_url


@pytest.fixture
def cli(sandbox: str) -> Iterator[Cli]:
    """With a meeting in a day, to which three people have registered, and a webhook."""
    body = {"title": "Tea", "start": in_days(1), "end": in_days(1.1), "registration": {"autoAcceptRequest": False}}
    hook = {"name": "h", "targetUrl": "https://example.com/h", "resource": "meetings", "event": "created"}
    with httpx.Client(base_url=sandbox, headers={"authorization": f"Bearer {TOKEN}"}) as webex:
        cli = Cli(sandbox, webex)
        meeting = webex.post("/v1/meetings", json=body).json()["id"]
        webhook = webex.post("/v1/webhooks", json={**hook, "secret": "s3cr3t"}).json()["id"]
        people = cli.control("people", meetingId=meeting, count=3)["ids"]
        cli.known.update(meeting=meeting, webhook=webhook, one=people[0], two=people[1], three=people[2], app="app")
        yield cli
        webex.delete("/sandbox/faults")
        webex.delete(f"/v1/meetings/{meeting}")
        webex.delete(f"/v1/webhooks/{webhook}")


def parsed(result: Result) -> Any:
    return msgspec.json.decode(result.stdout)


# --- what there is ----------------------------------------------------------------------------------------------------


def command_of(op: Operation) -> Any:
    group = typer.main.get_command(app)
    for word in words(op):
        group = group.commands[word]  # type: ignore[attr-defined]  # typer's copy of click is private
    return group


@pytest.mark.parametrize("op", OPERATIONS, ids=name_of)
def test_every_parameter_of_the_operation_can_be_given(op: Operation) -> None:
    """Those of the path are arguments, in the path's order; those of query and headers are options in kebab-case."""
    command = command_of(op)
    arguments = [each.name for each in command.params if each.param_type_name == "argument"]
    options = {opt for each in command.params if each.param_type_name == "option" for opt in each.opts}

    in_path = [part.strip("{}") for part in op.path.split("/") if part.startswith("{")]
    assert [name.removeprefix("path_") for name in arguments] == in_path
    assert {f"--{kebab(each.name)}" for each in op.parameters if each.place != "path"} <= options
    assert ("--host-email" in options) == bool(op.host_email)
    assert {"--output", "-o", "--dry-run"} <= options
    assert ("--yes" in options) == (not op.reads)
    assert {"--body", "--set"} <= options or not op.body


@pytest.mark.parametrize("op", OPERATIONS, ids=name_of)
def test_no_name_of_an_option_means_two_things(op: Operation) -> None:
    """A field of the body never hides a parameter of the query."""
    names = [opt for each in command_of(op).params for opt in each.opts]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("op", OPERATIONS, ids=name_of)
def test_no_credential_is_an_option(op: Operation) -> None:
    """A process list shows every argument, so tokens and secrets come from files and settings only."""
    options = [opt for each in command_of(op).params for opt in each.opts if opt.startswith("--")]

    assert [opt for opt in options if ("secret" in opt or "token" in opt) and not opt.endswith("-file")] == []


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("hostEmail", "host-email"),
        ("max", "max"),
        ("hasQA", "has-qa"),
        ("registrationTimeFrom", "registration-time-from"),
    ],
)
def test_names_become_kebab_case(name: str, option: str) -> None:
    """Webex's camelCase, as people type it."""
    assert kebab(name) == option


@pytest.mark.parametrize("op", OPERATIONS, ids=name_of)
def test_the_reference_has_every_verb_and_option(op: Operation) -> None:
    """A row of docs/reference/cli.md for each command, with exactly its own options."""
    reference = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text("utf-8")
    [row] = [line for line in reference.splitlines() if re.match(rf"\| `{' '.join(words(op))}[ `]", line)]

    everywhere = {
        "--output",
        "--dry-run",
        "--organization",
        "--yes",
        "--verify",
        "--all",
        "--body",
        "--set",
        "--reveal",
    }
    options = {opt for each in command_of(op).params for opt in each.opts if opt.startswith("--")}
    assert op.id in row
    assert set(re.findall(r"`(--[\w-]+)`", row)) - everywhere == options - everywhere


# --- every verb -------------------------------------------------------------------------------------------------------

#: What is typed after the verb, with the ids of ``prepare`` filled in.
TYPED: Mapping[str, list[str]] = {
    "meetings.create": ["--title", "Coffee", "--start", in_days(2), "--end", in_days(2.1), "--send-email", "false"],
    "meetings.list": ["--meeting-type", "meetingSeries", "--max", "5", "--current", "false", "--timezone", "UTC"],
    "meetings.get": ["{meeting}", "--current", "false"],
    "meetings.patch": ["{meeting}", "--title", "More tea", "--send-email", "false"],
    "meetings.update": [
        "{meeting}",
        "--title",
        "Tea",
        "--start",
        in_days(1),
        "--end",
        in_days(1.1),
        "--timezone",
        "UTC",
    ],
    "meetings.delete": ["{meeting}", "--send-email", "false", "--yes"],
    "meetings.join": ["--meeting-id", "{meeting}", "--email", "g@example.com", "--display-name", "G"],
    "meetings.end": ["{meeting}", "--reason", "over", "--yes"],
    "registration.get": ["{meeting}"],
    "registration.update": ["{meeting}", "--max-register-num", "50", "--set", "requireJobTitle:=true"],
    "registration.delete": ["{meeting}", "--yes"],
    "registrants.list": ["{meeting}", "--max", "2"],
    "registrants.register": ["{meeting}", "--first-name", "A", "--last-name", "B", "--email", "ab@example.com"],
    "registrants.get": ["{meeting}", "{one}"],
    "registrants.delete": ["{meeting}", "{one}", "--yes"],
    "registrants.query": ["{meeting}", "--email", "nobody@example.com", "--email", "b@example.com"],
    "registrants.approve": ["{meeting}", "--id", "{one}", "--id", "{two}", "--send-email", "false"],
    "registrants.reject": ["{meeting}", "--id", "{one}", "--send-email", "false"],
    "registrants.cancel": ["{meeting}", "--id", "{one}", "--send-email", "false"],
    "registrants.bulk-insert": [
        *("{meeting}", "--set"),
        'items:=[{"firstName":"A","lastName":"B","email":"c@example.com","sendEmail":false}]',
    ],
    "registrants.bulk-delete": ["{meeting}", "--id", "{one}", "--send-email", "false", "--yes"],
    "webhooks.list": ["--max", "10"],
    "webhooks.create": [
        *("--name", "n", "--target-url", "https://example.com/x", "--resource", "meetings", "--event", "all"),
    ],
    "webhooks.get": ["{webhook}"],
    "webhooks.update": ["{webhook}", "--name", "n", "--target-url", "https://example.com/y", "--status", "active"],
    "webhooks.delete": ["{webhook}", "--yes"],
    "guests.create": ["--subject", "s", "--display-name", "S"],
    "guests.count": [],
    "applications.token": ["{app}", "--client-id", "id", "--target-org-id", "org", "--client-secret-file", "{secret}"],
}


def test_the_table_of_this_test_has_every_verb() -> None:
    """No operation is left out."""
    assert set(TYPED) == {op.name for op in OPERATIONS}


def typed(op: Operation, cli: Cli, folder: Path) -> list[str]:
    """The words of a whole command that works."""
    secret = folder / "secret"
    secret.write_text("app-secret\n")
    cli.known["secret"] = str(secret)
    return words(op) + TYPED[op.name]


@pytest.mark.parametrize("op", OPERATIONS, ids=name_of)
def test_a_verb_is_that_one_call(op: Operation, cli: Cli, tmp_path: Path) -> None:
    """Exit 0 on a 2xx, one line in Webex's books, and what Webex answered on stdout."""
    if op.name == "meetings.end":
        cli.control(f"meetings/{cli.known['meeting']}/start")
    before = len(cli.calls())

    result = cli(*typed(op, cli, tmp_path))

    made = (cli.calls())[before:]
    assert [(call["operationId"], call["method"]) for call in made] == [(op.id, op.method)], result.stderr
    assert (result.exit_code, 200 <= made[0]["status"] < 300) == (0, True), result.stderr
    if op.answers == "nothing":
        assert result.stdout == ""
    elif op.answers == "items":
        assert isinstance(parsed(result)["items"], list)
    else:
        assert parsed(result) is not None


@pytest.mark.parametrize("op", WRITES, ids=name_of)
def test_a_dry_run_sends_nothing(op: Operation, cli: Cli, tmp_path: Path) -> None:
    """It shows method, address, query and body, and needs neither a token nor an answer to a question."""
    before = len(cli.calls())
    arguments = [each for each in typed(op, cli, tmp_path) if each != "--yes"]
    cli.token = None

    result = cli(*arguments, "--dry-run")

    assert result.exit_code == 0, result.stderr
    shown = parsed(result)
    assert (shown["method"], shown["url"].startswith(f"{cli.base_url}/v1/")) == (op.method, True)
    assert {"query", "body"} <= shown.keys()
    assert "app-secret" not in result.output
    assert len(cli.calls()) == before
    assert cli(*arguments, "--dry-run", "--yes").stdout == result.stdout


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_a_body_comes_from_stdin_or_a_file(cli: Cli, tmp_path: Path) -> None:
    """``--body -`` reads stdin; both give the same request."""
    body = '{"registrants": [{"id": "1"}], "sendEmail": false}'
    file = tmp_path / "body.json"
    file.write_text(body)
    approve = ["registrants", "approve", "{meeting}", "--dry-run", "--body"]

    piped, read = cli(*approve, "-", stdin=body), cli(*approve, str(file))

    assert piped.stdout == read.stdout
    assert parsed(piped)["body"] == msgspec.json.decode(body)


def test_options_win_over_the_file(cli: Cli) -> None:
    """And ``--set`` over both; ``:=`` takes JSON, ``=`` text."""
    options = ["--title", "b", "--set", "agenda=1", "--set", "reminderTime:=5", "--set", "start=x"]
    result = cli("meetings", "patch", "{meeting}", "--dry-run", "--body", "-", *options, stdin='{"title":"a"}')

    assert parsed(result)["body"] == {"title": "b", "agenda": "1", "reminderTime": 5, "start": "x"}


@pytest.mark.parametrize("verb", ["approve", "reject", "cancel", "bulk-delete"])
def test_whether_mails_are_sent_is_always_said(cli: Cli, verb: str) -> None:
    """Webex's own default, true, is sent where nobody says otherwise."""
    result = cli("registrants", verb, "{meeting}", "--id", "1", "--dry-run")

    assert parsed(result)["body"]["sendEmail"] is True


def test_the_host_goes_where_the_operation_wants_it(cli: Cli) -> None:
    """In the query here, in the body or a header there; the option is the same."""
    host = ["--host-email", "h@example.com", "--dry-run", "--yes"]
    shown = [
        parsed(cli(*verb, "{meeting}", *host))
        for verb in (["meetings", "delete"], ["registration", "delete"], ["meetings", "patch", "--set", "title=x"])
    ]

    places = [[place for place in ("query", "headers", "body") if "hostEmail" in (each[place] or {})] for each in shown]
    assert places == [["query"], ["headers"], ["body"]]


def test_a_dry_run_shows_no_secret(cli: Cli) -> None:
    """Passwords and secrets of the body are masked; whoever typed it knows them."""
    options = ["--set", "password=hunter2", "--set", 'a:={"hostKey":"hunter2"}', "--body", "-"]
    result = cli("meetings", "patch", "{meeting}", "--dry-run", *options, stdin='{"secret":"hunter2"}')

    assert result.exit_code == 0
    assert "hunter2" not in result.output


def test_a_secret_is_not_taken_from_an_argument(cli: Cli) -> None:
    """A process list shows everybody's arguments; the refusal does not repeat the value."""
    result = cli("webhooks", "create", "--dry-run", "--set", "secret=hunter2")

    assert result.exit_code == 2
    assert "hunter2" not in result.output + result.stderr


def test_a_password_may_come_from_a_file(cli: Cli, tmp_path: Path) -> None:
    """Arguments are seen in the list of processes; a dry run shows neither."""
    file = tmp_path / "password"
    file.write_text("hunter2\n")

    shown = cli("meetings", "get", "{meeting}", "--password-file", str(file), "--dry-run")

    assert parsed(shown)["headers"] == {"password": "***"}
    assert cli("meetings", "get", "{meeting}", "--password-file", str(file)).exit_code == 0
    assert cli("meetings", "get", "{meeting}", "--password-file", "/nowhere").exit_code == 2


# --- exit codes -------------------------------------------------------------------------------------------------------

WRONG_USAGE = [
    pytest.param(["meetings", "get"], id="no id"),
    pytest.param(["meetings", "get", "../webhooks"], id="an id that steers"),
    pytest.param(["meetings", "list", "--max", "many"], id="not a number"),
    pytest.param(["meetings", "list", "--current", "perhaps"], id="neither true nor false"),
    pytest.param(["meetings", "list", "--state", "asleep"], id="not a choice"),
    pytest.param(["meetings", "list", "--nonsense", "1"], id="no such option"),
    pytest.param(["meetings", "list", "-o", "xml"], id="no such format"),
    pytest.param(["meetings", "create"], id="no body"),
    pytest.param(["meetings", "patch", "{meeting}"], id="nothing to change"),
    pytest.param(["meetings", "create", "--body", "-"], id="not JSON"),
    pytest.param(["meetings", "create", "--body", "/nowhere"], id="no such file"),
    pytest.param(["meetings", "patch", "{meeting}", "--set", "title"], id="set without a value"),
    pytest.param(["meetings", "patch", "{meeting}", "--set", "a:=not json"], id="set without JSON"),
    pytest.param(["registrants", "approve", "{meeting}", "--send-email", "false"], id="approve nobody"),
    pytest.param(["registrants", "list", "{meeting}", "--all", "--max", "5"], id="a page of everything"),
    pytest.param(["registrants", "list", "{meeting}", "--all", "--registration-time-from", "x"], id="not a time"),
    pytest.param(["meetings", "delete", "{meeting}"], id="nobody to confirm"),
]


@pytest.mark.parametrize("arguments", WRONG_USAGE)
def test_wrong_usage_ends_with_2(cli: Cli, arguments: list[str]) -> None:
    """With a sentence on stderr, nothing on stdout, and nothing sent."""
    before = len(cli.calls())

    result = cli(*arguments, stdin="{nope")

    assert (result.exit_code, result.stdout, result.stderr != "") == (2, "", True)
    assert len(cli.calls()) == before


def test_wrong_settings_end_with_2(cli: Cli) -> None:
    """And only the settings that the command uses are asked for: no webhook secret, no Kafka."""
    cli.token = None
    missing = cli("meetings", "list")
    misspelt = cli("meetings", "list", WEBEX__TOKENS="x")

    assert (missing.exit_code, misspelt.exit_code) == (2, 2)
    assert "WEBEX_EVENTS_WEBEX__TOKEN" in missing.stderr


def test_what_webex_refuses_ends_with_3(cli: Cli) -> None:
    """Stderr says what happened, what Webex said, the tracking id, and how to mend it; stdout stays empty."""
    result = cli("meetings", "get", "f" * 32)

    assert (result.exit_code, result.stdout) == (3, "")
    assert all(part in result.stderr for part in ("404", "SANDBOX_", "Webex said: ", "--host-email"))


@pytest.mark.parametrize("status", [400, 401, 403, 409])
def test_every_refusal_says_how_to_mend_it(cli: Cli, status: int) -> None:
    """Whatever the status, there is a line of advice."""
    cli.control("faults", operation="*", status=status, times=1)

    result = cli("meetings", "list")

    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 3


@pytest.mark.parametrize(("status", "wait"), [(429, "7"), (423, "3"), (500, None), (503, None)])
def test_what_may_pass_ends_with_4(cli: Cli, status: int, wait: str | None) -> None:
    """Nothing is repeated behind anybody's back: it is one call."""
    cli.control("faults", operation="listMeetings", status=status, times=1, retryAfter=wait)
    before = len(cli.calls())

    result = cli("meetings", "list")

    assert result.exit_code == 4
    assert len(cli.calls()) == before + 1
    assert f"{wait} seconds" in result.stderr or wait is None


def test_stderr_is_for_people(cli: Cli) -> None:
    """Sentences, and no log lines unless they are asked for."""
    cli.control("faults", operation="listMeetings", status=429, times=2, retryAfter="7")

    quiet = cli("meetings", "list")
    loud = cli("meetings", "list", LOG__LEVEL="debug")

    assert "{" not in quiet.stderr
    assert "webex.called" in loud.stderr


def test_a_lost_answer_is_told_as_such(cli: Cli) -> None:
    """Exit 4, with the advice to look first."""
    cli.control("faults", operation="createMeeting", dropResponse=1)

    result = cli("meetings", "create", "--title", "x", "--start", in_days(2), "--end", in_days(2.1))

    assert result.exit_code == 4
    assert "look before trying again" in result.stderr


def test_nobody_there_ends_with_4(cli: Cli) -> None:
    """The address that is set is not answered."""
    result = cli("meetings", "list", WEBEX__BASE_URL="http://127.0.0.1:9/v1")

    assert (result.exit_code, result.stdout) == (4, "")
    assert "WEBEX_EVENTS_WEBEX__BASE_URL" in result.stderr


# --- asking -----------------------------------------------------------------------------------------------------------


def at_a_terminal(cli: Cli, *arguments: str, types: str) -> tuple[int, str]:
    """Run the program with a terminal as its stdin; its exit code, and what it said on stderr."""
    keyboard, terminal = pty.openpty()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WEBEX_EVENTS_")},
        "WEBEX_EVENTS_WEBEX__BASE_URL": f"{cli.base_url}/v1",
        "WEBEX_EVENTS_WEBEX__TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "service", *arguments]
    try:
        os.write(keyboard, types.encode())
        ended = subprocess.run(
            command, stdin=terminal, capture_output=True, env=env, text=True, timeout=60, check=False
        )
    finally:
        os.close(terminal)
        os.close(keyboard)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(("types", "code", "left"), [("y\n", 0, 404), ("n\n", 1, 200), ("\n", 1, 200)])
def test_a_person_is_asked_before_something_is_destroyed(cli: Cli, types: str, code: int, left: int) -> None:
    """Only a yes goes on; the question is on stderr, and says what would be destroyed."""
    ended, said = at_a_terminal(cli, "meetings", "delete", cli.known["meeting"], types=types)

    assert (ended, cli.known["meeting"] in said) == (code, True)
    assert (cli("meetings", "get", "{meeting}")).exit_code == (3 if left == 404 else 0)


# --- reading back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "status"), [("approve", "approved"), ("reject", "rejected"), ("cancel", "pending"), ("bulk-delete", None)]
)
def test_verify_says_for_each_id_what_became_of_it(cli: Cli, verb: str, status: str | None) -> None:
    """A 204 says nothing about anybody, so each is looked at."""
    result = cli("registrants", verb, "{meeting}", "--id", "{one}", "--id", "{two}", "--yes", "--verify")

    assert result.exit_code == 0, result.stderr
    expected = {"verified": True, **({"status": status} if status else {})}
    assert parsed(result)["items"] == [{"id": cli.known[each], **expected} for each in ("one", "two")]


def test_verify_fails_where_webex_does_not_show_it(cli: Cli) -> None:
    """REST lags behind: what is not seen is not claimed. Exit code 1, and what was seen."""
    cli.control("faults", operation="getRegistrant", lagSeconds=600)

    result = cli("registrants", "approve", "{meeting}", "--id", "{one}", "--verify")

    assert result.exit_code == 1
    assert parsed(result)["items"] == [{"id": cli.known["one"], "status": "pending", "verified": False}]


def test_verify_finds_an_id_of_nobody(cli: Cli) -> None:
    """Webex takes it in silence; reading back does not."""
    result = cli("registrants", "approve", "{meeting}", "--id", "{one}", "--id", "nobody", "--verify")

    assert result.exit_code == 1
    assert [row["verified"] for row in parsed(result)["items"]] == [True, False]


@pytest.mark.parametrize(
    "name",
    [
        *("meetings.create", "meetings.patch", "meetings.update", "meetings.delete", "registration.update"),
        *("registrants.register", "registrants.delete", "registrants.bulk-insert"),
        *("webhooks.create", "webhooks.update", "webhooks.delete"),
    ],
)
def test_verify_looks_at_what_was_written(cli: Cli, name: str, tmp_path: Path) -> None:
    """The answer stays on stdout; what was found goes to stderr, or to stdout where there is no answer."""
    op = operation(*name.split("."))

    result = cli(*typed(op, cli, tmp_path), "--verify")

    assert result.exit_code == 0, result.output
    if op.answers == "nothing":
        assert [row["verified"] for row in parsed(result)["items"]] == [True]
    else:
        assert result.stderr.rstrip().endswith(" verified")


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", [True, False], ids=["with links", "without links"], indirect=True)
def test_all_lists_every_registrant(cli: Cli) -> None:
    """Whoever registered within the windows that Webex allows, with and without links to the next page."""
    cli.control("people", meetingId=cli.known["meeting"], count=130, spreadSeconds=1_000_000)

    one_page = cli("registrants", "list", "{meeting}", "--max", "100")
    everybody = cli("registrants", "list", "{meeting}", "--all", "-o", "jsonl")

    assert len(parsed(one_page)["items"]) <= 100
    people = [msgspec.json.decode(line) for line in everybody.stdout.splitlines()]
    assert len({person["id"] for person in people}) == len(people) == 133


def test_all_lists_every_meeting(cli: Cli) -> None:
    """Page after page; without ``--all`` stderr says that there are more."""
    wanted = ["meetings", "list", "--from", in_days(20), "--to", in_days(30)]
    for i in range(12):
        cli("meetings", "create", "--title", str(i), "--start", in_days(21), "--end", in_days(21.1))

    first, everything = cli(*wanted), cli(*wanted, "--all")

    assert len(parsed(first)["items"]) == 10
    assert "--all" in first.stderr
    assert len(parsed(everything)["items"]) == 12


# --- output -----------------------------------------------------------------------------------------------------------


def test_the_formats(cli: Cli) -> None:
    """JSON unless it is a terminal; a table or one object a line where asked for."""
    listed = ["registrants", "list", "{meeting}"]

    plain, json, table, lines = [
        (cli(*listed, *more)).stdout for more in ([], ["-o", "json"], ["-o", "table"], ["--output", "jsonl"])
    ]

    assert plain == json
    assert len(lines.splitlines()) == len(msgspec.json.decode(json)["items"]) == 3
    assert table.split()[0] == "ID"


# --- auth -------------------------------------------------------------------------------------------------------------


def test_auth_check_probes_with_one_read(cli: Cli) -> None:
    """It says that the credential works, and nothing of the credential."""
    before = len(cli.calls())

    result = cli("auth", "check")

    assert (result.exit_code, parsed(result)["status"]) == (0, "ok")
    assert [call["operationId"] for call in (cli.calls())[before:]] == ["listMeetings"]


def test_auth_check_refuses_a_bad_token(cli: Cli) -> None:
    """Exit 3, and how to mend it."""
    cli.token = "wrong"

    result = cli("auth", "check")

    assert (result.exit_code, result.stdout) == (3, "")
    assert "401" in result.stderr


def test_tokens_are_printed_only_when_asked_for(cli: Cli, tmp_path: Path) -> None:
    """``auth token`` makes a pair; ``--reveal`` shows it."""
    arguments = typed(operation("applications", "token"), cli, tmp_path)

    hidden, shown = cli(*arguments), cli(*arguments, "--reveal")

    assert parsed(hidden)["access_token"] == parsed(hidden)["refresh_token"] == "***"
    assert "***" not in shown.stdout


# --- several organisations --------------------------------------------------------------------------------------------


def test_with_several_organisations_one_is_named(cli: Cli) -> None:
    """By its name in the settings or by its id; without that, exit 2 and the names."""
    ours, theirs = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
    settings = {
        "WEBEX__ORGANIZATION_ID": ours,
        "WEBEX__ORGANIZATIONS__OTHER__ID": theirs,
        "WEBEX__ORGANIZATIONS__OTHER__TOKEN": "wrong",
    }
    listed = ["registrants", "list", "{meeting}"]

    nobody, first = cli(*listed, **settings), cli(*listed, "--organization", ours, **settings)
    other = cli(*listed, "--organization", "other", **settings)

    assert (nobody.exit_code, first.exit_code, other.exit_code) == (2, 0, 3)
    assert "other" in nobody.stderr


# --- sponsoring -------------------------------------------------------------------------------------------------------


@pytest.fixture
def app_token(cli: Cli, tmp_path: Path) -> str:
    """A Service App's token, made as an operator would."""
    result = cli(*typed(operation("applications", "token"), cli, tmp_path), "--reveal")
    return str(parsed(result)["access_token"])


def consultation(begins: float, **more: Any) -> str:
    """A body for ``guests sponsor``."""
    body = {
        "meeting": {"title": "Consultation", "start": in_days(begins), "end": in_days(begins + 0.1)},
        "host": {"email": "doctor@example.org", "displayName": "Dr. Ada"},
        "guests": [{"email": "patient@example.net", "displayName": "Bea"}],
    }
    return msgspec.json.encode({**body, **more}).decode()


def test_everybody_gets_a_link_and_once_is_enough(cli: Cli, app_token: str) -> None:
    """The same key again: the same meeting, with new links; without one it is another meeting."""
    cli.token = app_token
    sponsor = ["guests", "sponsor", "--body", "-"]

    first, again = (cli(*sponsor, "--key", "a", stdin=consultation(5)) for _ in range(2))
    other = cli(*sponsor, stdin=consultation(5))

    assert (first.exit_code, again.exit_code) == (0, 0), first.stderr
    one, two = parsed(first), parsed(again)
    assert one["host"]["startLink"]
    assert one["guests"][0]["joinLink"]
    assert "startLink" not in one["guests"][0] or one["guests"][0]["startLink"] is None
    assert (two["meetingId"], two["existed"]) == (one["meetingId"], True)
    assert parsed(other)["meetingId"] != one["meetingId"]


def test_sponsoring_by_options(cli: Cli, app_token: str) -> None:
    """What a person types is the same body as that of a file."""
    cli.token = app_token
    people = ["--host", "Dr. Ada <doctor@example.org>", "--guest", "Bea <patient@example.net>"]
    times = ["--title", "Consultation", "--start", in_days(6), "--end", in_days(6.1)]

    typed_in = cli("guests", "sponsor", *people, *times, "--dry-run")
    read = cli("guests", "sponsor", "--body", "-", "--dry-run", stdin=consultation(6))

    assert parsed(typed_in)["body"] == parsed(read)["body"]


def test_a_full_licence_ends_with_4(cli: Cli, app_token: str) -> None:
    """With the reason, and nothing is created; at another time there is room."""
    cli.token = app_token
    sponsor = ["guests", "sponsor", "--licence", "1", "--body", "-", "--key"]
    assert cli(*sponsor, "a", stdin=consultation(8)).exit_code == 0

    full, free = cli(*sponsor, "b", stdin=consultation(8)), cli(*sponsor, "c", stdin=consultation(9))

    assert (full.exit_code, parsed(full)["reason"]) == (4, "licenceFull")
    assert free.exit_code == 0


@pytest.mark.parametrize("body", ["{}", '{"meeting":1}', consultation(5, host={"email": "x"}), consultation(-1)])
def test_what_cannot_be_sponsored_ends_with_2(cli: Cli, body: str) -> None:
    """Before anything is sent, dry run or not."""
    before = len(cli.calls())

    codes = [cli("guests", "sponsor", "--body", "-", *more, stdin=body).exit_code for more in ([], ["--dry-run"])]

    assert codes == [2, 2]
    assert len(cli.calls()) == before
