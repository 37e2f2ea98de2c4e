"""``python -m tests.deploy.image.sbom FILE``: what the image holds above its base, as CycloneDX 1.6.

An environment is made as the Dockerfile makes it, and cyclonedx-py reads that: its components have licences and depend on one
another, which a list of requirements has not.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.deploy.image.images import ROOT
from tests.deploy.tools import ToolMissing, tool


def write(file: Path) -> None:
    """Write it. Raises ToolMissing or CalledProcessError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        python = _as_in_the_image(Path(scratch))
        what = ("environment", "--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application")
        how = ("--output-reproducible", "--output-format", "JSON", "--output-file", str(file))
        _run(str(tool("cyclonedx-py")), *what, *how, python)


def _as_in_the_image(folder: Path) -> str:
    """The interpreter of an environment with the lock and the project, without what only builds."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "install", "--no-compile", "--require-hashes", "--requirement", str(ROOT / "locks" / "run.txt"))
    _run(*pip, "install", "--no-compile", "--no-index", "--no-deps", "--no-build-isolation", str(ROOT))
    _run(*pip, "uninstall", "--yes", *build_only())
    return python


def build_only() -> list[str]:
    """The packages that the Dockerfile takes out again."""
    found = re.search(r"pip uninstall --yes \\\n(.+)\n", (ROOT / "Dockerfile").read_text("utf-8"))
    assert found, "the Dockerfile takes nothing out"
    return [*found[1].split(), "setuptools"]  # Python 3.11 gives every environment a setuptools


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]))
    except ToolMissing as error:
        sys.exit(str(error))
