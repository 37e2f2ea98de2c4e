"""The registrants controller: fetch a meeting's registrants, decide by the policy, act, read back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, NamedTuple

import msgspec
import structlog

from service.controllers.ledger import Ledger, Place
from service.controllers.permission import Permission
from service.controllers.ports import Clock, LivePolicy, Observer, Webex
from service.controllers.task import Task
from service.controllers.trials import HELD, Trials
from service.core import registrants as core
from service.core.errors import NotOwner, WebexError, WebexNotFound, WebexUnavailable, WritesStopped
from service.core.ledger import Entry, KnownMeeting, Memory
from service.core.meetings import Meeting, ends, is_recurring, starts
from service.core.policy import Counts, Policy
from service.core.registrants import Action, Decide, Registrant, Review, Stance, Verdict

#: Registrants reviewed at a time: their events become durable together, and everybody else has a turn in between.
CHUNK = 250

#: Those whose call is not confirmed are asked for again, one by one or by a full look, but not more often than this.
ASK_AGAIN = timedelta(seconds=60)

#: A newcomer whom we see so long after they registered was missed until then.
LATE = timedelta(minutes=15)

#: So Webex refuses a batch because of what is in it: a part of it may be taken.
REFUSALS = frozenset({400, 404, 409, 412, 422})

#: What we decide ourselves is no sign that somebody is busy with the meeting.
_OURS = frozenset({"held", "waitlisted", "proposed"})


@dataclass(frozen=True)
class Looked:
    """What a look came to. ``again``: an earlier call is still unsettled, or the policy changed meanwhile.

    ``stopped`` is why nothing was written, "" where something might have been: ``paused``, ``observeOnly``, ``policyHeld``.
    What is to be done then is done by the first look after that.
    """

    result: str
    again: bool = False
    registrants: int = 0
    decided: int = 0
    stopped: str = ""


class _Weighed(NamedTuple):
    """By what everybody was decided last. Whoever still waits does so by a rule's own word, or for a place: there is no use in
    deciding them again until another version, another capacity or fewer who are approved may change that.
    """

    version: str
    approved: int
    capacity: int | None

    def stands(self, version: str, counts: Counts) -> bool:
        """Whether nothing has changed for the better."""
        return (self.version, self.capacity) == (version, counts.capacity) and counts.approved >= self.approved


class _Edge(NamedTuple):
    """After a rush: the latest registration times, and when the look last began as early as it should."""

    latest: tuple[datetime, ...]
    wide: datetime


@dataclass
class _Between:
    """What is known of a series between two looks of this process; without it a look costs more, and that is all."""

    edge: _Edge | None = None
    asked: datetime | None = None
    weighed: _Weighed | None = None


@dataclass(frozen=True)
class _Scene:
    """What one look decides by. ``stopped`` is why it may not act, ``released`` whom an operator released before it began."""

    task: Task
    webex: Webex
    known: KnownMeeting
    meeting: Meeting
    policy: Policy
    started: datetime
    stopped: str
    between: _Between
    released: frozenset[str]


@dataclass
class _Plan:
    """What a look found to do, and what it learned."""

    statuses: Counter[str]
    actions: list[Action] = field(default_factory=list)
    unsettled: bool = False
    news: int = 0
    missed: int = 0
    done: int = 0
    refused: int = 0

    @property
    def left(self) -> int:
        """How many were not acted on."""
        return len(self.actions) - self.done - self.refused


class RegistrantsController:
    """Looks at one meeting series at a time; the caller sees to it that a series is never looked at twice at once.

    ``webex`` gives the calls for the organisation of a task.
    """

    def __init__(
        self,
        *,
        webex: Callable[[Task], Webex],
        ledger: Ledger,
        permission: Permission,
        policy: LivePolicy,
        observer: Observer,
        receiver: str,
        now: Clock,
    ) -> None:
        self._webex, self._ledger, self._permission = webex, ledger, permission
        self._policy, self._observer, self._receiver, self._now = policy, observer, receiver, now
        self._trials = Trials(ledger=ledger, now=now)
        self._between: dict[tuple[Place, str], _Between] = {}
        self._log = structlog.get_logger()

    async def look(self, task: Task, meeting: Meeting) -> Looked:
        """Bring the registrants of ``meeting``, as it is now, to where the policy wants them.

        Raises WebexError (never WebexNotFound), CannotStore or NotOwner; what was done until then is in the ledger: the next
        look goes on.
        """
        scene = await self._scene(task, meeting)
        with _meeting_is_there():
            found, since = await self._find(scene)
            plan = await self._review_all(scene, found)
            stopped = await self._act(scene, plan)
        complete = not plan.left and stopped != HELD
        if complete or stopped:
            await self._remember_look(scene, found, plan, since=since, complete=complete)
        again = not stopped and (not complete or self._unsettled(scene, plan))
        return Looked("finished", again=again, registrants=len(found), decided=plan.done, stopped=stopped)

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        for key in [key for key in self._between if key[0].partition == partition]:
            del self._between[key]

    async def _scene(self, task: Task, meeting: Meeting) -> _Scene:
        policy, place = self._policy(), task.place
        may_decide = await self._trials.open(place, policy)
        remembered = self._ledger.series(place, task.series)
        return _Scene(
            task=task,
            webex=self._webex(task),
            known=_refreshed(remembered.meeting, task),
            meeting=meeting,
            policy=policy,
            started=self._now(),
            stopped=self._permission.stopped(place) or ("" if may_decide else HELD),
            between=self._kept_between(place, task.series),
            released=frozenset(
                id_ for id_, memory in remembered.registrants.items() if core.unseen_since_release(memory)
            ),
        )

    def _kept_between(self, place: Place, series: str) -> _Between:
        """Each look also sees whether one other series is still in the ledger: so what is not goes in time."""
        for key in list(islice(self._between, 1)):
            other = self._between.pop(key)
            if self._is_known(*key):
                self._between[key] = other
        return self._between.setdefault((place, series), _Between())

    def _is_known(self, place: Place, series: str) -> bool:
        try:
            return self._ledger.series(place, series).meeting is not None
        except NotOwner:
            return False

    def _memories(self, scene: _Scene) -> Mapping[str, Memory]:
        return self._ledger.series(scene.task.place, scene.task.series).registrants

    # --- fetch ----------------------------------------------------------------------------------------------------

    async def _find(self, scene: _Scene) -> tuple[list[Registrant], datetime | None]:
        """Whom to look at, and since when they registered (None: all, and those whom the list does not show)."""
        since = self._since(scene)
        found = await self._list(scene, since)
        if since is not None:
            found += await self._unfinished(scene, {registrant.id for registrant in found})
        if since is not None and self._somebody_waits(scene, found):
            since, found = None, await self._list(scene, None)
        if since is None:
            found += await self._absent(scene, {registrant.id for registrant in found})
        return found, since

    async def _list(self, scene: _Scene, since: datetime | None) -> list[Registrant]:
        return await scene.webex.list_registrants(
            scene.task.series, since=since, now=scene.started, host_email=scene.known.host_email
        )

    def _since(self, scene: _Scene) -> datetime | None:
        """None for a full look. While nothing may be written a call, or a new policy, is no reason for one."""
        known = scene.known
        if scene.task.full or known.full is None or known.newest is None:
            return None
        if not scene.stopped and known.policy != scene.policy.version:
            return None
        many = len(core.unfinished(self._memories(scene), now=scene.started)) > core.ASKED
        if many and scene.started - known.full >= ASK_AGAIN:
            return None
        latest, wide = scene.between.edge or ((), None)
        return core.begin(known.newest, latest, wide=wide, now=scene.started)

    def _somebody_waits(self, scene: _Scene, found: Sequence[Registrant]) -> bool:
        """Whether a place is free for somebody who is not in the list: newcomers must not overtake them."""
        if scene.stopped or scene.policy.shadow:
            return False
        memories, shown = self._memories(scene), {registrant.id for registrant in found}
        if not any(core.waits_for_place(memory) for id_, memory in memories.items() if id_ not in shown):
            return False
        counts = _counts(scene.meeting, core.statuses(found, memories, now=scene.started))
        weighed = scene.between.weighed
        return not counts.full and not (weighed and weighed.stands(scene.policy.version, counts))

    async def _absent(self, scene: _Scene, shown: Collection[str]) -> list[Registrant]:
        """Those whom the full list left out although they are there; that others were deleted is published."""
        memories = self._memories(scene)
        absent = core.absent(shown, memories)
        if not core.conclusive(absent, memories):
            self._log.warning("registrants.many_absent", series=scene.task.series, absent=len(absent))
            return []
        return await self._ask_for(scene, core.to_ask(absent, scene.started))

    async def _unfinished(self, scene: _Scene, shown: Collection[str]) -> list[Registrant]:
        """What became of a few calls whose effect nobody has seen yet: a list of the newest does not show that."""
        unfinished = core.unfinished(self._memories(scene), now=scene.started)
        asked, scene.between.asked = scene.between.asked, None
        if not unfinished or len(unfinished) > core.ASKED:
            return []
        too_soon = asked is not None and scene.started - asked < ASK_AGAIN
        scene.between.asked = asked if asked and too_soon else scene.started
        return [] if too_soon else await self._ask_for(scene, [id_ for id_ in unfinished if id_ not in shown])

    async def _ask_for(self, scene: _Scene, ids: Sequence[str]) -> list[Registrant]:
        """Those of ``ids`` who are there. A 404 is the only proof that somebody was deleted: that is published."""
        there, memories = list[Registrant](), self._memories(scene)
        for id_ in ids:
            try:
                found = await scene.webex.get_registrant(scene.task.series, id_, host_email=scene.known.host_email)
                there.append(found)
            except WebexNotFound:
                memory = memories.get(id_) or Memory()
                await self._publish(scene, [core.gone(id_, memory, series=scene.task.series, now=scene.started)])
            except WebexError as error:  # it is not urgent: a later look asks again
                self._log.info("registrants.unknown", series=scene.task.series, error=type(error).__name__)
                break
        return there

    # --- decide ---------------------------------------------------------------------------------------------------

    async def _review_all(self, scene: _Scene, found: Sequence[Registrant]) -> _Plan:
        memories = self._memories(scene)
        plan = _Plan(core.statuses(found, memories, now=scene.started))
        decide = self._decider(scene, plan.statuses)
        for chunk in _chunks(core.in_order(found, now=scene.started)):
            reviews = self._review(scene, chunk, decide, listed=True)
            await self._publish(scene, reviews)
            self._note(scene, plan, reviews)
            await asyncio.sleep(0)
        if plan.missed:
            self._observer.swept_up("registrant", plan.missed)
        return plan

    def _decider(self, scene: _Scene, statuses: Counter[str]) -> Decide:
        shown = _counts(scene.meeting, statuses)

        def decide(registrant: Registrant) -> Verdict | None:
            if scene.stopped == HELD:
                return None
            counts = _counts(scene.meeting, statuses)
            decision = scene.policy.decide(registrant, meeting=scene.meeting, counts=counts, now=scene.started)
            if scene.stopped and decision.outcome == "waitlist" and counts.full and not shown.full:
                return None  # the places went to approvals that nobody carries out now: nobody is told to wait for that
            if (status := core.STATUS_OF.get(decision.outcome)) is not None:
                statuses.update({"pending": -1, status: 1})  # the next one is decided with this one counted
            if decision.outcome == "waitlist" and counts.full:
                scene.between.weighed = None  # somebody waits since all places went
            return Verdict(
                outcome=str(decision.outcome),
                rule=decision.rule,
                reason=decision.reason,
                notify=decision.notify,
                policy=decision.policy,
            )

        return decide

    def _review(self, scene: _Scene, found: Sequence[Registrant], decide: Decide, *, listed: bool) -> list[Review]:
        memories, now = self._memories(scene), self._now()
        stance = Stance(version=scene.policy.version, shadow=scene.policy.shadow, listed=listed)
        return [
            core.review(
                registrant,
                memories.get(registrant.id) or Memory(),
                series=scene.task.series,
                now=now,
                decide=decide,
                stance=stance,
            )
            for registrant in found
            if not self._released_meanwhile(scene, registrant.id)
        ]

    def _released_meanwhile(self, scene: _Scene, id_: str) -> bool:
        """What was read before the release says nothing of what became of somebody until then; the next look does."""
        memory = self._memories(scene).get(id_)
        return memory is not None and core.unseen_since_release(memory) and id_ not in scene.released

    async def _publish(self, scene: _Scene, reviews: Sequence[Review]) -> None:
        """Facts and what we remember of them become durable together."""
        now = self._now()
        facts = [
            core.to_event(
                observation,
                series=scene.task.series,
                org_id=scene.known.org_id,
                now=now,
                receiver=self._receiver,
                traceparent=scene.task.traceparent,
            )
            for review in reviews
            for observation in review.observations
        ]
        await self._ledger.record(scene.task.place, [e for review in reviews for e in review.entries], facts)
        for review in reviews:
            self._tell(scene, review)

    def _tell(self, scene: _Scene, review: Review) -> None:
        for observation in review.observations:
            self._log.info(
                f"registrant.{observation.what}",
                series=scene.task.series,
                registrant=observation.registrant.id,
                **observation.decision,
            )
            if (outcome := {"held": "hold", "waitlisted": "waitlist"}.get(observation.what)) is not None:
                self._observer.decided(outcome, 1)

    def _note(self, scene: _Scene, plan: _Plan, reviews: Sequence[Review]) -> None:
        for review in reviews:
            if review.action is not None:
                plan.actions.append(review.action)
            plan.unsettled = plan.unsettled or review.waiting
            for observation in review.observations:
                plan.news += observation.what not in _OURS
                plan.missed += observation.what == "registered" and _missed(scene, observation.registrant)

    # --- act ------------------------------------------------------------------------------------------------------

    async def _act(self, scene: _Scene, plan: _Plan) -> str:
        """Why not everybody was acted on, where somebody stopped it."""
        place, version = scene.task.place, scene.policy.version
        if scene.stopped or not plan.actions:
            return scene.stopped
        there = sum(plan.statuses.values()) - plan.statuses[core.DELETED]
        if not await self._trials.admits(place, version, plan.actions, registrants=there):
            return HELD
        try:
            for verb, notify, batch in core.batches(plan.actions):
                await self._act_in_parts(scene, plan, verb, batch, notify=notify)
        except WritesStopped as stop:
            self._log.warning("registrants.stopped", series=scene.task.series, reason=stop.reason, waiting=plan.left)
            return stop.reason
        return ""

    async def _act_in_parts(
        self, scene: _Scene, plan: _Plan, verb: str, batch: Sequence[Action], *, notify: bool
    ) -> None:
        """Act on a batch, by halves where Webex refuses it: so one whom it refuses keeps nobody else waiting.

        Where several are refused, the next look goes on; where nothing at all is taken, the refusal is raised.
        """
        parts, calls, done_before = [batch], 0, plan.done
        while parts:
            if self._policy().version != scene.policy.version:
                return  # what another version decided is not wanted any more
            part = parts.pop()
            refusal = await self._act_on(scene, verb, part, notify=notify)
            calls += 1
            if refusal is None:
                plan.done += len(part)
            elif len(part) == 1:
                await self._leave(scene, plan, part[0], refusal)
            else:
                parts += reversed(core.halves(part))
            if parts and calls > core.HALVINGS:
                self._log.warning("registrants.refused", series=scene.task.series, left=sum(map(len, parts)))
                if refusal is not None and plan.done == done_before:
                    raise refusal
                return

    async def _leave(self, scene: _Scene, plan: _Plan, action: Action, refusal: WebexError) -> None:
        """Webex refuses this one: remembered and published, so that nobody tries it again as it is."""
        self._log.warning(
            "registrant.refused",
            series=scene.task.series,
            registrant=action.registrant.id,
            verb=action.verdict.outcome,
            status=refusal.status,
            tracking_id=refusal.tracking_id,
        )
        memory = self._memories(scene).get(action.registrant.id) or Memory()
        review = core.refused(action, memory, series=scene.task.series, now=self._now(), status=refusal.status)
        await self._publish(scene, [review])
        plan.refused += 1

    async def _act_on(self, scene: _Scene, verb: str, batch: Sequence[Action], *, notify: bool) -> WebexError | None:
        """Intent, call, read-back: one write to Webex. Returns its refusal, where it did nothing because of who is in it.

        A failed call is read back too where it may have happened; where all of it did, nothing failed.
        """
        place, series, host_email = scene.task.place, scene.task.series, scene.known.host_email
        await self._permission.ask(place)
        intents = core.intents(batch, series=series, now=self._now(), unsettled=False)
        await self._trials.record(place, scene.policy.version, batch, intents)
        self._permission.check(place)
        failure: WebexError | None = None
        try:
            await scene.webex.change_status(
                series, _verb(verb), [a.registrant.id for a in batch], send_email=notify, host_email=host_email
            )
        except WebexError as error:
            if not error.maybe_done:
                if error.status not in REFUSALS:
                    raise
                return error
            failure = error
        else:
            accepted = core.intents(batch, series=series, now=self._now(), unsettled=True)
            self._ledger.remember(place, accepted)  # known from here on, even where it cannot be written
            await self._ledger.record(place, accepted)
        settled = await self._read_back(scene, verb, batch)
        self._log.info(
            "registrants.acted", series=series, verb=verb, asked=len(batch), confirmed=settled, notify=notify
        )
        self._observer.decided(verb, settled)
        if failure is not None and settled < len(batch):
            raise failure
        return None

    async def _read_back(self, scene: _Scene, verb: str, batch: Sequence[Action]) -> int:
        """Publish what Webex now shows of the batch; returns how many have the status that was asked for."""
        ids = {action.registrant.id for action in batch}
        emails = sorted({action.registrant.email for action in batch if action.registrant.email})
        if not emails:
            return 0
        shown = await scene.webex.query_registrants(scene.task.series, emails, host_email=scene.known.host_email)
        # What is still pending says nothing yet; deciding on it again is for the next look.
        changed = [registrant for registrant in shown if registrant.id in ids and registrant.status != "pending"]
        await self._publish(scene, self._review(scene, changed, lambda _: None, listed=False))
        return sum(registrant.status == core.STATUS_OF[verb] for registrant in changed)

    def _unsettled(self, scene: _Scene, plan: _Plan) -> bool:
        return plan.unsettled or bool(core.unfinished(self._memories(scene), now=scene.started))

    # --- remember -------------------------------------------------------------------------------------------------

    async def _remember_look(
        self, scene: _Scene, found: Sequence[Registrant], plan: _Plan, *, since: datetime | None, complete: bool
    ) -> None:
        """How far the meeting was looked at. What is still to be done makes the first look that may do it a full one."""
        # A time beyond now is somebody's wrong clock: to begin the next look there would miss everybody until then.
        times = [min(registrant.registered, scene.started) for registrant in found if registrant.registered]
        before, version = scene.known, scene.policy.version
        known = msgspec.structs.replace(
            before,
            newest=max([*times, before.newest] if before.newest else times, default=None),
            full=scene.started if since is None else before.full,
            policy=version if complete and (since is None or before.policy == version) else "",
            registration=True,
            active=scene.started if plan.news else before.active,
            start=starts(scene.meeting),
            end=ends(scene.meeting),
            recurring=is_recurring(scene.meeting),
            missing=None,
            deleted=False,
        )
        if known != self._ledger.series(scene.task.place, scene.task.series).meeting:
            entry = Entry(kind="meeting", subject=scene.task.series, value=known)
            await self._ledger.record(scene.task.place, [entry])
        self._remember_edge(scene, times, since=since)
        if complete and since is None:
            self._remember_waiting(scene, plan)
        await self._trials.close(scene.task.place)
        self._between[scene.task.place, scene.task.series] = scene.between  # where it was not known when the look began

    def _remember_edge(self, scene: _Scene, times: Sequence[datetime], *, since: datetime | None) -> None:
        between, newest = scene.between, scene.known.newest
        before, between.edge = between.edge, None
        latest = core.latest_of([*times, *(before.latest if before and since is not None else ())])
        narrow = since is not None and newest is not None and since > newest - core.OVERLAP
        if core.crowded(latest):
            between.edge = _Edge(latest, before.wide if before and narrow else scene.started)

    def _remember_waiting(self, scene: _Scene, plan: _Plan) -> None:
        counts = _counts(scene.meeting, plan.statuses)  # with those whom Webex refused: their places make a difference
        scene.between.weighed = _Weighed(scene.policy.version, counts.approved, counts.capacity)


@contextmanager
def _meeting_is_there() -> Iterator[None]:
    """It was read in this very look: that something else is not found is no word about the meeting. REST lags."""
    try:
        yield
    except WebexNotFound as error:
        message = "registrants: Webex answered 404 though the meeting is there"
        raise WebexUnavailable(message, status=error.status, tracking_id=error.tracking_id) from error


def _refreshed(known: KnownMeeting | None, task: Task) -> KnownMeeting:
    known = known or KnownMeeting(organization=task.place.organization)
    return msgspec.structs.replace(
        known, org_id=task.org_id or known.org_id, host_email=task.host_email or known.host_email
    )


def _missed(scene: _Scene, registrant: Registrant) -> bool:
    """Whether a newcomer was found late, or by the schedule alone. At first sight of a meeting nobody is."""
    if scene.task.swept:
        return True
    late = registrant.registered is not None and scene.started - registrant.registered > LATE
    return late and scene.known.full is not None


def _counts(meeting: Meeting, statuses: Mapping[str, int]) -> Counts:
    registration = meeting.fields.get("registration")
    capacity = registration.get("maxRegisterNum") if isinstance(registration, dict) else None
    return Counts(
        approved=statuses.get("approved", 0),
        pending=statuses.get("pending", 0),
        capacity=capacity if isinstance(capacity, int) else None,
    )


def _chunks(registrants: Sequence[Registrant]) -> Iterator[Sequence[Registrant]]:
    for start in range(0, len(registrants), CHUNK):
        yield registrants[start : start + CHUNK]


def _verb(outcome: str) -> Literal["approve", "reject"]:
    return "approve" if outcome == "approve" else "reject"
