"""``/webhooks``: Webhooks API and guide."""

from __future__ import annotations

from service.sandbox.api.calls import Answer, Call, page_size, paged
from service.sandbox.refusals import invalid
from service.sandbox.webhooks import shown
from service.sandbox.world import World


def list_webhooks(world: World, call: Call) -> Answer:
    """ "List Webhooks"."""
    if call.query.get("ownedBy", "org") != "org":
        raise invalid("ownedBy can be org.")
    size = page_size(call.query, default=100)
    owned = world.webhooks.owned(call.caller, org="ownedBy" in call.query)
    return paged([shown(hook) for hook in owned], call.query, size=size)


def create_webhook(world: World, call: Call) -> Answer:
    """ "Create a Webhook"."""
    return Answer(200, shown(world.webhooks.create(call.caller, call.body)))


def get_webhook(world: World, call: Call) -> Answer:
    """ "Get Webhook Details"."""
    return Answer(200, shown(world.webhooks.find(call.caller, call.path["webhookId"])))


def update_webhook(world: World, call: Call) -> Answer:
    """ "Update a Webhook"."""
    return Answer(200, shown(world.webhooks.update(call.caller, call.path["webhookId"], call.body)))


def delete_webhook(world: World, call: Call) -> Answer:
    """ "Delete a Webhook"."""
    world.webhooks.delete(call.caller, call.path["webhookId"])
    return Answer(204)
