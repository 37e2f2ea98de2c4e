"""Meetings as Webex takes and shows them. Pure: Meetings API, "Create a Meeting", "List Meetings", "Patch a Meeting"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.sandbox import registration
from service.sandbox.records import SITE_URL, Identity, Instance, MeetingRecord, Stage, occurrence_id
from service.sandbox.recurrence import Recurrence
from service.sandbox.refusals import invalid

SHORTEST = timedelta(minutes=10)
LONGEST = timedelta(hours=23, minutes=59)
FURTHEST = timedelta(days=3652)

#: How long before its start a meeting is ``ready`` where joining before the host is not allowed.
READY = timedelta(minutes=15)

#: Fields that are not shown as they were given, or not at all.
_OWN = {"start", "end", "timezone", "hostEmail", "sendEmail", "adhoc", "templateId", "invitees", "breakoutSessions"}


# -- what is taken -----------------------------------------------------------------------------------------------------


def new_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a meeting to be created. Raises Refusal (400) for what Webex does not take."""
    if "title" not in body:
        raise invalid("title is required.")
    if body.get("adhoc") and not body.get("roomId"):
        raise invalid("roomId is required when adhoc is true.")
    _check(body)
    settings = {name: value for name, value in body.items() if name not in _OWN}
    if "simultaneousInterpretation" in settings:
        settings["simultaneousInterpretation"] = _interpretation(settings["simultaneousInterpretation"])
    if "registration" in settings:
        registration.check_available(settings)
        settings["registration"] = registration.new_form(settings["registration"])
    return settings


def changed_settings(settings: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after an update: what is left out stays, null erases; ``registration`` is not among what can be given."""
    _check(body)
    changes = {name: value for name, value in body.items() if name not in _OWN}
    return {name: value for name, value in {**settings, **changes}.items() if value is not None}


def _check(body: Mapping[str, Any]) -> None:
    """What the types of Cisco's OpenAPI do not say, but its descriptions do. Raises Refusal (400)."""
    if not 1 <= len(body.get("title", "x")) <= 128:
        raise invalid("title is required and has at most 128 characters.")
    if len(body.get("agenda") or "") > 1300:
        raise invalid("agenda has at most 1300 characters.")
    if len(body.get("invitees", ())) > 1000:
        raise invalid("A meeting has at most 1000 invitees.")
    tags = body.get("integrationTags", ())
    if len(tags) > 3 or any(len(tag) > 64 for tag in tags):
        raise invalid("integrationTags are at most 3, of at most 64 characters.")
    if not 5 <= body.get("visualWatermarkOpacity", 5) <= 80:
        raise invalid("visualWatermarkOpacity is 5 to 80.")
    if body.get("enabledLiveStream") and "liveStream" not in body:
        raise invalid("liveStream is required when enabledLiveStream is true.")
    early = (0, 15, 30, 45, 60) if body.get("scheduledType") == "webinar" else (0, 5, 10, 15)
    if body.get("joinBeforeHostMinutes", 0) not in early:
        raise invalid(f"joinBeforeHostMinutes is one of {', '.join(map(str, early))}.")
    if body.get("recurrence"):
        Recurrence.parse(body["recurrence"])


def times(
    body: Mapping[str, Any], *, now: datetime, current: tuple[datetime, datetime] | None = None
) -> tuple[datetime, datetime]:
    """Start and end of a meeting to be created or changed; what an update leaves out stays. Raises Refusal (400)."""
    zone = body.get("timezone") or "UTC"
    start = _moment(body, "start", zone) or (current[0] if current else None)
    end = _moment(body, "end", zone) or (current[1] if current else None)
    if start is None or end is None:
        raise invalid("start and end are required.")
    if not SHORTEST <= end - start <= LONGEST:
        raise invalid("A meeting lasts at least 10 minutes and at most 23 hours 59 minutes.")
    moved = current is None or start != current[0]
    if moved and not now - timedelta(minutes=1) <= start <= now + FURTHEST:
        raise invalid("start must not be in the past, nor 10 years away.")
    return start, end


def _moment(body: Mapping[str, Any], name: str, zone: str) -> datetime | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value).replace(second=0, microsecond=0)
        return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)
    except (ValueError, OverflowError, LookupError, OSError) as error:
        raise invalid(f"{name} is not a date and time in ISO 8601, or timezone is none.") from error


