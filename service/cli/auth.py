"""``webex-events auth``: is the credential any good, and tokens of a Service App. No token is printed unless asked for."""

from __future__ import annotations

from service.cli.api import options
from service.cli.api.calls import show
from service.cli.api.connection import api_settings, talk
from service.cli.api.verbs import verbs_of
from service.cli.examples import Command
from service.webex.operations import operation, request_for

auth_app = verbs_of("applications", name="auth")


@auth_app.command("check", cls=Command, epilog="webex-events auth check")
def check(organization: options.Organization = None, form: options.Output = None) -> None:
    """Try the credential of the settings with one cheap read: a list of one meeting."""
    settings = api_settings()
    request = request_for(operation("meetings", "list"), query={"max": 1})
    reply = talk(settings, lambda client: client.call(request), organization=organization)
    found = {
        "status": "ok",
        "organization": organization,
        "baseUrl": settings.webex.base_url,
        "read": request.operation,
        "trackingId": reply.tracking_id,
    }
    show(found, form)
