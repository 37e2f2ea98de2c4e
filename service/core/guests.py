"""Guest-to-guest meetings: what may be sponsored, whether the licence has room for it, and who gets which link.

A Service App sponsors meetings between people without a licence. Its licence counts the meetings that are in progress at
the same time ("Guest to Guest Overview", Webex for Developers), so a meeting reserves one place from the moment people can
join until its end. Nothing here is stored: reservations are what Webex lists, corrected by the set of instances in progress.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import structs

from service.core.identifiers import is_instance, series_of

#: On every sponsored meeting (``integrationTags``), so that they can be listed. Whoever puts it on a meeting of their own
#: makes that one count too.
SPONSORED = "webex-events-sponsored"

#: How long a meeting that is in progress beyond its end, or whose end is not known, is expected to go on.
OVERRUN = timedelta(minutes=30)

#: REST may lag a webhook by 10 minutes (Webhooks guide), lists of instances by 15 (Meetings API, "List Meetings").
SETTLING = timedelta(minutes=15)

#: How long news of an instance mean anything. A meeting lasts a day at most; so its end is remembered for longer, and a
#: ``started`` that is older (a replay) opens nothing.
REMEMBERED = timedelta(days=2)

#: A guest-to-guest meeting takes 400 people ("Guest to Guest Overview"); one of them is the host.
MOST_GUESTS = 399

SHORTEST = timedelta(minutes=10)
LONGEST = timedelta(hours=23, minutes=59)
FURTHEST = timedelta(days=3650)

#: What an instance that uses a place is said to be (Meetings guide, "Meeting States").
_LIVE_STATES = frozenset({"inProgress", "lobby"})
#: ... and a meeting that cannot be held any more.
_OVER_STATES = frozenset({"ended", "expired", "missed"})

_TAGS, _TAG_CHARACTERS = 3, 64
_OUR_TAGS = 2
_TAG_PREFIX = "webex-events-"
_JOIN_BEFORE_HOST = (0, 5, 10, 15)
_UTC_NAMES = frozenset({"utc", "etc/utc", "gmt"})

#: Create fields that a sponsored meeting cannot have, and why.
_EXCLUDED: Mapping[str, str] = {
    "adhoc": "Webex does not list ad-hoc meetings, so no place can be reserved for them",
    "roomId": "space-backed guest meetings do not exist any more",
    "recurrence": "a place is reserved for one meeting, not for a series",
    "hostEmail": "the Service App itself is the host",
}


class Private(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what belongs in no log: shows only its type."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


# --- what is asked for ----------------------------------------------------------------------------------------------------

_Email = Annotated[str, msgspec.Meta(pattern=r"^[^@\s]+@[^@\s]+$", max_length=320)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Person(Private, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody without a licence. Both fields are needed: for one left out, Webex shows the Service App's own."""

    email: _Email
    displayName: _Name  # noqa: N815 - Webex's name


