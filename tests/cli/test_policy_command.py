"""`policy check`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.cli.dev import demo_policy
from tests.cli.program import invoke, refusal, run

GOOD = "version: 1\npaused: true\nrules:\n  - {name: r, when: 'true', then: approve}\n"


@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
def test_a_good_policy(tmp_path: Path, stdin: bool) -> None:
    """Rules, version, and whether it is paused."""
    (tmp_path / "good.yaml").write_text(GOOD)
    name = "-" if stdin else "good.yaml"
    done = run("policy", "check", name, folder=tmp_path, stdin=GOOD.encode())

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(f"{name}: 1 rules, version ")
    assert done.stdout.decode().endswith(", paused\n")


def test_the_policy_of_dev_is_good(tmp_path: Path) -> None:
    """What people are told to copy is right."""
    assert invoke("policy", "check", str(demo_policy()), folder=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        pytest.param(
            b"version: 1\ndefault: maybe\nrules:\n  - {name: r, when: 'registrant.', then: approve}\n",
            ["bad.yaml: line 2, column 10: ", "bad.yaml: line 4, column "],
            id="two problems",
        ),
        pytest.param(b"version: [", ["bad.yaml: line 1, column "], id="not YAML"),
        pytest.param(b"version: 1\n# \xff\n", ["bad.yaml: not UTF-8"], id="not UTF-8"),
        pytest.param(None, ["bad.yaml cannot be read"], id="missing"),
    ],
)
def test_a_bad_policy_is_2(tmp_path: Path, content: bytes | None, problems: list[str]) -> None:
    """Every problem in a line of its own, as editors read them."""
    if content is not None:
        (tmp_path / "bad.yaml").write_bytes(content)
    lines = refusal(invoke("policy", "check", "bad.yaml", folder=tmp_path), 2)

    assert len(lines) == len(problems)
    assert all(line.startswith(problem) for line, problem in zip(lines, problems, strict=True))


def test_a_list_that_is_a_pipe_is_2(tmp_path: Path) -> None:
    """It is not waited for."""
    (tmp_path / "policy.yaml").write_text("version: 1\nlists: {vips: {file: vips.txt}}\n")
    os.mkfifo(tmp_path / "vips.txt")
    (said,) = refusal(run("policy", "check", "policy.yaml", folder=tmp_path), 2)
    assert 'the file "vips.txt" cannot be read' in said
