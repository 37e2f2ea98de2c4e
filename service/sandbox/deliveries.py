"""Signed webhooks on their way: the envelope, both signature headers, and a few tries with growing delays.

Shape of the envelope: Meeting Resource Guide, ``meetings.ended``; there is no event id, no attempt number and no time of
delivery in it. Webex does not publish its retries; these are ours. What cannot be delivered is lost, as with Webex.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx
import msgspec
import structlog

from service.core.event import rfc3339
from service.core.signature import sign
from service.sandbox.records import Identity, Notification
from service.sandbox.world import World

#: Seconds before the second, third … try.
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)

#: Meetings to which one round delivers side by side.
WIDTH = 16

#: ``event=all`` covers these three; started and ended each need a webhook of their own (Webhooks guide).
_REGISTRATIONS = {"started": "started", "ended": "ended"}


def envelope(notification: Notification, identity: Identity, *, target_url: str) -> bytes:
    """The body to be signed: equal for every try of the same notification."""
    registration = _REGISTRATIONS.get(notification.event, "all")
    return msgspec.json.encode(
        {
            "id": identity.public_id(f"WEBHOOK/{registration}", region="urn:TEAM:us-west-2_r"),
            "name": f"sandbox meetings {registration}",
            "targetUrl": target_url,
            "resource": "meetings",
            "event": notification.event,
            "orgId": identity.public_id("ORGANIZATION"),
            "createdBy": identity.public_id("PEOPLE"),
            "appId": identity.public_id("APPLICATION"),
            "ownedBy": "creator",
            "status": "active",
            "created": rfc3339(identity.created),
            "data": notification.data,
        }
    )


class Deliveries:
    """Delivers what a world has to tell to one address, signed with one secret.

    A meeting's webhooks go out one after the other, those of different meetings side by side. What was not answered 2xx
    when the process ended is tried again after the next start.
    """

    def __init__(
        self,
        target_url: str,
        secret: bytes,
        *,
        delays: Sequence[float] = DELAYS,
        timeout: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``timeout`` and ``delays`` in seconds."""
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
                waiting = world.outgoing.heads()
                due = [n for n in waiting if self._due_in(n) <= 0][:WIDTH]
                if due:
                    async with asyncio.TaskGroup() as group:
                        for notification in due:
                            group.create_task(self._deliver(client, world, notification))
                else:
                    await self._rest(min(map(self._due_in, waiting), default=None))

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
        status = await self._post(client, world, notification)
        self._due_at.pop(notification.n, None)
        fields = {"event_name": notification.event, "meeting_id": notification.meeting, "status": status}
        if status is not None and 200 <= status < 300:
            world.outgoing.delivered(notification)
            outcome = "sandbox.webhook_delivered"
        elif notification.attempts < len(self._delays):
            self._due_at[notification.n] = self._monotonic() + self._delays[notification.attempts]
            world.outgoing.attempted(notification)
            outcome = "sandbox.webhook_postponed"
        else:
            world.outgoing.attempted(notification)
            world.outgoing.give_up(notification)
            outcome = "sandbox.webhook_lost"
        world.commit()
        self._log.info(outcome, **fields, attempt=notification.attempts + 1)

    async def _post(self, client: httpx.AsyncClient, world: World, notification: Notification) -> int | None:
        """The status of the answer; None where none came. The answer's body is of no interest and is not read."""
        body = envelope(notification, world.identity, target_url=self._target_url)
        headers = {
            "content-type": "application/json;charset=UTF-8",
            "user-agent": "SparkWebhook/1.0",
            "trackingid": f"SANDBOX_{world.identity.seed[:8]}_W{notification.n}_{notification.attempts}",
            **sign(body, self._secret),
        }
        try:
            async with client.stream("POST", self._target_url, content=body, headers=headers) as response:
                return response.status_code
        except httpx.TransportError:
            return None
