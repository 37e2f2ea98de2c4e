"""What Schemathesis loads (``SCHEMATHESIS_HOOKS``) to get past the door, and what it may let pass.

It invents ids, moments and addresses, of which nearly all would be refused at once. The hooks put some that mean something
in their place, as long as what was invented had the right type: what is wrong on purpose stays wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, MutableMapping
from datetime import timedelta
from types import UnionType
from typing import Any

import msgspec
import schemathesis

from service.sandbox.schemas import Answers
from tests.contracts.sandbox.populated import NOW

#: Ids by the name of the path parameter; they exist.
IDS: dict[str, list[str]] = json.loads(os.environ["SANDBOX_IDS"])

#: The accepted exceptions to "what fits the schema is taken": a pattern of our refusal's description, and the reason.
REFUSED = {
    # Cisco writes these rules in the descriptions of fields and operations, not in the schema.
    r"^Meeting ID '.*' is not allowed for this API": "the kind of id that an operation takes is prose",
    r"^timezone is not one of": "a header's text must name an IANA time zone, in prose",
    r"is not a date and time in ISO 8601": "moments are plain strings in the schema",
    r"^start must not be in the past|^A meeting lasts at least|^from cannot be after to": "rules about moments are prose",
    r"^registrationTimeFrom must not be after|must be within 90 days|is out of range": "rules about windows are prose",
    r"^max must be": "up to 100, in prose; the schema says number, and has 1000 as an example",
    r"mutually exclusive": "said in prose; the schema's own examples give all three",
    r"^has… goes with": "said in prose; the schema's own examples break it",
    r"^start and end are required|^title is required": "PUT and PATCH keep what is left out, but an empty title is none",
    r"has at most|are at most|is 5 to 80|^joinBeforeHostMinutes is one of": "lengths and choices are prose",
    r"^roomId is required when|^liveStream is required when": "what one field asks of another is prose",
    r"^recurrence is not a rule|^INTERVAL and COUNT": "RFC 2445 is named in prose",
    r"^Registration is not available|^Registration is not enabled": "which meetings have registration is prose",
    r"^requireFirstName, requireLastName|^maxRegisterNum must|^maxLength of|has options\.$": "forms have rules in prose",
    r"^customizedQuestions answers|^Question \d+ |^The answer to question": "answers must fit the meeting's questions",
    r"is not an e-mail address": "addresses are plain strings in the schema",
    r"^\w+ is required\.$": "empty texts and lists fit the schema; a meeting's form may require any field",
    r"^Every registrant has an id": "empty texts fit the schema",
    r"must hold 1 to \d+ entries": "Cisco publishes no size of a batch; an empty one means nothing",
    r"^Object missing required field": "the document requires the body of a single operation, and not what a batch is about",
    r"^(subject and displayName|clientId, clientSecret and targetOrgId) are required": "empty texts fit the schema",
    r"^email is required with displayName|^expirationMinutes must be|^password is not": "/meetings/join has rules in prose",
    r"^Meeting is in progress|^The meeting is not in progress|^The meeting is over|^The meeting has ended": "states are prose",
    r"^The maximum number of registrants": "a form's limit is a state",
    r"^invalid value for (event|filter)|^A filter of|^ownedBy (can|org)|^targetUrl is": "the Webhooks guide has these rules",
    r"^An occurrence cannot": "occurrences keep their order, in prose",
    r"^The cursor is not": "the next page's address is ours to make",
}

_TIMES = [NOW + timedelta(hours=hours) for hours in (30, 31)]


def _chance(value: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:4])


#: What Cisco's examples look like: they always give way.
_EXAMPLE = re.compile(r"[0-9a-f]{32}.*|[0-9a-f-]{36}|Y2lzY29.*")


def _gives_way(value: object) -> bool:
    return isinstance(value, str) and (_EXAMPLE.fullmatch(value) is not None or _chance(value) % 5 > 0)


def _known(name: str, value: object) -> Any:
    """Four of five give way to one that exists; which, follows from what was invented."""
    known = IDS.get(name)
    return known[_chance(value) % len(known)] if known and _gives_way(value) else value


#: Operations after which a meeting is not what it was: they have meetings of their own.
_POOLS = {
    "POST /meetings/{meetingId}/end": "inProgress",
    "DELETE /meetings/{meetingId}": "spare",
    "DELETE /meetings/{meetingId}/registration": "spare",
}


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Put something meaningful in the place of what was invented, not of what an earlier answer gave."""
    if case.meta is not None and case.meta.phase.name.value == "stateful":
        return
    label = case.operation.label
    if case.path_parameters:
        case.path_parameters = _ids(label, case.path_parameters)
    _put(case.headers or {}, "timezone", str, "Europe/Vienna")
    for given in (case.headers, case.query):
        _put(given or {}, "hostEmail", str, "host@example.com")
    _narrow(case.query or {})
    if isinstance(case.body, dict) and _chance(case.body) % 6:
        case.body = _repaired(label, case.body)


def _ids(label: str, given: dict[str, Any]) -> dict[str, Any]:
    """Ids that exist; a registrant of that meeting; a meeting in progress where it is to end."""
    if "registrantId" in given and all(map(_gives_way, given.values())):
        pair = IDS["registrants"][_chance(given) % len(IDS["registrants"])].split()
        return dict(zip(("meetingId", "registrantId"), pair, strict=True))
    pool = _POOLS.get(label) or ("open" if "/regist" in label else "")
    return {name: _known(pool or name, value) for name, value in given.items()}


