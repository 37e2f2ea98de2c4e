"""The last line of defence of the logs: what looks like personal data or a credential is masked, wherever it stands.

Nothing of the kind should get this far; callers log ids. Control characters are made visible, so that a value cannot
pretend to be a line or colour a terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date
from enum import Enum
from pathlib import PurePath
from typing import Any

MASK = "***"
_LONGEST = 2_000
_DEEPEST = 4
_MOST = 50

#: Names of fields that are never shown, without their underscores.
_NEVER = frozenset(
    {
        *("accesstoken", "authorization", "clientsecret", "password", "refreshtoken", "secret", "secrets", "token"),
        *("body", "hostkey", "joinlink", "payload", "raw", "signature", "startlink"),
        *("displayname", "email", "emails", "firstname", "hostemail", "lastname", "title"),
    }
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s{1,3}[^\s\"',;]+")
_ASSIGNED = re.compile(
    r"(?i)((?:token|secret|password|signature)[\"']?\s{0,3}[=:]\s{0,3}[\"']?)[^\s\"'&,;]+",
)
#: Runs of characters between what separates values from each other; each is looked at once, so the work is linear.
_TOKEN = re.compile(r"[^\s\"'<>,;()\[\]{}=&?/|]+")
_ADDRESS = re.compile(r"(?i)[@\uff20]|%40")
#: Webex access tokens, as Cisco's "Integrations" guide shows them; and JSON Web Tokens (RFC 7519).
_OPAQUE = re.compile(r"[A-Za-z0-9_-]{32,}_[A-Za-z0-9]{2,6}_[0-9a-fA-F]{8}-[0-9a-fA-F-]{20,}|eyJ[\w-]+\.[\w-]+\.[\w-]*")
#: C0, DEL, C1, line and paragraph separators, and what turns the direction of writing round.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def redact(_: object, __: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """A structlog processor. Everything behind it sees only texts, numbers, booleans, None, lists and dicts of them."""
    return _mapping(event, _DEEPEST)


def masked(text: str) -> str:
    """``text`` without addresses, credentials and control characters, and of bearable length."""
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    short = _ASSIGNED.sub(rf"\1{MASK}", _SCHEME.sub(rf"\1 {MASK}", short))
    short = _TOKEN.sub(lambda found: MASK if _sensitive(found[0]) else found[0], short)
    visible = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), short)
    return visible.encode("utf-8", "backslashreplace").decode("utf-8")


def _sensitive(token: str) -> bool:
    return _ADDRESS.search(token) is not None or _OPAQUE.fullmatch(token) is not None


def _mapping(values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    shown = {}
    for key, value in list(values.items())[:_MOST]:
        name = masked(str(key))
        hidden = name.replace("_", "").replace("-", "").lower() in _NEVER and value is not None
        shown[name] = MASK if hidden else _value(value, depth - 1)
    return shown


def _value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON knows no NaN
    if isinstance(value, str | date | Enum | PurePath):
        return masked(str(value))
    if isinstance(value, Mapping) and depth > 0:
        return _mapping(value, depth)
    if isinstance(value, list | tuple | set | frozenset) and depth > 0:
        return [_value(item, depth - 1) for item in list(value)[:_MOST]]
    return f"<{type(value).__name__}>"  # bytes, exceptions, objects: their text may say anything
