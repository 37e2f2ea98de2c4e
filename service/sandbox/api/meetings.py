"""``/meetings``: Meetings API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from service.core.identifiers import is_instance, is_series
from service.sandbox import guests, meetings
from service.sandbox.api.calls import Answer, Call, page_size, paged
from service.sandbox.meetings import View
from service.sandbox.records import SITE_URL, MeetingRecord, Stage
from service.sandbox.refusals import Refusal, invalid, not_found
from service.sandbox.tokens import machine_account
from service.sandbox.world import World, not_allowed

#: They go with ended instances alone ("List Meetings").
ENDED_ONLY = (
    "hasChat",
    "hasRecording",
    "hasTranscription",
    "hasSummary",
    "hasClosedCaption",
    "hasPolls",
    "hasQA",
    "hasSlido",
)
_WEEK = timedelta(days=7)


def create_meeting(world: World, call: Call) -> Answer:
    """ "Create a Meeting"."""
    world.take_quota(call.caller.org)
    if call.body.get("roomId") and not call.caller.may("spark:all"):
        raise Refusal(403, "The scope spark:all is required for a roomId.")
    meeting = world.create_meeting(call.body, call.host)
    return Answer(200, meetings.series_object(meeting, call.view(world)))


def _visible(world: World, meeting: MeetingRecord, lag: timedelta) -> MeetingRecord:
    """The meeting as a read shows it that is ``lag`` behind. Raises Refusal (404) where it is not there yet."""
    now = world.now()
    if lag and now - meeting.created < lag:
        raise not_found("The meeting could not be found.")
    if lag and meeting.before and meeting.changed and now - meeting.changed < lag:
        return meeting.before
    return meeting


def get_meeting(world: World, call: Call) -> Answer:
    """ "Get a Meeting": by the id of a series, of an occurrence or of an instance."""
    meeting = _visible(world, world.find_meeting(call.meeting_id, call.host), call.lag)
    view = call.view(world)
    if is_series(call.meeting_id):
        current = meetings.current_occurrence(meeting, now=view.now) if call.flag("current", default=False) else None
        if current is None:
            return Answer(200, meetings.series_object(meeting, view))
        return Answer(200, meetings.occurrence_object(meeting, current, view))
    for instance in meeting.instances:
        if instance.id == call.meeting_id.lower().replace("_i_", "_I_"):
            return Answer(200, meetings.instance_object(meeting, instance, view))
    if is_instance(call.meeting_id):
        raise not_found("The meeting could not be found.")
    occurrence = world.find_occurrence(meeting, call.meeting_id)
    assert occurrence is not None  # noqa: S101 - it is no series id
    return Answer(200, meetings.occurrence_object(meeting, occurrence, view))


def list_meetings(world: World, call: Call) -> Answer:
    """ "List Meetings"."""
    query, view = call.query, call.view(world)
    size = page_size(query)
    exclusive = [name for name in ("meetingNumber", "webLink", "roomId") if name in query]
    if len(exclusive) > 1:
        raise invalid("meetingNumber, webLink and roomId are mutually exclusive.")
    kind = query.get("meetingType", "meetingSeries")
    if any(name in query for name in ENDED_ONLY) and (kind, query.get("state")) != ("meeting", "ended"):
        raise invalid("has… goes with meetingType meeting and state ended.")
    everybody = kind == "meeting" and "hostEmail" not in query and call.caller.administers
    mine = [_shown(world, meeting, call.lag) for meeting in world.hosted(call.host, everybody=everybody)]
    found = [meeting for meeting in mine if meeting is not None]
    if exclusive and "meetingSeriesId" not in query:
        return Answer(200, {"items": _by_name(found, call, view, name=exclusive[0])})
    chosen = _series(found, query) if "meetingSeriesId" in query else _filtered(found, query)
    return paged(_items(chosen, call, view), query, size=size)


def _shown(world: World, meeting: MeetingRecord, lag: timedelta) -> MeetingRecord | None:
    try:
        return _visible(world, meeting, lag)
    except Refusal:
        return None


def _by_name(found: Sequence[MeetingRecord], call: Call, view: View, *, name: str) -> list[dict[str, Any]]:
    """By number, link or space: other filters are ignored; one occurrence or, with ``current`` false, the series."""
    of: Mapping[str, Callable[[MeetingRecord], object]] = {
        "meetingNumber": lambda meeting: meeting.number,
        "webLink": lambda meeting: meeting.web_link,
        "roomId": lambda meeting: meeting.settings.get("roomId"),
    }
    chosen = [meeting for meeting in found if of[name](meeting) == call.query[name].replace(" ", "")]
    if not call.flag("current", default=True):
        return [meetings.listed_object(meeting, view) for meeting in chosen]
    pairs = ((meeting, meetings.current_occurrence(meeting, now=view.now)) for meeting in chosen)
    return [meetings.occurrence_object(meeting, current, view) for meeting, current in pairs if current]


def _series(found: Sequence[MeetingRecord], query: Mapping[str, str]) -> Sequence[MeetingRecord]:
    wanted = query["meetingSeriesId"]
    if not is_series(wanted):
        raise not_allowed(wanted)
    chosen = [meeting for meeting in found if meeting.id == wanted.lower()]
    if not chosen:
        raise not_found("The meeting series could not be found.")
    return chosen


def _filtered(found: Sequence[MeetingRecord], query: Mapping[str, str]) -> Sequence[MeetingRecord]:
    def fits(meeting: MeetingRecord) -> bool:
        settings = meeting.settings
        return (
            query.get("scheduledType", settings.get("scheduledType", "meeting"))
            == settings.get("scheduledType", "meeting")
            and ("siteUrl" not in query or query["siteUrl"] == settings.get("siteUrl", SITE_URL))
            and ("integrationTag" not in query or query["integrationTag"] in settings.get("integrationTags", ()))
        )

    return [meeting for meeting in found if fits(meeting)]


def _items(chosen: Sequence[MeetingRecord], call: Call, view: View) -> list[dict[str, Any]]:
    query = call.query
    since, until = _range(query, now=view.now)
    items = [item for meeting in chosen for item in _each(meeting, call, view, since, until)]
    wanted = [item for item in items if query.get("state", item["state"]) == item["state"]]
    if "isModified" in query and query.get("meetingType") == "scheduledMeeting":
        wanted = [item for item in wanted if item["isModified"] is call.flag("isModified", default=False)]
    # Nothing of the kind ever happens in a meeting here.
    return [] if any(query.get(name) == "true" for name in ENDED_ONLY) else wanted


def _each(meeting: MeetingRecord, call: Call, view: View, since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
    """What of one series lies between ``since`` and ``until``; of a named series, all occurrences and instances."""
    kind = call.query.get("meetingType", "all" if "meetingSeriesId" in call.query else "meetingSeries")
    inside = [o for o in meetings.occurrences(meeting) if o.start < until and o.end > since]
    if kind == "meetingSeries" and inside:
        yield meetings.listed_object(meeting, view, current=call.flag("current", default=True))
    if kind in ("scheduledMeeting", "all"):
        yield from (meetings.occurrence_object(meeting, occurrence, view) for occurrence in inside)
    if kind in ("meeting", "all"):
        held = (i for i in meeting.instances if i.start < until and (i.end or view.now) >= since)
        yield from (meetings.instance_object(meeting, instance, view) for instance in held)


def _range(query: Mapping[str, str], *, now: datetime) -> tuple[datetime, datetime]:
    """``from`` and ``to`` of "List Meetings": 7 days from now on; for instances, the 7 days up to now."""
    past = query.get("meetingType") == "meeting"
    try:
        since, until = (datetime.fromisoformat(query[name]) if query.get(name) else None for name in ("from", "to"))
        since, until = (m.replace(tzinfo=UTC) if m and m.tzinfo is None else m for m in (since, until))
        since = since or (until - _WEEK if until else now - _WEEK if past else now)
        until = until or (now + timedelta(seconds=1) if past and "from" not in query else since + _WEEK)
    except (ValueError, OverflowError) as error:
        raise invalid("from or to is not a date and time in ISO 8601.") from error
    if since > until:
        raise invalid("from cannot be after to.")
    return since, until


def update_meeting(world: World, call: Call) -> Answer:
    """ "Update a Meeting" and "Patch a Meeting": what is left out stays, in both."""
    meeting, occurrence = world.update_meeting(call.meeting_id, call.body, call.host)
    view = call.view(world)
    if occurrence is not None:
        return Answer(200, meetings.occurrence_object(meeting, occurrence, view))
    return Answer(200, meetings.listed_object(meeting, view))


def delete_meeting(world: World, call: Call) -> Answer:
    """ "Delete a Meeting": a series or an occurrence."""
    world.delete_meeting(call.meeting_id, call.host, mail=call.flag("sendEmail", default=True))
    return Answer(204)


def end_meeting(world: World, call: Call) -> Answer:
    """Of a series it ends the occurrence in progress, by whichever of its ids."""
    meeting = world.find_meeting(call.meeting_id, call.host)
    if is_instance(call.meeting_id) and meeting.instance != call.meeting_id:
        raise not_found("The meeting could not be found.")
    world.end_meeting(meeting)
    return Answer(204)


def join_meeting(world: World, call: Call) -> Answer:
    """ "Join a Meeting"."""
    body = call.body
    meeting = _joined(world, call)
    _check_join(call, meeting)
    minutes = guests.minutes(body)
    join, expires = world.links.make(meeting.id, host=False, minutes=minutes)
    start, _ = world.links.make(meeting.id, host=True, minutes=minutes)
    world.ledger.affect_meeting(meeting.id, "links")
    links = {
        "startLink": meeting.web_link if body.get("createStartLinkAsWebLink") else f"{call.site}/start/{start}",
        "joinLink": meeting.web_link if body.get("createJoinLinkAsWebLink") else f"{call.site}/join/{join}",
    }
    if body.get("joinDirectly", True):
        return Answer(302, headers={"location": links["joinLink"]})
    if body.get("createStartLinkAsWebLink") and body.get("createJoinLinkAsWebLink"):
        return Answer(200, links)
    return Answer(200, {**links, "expiration": View(world.identity, world.now()).moment(expires)})


def _joined(world: World, call: Call) -> MeetingRecord:
    body = call.body
    given = [name for name in ("meetingId", "meetingNumber", "webLink") if name in body]
    if len(given) != 1:
        raise invalid("One of meetingId, meetingNumber and webLink is required; they are mutually exclusive.")
    if given == ["meetingId"]:
        meeting = world.find_meeting(body["meetingId"], call.host)
        world.find_occurrence(meeting, body["meetingId"])
        return meeting
    for meeting in world.hosted(call.host):
        if body[given[0]] in (meeting.number, meeting.web_link):
            return meeting
    raise not_found("The meeting could not be found.")


def _check_join(call: Call, meeting: MeetingRecord) -> None:
    """Raises Refusal (400)."""
    body = call.body
    own = call.caller.app and meeting.host == machine_account(call.caller.app)
    if call.caller.app and not own and not body.get("hostEmail"):
        raise invalid("hostEmail is required for a Service App.")
    if "displayName" in body and "email" not in body:
        raise invalid("email is required with displayName.")
    if len(body.get("displayName", "")) > 128:
        raise invalid("displayName has at most 128 characters.")
    if "email" in body and "@" not in body["email"]:
        raise invalid("email is not an e-mail address.")
    if "password" in body and body["password"] != meeting.password:
        raise invalid("password is not the meeting's.")
    if meeting.stage is Stage.ENDED:
        raise Refusal(400, "The meeting has ended.")
