"""Registration forms: what they may be, whom they let in, and Webex's own approval rules. Pure.

Meetings API, "Update Meeting Registration" and ``registration`` of "Create a Meeting".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.sandbox.records import Status
from service.sandbox.refusals import Refusal, invalid

#: The fields that a form may ask for beside names and address, by the option that asks for them.
ASKED = {
    "requireJobTitle": "jobTitle",
    "requireCompanyName": "companyName",
    "requireAddress1": "address1",
    "requireAddress2": "address2",
    "requireCity": "city",
    "requireState": "state",
    "requireZipCode": "zipCode",
    "requireCountryRegion": "countryRegion",
    "requireWorkPhone": "workPhone",
    "requireFax": "fax",
}
_ALWAYS = ("requireFirstName", "requireLastName", "requireEmail")
_WITH_OPTIONS = ("checkbox", "dropdownList", "radioButtons")


def new_form(given: Mapping[str, Any]) -> dict[str, Any]:
    """The form as it is kept: questions, options and rules get their ids and places. Raises Refusal (400)."""
    if not all(given.get(name, True) for name in _ALWAYS):
        raise invalid("requireFirstName, requireLastName and requireEmail must be true.")
    if given.get("maxRegisterNum", 1) < 1:
        raise invalid("maxRegisterNum must be positive.")
    form = {"autoAcceptRequest": False, **given, **dict.fromkeys(_ALWAYS, True)}
    form.pop("hostEmail", None)
    places = _places(given)
    if "customizedQuestions" in form:
        form["customizedQuestions"] = [_question(n, q, places) for n, q in enumerate(given["customizedQuestions"], 1)]
    return form


def _places(given: Mapping[str, Any]) -> Iterator[int]:
    """Places for rules that were given none: after all that were."""
    rules = [*given.get("rules", ()), *(r for q in given.get("customizedQuestions", ()) for r in q.get("rules", ()))]
    last = max((int(rule["order"]) for rule in rules if "order" in rule), default=0)
    return iter(range(last + 1, last + 2 + len(rules)))


def _question(n: int, question: Mapping[str, Any], places: Iterator[int]) -> dict[str, Any]:
    if not 0 <= question.get("maxLength", 0) <= 999:
        raise invalid("maxLength of a question is 0 to 999.")
    if question["type"] in _WITH_OPTIONS and not question.get("options"):
        raise invalid(f"A question of type {question['type']} has options.")
    made = {"id": n, "required": False, **question}
    if "options" in question:
        made["options"] = [{"id": i, **option} for i, option in enumerate(question["options"], 1)]
    if "rules" in question:
        made["rules"] = [{"order": rule.get("order") or next(places), **rule} for rule in question["rules"]]
    return made


def shown_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """``Registration``: every option, whether or not it was given."""
    kept = {name: value for name, value in form.items() if name != "maxRegisterNum"}
    return {**dict.fromkeys(("autoAcceptRequest", *_ALWAYS, *ASKED), False), **kept}


def check_answers(form: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """``given`` has what ``form`` requires, and answers only questions that it asks. Raises Refusal (400)."""
    for option, name in ASKED.items():
        if form.get(option) and given.get(name) in (None, ""):
            raise invalid(f"{name} is required.")
    questions = {question["id"]: question for question in form.get("customizedQuestions", ())}
    answered = {answer["questionId"]: answer["answers"] for answer in given.get("customizedQuestions", ())}
    if not answered.keys() <= questions.keys():
        raise invalid("customizedQuestions answers a question that is not asked.")
    for id_, question in questions.items():
        _check_question(question, answered.get(id_, ()))


def _check_question(question: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
    if question["required"] and not answers:
        raise invalid(f"Question {question['id']} is required.")
    offered = {option["id"] for option in question.get("options", ())}
    for answer in answers:
        if offered and answer.get("optionId") not in offered:
            raise invalid(f"Question {question['id']} has no such option.")
        if len(answer["answer"]) > (question.get("maxLength") or 999):
            raise invalid(f"The answer to question {question['id']} is too long.")


def first_status(form: Mapping[str, Any], given: Mapping[str, Any]) -> Status:
    """The status with which somebody begins.

    ``autoAcceptRequest``: approved. Else the first rule that applies, standard ones and those of questions in one order;
    else pending. What wins where both are set is not documented; here nothing is left to judge once all are accepted.
    """
    if form.get("autoAcceptRequest"):
        return Status.APPROVED
    for _, rule, texts in sorted(_rules(form, given), key=lambda each: each[0]):
        if any(_applies(rule, text) for text in texts):
            return Status.APPROVED if rule["result"] == "approve" else Status.REJECTED
    return Status.PENDING


def _rules(
    form: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[tuple[float, Mapping[str, Any], Sequence[str]]]:
    """Every rule with its place and the texts that it judges."""
    for rule in form.get("rules", ()):
        yield float(rule["order"]), rule, [str(given.get(rule["question"], ""))]
    answered = {answer["questionId"]: answer["answers"] for answer in given.get("customizedQuestions", ())}
    for question in form.get("customizedQuestions", ()):
        texts = [str(answer["answer"]) for answer in answered.get(question["id"], ())] or [""]
        for rule in question.get("rules", ()):
            yield float(rule["order"]), rule, texts


def _applies(rule: Mapping[str, Any], text: str) -> bool:
    value = str(rule["value"])
    if not rule.get("matchCase", False):
        text, value = text.casefold(), value.casefold()
    match rule["condition"]:
        case "contains":
            return value in text
        case "notContains":
            return value not in text
        case "beginsWith":
            return text.startswith(value)
        case "endsWith":
            return text.endswith(value)
        case "equals":
            return text == value
        case _:
            return text != value


def check_available(settings: Mapping[str, Any]) -> None:
    """This kind of meeting can have a form at all. Raises Refusal (400)."""
    if settings.get("recurrence"):
        raise invalid("Registration is not available for recurring meetings.")
    if settings.get("scheduledType") == "personalRoomMeeting":
        raise invalid("Registration is not available for meetings in a personal room.")
    if settings.get("password") == "":
        raise Refusal(400, "Registration is not available for meetings without a password.")
