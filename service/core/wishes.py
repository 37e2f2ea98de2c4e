"""What the operator's meeting rules want of one meeting: the policy wishes, the plan writes what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What one meeting rule wants set.

    ``version`` is a hash of what the rule does: its name, scope, condition and ``set``; ``enforce: once`` counts by it. ``set``
    holds plain JSON by Webex's field names, its texts evaluated. Where the rule has no result, ``failure`` is a sentence
    without anything of the meeting, and ``set`` is empty.
    """

    rule: str
    version: str
    set: Mapping[str, Any]
    enforce: Literal["once", "always"] = "once"
    notify: bool = False
    method: Literal["patch", "put"] = "patch"
    reason: str = ""
    failure: str = ""

    def __repr__(self) -> str:
        return f"Wish(rule={self.rule!r}, set={sorted(self.set)})"  # the values have passwords in them
