"""``webex-events trigger``: a signed notification, as Webex would send it, for trying things out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec

from service.core.event import rfc3339
from service.core.identifiers import series_of
from service.core.message import UNREADABLE
from service.core.resources import FAMILIES
from service.core.signature import sign

#: Where `trigger` sends to where nothing else is said.
TRIGGERED = "http://127.0.0.1:8080/webhooks/webex"

_HOST = "host@example.com"
_SITE = "example.webex.com"
_ORG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi9leGFtcGxl"


def _meeting(series: str, event: str, now: datetime) -> dict[str, Any]:
    running = event in ("started", "ended")
    state = {"started": "inProgress", "ended": "ended"}.get(event, "active")
    return {
        "id": f"{series}_I_{int(now.timestamp() * 1000)}" if running else series,
        "meetingType": "meeting" if running else "meetingSeries",
        "state": state,
        "start": rfc3339(now if running else now + timedelta(days=1)),
        "end": rfc3339(now + timedelta(days=0 if running else 1, hours=1)),
        "timezone": "UTC",
        "hostEmail": _HOST,
        "siteUrl": _SITE,
    }


def _participant(series: str, event: str, now: datetime) -> dict[str, Any]:
    return {
        "id": f"{series}_11111111-2222-3333-4444-555555555555",
        "meetingId": f"{series}_I_{int(now.timestamp() * 1000)}",
        "state": "joined" if event == "joined" else "end",
        "joinedTime": rfc3339(now),
        **({"leftTime": rfc3339(now)} if event == "left" else {}),
        "email": "guest@example.com",
        "displayName": "Example Guest",
        "hostEmail": _HOST,
        "siteUrl": _SITE,
    }


def _recording(series: str, event: str, now: datetime) -> dict[str, Any]:  # noqa: ARG001 - one shape for all
    return {
        "id": "4f914b1dfe3c4d11a61730f18c0f5387",
        "meetingId": f"{series}_I_{int(now.timestamp() * 1000)}",
        "meetingSeriesId": series,
        "hostEmail": _HOST,
        "siteUrl": _SITE,
    }


def _converged(series: str, event: str, now: datetime) -> dict[str, Any]:  # noqa: ARG001 - one shape for all
    return {
        "id": "5a914b1dfe3c4d11a61730f18c0f5388",
        "ownerEmail": _HOST,
        "ownerType": "user",
        "serviceType": "calling",
    }


def _service_app(series: str, event: str, now: datetime) -> dict[str, Any]:  # noqa: ARG001 - one shape for all
    return {
        "id": "Y2lzY29zcGFyazovL3VzL0FQUExJQ0FUSU9OL2V4YW1wbGU",
        "authorizerOrgId": _ORG,
        "authorizationDate": rfc3339(now),
    }


def _registrant(series: str, event: str, now: datetime) -> dict[str, Any]:  # noqa: ARG001 - one shape for all
    return {
        "id": "22222222-3333-4444-5555-666666666666",
        "meetingId": series,
        "status": "pending",
        "email": "guest@example.com",
    }


_DATA: Mapping[str, Callable[[str, str, datetime], dict[str, Any]]] = {
    "meetings": _meeting,
    "meetingParticipants": _participant,
    "recordings": _recording,
    "meetingTranscripts": _recording,
    "convergedRecordings": _converged,
    "serviceApp": _service_app,
    "registrants": _registrant,
    "meetingRegistrants": _registrant,
}


def notification(what: str, *, series: str, now: datetime, data: Mapping[str, Any] | None = None) -> bytes:
    """The body of ``<resource>.<event>`` about ``series``; ``data`` replaces what it names. Raises ValueError."""
    resource, _, event = what.partition(".")
    if resource not in FAMILIES or event not in FAMILIES[resource].verbs:
        known = ", ".join(f"{name}.{verb}" for name, family in FAMILIES.items() for verb in sorted(family.verbs))
        raise ValueError(f"Webex sends no {what!r}; it sends {known}")
    if series_of(series) is None:
        raise ValueError("a meeting series id is 32 hexadecimal digits")
    body = {
        "id": "Y2lzY29zcGFyazovL3VzL1dFQkhPT0svdHJpZ2dlcg",
        "name": "webex-events trigger",
        "resource": resource,
        "event": event,
        "orgId": _ORG,
        "ownedBy": "creator",
        "status": "active",
        "created": rfc3339(now),
        "data": {**_DATA[resource](series, event, now), **(data or {})},
    }
    return msgspec.json.encode(body)


def fields_of(text: str) -> dict[str, Any]:
    """The JSON object in ``text``. Raises ValueError."""
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=dict[str, Any])
    except UNREADABLE:
        raise ValueError('--data is no JSON object; for example --data \'{"title": "Town hall"}\'') from None


def send(url: str, body: bytes, *, secret: bytes) -> int:
    """Post ``body``, signed as Webex does; returns the HTTP status. Raises httpx.TransportError where nobody answers."""
    headers = {"content-type": "application/json;charset=UTF-8", **sign(body, secret)}
    with httpx.Client(trust_env=False, timeout=15) as client:
        return client.post(url, content=body, headers=headers).status_code
