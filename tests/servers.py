"""ASGI apps over real sockets, in the loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C belongs to pytest."""
        yield


@contextlib.asynccontextmanager
async def running(app: ASGIApp, host: str = "127.0.0.1", *, protocol: Any = "auto") -> AsyncIterator[str]:
    """Serve ``app`` on a free port of ``host``; gives its base URL (``http://127.0.0.1:12345``) and stops it cleanly.

    ``protocol``: what makes a connection, instead of uvicorn's own class.
    """
    config = uvicorn.Config(
        app, host=host, port=0, http=protocol, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        if serving.done():
            await serving
            raise RuntimeError("the server did not start")
        yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
