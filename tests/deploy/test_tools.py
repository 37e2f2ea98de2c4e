"""The tools themselves: the table of pins, and how schemas are made strict."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path

import pytest

from tests.deploy.render import KUBERNETES
from tests.deploy.tools import HERE, Pin, ToolMissing, cache, pins, tool
from tests.deploy.tools.making import CannotMake, make
from tests.deploy.tools.schemas import Schema, kinds_of, strict


@pytest.mark.parametrize("pin", pins().values(), ids=lambda pin: pin.name)
def test_every_tool_has_one_version(pin: Pin) -> None:
    """Pinned in its table, in the go.mod of ours, or in the lock; only Debian's is Debian's."""
    if pin.kind == "wrapper":
        module = (HERE / "go" / pin.recipe["wrapper"] / "go.mod").read_text("utf-8")
        assert re.search(rf"^\s*(require )?{_module(pin)} v{re.escape(pin.version)}( //.*)?$", module, re.MULTILINE)
    elif pin.kind == "pypi":
        lock = (HERE.parents[2] / "locks" / "deploy.txt").read_text("utf-8")
        assert re.search(rf"^{pin.recipe['pypi']}==", lock, re.MULTILINE)
    elif pin.kind == "go":
        assert re.fullmatch(r"\d+\.\d+\.\d+", pin.version)
    assert pin.check in {"deploy", "cluster", "image"}


def _module(pin: Pin) -> str:
    return pin.recipe["package"].partition("/cmd/")[0].removesuffix("/ct")


def test_a_version_has_a_folder_of_its_own() -> None:
    """So has another recipe of the same version."""
    pin = pins()["helm4"]

    folders = {
        pin.folder,
        Pin("helm4", {**pin.recipe, "go": "helm.sh/helm/v4/cmd/helm@v4.3.0"}).folder,
        Pin("helm4", {**pin.recipe, "program": "helm4"}).folder,
    }
    assert len(folders) == 3


def test_a_tool_that_is_not_there_says_how_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each check."""
    monkeypatch.setenv("WEBEX_EVENTS_TOOLS", str(tmp_path))

    with pytest.raises(ToolMissing, match="`make tools`"):
        tool("helm4")
    with pytest.raises(ToolMissing, match="`make cluster-check`"):
        tool("kubectl")
    with pytest.raises(ToolMissing, match="`make image-check`"):
        tool("prometheus")
    with pytest.raises(ToolMissing, match="none of the tools"):
        tool("kubectx")


def test_half_a_tool_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where making one fails, nothing of it is left, and the next one may try."""
    monkeypatch.setenv("WEBEX_EVENTS_TOOLS", str(tmp_path))
    broken = Pin("broken", {"wrapper": "helm-unittest", "package": "./nowhere", "version": "1.0.0", "for": "deploy"})

    with pytest.raises(CannotMake, match="nowhere"):
        make([broken])

    assert [path.name for path in cache().iterdir()] == ["broken.lock"]
    with (cache() / "broken.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_object_has_no_other_fields_than_those_declared() -> None:
    """Unless it says that it keeps them; what is an alternative is not closed."""
    closed = strict({"properties": {"a": {"properties": {"b": {"type": "string"}}}}, "anyOf": [{"required": ["a"]}]})
    kept = strict({"properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True})
    mapped = strict({"properties": {"a": {}}, "additionalProperties": {"properties": {"b": {}}}})

    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["additionalProperties"] is False
    assert closed["anyOf"] == [{"required": ["a"]}]
    assert "additionalProperties" not in kept
    assert mapped["additionalProperties"]["additionalProperties"] is False


def test_a_schema_stands_by_itself() -> None:
    """With what it refers to, round about too, and nothing else; a list of objects is no object."""
    thing = {
        "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Thing"}],
        "properties": {"metadata": {}, "part": {"$ref": "#/definitions/part"}},
    }
    part = {"properties": {"inner": {"$ref": "#/definitions/part"}}}
    definitions: dict[str, Schema] = {
        "thing": thing,
        "part": part,
        "other": {},
        "options": {"x-kubernetes-group-version-kind": [{}]},
    }

    assert dict(kinds_of(definitions)) == {
        "v1-v1-thing": {**thing, "required": ["apiVersion", "kind"], "definitions": {"part": part}}
    }


def test_schemas_are_there_for_every_version_that_is_rendered() -> None:
    """And for a hundred kinds at least of each."""
    assert all(len(list((tool("schemas") / version).glob("*.json"))) > 100 for version in KUBERNETES)
