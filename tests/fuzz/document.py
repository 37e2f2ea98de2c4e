"""Schemathesis (https://schemathesis.readthedocs.io) over the receiver's endpoint, with the document that we publish of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from service.receiver.app import create_app
from service.receiver.asgi import Asgi
from service.receiver.connections import Connections, GuardLimits
from service.receiver.direct import Direct
from service.receiver.endpoint import Endpoint
from service.telemetry.metrics import Metrics
from tests.servers import running

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reference" / "openapi.json"

#: Checks that do not hold here, and why.
EXCEPTIONS = {
    "negative_data_rejection": "whatever is signed is taken: what is not understood goes to quarantine",
    "positive_data_acceptance": "what fits the document is still refused where it is not signed",
}

_RUN = "from schemathesis.cli import schemathesis; schemathesis()"


async def judged(url: str, *options: str, secret: bytes, requests: int, folder: Path, seed: int = 1) -> tuple[int, str]:
    """The exit code, and what was said, after so many requests to the receiver at ``url`` that knows this secret."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _RUN, "run", str(DOCUMENT), f"--url={url}", f"--seed={seed}"),
        *(f"--max-examples={requests}", "--phases=examples,coverage,fuzzing", "--continue-on-failure"),
        *(f"--exclude-checks={','.join(EXCEPTIONS)}", "--no-color", "--output-truncate=false", *options),
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "SCHEMATHESIS_HOOKS": "tests.fuzz.signing",
            "FUZZ_SECRET": secret.decode(),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


@contextlib.asynccontextmanager
async def served(endpoint: Endpoint, *, direct: bool) -> AsyncIterator[str]:
    """Its URL: on a real socket and through the guard, to the application or past it."""
    connections = Connections(observe=Metrics(), limits=GuardLimits(endpoint.limits.body_bytes))
    protocol = partial(Direct, endpoint=endpoint) if direct else Asgi
    keeping = [asyncio.ensure_future(each.keep()) for each in (connections, endpoint)]
    try:
        async with running(create_app(endpoint), protocol=partial(protocol, connections=connections)) as url:
            yield url
    finally:
        for each in keeping:
            each.cancel()


async def main() -> int:
    """Judge both ways; 1 where one breaks the document."""
    from tests.receiver.conftest import SECRET, Bench

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.document")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    worst = 0
    for direct in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            async with served(Bench().endpoint(), direct=direct) as url:
                code, said = await judged(
                    url, secret=SECRET, requests=given.requests // 2, folder=Path(folder), seed=given.seed
                )
        sys.stdout.write(said)
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
