"""New versions of the policy on trial: what they change is counted in the ledger, beside the intents themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import structlog

from service.controllers.ledger import Ledger, Place
from service.controllers.ports import Clock
from service.core import trial
from service.core.errors import WritesStopped
from service.core.ledger import Entry, KnownMeeting, PolicyRecord
from service.core.policy import HOLD_EVERYTHING, Policy
from service.core.registrants import Action

#: The reason for which nothing is written.
HELD = "policyHeld"


class Trials:
    """The policy's record of each organisation. Looks at several meetings of one organisation may run side by side."""

    def __init__(self, *, ledger: Ledger, now: Clock) -> None:
        self._ledger, self._now = ledger, now
        self._counting: dict[str, asyncio.Lock] = {}
        self._log = structlog.get_logger()

    async def open(self, place: Place, policy: Policy) -> bool:
        """Begin to decide by ``policy``; whether it may: one that is held decides nobody. Raises NotOwner or CannotStore."""
        if policy.version == HOLD_EVERYTHING.version:  # no policy at all
            return True
        async with self._lock(place):
            before = self._record(place)
            record = trial.opened(before, policy.version, shadow=policy.shadow, now=self._now())
            if record is not None and record != before:
                await self._ledger.record(place, [_entry(place, record)])
        return not trial.is_held(record, policy.version)

    async def admits(self, place: Place, version: str, actions: Sequence[Action], *, registrants: int) -> bool:
        """Whether ``version`` may do all this to a meeting with so many registrants. Raises NotOwner or CannotStore."""
        changes = sum(action.changes for action in actions)
        async with self._lock(place):
            record = self._record(place)
            if record is None or not trial.on_trial(record, version):
                return True
            judged = trial.judged(record, changes=changes, registrants=registrants, now=self._now())
            if judged.held and not record.held:
                await self._hold(place, judged, changes)
            return not judged.held

    async def record(self, place: Place, version: str, actions: Sequence[Action], intents: Sequence[Entry]) -> None:
        """Make ``intents`` durable together with the count of what they change.

        Raises WritesStopped where that is too much, or the version is held meanwhile; NotOwner or CannotStore.
        """
        changes = sum(action.changes for action in actions)
        async with self._lock(place):
            record = self._record(place)
            if trial.is_held(record, version):
                raise WritesStopped(HELD)
            if record is None or not changes or not trial.on_trial(record, version):
                await self._ledger.record(place, intents)
                return
            counted = trial.counted(record, changes, self._now())
            if not counted.held:
                await self._ledger.record(place, [*intents, _entry(place, counted)])
                return
            await self._hold(place, counted, changes)
        raise WritesStopped(HELD)

    async def close(self, place: Place) -> None:
        """Accept the version on trial where its time is over. Raises NotOwner or CannotStore."""
        async with self._lock(place):
            record = self._record(place)
            closed = trial.closed(record, self._meetings(place), self._now()) if record else record
            if closed is not None and closed != record:
                await self._ledger.record(place, [_entry(place, closed)])
                self._log.info("policy.accepted", version=closed.accepted, organization=place.organization)

    async def _hold(self, place: Place, record: PolicyRecord, changes: int) -> None:
        await self._ledger.record(place, [_entry(place, record)])
        self._log.error(
            "policy.held",
            organization=place.organization,
            version=record.trial,
            reason=record.held,
            changes=changes,
            changed=record.changed,
            confirm=f"webex-events policy confirm {record.trial}",
        )

    def _record(self, place: Place) -> PolicyRecord | None:
        return self._ledger.partition(place).policies.get(place.organization)

    def _meetings(self, place: Place) -> Iterator[KnownMeeting]:
        for _, _, memory in self._ledger.known(place.partition):
            if memory.meeting is not None and memory.meeting.organization == place.organization:
                yield memory.meeting

    def _lock(self, place: Place) -> asyncio.Lock:
        return self._counting.setdefault(place.organization, asyncio.Lock())


def _entry(place: Place, record: PolicyRecord) -> Entry:
    return Entry(kind="policy", subject=place.organization, value=record)
