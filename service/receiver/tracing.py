"""The W3C trace context of a request, or the beginning of a new one.

Grammar: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_HEADER = b"traceparent"
#: Version 00 has four fields; a later version may have more behind them, of which nothing is taken over.
_GRAMMAR = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<parent>[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-[\x21-\x7e]*)?"
)


def traceparent(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's ``traceparent``, as version 00; a new one where there is none, several, or a malformed one."""
    values = [value.strip() for name, value in headers if name == _HEADER]
    match = _GRAMMAR.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or (match["version"] == b"00" and match["more"] is not None):
        return _new()
    return b"-".join((b"00", match["trace"], match["parent"], match["flags"])).decode("ascii")


def _new() -> str:
    # Flags 00: nothing was recorded upstream of us. An id of zeros is invalid, and has a chance of 2**-64.
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"