class SponsorBody(Private, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be sponsored: ``meeting`` holds fields of "Create a Meeting" by Webex's names.

    ``expirationMinutes`` is how long the links can be used, 1 to 60 (Meetings API, "Join a Meeting"); ``tokens`` asks for a
    guest token for everybody.
    """

    meeting: dict[str, Any]
    host: Person
    guests: Annotated[tuple[Person, ...], msgspec.Meta(min_length=1, max_length=MOST_GUESTS)]
    expirationMinutes: Annotated[int, msgspec.Meta(ge=1, le=60)] = 60  # noqa: N815 - Webex's name
    tokens: bool = False

    @property
    def people(self) -> tuple[Person, ...]:
        """The host first, then the guests."""
        return (self.host, *self.guests)


class Refused(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag="refused", tag_field="outcome"):
    """Not sponsored; nothing was created. ``reason``: ``invalidBody``, ``licenceFull``, ``keyReused`` or ``meetingOver``.

    ``message`` is a sentence without personal data. ``free_at``: where the licence is full, the earliest ``start`` for which
    the same meeting would have a place by what is known now.
    """

    reason: str
    message: str
    free_at: datetime | None = None


def read(body: object, *, now: datetime) -> SponsorBody | Refused:
    """What ``body`` (decoded JSON) asks for, or the reason why it cannot be sponsored. Total; names fields, never values."""
    try:
        wanted = msgspec.convert(body, SponsorBody)
        msgspec.json.encode(body)
    except msgspec.ValidationError as error:
        return Refused(reason="invalidBody", message=str(error))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return Refused(reason="invalidBody", message="The body is not JSON")
    problems = [*_problems_of(wanted.meeting, now=now), *_doubles(wanted.people)]
    return Refused(reason="invalidBody", message="; ".join(problems)) if problems else wanted


def begun(wanted: SponsorBody, *, now: datetime) -> Refused | None:
    """The refusal where it begins in the past: Webex makes no such meeting, but one that was made before still gives links."""
    start = _time_asked(wanted.meeting, "start")
    if start is not None and start >= _minute(now):
        return None
    return Refused(reason="invalidBody", message="meeting.start: is in the past")


def _doubles(people: Sequence[Person]) -> Iterator[str]:
    if len({person.email.casefold() for person in people}) < len(people):
        yield "every person needs an e-mail address of their own"


def _problems_of(meeting: Mapping[str, Any], *, now: datetime) -> Iterator[str]:
    yield from (f"meeting.{name}: {why}" for name, why in _EXCLUDED.items() if meeting.get(name) not in (None, False))
    if meeting.get("scheduledType", "meeting") != "meeting":
        yield "meeting.scheduledType: only a meeting can be sponsored"
    title = meeting.get("title")
    if not isinstance(title, str) or not 1 <= len(title) <= 128:
        yield "meeting.title: is required and has at most 128 characters"
    yield from _problems_of_times(meeting, now=now)
    yield from _problems_of_joining(meeting)
    yield from _problems_of_tags(meeting.get("integrationTags", []))


def _problems_of_times(meeting: Mapping[str, Any], *, now: datetime) -> Iterator[str]:
    start, end = _time_asked(meeting, "start"), _time_asked(meeting, "end")
    for name, moment in (("start", start), ("end", end)):
        if moment is None:
            yield f"meeting.{name}: is required, in ISO 8601 with an offset, such as 2030-01-01T10:00:00Z"
    if start is None or end is None:
        return
    if not now < end < now + FURTHEST:
        yield "meeting.end: is in the past, or 10 years away"
    if not SHORTEST <= _minute(end) - _minute(start) <= LONGEST:
        yield "meeting.end: a meeting lasts at least 10 minutes and at most 23 hours 59 minutes"


def _problems_of_joining(meeting: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(meeting.get("enabledJoinBeforeHost", False), bool):
        yield "meeting.enabledJoinBeforeHost: is true or false"
    minutes = meeting.get("joinBeforeHostMinutes", 0)
    if isinstance(minutes, bool) or minutes not in _JOIN_BEFORE_HOST:
        yield "meeting.joinBeforeHostMinutes: is 0, 5, 10 or 15"


def _problems_of_tags(tags: object) -> Iterator[str]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and 0 < len(tag) <= _TAG_CHARACTERS for tag in tags):
        yield "meeting.integrationTags: is a list of texts of at most 64 characters"
    elif len(set(tags) - {SPONSORED}) > _TAGS - _OUR_TAGS:
        yield "meeting.integrationTags: Webex takes 3 tags, and two of them are ours; one is left"
    elif any(tag.startswith(_TAG_PREFIX) for tag in tags if tag != SPONSORED):
        yield f"meeting.integrationTags: those that begin with {_TAG_PREFIX} are ours"


def _time_asked(meeting: Mapping[str, Any], name: str) -> datetime | None:
    """A time without an offset is UTC where no other ``timezone`` is given; otherwise it needs one."""
    moment, zone = _parsed(meeting.get(name)), meeting.get("timezone", "UTC")
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC) if isinstance(zone, str) and zone.lower() in _UTC_NAMES else None


def _parsed(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def moment(value: object) -> datetime | None:
    """A time that Webex shows, in UTC; None for anything else. Webex's lists are in UTC unless asked otherwise."""
    parsed = _parsed(value)
    if parsed is None:
        return None
    try:
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        return None


def _minute(value: datetime) -> datetime:
    """Webex schedules to the minute: seconds are cut off."""
    return value.replace(second=0, microsecond=0)


# --- marks on meetings ----------------------------------------------------------------------------------------------------


def marker(key: str, meeting: Mapping[str, Any]) -> str:
    """The ``integrationTag`` by which the meeting made for ``key`` is found again; it also tells another meeting apart."""
    digest = hashlib.sha256(msgspec.json.encode(meeting, order="sorted")).hexdigest()
    return f"{_key_tag(key)}{digest[:12]}"


def _key_tag(key: str) -> str:
    return f"{_TAG_PREFIX}{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}-"


def made_for(key: str, meetings: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The one of ``meetings`` that was made for ``key``, whatever else was asked for then."""
    return next((meeting for meeting in meetings if any(is_for(key, tag) for tag in tags_of(meeting))), None)


def is_for(key: str, mark: str) -> bool:
    """Whether ``mark`` was made for ``key``, for whatever meeting."""
    return mark.startswith(_key_tag(key))


def tags_of(meeting: Mapping[str, Any]) -> frozenset[str]:
    """The ``integrationTags`` of a meeting."""
    tags = meeting.get("integrationTags")
    return frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset()


def create_body(wanted: SponsorBody, mark: str) -> dict[str, Any]:
    """The body of "Create a Meeting": as asked, with our two tags.

    ``sendEmail`` is always sent; where it is not given it is false, as whoever sponsors hands out the links. Times without
    an offset get ``Z``.
    """
    meeting = {"sendEmail": False, **wanted.meeting}
    for name in ("start", "end"):
        if (given := _parsed(meeting[name])) and given.tzinfo is None:
            meeting[name] = given.replace(tzinfo=UTC).isoformat()
    tags = dict.fromkeys([SPONSORED, mark, *meeting.get("integrationTags", [])])
    return {**meeting, "integrationTags": list(tags)}


def is_over(meeting: Mapping[str, Any]) -> bool:
    """Whether Webex says that it cannot be held any more."""
    return meeting.get("state") in _OVER_STATES


def is_live(meeting: Mapping[str, Any]) -> bool:
    """Whether Webex says that it is in progress."""
    return meeting.get("state") in _LIVE_STATES


# --- the licence ----------------------------------------------------------------------------------------------------------


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """One place from ``since`` up to, and without, ``until``.

    ``series`` names the meeting: its series id, or its marker while it does not exist yet.
    ``early`` is how long before its start a meeting can be joined.
    """

    series: str
    since: datetime
    until: datetime
    early: timedelta = timedelta(0)


def reservation_of(meeting: Mapping[str, Any], *, series: str | None = None) -> Reservation | None:
    """The place that a meeting takes: from its start, less ``joinBeforeHostMinutes`` where that is enabled, to its end.

    ``meeting`` is as Webex shows it, or as it is asked for (then ``series`` is its name). None for one that is over, is no
    meeting series, or has no times.
    """
    name = series if series is not None else series_of(str(meeting.get("id", "")))
    start, end = moment(meeting.get("start")), moment(meeting.get("end"))
    if name is None or start is None or end is None or is_over(meeting):
        return None
    early = _early(meeting)
    return Reservation(series=name, since=_minute(start) - early, until=_minute(end), early=early)


def _early(meeting: Mapping[str, Any]) -> timedelta:
    minutes = meeting.get("joinBeforeHostMinutes")
    if meeting.get("enabledJoinBeforeHost") is not True or not isinstance(minutes, int | float):
        return timedelta(0)
    return timedelta(minutes=min(max(minutes, 0), 60))


class Instance(Private, frozen=True, kw_only=True):
    """A meeting in progress. ``host`` is as of :func:`host_of`, ``heard`` when we first knew of it."""

    id: str
    series: str
    host: str
    heard: datetime
    start: datetime | None = None
    end: datetime | None = None


def instance_of(meeting: Mapping[str, Any], *, heard: datetime) -> Instance | None:
    """From the ``data`` of ``meetings.started`` or an item of a list; None where there is no id. Nothing else is required."""
    id_ = _text(meeting.get("id"))
    if id_ is None:
        return None
    scheduled, begun = moment(meeting.get("end")), moment(meeting.get("start"))
    known = scheduled if scheduled and (begun is None or scheduled > begun) else None
    series = series_of(id_) or id_
    return Instance(id=id_, series=series, host=host_of(meeting), heard=heard, start=begun, end=known)


def host_of(meeting: Mapping[str, Any]) -> str:
    """Whose meeting it is: the host's address, as it is compared, else Webex's id of the host, else ""."""
    return (_text(meeting.get("hostEmail")) or "").casefold() or _text(meeting.get("hostUserId")) or ""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """There is room. ``greatest``: with it, the most places taken at any one time while it may be held."""

    greatest: int


def admit(
    wanted: Reservation, reserved: Iterable[Reservation], in_progress: Iterable[Instance], licence: int, now: datetime
) -> Admitted | Refused:
    """Whether ``wanted`` fits into a licence for so many meetings at the same time.

    A series takes one place however often it occurs here; what ``wanted`` itself has reserved already does not count
    against it. Intervals are half-open: a meeting that ends at 11:00 makes room for one that begins at 11:00.
    """
    others = [one for one in reserved if one.series != wanted.series]
    live = [one for one in in_progress if one.series != wanted.series]
    taken = _taken(others, live, now)
    begin, length = max(wanted.since, now), wanted.until - wanted.since
    greatest = greatest_overlap(taken, begin, max(wanted.until, begin)) + 1
    if greatest <= licence:
        return Admitted(greatest=greatest)
    free = _first_fit(taken, begin, length, licence)
    start = _next_minute(free) + wanted.early if free is not None else None
    return Refused(reason="licenceFull", message=_full(greatest - 1, licence, start), free_at=start)


def _full(taken: int, licence: int, free_at: datetime | None) -> str:
    later = f"; by what is known now there is room from {free_at:%Y-%m-%dT%H:%M}Z on" if free_at else ""
    return f"The licence is full: {taken} of {licence} places are taken by sponsored or running meetings then{later}"


_Interval = tuple[datetime, datetime]


def _taken(reserved: Iterable[Reservation], live: Iterable[Instance], now: datetime) -> list[_Interval]:
    """The intervals in which a place is taken, those of one series never overlapping. The past is left out."""
    of_series: dict[str, list[_Interval]] = defaultdict(list)
    for one in reserved:
        of_series[one.series].append((one.since, one.until))
    planned = {series: [until for since, until in of if since <= now < until] for series, of in of_series.items()}
    for instance in live:
        end = instance.end if instance.end and instance.end > now else now + OVERRUN
        of_series[instance.series].append((now, max(planned.get(instance.series, []), default=end)))
    return [interval for intervals in of_series.values() for interval in _united(intervals) if interval[1] > now]


def _united(intervals: Iterable[_Interval]) -> Iterator[_Interval]:
    since = until = None
    for begin, end in sorted(intervals):
        if since is None or until is None or begin > until:
            if since is not None and until is not None:
                yield since, until
            since, until = begin, end
        else:
            until = max(until, end)
    if since is not None and until is not None:
        yield since, until


def greatest_overlap(intervals: Iterable[_Interval], begin: datetime, end: datetime) -> int:
    """How many of ``intervals`` hold at the same time, at most, between ``begin`` and ``end``; all are half-open."""
    inside = [(max(since, begin), min(until, end)) for since, until in intervals if since < end and until > begin]
    # At one moment those that end (-1) come before those that begin (+1).
    steps = sorted([(since, 1) for since, _ in inside] + [(until, -1) for _, until in inside])
    count = greatest = 0
    for _, step in steps:
        count += step
        greatest = max(greatest, count)
    return greatest


def _first_fit(taken: Sequence[_Interval], begin: datetime, length: timedelta, licence: int) -> datetime | None:
    """The first moment from which there is room for ``length``: a place only becomes free where one ends."""
    if licence < 1:
        return None
    moments = sorted({until for _, until in taken if until > begin})
    return next((at for at in moments if greatest_overlap(taken, at, at + length) < licence), None)


def _next_minute(value: datetime) -> datetime:
    cut = _minute(value)
    return cut if cut == value else cut + timedelta(minutes=1)


# --- the set of instances in progress -------------------------------------------------------------------------------------


class InProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Which instances are in progress: a set of ids, so that repeated and reordered news change nothing.

    ``over`` remembers since when an id is known to have ended; that is final for an instance.
    """

    live: Mapping[str, Instance] = {}
    over: Mapping[str, datetime] = {}

    def started(self, instance: Instance) -> InProgress:
        """``meetings.started`` was heard, once or again, before or after its ``ended``."""
        begun = instance.start or instance.heard
        if instance.id in self.live or instance.id in self.over or instance.heard - begun >= REMEMBERED:
            return self
        return structs.replace(self, live={**self.live, instance.id: instance})

    def ended(self, id_: str, *, at: datetime) -> InProgress:
        """``meetings.ended`` was heard, or Webex shows it as ended. Only ids of instances are remembered: others recur."""
        live = {each: instance for each, instance in self.live.items() if each != id_}
        over = {each: since for each, since in self.over.items() if at - since < REMEMBERED}
        if is_instance(id_):
            over.setdefault(id_, at)
        return InProgress(live=live, over=over)

    def reconciled(self, listed: Iterable[Instance], gone: Iterable[str], *, at: datetime) -> InProgress:
        """Corrected by what Webex shows: ``listed`` are in progress, ``gone`` have ended or do not exist."""
        corrected = InProgress(
            live={id_: one for id_, one in self.live.items() if at - one.heard < REMEMBERED}, over=self.over
        )
        for id_ in gone:
            corrected = corrected.ended(id_, at=at)
        for instance in listed:
            corrected = corrected.started(instance)
        return corrected


# --- who gets which link --------------------------------------------------------------------------------------------------


class Credentials(Private, frozen=True, kw_only=True, rename="camel"):
    """What one person needs to take part. Secret, all of it.

    ``start_link`` makes whoever opens it the host; only the host has one. ``expiration`` is until when the links can be used,
    as Webex writes it. ``access_token`` and ``expires_in`` (seconds) are of the guest token, where one was asked for.
    """

    email: str
    display_name: str
    join_link: str = ""
    start_link: str | None = None
    expiration: str | None = None
    access_token: str | None = None
    expires_in: int | None = None


def join_body(meeting: Mapping[str, Any], person: Person, *, minutes: int) -> dict[str, Any]:
    """The body of "Join a Meeting" for one person.

    ``joinDirectly`` must be false, or Webex answers with a redirect. ``hostEmail`` is required of a Service App, and is the
    host's that Webex shows for the meeting; so is the password.
    """
    shown = {name: meeting[name] for name in ("password", "hostEmail") if isinstance(meeting.get(name), str)}
    return {
        "meetingId": meeting["id"],
        "joinDirectly": False,
        "email": person.email,
        "displayName": person.displayName,
        "expirationMinutes": minutes,
        **shown,
    }


def credentials(person: Person, links: Mapping[str, Any], *, host: bool) -> Credentials | None:
    """What ``person`` gets of the answer of "Join a Meeting", or None where the link they need is missing.

    Webex gives a ``startLink`` with every answer to the host's own token: a guest must never see it.
    """
    join, start, expiration = (_text(links.get(name)) for name in ("joinLink", "startLink", "expiration"))
    if not join or (host and not start):
        return None
    return Credentials(
        email=person.email,
        display_name=person.displayName,
        join_link=join,
        start_link=start if host else None,
        expiration=expiration,
    )


def expire_early(meeting: Mapping[str, Any], given: Iterable[Credentials]) -> bool:
    """Whether a link ends before the meeting can be joined: links last an hour at most."""
    reservation = reservation_of(meeting)
    ends = [end for each in given if (end := moment(each.expiration))]
    return reservation is not None and any(end <= reservation.since for end in ends)


def with_token(given: Credentials, guest: Mapping[str, Any]) -> Credentials | None:
    """``given`` with the token of "Create a Guest", or None where there is none."""
    token, seconds = _text(guest.get("accessToken")), guest.get("expiresIn")
    if not token:
        return None
    return structs.replace(given, access_token=token, expires_in=int(seconds) if isinstance(seconds, int) else None)


def guest_body(person: Person) -> dict[str, str]:
    """The body of "Create a Guest". The subject is the same for the same address, and is not the address."""
    digest = hashlib.sha256(person.email.casefold().encode("utf-8", "surrogatepass")).hexdigest()
    return {"subject": f"guest-{digest[:32]}", "displayName": person.displayName}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
