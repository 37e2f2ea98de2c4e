"""The registrants controller: fetch a meeting's registrants, decide by the policy, act, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec
import structlog

from service.controllers.ledger import Ledger
from service.controllers.ownership import Ownership
from service.controllers.ports import Clock, LivePolicy, Observer, Webex
from service.controllers.task import Task
from service.core import registrants as core
from service.core.errors import WebexError
from service.core.ledger import Entry, KnownMeeting, Memory
from service.core.meetings import Meeting
from service.core.policy import Counts, Policy
from service.core.registrants import Action, Registrant, Review, Verdict

#: How far behind the newest registration an incremental look begins: REST may lag, and clocks differ.
OVERLAP = timedelta(minutes=15)


@dataclass(frozen=True)
class Looked:
    """What a look came to: ``finished`` or ``noRegistration``; ``again`` where an earlier call is still unsettled."""

    result: str
    again: bool = False
    registrants: int = 0
    decided: int = 0


@dataclass(frozen=True)
class _Scene:
    """What one look decides by."""

    task: Task
    webex: Webex
    known: KnownMeeting
    meeting: Meeting
    policy: Policy
    started: datetime


class RegistrantsController:
    """Looks at one meeting series at a time; the caller sees to it that a series is never looked at twice at once.

    ``webex`` gives the calls for the organisation of a task.
    """

    def __init__(
        self,
        *,
        webex: Callable[[Task], Webex],
        ledger: Ledger,
        ownership: Ownership,
        policy: LivePolicy,
        observer: Observer,
        receiver: str,
        now: Clock,
    ) -> None:
        self._webex, self._ledger, self._ownership = webex, ledger, ownership
        self._policy, self._observer, self._receiver, self._now = policy, observer, receiver, now
        self._log = structlog.get_logger()

    async def look(self, task: Task) -> Looked:
        """Bring the registrants of one series to where the policy wants them.

        Raises WebexError, CannotStore or NotOwner; what was done until then is in the ledger: the next look goes on.
        """
        memory = self._ledger.series(task.place, task.series)
        known, webex = _refreshed(memory.meeting, task), self._webex(task)
        meeting = await webex.get_meeting(task.series, host_email=known.host_email)
        if not meeting.has_registration:
            if memory.meeting is not None:  # Webex takes the object away when a meeting is over
                await self._ledger.record(task.place, [Entry(kind="meeting", subject=task.series, value=None)])
            return Looked("noRegistration")
        started, policy = self._now(), self._policy()
        full = (
            known.full is None
            or known.newest is None
            or known.policy != policy.version
            or task.full
            or any(core.unfinished(one, now=started) for one in memory.registrants.values())
        )
        since = None if full or known.newest is None else known.newest - OVERLAP
        found = await webex.list_registrants(task.series, since=since, now=started, host_email=known.host_email)
        scene = _Scene(task=task, webex=webex, known=known, meeting=meeting, policy=policy, started=started)
        reviews = self._review(scene, found)
        await self._publish(scene, reviews)
        actions = [review.action for review in reviews if review.action is not None]
        decided = await self._act(scene, actions)
        if decided == len(actions):
            await self._remember_look(scene, found, full=full)
        return Looked("finished", again=self._unsettled(scene, reviews), registrants=len(found), decided=decided)

    def _review(self, scene: _Scene, found: Sequence[Registrant]) -> list[Review]:
        memories = self._ledger.series(scene.task.place, scene.task.series).registrants
        statuses = core.statuses(found, memories)

        def decide(registrant: Registrant) -> Verdict:
            decision = scene.policy.decide(registrant, meeting=scene.meeting, counts=_counts(scene.meeting, statuses))
            if (status := core.STATUS_OF.get(decision.outcome)) is not None:
                statuses.update({"pending": -1, status: 1})  # the next one is decided with this one counted
            return Verdict(
                outcome=str(decision.outcome),
                rule=decision.rule,
                reason=decision.reason,
                notify=decision.notify,
                policy=decision.policy,
            )

        return [
            core.review(
                registrant,
                memories.get(registrant.id) or Memory(),
                series=scene.task.series,
                now=self._now(),
                decide=decide,
                version=scene.policy.version,
            )
            for registrant in sorted(found, key=lambda one: (one.registered or scene.started, one.id))
        ]

    async def _publish(self, scene: _Scene, reviews: Sequence[Review]) -> None:
        """Facts and what we remember of them become durable together, a thousand reviews at a time."""
        for start in range(0, len(reviews), 1000):
            chunk = reviews[start : start + 1000]
            facts = [
                core.to_event(
                    observation,
                    series=scene.task.series,
                    org_id=scene.known.org_id,
                    now=self._now(),
                    receiver=self._receiver,
                    traceparent=scene.task.traceparent,
                )
                for review in chunk
                for observation in review.observations
            ]
            await self._ledger.record(scene.task.place, [e for review in chunk for e in review.entries], facts)
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
            if observation.what == "held":
                self._observer.decided("hold", 1)

    async def _act(self, scene: _Scene, actions: Sequence[Action]) -> int:
        """How many were acted on: all of them, unless the operator paused meanwhile."""
        done = 0
        for verb, notify, batch in core.batches(actions):
            if self._policy().paused or not await self._act_on(scene, verb, batch, notify=notify):
                self._log.warning("registrants.paused", series=scene.task.series, waiting=len(actions) - done)
                break
            done += len(batch)
        return done

    async def _act_on(self, scene: _Scene, verb: str, batch: Sequence[Action], *, notify: bool) -> bool:
        """Intent, call, read-back: one write to Webex; false where the operator paused before it began.

        A failed call is read back too where it may have happened.
        """
        place, series, host_email = scene.task.place, scene.task.series, scene.known.host_email
        await self._ownership.writable(place)
        await self._ledger.record(place, core.intents(batch, series=series, now=self._now(), unsettled=False))
        if self._policy().paused:
            return False
        self._ownership.check(place)
        failure: WebexError | None = None
        try:
            await scene.webex.change_status(
                series, _verb(verb), [a.registrant.id for a in batch], send_email=notify, host_email=host_email
            )
        except WebexError as error:
            if not error.maybe_done:
                raise
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
        if failure is not None:
            raise failure
        return True

    async def _read_back(self, scene: _Scene, verb: str, batch: Sequence[Action]) -> int:
        """Publish what Webex now shows of the batch; returns how many have the status that was asked for."""
        ids = {action.registrant.id for action in batch}
        emails = sorted({action.registrant.email for action in batch if action.registrant.email})
        shown = await scene.webex.query_registrants(scene.task.series, emails, host_email=scene.known.host_email)
        # What is still pending says nothing yet; deciding on it again is for the next look.
        changed = [registrant for registrant in shown if registrant.id in ids and registrant.status != "pending"]
        await self._publish(scene, self._review(scene, changed))
        return sum(registrant.status == core.STATUS_OF[verb] for registrant in changed)

    def _unsettled(self, scene: _Scene, reviews: Sequence[Review]) -> bool:
        memories = self._ledger.series(scene.task.place, scene.task.series).registrants
        acted = (memories.get(review.action.registrant.id) for review in reviews if review.action)
        return any(review.waiting for review in reviews) or any(m and not m.approved and not m.rejected for m in acted)

    async def _remember_look(self, scene: _Scene, found: Sequence[Registrant], *, full: bool) -> None:
        # A time beyond now is somebody's wrong clock: to begin the next look there would miss everybody until then.
        times = [min(registrant.registered, scene.started) for registrant in found if registrant.registered]
        times += [scene.known.newest] if scene.known.newest else []
        known = msgspec.structs.replace(
            scene.known,
            newest=max(times, default=None),
            full=scene.started if full else scene.known.full,
            policy=scene.policy.version,
        )
        if known != self._ledger.series(scene.task.place, scene.task.series).meeting:
            entry = Entry(kind="meeting", subject=scene.task.series, value=known)
            await self._ledger.record(scene.task.place, [entry])


def _refreshed(known: KnownMeeting | None, task: Task) -> KnownMeeting:
    known = known or KnownMeeting(organization=task.place.organization)
    return msgspec.structs.replace(
        known, org_id=task.org_id or known.org_id, host_email=task.host_email or known.host_email
    )


def _counts(meeting: Meeting, statuses: Mapping[str, int]) -> Counts:
    registration = meeting.fields.get("registration")
    capacity = registration.get("maxRegisterNum") if isinstance(registration, dict) else None
    return Counts(
        approved=statuses.get("approved", 0),
        pending=statuses.get("pending", 0),
        capacity=capacity if isinstance(capacity, int) else None,
    )


def _verb(outcome: str) -> Literal["approve", "reject"]:
    return "approve" if outcome == "approve" else "reject"
