"""The token of a Service App for an organisation that has authorised it (Webex OpenAPI, tag "Service Apps").

Errors as in :mod:`service.webex.meetings`. Body and answer are secrets.
"""

from __future__ import annotations

from service.webex.calls import ask
from service.webex.client import WebexClient
from service.webex.objects import ServiceAppToken, ServiceAppTokenForm
from service.webex.operations import by_id


async def create_service_app_token(
    client: WebexClient, application_id: str, body: ServiceAppTokenForm
) -> ServiceAppToken:
    """A new token pair. The client's own token must be an integration's with the scope ``spark:applications_token``."""
    answer: ServiceAppToken = await ask(
        client, by_id("createServiceAppAccessToken"), path={"applicationId": application_id}, body=body
    )
    return answer
