"""What the kernel does for the public listener's connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

#: What the kernel may hold for a connection in each direction (bytes; Linux doubles it): requests and answers are small,
#: and the default lets each client that does not read pin megabytes, and one that is refused push as much.
#: Half as much, and a local proxy's 64 KiB would wait for TCP's timers (its segments are larger than the window): 0.6 s.
KERNEL_BUFFER = 32 * 1024


def bound_buffers(transport: asyncio.Transport) -> None:
    """Keep the kernel's buffers for it small."""
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)


def reset(transport: asyncio.Transport) -> None:
    """Close, and have the kernel forget what the client does not read: it would go on offering it for minutes."""
    with contextlib.suppress(OSError):
        no_time = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)
    transport.abort()
