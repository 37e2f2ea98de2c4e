"""Control routes, for tests and for whoever tries things out: under ``/sandbox``, outside of the API, no token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.core.event import rfc3339
from service.sandbox import reading
from service.sandbox.faults import Fault
from service.sandbox.records import HOST_EMAIL, Limits, TokenRecord
from service.sandbox.refusals import Refusal, error_body, invalid
from service.sandbox.world import World

#: Most people that one control call registers.
MOST_PEOPLE = 10_000

Act = Callable[[World, Request, dict[str, Any]], Any]


def routes(world: World) -> list[Route]:
    """All of them."""
    table: tuple[tuple[str, Act, list[str]], ...] = (
        ("/ledger", _ledger, ["GET"]),
        ("/figures", _figures, ["GET"]),
        ("/people", _people, ["POST"]),
        ("/meetings/{meetingId}/{event}", _meeting_event, ["POST"]),
        ("/faults", _faults, ["POST", "DELETE"]),
        ("/clock", _clock, ["GET", "POST"]),
        ("/limits", _limits, ["GET", "POST"]),
        ("/tokens", _tokens, ["POST", "DELETE"]),
        ("/organizations/{orgId}/{event}", _organization_event, ["POST"]),
        ("/notifications", _notifications, ["POST"]),
    )
    return [Route(path, _endpoint(world, act), methods=methods) for path, act, methods in table]


def _endpoint(world: World, act: Act) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = reading.json_object(request, await reading.read(request))
            status, answer = 200, act(world, request, body)
        except Refusal as refusal:
            status, answer = refusal.status, error_body(refusal, tracking_id="")
        world.commit()
        return Response(msgspec.json.encode(answer), status, media_type="application/json")

    return endpoint


def _ledger(world: World, _request: Request, _body: dict[str, Any]) -> Any:
    """Every call and effect, and what became of the webhooks."""
    return {**world.ledger.shown(statuses=world.registry.statuses()), "webhooks": world.outgoing.figures()}


def _figures(world: World, request: Request, _body: dict[str, Any]) -> Any:
    """The same counted, for many registrants: of ``?meetingId=``, or of all meetings."""
    figures = world.ledger.figures(request.query_params.get("meetingId", ""), statuses=world.registry.statuses())
    return {**figures, "webhooks": world.outgoing.figures()}


def _people(world: World, _request: Request, body: dict[str, Any]) -> Any:
    """``{"meetingId", "count", "domain"?, "spreadSeconds"?}`` → ``{"ids": […]}``."""
    count, spread, domain = body.get("count", 1), body.get("spreadSeconds", 0), body.get("domain")
    if type(count) is not int or not 1 <= count <= MOST_PEOPLE or type(spread) is not int or not 0 <= spread <= 10**8:
        raise invalid(f"count is 1 to {MOST_PEOPLE}; spreadSeconds is not negative.")
    if not isinstance(domain, str | None):
        raise invalid("domain is a string.")
    meeting = world.find_series(str(body.get("meetingId", "")))
    people = world.registry.register_people(meeting, count, domain=domain, spread=timedelta(seconds=spread))
    return {"ids": [registrant.id for registrant in people]}


def _meeting_event(world: World, request: Request, _body: dict[str, Any]) -> Any:
    """``POST /sandbox/meetings/{meetingId}/start`` or ``/end``: the host comes or leaves."""
    acts = {"start": world.start_meeting, "end": world.end_meeting}
    event = request.path_params["event"]
    if event not in acts:
        raise invalid("A meeting can start or end.")
    return {"id": acts[event](world.find_series(request.path_params["meetingId"])).instance}


def _faults(world: World, request: Request, body: dict[str, Any]) -> Any:
    """POST adds one, DELETE clears all."""
    if request.method == "DELETE":
        world.faults.clear()
    else:
        world.faults.add(Fault.from_body(body))
    return {}


def _clock(world: World, request: Request, body: dict[str, Any]) -> Any:
    """``{"advanceSeconds"?, "speed"?}`` → ``{"now", "speed"}``; what is due then starts and ends."""
    if request.method == "POST":
        seconds, speed = (_number(body, name) for name in ("advanceSeconds", "speed"))
        world.now.move(seconds=seconds or 0.0, speed=speed)
        world.advance()
    return {"now": rfc3339(world.now()), "speed": world.now.speed}


def _number(body: dict[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise invalid(f"{name} is a number.")
    return None if value is None else float(value)


def _limits(world: World, request: Request, body: dict[str, Any]) -> Any:
    """POST changes those that are given (the names of :class:`Limits`), in camelCase."""
    if request.method == "POST":
        try:
            world.set_limits(msgspec.convert({**msgspec.to_builtins(world.limits), **body}, Limits))
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from error
    return world.limits


def _tokens(world: World, request: Request, body: dict[str, Any]) -> Any:
    """POST issues a pair, as the developer portal does; DELETE ends a token.

    ``{"scopes"?: […], "email"?, "orgId"?, "app"?, "token"?: text of the access token, "clientId"?, "clientSecret"?}``.
    """
    if request.method == "DELETE":
        world.tokens.revoke([str(body.get("token", ""))])
        return {}
    scopes = body.get("scopes")
    if not isinstance(scopes, list | None):
        raise invalid("scopes is a list.")
    like = TokenRecord(
        kind="access",
        expires=world.now(),
        org=world.own(str(body.get("orgId", ""))),
        scopes=None if scopes is None else tuple(map(str, scopes)),
        app=str(body.get("app", "")),
        email=str(body.get("email", HOST_EMAIL)),
        client=f"{body['clientId']}:{body.get('clientSecret', '')}" if "clientId" in body else "",
    )
    issued = world.tokens.issue(like)
    if "token" in body:
        seconds = world.limits.access_token_seconds
        issued["access_token"] = world.tokens.add(like, kind="access", seconds=seconds, text=str(body["token"]))
    return issued


def _organization_event(world: World, request: Request, body: dict[str, Any]) -> Any:
    """``POST /sandbox/organizations/{orgId}/authorize`` or ``/deauthorize``: an administrator decides on the Service App."""
    event, org = request.path_params["event"], request.path_params["orgId"]
    acts = {"authorize": world.tokens.consent, "deauthorize": world.tokens.withdraw}
    if event not in acts:
        raise invalid("An organization can authorize or deauthorize.")
    acts[event](org)
    app = str(body.get("app", "")) or world.identity.public_id("APPLICATION")
    data = {"id": app, "authorizerOrgId": org, "authorizationDate": rfc3339(world.now())}
    world.tell("serviceApp", f"{event}d", app, data)
    return {}


def _notifications(world: World, _request: Request, body: dict[str, Any]) -> Any:
    """``{"resource", "event", "data", "orgId"?}``: something happens that is not simulated otherwise."""
    data = body.get("data")
    if not isinstance(data, dict) or not all(isinstance(body.get(name), str) for name in ("resource", "event")):
        raise invalid("A notification has resource, event and data.")
    org = world.own(str(body.get("orgId", "")))
    world.tell(body["resource"], body["event"], str(data.get("id", "")), data, org=org)
    return {}
