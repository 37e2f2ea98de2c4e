"""Routes of the private listener for our own command line: the records of the journal, which lets one process in only.

They are there where the journal is the bus. Only this machine itself is answered, and only with the token that stands in a
file which nobody but the user of this process can read.

    GET  /records/<topic>/<partition>?since=<ms>   one record a line (NDJSON), and a last line that says "all"
    POST /records                                  a list of messages; 204 once all of them are durable
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Protocol

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from service.core.errors import EventProcessorError
from service.core.message import UNREADABLE, Message, Received

#: The last line of an answer: without it, the records before are not all.
ALL = b'{"all":true}'

#: Bytes of a body that are read at most, and bytes that are sent together.
LARGEST_BODY = 16 * 1024 * 1024
_CHUNK = 64 * 1024

_Endpoint = Callable[[Request], Awaitable[Response]]


class Reader(Protocol):
    """Where records come from."""

    def read(self, topic: str, partition: int, *, since: datetime | None = None) -> AsyncIterator[Received]:
        """Every record up to the end as it is at the call."""


class Publisher(Protocol):
    """Where records go."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once all are durable. Raises CannotStore."""


def record_routes(reader: Reader, publisher: Publisher, *, token: str) -> tuple[Route, ...]:
    """The routes, for whoever has the token."""
    return (
        Route("/records/{topic:str}/{partition:int}", _guarded(token, _reading(reader))),
        Route("/records", _guarded(token, _publishing(publisher)), methods=["POST"]),
    )


def _guarded(token: str, endpoint: _Endpoint) -> _Endpoint:
    wanted = f"Bearer {token}".encode()

    async def answer(request: Request) -> Response:
        if not _is_this_machine(request):
            raise HTTPException(HTTPStatus.FORBIDDEN)
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), wanted):
            raise HTTPException(HTTPStatus.UNAUTHORIZED)
        return await endpoint(request)

    return answer


def _is_this_machine(request: Request) -> bool:
    try:
        peer = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return (mapped or peer).is_loopback


def _reading(reader: Reader) -> _Endpoint:
    async def answer(request: Request) -> Response:
        topic, partition = str(request.path_params["topic"]), int(request.path_params["partition"])
        records = reader.read(topic, partition, since=_since(request))
        return StreamingResponse(_lines(records), media_type="application/x-ndjson")

    return answer


def _since(request: Request) -> datetime | None:
    given = request.query_params.get("since")
    try:
        return None if given is None else datetime.fromtimestamp(int(given) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise HTTPException(HTTPStatus.BAD_REQUEST) from None


async def _lines(records: AsyncIterator[Received]) -> AsyncIterator[bytes]:
    """Where reading fails, the last line is missing: the answer has begun, so that no status can say it any more."""
    chunk = bytearray()
    try:
        async for record in records:
            chunk += msgspec.json.encode(record) + b"\n"
            if len(chunk) >= _CHUNK:
                yield bytes(chunk)
                chunk.clear()
    except (EventProcessorError, ValueError):
        return
    yield bytes(chunk) + ALL + b"\n"


def _publishing(publisher: Publisher) -> _Endpoint:
    async def answer(request: Request) -> Response:
        try:
            messages = msgspec.json.decode(await _body(request), type=list[Message])
        except UNREADABLE:
            raise HTTPException(HTTPStatus.BAD_REQUEST) from None
        try:
            await publisher.publish(messages)
        except EventProcessorError:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE) from None
        return Response(status_code=HTTPStatus.NO_CONTENT)

    return answer


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return bytes(body)
