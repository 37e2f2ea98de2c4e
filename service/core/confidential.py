"""What Webex answers, without what lets somebody in: passwords, host keys, links, tokens, secrets.

Two nets, because Webex adds fields: names that say what they hold, and values that look like a link or a token whatever their
field is called. What is caught by its name is left out; in a text, a link becomes ``***``, and so does what was caught by
its name elsewhere: people write a meeting's password into its agenda.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"

#: Compared with a name's letters. A registration id is what a registrant proves themselves with when they join a webinar.
_NAMES = re.compile(
    r"passw|passcode|secret|token|hostkey|hostpin|accesscode|apikey|credential|link|registrationid", re.IGNORECASE
)

#: A scheme and what follows; a Webex host with anything behind it, without one (a title may read ``Node.js/React``); a JSON
#: web token. No part is tried twice at the same text, however long that is.
_LINK = re.compile(
    r"[a-z][a-z0-9+.-]{1,30}:/{1,2}\S+"
    r"|(?<![a-z0-9.-])(?://)?(?:[a-z0-9.-]{0,253}\.)?(?:webex\.com(?:\.cn)?|webexgov\.us)(?::\d{1,5})?[/?#]\S+"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?",
    re.IGNORECASE,
)


#: What is shorter is part of too many words to be looked for in texts.
_SHORTEST = 4


def without_secrets(value: Any) -> Any:
    """``value`` (decoded JSON) without them, at any depth. A flag or null says nothing secret: it stays, whatever its name."""
    secrets = sorted(set(_secrets(value)), key=len, reverse=True)  # a longer one may begin with a shorter one
    return _stripped(value, re.compile("|".join(map(re.escape, secrets))) if secrets else None)


def _stripped(value: Any, secrets: re.Pattern[str] | None) -> Any:
    if isinstance(value, Mapping):
        return {name: _stripped(each, secrets) for name, each in value.items() if not _hides(name, each)}
    if isinstance(value, list | tuple):
        return [_stripped(each, secrets) for each in value if not _only_link(each)]
    if isinstance(value, str):
        text = _LINK.sub(HIDDEN, value)
        return secrets.sub(HIDDEN, text) if secrets else text
    return value if value is None or isinstance(value, bool | int | float) else HIDDEN


def _secrets(value: Any) -> Iterator[str]:
    """The texts that are caught by their names."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(each, str) and len(each) >= _SHORTEST and _hides(name, each):
                yield each
            else:
                yield from _secrets(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each)


def _hides(name: str, value: Any) -> bool:
    named = _NAMES.search(re.sub(r"[^A-Za-z]", "", name)) is not None
    return (named and not isinstance(value, bool | None)) or _only_link(value)


def _only_link(value: Any) -> bool:
    return isinstance(value, str) and _LINK.fullmatch(value) is not None
