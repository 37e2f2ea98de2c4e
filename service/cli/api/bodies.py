"""The body of a request, from ``--body`` and from options for the fields that people type most.

Options win over the file, ``--set`` over both. What is secret has no option of its own, only one for a file: a process
list shows everybody's arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from service.cli.secret_files import read_secret
from service.core.message import UNREADABLE
from service.webex.operations import Operation

#: Fields that are not taken from an argument.
_SECRET = ("clientSecret", "secret")

#: Longest body in bytes that is read.
LONGEST = 1 << 20


@dataclass(frozen=True)
class Field:
    """An option for one field of a body. ``kind``: text, integer, boolean, texts, ids (of registrants) or secret (a
    file that holds it).
    """

    name: str
    kind: str = "text"
    option: str = ""


_MEETING = (
    *(Field("title"), Field("agenda"), Field("start"), Field("end"), Field("timezone"), Field("recurrence")),
    Field("sendEmail", "boolean"),
)
_BATCH = (Field("registrants", "ids", "id"), Field("sendEmail", "boolean"))
_WEBHOOK = (Field("name"), Field("targetUrl"), Field("secret", "secret"), Field("ownedBy"))

_FIELDS: Mapping[str, tuple[Field, ...]] = {
    "meetings.create": (*_MEETING, Field("scheduledType"), Field("siteUrl")),
    "meetings.update": _MEETING,
    "meetings.patch": _MEETING,
    "meetings.join": (
        *(Field("meetingId"), Field("meetingNumber"), Field("webLink"), Field("registrationId")),
        *(Field("email"), Field("displayName"), Field("password", "secret"), Field("expirationMinutes", "integer")),
        Field("joinDirectly", "boolean"),
    ),
    "meetings.end": (Field("reason"),),
    "registration.update": (Field("autoAcceptRequest", "boolean"), Field("maxRegisterNum", "integer")),
    "registrants.register": (Field("firstName"), Field("lastName"), Field("email"), Field("sendEmail", "boolean")),
    "registrants.query": (Field("emails", "texts", "email"), Field("status")),
    "registrants.approve": _BATCH,
    "registrants.reject": _BATCH,
    "registrants.cancel": _BATCH,
    "registrants.bulk-delete": _BATCH,
    "webhooks.create": (*_WEBHOOK, Field("resource"), Field("event"), Field("filter")),
    "webhooks.update": (*_WEBHOOK, Field("status")),
    "guests.create": (Field("subject"), Field("displayName")),
    "applications.token": (Field("clientId"), Field("clientSecret", "secret"), Field("targetOrgId")),
}

#: What is sent where nobody said anything. Mails: Webex's own default, but said. ``joinDirectly``: Webex's default would
#: redirect to the meeting instead of answering with the links (Cisco, "Join a Meeting").
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "RegistrantBatch": {"sendEmail": True},
    "JoinMeetingObject": {"joinDirectly": False},
}


def fields_of(op: Operation) -> tuple[Field, ...]:
    """The fields of its body that have an option."""
    return _FIELDS.get(op.name, ())


def body_of(op: Operation, *, file: Path | None, options: Mapping[str, Any], sets: Sequence[str]) -> Any:
    """The body, or None where nobody gave one. Raises ValueError, SettingsError (a secret's file), OSError."""
    given = {
        **(read_body(file) if file else {}),
        **{field.name: _value(field, options[field.name]) for field in fields_of(op) if _is_given(options, field)},
        **dict(map(_assigned, sets)),
    }
    if not given:
        _need_nothing(op)
        return None
    body = {**_DEFAULTS.get(op.body, {}), **given}
    if op.body == "RegistrantBatch" and not body.get("registrants"):
        raise ValueError("say which registrants: --id ID, repeatable, or `registrants` in --body FILE")
    return body


def _is_given(options: Mapping[str, Any], field: Field) -> bool:
    return options.get(field.name) not in (None, [])


def _need_nothing(op: Operation) -> None:
    if op.body and op.name != "meetings.end":
        raise ValueError(
            f"{op.resource} {op.verb} needs a body: --body FILE (- reads stdin), or options for its fields"
        )


def read_body(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; ``-`` is stdin. Raises ValueError, OSError."""
    content = _content(file)
    if len(content) > LONGEST:
        raise ValueError(f"the body is longer than {LONGEST} bytes")
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except UNREADABLE as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        raise ValueError(f"the body is not a JSON object: {reason}") from None


def _content(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(LONGEST + 1)
    with file.open("rb") as stream:
        return stream.read(LONGEST + 1)


def _value(field: Field, given: Any) -> Any:
    match field.kind:
        case "boolean":
            return given == "true"
        case "ids":
            return [{"id": each} for each in given]
        case "secret":
            return read_secret(given).decode()
    return given


def _assigned(text: str) -> tuple[str, Any]:
    """``name=text`` or ``name:=JSON``."""
    name, equals, value = text.partition("=")
    typed = name.endswith(":")
    name = name.removesuffix(":")
    if not equals or not name:
        raise ValueError("--set takes NAME=TEXT, or NAME:=JSON for anything that is not text")
    if name in _SECRET:
        raise ValueError(f"{name} would show in the process list: give it in a file, by --body or its own option")
    if not typed:
        return name, value
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError(f"--set {name}:=… must be JSON") from None
