"""Prism (https://github.com/stoplightio/prism) between a client and the simulated Webex: it knows Cisco's document alone.

Installed once from the lock file beside this module, into ``.cache``, by npm and whatever registry it is set up with.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contracts.document import where
from tests.ports import free_port

_LOCKED = Path(__file__).parent / "prism"
_CACHE = Path(__file__).parents[3] / ".cache"
_PROGRAM = "node_modules/@stoplight/prism-cli/dist/index.js"


def missing() -> str:
    """What is not there to run it, "" where all is."""
    return ", ".join(program for program in ("node", "npm") if shutil.which(program) is None)


@dataclass
class Judge:
    """Where it listens, and what it has said."""

    url: str
    lines: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """What it found wrong with requests or answers."""
        return [line for line in self.lines if "Violation:" in line or "VIOLATIONS" in line]


#: The accepted exceptions: where the document contradicts itself, what the judge reads instead.
REPAIRED: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    (
        "createServiceAppAccessToken asks for bearerAuth, which the document does not define",
        ("components", "securitySchemes", "bearerAuth"),
        {"type": "http", "scheme": "bearer"},
    ),
    (
        "the guests' count is plain text, and described as an object with a property named 112",
        ("paths", "/guests/count", "get", "responses", "200", "content", "text/plain", "schema"),
        {"type": "string", "pattern": "^[0-9]+$"},
    ),
)


def demand_a_judge() -> None:
    """Fail with CI=true, else skip, where Prism or Cisco's document cannot be had."""
    if absent := missing() or ("" if where().is_file() else "Cisco's document (WEBEX_OPENAPI)"):
        if os.environ.get("CI") == "true":
            pytest.fail(f"{absent} not found: nobody judges between client and sandbox", pytrace=False)
        pytest.skip(f"{absent} not found: nobody judges between client and sandbox")


def written_for_the_judge(folder: Path) -> Path:
    """Cisco's document with the repairs, as a file."""
    document = json.loads(where().read_text())
    for _, (*parents, name), value in REPAIRED:
        place = document
        for parent in parents:
            place = place[parent]
        place[name] = value
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path


@contextlib.asynccontextmanager
async def judging(document: Path, upstream: str) -> AsyncIterator[Judge]:
    """Prism in front of ``upstream``: whatever breaks the document is answered as an error and said."""
    program = await _installed()
    port = free_port()
    arguments = ("proxy", "--errors", "--host", "127.0.0.1", "--port", str(port), str(document), upstream)
    process = await asyncio.create_subprocess_exec(
        "node", str(program), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    judge = Judge(f"http://127.0.0.1:{port}")
    reading = asyncio.create_task(_read(process, judge))
    try:
        await _listening(judge, process)
        yield judge
        await asyncio.sleep(0.2)  # what it says of the last call
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def _read(process: asyncio.subprocess.Process, judge: Judge) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        judge.lines.append(line.decode(errors="replace").rstrip())


async def _listening(judge: Judge, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while not any("Prism is listening" in line for line in judge.lines):
            assert process.returncode is None, "\n".join(judge.lines)
            await asyncio.sleep(0.05)
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"{judge.url}/nowhere")


async def _installed() -> Path:
    """The program; installed where it is not there yet. Two that install at once do not meet."""
    lock = _LOCKED / "package-lock.json"
    folder = _CACHE / f"prism-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (folder / _PROGRAM).is_file():
        building = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
        shutil.copytree(_LOCKED, building)
        await _install(building)
        with contextlib.suppress(OSError):
            building.rename(folder)
        shutil.rmtree(building, ignore_errors=True)
    return folder / _PROGRAM


async def _install(folder: Path) -> None:
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    process = await asyncio.create_subprocess_exec(
        "npm",
        "ci",
        *options,
        cwd=folder,
        env={**os.environ, "NODE_ENV": "production"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode(errors="replace")
