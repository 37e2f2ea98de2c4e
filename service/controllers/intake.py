"""Taking commands in: any member of the group reads the topic ``commands``, checks each, and hands it to the owner of its
organisation on ``work``.

One that may not be carried out goes there too, with the reason: its owner remembers the ids, so that each gets exactly one
outcome. What cannot even be answered, because it has no id, goes to the dead letters. An offset is finished when that is acked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from service.controllers.letters import Letters
from service.controllers.ports import Clock, Observer, Publisher, WorkConsumer
from service.core import commands, work
from service.core.commands import Allowed, Catalogue
from service.core.errors import CannotStore, RecordRefused
from service.core.message import Received
from service.core.organizations import Organizations
from service.core.work import Command

#: Where the bus does not take what was checked, it is tried again after so many seconds.
AGAIN = 1.0

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
        receiver: str,
        observer: Observer,
    ) -> None:
        self._consumer, self._publisher, self._catalogue, self._allow = consumer, publisher, catalogue, allow
        self._organizations, self._now = organizations, now
        self._letters = Letters(publisher=publisher, observer=observer, receiver=receiver, now=now)
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Take in until ``stop`` is set; then commit and leave."""
        await self._consumer.start(self)
        try:
            while not stop.is_set():
                await self._take(await self._consumer.poll(), stop)
                await self._consumer.commit()
        finally:
            await self._consumer.stop()

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing has to be known before the first record."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """What is not finished is checked again by whoever has the partition then."""

    async def _take(self, records: Sequence[Received], stop: asyncio.Event) -> None:
        checked: list[_Checked] = []
        for record in records:
            command = self._check(record)
            if command is None:
                await self._letters.bury(record, "unreadableCommand")
                self._consumer.finish(record)
            else:
                checked.append((record, command))
        while checked:
            checked = checked[await self._handed_over(checked) :]
            if checked and stop.is_set():
                return  # unfinished: they are taken in again
            if checked:
                await asyncio.sleep(AGAIN)

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
        """1 once its refusal is durable, else 0; where not even that fits into a record, its letter is."""
        bare = commands.too_large(command)
        if bare != command:
            return await self._handed_over([(record, bare)])
        await self._letters.bury(record, "commandTooLarge")
        self._consumer.finish(record)
        return 1
