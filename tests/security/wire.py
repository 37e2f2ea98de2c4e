"""Bytes over a socket, as nobody's client would send them."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit


async def exchange(url: str, request: bytes) -> bytes:
    """Everything that comes back until the connection ends; a second without anything ends it too."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = bytearray()
    try:
        writer.write(request)
        await writer.drain()
        while more := await asyncio.wait_for(reader.read(65536), 1):
            answer += more
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return bytes(answer)
