"""``…/registrants`` and ``…/registration`` of a meeting: Meetings API. Series ids alone are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from service.sandbox import registration
from service.sandbox.api.calls import Answer, Call, page_size
from service.sandbox.records import MeetingRecord, RegistrantRecord
from service.sandbox.refusals import Refusal, invalid, not_found
from service.sandbox.registrants import Page, Query, form, page, shown, window
from service.sandbox.world import World


def _meeting(world: World, call: Call) -> MeetingRecord:
    return world.find_series(call.meeting_id, call.host)


def _view(world: World, call: Call, registrant: RegistrantRecord) -> dict[str, Any]:
    return shown(registrant, changed_before=world.now() - call.lag)


def _visible(world: World, call: Call) -> Sequence[RegistrantRecord]:
    everybody = world.registry.of(_meeting(world, call))
    return [r for r in everybody if r.registered <= world.now() - call.lag] if call.lag else everybody


def list_registrants(world: World, call: Call) -> Answer:
    """ "List Meeting Registrants"."""
    since, until = window(call.query, now=world.now())
    email = call.query.get("email", "").casefold()
    found = [r for r in _visible(world, call) if since <= r.registered < until and email in ("", r.email)]
    part = page(found, size=page_size(call.query), cursor=call.query.get("cursor", ""))
    if call.loses_page:
        part = page(found, size=page_size(call.query), cursor=part.following) if part.following else Page((), "")
    # The window goes along, or it would move between two pages.
    bounds = {"registrationTimeFrom": _text(since), "registrationTimeTo": _text(until)}
    following = {**call.query, **bounds, "cursor": part.following} if part.following else {}
    return Answer(200, {"items": [_view(world, call, r) for r in part.items]}, following=following)


def query_registrants(world: World, call: Call) -> Answer:
    """ "Query Meeting Registrants"."""
    query, size = Query.from_body(call.body), page_size(call.query)
    named = (r for r in _visible(world, call) if r.email in query.emails)
    return Answer(200, {"items": query.answer(_view(world, call, r) for r in named)[:size]})


def register(world: World, call: Call) -> Answer:
    """ "Register a Meeting Registrant"."""
    meeting = _meeting(world, call)
    given = _checked(meeting, call.body)
    registrant = world.registry.register(meeting, given, mail=call.body.get("sendEmail", True))
    return Answer(200, shown(registrant, changed_before=world.now()))


def _checked(meeting: MeetingRecord, body: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a form that has what the meeting asks for. Raises Refusal (400)."""
    given = form(body)
    registration.check_answers(meeting.registration or {}, given)
    return given


def bulk_insert(world: World, call: Call) -> Answer:
    """ "Batch Register Meeting Registrants": all of them or none."""
    meeting, items = _meeting(world, call), call.body["items"]
    if not 1 <= len(items) <= call.batch_limit:
        raise invalid(f"items must hold 1 to {call.batch_limit} entries.")
    forms = [_checked(meeting, item) for item in items]
    world.registry.check_room(meeting, forms)
    mails = [item.get("sendEmail", True) for item in items]
    registered = [world.registry.register(meeting, form, mail=mail) for form, mail in zip(forms, mails, strict=True)]
    return Answer(200, {"items": [shown(registrant, changed_before=world.now()) for registrant in registered]})


def get_registrant(world: World, call: Call) -> Answer:
    """ "Get Detailed Information for a Meeting Registrant"."""
    meeting = _meeting(world, call)
    world.registry.of(meeting)
    return Answer(200, _view(world, call, world.registry.find(meeting, call.path["registrantId"])))


def delete_registrant(world: World, call: Call) -> Answer:
    """ "Delete a Meeting Registrant"."""
    meeting = _meeting(world, call)
    world.registry.delete(meeting, [world.registry.find(meeting, call.path["registrantId"]).id])
    return Answer(204)


def approve(world: World, call: Call) -> Answer:
    """ "Batch Approve Meeting Registrants"."""
    return _change_status(world, call, verb="approve")


def reject(world: World, call: Call) -> Answer:
    """ "Batch Reject Meeting Registrants"."""
    return _change_status(world, call, verb="reject")


def cancel(world: World, call: Call) -> Answer:
    """ "Batch Cancel Meeting Registrants": back to pending."""
    return _change_status(world, call, verb="cancel")


def _change_status(world: World, call: Call, *, verb: str) -> Answer:
    meeting = _meeting(world, call)
    world.registry.of(meeting)
    world.registry.change_status(meeting, verb, _ids(call), send_email=call.body.get("sendEmail", True))
    return Answer(204)


def bulk_delete(world: World, call: Call) -> Answer:
    """ "Batch Delete Meeting Registrants"."""
    meeting = _meeting(world, call)
    world.registry.delete(meeting, _ids(call), mail=call.body.get("sendEmail", True))
    return Answer(204)


def _ids(call: Call) -> Sequence[str]:
    """``registrants: [{"id"}]``. Raises Refusal (400)."""
    ids = [str(entry["id"]) for entry in call.body["registrants"]]
    if not 1 <= len(ids) <= call.batch_limit:
        raise invalid(f"registrants must hold 1 to {call.batch_limit} entries.")
    if not all(ids):
        raise invalid("Every registrant has an id.")
    return ids


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# -- the registration form ---------------------------------------------------------------------------------------------


def get_form(world: World, call: Call) -> Answer:
    """ "Get Registration Form for a Meeting"."""
    return Answer(200, registration.shown_form(_form(_meeting(world, call))))


def _form(meeting: MeetingRecord) -> Mapping[str, Any]:
    if meeting.registration is None:
        raise not_found("Registration is not enabled for this meeting.")
    return meeting.registration


def update_form(world: World, call: Call) -> Answer:
    """ "Update Meeting Registration Form": what is left out is off."""
    meeting = _meeting(world, call)
    registration.check_available(meeting.settings)
    if meeting.end <= world.now():
        raise Refusal(400, "The meeting is over.")
    changed = world.set_registration(meeting, registration.new_form(call.body))
    return Answer(200, registration.shown_form(_form(changed)))


def delete_form(world: World, call: Call) -> Answer:
    """ "Delete Meeting Registration Form"."""
    meeting = _meeting(world, call)
    _form(meeting)
    world.set_registration(meeting, None)
    return Answer(204)
