"""Meetings as Webex takes and shows them. Pure: Meetings API, "Create a Meeting", "List Meetings", "Patch a Meeting"."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from service.sandbox.records import Identity, MeetingRecord, Stage
from service.sandbox.refusals import invalid

HOST_EMAIL = "host@example.com"
SITE_URL = "example.webex.com"

SHORTEST = timedelta(minutes=10)
LONGEST = timedelta(hours=24)
FURTHEST = timedelta(days=3652)

#: Fields that this simulation works out itself; a caller's value for one of them is ignored, as Webex does.
_DERIVED = {
    "id",
    "meetingNumber",
    "meetingType",
    "state",
    "start",
    "end",
    "timezone",
    "hostEmail",
    "siteUrl",
    "sendEmail",
}
_ERASABLE = {"agenda", "recurrence", "trackingCodes"}


def new_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a meeting to be created. Raises Refusal for a title, form or mix that Webex does not take."""
    _check_title(body.get("title"))
    settings = {name: value for name, value in body.items() if name not in _DERIVED and value is not None}
    if "registration" in settings:
        if settings.get("recurrence"):
            raise invalid("Registration is not available for recurring meetings.")
        settings["registration"] = _registration(settings["registration"])
    return settings


def patched_settings(settings: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after a partial update: null erases ``agenda``, ``recurrence`` and ``trackingCodes``; no ``registration``."""
    if "title" in body:
        _check_title(body["title"])
    changes = {name: value for name, value in body.items() if name not in _DERIVED and name != "registration"}
    nulls = {name for name, value in changes.items() if value is None}
    if nulls - _ERASABLE:
        raise invalid(f"{sorted(nulls - _ERASABLE)[0]} cannot be null.")
    return {name: value for name, value in {**settings, **changes}.items() if value is not None}


def times(body: Mapping[str, Any], *, now: datetime, current: MeetingRecord | None = None) -> tuple[datetime, datetime]:
    """Start and end of a meeting to be created or changed; what a patch leaves out stays."""
    zone = body.get("timezone") or "UTC"
    start = _moment(body, "start", zone) or (current.start if current else None)
    end = _moment(body, "end", zone) or (current.end if current else None)
    if start is None or end is None:
        raise invalid("start and end are required.")
    if not SHORTEST <= end - start <= LONGEST:
        raise invalid("A meeting lasts at least 10 minutes and at most 24 hours.")
    if (current is None or start != current.start) and not now - timedelta(minutes=1) <= start <= now + FURTHEST:
        raise invalid("start must not be in the past, nor 10 years away.")
    return start, end


def _check_title(title: object) -> None:
    if not isinstance(title, str) or not 1 <= len(title) <= 128:
        raise invalid("title is required and has at most 128 characters.")


def _moment(body: Mapping[str, Any], name: str, zone: object) -> datetime | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value).replace(second=0, microsecond=0)
        return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(str(zone)))).astimezone(UTC)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise invalid(f"{name} is not a date and time in ISO 8601.") from error


def _registration(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise invalid("registration must be an object.")
    questions = given.get("customizedQuestions", [])
    form = {"autoAcceptRequest": False, **given}
    form |= {"requireFirstName": True, "requireLastName": True, "requireEmail": True}
    if questions:
        form["customizedQuestions"] = [_question(n, question) for n, question in enumerate(questions, 1)]
    return form


def _question(n: int, question: object) -> dict[str, Any]:
    if not isinstance(question, dict) or not {"question", "type"} <= question.keys():
        raise invalid("A customized question has a question and a type.")
    options = [{"id": i, **option} for i, option in enumerate(question.get("options", []), 1)]
    return {"id": n, "required": False, **question} | ({"options": options} if options else {})


def series_object(meeting: MeetingRecord, identity: Identity, *, now: datetime) -> dict[str, Any]:
    """``MeetingSeriesObject``. The registration form is gone once the meeting is over ("Available Meeting Attributes")."""
    over = meeting.stage is Stage.ENDED or meeting.end <= now
    shown = {name: value for name, value in meeting.settings.items() if not (over and name == "registration")}
    register = {"registerLink": f"https://{SITE_URL}/weblink/register/r{meeting.id}"} if "registration" in shown else {}
    return {
        "password": "sandbox-password",
        "scheduledType": "meeting",
        "enabledBreakoutSessions": False,
        **shown,
        **register,
        **_common(meeting, identity),
        "id": meeting.id,
        "meetingType": "meetingSeries",
        "state": "expired" if over else "active",
    }


def listed_object(meeting: MeetingRecord, identity: Identity, *, now: datetime) -> dict[str, Any]:
    """``MeetingObjectForListMeeting`` of a series: names its series, and says of the form only that there is one."""
    shown = series_object(meeting, identity, now=now)
    form = shown.get("registration")
    if form is not None:
        shown["registration"] = {k: v for k, v in form.items() if k not in ("customizedQuestions", "rules")}
    return {**shown, "meetingSeriesId": meeting.id, "hasRegistration": form is not None}


def occurrence_object(meeting: MeetingRecord, identity: Identity, *, now: datetime) -> dict[str, Any]:
    """The one scheduled occurrence of a series."""
    state = "expired" if meeting.stage is Stage.ENDED or meeting.end <= now else "scheduled"
    mine = {"id": meeting.occurrence, "meetingType": "scheduledMeeting", "state": state}
    return {**listed_object(meeting, identity, now=now), **mine, "isModified": False}


def instance_object(meeting: MeetingRecord, identity: Identity, *, now: datetime) -> dict[str, Any]:
    """The instance that is or was held."""
    mine = {"id": meeting.instance, "meetingType": "meeting", "state": str(meeting.stage)}
    return {**listed_object(meeting, identity, now=now), **mine, "scheduledMeetingId": meeting.occurrence}


def _common(meeting: MeetingRecord, identity: Identity) -> dict[str, Any]:
    number = f"{2_550_000_000 + meeting.n}"
    return {
        "meetingNumber": number,
        "timezone": "UTC",
        "start": _text(meeting.start),
        "end": _text(meeting.end),
        "hostUserId": identity.public_id("PEOPLE"),
        "hostDisplayName": "Sandbox Host",
        "hostEmail": HOST_EMAIL,
        "hostKey": "123456",
        "siteUrl": SITE_URL,
        "webLink": f"https://{SITE_URL}/{SITE_URL.partition('.')[0]}/j.php?MTID=m{meeting.id}",
        "sipAddress": f"{number}@{SITE_URL}",
        "telephony": {"accessCode": number, "callInNumbers": []},
    }


def thin_object(meeting: MeetingRecord, identity: Identity, *, event: str) -> dict[str, Any]:
    """``data`` of a webhook: no title, no series id, no password (the shape of Cisco's ``meetings.ended`` sample)."""
    live = event in ("started", "ended")
    return {
        "id": meeting.instance if live else meeting.id,
        "meetingType": "meeting" if live else "meetingSeries",
        "timezone": "UTC",
        "start": _text(meeting.start),
        "end": _text(meeting.end),
        "hostUserId": identity.public_id("PEOPLE"),
        "state": str(meeting.stage) if live else "active",
        "hostEmail": HOST_EMAIL,
        "siteUrl": SITE_URL,
        "orgId": identity.uuid("ORGANIZATION"),
    }


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
