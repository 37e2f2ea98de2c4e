"""Listeners, and work beside them: what ends by itself ends the process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import uvicorn

from service.cli.shutdown import Stop, name_of
from service.core.errors import Problem, SettingsError

#: At the end: requests under way may take so long (s) to end; a second later their step of the shutdown is over.
DRAIN = 14


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process: several of them live in one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.contextmanager
def bound(host: str, port: int, *, setting: str) -> Iterator[socket.socket]:
    """A listening socket; on ``::`` for IPv4 too, where the machine can.

    Raises SettingsError, naming the setting to change, where the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        host.encode("idna")  # the socket module does so too late: it would leave an open socket behind
        listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        raise SettingsError((Problem(_unbound(host, port, setting, error)),)) from error
    with listener:
        listener.setblocking(False)
        yield listener


def _unbound(host: str, port: int, setting: str, error: OSError | UnicodeError) -> str:
    reason = getattr(error, "strerror", None) or "not the name of a host"
    reason = reason.partition(" (while attempting")[0]  # the socket module repeats the address
    port_is_to_blame = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
    change = f"port by {setting}" if port_is_to_blame else f"address by {setting.removesuffix('PORT')}HOST"
    return f"cannot listen on {host}:{port} ({reason}); choose another {change}"


def url_of(listener: socket.socket) -> str:
    """``http://host:port`` at which a client on this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared
    return f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def serving(
    app: Callable[..., Awaitable[None]],
    listener: socket.socket,
    *,
    stop: Stop,
    drain: int = DRAIN,
    protocol: Callable[..., asyncio.Protocol] | None = None,
) -> AsyncIterator[None]:
    """Serve an ASGI app on ``listener`` inside the block; requests under way at its end have ``drain`` seconds. ``protocol``
    makes what speaks HTTP on a connection, in place of uvicorn's own.

    At the end nobody listens any more; connections without a request are closed at once, the others with their answer. When
    the server ends by itself, ``stop`` is set, and the end of the block raises.
    """
    server = _server(app, drain=drain, protocol=protocol)
    task, ended = asyncio.create_task(server.serve(sockets=[listener]), name="listener"), _setting(stop)
    task.add_done_callback(ended)
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield
    finally:
        died, server.should_exit = task.done(), True
        task.remove_done_callback(ended)
        await asyncio.wait({task})
        if died and (task.cancelled() or task.exception() is None):
            raise RuntimeError("the listener ended by itself")
        task.result()


def _server(
    app: Callable[..., Awaitable[None]], *, drain: int, protocol: Callable[..., asyncio.Protocol] | None
) -> _Server:
    config = uvicorn.Config(
        app,
        http=protocol or "auto",  # type: ignore[arg-type] # calls it, whether or not it is a class
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=drain,
        timeout_keep_alive=75,
    )
    return _Server(config)


def _setting(stop: Stop) -> Callable[[object], None]:
    return lambda _: stop.set()


@contextlib.asynccontextmanager
async def running(work: Awaitable[Any], *, stop: Stop) -> AsyncIterator[asyncio.Task[Any]]:
    """Run ``work`` beside the block; when it ends by itself, ``stop`` is set, and its error is raised at the end."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_setting(stop))
    try:
        yield task
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], *, stop: Stop) -> AsyncIterator[None]:
    """As :func:`running`, for work that never ends by itself: it is cancelled at the end of the block.

    Where it has ended all the same, even without an error, the end of the block raises.
    """
    task, ended = asyncio.ensure_future(work), _setting(stop)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        died = task.done()
        task.remove_done_callback(ended)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if died:
            raise RuntimeError(f"{name_of(work)} has ended, and must not")
