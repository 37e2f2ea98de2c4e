"""Webhooks that were registered: which of them hears of what, and how Webex switches one off.

Webhooks guide: filters, ``ownedBy=org``, and "auto disabled" after 100 failed attempts within 5 minutes. What was switched
off stays so until somebody PUTs ``status: active``; within 5 minutes of that first disabling one failure is enough again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from service.core.event import rfc3339
from service.sandbox.documents import Documents
from service.sandbox.records import Identity, WebhookRecord
from service.sandbox.refusals import Refusal, invalid, not_found
from service.sandbox.tokens import Caller, forbidden

MOST_FAILURES = 100
WITHIN = timedelta(minutes=5)

#: What a filter may name (Webhooks guide, "Filtering Webhooks"); a resource that is not here takes none.
FILTERS = {
    "meetings": ("id", "meetingNumber", "meetingType", "state", "hostEmail", "hostUserId", "siteUrl"),
    "meetingParticipants": ("id", "meetingId", "state", "hostEmail", "hostPersonId", "siteUrl"),
    "recordings": ("id", "meetingId", "scheduledMeetingId", "meetingSeriesId", "hostEmail", "hostUserId", "siteUrl"),
    "convergedRecordings": (
        "recordingId",
        "ownerId",
        "ownerEmail",
        "ownerType",
        "storageRegion",
        "serviceType",
        "locationId",
    ),
    "meetingTranscripts": (
        "id",
        "meetingId",
        "scheduledMeetingId",
        "meetingSeriesId",
        "hostEmail",
        "hostUserId",
        "siteUrl",
    ),
    "serviceApp": ("id", "friendlyName", "trainSiteNames", "adminTrainSiteNames"),
    "adminBatchJobs": ("jobType",),
}
_ORG_FILTERS = {"hostEmail", "hostUserId", "ownerEmail", "ownerId"}
_ORG_RESOURCES = {
    "meetings",
    "recordings",
    "convergedRecordings",
    "meetingParticipants",
    "meetingTranscripts",
    "rooms",
    "messages",
    "adminBatchJobs",
}

#: The events of a resource; one that is not here has created, updated and deleted.
_EVENTS = {
    "meetings": {"created", "updated", "deleted", "started", "ended"},
    "meetingParticipants": {"joined", "left"},
    "meetingTranscripts": {"created"},
    "serviceApp": {"authorized", "deauthorized"},
    "adminBatchJobs": {"statusChanged"},
}
_ALL = {"created", "updated", "deleted"}
_DEFAULT_EVENTS = _ALL | {"migrated"}

#: The scopes of which one is needed to hear of a resource.
SCOPES = {
    "meetings": ("meeting:schedules_read", "meeting:admin_schedule_read"),
    "meetingParticipants": ("meeting:participants_read", "meeting:admin_participants_read"),
    "recordings": ("meeting:recordings_read", "meeting:admin_recordings_read", "spark-compliance:meetings_read"),
    "meetingTranscripts": (
        "meeting:transcripts_read",
        "meeting:admin_transcripts_read",
        "spark-compliance:meetings_read",
    ),
    "serviceApp": ("application:webhooks_read", "application:webhooks_write"),
}


class Webhooks:
    """The registrations. Changes become durable with the world's next commit."""

    def __init__(self, documents: Documents, identity: Identity, *, now: Callable[[], datetime]) -> None:
        self._documents = documents
        self._identity = identity
        self._now = now
        stored = documents.read("webhook", WebhookRecord).values()
        self._hooks = {hook.id: hook for hook in sorted(stored, key=lambda hook: hook.n)}

    def owned(self, caller: Caller, *, org: bool) -> Sequence[WebhookRecord]:
        """The caller's own ones, or those of the organisation: a plain list does not have them."""
        mine = [hook for hook in self._hooks.values() if _reaches(hook, caller)]
        return [hook for hook in mine if (hook.owned_by == "org") is org]

    def find(self, caller: Caller, hook_id: str) -> WebhookRecord:
        """Raises Refusal (404)."""
        hook = self._hooks.get(hook_id)
        if hook is None or not _reaches(hook, caller):
            raise not_found("The webhook could not be found.")
        return hook

    def create(self, caller: Caller, body: Mapping[str, Any]) -> WebhookRecord:
        """Register one. Raises Refusal: 400 for the body, 403 without the scope, 409 for one of the organisation's twice."""
        owned_by = "org" if body.get("ownedBy") == "org" else "creator"
        _check(body, org=owned_by == "org")
        _check_scopes(caller, body["resource"], org=owned_by == "org")
        n = self._documents.count(webhooks=1).webhooks
        hook = WebhookRecord(
            id=self._identity.public_id("WEBHOOK", n, region="urn:TEAM:us-west-2_r"),
            n=n,
            name=body["name"],
            target_url=body["targetUrl"],
            resource=body["resource"],
            event=body["event"],
            created=self._now(),
            filter=body.get("filter", ""),
            secret=body.get("secret", ""),
            owned_by=owned_by,
            org=caller.org,
            owner=caller.email,
            app=caller.app,
        )
        if owned_by == "org" and any(_same(hook, other) for other in self._hooks.values()):
            raise Refusal(409, "A webhook of the organization with this resource, event and filter exists already.")
        return self._keep(hook)

    def update(self, caller: Caller, hook_id: str, body: Mapping[str, Any]) -> WebhookRecord:
        """Change name, targetUrl and secret, and switch on again. Anything else that was given is ignored, as Webex does."""
        hook = self.find(caller, hook_id)
        _check_target(body)
        hook = msgspec.structs.replace(
            hook, name=body["name"], target_url=body["targetUrl"], secret=body.get("secret", hook.secret)
        )
        if body.get("status") == "active" and not hook.active:
            hook = msgspec.structs.replace(hook, active=True, failures=())
            self._documents.note("sandbox.webhook_enabled", webhook_id=hook.id)
        return self._keep(hook)

    def delete(self, caller: Caller, hook_id: str) -> None:
        """Raises Refusal (404)."""
        hook = self.find(caller, hook_id)
        del self._hooks[hook.id]
        self._documents.put("webhook", hook.id, None)

    def get(self, hook_id: str) -> WebhookRecord | None:
        """The registration, if it still exists and is active."""
        hook = self._hooks.get(hook_id)
        return hook if hook and hook.active else None

    def hearing(self, resource: str, event: str, data: Mapping[str, Any], *, org: str) -> Sequence[WebhookRecord]:
        """The active ones that are told of this."""
        hooks = (hook for hook in self._hooks.values() if hook.active and hook.org == org)
        return [hook for hook in hooks if _hears(hook, resource, event, data)]

    def failed(self, hook_id: str) -> bool:
        """One attempt was not answered 2xx. Returns whether the webhook was switched off for it."""
        hook = self._hooks.get(hook_id)
        if hook is None or not hook.active:
            return False
        now = self._now()
        failures = tuple(moment for moment in (*hook.failures, now) if now - moment <= WITHIN)[-MOST_FAILURES:]
        trap = hook.disabled is not None and now - hook.disabled <= WITHIN
        hook = msgspec.structs.replace(hook, failures=failures)
        if trap or len(failures) >= MOST_FAILURES:
            hook = msgspec.structs.replace(hook, active=False, disabled=now, failures=())
            self._documents.note("sandbox.webhook_disabled", webhook_id=hook.id)
        self._keep(hook)
        return not hook.active

    def _keep(self, hook: WebhookRecord) -> WebhookRecord:
        self._hooks[hook.id] = hook
        self._documents.put("webhook", hook.id, hook)
        return hook


