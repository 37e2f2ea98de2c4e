"""What people see who ask for help, or type something wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.commands import app
from service.webex.operations import OPERATIONS
from tests.cli.program import refusal, run

COMMANDS = [
    [],
    ["dev"],
    ["serve"],
    ["serve", "receiver"],
    ["serve", "processor"],
    ["sandbox"],
    ["topics"],
    ["topics", "plan"],
    ["topics", "apply"],
    ["trigger"],
    ["signature"],
    ["signature", "sign"],
    ["signature", "verify"],
    ["policy"],
    ["policy", "check"],
    ["auth", "check"],
    ["guests", "sponsor"],
    *([group] for group in ("meetings", "registrants", "registration", "webhooks", "guests", "auth")),
    *([{"applications": "auth"}.get(op.resource, op.resource), op.verb] for op in OPERATIONS),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "webex-events")
def test_help_begins_with_examples(command: list[str]) -> None:
    """The first thing is a line that can be copied: the command itself."""
    shown = CliRunner().invoke(app, [*command, "--help"], prog_name="webex-events")

    assert shown.exit_code == 0
    first, second, *_ = shown.output.splitlines()
    assert first == "Examples:"
    assert " ".join(["webex-events", *command]) in second
    assert f"Usage: {' '.join(['webex-events', *command])}" in shown.output


def test_the_list_of_commands_is_complete() -> None:
    """A command that is new comes into the test above."""
    shown = {
        (group.name, command.name)
        for group in app.registered_groups
        if group.typer_instance is not None
        for command in group.typer_instance.registered_commands
    } | {(command.name, None) for command in app.registered_commands}
    listed = {(c[0], c[1] if len(c) > 1 else None) for c in COMMANDS if c and c != ["serve"]}
    assert shown == listed - {(group.name, None) for group in app.registered_groups}


def test_help_is_given_by_the_process(tmp_path: Path) -> None:
    """`python -m service --help`: examples first, exit code 0, and nothing on stderr."""
    done = run("--help", folder=tmp_path)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Examples:\n  webex-events dev ")


@pytest.mark.parametrize(
    "wrong",
    [["devv"], ["serve", "everything"], ["trigger"], ["signature", "verify", "x"], ["sandbox", "--target"], []],
    ids=lambda wrong: " ".join(wrong) or "nothing",
)
def test_wrong_usage_is_2(wrong: list[str]) -> None:
    """What is no command, lacks an argument or is nothing at all ends with exit code 2."""
    shown = CliRunner().invoke(app, wrong, prog_name="webex-events")

    assert shown.exit_code == 2
    assert "Usage: webex-events" in shown.output


def test_an_unknown_command_is_2(tmp_path: Path) -> None:
    """The same as a process, with a sentence on stderr."""
    assert "devv" in "\n".join(refusal(run("devv", folder=tmp_path), 2))