def _interpretation(given: Mapping[str, Any]) -> dict[str, Any]:
    interpreters = [{"id": str(n), **interpreter} for n, interpreter in enumerate(given.get("interpreters", ()), 1)]
    return {**given, "interpreters": interpreters}


# -- occurrences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Occurrence:
    """A scheduled meeting of a series, with what was changed for it alone."""

    id: str
    start: datetime
    end: datetime
    settings: Mapping[str, Any]
    modified: bool = False


def occurrences(meeting: MeetingRecord) -> Iterator[Occurrence]:
    """Those that were not deleted, in order; one for a meeting that does not recur."""
    rule = meeting.settings.get("recurrence")
    length = meeting.end - meeting.start
    for start in Recurrence.parse(rule).starts(meeting.start) if rule else (meeting.start,):
        id_ = occurrence_id(meeting.id, start)
        change = meeting.modified.get(id_)
        if change is not None:
            yield Occurrence(id_, change.start, change.end, change.settings, modified=True)
        elif id_ not in meeting.cancelled:
            yield Occurrence(id_, start, start + length, meeting.settings)


def current_occurrence(meeting: MeetingRecord, *, now: datetime) -> Occurrence | None:
    """The one in progress or to come next; the last one where all are over."""
    last = None
    for occurrence in occurrences(meeting):
        last = occurrence
        if occurrence.end > now:
            break
    return last


def is_over(meeting: MeetingRecord, *, now: datetime) -> bool:
    """Nothing of it is in progress or to come."""
    if meeting.stage is Stage.IN_PROGRESS:
        return False
    last = current_occurrence(meeting, now=now)
    return meeting.stage is Stage.ENDED or last is None or last.end <= now


# -- what is shown -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """For whom something is shown: ``site`` is where pages of this Webex are, ``zone`` the time zone of moments."""

    identity: Identity
    now: datetime
    site: str = f"https://{SITE_URL}"
    zone: ZoneInfo | None = None

    def moment(self, moment: datetime) -> str:
        """``2026-01-10T09:00:00Z``, or with the offset of the zone asked for."""
        if self.zone is None:
            return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        return moment.astimezone(self.zone).replace(microsecond=0).isoformat()


def series_object(meeting: MeetingRecord, view: View) -> dict[str, Any]:
    """``MeetingSeriesObject``. The registration form is gone once the meeting is over ("Available Meeting Attributes")."""
    over = is_over(meeting, now=view.now)
    mine = {"id": meeting.id, "meetingType": "meetingSeries", "state": "expired" if over else "active"}
    return _object(meeting, view, meeting.settings, (meeting.start, meeting.end), over=over) | mine


def listed_object(meeting: MeetingRecord, view: View, *, current: bool = False) -> dict[str, Any]:
    """``MeetingObjectForListMeeting`` of a series; ``current``: with the times of its current occurrence."""
    shown = _listed(series_object(meeting, view))
    occurrence = current_occurrence(meeting, now=view.now) if current else None
    if occurrence is not None:
        shown |= {"start": view.moment(occurrence.start), "end": view.moment(occurrence.end)}
    return {**shown, "meetingSeriesId": meeting.id}


