"""Carrying out a command: ask whether it may be, remember that it was begun, call Webex once, look where the answer was lost,
and publish the one outcome together with what is remembered.

Nothing is repeated without looking first. What may be done only once (create, register, sponsor, guest tokens) is not
repeated at all after a call that may have had its effect: it is looked for, and then its outcome stays unknown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import structlog

from service.controllers.guests import Sponsored, Unfinished
from service.controllers.ledger import Ledger, Place
from service.controllers.permission import Permission
from service.controllers.ports import Clock, Observer, Tenant
from service.controllers.sponsors import Sponsors
from service.core import commands
from service.core.commands import Allowed, Answer, Ending
from service.core.errors import Reaction, RecordRefused, WebexError, WebexNotFound, WebexUnauthorized, WritesStopped
from service.core.guests import Refused
from service.core.ledger import Entry
from service.core.retry import backoff
from service.core.work import Command

#: Seconds: until the next try while nothing may be written; at least between two looks for what may have been done, and
#: between two tries.
STOPPED, LOOK, SOON = 5.0, 5.0, 0.5


@dataclass(frozen=True)
class Done:
    """It has its outcome."""


@dataclass(frozen=True)
class Again:
    """Not yet: execute it again after so many seconds."""

    delay: float


@dataclass
class _Turn:
    """Who works on an id, and how many do, or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


@dataclass
class _Try:
    """One try of a command. ``begun`` is when an earlier one was begun whose effect is not known, None for none."""

    place: Place
    command: Command
    attempts: int
    begun: datetime | None

    @property
    def once(self) -> bool:
        return self.command.operation in commands.ONCE

    @property
    def reads(self) -> bool:
        return self.command.operation in commands.READS


