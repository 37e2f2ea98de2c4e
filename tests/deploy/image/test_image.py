"""What the image is made of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT

#: MB above the base.
BUDGET = 120

#: Prints what does not fit: modules in use that have no byte code of their own, or one that is compared with its source;
#: files that the program's user may change; leftovers of the build.
_LOOKING = """
import importlib.util, json, os, pathlib, stat, sys
import service.cli.commands, service.bus.kafka_admin
def uncompiled(module):
    source = getattr(module, "__file__", None) or ""
    if not source.endswith(".py"):
        return False
    compiled = pathlib.Path(importlib.util.cache_from_source(source))
    return not compiled.exists() or compiled.read_bytes()[4] != 1
writable = [path for top in ("/opt", "/etc", "/usr/lib", "/usr/local") for folder, _, files in os.walk(top)
            for path in [folder, *(os.path.join(folder, file) for file in files)]
            if not os.path.islink(path) and (os.stat(path).st_uid == 65532 or os.stat(path).st_mode & stat.S_IWOTH)]
print(json.dumps({
    "uncompiled": sorted(name for name, module in list(sys.modules.items()) if uncompiled(module)),
    "writable": writable,
    "tools": [name for name in ("pip", "hatchling", "setuptools", "pytest") if importlib.util.find_spec(name)],
}))
"""


@pytest.fixture(scope="module")
def settings(engine: Engine) -> dict[str, Any]:
    """The image's own: entry point, user, ports …"""
    return dict(engine.image(PRODUCT)["Config"])


def test_the_layers_above_the_base_are_few_megabytes(engine: Engine, base: str, figures: list[str]) -> None:
    ours, theirs = engine.image(PRODUCT), engine.image(base)
    assert ours["RootFS"]["Layers"][: len(theirs["RootFS"]["Layers"])] == theirs["RootFS"]["Layers"]
    above = (ours["Size"] - theirs["Size"]) / 1e6
    assert 20 < above <= BUDGET
    figures.append(f"image: {above:.0f} MB above the base (at most {BUDGET})")


def test_it_is_started_without_a_shell_by_a_user_with_a_number(settings: dict[str, Any]) -> None:
    assert settings["User"] == "65532:65532"
    assert settings["Entrypoint"] == ["webex-events"]
    assert settings["Cmd"] == ["--help"]
    assert set(settings["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}


def test_its_health_check_is_the_programs_own(engine: Engine) -> None:
    assert engine.image(PRODUCT)["Healthcheck"]["Test"] == ["CMD", "webex-events", "health"]


def test_its_labels_are_those_of_oci(settings: dict[str, Any], base: str) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in settings["Labels"].items()}
    assert labels["base.name"] == base
    assert {"title", "description", "licenses", "source", "documentation", "version", "revision", "created"} <= set(
        labels
    )


def test_nothing_of_the_build_is_left_and_nothing_is_compiled_at_the_start(engine: Engine) -> None:
    found = json.loads(
        engine.podman("run", "--rm", "--network", "none", "--entrypoint", "python", PRODUCT, "-c", _LOOKING)
    )
    assert found == {"uncompiled": [], "writable": [], "tools": []}
