"""The API's operations as a table: Cisco's operationId, method, path, and what the world does about it.

Handlers are plain functions of the world and a call. They raise Refusal for everything that Webex would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from service.sandbox import meetings
from service.sandbox.records import MeetingRecord, RegistrantRecord, Stage
from service.sandbox.refusals import invalid, not_found
from service.sandbox.registrants import Query, form, page, page_size, window
from service.sandbox.world import World, batch_ids


@dataclass(frozen=True)
class Call:
    """One request, read and authorised. ``lag``: how far behind reads are (a fault)."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    lag: timedelta
    batch_limit: int

    @property
    def meeting_id(self) -> str:
        """The path's meeting id, "" where it has none."""
        return self.path.get("meetingId", "")


@dataclass(frozen=True)
class Answer:
    """What goes back. ``following``: the query of the next page, where there is one."""

    status: int
    body: Any = None
    following: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[World, Call], Answer]


@dataclass(frozen=True)
class Operation:
    """One row of the table. ``id`` is Cisco's operationId; ``name`` is short, for faults."""

    id: str
    name: str
    method: str
    path: str
    handle: Handler


def _create_meeting(world: World, call: Call) -> Answer:
    meeting = world.create_meeting(call.body)
    return Answer(200, meetings.series_object(meeting, world.identity, now=world.now()))


def _get_meeting(world: World, call: Call) -> Answer:
    meeting = world.find_meeting(call.meeting_id)
    if call.lag and world.now() - meeting.created < call.lag:
        raise not_found("The meeting could not be found.")
    if call.meeting_id == meeting.id:
        return Answer(200, meetings.series_object(meeting, world.identity, now=world.now()))
    live = call.meeting_id == meeting.instance
    show = meetings.instance_object if live else meetings.occurrence_object
    return Answer(200, {**show(meeting, world.identity, now=world.now()), "id": call.meeting_id})


def _list_meetings(world: World, call: Call) -> Answer:
    size, offset = page_size(call.query), _offset(call.query)
    since, until = _range(call.query, now=world.now())
    overlapping = [m for m in world.meetings() if m.start < until and m.end > since]
    items = [item for m in overlapping for item in _listed(world, m, call.query.get("meetingType", "meetingSeries"))]
    wanted = [item for item in items if call.query.get("state", item["state"]) == item["state"]]
    following = {**call.query, "cursor": str(offset + size)} if len(wanted) > offset + size else {}
    return Answer(200, {"items": wanted[offset : offset + size]}, following)


def _listed(world: World, meeting: MeetingRecord, kind: str) -> Sequence[dict[str, Any]]:
    if kind == "meeting" and meeting.stage is Stage.SCHEDULED:
        return ()
    shows = {
        "meetingSeries": meetings.listed_object,
        "scheduledMeeting": meetings.occurrence_object,
        "meeting": meetings.instance_object,
    }
    if kind not in shows:
        raise invalid("meetingType has a value that is not known.")
    return (shows[kind](meeting, world.identity, now=world.now()),)


def _offset(query: Mapping[str, str]) -> int:
    text = query.get("cursor", "0")
    if not (text.isascii() and text.isdigit()):
        raise invalid("The cursor is not one of ours.")
    return int(text[:9])


def _range(query: Mapping[str, str], *, now: datetime) -> tuple[datetime, datetime]:
    """``from`` and ``to`` of "List Meetings": 7 days from now on; for instances, the 7 days up to now."""
    week = timedelta(days=7)
    past = query.get("meetingType") == "meeting"
    try:
        since, until = (datetime.fromisoformat(query[name]) if query.get(name) else None for name in ("from", "to"))
        since, until = (m.replace(tzinfo=UTC) if m and m.tzinfo is None else m for m in (since, until))
        since = since or (until - week if until else now - week if past else now)
        until = until or (now if past and "from" not in query else since + week)
    except (ValueError, OverflowError) as error:
        raise invalid("from or to is not a date and time in ISO 8601.") from error
    if since > until:
        raise invalid("from cannot be after to.")
    return since, until


def _patch_meeting(world: World, call: Call) -> Answer:
    meeting = world.update_meeting(call.meeting_id, call.body)
    return Answer(200, meetings.listed_object(meeting, world.identity, now=world.now()))


def _delete_meeting(world: World, call: Call) -> Answer:
    world.delete_meeting(call.meeting_id)
    return Answer(204)


def _visible(world: World, call: Call) -> Sequence[RegistrantRecord]:
    everybody = world.registrants(world.find_series(call.meeting_id))
    return [r for r in everybody if r.registered <= world.now() - call.lag] if call.lag else everybody