class CommandsController:
    """Executes the commands of the organisations that are ours."""

    def __init__(  # noqa: PLR0913 - the collaborators are named one by one, where they are plugged together
        self,
        *,
        tenants: Mapping[str, Tenant],
        ledger: Ledger,
        permission: Permission,
        sponsors: Sponsors,
        allowed: Allowed,
        observer: Observer,
        receiver: str,
        now: Clock,
        restricted: bool,
        doubt: Callable[[Place], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``doubt`` is told of every 401 and 403: the credential may be no good any more."""
        self._tenants, self._ledger, self._permission, self._sponsors = tenants, ledger, permission, sponsors
        self._allowed, self._observer, self._receiver, self._now = allowed, observer, receiver, now
        self._restricted, self._doubt, self._chance = restricted, doubt, chance
        self._turns: dict[str, _Turn] = {}
        self._tried: set[tuple[Place, str]] = set()
        self._unsaid: dict[tuple[Place, str], Ending] = {}
        self._log = structlog.get_logger()

    async def execute(self, place: Place, command: Command, attempts: int) -> Done | Again:
        """Carry it out, once. ``attempts`` is how often it was tried here before.

        Raises NotOwner, or CannotStore where the outcome could not be published: executed again, it is only published.
        """
        async with self._turn(command.id):
            return await self._execute(place, command, attempts)

    async def _execute(self, place: Place, command: Command, attempts: int) -> Done | Again:
        known = self._ledger.command(place, command.id)
        if known is not None and known.digest != command.digest:
            return await self._repeat_refused(place, command)
        if known is not None and known.finished is not None:
            return Done()
        attempt = _Try(place, command, attempts, known.at if known else None)
        ending = self._unsaid.get((place, command.id)) or await self._ending(attempt)
        return ending if isinstance(ending, Again) else await self._finish(attempt, ending)

    @asynccontextmanager
    async def _turn(self, id_: str) -> AsyncIterator[None]:
        """One at a time for the same id: a command that came twice must find what the first one remembered."""
        turn = self._turns.setdefault(id_, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[id_]

    # --- may it be, and was it ------------------------------------------------------------------------------------

    async def _ending(self, attempt: _Try) -> Ending | Again:
        command = attempt.command
        if command.refusal:
            return commands.refused(command.refusal, command.message)
        if attempt.begun is None and commands.late(command.expires, self._now()):
            return self._expired(attempt)
        try:
            return await self._carry_out(attempt)
        except WritesStopped:
            return Again(STOPPED)
        except WebexError as error:
            return self._after(attempt, error) if attempt.begun is None else self._later(attempt, error)
        except ValueError as error:  # what no schema can say; the sentences quote no value
            return commands.refused("malformed", str(error))

    def _expired(self, attempt: _Try) -> Ending:
        """One that Webex was asked for in vain has failed; otherwise it was never sent."""
        if (attempt.place, attempt.command.id) in self._tried:
            return Ending(kind=commands.FAILED, problem=_given_up())
        return commands.refused("expired", "its expirytime passed before it could be carried out")

    async def _carry_out(self, attempt: _Try) -> Ending | Again:
        if attempt.begun is not None:
            return await self._resume(attempt)
        out_of_bounds = await self._out_of_bounds(attempt)
        if out_of_bounds:
            return commands.refused(out_of_bounds, commands.OUT_OF_BOUNDS)
        return await self._begin(attempt)

    async def _out_of_bounds(self, attempt: _Try) -> str:
        """Whose meeting it is only Webex can tell; what the command says of it is not asked."""
        command = attempt.command
        meeting = commands.meeting_of(command.parameters, command.body)
        if reason := self._allowed.named(command.operation, command.parameters, command.body):
            return reason
        if not (self._allowed.narrowed and meeting):
            return ""
        host = command.parameters.get("hostEmail") or (command.body or {}).get("hostEmail")
        parameters = {"meetingId": meeting, **({"hostEmail": host} if host else {})}
        shown = await self._call(attempt, "meetings.get", parameters)
        return self._allowed.owned(shown.value.get("hostEmail"), shown.value.get("siteUrl"))

    # --- doing it -------------------------------------------------------------------------------------------------

    async def _begin(self, attempt: _Try) -> Ending | Again:
        """For the first time, or once more where it is certain that nothing was done."""
        command, place = attempt.command, attempt.place
        if attempt.reads:
            return commands.succeeded(await self._asked(attempt, command))
        await self._permission.ask(place)
        undo = commands.undone(command, self._ledger.series(place, command.series))
        await self._ledger.record(place, commands.begun(command, now=self._now()))
        try:
            self._permission.check(place)
            return await self._do(attempt, command)
        except WritesStopped:
            await self._ledger.record(place, [commands.forgotten(command), *undo])
            raise
        except WebexError as error:
            if error.maybe_done and command.operation != commands.SPONSOR:  # that one finds out by itself
                return await self._lost(attempt, error)
            return await self._not_done(attempt, error, undo)

    async def _do(self, attempt: _Try, command: Command) -> Ending | Again:
        if command.operation == commands.SPONSOR:
            return await self._sponsor(attempt)
        return self._succeeded(attempt, await self._asked(attempt, command))

    def _succeeded(self, attempt: _Try, answer: Answer) -> Ending:
        return commands.succeeded(answer, commands.accepted(attempt.command, answer, now=self._now()))

    async def _not_done(self, attempt: _Try, error: WebexError, undo: Sequence[Entry]) -> Ending | Again:
        ending = self._after(attempt, error)
        if isinstance(ending, Again):
            await self._ledger.record(attempt.place, [commands.forgotten(attempt.command), *undo])
            return ending
        return msgspec.structs.replace(ending, entries=tuple(undo))

    def _after(self, attempt: _Try, error: WebexError) -> Ending | Again:
        """The answer that an error is, or another try."""
        if isinstance(error, WebexUnauthorized):
            self._doubt(attempt.place)
        if error.status is None and error.reaction is Reaction.PERMANENT:  # our client would not send it
            return commands.refused("malformed", str(error))
        if not commands.passing(error) or self._exhausted(attempt):
            return commands.failed(error)
        return self._again(attempt, least=max(error.retry_after or 0.0, SOON))

    def _again(self, attempt: _Try, *, least: float) -> Again:
        return Again(max(backoff(attempt.attempts, base=1.0, cap=60.0, chance=self._chance()), least))

    def _exhausted(self, attempt: _Try) -> bool:
        accepted, now = commands.moment(attempt.command.at), self._now()
        return accepted is None or now - accepted >= commands.PATIENCE or commands.late(attempt.command.expires, now)

    async def _asked(self, attempt: _Try, command: Command) -> Answer:
        self._tried.add((attempt.place, command.id))
        return await self._call(attempt, command.operation, command.parameters, commands.body_for(command))

    async def _call(self, attempt: _Try, operation: str, parameters: Mapping[str, Any], body: Any = None) -> Answer:
        return await self._tenants[attempt.place.organization].commanding.call(operation, parameters, body)

    # --- looking for what it did ----------------------------------------------------------------------------------

    async def _lost(self, attempt: _Try, error: WebexError) -> Ending | Again:
        """The call may have had its effect: look now, and remember that it was begun."""
        known = self._ledger.command(attempt.place, attempt.command.id)
        attempt.begun = known.at if known else self._now()
        try:
            return await self._resume(attempt, lost=error)
        except WebexError as trouble:
            return self._later(attempt, trouble)

    async def _resume(self, attempt: _Try, *, lost: WebexError | None = None) -> Ending | Again:
        """Take up what was begun. ``lost``: the error of the call that was made just now, None where it was made earlier."""
        command = attempt.command
        if command.operation == commands.UNTRACEABLE:
            return commands.unknown(lost)
        if command.operation == commands.SPONSOR:
            return await self._resume_sponsoring(attempt, lost)
        seen = [await self._look(attempt, look) for look in commands.looks(command)]
        answer = commands.effect(command, seen)
        if answer is not None:
            return self._succeeded(attempt, answer)
        if attempt.once:
            return self._not_found(attempt, lost)
        if lost is not None:
            return self._later(attempt, lost)
        return await self._repeat(attempt, commands.remaining(command, seen))

    async def _look(self, attempt: _Try, look: commands.Look) -> Any:
        try:
            return (await self._call(attempt, look.operation, look.parameters, look.body)).value
        except WebexNotFound:
            return None

    def _not_found(self, attempt: _Try, lost: WebexError | None) -> Ending | Again:
        """It may be there and not be shown yet."""
        if attempt.begun is not None and self._now() - attempt.begun < commands.PATIENCE:
            return self._again(attempt, least=LOOK)
        return commands.unknown(lost)

    def _later(self, attempt: _Try, error: WebexError) -> Ending | Again:
        """It cannot be seen now whether it was done."""
        if not self._exhausted(attempt):
            return self._again(attempt, least=max(error.retry_after or 0.0, SOON))
        return commands.unknown(error)

    async def _repeat(self, attempt: _Try, command: Command) -> Ending | Again:
        """Once more, for those for whom a look shows that it was not done."""
        await self._permission.ask(attempt.place)
        self._permission.check(attempt.place)
        try:
            return await self._do(attempt, command)
        except WebexNotFound as error:
            seen = [await self._look(attempt, look) for look in commands.looks(command)]
            answer = commands.effect(command, seen)
            return commands.failed(error) if answer is None else self._succeeded(attempt, answer)
        except WebexError as error:
            passing = error.maybe_done or (commands.passing(error) and not self._exhausted(attempt))
            return self._later(attempt, error) if passing else commands.failed(error)

    # --- guests ---------------------------------------------------------------------------------------------------

    async def _sponsor(self, attempt: _Try) -> Ending | Again:
        """The command's id is the key: asked again, it finds the meeting that it made and gives new links."""
        place, command = attempt.place, attempt.command
        self._tried.add((place, command.id))
        result = await self._sponsors.sponsor(
            place, command.body, key=command.id, check=lambda: self._permission.check(place)
        )
        match result:
            case Sponsored():
                return commands.succeeded(Answer(status=200, value=msgspec.to_builtins(result)))
            case Unfinished():
                return self._unfinished(attempt, result)
            case Refused():
                return commands.refused(result.reason, result.message)
        return Again(LOOK)  # the meeting may have been made, and is looked for

    def _unfinished(self, attempt: _Try, result: Unfinished) -> Ending | Again:
        passing = {Reaction.RETRY.value, Reaction.RETRY_AFTER.value, Reaction.LOOK_AGAIN.value}
        if not self._exhausted(attempt) and all(trouble.reaction in passing for trouble in result.troubles):
            return self._again(attempt, least=LOOK)
        trouble = result.troubles[0] if result.troubles else None
        status = trouble.status if trouble else None
        problem = commands.Problem(
            reason="unfinished",
            message="The meeting was made, but not everybody has what they need",
            tracking_id=trouble.tracking_id if trouble else None,
        )
        response = msgspec.to_builtins(result)
        return Ending(kind=commands.FAILED, status=status, response=response, problem=problem)

    async def _resume_sponsoring(self, attempt: _Try, lost: WebexError | None) -> Ending | Again:
        place, command = attempt.place, attempt.command
        check = lambda: self._permission.check(place)  # noqa: E731 - the same right, asked for at every call
        if not await self._sponsors.found(place, command.body, key=command.id, check=check):
            return self._not_found(attempt, lost)
        await self._permission.ask(place)
        return await self._sponsor(attempt)

    # --- the outcome ----------------------------------------------------------------------------------------------

    async def _finish(self, attempt: _Try, ending: Ending) -> Done:
        place, command = attempt.place, attempt.command
        self._unsaid[place, command.id] = ending  # what cannot be published now is not done again for that
        ended = commands.ended(command, begun_at=attempt.begun, now=self._now())
        await self._publish(place, command, ending, [*ending.entries, ended])
        self._forget(place, command)
        return Done()

    async def _repeat_refused(self, place: Place, command: Command) -> Done:
        """What is remembered of the id belongs to the other command."""
        ending = commands.refused("idReused", "another command had this id within the last seven days")
        await self._publish(place, command, ending, [])
        return Done()

    async def _publish(self, place: Place, command: Command, ending: Ending, entries: Sequence[Entry]) -> None:
        now = self._now()
        if self._restricted and ending.response is not None:
            await self._publish_whole(place, command, ending)
        try:
            said = commands.outcome(command, ending, now=now, receiver=self._receiver)
            await self._ledger.record(place, entries, [said])
        except RecordRefused:
            said = commands.outcome(command, ending, now=now, receiver=self._receiver, whole=False)
            await self._ledger.record(place, entries, [said])
        self._observer.command_finished(commands.label(command), ending.kind)
        self._log.info(
            "command.finished",
            id=said.id,
            operation=commands.label(command),
            outcome=ending.kind,
            status=ending.status,
            reason=ending.problem.reason if ending.problem else None,
            series=command.series,
        )

    async def _publish_whole(self, place: Place, command: Command, ending: Ending) -> None:
        whole = commands.answered(command, ending, now=self._now(), receiver=self._receiver)
        try:
            await self._ledger.record(place, [], [whole], topic="restricted")
        except RecordRefused:
            self._log.warning("command.answer_too_large", id=whole.id, operation=command.operation)

    def _forget(self, place: Place, command: Command) -> None:
        """What only this process needed to know, of this command and of assignments that are over."""
        self._unsaid = {key: each for key, each in self._unsaid.items() if _lives(key, place, command)}
        self._tried = {key for key in self._tried if _lives(key, place, command)}


def _lives(key: tuple[Place, str], place: Place, command: Command) -> bool:
    return key != (place, command.id) and (key[0].partition != place.partition or key[0].assignment == place.assignment)


def _given_up() -> commands.Problem:
    return commands.Problem(reason="temporarilyUnavailable", message="Webex did not take it before its expirytime")
