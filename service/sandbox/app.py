"""The simulated Webex over HTTP: Cisco's operations under ``/v1``, and control routes for tests under ``/sandbox``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.sandbox.faults import Fault, Faults
from service.sandbox.operations import OPERATIONS, Answer, Call, Operation
from service.sandbox.records import CallRecord
from service.sandbox.refusals import Refusal, error_body, invalid
from service.sandbox.world import World

#: Longest request body in bytes.
LONGEST_BODY = 1024 * 1024

#: Most people that one control call registers.
MOST_PEOPLE = 10_000

_MEDIA_TYPES = {"application/json", "application/json-patch+json", "application/merge-patch+json"}


@dataclass(frozen=True)
class _Sandbox:
    world: World
    faults: Faults
    link_header: bool
    token: str | None
    batch_limit: int


def create_app(
    world: World, *, link_header: bool = True, token: str | None = None, batch_limit: int = 100
) -> Starlette:
    """The whole simulated Webex.

    ``link_header``: say where the next page is (Cisco does not promise it for registrants). ``token``: the only access token
    that is taken; None takes any. ``batch_limit``: most entries in one batch (Cisco publishes none).
    """
    sandbox = _Sandbox(world, Faults(), link_header, token, batch_limit)
    operations = [Route(op.path, _endpoint(sandbox, op), methods=[op.method]) for op in OPERATIONS]
    control = [
        Route("/ledger", _control(sandbox, _ledger), methods=["GET"]),
        Route("/people", _control(sandbox, _people), methods=["POST"]),
        Route("/meetings/{meetingId}/{event}", _control(sandbox, _meeting_event), methods=["POST"]),
        Route("/faults", _control(sandbox, _faults), methods=["POST", "DELETE"]),
    ]
    return Starlette(
        routes=[Mount("/v1", routes=operations), Mount("/sandbox", routes=control)],
        exception_handlers={HTTPException: _unrouted},
    )


Endpoint = Callable[[Request], Awaitable[ASGIApp]]


def _endpoint(sandbox: _Sandbox, operation: Operation) -> Endpoint:
    """Reads the request, lets the operation have its effect, makes it durable with its line in the ledger, then answers."""

    async def endpoint(request: Request) -> ASGIApp:
        world = sandbox.world
        body, unreadable = await _read(request)
        n = world.ledger.next_call()
        tracking_id = f"SANDBOX_{world.identity.seed[:8]}_{n}"
        fault = sandbox.faults.take((operation.id, operation.name))
        try:
            _authorize(request, sandbox.token)
            answer = _perform(sandbox, operation, request, unreadable or body, fault)
        except Refusal as refusal:
            answer = Answer(refusal.status, error_body(refusal, tracking_id=tracking_id))
        dropped = fault is not None and fault.drop
        world.ledger.record(_call_record(n, operation, request, body, answer.status, dropped=dropped))
        world.commit()
        return _cut_short if dropped else _response(sandbox, request, answer, tracking_id=tracking_id, fault=fault)

    return endpoint


def _perform(
    sandbox: _Sandbox, operation: Operation, request: Request, body: dict[str, Any] | Refusal, fault: Fault | None
) -> Answer:
    if fault is not None and fault.status:
        raise Refusal(fault.status, "The service is not available now.")
    if isinstance(body, Refusal):
        raise body
    call = Call(
        path=request.path_params,
        query=request.query_params,
        body=body,
        lag=sandbox.faults.lag((operation.id, operation.name)),
        batch_limit=sandbox.batch_limit,
    )
    return operation.handle(sandbox.world, call)


def _authorize(request: Request, token: str | None) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip() or token not in (None, given.strip()):
        raise Refusal(401, "The request requires a valid access token set in the Authorization request header.")


async def _read(request: Request) -> tuple[dict[str, Any], Refusal | None]:
    """The body, and why it cannot be used where it cannot; {} where there is none. The whole body is read, up to the limit."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LONGEST_BODY:
            return {}, Refusal(413, "The request is too large.")
    if not raw:
        return {}, None
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _MEDIA_TYPES:
        return {}, Refusal(415, "The request body must be JSON.")
    try:
        return msgspec.json.decode(bytes(raw), type=dict[str, Any]), None
    except (msgspec.DecodeError, RecursionError):
        return {}, invalid("The request body is not a JSON object.")


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
    sandbox: _Sandbox, request: Request, answer: Answer, *, tracking_id: str, fault: Fault | None
) -> Response:
    headers = {"trackingid": tracking_id}
    if answer.following and sandbox.link_header:
        following = request.url.remove_query_params(list(request.query_params)).include_query_params(**answer.following)
        headers["link"] = f'<{following}>; rel="next"'
    if fault is not None and fault.retry_after is not None:
        headers["retry-after"] = fault.retry_after
    if answer.body is None:
        return Response(status_code=answer.status, headers=headers)
    content = msgspec.json.encode(answer.body)
    return Response(content, answer.status, headers, media_type="application/json;charset=UTF-8")


