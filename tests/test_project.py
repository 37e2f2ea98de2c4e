"""What stands in several places stands there alike: locks, documents, image and compose file against the code."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.test_architecture import read_service, third_party

ROOT = Path(__file__).parents[1]
PREFIX = "WEBEX_EVENTS_"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/*", "deploy")
    for path in ROOT.glob(f"{folder}/*.md")
)
LOCKS = ["locks/run.txt", "locks/dev.txt"]


def read(path: str) -> str:
    """A file of the project."""
    return (ROOT / path).read_text("utf-8")


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))


def distribution(requirement: str) -> str:
    """``uvloop>=0.23; sys_platform != 'win32'`` → uvloop."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[._-]+", "-", name[0]).lower()


def declared() -> dict[str, list[str]]:
    """Distribution names: at run time, to build, to work on it."""
    groups = project()["dependency-groups"]
    wanted = {"run": project()["project"]["dependencies"], "build": groups["build"], "dev": groups["dev"]}
    return {kind: [distribution(each) for each in requirements] for kind, requirements in wanted.items()}


# --- the locks --------------------------------------------------------------------------------------------------------


def entries(lock: str) -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and hashes of each requirement."""
    text = re.sub(r"\\\n", " ", read(lock))
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            name, _, rest = line.partition("==")
            yield distribution(name), rest.split()[0], re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line)


@pytest.mark.parametrize("lock", [*LOCKS, "locks/deploy.txt", "locks/fuzz.txt", "locks/go.txt"])
def test_a_lock_names_no_place_to_download_from(lock: str) -> None:
    """Where packages come from is for pip's own settings to say: an index, a mirror, a folder."""
    assert re.findall(r"://|--index|--extra-index|--find-links|--trusted-host|@ ", read(lock)) == []


@pytest.mark.parametrize("lock", [*LOCKS, "locks/deploy.txt", "locks/fuzz.txt", "locks/go.txt"])
def test_every_locked_requirement_has_hashes(lock: str) -> None:
    """So that pip installs nothing that was not seen when the lock was made."""
    locked = list(entries(lock))

    assert locked
    assert [name for name, _, hashes in locked if not hashes] == []


def test_both_locks_agree() -> None:
    """The tests run what users run."""
    run = {name: (version, hashes) for name, version, hashes in entries("locks/run.txt")}
    dev = {name: (version, hashes) for name, version, hashes in entries("locks/dev.txt")}

    assert {name: dev.get(name) for name in run} == run


def test_the_locks_hold_everything_that_is_declared() -> None:
    """``make lock`` was run after pyproject.toml was changed."""
    run, dev = ({name for name, *_ in entries(lock)} for lock in LOCKS)
    names = declared()

    assert set(names["run"] + names["build"]) - run == set()
    assert set(names["dev"]) - dev == set()


# --- dependencies -----------------------------------------------------------------------------------------------------


def test_every_dependency_has_its_reason() -> None:
    """docs/dependencies.md has a row for each declared dependency, and none for another."""
    explained = re.findall(r"^\| `([^`]+)` \|", read("docs/dependencies.md"), re.MULTILINE)

    assert sorted(explained) == sorted(name for names in declared().values() for name in names)


def test_every_imported_library_is_declared() -> None:
    """What the service imports does not just happen to arrive with something else."""
    provided = importlib.metadata.packages_distributions()
    imported = {
        distribution(provided[found.top][0]): source.module
        for source in read_service()
        for found in third_party(source)
    }

    assert {name: module for name, module in imported.items() if name not in declared()["run"]} == {}


# --- the documents ----------------------------------------------------------------------------------------------------


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language, without the indentation of a list that they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", read(document), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    """Every relative link names a file."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(document))
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_documents_name_exist(document: str) -> None:
    """`service/…`, `tests/…`, `locks/…` in backticks are there."""
    named = re.findall(r"`((?:service|tests|locks|docs|deploy)/[^`\s*]*)`", read(document))

    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_make_target_that_is_mentioned_exists() -> None:
    """``make run`` in a document is a target of the Makefile, and each of them has its line in ``make help``."""
    mentioned = {
        target for name in DOCUMENTS for target in re.findall(r"(?:^|`)make ([a-z-]+)", read(name), re.MULTILINE)
    }
    explained = set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)

    assert {"run", "test", "check"} <= mentioned <= explained
    assert phony is not None
    assert set(phony[1].split()) == explained


def test_the_readme_is_short() -> None:
    """Who needs more follows a link."""
    assert len(read("README.md").splitlines()) <= 200


def test_the_event_in_the_readme_is_one_of_ours() -> None:
    """The example can be read by the decoder, and has no attribute that events do not have."""
    from service.core import event

    example = next(text for text in blocks("README.md", "json") if "specversion" in text)
    decoded = event.decode(example.encode())

    assert json.loads(event.encode(decoded)) == json.loads(example)
    assert decoded.type.split(".")[1] in event.TOPICS


def test_the_policies_that_are_shown_are_valid() -> None:
    """The README's example and the one that compose mounts can be used as they are."""
    from service.core.policy import parse

    example = next(text for text in blocks("README.md", "yaml") if "rules:" in text)

    assert parse(example).version != parse(read("deploy/policy/policy.yaml")).version


