"""The simulated Webex over HTTP: Cisco's operations under ``/v1``, pages for people, and control routes for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.sandbox import control, page, reading
from service.sandbox.api.calls import Answer, Call
from service.sandbox.faults import Fault
from service.sandbox.operations import OPERATIONS, Operation
from service.sandbox.records import CallRecord
from service.sandbox.refusals import Refusal, error_body
from service.sandbox.tokens import Caller, forbidden, unauthorized
from service.sandbox.world import World

_JSON = "application/json;charset=UTF-8"


@dataclass(frozen=True)
class _Sandbox:
    world: World
    link_header: bool
    token: str | None
    batch_limit: int


def create_app(
    world: World, *, link_header: bool = True, token: str | None = None, batch_limit: int = 100
) -> Starlette:
    """The whole simulated Webex.

    ``link_header``: say where the next page is (Cisco does not promise it for registrants). ``token``: the only access token
    that is taken beside those issued here; None takes any. ``batch_limit``: most entries in one batch (Cisco publishes none).
    """
    sandbox = _Sandbox(world, link_header, token, batch_limit)
    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = _endpoint(sandbox, operation)
    api = [_route(path, endpoints) for path, endpoints in by_path.items()]
    return Starlette(
        routes=[Mount("/v1", routes=api), Mount("/sandbox", routes=control.routes(world)), *page.routes(world)],
        exception_handlers={HTTPException: _unrouted},
    )


Endpoint = Callable[[Request], Awaitable[ASGIApp]]


def _route(path: str, endpoints: Mapping[str, Endpoint]) -> Route:
    """One route for all methods of a path, so that a 405 names them all."""

    async def endpoint(request: Request) -> ASGIApp:
        return await endpoints[request.method](request)

    route = Route(path, endpoint, methods=list(endpoints))
    route.methods = set(endpoints)  # without the HEAD that comes with every GET: Cisco's document has none
    return route


def _endpoint(sandbox: _Sandbox, operation: Operation) -> Endpoint:
    """Reads the request, lets the operation have its effect, makes it durable with its line in the ledger, then answers."""

    async def endpoint(request: Request) -> ASGIApp:
        world = sandbox.world
        given, unreadable = await _read(request, operation)
        n = world.ledger.next_call()
        tracking_id = f"SANDBOX_{world.identity.seed[:8]}_{n}"
        fault = world.faults.take((operation.id, operation.name))
        if fault is not None and fault.delay:
            await asyncio.sleep(fault.delay)
        retry_after = fault.retry_after if fault else None
        try:
            answer = _perform(sandbox, operation, request, unreadable or given, fault)
        except Refusal as refusal:
            answer = Answer(refusal.status, error_body(refusal, tracking_id=tracking_id))
            if refusal.retry_after is not None:
                retry_after = f"{refusal.retry_after:.0f}"
        dropped = fault is not None and fault.drop
        line = _call_record(n, operation, request, given, answer.status, dropped=dropped)
        world.ledger.record(msgspec.structs.replace(line, at=world.now()))
        world.commit()
        if dropped:
            return _cut_short
        return _response(sandbox, request, answer, {"trackingid": tracking_id, "retry-after": retry_after}, fault)

    return endpoint


def _perform(
    sandbox: _Sandbox, operation: Operation, request: Request, given: dict[str, Any] | Refusal, fault: Fault | None
) -> Answer:
    caller = Caller() if operation.oauth else _authorized(sandbox, request, operation)
    if fault is not None and fault.status and not fault.after:
        raise Refusal(fault.status, "The service is not available now.")
    if isinstance(given, Refusal):
        raise given
    world = sandbox.world
    call = Call(
        path=request.path_params,
        query=request.query_params,
        headers=request.headers,
        body=operation.checked(request.query_params, given),
        caller=caller,
        lag=max(world.faults.lag((operation.id, operation.name)), world.lag),
        batch_limit=sandbox.batch_limit,
        loses_page=fault is not None and fault.lose_page,
        site=f"{request.url.scheme}://{request.url.netloc}",
    )
    answer = operation.handle(world, call)
    if fault is not None and fault.status:
        raise Refusal(fault.status, "The service is not available now.")
    return answer


def _authorized(sandbox: _Sandbox, request: Request, operation: Operation) -> Caller:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized()
    caller = sandbox.world.tokens.caller(token.strip(), only=sandbox.token)
    if operation.scopes and not caller.may(*operation.scopes):
        raise forbidden(f"One of these scopes is missing: {', '.join(operation.scopes)}.")
    return caller


async def _read(request: Request, operation: Operation) -> tuple[dict[str, Any], Refusal | None]:
    """The body, and why it cannot be used where it cannot; {} where there is none, or where the operation has none."""
    try:
        raw = await reading.read(request)
        if operation.oauth:
            return {name: values[-1] for name, values in reading.form(request, raw).items()}, None
        return (reading.json_object(request, raw) if operation.body else {}), None
    except Refusal as refusal:
        return {}, refusal


def _call_record(
    n: int, operation: Operation, request: Request, body: Mapping[str, Any], status: int, *, dropped: bool
) -> CallRecord:
    sizes = (len(body[name]) for name in ("registrants", "emails", "items") if isinstance(body.get(name), list))
    mail = body.get("sendEmail")
    return CallRecord(
        n=n,
        method=operation.method,
        operation_id=operation.id,
        meeting_id=request.path_params.get("meetingId", "")[:80],
        status=status,
        registrants=next(sizes, 0),
        send_email=mail if isinstance(mail, bool) else None,
        dropped=dropped,
    )


def _response(
    sandbox: _Sandbox, request: Request, answer: Answer, headers: Mapping[str, str | None], fault: Fault | None
) -> Response:
    given = {**answer.headers, **{name: value for name, value in headers.items() if value is not None}}
    if answer.following and sandbox.link_header:
        following = request.url.remove_query_params(list(request.query_params)).include_query_params(**answer.following)
        given["link"] = f'<{following}>; rel="next"'
    if answer.text is not None:
        content, media_type = answer.text.encode(), "text/plain"
    elif answer.body is not None:
        content, media_type = msgspec.json.encode(answer.body), _JSON
    else:
        return Response(status_code=answer.status, headers=given)
    if fault is not None and fault.body:
        content, media_type = _spoiled(content, media_type, fault.body)
    return Response(content, answer.status, {**given, "content-type": media_type})


def _spoiled(content: bytes, media_type: str, how: str) -> tuple[bytes, str]:
    """What a gateway, or a bad day, makes of an answer."""
    match how:
        case "truncated":
            return content[: len(content) // 2], media_type
        case "html":
            return b"<!DOCTYPE html><title>Gateway</title><p>Please try again.", "text/html"
        case "huge":
            return content + b" " * (8 * 1024 * 1024), media_type
        case _:
            return b"", media_type


async def _cut_short(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer that ends before its body: the caller cannot know what became of the request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})


def _unrouted(_request: Request, error: Exception) -> Response:
    """404 and 405 for what the table does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    body = error_body(Refusal(status, "The requested resource could not be found."), tracking_id="SANDBOX_UNROUTED")
    headers = {"trackingid": "SANDBOX_UNROUTED", **(getattr(error, "headers", None) or {}), "content-type": _JSON}
    return Response(msgspec.json.encode(body), status, headers)
