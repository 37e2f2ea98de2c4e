"""One sponsor of guest-to-guest meetings for each organisation that this process owns and that asked for any.

The licence is an organisation's, and so is the right to write: a sponsor lives as long as the assignment of its organisation,
and every call of it that makes something asks for that right at the moment of the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog

from service.controllers.guests import Clock, Patience, Result, Sponsor, Webex
from service.controllers.ledger import Place
from service.controllers.ports import Tenant
from service.core.errors import EventProcessorError, NotOwner, WebexError, WebexUnavailable, WritesStopped

#: How often the set of meetings in progress is compared with what Webex shows.
RECONCILE = timedelta(minutes=5)

_EVENTS = {"webex.meeting.started.v1": "started", "webex.meeting.ended.v1": "ended"}

Check = Callable[[], None]


class _Guarded:
    """The calls of one organisation; what makes something is only called while that may be written to."""

    def __init__(self, webex: Webex, check: Check) -> None:
        self._webex, self._check = webex, check

    async def create_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self._allowed()
        return await self._webex.create_meeting(body)

    async def list_meetings(self, query: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return await self._webex.list_meetings(query)

    async def show_meeting(self, meeting_id: str) -> Mapping[str, Any]:
        return await self._webex.show_meeting(meeting_id)

    async def join_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._webex.join_meeting(body)

    async def create_guest(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self._allowed()
        return await self._webex.create_guest(body)

    def _allowed(self) -> None:
        """The sponsor knows Webex's errors only: this one says that nothing was sent, and that it may be tried again."""
        try:
            self._check()
        except (NotOwner, WritesStopped) as error:
            raise WebexUnavailable(f"not sent: {error}") from None


class Sponsors:
    """Makes, keeps and forgets them."""

    def __init__(
        self,
        *,
        tenants: Mapping[str, Tenant],
        licence: int,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._tenants, self._licence = tenants, licence
        self._clock, self._patience = clock or Clock(), patience or Patience()
        self._sponsors: dict[Place, Sponsor] = {}
        self._log = structlog.get_logger()

    async def sponsor(self, place: Place, body: object, *, key: str, check: Check) -> Result:
        """As :meth:`Sponsor.sponsor`. ``check`` raises NotOwner or WritesStopped where nothing may be made now."""
        return await self._of(place, check).sponsor(body, key=key)

    async def found(self, place: Place, body: object, *, key: str, check: Check) -> bool:
        """As :meth:`Sponsor.found`."""
        return await self._of(place, check).found(body, key=key)

    def heard(self, place: Place, reason: str, instance: str, host_email: str) -> None:
        """A hint about a meeting of this organisation; only that an instance started or ended counts."""
        event, sponsor = _EVENTS.get(reason), self._sponsors.get(place)
        if sponsor is not None and event and instance:
            sponsor.heard(event, {"id": instance, "hostEmail": host_email})

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._sponsors = {place: each for place, each in self._sponsors.items() if place.partition != partition}

    async def run(self) -> None:
        """Reconcile every organisation that sponsored something here, for ever. Before it admits, a sponsor does so itself."""
        while True:
            await asyncio.sleep(RECONCILE.total_seconds())
            await self.reconcile()

    async def reconcile(self) -> None:
        """Once, all of them."""
        for place, sponsor in list(self._sponsors.items()):
            try:
                await sponsor.reconcile()
            except WebexError as error:
                self._complain(place, error)

    def _of(self, place: Place, check: Check) -> Sponsor:
        if place not in self._sponsors:
            webex = _Guarded(self._tenants[place.organization].sponsoring, check)
            sponsor = Sponsor(webex, licence=self._licence, clock=self._clock, patience=self._patience)
            self._sponsors[place] = sponsor
        return self._sponsors[place]

    def _complain(self, place: Place, error: EventProcessorError) -> None:
        self._log.warning(
            "guests.not_reconciled",
            organization=place.organization,
            error=type(error).__name__,
            status=getattr(error, "status", None),
            tracking_id=getattr(error, "tracking_id", None),
        )
