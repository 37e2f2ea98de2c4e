"""What people see who ask for help, or type something wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
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
    ["health"],
    ["topics"],
    ["topics", "plan"],
    ["topics", "apply"],
    ["trigger"],
    ["signature"],
    ["signature", "sign"],
    ["signature", "verify"],
    ["policy"],
    ["policy", "check"],
    ["policy", "explain"],
    ["policy", "backtest"],
    ["policy", "confirm"],
    ["registrants", "undo"],
    ["registrants", "release"],
    ["events"],
    ["events", "tail"],
    ["dlq"],
    *(["dlq", verb] for verb in ("list", "show", "redrive", "discard")),
    ["rejects"],
    *(["rejects", verb] for verb in ("list", "show")),
    ["journal"],
    *(["journal", verb] for verb in ("groups", "forget", "drain")),
    ["ledger"],
    *(["ledger", verb] for verb in ("export", "import", "adopt")),
    ["pause"],
    ["resume"],
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


def commands_of(group: typer.Typer, name: str | None = None) -> set[tuple[str | None, str | None]]:
    """Every command in ``group``, with those of the groups without a name in it."""
    shown = {(name, command.name) for command in group.registered_commands}
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            shown |= commands_of(inner.typer_instance, inner.name if isinstance(inner.name, str) else name)
    return shown


def test_the_list_of_commands_is_complete() -> None:
    """A command that is new comes into the test above."""
    listed = {(c[0], c[1]) if len(c) > 1 else (None, c[0]) for c in COMMANDS if c}
    groups = {(None, group.name) for group in app.registered_groups}
    assert commands_of(app) == listed - groups


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
