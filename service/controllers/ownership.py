"""Who may write to Webex for a partition: leases in the ledger, so that a frozen process cannot act beside its successor.

The owner renews its record every 5 s and starts a write only while its last acked renewal is younger than 8 s. A new owner
reads at once and writes once the old record is 18 s old, released, absent, or its own. What a frozen owner can still send
is the one call that it had already started.

The group must count us in, too. A member that it does not hear any more, while the ledger still can be written, would go
on renewing: whoever has its partitions by then would wait for ever, and both would remember what the other does not. So a
lease is renewed only while the group answered a heartbeat less than 9 s ago: when it gives our partitions away, 18 s after
the last one, our last write has begun.

A process that stood still for longer than its lease cannot know what happened meanwhile. It writes nothing, not even a
renewal, until its consumer has had time to hear from the group that its partitions are gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import structlog

from service.controllers.ledger import Ledger, Place
from service.controllers.ports import Clock
from service.core.errors import CannotStore, NotOwner
from service.core.ledger import Entry, Owner

PULSE = 1.0
RENEWAL = 5.0
FRESH = 8.0
DOUBT = 4.0
#: The group's session (18 s), less the life of the last lease, less a second.
COUNTED_IN = 9.0
LEASE = timedelta(seconds=18)


class Ownership:
    """The leases of this process, one for each partition."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        instance: str,
        unconfirmed: Callable[[], float],
        now: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``unconfirmed``: seconds since the group last said that we are a member."""
        self._ledger, self._instance, self._now, self._monotonic = ledger, instance, now, monotonic
        self._unconfirmed, self._sleep = unconfirmed, sleep
        self._pulse = monotonic()
        self._doubt_until = float("-inf")
        self._reading = asyncio.Lock()
        self._failing = False  # said once, not every second
        self._places: dict[int, Place] = {}
        self._renewed: dict[int, float] = {}
        self._awaited: dict[int, Owner] = {}  # whose lease the first write has to wait for
        self._outlasted: dict[int, Owner] = {}  # ... and whose lease is over, and the ledger read since
        self._log = structlog.get_logger()

    def take(self, place: Place) -> None:
        """Begin to own a restored partition, as soon as it is: from here on it is renewed, and the first write waits for the
        lease of the owner before.
        """
        if self._holds(place):
            return
        partition, before = place.partition, self._ledger.partition(place).owner
        self.drop(partition)
        self._places[partition] = replace(place, organization="")  # the lease is the partition's
        if before is not None and not self._is_over(partition, before) and before.at + LEASE > self._now():
            self._awaited[partition] = before

    def _holds(self, place: Place) -> bool:
        """Whether the partition was taken during the same assignment, for whichever of its organisations."""
        taken = self._places.get(place.partition)
        return taken is not None and taken.assignment == place.assignment

    def _is_over(self, partition: int, before: Owner) -> bool:
        return before.released or before.instance == self._instance or before == self._outlasted.get(partition)

    async def writable(self, place: Place) -> None:
        """Return when a write may be prepared. Raises NotOwner where it may not, or where what was decided is out of date.

        Just before the write itself :meth:`check` it again: preparing takes time.
        """
        self.take(place)
        await self._outlast(place)
        if not self._fresh(place.partition):
            await self._renew(place)
        self.check(place)

    async def _outlast(self, place: Place) -> None:
        partition = place.partition
        doubt, before = self._doubt(), self._awaited.get(partition)
        if doubt <= 0 and before is None:
            return
        taken = self._places[partition]
        lease = (before.at + LEASE - self._now()).total_seconds() if before is not None else 0.0
        wait = max(doubt, lease, 0.0)
        self._log.info("ownership.waiting", partition=partition, seconds=round(wait, 1))
        await self._sleep(min(wait, LEASE.total_seconds()))
        async with self._reading:
            if self._places.get(partition) is taken:  # else another one that waited has read it already
                await self._ledger.read_again(place)
                self.drop(partition)
                if before is not None:
                    self._outlasted[partition] = before
        raise NotOwner("what was decided before the wait may be out of date: look again")

    def check(self, place: Place) -> None:
        """A write may start at this moment. Raises NotOwner where it may not."""
        if self._doubt() > 0 or not self._holds(place) or not self._fresh(place.partition):
            raise NotOwner("the lease is not fresh, or the partition was given up meanwhile")

    def _doubt(self) -> float:
        """Seconds for which nothing may be written, because this process stood still."""
        now = self._monotonic()
        if now - self._pulse > FRESH:
            self._doubt_until = now + DOUBT
        self._pulse = now
        return self._doubt_until - now

    def _fresh(self, partition: int) -> bool:
        return self._age(partition) < FRESH

    def _age(self, partition: int) -> float:
        return self._monotonic() - self._renewed.get(partition, float("-inf"))

    async def release(self, partition: int) -> None:
        """Give the partition up in order: its next owner need not wait, unless we were waiting for another one ourselves."""
        place, waiting = self._places.get(partition), partition in self._awaited
        self.drop(partition)
        if place is not None and not waiting:
            await self._write(place, released=True)

    def drop(self, partition: int) -> None:
        """Forget the partition: no write starts for it from here on."""
        self._places.pop(partition, None)
        self._renewed.pop(partition, None)
        self._awaited.pop(partition, None)

    async def keep(self, beat: Callable[[], None] = lambda: None) -> None:
        """Renew every lease, for ever."""
        while True:
            beat()
            await self._sleep(PULSE)
            if self._doubt() > 0:
                continue
            due = [place for place in self._places.values() if place.partition not in self._awaited]
            due = [place for place in due if self._age(place.partition) >= RENEWAL]
            await asyncio.gather(*map(self._renew, due))  # one that cannot be written keeps no other waiting

    async def _renew(self, place: Place) -> None:
        asked = self._monotonic()  # the lease counts from before the write, since the others see its record's time
        if self._unconfirmed() >= COUNTED_IN:
            self._complain(place, "the group does not answer")
            return
        if self._holds(place) and await self._write(self._places[place.partition], released=False):
            self._renewed[place.partition] = asked

    async def _write(self, place: Place, *, released: bool) -> bool:
        owner = Owner(instance=self._instance, at=self._now(), released=released)
        try:
            await self._ledger.record(place, [Entry(kind="owner", subject=str(place.partition), value=owner)])
        except (CannotStore, NotOwner) as error:
            self._complain(place, type(error).__name__)
            return False
        self._failing = False
        return True

    def _complain(self, place: Place, reason: str) -> None:
        if not self._failing:
            self._log.warning("ownership.not_renewed", partition=place.partition, reason=reason)
        self._failing = True
