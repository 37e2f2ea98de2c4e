"""Taking commands in: any member of the group reads the topic ``commands``, checks each, and hands it to the owner of its
organisation on ``work``.

One that may not be carried out goes there too, with the reason: its owner remembers the ids, so that each gets exactly one
outcome. What cannot even be answered, because it has no id, goes to the dead letters. An offset is finished when that is acked.
What cannot be handed over yet holds up the commands of its own organisation, which come in their order, and no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from service.controllers.in_order import InOrder
from service.controllers.letters import Letters
from service.controllers.ports import Clock, Publisher, Pulse, WorkConsumer, unwatched
from service.controllers.until_stop import run_until
from service.core import commands, work
from service.core.commands import Allowed, Catalogue
from service.core.errors import CannotStore, RecordRefused, whereabouts
from service.core.message import Received
from service.core.organizations import Organizations
from service.core.work import Command

#: Where the bus does not take what was checked, it is tried again after so many seconds.
AGAIN = 1.0
#: How long (s) what is being handed over may take when partitions go away; the consumer waits 5 s in all.
DRAIN = 4.0
#: What was polled has so long (s) to be handed over before the next poll.
MOMENT = 0.2
#: Commands handed over at a time: those of so many bytes of records, or one.
TOGETHER_BYTES = 512 * 1024
#: The loop whose beats ``pulse`` gets.
LOOP = "commands"

_Checked = tuple[Received, Command]


class Intake:
    """The consumer of ``commands``."""

    def __init__(
        self,
        *,
        consumer: WorkConsumer,
        publisher: Publisher,
        catalogue: Catalogue,
        allow: Allowed,
        organizations: Organizations,
        now: Clock,
        letters: Letters,
        pulse: Pulse = unwatched,
    ) -> None:
        self._consumer, self._publisher, self._catalogue, self._allow = consumer, publisher, catalogue, allow
        self._organizations, self._now, self._letters, self._pulse = organizations, now, letters, pulse
        self._checked: InOrder[str, _Checked] = InOrder(self._hand_over)  # by organisation
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Take in until ``stop`` is set; then commit and leave. A task that dies takes the others, and us, with it."""
        await self._consumer.start(self)
        try:
            await run_until(stop, self._take_in(), self._checked.run(), self._letters.run(), close=self._consumer.stop)
        finally:
            await self._consumer.stop()

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing has to be known before the first record."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """What is being handed over is, where that is quick; the rest is checked again by whoever has the partitions then."""
        self._checked.discard(lambda checked: checked[0].partition in partitions)
        try:
            async with asyncio.timeout(DRAIN):
                await self._checked.idle()
        except TimeoutError:
            self._log.warning("intake.drain_cut_short", partitions=sorted(partitions))
        self._letters.forget(partitions)

    async def _take_in(self) -> None:
        while True:
            self._pulse(LOOP)
            for record in await self._consumer.poll():
                self._take(record)
            with suppress(TimeoutError):
                async with asyncio.timeout(MOMENT):
                    await self._checked.idle()  # so that their offsets are committed now, not after the next poll
            await self._consumer.commit()

    def _take(self, record: Received) -> None:
        try:
            command = self._check(record)
        except Exception as bug:  # noqa: BLE001 - one record that nobody foresaw must not end the process, again and again
            self._log.error("command.failed_unexpectedly", error=type(bug).__name__, at=whereabouts(bug))
            self._letters.post(record, "unexpected", finish=self._consumer.finish)
            return
        if command is None:
            self._letters.post(record, "unreadableCommand", finish=self._consumer.finish)
        else:
            self._checked.add(command.organization, (record, command))

    def _check(self, record: Received) -> Command | None:
        event = commands.read(record.value)
        if event is None:
            return None
        command = commands.take_in(
            event,
            key=record.key,
            catalogue=self._catalogue,
            allowed=self._allow,
            organizations=self._organizations,
            now=self._now(),
        )
        self._log.info("command.taken_in", operation=commands.label(command), refusal=command.refusal or None)
        return command

    async def _hand_over(self, checked: Sequence[_Checked]) -> int:
        together = _together(checked)
        done = await self._handed_over(together)
        if done < len(together):
            await asyncio.sleep(AGAIN)
        return done

    async def _handed_over(self, checked: Sequence[_Checked]) -> int:
        """How many of them, from the first on, are durable on ``work``; all together, or one after another where one of them
        is too large. None overtakes another: commands of one meeting are in order.
        """
        try:
            await self._publisher.publish([work.to_message(command) for _, command in checked])
        except CannotStore:
            return 0
        except RecordRefused:
            return await self._one_by_one(checked)
        for record, _ in checked:
            self._consumer.finish(record)
        return len(checked)

    async def _one_by_one(self, checked: Sequence[_Checked]) -> int:
        if len(checked) == 1:
            return await self._without_contents(*checked[0])
        for done, each in enumerate(checked):
            if not await self._handed_over([each]):
                return done
        return len(checked)

    async def _without_contents(self, record: Received, command: Command) -> int:
        """1 once its refusal is durable, else 0; where not even that fits into a record, its letter has to do."""
        bare = commands.too_large(command)
        if bare != command:
            return await self._handed_over([(record, bare)])
        self._letters.post(record, "commandTooLarge", finish=self._consumer.finish)
        return 1


def _together(checked: Sequence[_Checked]) -> Sequence[_Checked]:
    """The first of them: no bus takes a hundred of the largest at once, however often it is asked."""
    size = 0
    for number, (record, _) in enumerate(checked):
        size += len(record.value or b"")
        if number and size > TOGETHER_BYTES:
            return checked[:number]
    return checked