async def _cut_short(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer that ends before its body: the caller cannot know what became of the request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})


def _unrouted(_request: Request, error: Exception) -> Response:
    """404 and 405 for what the table does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    body = error_body(Refusal(status, "The requested resource could not be found."), tracking_id="SANDBOX_UNROUTED")
    headers = {"trackingid": "SANDBOX_UNROUTED", **(getattr(error, "headers", None) or {})}
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json;charset=UTF-8")


# -- control: for tests and for whoever tries things out; outside of /v1, no token -------------------------------------


def _control(sandbox: _Sandbox, act: Callable[[_Sandbox, Request, dict[str, Any]], Any]) -> Endpoint:
    async def endpoint(request: Request) -> ASGIApp:
        body, unreadable = await _read(request)
        try:
            if unreadable:
                raise unreadable
            status, answer = 200, act(sandbox, request, body)
        except Refusal as refusal:
            status, answer = refusal.status, error_body(refusal, tracking_id="")
        sandbox.world.commit()
        return Response(msgspec.json.encode(answer), status, media_type="application/json")

    return endpoint


def _ledger(sandbox: _Sandbox, _request: Request, _body: dict[str, Any]) -> Any:
    world = sandbox.world
    return {**world.ledger.shown(statuses=world.statuses()), "webhooks": world.outgoing.figures()}


def _people(sandbox: _Sandbox, _request: Request, body: dict[str, Any]) -> Any:
    """``{"meetingId", "count", "domain"?, "spreadSeconds"?}`` → ``{"ids": […]}``."""
    count, spread, domain = body.get("count", 1), body.get("spreadSeconds", 0), body.get("domain")
    if type(count) is not int or not 1 <= count <= MOST_PEOPLE or type(spread) is not int or not 0 <= spread <= 10**8:
        raise invalid(f"count is 1 to {MOST_PEOPLE}; spreadSeconds is not negative.")
    if not isinstance(domain, str | None):
        raise invalid("domain is a string.")
    meeting = sandbox.world.find_series(str(body.get("meetingId", "")))
    people = sandbox.world.register_people(meeting, count, domain=domain, spread=timedelta(seconds=spread))
    return {"ids": [registrant.id for registrant in people]}


def _meeting_event(sandbox: _Sandbox, request: Request, _body: dict[str, Any]) -> Any:
    """``POST /sandbox/meetings/{meetingId}/start`` or ``/end``: the host comes or leaves."""
    world, event = sandbox.world, request.path_params["event"]
    acts = {"start": world.start_meeting, "end": world.end_meeting}
    if event not in acts:
        raise invalid("A meeting can start or end.")
    return {"id": acts[event](world.find_series(request.path_params["meetingId"])).instance}


def _faults(sandbox: _Sandbox, request: Request, body: dict[str, Any]) -> Any:
    """POST adds one, DELETE clears all."""
    if request.method == "DELETE":
        sandbox.faults.clear()
    else:
        sandbox.faults.add(Fault.from_body(body))
    return {}