def _narrow(query: dict[str, Any]) -> None:
    """Moments that are some, and one of the filters that exclude each other."""
    moments = ("from", "to", "registrationTimeFrom", "registrationTimeTo")
    for name, moment in zip(moments, [*_TIMES, *_TIMES], strict=True):
        _put(query, name, str, moment.isoformat())
    if all(isinstance(query.get(name, ""), str) for name in ("meetingNumber", "webLink", "roomId", "meetingSeriesId")):
        _drop(query, "webLink", "roomId", "meetingSeriesId")


def _repaired(label: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the operation needs to get anywhere."""
    given = dict(body)
    _put(given, "hostEmail", str, "host@example.com")
    for pattern, repair in _REPAIRS.items():
        if re.fullmatch(pattern, label):
            repair(given)
    return given


def _put(given: MutableMapping[str, Any], name: str, kind: type | UnionType, value: Any) -> None:
    if isinstance(given.get(name), kind) and isinstance(given[name], bool) is (kind is bool):
        given[name] = value


def _drop(given: dict[str, Any], *names: str) -> None:
    for name in names:
        given.pop(name, None)


def _meeting(given: dict[str, Any]) -> None:
    for name, moment in zip(("start", "end"), _TIMES, strict=True):
        _put(given, name, str, moment.isoformat())
    for name, text in {"title": "Title", "agenda": "Agenda", "recurrence": "", "timezone": "UTC"}.items():
        _put(given, name, str, text)
    _put(given, "visualWatermarkOpacity", int | float, 10)
    _put(given, "joinBeforeHostMinutes", int | float, 5)
    if all(isinstance(given.get(name, True), bool) for name in ("adhoc", "enabledLiveStream")):
        _drop(given, "adhoc", "enabledLiveStream")


def _patch(given: dict[str, Any]) -> None:
    """Null erases here, the description says; the schema does not know it, so something else that is wrong goes there."""
    for name in ("agenda", "recurrence", "trackingCodes"):
        if name in given and given[name] is None:
            given[name] = 0


def _join(given: dict[str, Any]) -> None:
    if all(isinstance(given.get(name, ""), str) for name in ("meetingId", "meetingNumber", "webLink", "password")):
        given["meetingId"] = IDS["meetingId"][0]
        _drop(given, "meetingNumber", "webLink", "password")
    # The answer to joinDirectly is a 302, which the description of the operation promises and its responses leave out.
    given["joinDirectly"] = False if given.get("joinDirectly", True) is True else given["joinDirectly"]
    _put(given, "expirationMinutes", int | float, 5)
    _put(given, "email", str, "ada@example.com")


def _person(given: dict[str, Any]) -> None:
    _put(given, "email", str, f"p{_chance(given)}@example.com")
    for name in ("firstName", "lastName"):
        _put(given, name, str, "Ada")
    if "customizedQuestions" in given and _fits(given["customizedQuestions"], list[Answers]):
        given["customizedQuestions"] = [{"questionId": 1, "answers": [{"optionId": 1, "answer": "A"}]}]


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, type=kind)
    except msgspec.ValidationError:
        return False
    return True


def _people(given: dict[str, Any]) -> None:
    if isinstance(given.get("items"), list):
        given["items"] = [dict(item) if isinstance(item, dict) else item for item in given["items"]]
        for item in given["items"]:
            if isinstance(item, dict):
                _person(item)


def _batch(given: dict[str, Any]) -> None:
    if isinstance(given.get("registrants"), list):
        given["registrants"] = [_entry(entry) for entry in given["registrants"]]


def _entry(entry: Any) -> Any:
    if isinstance(entry, dict) and isinstance(entry.get("id"), str):
        return {**entry, "id": _known("registrantId", entry["id"])}
    return entry


def _webhook(given: dict[str, Any]) -> None:
    _put(given, "targetUrl", str, "http://127.0.0.1:9/")
    _put(given, "name", str, "Name")
    _put(given, "ownedBy", str, "creator")
    if isinstance(given.get("filter"), str):
        _drop(given, "filter")


def _form(given: dict[str, Any]) -> None:
    for name in ("requireFirstName", "requireLastName", "requireEmail"):
        _put(given, name, bool, True)


_REPAIRS: dict[str, Callable[[dict[str, Any]], None]] = {
    r"(POST|PUT|PATCH) /meetings(/\{meetingId\})?": _meeting,
    r"PATCH /meetings/\{meetingId\}": _patch,
    r"POST /meetings/join": _join,
    r"PUT /meetings/\{meetingId\}/registration": _form,
    r"POST /meetings/\{meetingId\}/registrants": _person,
    r"POST /meetings/\{meetingId\}/registrants/bulkInsert": _people,
    r"POST /meetings/\{meetingId\}/registrants/(approve|reject|cancel|bulkDelete)": _batch,
    r"(POST|PUT) /webhooks.*": _webhook,
}


@schemathesis.check
def refused_for_a_listed_reason(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """What fits the schema is refused only for one of the reasons in ``REFUSED``."""
    fits = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    if not fits or response.status_code != 400:
        return
    description = response.json()["errors"][0]["description"]
    if not any(re.search(pattern, description) for pattern in REFUSED):
        raise AssertionError(f"refused, and the reason is not listed: {description}")


@schemathesis.check
class EveryOperationSucceeds:
    """Every operation was taken at least once: else its answers were not judged."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.answered: set[str] = set()

    def after_response(
        self, _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
    ) -> None:
        """Note it."""
        self.asked.add(case.operation.label)
        if 200 <= response.status_code < 300:
            self.answered.add(case.operation.label)

    def after_run(self, _context: schemathesis.CheckContext) -> None:
        """Compare."""
        if missing := sorted(self.asked - self.answered):
            raise AssertionError(f"never taken: {', '.join(missing)}")
