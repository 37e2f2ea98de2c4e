"""What conditions see of a registrant, a meeting and the counts. The names are Webex's own; unknown future fields are seen too.

A text field that is absent or null is "", so that a condition may compare it without asking whether it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from service.core.meetings import Meeting
from service.core.policy.addresses import address, email_domain
from service.core.registrants import Registrant

#: Webex's text fields of a registrant ("Registrant" in Cisco's OpenAPI document for meetings).
#: ``zipCode`` is a number where it is there, and "" like the others where it is not.
REGISTRANT_TEXTS = frozenset(
    (
        "firstName",
        "lastName",
        "jobTitle",
        "companyName",
        "address1",
        "address2",
        "city",
        "state",
        "zipCode",
        "countryRegion",
        "workPhone",
        "fax",
        "registrationTime",
        "sourceId",
        "registrationId",
    )
)

#: Webex's text fields of a meeting ("MeetingSeriesObject", ibid.) that are there for some meetings only.
MEETING_TEXTS = frozenset(
    (
        "meetingNumber",
        "agenda",
        "meetingType",
        "state",
        "timezone",
        "start",
        "end",
        "recurrence",
        "hostUserId",
        "hostDisplayName",
        "hostEmail",
        "siteUrl",
        "webLink",
        "registerLink",
        "sipAddress",
        "roomId",
        "unlockedMeetingJoinSecurity",
        "scheduledType",
    )
)

#: ``counts.capacity`` of a meeting without a limit: the largest integer that JSON holds exactly. Comparisons with it need no
#: special case, and percentages of it stay within 64 bits.
NO_LIMIT = 2**53 - 1


def registrant_fields(registrant: Registrant, meeting: Meeting, wanted: Iterable[str] | None) -> dict[str, Any]:
    """The variable ``registrant``; only the ``wanted`` fields of it, unless None.

    ``emailAddress`` is the address in its usual spelling and ``emailDomain`` its domain; both are "" where it is not one
    plain address. ``answers`` holds the questions of the meeting's registration form by their text: a list of texts for a
    check box, else a text (several answers joined by ", "); unanswered is [] or "".
    """
    computed: dict[str, Callable[[], object]] = {
        "id": lambda: registrant.id,
        "status": lambda: registrant.status,
        "email": lambda: registrant.email,
        "emailDomain": lambda: email_domain(registrant.email),
        "emailAddress": lambda: address(registrant.email),
        "answers": lambda: _answers(registrant, meeting),
    }
    return _select(registrant.fields, REGISTRANT_TEXTS, computed, wanted)


def meeting_fields(meeting: Meeting, wanted: Iterable[str] | None) -> dict[str, Any]:
    """The variable ``meeting``; only the ``wanted`` fields of it, unless None."""
    computed: dict[str, Callable[[], object]] = {"id": lambda: meeting.id, "title": lambda: meeting.title}
    return _select(meeting.fields, MEETING_TEXTS, computed, wanted)


def count_fields(approved: int, pending: int, capacity: int | None) -> dict[str, int]:
    """The variable ``counts``; a capacity of None, 0 or less is no limit."""
    return {
        "approved": approved,
        "pending": pending,
        "capacity": capacity if capacity is not None and capacity > 0 else NO_LIMIT,
    }


def _select(
    fields: Mapping[str, Any],
    texts: frozenset[str],
    computed: Mapping[str, Callable[[], object]],
    wanted: Iterable[str] | None,
) -> dict[str, Any]:
    selected: dict[str, Any] = {}
    for name in {*fields, *texts, *computed} if wanted is None else wanted:
        if name in computed:
            selected[name] = computed[name]()
        elif name in texts and fields.get(name) is None:
            selected[name] = ""
        elif name in fields:
            selected[name] = fields[name]
    return selected


def _answers(registrant: Registrant, meeting: Meeting) -> dict[str, str | list[str]]:
    given = {number: list(_texts(row)) for row in _rows(registrant.fields) if (number := _number(row)) is not None}
    answers: dict[str, str | list[str]] = {}
    for question in _rows(meeting.fields.get("registration")):
        texts, wording = given.get(_number(question) or "", []), question.get("question")
        if isinstance(wording, str):
            # Of two questions with the same text the first one counts.
            answers.setdefault(wording, texts if question.get("type") == "checkbox" else ", ".join(texts))
    return answers


def _number(row: Mapping[str, Any]) -> int | float | str | None:
    """A question's id: ``questionId`` in an answer, ``id`` in the registration form."""
    number = row.get("questionId", row.get("id"))
    return number if isinstance(number, int | float | str) else None


def _rows(holder: object) -> Iterator[Mapping[str, Any]]:
    rows = holder.get("customizedQuestions") if isinstance(holder, Mapping) else None
    return (row for row in rows if isinstance(row, Mapping)) if isinstance(rows, list | tuple) else iter(())


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    answers = row.get("answers")
    for answer in answers if isinstance(answers, list | tuple) else ():
        text = answer.get("answer") if isinstance(answer, Mapping) else None
        if isinstance(text, str):
            yield text