def _list_registrants(world: World, call: Call) -> Answer:
    since, until = window(call.query, now=world.now())
    email = call.query.get("email", "").casefold()
    found = [r for r in _visible(world, call) if since <= r.registered < until and email in ("", r.email)]
    part = page(found, size=page_size(call.query), cursor=call.query.get("cursor", ""))
    # The window goes along, or it would move between two pages.
    bounds = {"registrationTimeFrom": _text(since), "registrationTimeTo": _text(until)}
    following = {**call.query, **bounds, "cursor": part.following} if part.following else {}
    return Answer(200, {"items": [world.view(r, lag=call.lag) for r in part.items]}, following)


def _query_registrants(world: World, call: Call) -> Answer:
    query = Query.from_body(call.body)
    size = page_size(call.query)
    everybody = _visible(world, call)
    return Answer(200, {"items": query.answer(world.view(r, lag=call.lag) for r in everybody)[:size]})


def _register(world: World, call: Call) -> Answer:
    meeting = world.find_series(call.meeting_id)
    registrant = world.register(meeting, form(call.body), mail=send_email(call.body))
    return Answer(200, world.view(registrant))


def _bulk_insert(world: World, call: Call) -> Answer:
    meeting = world.find_series(call.meeting_id)
    items = call.body.get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= call.batch_limit:
        raise invalid(f"items must hold 1 to {call.batch_limit} entries.")
    forms = [form(item) for item in items]
    world.check_room(meeting, forms)
    mails = [send_email(item) for item in items]
    registered = [world.register(meeting, form, mail=mail) for form, mail in zip(forms, mails, strict=True)]
    return Answer(200, {"items": [world.view(registrant) for registrant in registered]})


def _get_registrant(world: World, call: Call) -> Answer:
    world.registrants(world.find_series(call.meeting_id))
    registrant = world.find_registrant(world.find_series(call.meeting_id), call.path["registrantId"])
    return Answer(200, world.view(registrant, lag=call.lag))


def _delete_registrant(world: World, call: Call) -> Answer:
    meeting = world.find_series(call.meeting_id)
    world.delete_registrants(meeting, [world.find_registrant(meeting, call.path["registrantId"]).id])
    return Answer(204)


def _approve(world: World, call: Call) -> Answer:
    return _change_status(world, call, verb="approve")


def _reject(world: World, call: Call) -> Answer:
    return _change_status(world, call, verb="reject")


def _cancel(world: World, call: Call) -> Answer:
    return _change_status(world, call, verb="cancel")


def _change_status(world: World, call: Call, *, verb: str) -> Answer:
    meeting = world.find_series(call.meeting_id)
    world.registrants(meeting)
    ids = batch_ids(call.body, limit=call.batch_limit)
    world.change_status(meeting, verb, ids, send_email=send_email(call.body))
    return Answer(204)


def _bulk_delete(world: World, call: Call) -> Answer:
    meeting = world.find_series(call.meeting_id)
    world.delete_registrants(meeting, batch_ids(call.body, limit=call.batch_limit))
    return Answer(204)


def send_email(body: Mapping[str, Any]) -> bool:
    """``sendEmail``: true where it is not given. Raises Refusal where it is no boolean."""
    value = body.get("sendEmail", True)
    if not isinstance(value, bool):
        raise invalid("sendEmail must be true or false.")
    return value


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


_MEETING = "/meetings/{meetingId}"
_REGISTRANTS = f"{_MEETING}/registrants"

OPERATIONS = (
    Operation("createMeeting", "createMeeting", "POST", "/meetings", _create_meeting),
    Operation("listMeetings", "listMeetings", "GET", "/meetings", _list_meetings),
    Operation("getMeetingById", "getMeeting", "GET", _MEETING, _get_meeting),
    Operation("patchMeeting", "patchMeeting", "PATCH", _MEETING, _patch_meeting),
    Operation("deleteMeeting", "deleteMeeting", "DELETE", _MEETING, _delete_meeting),
    Operation("listMeetingRegistrants", "list", "GET", _REGISTRANTS, _list_registrants),
    Operation("createRegistrant", "register", "POST", _REGISTRANTS, _register),
    Operation("queryMeetingRegistrants", "query", "POST", f"{_REGISTRANTS}/query", _query_registrants),
    Operation("createRegistrants", "bulkInsert", "POST", f"{_REGISTRANTS}/bulkInsert", _bulk_insert),
    Operation("batchApproveMeetingRegistrants", "approve", "POST", f"{_REGISTRANTS}/approve", _approve),
    Operation("batchRejectMeetingRegistrants", "reject", "POST", f"{_REGISTRANTS}/reject", _reject),
    Operation("batchCancelMeetingRegistrants", "cancel", "POST", f"{_REGISTRANTS}/cancel", _cancel),
    Operation("batchDeleteMeetingRegistrants", "bulkDelete", "POST", f"{_REGISTRANTS}/bulkDelete", _bulk_delete),
    Operation("getRegistrant", "get", "GET", f"{_REGISTRANTS}/{{registrantId}}", _get_registrant),
    Operation("deleteRegistrant", "delete", "DELETE", f"{_REGISTRANTS}/{{registrantId}}", _delete_registrant),
)
