"""Pages for people: registering for a meeting in a browser, and the links of ``/meetings/join``. Plain HTML, no script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.sandbox import reading, registration
from service.sandbox.meetings import is_over
from service.sandbox.records import MeetingRecord, Stage, Status
from service.sandbox.refusals import Refusal, invalid, not_found
from service.sandbox.registrants import form as kept_form
from service.sandbox.schemas import Registrant, checked
from service.sandbox.world import World

Fields = Mapping[str, Sequence[str]]
_Show = Callable[[World, Request, Fields], str]

_LABELS = {
    "firstName": "First name",
    "lastName": "Last name",
    "email": "E-mail",
    "jobTitle": "Job title",
    "companyName": "Company",
    "address1": "Address",
    "address2": "Address, second line",
    "city": "City",
    "state": "State",
    "zipCode": "Postal code",
    "countryRegion": "Country or region",
    "workPhone": "Phone at work",
    "fax": "Fax",
}
_ALWAYS = ("firstName", "lastName", "email")
_THANKS = {
    Status.APPROVED: "You are registered.",
    Status.PENDING: "Thank you. The host will decide on your registration.",
    Status.REJECTED: "Your registration was not accepted.",
}
_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:2rem auto;padding:0 1rem}"
    "label,legend{display:block;margin-top:1rem}input:not([type=radio]):not([type=checkbox]),select,textarea"
    "{width:100%;font:inherit;box-sizing:border-box}fieldset{border:0;padding:0;margin:0}fieldset label{margin:0}"
    "button{font:inherit;margin-top:1.5rem}[role=alert]{color:#a00}"
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes(world: World) -> list[Route]:
    """``/register/{meetingId}``, ``/start/{token}`` and ``/join/{token}``."""
    return [
        Route("/register/{meetingId}", _endpoint(world, _form), methods=["GET"]),
        Route("/register/{meetingId}", _endpoint(world, _submit), methods=["POST"]),
        Route("/start/{token}", _endpoint(world, _start), methods=["GET"]),
        Route("/join/{token}", _endpoint(world, _join), methods=["GET"]),
    ]


def _endpoint(world: World, show: _Show) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            fields = reading.form(request, await reading.read(request))
            status, body = 200, show(world, request, fields)
        except Refusal as refusal:
            status, body = refusal.status, f'<p role="alert">{escape(refusal.description)}</p>'
        world.commit()
        return Response(_document(body), status, _HEADERS, media_type="text/html")

    return endpoint


def _document(body: str) -> str:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    return f'<!DOCTYPE html><html lang="en"><head>{head}<title>Simulated Webex</title></head><body>{body}</body></html>'


# -- registering -------------------------------------------------------------------------------------------------------


def _open_meeting(world: World, request: Request) -> MeetingRecord:
    meeting = world.find_series(request.path_params["meetingId"])
    if meeting.registration is None or is_over(meeting, now=world.now()):
        raise not_found("Nobody can register for this meeting.")
    return meeting


def _form(world: World, request: Request, _fields: Fields) -> str:
    return _page(_open_meeting(world, request), {}, "")


def _submit(world: World, request: Request, fields: Fields) -> str:
    meeting = _open_meeting(world, request)
    try:
        given = kept_form(checked(_registrant(meeting, fields), Registrant))
        registration.check_answers(meeting.registration or {}, given)
        registrant = world.registry.register(meeting, given, mail=True)
    except Refusal as refusal:
        return _page(meeting, fields, refusal.description)
    return f"<h1>{escape(str(meeting.settings['title']))}</h1><p>{_THANKS[registrant.status]}</p>"


def _registrant(meeting: MeetingRecord, fields: Fields) -> dict[str, Any]:
    """``RegistrantFormObject`` from what a browser sends."""
    given: dict[str, Any] = dict.fromkeys(_ALWAYS, "")
    given |= {name: fields[name][-1].strip() for name in _LABELS if name in fields}
    if "zipCode" in given:
        if not (given["zipCode"].isascii() and given["zipCode"].isdigit() and len(given["zipCode"]) <= 15):
            raise invalid("The postal code must be a number, as Webex wants it.")
        given["zipCode"] = int(given["zipCode"])
    form = meeting.registration or {}
    answers = [_answer(question, fields) for question in form.get("customizedQuestions", ())]
    return {**given, "customizedQuestions": [answer for answer in answers if answer["answers"]]}


def _answer(question: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    given = [value for value in fields.get(f"question{question['id']}", ()) if value.strip()]
    options = {str(option["id"]): option for option in question.get("options", ())}
    answers: list[dict[str, Any]] = [{"answer": value} for value in given] if not options else []
    for value in given if options else ():
        if value not in options:
            raise invalid("There is no such option.")
        answers.append({"optionId": options[value]["id"], "answer": options[value]["value"]})
    return {"questionId": question["id"], "answers": answers}


def _page(meeting: MeetingRecord, fields: Fields, problem: str) -> str:
    form = meeting.registration or {}
    asked = [*_ALWAYS, *(name for option, name in registration.ASKED.items() if form.get(option))]
    parts = [_input(name, fields.get(name, [""])[-1]) for name in asked]
    parts += [_question(question, fields) for question in form.get("customizedQuestions", ())]
    alert = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    when = f"{meeting.start:%Y-%m-%d %H:%M} to {meeting.end:%H:%M} UTC"
    heading = f"<h1>{escape(str(meeting.settings['title']))}</h1><p>{when}</p>"
    return f'{heading}{alert}<form method="post">{"".join(parts)}<button>Register</button></form>'


def _input(name: str, value: str) -> str:
    kind = "email" if name == "email" else "text"
    attributes = f'type="{kind}" id="{name}" name="{name}" value="{escape(value)}" required'
    return f'<label for="{name}">{_LABELS[name]}</label><input {attributes}>'


def _question(question: Mapping[str, Any], fields: Fields) -> str:
    name, given = f"question{question['id']}", fields.get(f"question{question['id']}", [])
    text, required = escape(question["question"]), " required" if question["required"] else ""
    length = f' maxlength="{question["maxLength"]:.0f}"' if question.get("maxLength") else ""
    value = escape(given[-1]) if given else ""
    match question["type"]:
        case "singleLineTextBox":
            control = f'<input type="text" id="{name}" name="{name}" value="{value}"{length}{required}>'
        case "multiLineTextBox":
            control = f'<textarea id="{name}" name="{name}"{length}{required}>{value}</textarea>'
        case "dropdownList":
            options = "".join(_option(option, given) for option in question["options"])
            control = f'<select id="{name}" name="{name}"{required}><option value=""></option>{options}</select>'
        case kind:
            boxes = "".join(_box(kind, name, option, given, required) for option in question["options"])
            return f"<fieldset><legend>{text}</legend>{boxes}</fieldset>"
    return f'<label for="{name}">{text}</label>{control}'


def _option(option: Mapping[str, Any], given: Sequence[str]) -> str:
    chosen = " selected" if str(option["id"]) in given else ""
    return f'<option value="{option["id"]}"{chosen}>{escape(option["value"])}</option>'


def _box(kind: str, name: str, option: Mapping[str, Any], given: Sequence[str], required: str) -> str:
    """A check box is never ``required`` by itself: one of several is enough."""
    type_, needed = ("radio", required) if kind == "radioButtons" else ("checkbox", "")
    chosen = " checked" if str(option["id"]) in given else ""
    box = f'<input type="{type_}" name="{name}" value="{option["id"]}"{chosen}{needed}>'
    return f"<label>{box} {escape(option['value'])}</label>"


# -- links into meetings -----------------------------------------------------------------------------------------------


def _start(world: World, request: Request, _fields: Fields) -> str:
    """Whoever has this link is the host: the meeting begins. Raises Refusal: 404, 403 where the licence is used up."""
    link = world.links.find(request.path_params["token"])
    if not link.host:
        raise not_found("The link is not valid or has expired.")
    meeting = world.find_meeting(link.meeting)
    if meeting.stage is not Stage.IN_PROGRESS:
        world.start_meeting(meeting)
    return "<h1>The meeting is in progress.</h1>"


def _join(world: World, request: Request, _fields: Fields) -> str:
    """In, or in front of the door: before the host only where the meeting's settings say so."""
    meeting = world.find_meeting(world.links.find(request.path_params["token"]).meeting)
    if meeting.stage is not Stage.IN_PROGRESS:
        if not _may_begin(world, meeting):
            return "<h1>The host has not come yet.</h1>"
        world.start_meeting(meeting)
    return "<h1>The meeting is in progress.</h1>"


def _may_begin(world: World, meeting: MeetingRecord) -> bool:
    early = timedelta(minutes=float(meeting.settings.get("joinBeforeHostMinutes", 0)))
    before_host = bool(meeting.settings.get("enabledJoinBeforeHost"))
    return before_host and meeting.stage is Stage.SCHEDULED and meeting.start - early <= world.now()
