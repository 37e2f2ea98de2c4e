"""ASGI apps over real sockets, in the loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C belongs to pytest."""
        yield


class _QuickServer(_Server):
    """Ends as soon as it can; uvicorn's own takes up to 0.2 s for that, of which hundreds of tests would make minutes."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._over = asyncio.Event()

    def end(self) -> None:
        """Begin to."""
        self.should_exit = True
        self._over.set()

    async def main_loop(self) -> None:
        """As ever, but told when it is over."""
        for tick in itertools.count():
            if await self.on_tick(tick):
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whatever is still under way after a moment is waited for as ever."""
        state = self.server_state
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        for _ in range(50):
            if not state.connections and not state.tasks:
                await self.lifespan.shutdown()
                return
            await asyncio.sleep(0.002)
        await super().shutdown(sockets)


@contextlib.asynccontextmanager
async def running(app: ASGIApp, host: str = "127.0.0.1", *, protocol: Any = "auto") -> AsyncIterator[str]:
    """Serve ``app`` on a free port of ``host``; gives its base URL (``http://127.0.0.1:12345``) and stops it cleanly.

    ``protocol``: what makes a connection, instead of uvicorn's own class.
    """
    config = uvicorn.Config(
        app, host=host, port=0, http=protocol, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2
    )
    server = _QuickServer(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        if serving.done():
            await serving
            raise RuntimeError("the server did not start")
        yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.end()
        await serving
