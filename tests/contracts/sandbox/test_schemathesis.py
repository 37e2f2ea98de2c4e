"""Schemathesis (https://schemathesis.readthedocs.io) over the sandbox, with Cisco's document as it is."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.contracts.document import Document, where
from tests.contracts.sandbox.populated import populated

pytestmark = pytest.mark.timeout(300)

#: All checks but this one. Its place has ``refused_for_a_listed_reason``, with the reasons one by one: see fuzzing.py.
EXCEPTION = "positive_data_acceptance"

_OPTIONS = (
    "--seed=1",
    f"--exclude-checks={EXCEPTION}",
    "--continue-on-failure",
    "--no-color",
    "--output-truncate=false",
)
_RUN = "from schemathesis.cli import schemathesis; schemathesis()"
_ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _installed() -> None:
    if importlib.util.find_spec("schemathesis") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("schemathesis is not installed: nobody fuzzes the sandbox", pytrace=False)
        pytest.skip("schemathesis is not installed: nobody fuzzes the sandbox")


async def fuzzed(folder: Path, *options: str, around: Callable[[ASGIApp], ASGIApp] | None = None) -> tuple[int, str]:
    """The exit code and what was said."""
    async with populated(around=around) as (url, ids):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _RUN, "run", str(where().resolve()), f"--url={url}/v1", "-H", "Authorization: Bearer token"),
            *(*_OPTIONS, *options),
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(_ROOT),
                "PYTHONHASHSEED": "0",
                "SCHEMATHESIS_HOOKS": "tests.contracts.sandbox.fuzzing",
                "SANDBOX_IDS": json.dumps(ids),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


async def test_no_request_gets_an_answer_that_breaks_the_document(cisco: Document, tmp_path: Path) -> None:
    """Thousands of requests, right and wrong ones, for every operation: no violation beyond the listed exceptions."""
    code, said = await fuzzed(tmp_path, "--max-examples=20", "--phases=examples,coverage,fuzzing,stateful")
    assert code == 0, said[-12_000:]
    assert f"Tested: {len(cisco.operations)}" in said


def _as_text(app: ASGIApp) -> ASGIApp:
    """A sandbox that writes numbers where Cisco's document has text."""

    async def spoilt(scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": message["body"].replace(b'"hostKey":"123456"', b'"hostKey": 1234567')}
            await send(message)

        await app(scope, receive, changed if scope["type"] == "http" else send)

    return spoilt


async def test_a_violation_would_be_found(cisco: Document, tmp_path: Path) -> None:
    """A field of another type fails the run."""
    options = ("--include-operation-id=getMeetingById", "--phases=fuzzing", "--max-examples=20")
    code, said = await fuzzed(tmp_path, *options, around=_as_text)
    assert code == 1
    assert "hostKey" in said