def shown(hook: WebhookRecord) -> dict[str, Any]:
    """``Webhook``: the secret is shown to whoever may read it, as Webex does."""
    optional = {name: value for name, value in (("filter", hook.filter), ("secret", hook.secret)) if value}
    return {
        "id": hook.id,
        "name": hook.name,
        "targetUrl": hook.target_url,
        "resource": hook.resource,
        "event": hook.event,
        **optional,
        "status": "active" if hook.active else "inactive",
        "created": rfc3339(hook.created),
        "ownedBy": hook.owned_by,
    }


def _reaches(hook: WebhookRecord, caller: Caller) -> bool:
    return hook.org == caller.org and (hook.owned_by == "org" or hook.owner == caller.email)


def _same(hook: WebhookRecord, other: WebhookRecord) -> bool:
    """Webex has one webhook for each resource and filter of an organisation; events are kept apart here, as they must be."""
    return other.owned_by == "org" and all(
        getattr(hook, name) == getattr(other, name) for name in ("org", "resource", "event", "filter")
    )


def _hears(hook: WebhookRecord, resource: str, event: str, data: Mapping[str, Any]) -> bool:
    if hook.resource != resource or not (hook.event == event or (hook.event == "all" and event in _ALL)):
        return False
    if hook.owned_by == "creator" and "hostEmail" in data and data["hostEmail"] != hook.owner:
        return False
    # Filters are case-sensitive (Webhooks guide).
    return all(str(data.get(name)) == value for name, value in _parsed(hook.filter))


def _parsed(text: str) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in text.split("&") if part)
    return [(name, value) for name, _, value in parts]


def _check(body: Mapping[str, Any], *, org: bool) -> None:
    _check_target(body)
    resource, event = body["resource"], body["event"]
    if body.get("ownedBy", "creator") not in ("org", "creator"):
        raise invalid("ownedBy can be org.")
    if org and resource not in _ORG_RESOURCES:
        raise invalid(f"ownedBy org is not supported for {resource}.")
    if event != "all" and event not in _EVENTS.get(resource, _DEFAULT_EVENTS):
        raise invalid(f"invalid value for event: {event}")
    for name, _ in _parsed(body.get("filter", "")):
        if name not in FILTERS.get(resource, ()):
            raise invalid(f"invalid value for filter: {name[:80]}")
        if name in _ORG_FILTERS and not org:
            raise invalid(f"A filter of {name} needs ownedBy org.")


def _check_target(body: Mapping[str, Any]) -> None:
    try:
        target = urlsplit(body["targetUrl"])
        port = target.port
    except ValueError as error:
        raise invalid("targetUrl is not a URL.") from error
    if target.scheme not in ("http", "https") or not target.hostname or port == 0:
        raise invalid("targetUrl is an address that begins with http:// or https://.")
    if not body["name"]:
        raise invalid("name is required.")


def _check_scopes(caller: Caller, resource: str, *, org: bool) -> None:
    scopes = SCOPES.get(resource, ())
    wanted = tuple(scope for scope in scopes if not org or ":admin_" in scope or scope.startswith("spark-compliance"))
    if not caller.may(*(wanted or scopes)) or (org and not caller.administers):
        raise forbidden(f"The scope to read {resource} is missing.")
