"""Webhooks: list, create, get, update, delete (Webex OpenAPI, tag "Webhooks"; the Webhooks guide).

Errors as in :mod:`service.webex.meetings`. Answers hold the webhook's secret: they do not belong in a log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from service.webex import pages
from service.webex.calls import ask
from service.webex.client import WebexClient
from service.webex.objects import Webhook, WebhookForm, WebhookUpdate
from service.webex.operations import by_id


def list_webhooks(client: WebexClient, *, owned_by: str = "") -> AsyncIterator[Webhook]:
    """The creator's webhooks; with ``owned_by="org"`` the organisation's, which no other list shows."""
    return pages.items(client, by_id("List Webhooks"), query={"ownedBy": owned_by or None})


async def create_webhook(client: WebexClient, body: WebhookForm) -> Webhook:
    """Create a webhook. Webex keeps one for each resource and filter of an organisation."""
    answer: Webhook = await ask(client, by_id("Create a Webhook"), body=body)
    return answer


async def get_webhook(client: WebexClient, webhook_id: str) -> Webhook:
    """One webhook."""
    answer: Webhook = await ask(client, by_id("Get Webhook Details"), path={"webhookId": webhook_id})
    return answer


async def update_webhook(client: WebexClient, webhook_id: str, body: WebhookUpdate) -> Webhook:
    """Change name, URL and secret, or switch on (``status: active``) what Webex switched off.

    Resource, event and filter cannot change; nothing can be switched off.
    """
    answer: Webhook = await ask(client, by_id("Update a Webhook"), path={"webhookId": webhook_id}, body=body)
    return answer


async def delete_webhook(client: WebexClient, webhook_id: str) -> None:
    """Delete a webhook, for good."""
    await ask(client, by_id("Delete a Webhook"), path={"webhookId": webhook_id})
