"""Signed webhooks on their way: the envelope, both signature headers, and a few tries with growing delays.

Shape of the envelope: Meeting Resource Guide, ``meetings.ended``; there is no event id, no attempt number and no time of
delivery in it. Webex does not publish its retries; these are ours. What cannot be delivered is lost, as with Webex.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import structlog

from service.core.event import rfc3339
from service.core.signature import sign
from service.sandbox import webhooks
from service.sandbox.records import Identity, Notification, WebhookRecord
from service.sandbox.world import World

#: Seconds before the second, third … try.
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)

#: Meetings to which one round delivers side by side.
WIDTH = 16

#: ``event=all`` covers these three; started and ended each need a webhook of their own (Webhooks guide).
_REGISTRATIONS = {"started": "started", "ended": "ended"}


@dataclass(frozen=True)
class _Target:
    url: str
    secret: bytes


def envelope(notification: Notification, world: World, *, target_url: str) -> bytes:
    """The body to be signed: equal for every try of the same notification."""
    hook = world.webhooks.get(notification.hook)
    whose = _of_hook(hook) if hook else _of_nobody(notification, world.identity, target_url=target_url)
    return msgspec.json.encode(
        {
            **whose,
            "resource": notification.resource,
            "event": notification.event,
            "orgId": world.organization(notification.org),
            "createdBy": world.identity.public_id("PEOPLE"),
            "appId": world.identity.public_id("APPLICATION"),
            "status": "active",
            "data": notification.data,
        }
    )


def _of_hook(hook: WebhookRecord) -> dict[str, Any]:
    """What a registration adds to the envelope."""
    shown = webhooks.shown(hook)
    return {name: shown[name] for name in ("id", "name", "targetUrl", "filter", "ownedBy", "created") if name in shown}


def _of_nobody(notification: Notification, identity: Identity, *, target_url: str) -> dict[str, Any]:
    """As if whoever runs the sandbox had registered what is needed for the address that they named."""
    registration = _REGISTRATIONS.get(notification.event, "all")
    return {
        "id": identity.public_id(f"WEBHOOK/{registration}", region="urn:TEAM:us-west-2_r"),
        "name": f"sandbox {notification.resource} {registration}",
        "targetUrl": target_url,
        "ownedBy": "creator",
        "created": rfc3339(identity.created),
    }


class Deliveries:
    """Delivers what a world has to tell: to every webhook that was registered, and to one address that was not.

    That address hears of everything; where it is registered after all, the registration counts. What is about one meeting
    goes out one after the other, what is about different meetings side by side. What was not answered 2xx when the
    process ended is tried again after the next start.
    """

    def __init__(
        self,
        target_url: str | None,
        secret: bytes,
        *,
        delays: Sequence[float] = DELAYS,
        timeout: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``target_url`` and ``secret`` of that address, if there is one. ``timeout`` and ``delays`` in seconds."""
        self._target_url = target_url
        self._secret = secret
        self._delays = delays
        self._timeout = timeout
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._due_at: dict[int, float] = {}
        self._log = structlog.get_logger()

    async def run(self, world: World) -> None:
        """Deliver for ever; ends only by being cancelled. Once for each object."""
        world.outgoing.listen(self._wake.set)
        # trust_env off: the target is named by whoever runs the sandbox, never reached through a proxy of the environment.
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False, follow_redirects=False) as client:
            while True:
                self._wake.clear()
                waiting = self._heads(world)
                due = [n for n in waiting if self._due_in(n) <= 0][:WIDTH]
                if due:
                    async with asyncio.TaskGroup() as group:
                        for notification in due:
                            group.create_task(self._deliver(client, world, notification))
                else:
                    await self._rest(min(map(self._due_in, waiting), default=None))

    def _heads(self, world: World) -> Sequence[Notification]:
        """What may go out next; one that is to be late waits from when it was first seen."""
        heads = world.outgoing.heads(default=self._target_url is not None)
        for notification in heads:
            if notification.late and notification.attempts == 0:
                self._due_at.setdefault(notification.n, self._monotonic() + notification.late)
        return heads

    async def _rest(self, seconds: float | None) -> None:
        """Until something new waits, or ``seconds`` are over."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _due_in(self, notification: Notification) -> float:
        return self._due_at.get(notification.n, 0.0) - self._monotonic()

    async def _deliver(self, client: httpx.AsyncClient, world: World, notification: Notification) -> None:
        target = self._target(world, notification)
        self._due_at.pop(notification.n, None)
        if target is None:
            world.outgoing.skip(notification)
            world.commit()
            return
        status = await self._post(client, world, notification, target)
        outcome = self._settled(world, notification, status)
        world.commit()
        fields = {"event_name": notification.event, "meeting_id": notification.meeting, "status": status}
        self._log.info(outcome, **fields, attempt=notification.attempts + 1)

    def _target(self, world: World, notification: Notification) -> _Target | None:
        """Where it goes; None where nobody is to be told any more."""
        if notification.hook:
            hook = world.webhooks.get(notification.hook)
            return _Target(hook.target_url, hook.secret.encode()) if hook else None
        about = (notification.resource, notification.event, notification.data)
        registered = world.webhooks.hearing(*about, org=notification.org)
        if self._target_url is None or self._target_url in [hook.target_url for hook in registered]:
            return None
        return _Target(self._target_url, self._secret)

    def _settled(self, world: World, notification: Notification, status: int | None) -> str:
        """What became of one try."""
        if status is not None and 200 <= status < 300:
            world.outgoing.delivered(notification)
            return "sandbox.webhook_delivered"
        world.outgoing.attempted(notification)
        disabled = bool(notification.hook) and world.webhooks.failed(notification.hook)
        if disabled or notification.attempts >= len(self._delays):
            world.outgoing.give_up(notification)
            return "sandbox.webhook_lost"
        self._due_at[notification.n] = self._monotonic() + self._delays[notification.attempts]
        return "sandbox.webhook_postponed"

    async def _post(
        self, client: httpx.AsyncClient, world: World, notification: Notification, target: _Target
    ) -> int | None:
        """The status of the answer; None where none came. The answer's body is of no interest and is not read."""
        body = envelope(notification, world, target_url=target.url)
        headers = {
            "content-type": "application/json;charset=UTF-8",
            "user-agent": "SparkWebhook/1.0",
            "trackingid": f"SANDBOX_{world.identity.seed[:8]}_W{notification.n}_{notification.attempts}",
            **(sign(body, target.secret) if target.secret else {}),
        }
        try:
            async with client.stream("POST", target.url, content=body, headers=headers) as response:
                return response.status_code
        except (httpx.TransportError, httpx.InvalidURL):
            return None
