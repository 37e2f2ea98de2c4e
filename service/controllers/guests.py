"""Sponsoring guest-to-guest meetings: look, decide whether the licence has room, create once, hand out the links.

The reservations are the meetings that Webex lists with our tag, so nothing is stored here and a restart loses nothing.
A :class:`Sponsor` only remembers what Webex may not show yet: meetings that it has just asked for, and the instances that
webhooks told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog

from service.controllers.turns import Turns
from service.core import guests
from service.core.errors import Reaction, WebexError, WebexNotFound
from service.core.guests import (
    SETTLING,
    Admitted,
    Credentials,
    InProgress,
    Instance,
    Person,
    Refused,
    Reservation,
    SponsorBody,
)

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)

#: How far beyond the wanted meeting reservations are read, to say when there will be room.
_OUTLOOK = timedelta(days=7)

#: Instances that one reconcile asks for one by one.
_DOUBTS = 100

#: Links and tokens asked for at the same time.
_AT_ONCE = 4

_PASSING = frozenset({Reaction.RETRY, Reaction.RETRY_AFTER, Reaction.LOOK_AGAIN})


class Meetings(Protocol):
    """The calls about meetings, with the Service App's token. Bodies and answers are Webex's objects. All raise WebexError."""

    async def create_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /meetings``."""

    async def list_meetings(self, query: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """``GET /meetings``, every page. ``query`` by Webex's names."""

    async def show_meeting(self, meeting_id: str) -> Mapping[str, Any]:
        """``GET /meetings/{meetingId}``, for instances too."""

    async def join_meeting(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /meetings/join``."""


class Guests(Protocol):
    """The calls about guests. All raise WebexError."""

    async def create_guest(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """``POST /guests/token``."""


class Webex(Meetings, Guests, Protocol):
    """Both, with one credential."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """Time, so that tests can bring their own. ``sleep`` takes seconds."""

    now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True)
class Patience:
    """How long, in seconds, and how often something is tried again.

    ``look``: the pauses between looks for a meeting whose creation was not answered. ``links``: the pauses between tries for
    one link; Webex's own ``Retry-After`` counts where it is longer, up to ``longest``. ``poll``: how often a full licence is
    looked at again.
    """

    look: tuple[float, ...] = (0.0, 2.0, 5.0, 10.0)
    links: tuple[float, ...] = (1.0, 3.0)
    longest: float = 30.0
    poll: float = 15.0


class Trouble(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that Webex did not do. ``reaction`` says whether it may pass; ``message`` holds nothing personal."""

    step: str
    reaction: str
    message: str
    status: int | None = None
    tracking_id: str | None = None


class Sponsored(guests.Private, frozen=True, kw_only=True, rename="camel", tag="sponsored", tag_field="outcome"):
    """The meeting exists and everybody has what they need. Secret but for ``meeting_id``.

    ``existed``: it had been made for this key before, and the links are new ones. ``expire_before_start``: the links cannot be
    used any more when the meeting can be joined; sponsor again with the same key, nearer to it, for new ones.
    """

    key: str
    meeting_id: str
    start: str
    end: str
    host: Credentials
    guests: tuple[Credentials, ...]
    existed: bool = False
    expire_before_start: bool = False


class Unfinished(guests.Private, frozen=True, kw_only=True, rename="camel", tag="unfinished", tag_field="outcome"):
    """The meeting exists, but not everybody has what they need; ``troubles`` says why.

    Nothing was deleted. Sponsor again with the same ``key`` and the same ``meeting``: that finds this meeting and makes links
    for everybody in the body. ``host`` and ``guests`` hold what could be had.
    """

    key: str
    meeting_id: str
    troubles: tuple[Trouble, ...]
    host: Credentials | None = None
    guests: tuple[Credentials, ...] = ()


class OutcomeUnknown(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="outcomeUnknown", tag_field="outcome"
):
    """The creation was not answered, and the meeting cannot be found (yet). It was not tried again, and must not be at once.

    Webex may take 15 minutes to show what it has made: after that, sponsor again with the same ``key``.
    """

    key: str
    message: str
    retry_at: datetime
    status: int | None = None
    tracking_id: str | None = None


Result = Sponsored | Unfinished | Refused | OutcomeUnknown


@dataclass(frozen=True)
class _Found:
    """The meeting that was made for this key before, as Webex shows it."""

    meeting: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class _Made:
    """The meeting that was made now."""

    meeting: Mapping[str, Any] = field(repr=False)


@dataclass
class _Held:
    """A meeting that was asked for here. It counts until Webex lists it, or has not done so for 15 minutes.

    ``created`` is Webex's answer, None where there was none; ``listed`` when it was seen in a list asked for then.
    """

    reservation: Reservation
    made: datetime
    created: Mapping[str, Any] | None = field(default=None, repr=False)
    listed: datetime | None = None


@dataclass(frozen=True)
class _Picture:
    """The sponsored meetings between ``since`` and ``until``, as a list ``asked`` for then showed them."""

    asked: datetime
    since: datetime
    until: datetime
    meetings: Sequence[Mapping[str, Any]] = field(repr=False)

    def covers(self, reservation: Reservation) -> bool:
        """Whether it would show that meeting."""
        return self.since <= reservation.since and reservation.until <= self.until


class Sponsor:
    """Sponsors meetings with one Service App, whose licence is for ``licence`` meetings at the same time.

    Use one for each Service App: looking and reserving are one step here, so that two callers never get the last place;
    other processes know of it as soon as Webex lists the meeting.
    """

    def __init__(self, webex: Webex, *, licence: int, clock: Clock = Clock(), patience: Patience = Patience()) -> None:
        self._webex, self._licence, self._clock, self._patience = webex, licence, clock, patience
        self._held: dict[str, _Held] = {}
        self._turns = Turns()
        self._progress, self._listed = InProgress(), frozenset[str]()
        self._hosts: frozenset[str] = frozenset()
        self._log = structlog.get_logger()

    @property
    def in_progress(self) -> frozenset[str]:
        """The ids of the instances that are known to be in progress."""
        return frozenset(self._progress.live)

    async def sponsor(self, body: object, *, key: str, wait: float = 0.0) -> Result:
        """Sponsor what ``body`` (decoded JSON, see :class:`service.core.guests.SponsorBody`) asks for.

        ``key`` names the request: whatever happened before, one key never makes a second meeting, and asking again makes new
        links for the one it has made. ``wait``: for how many seconds a full licence is looked at again before it is refused;
        others go on meanwhile. Raises WebexError only where no meeting was made.
        """
        wanted = guests.read(body, now=self._clock.now())
        if isinstance(wanted, Refused):
            return self._refused(wanted)
        async with self._turns.turn(key):
            meeting = await self._meeting(wanted, key=key, wait=wait)
        if isinstance(meeting, Refused):
            return self._refused(meeting)
        if isinstance(meeting, OutcomeUnknown):
            self._log.warning("guests.outcome_unknown", status=meeting.status, tracking_id=meeting.tracking_id)
            return meeting
        return await self._hand_out(wanted, meeting, key=key)

    async def found(self, body: object, *, key: str) -> bool:
        """Whether Webex shows the meeting that was made for this key and this ``body``. Nothing is made. Raises WebexError."""
        wanted = guests.read(body, now=self._clock.now())
        if isinstance(wanted, Refused):
            return False
        mark = guests.marker(key, wanted.meeting)
        place = guests.reservation_of(wanted.meeting, series=mark)
        if place is None:
            return False
        shown = await self._webex.list_meetings(_tagged(mark, place.since - _DAY, place.until + _DAY))
        return any(mark in guests.tags_of(meeting) for meeting in shown)

    def _refused(self, refused: Refused) -> Refused:
        self._log.info("guests.refused", reason=refused.reason)
        return refused

    # -- webhooks and the reconcile ------------------------------------------------------------------------------------

    def heard(self, event: str, data: Mapping[str, Any]) -> None:
        """A webhook said ``started`` or ``ended`` of a meeting. Repeats and any order change nothing; others are ignored."""
        instance = guests.instance_of(data, heard=self._clock.now())
        if instance is not None and event == "started":
            self._progress = self._progress.started(instance)
        elif instance is not None and event == "ended":
            self._progress = self._progress.ended(instance.id, at=self._clock.now())

    async def reconcile(self) -> None:
        """Correct the set of instances in progress by what Webex shows. Raises WebexError; the set then stays as it was.

        What is not listed is asked for one by one: absence from a list is no proof, an ``ended`` is. A 404 is one too, once
        Webex has had 15 minutes to show the instance.
        """
        now = self._clock.now()
        query = {"meetingType": "meeting", "state": "inProgress", **_range(now - 2 * _DAY, now + _DAY)}
        shown = [item for item in await self._webex.list_meetings(query) if guests.is_live(item)]
        listed = [instance for item in shown if (instance := guests.instance_of(item, heard=now))]
        ids = frozenset(instance.id for instance in listed)
        doubtful = [instance for instance in self._using() if instance.id not in ids]
        gone = [instance.id for instance in doubtful[:_DOUBTS] if await self._is_gone(instance)]
        self._progress, self._listed = self._progress.reconciled(listed, gone, at=self._clock.now()), ids
        if gone:
            self._log.info("guests.ends_found", instances=len(gone))

    async def _is_gone(self, instance: Instance) -> bool:
        try:
            return guests.is_over(await self._webex.show_meeting(instance.id))
        except WebexNotFound:
            return self._clock.now() - instance.heard >= SETTLING
        except WebexError:
            return False  # no proof either way

    # -- one meeting for one key ---------------------------------------------------------------------------------------

    async def _meeting(
        self, wanted: SponsorBody, *, key: str, wait: float
    ) -> _Found | _Made | Refused | OutcomeUnknown:
        mark = guests.marker(key, wanted.meeting)
        reservation = guests.reservation_of(wanted.meeting, series=mark)
        if reservation is None:  # its times were read before
            raise ValueError("the meeting has no times")
        place = await self._place(wanted, reservation, key=key, mark=mark, wait=wait)
        if not isinstance(place, Admitted):
            return place
        return await self._create(wanted, self._held[mark], key=key, mark=mark)

    async def _place(
        self, wanted: SponsorBody, place: Reservation, *, key: str, mark: str, wait: float
    ) -> Admitted | _Found | Refused | OutcomeUnknown:
        """Room for it, held from now on; or what this key has made already. Nothing is held up by waiting here."""
        waited = 0.0
        while True:
            verdict = await self._look_for_place(wanted, place, key=key, mark=mark)
            pause = min(self._patience.poll, wait - waited)
            if not (isinstance(verdict, Refused) and verdict.reason == "licenceFull") or pause <= 0:
                return verdict
            await self._clock.sleep(pause)
            waited += pause
            if guests.begun(wanted, now=self._clock.now()):
                return verdict

    async def _look_for_place(
        self, wanted: SponsorBody, place: Reservation, *, key: str, mark: str
    ) -> Admitted | _Found | Refused | OutcomeUnknown:
        picture = await self._look(place)
        settled = self._made_before(key, mark, picture) or guests.begun(wanted, now=self._clock.now())
        if settled is not None:
            return settled
        await self.reconcile()
        # From here on nothing is awaited: who is admitted has the place before anybody else can ask for it.
        verdict = guests.admit(place, self._reserved(picture), self._using(), self._licence, self._clock.now())
        if isinstance(verdict, Admitted):
            self._held[mark] = _Held(place, made=self._clock.now())
        return verdict

    async def _look(self, wanted: Reservation) -> _Picture:
        asked, since, until = self._clock.now(), wanted.since - _DAY - _HOUR, wanted.until + _OUTLOOK
        shown = await self._webex.list_meetings(_tagged(guests.SPONSORED, since, until))
        meetings = [meeting for meeting in shown if guests.SPONSORED in guests.tags_of(meeting)]
        self._hosts |= {host for meeting in meetings if (host := guests.host_of(meeting))}
        return _Picture(asked, since, until, meetings)

    def _made_before(self, key: str, mark: str, picture: _Picture) -> _Found | Refused | OutcomeUnknown | None:
        self._forget()
        found = guests.made_for(key, picture.meetings)
        if found is not None:
            return _usable(found, mark)
        earlier = next((each for each in self._held if guests.is_for(key, each)), None)
        if earlier is None or not self._counts(self._held[earlier], picture):
            return None
        held = self._held[earlier]
        if earlier != mark:
            return _key_reused()
        return _Found(held.created) if held.created is not None else _unknown(key, held, None)

    def _forget(self) -> None:
        now = self._clock.now()
        self._held = {mark: held for mark, held in self._held.items() if now - held.made < SETTLING}

    # -- who takes a place ---------------------------------------------------------------------------------------------

    def _reserved(self, picture: _Picture) -> list[Reservation]:
        """What Webex lists, and what it does not list yet."""
        listed = [one for meeting in picture.meetings if (one := guests.reservation_of(meeting))]
        shown = {tag for meeting in picture.meetings for tag in guests.tags_of(meeting)}
        for mark, held in self._held.items():
            if mark in shown and (held.listed is None or held.listed < picture.asked):
                held.listed = picture.asked
        unlisted = [held for mark, held in self._held.items() if mark not in shown]
        return listed + [held.reservation for held in unlisted if self._counts(held, picture)]

    def _counts(self, held: _Held, picture: _Picture) -> bool:
        """False for one that was listed before and is not any more: somebody has deleted it."""
        return held.listed is None or picture.asked <= held.listed or not picture.covers(held.reservation)

    def _using(self) -> list[Instance]:
        """The instances that use this licence: webhooks of a whole organisation tell of other hosts' meetings too.

        Who we are is known from the sponsored meetings. Without any, what Webex lists is ours where it is one host's: only
        an administrator's token lists everybody's.
        """
        live = self._progress.live.values()
        listed = {instance.host for instance in live if instance.id in self._listed}
        hosts = self._hosts or (listed if len(listed) == 1 else frozenset())
        return [instance for instance in live if not instance.host or instance.host in hosts]

    # -- creating, once ------------------------------------------------------------------------------------------------

    async def _create(self, wanted: SponsorBody, held: _Held, *, key: str, mark: str) -> _Made | OutcomeUnknown:
        """One call. Where it was not answered, what it did is looked for; it is never made twice."""
        failure: WebexError | None = None
        meeting: Mapping[str, Any] | None = None
        try:
            meeting = await self._webex.create_meeting(guests.create_body(wanted, mark))
        except WebexError as error:
            if not error.maybe_done:
                self._held.pop(mark, None)
                raise
            failure = error
        if meeting is None or not isinstance(meeting.get("id"), str):
            meeting = await self._find(held.reservation, mark)
        if meeting is None:
            return _unknown(key, held, failure)
        self._settle(held, meeting)
        return _Made(meeting)

    async def _find(self, wanted: Reservation, mark: str) -> Mapping[str, Any] | None:
        for pause in self._patience.look:
            await self._clock.sleep(pause)
            try:
                shown = await self._webex.list_meetings(_tagged(mark, wanted.since - _DAY, wanted.until + _DAY))
            except WebexError:
                continue  # then the next look
            found = next((meeting for meeting in shown if mark in guests.tags_of(meeting)), None)
            if found is not None:
                return found
        return None

    def _settle(self, held: _Held, meeting: Mapping[str, Any]) -> None:
        """From now on the place is that of the meeting as Webex made it."""
        held.created = meeting
        held.reservation = guests.reservation_of(meeting) or held.reservation
        if host := guests.host_of(meeting):
            self._hosts |= {host}

    # -- links and tokens ----------------------------------------------------------------------------------------------

    async def _hand_out(self, wanted: SponsorBody, made: _Found | _Made, *, key: str) -> Sponsored | Unfinished:
        some = asyncio.Semaphore(_AT_ONCE)
        equipped = await asyncio.gather(
            *(self._equip(wanted, made.meeting, n, some) for n in range(len(wanted.people)))
        )
        troubles = tuple(trouble for _, found in equipped for trouble in found)
        (host, _), *others = equipped
        given = tuple(one for one, _ in others if one is not None)
        meeting_id = str(made.meeting["id"])
        if troubles or host is None:
            steps = [trouble.step for trouble in troubles]
            self._log.warning("guests.unfinished", meeting_id=meeting_id, steps=steps[:_DOUBTS])
            return Unfinished(key=key, meeting_id=meeting_id, troubles=troubles, host=host, guests=given)
        existed = isinstance(made, _Found)
        self._log.info("guests.sponsored", meeting_id=meeting_id, guests=len(given), existed=existed)
        return Sponsored(
            key=key,
            meeting_id=meeting_id,
            start=str(made.meeting.get("start", "")),
            end=str(made.meeting.get("end", "")),
            host=host,
            guests=given,
            existed=existed,
            expire_before_start=guests.expire_early(made.meeting, (host, *given)),
        )

    async def _equip(
        self, wanted: SponsorBody, meeting: Mapping[str, Any], n: int, some: asyncio.Semaphore
    ) -> tuple[Credentials | None, list[Trouble]]:
        """What the ``n``-th person needs (0 is the host), and what of it could not be had."""
        person, who = wanted.people[n], "host" if n == 0 else f"guests[{n - 1}]"
        body = guests.join_body(meeting, person, minutes=wanted.expirationMinutes)
        async with some:
            links = await self._tried(f"{who}.link", lambda: self._webex.join_meeting(body), again=True)
        if isinstance(links, Trouble):
            return None, [links]
        given = guests.credentials(person, links, host=n == 0)
        if given is None:
            return None, [_missing(f"{who}.link")]
        if not wanted.tokens:
            return given, []
        return await self._with_token(given, person, f"{who}.token", some)

    async def _with_token(
        self, given: Credentials, person: Person, step: str, some: asyncio.Semaphore
    ) -> tuple[Credentials, list[Trouble]]:
        async with some:  # a token stays valid for hours: one that may have been made is not made again
            guest = await self._tried(step, lambda: self._webex.create_guest(guests.guest_body(person)), again=False)
        if isinstance(guest, Trouble):
            return given, [guest]
        complete = guests.with_token(given, guest)
        return (given, [_missing(step)]) if complete is None else (complete, [])

    async def _tried(
        self, step: str, call: Callable[[], Awaitable[Mapping[str, Any]]], *, again: bool
    ) -> Mapping[str, Any] | Trouble:
        """The answer, or the last trouble. ``again``: also where the call may have had its effect."""
        for pause in (*self._patience.links, None):
            try:
                return await call()
            except WebexError as error:
                wait = max(pause or 0.0, error.retry_after or 0.0)
                passing = error.reaction in _PASSING and (again or not error.maybe_done)
                if pause is None or not passing or wait > self._patience.longest:
                    return _trouble(step, error)
                await self._clock.sleep(wait)
        raise AssertionError("the last try returns")


def _key_reused() -> Refused:
    return Refused(reason="keyReused", message="This key has been used for another meeting")


def _usable(found: Mapping[str, Any], mark: str) -> _Found | Refused:
    if mark not in guests.tags_of(found):
        return _key_reused()
    if guests.is_over(found):
        return Refused(reason="meetingOver", message="The meeting that was made for this key is over")
    return _Found(found)


def _unknown(key: str, held: _Held, error: WebexError | None) -> OutcomeUnknown:
    return OutcomeUnknown(
        key=key,
        message="The meeting may have been made; Webex did not answer, and does not show it yet. It was not tried again",
        retry_at=held.made + SETTLING,
        status=error.status if error else None,
        tracking_id=error.tracking_id if error else None,
    )


def _trouble(step: str, error: WebexError) -> Trouble:
    return Trouble(
        step=step,
        reaction=error.reaction.value,
        message=str(error),
        status=error.status,
        tracking_id=error.tracking_id,
    )


def _missing(step: str) -> Trouble:
    return Trouble(
        step=step, reaction=Reaction.PERMANENT.value, message="Webex answered, but without what was asked for"
    )


def _tagged(tag: str, since: datetime, until: datetime) -> dict[str, str]:
    return {"meetingType": "meetingSeries", "integrationTag": tag, **_range(since, until)}


def _range(since: datetime, until: datetime) -> dict[str, str]:
    return {"from": f"{since:%Y-%m-%dT%H:%M:%SZ}", "to": f"{until:%Y-%m-%dT%H:%M:%SZ}"}