def occurrence_object(meeting: MeetingRecord, occurrence: Occurrence, view: View) -> dict[str, Any]:
    """One scheduled occurrence of a series."""
    state = _occurrence_state(meeting, occurrence, now=view.now)
    over = state in ("ended", "missed")
    shown = _object(meeting, view, occurrence.settings, (occurrence.start, occurrence.end), over=over)
    mine = {"id": occurrence.id, "meetingType": "scheduledMeeting", "state": state, "meetingSeriesId": meeting.id}
    return _listed(shown) | mine | {"isModified": occurrence.modified}


def _occurrence_state(meeting: MeetingRecord, occurrence: Occurrence, *, now: datetime) -> str:
    held = [instance for instance in meeting.instances if instance.occurrence == occurrence.id]
    if held and held[-1].end is None:
        return "inProgress"
    if held or occurrence.end <= now:
        return "ended" if held else "missed"
    return "ready" if occurrence.start - READY <= now else "scheduled"


def instance_object(meeting: MeetingRecord, instance: Instance, view: View) -> dict[str, Any]:
    """An instance that is or was held."""
    times = (instance.start, instance.end or max(meeting.end, instance.start))
    shown = _listed(_object(meeting, view, meeting.settings, times, over=instance.end is not None))
    if instance.end is not None:
        shown["hasRegistration"] = meeting.registration is not None
    mine = {"id": instance.id, "meetingType": "meeting", "state": "ended" if instance.end else "inProgress"}
    return shown | mine | {"meetingSeriesId": meeting.id, "scheduledMeetingId": instance.occurrence}


def _object(
    meeting: MeetingRecord,
    view: View,
    settings: Mapping[str, Any],
    times: tuple[datetime, datetime],
    *,
    over: bool,
) -> dict[str, Any]:
    gone = ("registration", "trackingCodes") if over else ()
    shown = {name: value for name, value in settings.items() if name not in gone}
    register = {"registerLink": f"{view.site}/register/{meeting.id}"} if "registration" in shown else {}
    return {
        "scheduledType": "meeting",
        "enabledBreakoutSessions": False,
        "siteUrl": SITE_URL,
        **shown,
        **register,
        "password": meeting.password,
        "meetingNumber": meeting.number,
        "timezone": view.zone.key if view.zone else "UTC",
        "start": view.moment(times[0]),
        "end": view.moment(times[1]),
        "hostUserId": view.identity.public_id("PEOPLE"),
        "hostDisplayName": "Sandbox Host",
        "hostEmail": meeting.host,
        "hostKey": "123456",
        "webLink": meeting.web_link,
        "sipAddress": f"{meeting.number}@{SITE_URL}",
        "telephony": {"accessCode": meeting.number, "callInNumbers": []},
    }


def _listed(shown: Mapping[str, Any]) -> dict[str, Any]:
    """``MeetingObjectForListMeeting``: says of the form only that there is one, and what it requires."""
    form = shown.get("registration")
    kept = {name: value for name, value in shown.items() if name != "registerLink"}
    if form is None:
        return {**kept, "hasRegistration": False}
    short = {name: value for name, value in form.items() if name not in ("customizedQuestions", "rules")}
    return {**kept, "registration": short, "hasRegistration": True}


def thin_object(meeting: MeetingRecord, identity: Identity, *, event: str, org: str) -> dict[str, Any]:
    """``data`` of a webhook: no title, no series id, no password (the shape of Cisco's ``meetings.ended`` sample)."""
    live = meeting.instances[-1] if event in ("started", "ended") else None
    view = View(identity, meeting.created)
    start, end = (live.start, live.end or meeting.end) if live else (meeting.start, meeting.end)
    return {
        "id": live.id if live else meeting.id,
        "meetingType": "meeting" if live else "meetingSeries",
        "timezone": "UTC",
        "start": view.moment(start),
        "end": view.moment(end),
        "hostUserId": identity.public_id("PEOPLE"),
        "state": {"started": "inProgress", "ended": "ended"}.get(event, "active"),
        "hostEmail": meeting.host,
        "siteUrl": str(meeting.settings.get("siteUrl", SITE_URL)),
        "orgId": org,
    }
