"""Discovery: which meetings exist is looked up too, since Webex promises no delivery of ``meetings.created``.

The meetings of the token's own user and of every host that is configured or was seen are listed, again and again. A meeting
that is not known gets its first look, and one that is listed otherwise than the last time gets another one. That a meeting is
missing in a list proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import structlog

from service.controllers.backlog import Backlog, Key
from service.controllers.ledger import Ledger, Place
from service.controllers.ports import Clock, Observer, Tenant
from service.controllers.sweep import Asked
from service.controllers.task import Task
from service.core.errors import NotOwner, Reaction, WebexError
from service.core.identifiers import series_of
from service.core.ledger import KnownMeeting
from service.core.meetings import Meeting

#: What is listed, counted from now. Webex documents no longest range for series ("List Meetings").
BEHIND, AHEAD = timedelta(days=1), timedelta(days=180)
#: Tries for one host in one round, where Webex does not answer, and the longest pause (s) between them.
TRIES, LONGEST_PAUSE = 3, 60.0
#: A host that Webex does not let us list is tried again after so long (s).
REFUSED_AGAIN = 86_400.0
#: An unknown meeting whose look led to nothing gets another one after so long (s).
ASK_AGAIN = 3600.0
#: First looks that may wait at once: no hint has to wait behind many.
AT_ONCE = 20
#: Meetings that are compared before others have their turn.
_CHUNK = 100
#: Nothing is to be done for these; and Webex takes their form away (Meetings guide, "Available Meeting Attributes").
_OVER = frozenset({"ended", "missed", "expired"})
#: What changes by itself, as meetings begin and end.
_MOVING = frozenset({"state", "hostDidJoin", "attendeeDidJoin", "currentOccurrence"})
#: ... and, where the list shows the present occurrence of a series, as time goes by.
_OF_OCCURRENCE = frozenset({"id", "start", "end", "isModified"})

_NEVER = float("-inf")


@dataclass
class _Round:
    """What is known of one organisation's meetings, while its partition is ours. Times are seconds of the loop's clock.

    ``prints``: by host and series, how the series was listed last; ``looked``: when an unknown one got its first look;
    ``refused``: which hosts Webex did not let us list, by the credential of ``version``. ``found`` in this round.
    """

    partition: int
    asked: Asked
    version: str = ""
    began: float = _NEVER
    before: float = _NEVER
    hosts: dict[str, None] = field(default_factory=dict)
    prints: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    looked: dict[str, float] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    def begin(self, version: str) -> None:
        """One more round."""
        self.before, self.began = self.began, _time()
        if version != self.version:
            self.version, self.refused = version, {}
        self.found.clear()

    def end(self) -> None:
        """Forget what is not listed any more."""
        listed = set[str]().union(*self.prints.values())
        self.looked = {series: at for series, at in self.looked.items() if series in listed}


class Discovery:
    """Lists every owned organisation's meetings every ``interval``, in the lane where nobody waits for the answer."""

    def __init__(  # noqa: PLR0913 - the collaborators are named one by one, where they are plugged together
        self,
        *,
        tenants: Mapping[str, Tenant],
        ledger: Ledger,
        backlog: Backlog,
        observer: Observer,
        hosts: Sequence[str],
        interval: timedelta,
        partition_of: Callable[[str], int | None],
        usable: Callable[[Place], bool],
        now: Clock,
    ) -> None:
        self._tenants, self._ledger, self._backlog, self._observer = tenants, ledger, backlog, observer
        self._hosts, self._interval = [_address(host) for host in hosts], interval.total_seconds()
        self._partition_of, self._usable, self._now = partition_of, usable, now
        self._tick = min(1.0, self._interval / 4)
        self._rounds: dict[str, _Round] = {}
        self._told: dict[Key, tuple[float, str]] = {}
        self._log = structlog.get_logger()

    def told(self, key: Key, host_email: str) -> None:
        """A hint came for this series: nobody has to find it any more, and its host has perhaps other meetings."""
        _, host = self._told.get(key, (0.0, ""))
        self._told[key] = _time(), _address(host_email) or host

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now."""
        self._told = {key: told for key, told in self._told.items() if key[0] != partition}
        self._rounds = {name: known for name, known in self._rounds.items() if known.partition != partition}

    async def run(self) -> None:
        """List for ever; no organisation waits for another one."""
        async with asyncio.TaskGroup() as tasks:
            for organization in self._tenants:
                tasks.create_task(self._watch(organization))

    async def _watch(self, organization: str) -> None:
        while True:
            await asyncio.sleep(self._tick)
            place = self._place(organization)
            known = self._rounds.get(organization)
            if place is None:
                if known is not None:
                    known.refused.clear()  # a consent given anew may allow more
                continue
            if known is None:
                known = self._rounds[organization] = _Round(place.partition, Asked(self._backlog, self._now))
            if _time() - known.began >= self._interval:
                await self._list_all(place, known)

    def _place(self, organization: str) -> Place | None:
        """Where the organisation stands, None while it is not ours or Webex may not be called for it."""
        partition = self._partition_of(organization)
        if partition is None or not self._ledger.owns(partition):
            return None
        place = self._ledger.place(organization, partition)
        return place if self._usable(place) else None

    # --- one round ------------------------------------------------------------------------------------------------

    async def _list_all(self, place: Place, known: _Round) -> None:
        known.begin(self._tenants[place.organization].version())
        try:
            for host in self._hosts_of(place, known):
                await self._list_one(place, known, host)
        except NotOwner:
            return  # the next owner begins anew
        except WebexError as error:  # it is about the token, not about a host
            self._log.warning("discovery.cut_short", organization=place.organization, **_about(error))
        known.end()
        self._told = {key: told for key, told in self._told.items() if told[0] >= known.began - 2 * self._interval}

    def _hosts_of(self, place: Place, known: _Round) -> Iterable[str]:
        """The token's own user (""), then those of the settings, then those that were seen."""
        known.hosts |= dict.fromkeys(["", *self._hosts])
        for _, meeting in self._known(place):
            known.hosts.setdefault(_address(meeting.host_email))
        known.hosts |= dict.fromkeys(host for key, (_, host) in self._told.items() if self._is_of(key, place))
        late = _time() - REFUSED_AGAIN
        return [host for host in known.hosts if not host or known.refused.get(host, _NEVER) <= late]

    def _known(self, place: Place) -> Iterator[tuple[str, KnownMeeting]]:
        for _, series, memory in self._ledger.known(place.partition):
            if memory.meeting is not None and memory.meeting.organization == place.organization:
                yield series, memory.meeting

    def _is_of(self, key: Key, place: Place) -> bool:
        """Whether the series is this organisation's; one that is not known may be anybody's who shares the partition."""
        if key[0] != place.partition:
            return False
        meeting = self._ledger.series(place, key[1]).meeting
        if meeting is not None:
            return meeting.organization == place.organization
        return all(self._partition_of(other) != key[0] for other in self._tenants if other != place.organization)

    async def _list_one(self, place: Place, known: _Round, host: str) -> None:
        self._ledger.partition(place)
        meetings = await self._listed(place, known, host)
        # No list has Webex's own id of the organisation.
        org_id = next((meeting.org_id for _, meeting in self._known(place) if meeting.org_id), "")
        before, prints = known.prints.get(host, {}), dict[str, int]()
        for number, meeting in enumerate(meetings):
            if number % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
            series = _series(meeting)
            if series is None or series in prints or meeting.fields.get("state") in _OVER:
                continue
            if host and _address(meeting.host_email) not in ("", host):
                continue  # somebody else's, who only invited them
            prints[series] = _print(meeting)
            what = self._finding(place, known, series, changed=before.get(series, prints[series]) != prints[series])
            if what:
                email = meeting.host_email or host
                task = Task(place=place, series=series, org_id=org_id, host_email=email, full=True, swept=True)
                await self._mark(known, task, what)
        # A list may lose a page: what it does not show is compared with the next one.
        remembered = {series: each for series, each in before.items() if self._ledger.series(place, series).meeting}
        known.prints[host] = remembered | prints

    async def _listed(self, place: Place, known: _Round, host: str) -> Sequence[Meeting]:
        """The host's meetings; none where Webex refuses them or does not answer. Raises WebexError where it refuses the
        token.
        """
        api, now = self._tenants[place.organization].sweeping, self._now()
        for attempt in range(1, TRIES + 1):
            try:
                return await api.list_meetings(since=now - BEHIND, until=now + AHEAD, host_email=host)
            except WebexError as error:
                if error.status == 401:
                    raise  # any other call is refused too
                if error.reaction not in (Reaction.RETRY, Reaction.RETRY_AFTER):
                    self._refuse(place, known, host, _about(error))
                    return ()
                self._log.warning("discovery.not_answered", organization=place.organization, **_about(error))
                if attempt < TRIES:
                    await asyncio.sleep(min(error.retry_after or 2.0**attempt, LONGEST_PAUSE, self._interval))
            except ValueError:  # what a notification gave as an address is none
                self._refuse(place, known, host, {"error": "ValueError"})
                return ()
        return ()

    def _refuse(self, place: Place, known: _Round, host: str, about: Mapping[str, object]) -> None:
        if host not in known.refused:
            whose = "host" if host else "own"
            self._log.warning("discovery.refused", organization=place.organization, meetings=whose, **about)
        known.refused[host] = _time()

    # --- what is new ----------------------------------------------------------------------------------------------

    def _finding(self, place: Place, known: _Round, series: str, *, changed: bool) -> str:
        """``meeting`` where it is not known, ``change`` where it is listed otherwise, "" where there is nothing to do."""
        if series in known.found:
            return ""  # another list of this round showed it too
        known_to_us = self._ledger.series(place, series).meeting
        if known_to_us is not None:
            return "change" if changed or known_to_us.missing is not None else ""
        waits = (place.partition, series) in self._backlog
        return "" if waits or (_time() - known.looked.get(series, _NEVER) < ASK_AGAIN and not changed) else "meeting"

    async def _mark(self, known: _Round, task: Task, what: str) -> None:
        key = task.place.partition, task.series
        while known.asked.count() >= AT_ONCE:  # noqa: ASYNC110 - the workers make room, and know nothing of us
            await asyncio.sleep(self._tick)
        self._ledger.partition(task.place)  # waiting takes time
        self._backlog.mark(task)
        known.asked.add(key)
        known.found.add(task.series)
        first = what == "change" or task.series not in known.looked
        if what == "meeting":
            known.looked[task.series] = _time()
        if first and not self._was_told(key, known):
            self._observer.swept_up(what, 1)
            self._log.info("discovery.found", organization=task.place.organization, series=task.series, what=what)

    def _was_told(self, key: Key, known: _Round) -> bool:
        """Whether a hint came since the round before this one began."""
        return key in self._told and self._told[key][0] >= max(known.before, known.began - 2 * self._interval)


def _time() -> float:
    return asyncio.get_running_loop().time()


def _address(email: str) -> str:
    return email.strip().lower()


def _series(meeting: Meeting) -> str | None:
    """A list may show the present occurrence in place of its series."""
    named = meeting.fields.get("meetingSeriesId")
    return series_of(named if isinstance(named, str) and named else meeting.id)


def _print(meeting: Meeting) -> int:
    """Differs where somebody changed the meeting. Only for this process: the fields have secrets in them."""
    fields = meeting.fields
    occurs = "recurrence" in fields or fields.get("meetingType") == "scheduledMeeting"
    ignored = _MOVING | _OF_OCCURRENCE if occurs else _MOVING
    kept = {name: value for name, value in fields.items() if name not in ignored}
    return hash(msgspec.json.encode(kept, order="deterministic"))


def _about(error: WebexError) -> dict[str, object]:
    return {"error": type(error).__name__, "status": error.status, "tracking_id": error.tracking_id}
