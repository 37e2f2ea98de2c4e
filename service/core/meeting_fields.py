"""The fields of a meeting one by one: what is shown of them, when two values mean the same, and how they go into a body.

A field is a name of Webex's, or a name in one of its objects: ``title``, ``meetingOptions.enabledChat``. Rules and people
change these independently of each other, so they are compared and kept independently.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from service.core.meetings import SETTABLE, Meeting, moment

MASK = "***"

#: What Webex takes and never shows: ``timezone`` in an answer is that of the request, not of the meeting.
UNSEEN = frozenset({"timezone"})

_TIMES = ("start", "end")
_UNORDERED = ("integrationTags", "trackingCodes")

#: Fields, and their parts, whose values nobody may read in an event. An RTMP address carries the key of its stream.
_SECRET = re.compile(r"password|passcode|hostkey|accesscode|secret|token|rtmpurl", re.IGNORECASE)
_LINK = re.compile(r"[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>]+", re.IGNORECASE)
_SHORTEST_SECRET = 4

#: Options of a registration form that are off where Webex does not mention them.
_OPTION = re.compile(r"require\w+|autoAcceptRequest")


def fields_of(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``(field, value)`` of what is to be set; an object counts by what is in it."""
    for name, value in values.items():
        if SETTABLE.get(name) == "object" and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield name, value


def shown(meeting: Meeting, field: str) -> Any:
    """What Webex shows of the field; None where it shows nothing."""
    name, _, inner = field.partition(".")
    value = meeting.fields.get(name)
    if not inner:
        return value
    if not isinstance(value, Mapping):
        return None
    off = False if name == "registration" and _OPTION.fullmatch(inner) else None
    return value.get(inner, off)


def body_of(changes: Iterable[tuple[str, Any]], present: Mapping[str, Any]) -> dict[str, Any]:
    """The body that sets these fields; an object goes whole, with what else is in it at ``present``."""
    body: dict[str, Any] = {}
    for field, value in changes:
        name, _, inner = field.partition(".")
        if inner:
            before = present.get(name)
            body.setdefault(name, dict(before) if isinstance(before, Mapping) else {})[inner] = value
        else:
            body[name] = value
    return body


def whole_body(present: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a PUT: everything that can be set, as it is at ``present`` but for ``changed``."""
    kept = SETTABLE.keys() - UNSEEN - {"registration"}
    return {name: present[name] for name in SETTABLE if name in kept and present.get(name) is not None} | dict(changed)


#: What a form that is sent may have in its questions; an answer shows numbers of Webex's own beside these.
_QUESTION = ("question", "required", "type", "maxLength", "options", "rules")
_OPTION_OF_QUESTION = ("value",)
_RULE_OF_QUESTION = ("condition", "value", "result", "matchCase")


def form_body(form: Mapping[str, Any]) -> dict[str, Any]:
    """A registration form as it is sent, from one as it is shown (Cisco's OpenAPI, ``RegistrationForUpdate``)."""
    questions = form.get("customizedQuestions")
    if not isinstance(questions, list):
        return dict(form)
    return {**form, "customizedQuestions": [_question(each) for each in questions if isinstance(each, Mapping)]}


def _question(shown: Mapping[str, Any]) -> dict[str, Any]:
    parts = {"options": _OPTION_OF_QUESTION, "rules": _RULE_OF_QUESTION}
    question = _only(shown, _QUESTION)
    for name, kept in parts.items():
        if isinstance(question.get(name), list):
            question[name] = [_only(each, kept) for each in question[name] if isinstance(each, Mapping)]
    return question


def _only(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value}


# --- meaning ----------------------------------------------------------------------------------------------------------


def same(field: str, one: object, other: object) -> bool:
    """Whether both values mean the same of this field. Objects in ``other`` may have more in them: Webex adds ids."""
    return _covers(_meaning(field, one), _meaning(field, other))


def _meaning(field: str, value: object) -> object:
    """A value without what Webex may change of its spelling; None where it says nothing."""
    if isinstance(value, str):
        value = value.replace("\r\n", "\n").strip()
    if value is None or value in ("", [], {}):
        return None
    if field in _TIMES and (read := moment(value)) is not None:
        return read.replace(second=0, microsecond=0).isoformat()  # Webex is accurate to minutes
    if field == "recurrence" and isinstance(value, str):
        return sorted(part.strip().upper() for part in value.removeprefix("RRULE:").split(";") if part.strip())
    if field in _UNORDERED and isinstance(value, list):
        return sorted(value, key=_encoded)
    return value


def _covers(wanted: object, present: object) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(present, Mapping) and all(_covers(each, present.get(name)) for name, each in wanted.items())
    if isinstance(wanted, list):
        pairs = zip(wanted, present, strict=False) if isinstance(present, list) else ()
        return isinstance(present, list) and len(wanted) == len(present) and all(_covers(a, b) for a, b in pairs)
    if isinstance(wanted, bool) or isinstance(present, bool):
        return wanted is present  # 1 is not true
    return wanted == present


def digest(field: str, value: object) -> str:
    """A short hash of what the value means; the same for all values of a secret field, which could be guessed by theirs."""
    if is_secret(field):
        return MASK
    return hashlib.sha256(_encoded(_meaning(field, value))).hexdigest()[:16]


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


# --- what may be told -------------------------------------------------------------------------------------------------


def is_secret(field: str) -> bool:
    """Whether nobody may read the field's value."""
    return _SECRET.search(field.rpartition(".")[2]) is not None


def told(field: str, value: object, *, meeting: Meeting) -> object:
    """The value as an event may show it: no password, key or link, neither of its own nor of its ``meeting``'s."""
    if is_secret(field) and value is not None:
        return MASK
    if isinstance(value, str):
        return _without_secrets(value, meeting)
    if isinstance(value, Mapping):
        return {name: told(str(name), each, meeting=meeting) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [told(field, each, meeting=meeting) for each in value]
    return value


def _without_secrets(text: str, meeting: Meeting) -> str:
    for name, value in meeting.fields.items():
        if is_secret(name) and isinstance(value, str) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, MASK)
    return _LINK.sub(MASK, text)