# --- commands ---------------------------------------------------------------------------------------------------------

WORDS = r"(?:serve \w+|topics \w+|signature \w+|policy \w+|sandbox|dev|trigger)"


def compose() -> dict[str, Any]:
    """The compose file."""
    loaded = yaml.safe_load(read("deploy/compose.yaml"))
    assert isinstance(loaded, dict)
    return loaded


def composed_commands() -> dict[str, list[str]]:
    """What compose starts of ours: service → arguments. Others have images of their own."""
    services = compose()["services"]
    return {name: each["command"] for name, each in services.items() if "command" in each and "build" in each}


def mentioned_commands() -> list[str]:
    """``webex-events …`` as documents, Makefile and compose file have it, without arguments."""
    texts = [read(name) for name in (*DOCUMENTS, "Makefile", "deploy/policy/policy.yaml")]
    composed = [f"webex-events {' '.join(command)}" for command in composed_commands().values()]
    return sorted({found for text in (*texts, *composed) for found in re.findall(rf"webex-events ({WORDS})", text)})


@pytest.mark.parametrize("command", mentioned_commands())
def test_every_command_that_is_mentioned_exists(command: str) -> None:
    """Its help is shown, and it needs no setting for that."""
    ended = _run(*command.split(), "--help")

    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


def test_every_option_that_compose_gives_exists() -> None:
    """An option that is not known would be seen only by who starts it."""
    for command in composed_commands().values():
        options = [word for word in command if word.startswith("--")]
        known = _run(*[word for word in command if re.fullmatch(r"[a-z]+", word)], "--help").stdout if options else ""

        assert [option for option in options if option not in known] == []


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- settings ---------------------------------------------------------------------------------------------------------


def documented_settings(document: str) -> set[str]:
    """The variables of a document's settings tables: every upper-case name in the first cell."""
    cells = re.findall(r"^\| (`[A-Z][^|]*) \|", read(document), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([A-Z0-9_]+)`", cell)}


def test_the_readme_names_settings_that_exist() -> None:
    """With the defaults that they have."""
    from service.settings import describe

    defaults = {setting.name: setting.default for setting in describe()}
    shown = dict(re.findall(r"^\| `([A-Z0-9_]+)` \|.*\| (?:`([^`]*)`)? ?\|$", read("README.md"), re.MULTILINE))

    assert documented_settings("README.md") - defaults.keys() == set()
    assert {name: defaults[name] for name in shown} == shown


@pytest.mark.parametrize(
    "file", ["Dockerfile", "deploy/compose.yaml", "deploy/README.md", "README.md", "deploy/.env.example"]
)
def test_every_variable_that_is_set_is_a_setting(file: str) -> None:
    """An image or a compose file that sets an unknown variable would not start."""
    from service.settings import describe

    known = {setting.name for setting in describe()} | {"CONFIG", "IMAGE"}  # the image's name is compose's own
    named = set(re.findall(rf"\b{PREFIX}([A-Z][A-Z0-9_]*)", read(file)))

    assert named - known == set()


@pytest.mark.parametrize("service", ["topics", "receiver", "processor", "sandbox"])
def test_what_compose_sets_is_accepted(service: str) -> None:
    """The settings load as they would in the container."""
    from service.settings import load

    given = {
        name: re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)\}", lambda found: found[1] or "given", str(value))
        for name, value in compose()["services"][service]["environment"].items()
    }

    assert load(given).bus == given.get(f"{PREFIX}BUS", "journal")


def test_the_env_example_sets_what_compose_demands() -> None:
    """``cp .env.example .env`` is enough."""
    demanded = set(re.findall(r"\$\{(\w+):\?", read("deploy/compose.yaml")))
    given = set(re.findall(r"^(\w+)=.", read("deploy/.env.example"), re.MULTILINE))

    assert demanded <= given


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_starts_our_command_as_nobody() -> None:
    """Exec form, a command that the project installs, and a numeric user that is not root."""
    entrypoint = re.search(r"^ENTRYPOINT (\[.*\])$", read("Dockerfile"), re.MULTILINE)
    user = re.search(r"^USER (\d+):(\d+)$", read("Dockerfile"), re.MULTILINE)

    assert entrypoint is not None
    assert msgspec.json.decode(entrypoint[1]) == list(project()["project"]["scripts"])
    assert user is not None
    assert "0" not in user.groups()


def test_the_build_has_what_it_copies() -> None:
    """.dockerignore lets through exactly what the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", read("Dockerfile"), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    allowed = set(re.findall(r"^!(.*)$", read(".dockerignore"), re.MULTILINE))

    assert copied == allowed
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_no_build_tool_stays_in_the_image() -> None:
    """What the build group needs, and nothing that runs, is removed again."""
    removed = re.search(r"pip uninstall --yes \\\n\s+(.*)$", read("Dockerfile"), re.MULTILINE)

    assert removed is not None
    assert set(declared()["build"]) | {"pip"} <= set(removed[1].split())
    assert set(removed[1].split()) & set(declared()["run"]) == set()
