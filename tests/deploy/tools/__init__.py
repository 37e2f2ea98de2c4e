"""The tools that check the chart: which ones, where they are. ``make tools`` puts them there (:mod:`.making`).

Each stands in a folder of the cache that is named after its version and its recipe, so a newer one never mixes with an older.
The cache is ``WEBEX_EVENTS_TOOLS``, else ``webex-events/tools`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


class ToolMissing(RuntimeError):
    """A tool is not in the cache; the message says how it gets there."""


@dataclass(frozen=True)
class Pin:
    """One table of ``pins.toml``."""

    name: str
    recipe: Mapping[str, str]

    @property
    def kind(self) -> str:
        """How it is had: ``go``, ``wrapper``, ``debian``, ``pypi`` or ``make``."""
        return next(kind for kind in ("go", "wrapper", "debian", "pypi", "make") if kind in self.recipe)

    @property
    def version(self) -> str:
        """Without a leading v; where it is not ours to say, the words for that."""
        _, _, version = self.recipe.get("go", "").partition("@v")
        return version or self.recipe.get("version", "of Debian" if self.kind == "debian" else "of locks/deploy.txt")

    @property
    def check(self) -> str:
        """``deploy``, ``cluster`` or ``image``."""
        return self.recipe["for"]

    @property
    def program(self) -> str:
        """The file's name."""
        return self.recipe.get("program", self.name)

    @property
    def sources(self) -> list[Path]:
        """The files that it is made from, beside its table."""
        if self.kind == "wrapper":
            return sorted((HERE / "go" / self.recipe["wrapper"]).glob("go.*"))
        return [HERE / "schemas.py", HERE / "schemas.toml", HERE / "strimzi" / "pom.xml"] if self.kind == "make" else []

    @property
    def folder(self) -> Path:
        """Where it stands once it is made."""
        digest = hashlib.sha256(json.dumps(dict(self.recipe), sort_keys=True).encode())
        for source in self.sources:
            digest.update(source.read_bytes())
        version = self.version.replace(" ", "-").replace("/", "-")
        return cache() / f"{self.name}-{version}-{digest.hexdigest()[:8]}"

    @property
    def path(self) -> Path:
        """The executable; the folder where it is none."""
        if self.kind == "pypi":
            return Path(sys.executable).parent / self.program
        return self.folder if self.kind == "make" else self.folder / self.program


def cache() -> Path:
    """The folder of all of them."""
    own = os.environ.get("WEBEX_EVENTS_TOOLS")
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own) if own else shared / "webex-events" / "tools"


def pins() -> dict[str, Pin]:
    """All of them, in the order in which they are made."""
    tables = tomllib.loads((HERE / "pins.toml").read_text("utf-8"))
    return {name: Pin(name, recipe) for name, recipe in tables.items()}


def tool(name: str) -> Path:
    """Where a tool is. Raises ToolMissing."""
    pin = pins().get(name)
    if pin is None:
        raise ToolMissing(f"{name} is none of the tools: {', '.join(pins())}")
    if not pin.path.exists():
        target = "make tools" if pin.check == "deploy" else f"make {pin.check}-check"
        raise ToolMissing(f"{name} {pin.version} is not there: `{target}` makes it")
    return pin.path
