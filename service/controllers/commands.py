"""Carrying out a command: ask whether it may be, remember that it was begun, call Webex once, look where the answer was lost,
and publish the one outcome together with what is remembered.

Nothing is repeated without looking first. What may be done only once (create, register, sponsor, guest tokens) is not
repeated at all after a call that may have had its effect: it is looked for, and then its outcome stays unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import structlog

from service.controllers.guests import Sponsored, Unfinished
from service.controllers.ledger import Ledger, Place
from service.controllers.permission import Permission
from service.controllers.ports import Clock, Observer, Tenant
from service.controllers.sponsors import Sponsors
from service.controllers.turns import Turns
from service.core import commands
from service.core.commands import Allowed, Answer, Ending
from service.core.errors import Reaction, RecordRefused, WebexError, WebexNotFound, WebexUnauthorized, WritesStopped
from service.core.event import CloudEvent
from service.core.guests import Refused
from service.core.ledger import Entry
from service.core.retry import backoff
from service.core.work import Command

#: Seconds: until the next try while the organisation may not be called, or not be written to; at least between two looks for
#: what may have been done, and between two tries.
UNUSABLE, STOPPED, LOOK, SOON = 60.0, 5.0, 5.0, 0.5

_STOPS = {
    "paused": "an operator stopped every write for longer than commands wait",
    "observeOnly": "the ledger was lost, and nothing was written for longer than commands wait",
}


@dataclass(frozen=True)
class Done:
    """It has its outcome."""


@dataclass(frozen=True)
class Again:
    """Not yet: execute it again after so many seconds."""

    delay: float


@dataclass
class _Memo:
    """What only this process knows of a command, until it has its outcome: ``since`` when Webex is called for it, whether it
    was ``sent`` itself, and the ending that could not be published yet.
    """

    digest: str
    since: datetime | None = None
    sent: bool = False
    unsaid: Ending | None = None


@dataclass
class _Try:
    """One try of a command. ``begun`` is when an earlier one was begun whose effect is not known, None for none."""

    place: Place
    command: Command
    attempts: int
    begun: datetime | None
    memo: _Memo

    @property
    def since(self) -> datetime | None:
        """When it was tried first, as far as that is known."""
        return min(filter(None, (self.begun, self.memo.since)), default=None)

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
        usable: Callable[[Place], bool] = lambda _: True,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``doubt`` is told of every 401 and 403: the credential may be no good any more. ``usable`` says whether Webex may be
        called for an organisation now.
        """
        self._tenants, self._ledger, self._permission, self._sponsors = tenants, ledger, permission, sponsors
        self._allowed, self._observer, self._receiver, self._now = allowed, observer, receiver, now
        self._restricted, self._doubt, self._usable, self._chance = restricted, doubt, usable, chance
        self._turns = Turns()
        self._memos: dict[Place, dict[str, _Memo]] = {}
        self._log = structlog.get_logger()

    async def execute(self, place: Place, command: Command, attempts: int) -> Done | Again:
        """Carry it out, once. ``attempts`` is how often it was tried here before.

        Raises NotOwner, or CannotStore where the outcome could not be published: executed again, it is only published.
        """
        async with self._turns.turn(command.id):
            return await self._execute(place, command, attempts)

    async def _execute(self, place: Place, command: Command, attempts: int) -> Done | Again:
        known = self._ledger.command(place, command.id)
        memo = self._memos.get(place, {}).get(command.id)
        first = known or memo
        if first is not None and first.digest != command.digest:
            return await self._repeat_refused(place, command)
        if known is not None and known.finished is not None:
            return Done()
        if memo is None:
            memo = self._memos.setdefault(place, {})[command.id] = _Memo(command.digest)
        attempt = _Try(place, command, attempts, known.at if known else None, memo)
        ending = memo.unsaid or await self._ending(attempt)
        return ending if isinstance(ending, Again) else await self._finish(attempt, ending)

    # --- may it be, and was it ------------------------------------------------------------------------------------

    async def _ending(self, attempt: _Try) -> Ending | Again:
        command = attempt.command
        if command.refusal:
            return commands.refused(command.refusal, command.message)
        if attempt.begun is None and (barred := self._barred(command)) is not None:
            return barred
        if attempt.place.organization not in self._tenants or not self._usable(attempt.place):
            return self._unusable(attempt)
        if attempt.begun is None and commands.late(command.expires, self._now()):
            return self._expired(attempt)
        try:
            return await self._carry_out(attempt)
        except WritesStopped as stop:
            return self._stopped(attempt, stop)
        except WebexError as error:
            return self._after(attempt, error) if attempt.begun is None else self._later(attempt, error)
        except ValueError as error:  # what no schema can say; the sentences quote no value
            return commands.refused("malformed", str(error))

    def _barred(self, command: Command) -> Ending | None:
        """The refusal of what no command may ask for: the settings may be others since it was taken in, or somebody else wrote
        it on ``work``.
        """
        reason, message = commands.not_to_be_asked(command.operation, commands.OPERATIONS, self._allowed)
        return commands.refused(reason, message) if reason else None

    def _unusable(self, attempt: _Try) -> Ending | Again:
        left = commands.patience_left(attempt.command, self._now())
        if left > 0:
            return Again(min(UNUSABLE, max(left, SOON)))
        if attempt.begun is not None:
            return commands.unknown(None)
        return self._not_sent(attempt, "organizationNotUsable", "no token of the organisation is accepted by Webex")

    def _stopped(self, attempt: _Try, stop: WritesStopped) -> Ending | Again:
        left = commands.patience_left(attempt.command, self._now())
        if attempt.begun is not None:
            return Again(STOPPED)  # it ends where it would be repeated
        if left > 0:
            return Again(min(STOPPED, max(left, SOON)))
        return self._not_sent(attempt, stop.reason, _STOPS.get(stop.reason, str(stop)))

    def _expired(self, attempt: _Try) -> Ending:
        return self._not_sent(attempt, "expired", "its expirytime passed before it could be carried out")

    def _not_sent(self, attempt: _Try, reason: str, message: str) -> Ending:
        """One that Webex was asked for in vain has failed; otherwise it was never sent."""
        if attempt.memo.sent:
            return Ending(kind=commands.FAILED, problem=_given_up())
        return commands.refused(reason, message)

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
        seen = await self._is_there(attempt)
        if commands.late(command.expires, self._now()):
            return self._expired(attempt)
        undo = commands.undone(command, self._ledger.series(place, command.series))
        await self._ledger.record(place, commands.begun(command, now=self._now(), seen=seen))
        try:
            self._permission.check(place)
            return await self._do(attempt, command)
        except WritesStopped:
            await self._ledger.record(place, [*commands.forgotten(command), *undo])
            raise
        except WebexError as error:
            if error.maybe_done and command.operation != commands.SPONSOR:  # that one finds out by itself
                return await self._lost(attempt, error)
            return await self._not_done(attempt, error, undo)

    async def _is_there(self, attempt: _Try) -> bool:
        """Whether what the command takes away can be seen, so that its absence later says something."""
        command = attempt.command
        if command.operation not in commands.VANISHING:
            return False
        if commands.remembered_there(command, self._ledger.series(attempt.place, command.series)):
            return True
        try:
            seen = [await self._look(attempt, look) for look in commands.looks(command)]
        except WebexError:
            return False  # Webex may take the command all the same
        return commands.was_there(command, seen)

    async def _do(self, attempt: _Try, command: Command) -> Ending | Again:
        if command.operation == commands.SPONSOR:
            return await self._sponsor(attempt)
        return self._succeeded(attempt, await self._asked(attempt, command))

    def _succeeded(self, attempt: _Try, answer: Answer) -> Ending:
        return commands.succeeded(answer, commands.accepted(attempt.command, answer, now=self._now()))

    async def _not_done(self, attempt: _Try, error: WebexError, undo: Sequence[Entry]) -> Ending | Again:
        ending = self._after(attempt, error)
        if isinstance(ending, Again):
            await self._ledger.record(attempt.place, [*commands.forgotten(attempt.command), *undo])
            return ending
        return msgspec.structs.replace(ending, entries=tuple(undo))

    def _after(self, attempt: _Try, error: WebexError) -> Ending | Again:
        """The answer that an error is, or another try."""
        if error.status is None and error.reaction is Reaction.PERMANENT:  # our client would not send it
            return commands.refused("malformed", str(error))
        if not commands.passing(error) or self._exhausted(attempt):
            return commands.failed(error)
        return self._again(attempt, least=max(error.retry_after or 0.0, SOON))

    def _again(self, attempt: _Try, *, least: float) -> Again:
        return Again(max(backoff(attempt.attempts, base=1.0, cap=60.0, chance=self._chance()), least))

    def _exhausted(self, attempt: _Try) -> bool:
        """Whether it is not tried again: for too long already, or its ``expirytime`` is past."""
        now = self._now()
        tired = attempt.since is not None and now - attempt.since >= commands.PATIENCE
        return tired or commands.late(attempt.command.expires, now)

    async def _asked(self, attempt: _Try, command: Command) -> Answer:
        attempt.memo.sent = True
        return await self._call(attempt, command.operation, command.parameters, commands.body_for(command))

    async def _call(self, attempt: _Try, operation: str, parameters: Mapping[str, Any], body: Any = None) -> Answer:
        with self._trying(attempt):
            return await self._tenants[attempt.place.organization].commanding.call(operation, parameters, body)

    @contextmanager
    def _trying(self, attempt: _Try) -> Iterator[None]:
        """Remember when Webex was called first, and tell of a credential that it does not accept."""
        attempt.memo.since = attempt.memo.since or self._now()
        try:
            yield
        except WebexUnauthorized:
            self._doubt(attempt.place)
            raise

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
        answer = self._effect(attempt, seen)
        if answer is not None:
            return self._succeeded(attempt, answer)
        if attempt.once:
            return self._not_found(attempt, lost)
        if lost is not None:
            return self._later(attempt, lost)
        return await self._repeat(attempt, commands.remaining(command, seen))

    def _effect(self, attempt: _Try, seen: Sequence[Any]) -> Answer | None:
        """What it did, by what is shown. That something is not there proves nothing where it was never seen."""
        if attempt.command.operation in commands.VANISHING and not self._saw(attempt):
            return None
        return commands.effect(attempt.command, seen)

    def _saw(self, attempt: _Try) -> bool:
        return commands.seen_subject(attempt.command) in self._ledger.partition(attempt.place).commands

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
        """Once more, for those for whom a look shows that it was not done; never too late, or against the settings."""
        if self._exhausted(attempt) or self._barred(command):
            return commands.unknown(None)
        await self._permission.ask(attempt.place)
        self._permission.check(attempt.place)
        try:
            return await self._do(attempt, command)
        except WebexNotFound as error:
            seen = [await self._look(attempt, look) for look in commands.looks(command)]
            answer = self._effect(attempt, seen)
            return commands.failed(error) if answer is None else self._succeeded(attempt, answer)
        except WebexError as error:
            passing = error.maybe_done or (commands.passing(error) and not self._exhausted(attempt))
            return self._later(attempt, error) if passing else commands.failed(error)

    # --- guests ---------------------------------------------------------------------------------------------------

    async def _sponsor(self, attempt: _Try) -> Ending | Again:
        """The command's id is the key: asked again, it finds the meeting that it made and gives new links."""
        place, command = attempt.place, attempt.command
        attempt.memo.sent = True
        with self._trying(attempt):
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
        if any(trouble.reaction == Reaction.CREDENTIALS.value for trouble in result.troubles):
            self._doubt(attempt.place)
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
        with self._trying(attempt):
            found = await self._sponsors.found(place, command.body, key=command.id, check=check)
        if not found:
            return self._not_found(attempt, lost)
        if self._exhausted(attempt) or self._barred(command):
            return commands.unknown(lost)
        await self._permission.ask(place)
        return await self._sponsor(attempt)

    # --- the outcome ----------------------------------------------------------------------------------------------

    async def _finish(self, attempt: _Try, ending: Ending) -> Done:
        place, command = attempt.place, attempt.command
        attempt.memo.unsaid = ending  # what cannot be published now is not done again for that
        ended = commands.ended(command, begun_at=attempt.begun, now=self._now(), seen=self._saw(attempt))
        await self._publish(place, command, ending, [*ending.entries, *ended])
        self._forget(place, command)
        return Done()

    async def _repeat_refused(self, place: Place, command: Command) -> Done:
        """What is remembered of the id belongs to the other command. Said once, however often it comes."""
        if commands.reused_subject(command) in self._ledger.partition(place).commands:
            return Done()
        ending = commands.refused("idReused", "another command had this id within the last seven days")
        await self._publish(place, command, ending, [commands.reused(command, now=self._now())])
        return Done()

    async def _publish(self, place: Place, command: Command, ending: Ending, entries: Sequence[Entry]) -> None:
        if self._restricted and ending.response is not None:
            await self._publish_whole(place, command, ending)
        said = await self._publish_what_fits(place, command, ending, entries)
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

    async def _publish_what_fits(
        self, place: Place, command: Command, ending: Ending, entries: Sequence[Entry]
    ) -> CloudEvent:
        """The outcome; without the response, or without anything that may be long, where Kafka takes no more."""
        now, smaller = self._now(), [(command, False), (commands.bare(command), False)]
        said = commands.outcome(command, ending, now=now, receiver=self._receiver)
        while True:
            try:
                await self._ledger.record(place, entries, [said])
            except RecordRefused:
                if not smaller:
                    raise
                of, whole = smaller.pop(0)
                said = commands.outcome(of, ending, now=now, receiver=self._receiver, whole=whole)
            else:
                return said

    async def _publish_whole(self, place: Place, command: Command, ending: Ending) -> None:
        whole = commands.answered(command, ending, now=self._now(), receiver=self._receiver)
        try:
            await self._ledger.record(place, [], [whole], topic="restricted")
        except RecordRefused:
            self._log.warning("command.answer_too_large", id=whole.id, operation=commands.label(command))

    def _forget(self, place: Place, command: Command) -> None:
        """What only this process needed to know, of this command and of assignments that are over."""
        self._memos.get(place, {}).pop(command.id, None)
        self._memos = {each: memos for each, memos in self._memos.items() if memos and _lives(each, place)}


def _lives(one: Place, place: Place) -> bool:
    return one.partition != place.partition or one.assignment == place.assignment


def _given_up() -> commands.Problem:
    return commands.Problem(reason="temporarilyUnavailable", message="Webex did not take it before its expirytime")
