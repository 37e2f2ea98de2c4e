"""``/guests``, ``/applications`` and ``/access_token``: Guest Management, Service Apps and Integrations."""

from __future__ import annotations

from service.sandbox.api.calls import Answer, Call
from service.sandbox.refusals import invalid
from service.sandbox.world import World


def create_guest(world: World, call: Call) -> Answer:
    """ "Create a Guest"."""
    body, seconds = call.body, world.limits.guest_token_seconds
    guest = world.guests.create(body["subject"], body["displayName"], org=call.caller.org, seconds=seconds)
    return Answer(200, guest)


def count_guests(world: World, call: Call) -> Answer:
    """ "Get Guest Count": a bare number as text."""
    return Answer(200, text=str(world.guests.count(org=call.caller.org)))


def service_app_token(world: World, call: Call) -> Answer:
    """ "Create Service App Access Token"."""
    body = call.body
    if not all((body["clientId"], body["clientSecret"], body["targetOrgId"])):
        raise invalid("clientId, clientSecret and targetOrgId are required.")
    client = f"{body['clientId']}:{body['clientSecret']}"
    issued = world.tokens.issue_for_app(call.path["applicationId"], org=body["targetOrgId"], client=client)
    return Answer(200, issued)


def refresh_token(world: World, call: Call) -> Answer:
    """Integrations, "Using the Refresh Token"."""
    return Answer(200, world.tokens.refresh(call.body))
