"""The list of components is that of the image."""

from __future__ import annotations

import json
from pathlib import Path

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT
from tests.deploy.image.sbom import write

_INSTALLED = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.name.lower().replace('_', '-').replace('.', '-'): d.version for d in m.distributions()}))"
)


def test_it_names_what_the_image_has(engine: Engine, tmp_path: Path) -> None:
    write(tmp_path / "sbom.json")
    document = json.loads((tmp_path / "sbom.json").read_text())
    run = ("run", "--rm", "--network", "none", "--no-healthcheck", "--entrypoint", "python", PRODUCT, "-I", "-c")
    installed = json.loads(engine.podman(*run, _INSTALLED))
    components = [*document["components"], document["metadata"]["component"]]
    assert {
        each["name"].lower().replace("_", "-").replace(".", "-"): each["version"] for each in components
    } == installed
    assert document["specVersion"] == "1.6"
    assert all(each.get("licenses") for each in components)
