"""Whether anything may be written to Webex for an organisation now.

Three can forbid it: the lease (somebody else owns the organisation), an operator (``paused: true`` in the policy file, or
``webex-events pause``), and a ledger that was found empty where it must not be. Every controller asks before it prepares a
write, and once more at the moment of the call.
"""

from __future__ import annotations

from service.controllers.ledger import Ledger, Place
from service.controllers.ownership import Ownership
from service.controllers.ports import LivePolicy
from service.core.errors import WritesStopped


class Permission:
    """To write."""

    def __init__(self, *, ledger: Ledger, ownership: Ownership, policy: LivePolicy) -> None:
        self._ledger, self._ownership, self._policy = ledger, ownership, policy

    async def ask(self, place: Place) -> None:
        """Return when a write may be prepared. Raises NotOwner, or WritesStopped."""
        self._check_stops(place)
        await self._ownership.writable(place)

    def check(self, place: Place) -> None:
        """A write may start at this moment. Raises NotOwner, or WritesStopped."""
        self._check_stops(place)
        self._ownership.check(place)

    def stopped(self, place: Place) -> str:
        """Why nothing is written for it, "" where something may be. Raises NotOwner."""
        memory = self._ledger.partition(place)
        if self._policy().paused or place.organization in memory.paused:
            return "paused"
        return "observeOnly" if memory.observing is not None else ""

    def _check_stops(self, place: Place) -> None:
        if reason := self.stopped(place):
            raise WritesStopped(reason)
